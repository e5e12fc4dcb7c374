"""The protocol vissl-svm: one linear SVM per class on rows of unit length, each with the cost that suits it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.protocols.copies import Images, distinct
from featurepipe.protocols.definitions import Protocol
from featurepipe.protocols.outcomes import Result

EPSILON = 1e-5  # added to the norm
FOLDS = 3
ITERATIONS = 2000
ONE_SHOT_COST = 1.0  # scikit-learn's default: one image of a class cannot both train and select


@dataclass(frozen=True)
class ClassSVMs:
    """One linear SVM per class, of two classes too.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
    coef_ : ndarray of float64, shape (K, width)
        For rows divided by their norm + 1e-5.
    intercept_ : ndarray of float64, shape (K,)
    costs : tuple of float
        The C of each class.
    converged : tuple of bool
        Whether each class's final fit ended before its 2,000 iterations.
    """

    classes_: np.ndarray
    coef_: np.ndarray
    intercept_: np.ndarray
    costs: tuple[float, ...]
    converged: tuple[bool, ...]

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Score of each class for raw embeddings (n, width); (n, K)."""
        return normalise(X) @ self.coef_.T + self.intercept_

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The class of the highest score, (n,)."""
        return self.classes_[self.decision_function(X).argmax(axis=1)]


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
    """Choose each class's cost by cross-validation on all rows, and fit it on them."""
    on = f"{FOLDS}-fold cross-validation on train"
    if X_val is not None:
        X, y, on = np.concatenate([X, X_val]), np.concatenate([y, y_val]), f"{on} and val"
    estimator, path = fit(X, y, protocol.grid, folds=FOLDS, groups=groups, seed=seed)
    chosen = dict(zip(map(str, estimator.classes_.tolist()), estimator.costs, strict=True))
    stalled = [label for label, ended in zip(chosen, estimator.converged, strict=True) if not ended]
    notes = [f"stopped at {ITERATIONS:,} iterations, as published: {', '.join(stalled)}"] if stalled else []
    return Result(protocol, metric, estimator, chosen, on, path, notes=notes)


def fit(
    X: np.ndarray,
    y: np.ndarray,
    costs: Sequence[float],
    *,
    folds: int,
    groups: Sequence[object] | None = None,
    seed: int,
) -> tuple[ClassSVMs, list[dict[str, Any]]]:
    """Fit one SVM per class, each with the cost of the best mean average precision over stratified folds.

    Parameters
    ----------
    X : ndarray, shape (n, width)
        Raw embeddings.
    y : ndarray, shape (n,)
    costs : sequence of float
        The first of the best is taken. A single one is taken as it is.
    folds : int
    groups : sequence, shape (n,), optional
        Rows of the same class and group, copies of an image, stay in the same fold.
    seed : int
        Seed for the solver's order.

    Returns
    -------
    (ClassSVMs, list of dict)
        The list has, per cost, the mean over the classes of what selected: ``C, map``; NaN for a single cost.

    Raises
    ------
    ProbeError
        A class has fewer images than there are folds.
    """
    from sklearn.exceptions import ConvergenceWarning

    images = distinct(y, groups)
    classes, counts = np.unique(y[images.firsts], return_counts=True)
    if len(costs) > 1 and counts.min() < folds:
        scarce, what = classes.tolist()[counts.argmin()], "images" if groups is None else "distinct images"
        raise ProbeError(
            f"class {scarce!r} has {counts.min()} {what}, fewer than the {folds} folds that choose its cost; add images"
        )
    Z = normalise(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` says so for the fits that are kept
        # one after the other: liblinear's random numbers are the whole process's, so threads would change the fits
        precisions = np.array(
            [_cross_validate(Z, y == label, costs, folds, images, seed) for label in classes]
        )  # (K, costs)
        chosen = [costs[place] for place in precisions.argmax(axis=1)]
        machines = [_machine(C, seed).fit(Z, _signs(y == label)) for label, C in zip(classes, chosen, strict=True)]
    estimator = ClassSVMs(
        classes_=classes,
        coef_=np.concatenate([machine.coef_ for machine in machines]),
        intercept_=np.concatenate([machine.intercept_ for machine in machines]),
        costs=tuple(chosen),
        converged=tuple(bool(machine.n_iter_ < ITERATIONS) for machine in machines),
    )
    return estimator, [{"C": C, "map": float(p)} for C, p in zip(costs, precisions.mean(axis=0), strict=True)]


def normalise(X: np.ndarray) -> np.ndarray:
    """Rows (n, width) divided by their L2 norm + 1e-5."""
    return X / (np.linalg.norm(X, axis=1, keepdims=True) + EPSILON)


def _machine(C: float, seed: int) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=C, dual=True, class_weight={1: 2, -1: 1}, tol=1e-4, max_iter=ITERATIONS, random_state=seed)


def _signs(positive: np.ndarray) -> np.ndarray:
    return np.where(positive, 1, -1)


def _cross_validate(
    Z: np.ndarray, positive: np.ndarray, costs: Sequence[float], folds: int, images: Images, seed: int
) -> list[float]:
    """Mean average precision of each cost over stratified folds; nothing to compare where there is but one cost."""
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    if len(costs) == 1:
        return [np.nan]
    signs = _signs(positive)
    parts = StratifiedKFold(folds).split(images.firsts, signs[images.firsts])  # as cross_val_score does by itself
    sides = ((images.rows(fitted), images.rows(held)) for fitted, held in parts)
    cv = [(images.without(fitted, held), held) for fitted, held in sides]
    return [
        float(cross_val_score(_machine(C, seed), Z, signs, cv=cv, scoring="average_precision").mean()) for C in costs
    ]
