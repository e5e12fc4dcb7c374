"""The protocols of logistic regression: clip, dinov2-logreg, kornblith and lpft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes.kinds.linear import path_estimator
from featurepipe.probes.metrics import figures
from featurepipe.protocols.definitions import AS_FITTED, ONE_SCALE, Protocol
from featurepipe.protocols.outcomes import Result
from featurepipe.protocols.searches import best, hold_out, search
from featurepipe.solvers import TOLERANCE, Fit, LogisticPath


def run(
    protocol: Protocol,
    X: np.ndarray,
    y: np.ndarray,
    X_val: np.ndarray | None,
    y_val: np.ndarray | None,
    *,
    metric: str,
    groups: Sequence[object] | None,
    seed: int,
) -> Result:
    """Choose C on validation data, or on training rows held out, and fit as the protocol says."""
    from sklearn.linear_model import LogisticRegression

    classes, on, notes = np.unique(y), "val", []
    if X_val is None or y_val is None:
        fitted, held = hold_out(protocol, y, seed, groups)
        on = f"{len(held)} of {len(y)} training rows held out"
        notes = _emptied(protocol, classes, y[fitted], y[held])
        X, y, X_val, y_val = X[fitted], y[fitted], X[held], y[held]
    sweep = _Sweep(protocol, X, y, X_val, y_val, classes, metric)
    found = search(sweep.score, len(protocol.grid), protocol.coarse)
    chosen = best(found)
    fit, known = sweep.kept, np.unique(y)
    if protocol.refit != AS_FITTED:
        known, codes = np.unique(np.concatenate([y, y_val]), return_inverse=True)
        (fit,) = LogisticPath(np.concatenate([X, X_val]), codes, tolerance=TOLERANCE).fit([protocol.grid[chosen]])
    return Result(
        protocol=protocol,
        metric=metric,
        estimator=path_estimator(LogisticRegression, known, fit),
        chosen=protocol.grid[chosen],
        selected_on=on,
        path=[sweep.rows[place] for place in sorted(found)],
        scores=sweep.figures,
        certificate=fit.certificate,
        notes=notes,
    )


def _emptied(protocol: Protocol, classes: np.ndarray, fitted: np.ndarray, held: np.ndarray) -> list[str]:
    """Notes on classes that were held out as a whole, of labels that are fitted and held out.

    Raises
    ------
    ProbeError
        Only one class is left to fit.
    """
    gone = np.setdiff1d(classes, fitted).tolist()
    if len(classes) - len(gone) < 2:
        raise ProbeError(
            f"protocol {protocol.name} holds out {protocol.held_out:.0%} of the training samples at random, which took "
            f"all {np.sum(held == gone[0])} samples of class {gone[0]!r} and left one class to fit; add samples of "
            f"{gone[0]!r}, give a val split, or take another seed"
        )
    counts = {label: int(np.sum(held == label)) for label in gone}
    return [
        f"class {label!r} was held out as a whole ({count} sample{'s' if count > 1 else ''}), so it counts as wrong in "
        "the selection; the final fit has it again"
        for label, count in counts.items()
    ]


class _Sweep:
    """Fits of one data set, scored on another as they are asked for.

    Attributes
    ----------
    rows : dict
        Place in the grid → row of the outcome's path.
    kept, figures
        The best fit so far, for raw rows, and its figures.
    """

    def __init__(
        self,
        protocol: Protocol,
        X: np.ndarray,
        y: np.ndarray,
        X_val: np.ndarray,
        y_val: np.ndarray,
        classes: np.ndarray,
        metric: str,
    ) -> None:
        self._protocol, self._metric, self._classes = protocol, metric, classes
        self._val = X_val, y_val
        self._shift, self._scale = 0.0, 1.0
        if protocol.normalisation == ONE_SCALE:
            self._shift, self._scale = float(X.mean()), float(X.std()) or 1.0
            X = (X - self._shift) / self._scale
        known, codes = np.unique(y, return_inverse=True)
        self._columns = np.searchsorted(classes, known)  # a class may have been held out as a whole
        self._path = LogisticPath(X, codes, tolerance=TOLERANCE)  # the optimum, of any number of classes
        self._values: dict[int, float] = {}
        self.rows: dict[int, dict[str, Any]] = {}
        self.kept: Fit
        self.figures: dict[str, Any] = {}

    def score(self, place: int) -> float:
        """Fit a candidate and give its metric on the selection rows."""
        C = self._protocol.grid[place]
        fit = self._raw(next(self._path.fit([C])))
        found = figures(self._scores(fit), self._val[1], self._classes)
        self.rows[place] = {
            "C": C,
            "top1": found["top1"],
            "balanced_accuracy": found["balanced_accuracy"],
            "log_loss": found["log_loss"],
            "converged": fit.certificate.converged,
        }
        self._values[place] = found[self._metric]
        if best(self._values) == place:  # not all are kept: a thousand classes take 8 MB at each C
            self.kept, self.figures = fit, found
        return self._values[place]

    def _raw(self, fit: Fit) -> Fit:
        coef = fit.coef / self._scale
        return Fit(coef, fit.intercept - self._shift * coef.sum(axis=1), fit.certificate)

    def _scores(self, fit: Fit) -> np.ndarray:
        """One score per class, (n, classes)."""
        found = self._val[0] @ fit.coef.T + fit.intercept  # (n, K), or (n, 1) for two classes
        if found.shape[1] == 1:
            found = np.hstack([-found / 2, found / 2])
        scores = np.full((len(found), len(self._classes)), -np.inf)
        scores[:, self._columns] = found
        return scores
