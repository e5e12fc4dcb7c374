"""How fitted estimators show themselves in a notebook: scikit-learn's diagram, and below it their figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils import estimator_html_repr

from featurepipe import probes
from featurepipe.results import Face
from featurepipe.results.tables import html, number, percent, plain, share

CURVE = {"epoch": plain("epoch"), "accuracy": share("top1"), "log-loss": number("log_loss")}


class Shown(BaseEstimator):
    """An estimator that shows its figures below scikit-learn's diagram, once it is fitted."""

    def _face(self) -> Face | None:
        """What is known of the fitted classifier; None before `fit`."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        face = self._face()
        return str(estimator_html_repr(self)) + ("" if face is None else html(face))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}


def probe_face(probe: probes.Probe) -> Face:
    """How a probe was chosen: a row for each strength that was tried."""
    parameter = probes.KINDS[probe.kind].parameter
    rows = [{**one, "chosen": parameter is not None and one.get(parameter) == probe.chosen} for one in probe.path]
    columns = {
        str(parameter): lambda row: f"{row[parameter]:g}",
        "accuracy": share("top1"),
        "log-loss": number("log_loss"),
        "": lambda row: "← chosen" if row["chosen"] else "",
    }
    return Face(probe.summary, rows, columns if parameter is not None else {})


def tuner_face(tuner: Any) -> Face:
    """How tuning went: a row for each epoch."""
    kept = "the tuned network predicts" if tuner.promoted_ else "the probe predicts, as tuning is not expected to pay"
    best: Mapping[str, Any] = max(tuner.curve_, key=lambda one: one["top1"])
    said = f"{kept}; {percent(best['top1'])} of the held-back images right in epoch {best['epoch']}"
    return Face(f"{said}; {tuner.stopped_}", tuner.curve_, CURVE)
