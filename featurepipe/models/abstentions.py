"""When a model says nothing: the least confidence of an answer, given or chosen on validation data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from featurepipe import statistics
from featurepipe.errors import ModelFileError, ProbeError
from featurepipe.models.files import Model
from featurepipe.statistics import Kept
from featurepipe.vocabulary.answers import TARGET

AUTO = "auto"


@dataclass(frozen=True)
class Threshold:
    """The least confidence of an answer.

    Attributes
    ----------
    confidence : float
    target : float or None
        The accuracy that it was chosen for; None where it was given.
    point : Kept or None
        What it gave on the validation data; None where it was given.
    samples : int
        How many of these there were.
    on : str
        Which data these were.
    """

    confidence: float
    target: float | None = None
    point: Kept | None = None
    samples: int = 0
    on: str = ""

    def to_json(self) -> dict[str, Any]:
        """What a result says of it."""
        validation = None
        if self.point is not None:
            validation = {
                "on": self.on,
                "samples": self.samples,
                "coverage": self.point.kept / self.samples,
                "accuracy": self.point.accuracy,
            }
        return {"threshold": self.confidence, "target_accuracy": self.target, "validation": validation}


def parse(value: object) -> float | str:
    """A threshold as a user gives it: ``auto``, or a number.

    Raises
    ------
    ProbeError
        It is neither, or not from 0 to 1.

    Examples
    --------
    >>> parse("0.5"), parse("auto")
    (0.5, 'auto')
    """
    if value == AUTO:
        return AUTO
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ProbeError(f"threshold {value!r} is not a confidence; give auto, or a number from 0 to 1")
    return number


def choose(model: Model, who: str | PathLike[str], threshold: object, target: float | None = None) -> Threshold | None:
    """The threshold for a model's answers; None where none is asked for.

    Parameters
    ----------
    model : Model
    who : path
        What the model is called in messages.
    threshold : float, str or None
        As of `featurepipe.predict`.
    target : float, optional
        Accuracy that ``auto`` wants.

    Raises
    ------
    ProbeError
        The threshold or the accuracy is no share, or the accuracy is given without ``auto``.
    ModelFileError
        The model gives sets of labels; or ``auto`` is asked for, and the file does not say how accurate the answers of
        its validation data were, or none of their confidences has that accuracy.
    """
    if target is not None and threshold != AUTO:
        raise ProbeError("a target accuracy works only with the threshold auto; add --threshold auto, or leave it out")
    if threshold is None:
        return None
    wanted = parse(threshold)
    if model.is_multi_label:
        raise ModelFileError(f"{who} gives sets of labels, and a threshold is for one label per sample; leave it out")
    if isinstance(wanted, float):
        return Threshold(wanted)
    target = TARGET if target is None else target
    if not 0 < target <= 1:
        raise ProbeError(f"target accuracy {target!r} is not a share; give a number above 0, up to 1")
    points = _points(model)
    if not points:
        raise ModelFileError(
            f"{who} does not say how accurate its validation answers were, so no threshold can be chosen; give a "
            "number such as --threshold 0.9, or make the model again with: featurepipe probe"
        )
    found = statistics.threshold(points, target)
    if found is None:
        best = max(points, key=lambda point: point.accuracy)
        raise ModelFileError(
            f"{who} reaches an accuracy of {target:g} on its validation data at no confidence; the best is "
            f"{best.accuracy:.3f} from {best.confidence:g} on; give a lower --target-accuracy, or a number: "
            f"--threshold {best.confidence:g}"
        )
    whole = max(point.kept for point in points)
    return Threshold(found.confidence, target, found, whole, model.card.selection.on)


def _points(model: Model) -> Sequence[Kept]:
    """The curve in the card, as far as it makes sense."""
    said = model.card.selection.coverage or []
    return [Kept(one.confidence, one.kept, one.right) for one in said if 0 < one.kept >= one.right]
