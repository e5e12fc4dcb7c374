"""k-fold accuracy: every row is answered by a probe that has seen and chosen nothing on its fold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.matrices.features import FeatureMatrix
from featurepipe.probes.inputs import check, check_groups
from featurepipe.probes.kinds import named
from featurepipe.probes.metrics import commonest, pooled, rate
from featurepipe.probes.scorings import scored
from featurepipe.probes.selection import Probe, assign_folds, fit
from featurepipe.solvers import stacked
from featurepipe.statistics.intervals import bootstrap, wilson
from featurepipe.surroundings import guarded


@dataclass(frozen=True)
class Folded:
    """What k-fold cross-validation says of a kind of probe.

    Attributes
    ----------
    figures : dict
        `featurepipe.probes.evaluate`'s, of all held-out rows pooled, and ``mean`` (of the folds' accuracies),
        ``per_fold`` (``n, top1, chosen`` of each), ``interval`` (95 % of the accuracy), ``method`` (how that was made)
        and, where rows have groups, ``groups`` (how many).
    majority : float
        Accuracy of always answering with the most common class of the other folds.
    never : int
        How many rows no fold holds out, as their class is one row, or one group.
    """

    figures: dict[str, Any]
    majority: float
    never: int


@guarded
def cross_validate(
    kind: str,
    X: np.ndarray,
    y: np.ndarray,
    *,
    folds: int = 5,
    units: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    advance: Callable[[int], object] = lambda done: None,
    **how: Any,
) -> Folded:
    """Measure a kind of probe by k-fold cross-validation, its strength chosen inside each training part.

    Folds are stratified. The probe of each fold is `fit` to the others: strength and temperature are chosen there by a
    cross-validation of their own, so nothing is chosen on what is reported.

    Parameters
    ----------
    kind : str
    X : ndarray, shape (n, width)
    y : ndarray, shape (n,)
    folds : int
        2 or more.
    units : ndarray, shape (n,), optional
        What no fold divides, such as exact copies of an image; by default `groups`.
    groups : ndarray, shape (n,), optional
        Rows that are right or wrong together, such as images of a patient. Then the interval is bootstrapped over them
        (`featurepipe.statistics.bootstrap`); otherwise it is Wilson's, of all held-out rows pooled.
    advance : callable
        Hears of each fold that is done.
    **how
        Other options of `fit`.

    Raises
    ------
    ProbeError
        What `fit` refuses, fewer than two folds, or every class has but one row.

    Notes
    -----
    Answers of different folds come from probes that share most of their training rows, so the interval is somewhat too
    narrow; no unbiased variance is known (Bengio and Grandvalet 2004, "No Unbiased Estimator of the Variance of K-Fold
    Cross-Validation").

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(40) % 2
    >>> found = cross_validate("ridge", rng.normal(size=(40, 3)) + 3 * y[:, None], y, folds=4, value=1.0)
    >>> found.figures["n"], len(found.figures["per_fold"]), found.figures["top1"] > 0.9
    (40, 4, True)
    """
    X, y, _, _ = check(X, y, None, None, reads=named(kind).reads)
    units = groups if units is None else units
    for one in (units, groups):
        check_groups(one, len(y))
    check_folds(folds)
    place = assign_folds(y, how.get("seed", 0), units, folds)
    if not (place >= 0).any():
        raise ProbeError("every class has only one sample or group, so no fold can hold any out; add samples")
    classes = np.unique(y)
    held, per_fold, right, trivial = [], [], np.zeros(len(y), bool), np.zeros(len(y), bool)
    for fold in range(folds):
        out = place == fold
        if out.any():
            probe = _fit(kind, X, y, ~out, units, how)
            scores = scored([(probe.estimator, stacked(X).take(out), np.arange(out.sum()))])  # (m, classes)
            rated, right[out] = rate(scores, np.searchsorted(classes, y[out]), probe.temperature)
            trivial[out] = y[out] == commonest(y[~out])
            held.append(rated)
            per_fold.append({"n": int(out.sum()), "top1": float(right[out].mean()), "chosen": probe.chosen})
        advance(1)
    ever = place >= 0
    figures = {**pooled(held, classes), "mean": float(np.mean([one["top1"] for one in per_fold])), "per_fold": per_fold}
    figures |= _interval(right[ever], None if groups is None else groups[ever])
    return Folded(figures, float(trivial[ever].mean()), int((~ever).sum()))


def check_folds(folds: int) -> None:
    """Raise ProbeError for a number of folds that cannot be."""
    if not isinstance(folds, int | np.integer) or folds < 2:
        raise ProbeError(f"folds is a whole number, 2 or more, or nothing is held out; got {folds!r}")


def folded_groups(samples: FeatureMatrix) -> np.ndarray | None:
    """What is right or wrong together, (n,); None where each sample is a case of its own."""
    return samples.units if samples.has_units else None


def _fit(kind: str, X: np.ndarray, y: np.ndarray, train: np.ndarray, units: np.ndarray | None, how: Any) -> Probe:
    mine = None if units is None else units[train]
    rows = X[train]  # a copy: one training part at a time
    return fit(kind, rows, y[train], groups=mine, **how)


def _interval(right: np.ndarray, groups: np.ndarray | None) -> dict[str, Any]:
    if groups is None:
        ends = wilson(float(right.mean()), len(right))
        return {"interval": list(ends), "method": "Wilson, of all held-out samples pooled"}
    count = len(np.unique(groups))
    return {"groups": count, "interval": list(bootstrap(right, groups)), "method": f"bootstrap over {count} groups"}
