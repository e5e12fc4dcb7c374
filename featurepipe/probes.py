"""Probes: linear classifiers on frozen embeddings, and the figures that say how good they are.

Two kinds: ``logistic`` (scikit-learn's LogisticRegression, L2) and ``ridge`` (RidgeClassifier). Features are
standardised, the strength of regularisation is chosen on validation data only, the chosen model is fitted again on
all training and validation data, and the standardisation is folded into its coefficients: what comes out is a
plain scikit-learn estimator that takes raw embeddings.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError

# Standardised features: from "nearly the class means" to "nearly separable" in whole decades.
C_GRID = tuple(10.0**e for e in range(-5, 4))
ALPHA_GRID = tuple(10.0**e for e in range(-2, 6))
KINDS = {"logistic": ("C", C_GRID), "ridge": ("alpha", ALPHA_GRID)}
FOLDS = 5
ECE_BINS = 15
MAX_ITER = 1000
ROUNDING = 1e-6  # of float32 features, relative to the largest singular value
SMALL_BYTES = 2**26


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes
    ----------
    kind : str
        ``logistic`` or ``ridge``.
    estimator : LogisticRegression or RidgeClassifier
        Takes raw embeddings; the standardisation is folded in.
    temperature : float
        Ridge scores are divided by it before the softmax that makes probabilities; 1 for logistic.
    chosen : float
        The selected C or alpha.
    selected_on : str
        ``val``, ``5-fold cross-validation on train``, ``given``, or why there was nothing to select on.
    path : list of dict
        Per candidate: ``C`` or ``alpha``, ``top1`` and ``log_loss`` on the selection data, ``converged``.
    scores : dict
        `evaluate`'s figures of the chosen candidate on the selection data, before the final fit.
    """

    kind: str
    estimator: Any
    temperature: float
    chosen: float
    selected_on: str
    path: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> np.ndarray:
        """Class labels in the order of the probability columns."""
        return self.estimator.classes_

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities of shape (n, classes)."""
        return probabilities(self.estimator, X, self.temperature)


def fit(
    kind: str,
    X: np.ndarray,
    y: np.ndarray,
    X_val: np.ndarray | None = None,
    y_val: np.ndarray | None = None,
    *,
    value: float | None = None,
    seed: int = 0,
) -> Probe:
    """Choose the regularisation and fit a probe.

    Parameters
    ----------
    kind : {'logistic', 'ridge'}
    X : ndarray, shape (n, width)
    y : ndarray, shape (n,)
        At least two classes.
    X_val, y_val : ndarray, optional
        Selection data. Without them, stratified cross-validation inside X.
    value : float, optional
        C or alpha to use without any selection.
    seed : int
        Of the folds.

    Returns
    -------
    Probe
        Fitted on X, and on X_val too where it was given.

    Raises
    ------
    ProbeError
        An unknown kind, a single class, a class in y_val only, or values that are not finite.

    Notes
    -----
    The best top-1 wins, equal ones by lower log-loss. With one sample per class there is nothing to select on, and
    the middle of the grid is used. Ridge's temperature minimises the log-loss on the same
    selection scores (Guo et al. 2017, "On Calibration of Modern Neural Networks").
    """
    if kind not in KINDS:
        raise ProbeError(f"probe {kind!r} is unknown; use {' or '.join(KINDS)}")
    name, grid = KINDS[kind]
    if value is not None and not 0 < value < np.inf:
        raise ProbeError(f"{name} must be above 0 and finite; got {value}")
    X, y = _finite(X), np.asarray(y)
    classes = np.unique(y)
    if len(classes) < 2:
        found = f"only one class ({classes.tolist()[0]!r})" if len(classes) else "no samples"
        raise ProbeError(f"{found} to train on; a classifier needs at least two classes")
    candidates = grid if value is None else (value,)
    folds = _folds(y, seed)
    if X_val is not None:
        X_val, y_val = _finite(X_val), np.asarray(y_val)
        check_known(y_val, classes)
        fitted = _fit_path(kind, X, y, candidates)
        scores, converged = [decision_scores(estimator, X_val) for estimator, _ in fitted], [ok for _, ok in fitted]
        truth, selected_on = y_val, "val"
        X, y = np.concatenate([X, X_val]), np.concatenate([y, y_val])
    elif (folds >= 0).any():
        held_out = folds >= 0
        scores, converged = _cross_validate(kind, X, y, candidates, folds)
        scores, truth = [s[held_out] for s in scores], y[held_out]
        selected_on = f"{FOLDS}-fold cross-validation on train"
    else:
        middle = candidates[len(candidates) // 2]
        ((estimator, _),) = _fit_path(kind, X, y, [middle])
        why = "nothing: one sample per class, so the middle of the grid" if value is None else "given"
        return Probe(kind, estimator, 1.0, float(middle), why)
    temperatures = [_temperature(kind, s, truth, classes) for s in scores]
    figures = [_evaluate(_softmax(s, t), truth, classes) for s, t in zip(scores, temperatures, strict=True)]
    best = min(range(len(candidates)), key=lambda i: (-figures[i]["top1"], figures[i]["log_loss"]))
    ((estimator, ok),) = _fit_path(kind, X, y, candidates[best : best + 1])
    converged[best] &= ok
    return Probe(
        kind=kind,
        estimator=estimator,
        temperature=temperatures[best],
        chosen=float(candidates[best]),
        selected_on=selected_on if value is None else "given",
        path=[
            {name: float(c), "top1": f["top1"], "log_loss": f["log_loss"], "converged": bool(ok)}
            for c, f, ok in zip(candidates, figures, converged, strict=True)
        ],
        scores=figures[best],
    )


def fit_few_shot(
    kind: str,
    X: np.ndarray,
    y: np.ndarray,
    X_test: np.ndarray,
    y_test: np.ndarray,
    *,
    shots: int,
    repeats: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Top-1 of probes on `shots` labelled examples per class, over seeded draws.

    C or alpha is chosen by cross-validation inside each draw.

    Returns
    -------
    dict
        ``shots, repeats, mean, std`` and ``top1`` (one figure per draw).

    Raises
    ------
    ProbeError
        A class has fewer than `shots` examples.
    """
    classes, counts = np.unique(y, return_counts=True)
    if counts.min() < shots:
        scarce = classes.tolist()[counts.argmin()]
        raise ProbeError(f"class {scarce!r} has {counts.min()} training images, fewer than {shots}")
    if repeats < 1 or shots < 1:
        raise ProbeError("shots and repeats must be at least 1")
    top1 = []
    for repeat in range(repeats):
        generator = np.random.default_rng([seed, repeat])
        drawn = np.concatenate([generator.choice(np.flatnonzero(y == c), shots, replace=False) for c in classes])
        probe = fit(kind, X[drawn], y[drawn], seed=seed)
        top1.append(float(np.mean(probe.estimator.predict(X_test) == y_test)))
    return {
        "shots": shots,
        "repeats": repeats,
        "mean": float(np.mean(top1)),
        "std": float(np.std(top1, ddof=1)) if repeats > 1 else None,
        "top1": top1,
    }


def evaluate(estimator: Any, X: np.ndarray, y: Sequence[str], temperature: float = 1.0) -> dict[str, Any]:
    """Figures of a classifier on labelled embeddings.

    Returns
    -------
    dict
        ``n, top1, balanced_accuracy, log_loss, ece`` (15 equal-width bins; Guo et al. 2017), ``classes``,
        ``per_class`` (class → precision, recall, f1, support) and ``confusion`` (rows true, columns predicted; None
        for more than 100 classes).

    Raises
    ------
    ProbeError
        No samples, or a class that the classifier does not know.
    """
    truth = np.asarray(y)
    if not len(truth):
        raise ProbeError("there are no labelled samples to evaluate on")
    check_known(truth, estimator.classes_)
    return _evaluate(probabilities(estimator, X, temperature), truth, estimator.classes_)


def majority(y_train: np.ndarray, y_test: np.ndarray) -> float:
    """Top-1 of always answering with the commonest training class."""
    classes, counts = np.unique(y_train, return_counts=True)
    return float(np.mean(y_test == classes[counts.argmax()]))


def decision_scores(estimator: Any, X: np.ndarray) -> np.ndarray:
    """One score per class, (n, classes); a binary decision d becomes the pair (-d/2, d/2)."""
    scores = estimator.decision_function(np.asarray(X, np.float64))
    return np.stack([-scores / 2, scores / 2], axis=1) if scores.ndim == 1 else scores


def probabilities(estimator: Any, X: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of the scores over `temperature`; for logistic regression at 1 its own probabilities. (n, classes)."""
    return _softmax(decision_scores(estimator, X), temperature)


def _fit_path(kind: str, X: np.ndarray, y: np.ndarray, candidates: Sequence[float]) -> list[tuple[Any, bool]]:
    """Fit every candidate on standardised features; returns estimators for raw X, and whether each converged."""
    from threadpoolctl import threadpool_limits

    # Products of small matrices gain little from BLAS threads, and on a busy machine waiting for them costs tenfold.
    with threadpool_limits(1 if X.nbytes < SMALL_BYTES else None, "blas"):
        return _fit_standardised(kind, X, y, candidates)


def _fit_standardised(kind: str, X: np.ndarray, y: np.ndarray, candidates: Sequence[float]) -> list[tuple[Any, bool]]:
    mean, scale = X.mean(axis=0), X.std(axis=0)
    scale[scale <= ROUNDING * np.abs(mean)] = 1.0  # constant but for rounding: not to be blown up into a feature
    Z = (X - mean) / scale  # (n, D)
    axes = _row_space(Z)  # (r, D) or None
    if axes is not None:
        Z = Z @ axes.T  # (n, r): same inner products, so the same optimum
    fitted = []
    for estimator, ok in (_fit_ridge if kind == "ridge" else _fit_logistic)(Z, y, candidates):
        coef = np.atleast_2d(estimator.coef_)  # scikit-learn's versions disagree on a binary ridge
        coef = coef if axes is None else coef @ axes
        estimator.coef_ = coef / scale
        estimator.intercept_ = estimator.intercept_ - estimator.coef_ @ mean
        estimator.n_features_in_ = X.shape[1]
        fitted.append((estimator, ok))
    return fitted


def _row_space(Z: np.ndarray) -> np.ndarray | None:
    """Orthonormal axes that span the rows, (r, D), where there are fewer rows than features; else None.

    An L2-penalised linear model's coefficients lie in that span (the representer theorem), so nothing is lost. Axes
    below the rounding of float32 features are left out: enlarged small images have few others.
    """
    if len(Z) >= Z.shape[1]:
        return None
    squares, vectors = np.linalg.eigh(Z @ Z.T)  # ascending; (n,), (n, n)
    kept = squares > squares[-1] * ROUNDING**2
    return np.linalg.qr(Z.T @ vectors[:, kept])[0].T if kept.any() else None


def _fit_logistic(Z: np.ndarray, y: np.ndarray, candidates: Sequence[float]) -> list[tuple[Any, bool]]:
    """Strong to weak regularisation, each fit starting from the one before."""
    from sklearn.linear_model import LogisticRegression

    # In few large steps newton-cg comes closer to the optimum than lbfgs does in the same time.
    model = LogisticRegression(solver="newton-cg", max_iter=MAX_ITER, warm_start=True)
    fitted = []
    for c in candidates:
        model.C = c
        with warnings.catch_warnings(record=True) as caught:
            # not silenced (iterations used up, or a line search that failed): returned, and reported by callers
            warnings.simplefilter("always", UserWarning)
            model.fit(Z, y)
        fitted.append((deepcopy(model).set_params(warm_start=False), not caught))
    return fitted


def _fit_ridge(Z: np.ndarray, y: np.ndarray, candidates: Sequence[float]) -> list[tuple[Any, bool]]:
    from sklearn.linear_model import RidgeClassifier

    return [(RidgeClassifier(alpha=alpha).fit(Z, y), True) for alpha in candidates]


def _cross_validate(
    kind: str, X: np.ndarray, y: np.ndarray, candidates: Sequence[float], folds: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Held-out scores of every candidate, (n, classes) each, and whether each converged in all folds."""
    classes = np.unique(y)
    scores = [np.zeros((len(y), len(classes))) for _ in candidates]
    converged = np.ones(len(candidates), bool)
    for fold in range(FOLDS):
        out = folds == fold
        if not out.any():
            continue
        for i, (estimator, ok) in enumerate(_fit_path(kind, X[~out], y[~out], candidates)):
            scores[i][out] = decision_scores(estimator, X[out])
            converged[i] &= ok
    return scores, converged


def _folds(y: np.ndarray, seed: int) -> np.ndarray:
    """Stratified fold of each sample, (n,); -1 (never held out) for a class's only sample.

    Unlike scikit-learn's StratifiedKFold this takes classes smaller than the number of folds, and every class stays
    in every training part.
    """
    generator = np.random.default_rng(seed)
    folds = np.full(len(y), -1)
    for offset, label in enumerate(np.unique(y)):
        members = generator.permutation(np.flatnonzero(y == label))
        if len(members) > 1:
            folds[members] = (np.arange(len(members)) + offset) % FOLDS
    return folds


def _temperature(kind: str, scores: np.ndarray, truth: np.ndarray, classes: np.ndarray) -> float:
    """The temperature of lowest log-loss; logistic regression is fitted to that already."""
    if kind == "logistic":
        return 1.0
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return _log_loss(_softmax(scores, np.exp(log_temperature)), np.searchsorted(classes, truth))

    return float(np.exp(minimize_scalar(loss, bounds=(-7, 7), method="bounded").x))


def _softmax(scores: np.ndarray, temperature: float) -> np.ndarray:
    from scipy.special import softmax

    return softmax(scores / temperature, axis=1)


def _log_loss(proba: np.ndarray, truth: np.ndarray) -> float:
    """Mean negative log-probability (nats) of the true classes, given as column numbers."""
    picked = proba[np.arange(len(truth)), truth]
    return float(-np.mean(np.log(np.maximum(picked, np.finfo(float).tiny))))


def _evaluate(proba: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truth = np.searchsorted(classes, labels)  # column of each true class
    guess = proba.argmax(axis=1)
    every = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(truth, guess, labels=every, zero_division=0)
    return {
        "n": len(truth),
        "top1": float(np.mean(guess == truth)),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "log_loss": _log_loss(proba, truth),
        "ece": _ece(proba.max(axis=1), guess == truth),
        "classes": [str(label) for label in classes],
        "per_class": {
            str(label): {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(classes)
        },
        "confusion": confusion_matrix(truth, guess, labels=every).tolist() if len(classes) <= 100 else None,
    }


def _ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error: |accuracy − confidence| over equal-width bins, weighted by their counts."""
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, correct - confidence, ECE_BINS)  # per bin: count × (accuracy − confidence)
    return float(np.abs(gaps).sum() / len(confidence))


def _finite(X: np.ndarray) -> np.ndarray:
    X = np.asarray(X, np.float64)
    if not np.isfinite(X).all():
        raise ProbeError("embeddings hold values that are not finite; check the store with featurepipe verify")
    return X


def check_known(labels: np.ndarray, classes: np.ndarray) -> None:
    """Raise ProbeError naming a label that is not among the classes."""
    unknown = sorted(set(labels.tolist()) - set(classes.tolist()), key=str)
    if unknown:
        raise ProbeError(f"class {unknown[0]!r} is unknown to the model; it knows {_listed(classes)}")


def _listed(classes: np.ndarray) -> str:
    shown = ", ".join(map(str, classes[:8]))
    return shown if len(classes) <= 8 else f"{shown}, … ({len(classes)} in all)"
