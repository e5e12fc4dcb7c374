"""Multi-label probes: any number of labels per image, each a logistic regression with a C of its own.

All labels are fitted along one path: the features are rotated once per fold, and every product is shared. The path's
certificate bounds the sum of the labels' objectives; its tolerance is divided by their number, so that it holds for
each label as long as its objective is no smaller than the mean.

Each label takes the C of its lowest log-loss on selection data. There is no paired comparison first, as for classes
(`featurepipe.probes.tied`): log-loss counts every image by how sure the probe is of it, and of a rare label so few
images differ that hardly any C could be told apart from another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe import jsons
from featurepipe.errors import ProbeError
from featurepipe.probes.indicators import indicator, label_figures, label_losses, labels_of
from featurepipe.probes.inputs import check_groups, check_rows
from featurepipe.probes.kinds import FOLDS, KINDS, Head, check_kind, threads
from featurepipe.probes.kinds.kind import check_shapes, numbers
from featurepipe.probes.kinds.linear import TENSORS, linear_estimator
from featurepipe.probes.metrics import check_known
from featurepipe.probes.selection import Probe
from featurepipe.solvers import CPU, TOLERANCE, Certificate, Fit, LogisticPath, chunks
from featurepipe.surroundings import guarded

MULTI_LABEL = "multi-label"
ONE = "logistic"  # the kind of each label's classifier


@dataclass(frozen=True, kw_only=True)
class LabelsHead(Head):
    """A weight for each label and feature and an intercept for each label, for two labels too."""

    name: str = MULTI_LABEL
    tensors: tuple[str, ...] = TENSORS

    @property
    def chosen(self) -> Any:
        """The C of each label."""
        return jsons.Each(jsons.NUMBER)

    def dump(self, estimator: Any) -> tuple[np.ndarray, ...]:
        """(K, D) and (K,)."""
        coefs, intercepts = zip(*((one.coef_, one.intercept_) for one in estimator.estimators_), strict=True)
        return np.concatenate(coefs), np.concatenate(intercepts)

    def restore(self, classes: np.ndarray, arrays: Sequence[np.ndarray], chosen: Any, seed: int) -> Any:
        """See `Head.restore`; `chosen` maps each label to its C."""
        weight, bias = arrays
        fits = weight.ndim == 2 and len(weight) == len(classes) and bias.shape == (len(classes),)
        check_shapes(len(classes), arrays, fits)
        return labels_classifier(classes, weight, bias, [chosen[label] for label in classes.tolist()])


@guarded
def fit_labels(
    X: np.ndarray,
    y: Sequence[str] | np.ndarray,
    X_val: np.ndarray | None = None,
    y_val: Sequence[str] | np.ndarray | None = None,
    *,
    value: float | None = None,
    class_weight: str | None = None,
    groups: np.ndarray | None = None,
    seed: int = 0,
    device: str = CPU,
) -> Probe:
    """Choose each label's C, and fit all labels.

    Parameters
    ----------
    X : ndarray, shape (n, width)
    y : sequence of str, shape (n,)
        Sets of labels as in a manifest, ``cat;dog``; at least two labels, each on some rows and not on all.
    X_val, y_val : optional
        Selection data. Without them, 5-fold cross-validation inside X.
    value : float, optional
        The C of every label, without any selection.
    class_weight : {None, 'balanced'}
        ``balanced``: rows with and without a label count alike for it, n / (2 × their number) each, in fit and
        selection; the standardisation is the same for all labels and does not notice.
    groups : ndarray, shape (n,), optional
        Rows of one group, such as exact copies of an image, stay in the same fold.
    seed : int
        Seed for the folds.
    device : str
        As for `featurepipe.probes.fit`.

    Returns
    -------
    Probe
        Its ``kind`` is ``multi-label``, its ``estimator`` a OneVsRestClassifier of LogisticRegressions whose
        ``classes_`` are the labels, in the order of the columns; ``chosen`` and ``certificate`` map each label to its C
        and its final fit's certificate. The ``path`` has the mean of the labels' log-losses. Fitted on X, and on X_val
        too where it was given.

    Raises
    ------
    ProbeError
        Fewer than two labels, one that all rows or none have, a label in y_val only, values that are not finite, a C
        that cannot be, or a device that cannot be used.

    Notes
    -----
    A label with too few images to select on (no fold's training part and rest both have one) takes the C that is best
    for the others, and a note says so.

    Examples
    --------
    >>> X = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]] * 5)
    >>> probe = fit_labels(X, [";", "up", "right", "right;up"] * 5)
    >>> probe.classes.tolist(), probe.estimator.predict([[0, 1], [1, 1]]).tolist()
    (['right', 'up'], [[0, 1], [1, 1]])
    """
    check_kind(ONE, class_weight, device)
    X, y, X_val, y_val = check_rows(X, y, X_val, y_val)
    check_groups(groups, len(y))
    labels = labels_of(y)
    if len(labels) < 2:
        found = f"only one label ({labels.tolist()[0]!r})" if len(labels) else "no labels"
        raise ProbeError(f"{found} to train on; a multi-label probe needs at least two")
    Y = indicator(y, labels)  # (n, K)
    if not _varied(Y).all():
        raise ProbeError(
            f"label {labels[~_varied(Y)].tolist()[0]!r} is on every row; a classifier also needs rows without it"
        )
    candidates = list(numbers(KINDS[ONE].candidates(value, len(Y))))
    how: dict[str, Any] = {"class_weight": class_weight, "device": device}
    if X_val is not None and y_val is not None:
        check_known(labels_of(y_val), labels)
        truth, on = indicator(y_val, labels), "val"
        fits = _fits(X, Y, candidates, **how)
        scores = np.stack([_scores(fit, X_val) for fit in fits])  # (candidates, m, K)
        converged = np.array([fit.certificate.converged for fit in fits])
        able = _varied(truth)
        X, Y = np.concatenate([X, X_val]), np.concatenate([Y, truth])
    else:
        truth, on = Y, f"{FOLDS}-fold cross-validation on train"
        folds = label_folds(Y, np.arange(len(Y)) if groups is None else groups, seed)
        scores, able, converged = _cross_validate(X, Y, candidates, folds, **how)
    losses = np.stack([_mean_losses(S, truth, class_weight) for S in scores])  # (candidates, K)
    best, notes = _choose(losses, able, labels, candidates)
    estimator, certificates = _final(X, Y, labels, np.array(candidates)[best], **how)
    return Probe(
        kind=MULTI_LABEL,
        estimator=estimator,
        temperature=1.0,
        chosen={label: float(candidates[i]) for label, i in zip(labels.tolist(), best, strict=True)},
        selected_on="given" if value is not None else on if able.any() else f"nothing: {notes[0]}",
        path=[
            {"C": float(C), "log_loss": float(loss), "converged": bool(ok)}
            for C, loss, ok in zip(candidates, losses.mean(axis=1), converged, strict=True)
        ],
        scores=label_figures(np.take_along_axis(scores, best[None, None], axis=0)[0], truth, labels),
        certificate=certificates,
        notes=notes if value is None and able.any() else [],
    )


def labels_classifier(
    labels: np.ndarray, coef: np.ndarray, intercept: np.ndarray, strengths: Sequence[float] | np.ndarray
) -> Any:
    """A OneVsRestClassifier with these coefficients, as if it had been fitted to a matrix of 0 and 1.

    Parameters
    ----------
    labels : ndarray, shape (K,)
        Its ``classes_``, where scikit-learn would have the columns' numbers.
    coef, intercept : ndarray, shapes (K, width), (K,)
    strengths : sequence of float
        C of each label.

    Returns
    -------
    OneVsRestClassifier
        Its ``predict`` gives a matrix of 0 and 1, (n, K).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import LabelBinarizer

    estimator = OneVsRestClassifier(LogisticRegression())
    estimator.label_binarizer_ = LabelBinarizer(sparse_output=True).fit(np.eye(len(labels), dtype=int))
    estimator.classes_ = labels
    estimator.estimators_ = [
        linear_estimator(LogisticRegression(C=float(C)), np.array([0, 1]), w[None], b[None])
        for w, b, C in zip(coef, intercept, strengths, strict=True)
    ]
    estimator.n_features_in_ = coef.shape[1]
    return estimator


def label_folds(Y: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Fold of each row (n,), each label's rows dealt out as evenly as may be.

    From the rarest label on, the rows that have it (or lack it, if these are fewer) and have no fold yet go one by one
    to the fold with the fewest of them, as in Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of
    Multi-Label Data". Rows of one group stay together.
    """
    _, group = np.unique(groups, return_inverse=True)
    held = np.zeros((group.max() + 1, Y.shape[1]), bool)  # (groups, K)
    np.logical_or.at(held, group, Y.astype(bool))
    rare = np.where(held.mean(axis=0) > 0.5, ~held, held)
    rare = np.concatenate([rare, np.ones((len(rare), 1), bool)], axis=1)  # and what has no rare label
    order = np.random.default_rng(seed).permutation(len(rare))
    folds, counts, sizes = np.full(len(rare), -1), np.zeros((FOLDS, rare.shape[1]), int), np.zeros(FOLDS, int)
    for label in np.argsort(rare.sum(axis=0), kind="stable"):
        for member in order[(folds[order] < 0) & rare[order, label]]:
            fold = np.lexsort((sizes, counts[:, label]))[0]
            folds[member] = fold
            counts[fold] += rare[member]
            sizes[fold] += 1
    return folds[group]


def _cross_validate(
    X: np.ndarray, Y: np.ndarray, candidates: Sequence[float], folds: np.ndarray, **how: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Held-out scores (candidates, n, K), labels that can be selected on them (K,), candidates that converged.

    A label that all or none of a fold's training rows have gets the log-odds of its share there, by Laplace's rule:
    the same for every candidate.
    """
    scores, fitted = np.zeros((len(candidates), *Y.shape)), np.zeros(Y.shape, bool)
    converged = np.ones(len(candidates), bool)
    for fold in range(FOLDS):
        out, rest = np.flatnonzero(folds == fold), folds != fold
        able = np.flatnonzero(_varied(Y[rest]))
        count = Y[rest].sum(axis=0, dtype=float)
        scores[:, out] = np.log((count + 1) / (rest.sum() - count + 1))
        if not len(out) or not len(able):
            continue
        fitted[np.ix_(out, able)] = True
        for i, fit in enumerate(_fits(X[rest], Y[rest][:, able], candidates, **how)):
            scores[i][np.ix_(out, able)] = _scores(fit, X[out])
            converged[i] &= fit.certificate.converged
    selectable = (fitted & (Y == 1)).any(axis=0) & (fitted & (Y == 0)).any(axis=0)
    return scores, selectable, converged


def _choose(
    losses: np.ndarray, able: np.ndarray, labels: np.ndarray, candidates: Sequence[float]
) -> tuple[np.ndarray, list[str]]:
    """The candidate of each label (K,), of losses (candidates, K); and a note on those with nothing to select on."""
    best = losses.argmin(axis=0)
    if able.all():
        return best, []
    if not able.any():
        middle = len(candidates) // 2
        return np.full(len(labels), middle), ["no label has enough samples to select on, so the middle of the grid"]
    shared = int(losses[:, able].mean(axis=1).argmin())
    best[~able] = shared
    which = f"the C of {listed(labels[~able])}"
    return best, [f"too few samples to select {which}: C={candidates[shared]:g}, which is best for the other labels"]


def _final(
    X: np.ndarray, Y: np.ndarray, labels: np.ndarray, strengths: np.ndarray, **how: Any
) -> tuple[Any, dict[str, Certificate]]:
    """The classifier with each label's own C (K,), and the certificate of each label's fit."""
    coef, intercept, found = np.empty((len(labels), X.shape[1])), np.empty(len(labels)), {}
    for fit in _fits(X, Y, np.unique(strengths).tolist(), **how):
        mine = strengths == fit.certificate.C
        coef[mine], intercept[mine] = fit.coef[mine], fit.intercept[mine]
        found[fit.certificate.C] = fit.certificate
    certificates = {label: found[C] for label, C in zip(labels.tolist(), strengths.tolist(), strict=True)}
    return labels_classifier(labels, coef, intercept, strengths), certificates


def _fits(X: np.ndarray, Y: np.ndarray, strengths: Sequence[float], class_weight: str | None, device: str) -> list[Fit]:
    """All labels (n, K) at each C, ascending."""
    weights = _balanced(Y) if class_weight == "balanced" else None
    with threads(X):
        how = {"scale": True, "tolerance": TOLERANCE / Y.shape[1], "device": device}
        return list(LogisticPath(X, Y, sample_weight=weights, **how).fit(strengths))


def _scores(fit: Fit, X: np.ndarray) -> np.ndarray:
    return np.concatenate([chunk @ fit.coef.T + fit.intercept for _, chunk in chunks(X)])  # (n, K)


def _mean_losses(scores: np.ndarray, Y: np.ndarray, class_weight: str | None) -> np.ndarray:
    """Log-loss of each label (K,), weighted as the fits are."""
    weights = _balanced(Y) if class_weight == "balanced" else 1.0
    return (weights * label_losses(scores, Y)).mean(axis=0)


def _balanced(Y: np.ndarray) -> np.ndarray:
    """Weights (n, K) that make rows with and without a label count alike: n / (2 × count of the likes)."""
    count = Y.sum(axis=0, dtype=float)
    return len(Y) / (2 * np.where(Y == 1, count, len(Y) - count))  # a row's own kind is never empty


def _varied(Y: np.ndarray) -> np.ndarray:
    """Which labels (K,) some rows have and some have not."""
    return np.any(Y, axis=0) & ~np.all(Y, axis=0)


def listed(labels: Sequence[str]) -> str:
    """The first of some labels, in words."""
    shown = ", ".join(map(str, labels[:5]))
    return shown if len(labels) <= 5 else f"{shown}, … ({len(labels)} in all)"
