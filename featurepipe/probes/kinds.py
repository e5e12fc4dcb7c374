"""The kinds of probe: what their strength is called, which values are tried, and how they are fitted."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes.linear import fit_logistic, fit_svm
from featurepipe.probes.neighbours import fit_knn
from featurepipe.probes.networks import fit_mlp
from featurepipe.probes.quadratics import QUADRATIC, describe, describe_folds, fit_quadratic
from featurepipe.solvers import CPU, Certificate, Rows, Stack, check_device

Fitted = tuple[Any, Certificate | None]
FOLDS = 5
# Standardised features: from "nearly the class means" to "nearly separable" in whole decades.
C_GRID = tuple(10.0**e for e in range(-5, 4))
SVM_GRID = tuple(10.0**e for e in range(-6, 3))  # the squared hinge bends twice, the logistic loss a quarter
ALPHA_GRID = tuple(10.0**e for e in range(-2, 6))
SHRINKAGE_GRID = (0.0, 0.001, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
K_GRID = (1, 5, 10, 20, 50, 100, 200)
DECAY_GRID = (0.01, 1.0, 10.0)
KINDS: dict[str, tuple[str | None, tuple[float | None, ...]]] = {
    "logistic": ("C", C_GRID),
    "ridge": ("alpha", ALPHA_GRID),
    "svm": ("C", SVM_GRID),
    "lda": ("shrinkage", SHRINKAGE_GRID),
    "centroid": (None, (None,)),  # nothing to choose
    "knn": ("n_neighbors", K_GRID),
    "mlp": ("alpha", DECAY_GRID),
}
CLASS_WEIGHTS = (None, "balanced")
_UNWEIGHTED = ("centroid", "knn")
IN_MEMORY = ("knn", "mlp")  # kinds that are made of a copy of the features
ON_DEVICES = ("logistic", "svm")  # kinds that are fitted along a C path
OUT_OF_CORE = tuple(kind for kind in KINDS if kind not in IN_MEMORY)
SMALL_BYTES = 2**26


def fit_path(
    kind: str,
    X: Rows,
    y: np.ndarray,
    candidates: Sequence[float | None],
    *,
    class_weight: str | None = None,
    seed: int = 0,
    keep: bool = True,
    device: str = CPU,
) -> list[Fitted]:
    """Fit every candidate.

    Parameters
    ----------
    kind : str
    X : ndarray or Stack, shape (n, D)
    y : ndarray, shape (n,)
    candidates : sequence
        Strengths, of the parameter that `KINDS` names.
    class_weight : {None, 'balanced'}
        See `featurepipe.probes.fit`.
    seed : int
        Of an mlp's initialisation and batches.
    keep : bool
    device : str
        See `featurepipe.probes.fit`.

    Returns
    -------
    list of (estimator, certificate)
        scikit-learn estimators for raw X; None where there is no certificate.
    """
    weights = balanced(y) if class_weight == "balanced" else None
    with threads(X):
        if kind in QUADRATIC:
            return [(estimator, None) for estimator in fit_quadratic(kind, describe(X, y, weights), candidates)]
        if kind == "knn":
            return list(fit_knn(X, y, candidates))
        if kind == "mlp":
            return list(fit_mlp(X, y, candidates, weights, seed=seed))
        fitter = fit_logistic if kind == "logistic" else fit_svm
        return list(fitter(X, y, candidates, weights, keep=keep, device=device))


def fit_folds(
    kind: str, X: np.ndarray, y: np.ndarray, candidates: Sequence[float | None], folds: np.ndarray, **how: Any
) -> Iterator[tuple[np.ndarray, list[Fitted]]]:
    """Fit every candidate on all rows but those of a fold, fold after fold.

    Parameters
    ----------
    kind, X, y, candidates, **how
        As of `fit_path`.
    folds : ndarray of int, shape (n,)
        From 0 to `FOLDS` - 1, or -1 for a row that is never held out. Every class stays when a fold is left out.

    Yields
    ------
    out : ndarray of bool, shape (n,)
        The rows held out.
    list of (estimator, certificate)
    """
    # One pass serves all folds, but for weights, which balance each training part by itself; and the folds' X'X are to
    # take no more memory than twice the features.
    if kind in QUADRATIC and how.get("class_weight") is None and len(X) >= (FOLDS + 1) * X.shape[1]:
        with threads(X):
            for fold, found in describe_folds(X, y, folds, FOLDS):
                yield folds == fold, [(estimator, None) for estimator in fit_quadratic(kind, found, candidates)]
        return
    for fold in range(FOLDS):
        out = folds == fold
        if out.any():
            yield out, fit_path(kind, Stack(X).take(~out), y[~out], candidates, **how)


def threads(X: Rows) -> AbstractContextManager:
    """One BLAS thread for small matrices: they gain little from more, and waiting for busy cores costs tenfold."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1 if 8 * X.shape[0] * X.shape[1] < SMALL_BYTES else None, "blas")


def balanced(y: np.ndarray) -> np.ndarray:
    """Weights (n,) of samples that make the classes count alike, as scikit-learn's: n / (K × count of the class)."""
    _, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    return (len(y) / (len(counts) * counts))[codes]


def candidates_of(kind: str, value: float | None, rows: int = sys.maxsize) -> tuple[float | None, ...]:
    """The strengths to try: the given one, or the kind's grid as far as it goes with so many rows.

    Without their number, whatever any rows could have.

    Raises
    ------
    ProbeError
        A value that the kind cannot have.
    """
    name, grid = KINDS[kind]
    if value is None:
        return tuple(k for k in grid if k <= rows) or grid[:1] if kind == "knn" else grid
    if name is None:
        raise ProbeError(f"a {kind} probe has no strength to set; leave {value} out")
    if kind == "knn" and value not in range(1, rows + 1):
        raise ProbeError(f"{name} must be a whole number from 1 to the {rows} training samples; got {value}")
    if kind == "lda" and not 0 <= value <= 1:
        raise ProbeError(f"{name} must be from 0 to 1; got {value}")
    if kind != "lda" and not 0 < value < np.inf:
        raise ProbeError(f"{name} must be above 0 and finite; got {value}")
    return (value,)


def check_kind(kind: str, class_weight: str | None, device: str = CPU) -> None:
    """Raise ProbeError for an unknown kind, or class weights or a device that it cannot have."""
    if kind not in KINDS:
        *others, last = KINDS
        raise ProbeError(f"probe {kind!r} is unknown; use {', '.join(others)} or {last}")
    if class_weight not in CLASS_WEIGHTS:
        raise ProbeError(f"class_weight {class_weight!r} is unknown; use None or 'balanced'")
    if class_weight is not None and kind in _UNWEIGHTED:
        able = ", ".join(other for other in KINDS if other not in _UNWEIGHTED)
        raise ProbeError(f"a {kind} probe has no class weights; leave them out, or use one of {able}")
    if device != CPU and kind not in ON_DEVICES:
        raise ProbeError(
            f"a {kind} probe is fitted on the {CPU}, not on {device}; leave the device out, or use one of "
            f"{', '.join(ON_DEVICES)}"
        )
    check_device(device)


def at_edge(kind: str, chosen: float | None) -> bool:
    """Whether better strengths may lie beyond the grid: the chosen one is its last, and no bound of its own."""
    grid = KINDS[kind][1]
    return len(grid) > 1 and kind != "lda" and chosen in (grid[0], grid[-1]) and not (kind == "knn" and chosen == 1)
