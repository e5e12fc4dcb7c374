"""Figures that say how good a classifier is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes.indicators import indicator, label_figures, labels_of
from featurepipe.solvers import Matrix, Stack, chunks
from featurepipe.surroundings import guarded

ECE_BINS = 15
BLOCK = 2**22  # scores at once
NEIGHBOURS = 2**13  # rows whose neighbours are looked for at once
MATRIX = 100  # classes up to which figures hold the confusion matrix
PAIRS = 20  # most confused pairs that they hold instead
TOP, MANY = 5, 10  # of more than ten classes, also the share of rows whose class is among the likeliest five


@guarded
def evaluate(estimator: Any, X: np.ndarray, y: Sequence[str] | np.ndarray, temperature: float = 1.0) -> dict[str, Any]:
    """Figures of a classifier on labelled embeddings.

    Returns
    -------
    dict
        ``n, top1, balanced_accuracy, log_loss, ece`` (15 equal-width bins; Guo et al. 2017), ``ece_uncalibrated`` (at
        temperature 1), ``classes``, ``per_class`` (class → precision, recall, f1, support) and ``confusion`` (rows
        true, columns predicted; None for more than 100 classes). Of more than 10 classes also ``top5``: the share of
        rows whose class is among the five likeliest. Of more than 100 also ``confused``: ``pairs`` (the 20 most common
        confusions: ``true, predicted, count``) and ``more`` (how many other pairs there are). Of a multi-label
        classifier, where y holds sets of labels, those of `featurepipe.probes.label_figures`.

    Raises
    ------
    ProbeError
        No samples, a class that the classifier does not know, or sets of labels that are all empty.
    """
    truth = np.asarray(y)
    if not len(truth):
        raise ProbeError("there are no labelled samples to evaluate on")
    if is_multi_label(estimator):
        check_known(labels_of(y), estimator.classes_)
        found = label_figures(decision_scores(estimator, X), indicator(y, estimator.classes_), estimator.classes_)
        if found["map"] is None:
            raise ProbeError(f"none of the {len(truth)} samples to evaluate on has a label; add some that have")
        return found
    check_known(truth, estimator.classes_)
    columns = np.searchsorted(estimator.classes_, truth)
    rated = [_rate(scores, columns[at], temperature) for at, scores in _score_blocks(estimator, X)]
    return _figures(_Rated(*map(np.concatenate, zip(*rated, strict=True))), estimator.classes_)


def majority(y_train: np.ndarray, y_test: np.ndarray) -> float:
    """Top-1 of always answering with the most common training class."""
    return float(np.mean(y_test == commonest(y_train)))


def commonest(y: np.ndarray) -> Any:
    """The most common class; the first, if several are equally common."""
    classes, counts = np.unique(y, return_counts=True)
    return classes[counts.argmax()]


def decision_scores(estimator: Any, X: Matrix) -> np.ndarray:
    """One score per class, (n, classes), whose softmax is the kind's own probabilities where it has any.

    A binary decision d becomes the pair (-d/2, d/2); of the nearest class mean it is minus half the squared distance
    (up to a term that is the same for all classes); of the nearest neighbours the logarithm of their votes, to
    which one vote is added that all classes share, so that none has probability 0 (Laplace's rule); of an mlp the
    logarithm of its probabilities.
    """
    X = X if isinstance(X, Stack) else np.asanyarray(X)
    scores = np.empty((len(X), len(estimator.classes_)))
    for at, chunk in _pieces(estimator, X):
        scores[at] = _scores(estimator, chunk)
    return scores


def _score_blocks(estimator: Any, X: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """`decision_scores` of some rows at a time, (m, classes): of many classes those of all rows would fill memory."""
    step = max(1, BLOCK // len(estimator.classes_))
    for start in range(0, len(X), step):
        at = slice(start, min(start + step, len(X)))
        yield at, decision_scores(estimator, X[at])


def _scores(estimator: Any, X: np.ndarray) -> np.ndarray:
    """`decision_scores` of a chunk in float64."""
    if hasattr(estimator, "centroids_"):
        middle = estimator.centroids_.mean(axis=0)  # (D,): about it no digits are lost
        centred = estimator.centroids_ - middle  # (K, D)
        return (X - middle) @ centred.T - (centred**2).sum(axis=1) / 2
    if hasattr(estimator, "decision_function"):
        scores = estimator.decision_function(X)
        return np.stack([-scores / 2, scores / 2], axis=1) if scores.ndim == 1 else scores
    proba = estimator.predict_proba(X)
    if hasattr(estimator, "n_neighbors"):
        k = estimator.n_neighbors
        proba = (k * proba + 1 / proba.shape[1]) / (k + 1)
    return np.log(np.maximum(proba, np.finfo(np.float64).eps))  # 1 - p is 0 or no less


def is_multi_label(estimator: Any) -> bool:
    """Whether it gives each image a set of labels."""
    return getattr(estimator, "multilabel_", False)


@guarded
def predict(estimator: Any, X: Matrix) -> np.ndarray:
    """The estimator's own `predict`, (n,), a few megabytes of rows at a time."""
    return np.concatenate([estimator.predict(chunk) for _, chunk in _pieces(estimator, X)])


def _pieces(estimator: Any, X: Matrix) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows in float64, a few megabytes at a time; of neighbours more, as each time all training rows are looked at."""
    return _few(X, NEIGHBOURS) if hasattr(estimator, "n_neighbors") else chunks(X)


def _few(X: Matrix, step: int) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(X), step):
        at = slice(start, min(start + step, len(X)))
        yield at, X[at].astype(np.float64, copy=False)


@guarded
def probabilities(estimator: Any, X: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of the scores over `temperature`, (n, classes); of a multi-label classifier each label's own."""
    if is_multi_label(estimator):
        return estimator.predict_proba(np.asarray(X, np.float64))
    return softmax(decision_scores(estimator, X), temperature)


def softmax(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of scores (n, classes) over a temperature."""
    from scipy.special import softmax as scipy_softmax

    return scipy_softmax(scores / temperature, axis=1)


def log_loss(proba: np.ndarray, truth: np.ndarray) -> float:
    """Mean negative log-probability (nats) of the true classes, given as column numbers."""
    return mean_loss(proba[np.arange(len(truth)), truth])


def mean_loss(picked: np.ndarray) -> float:
    """Mean negative logarithm of probabilities."""
    return float(-np.mean(np.log(np.maximum(picked, np.finfo(float).tiny))))


class _Rated(NamedTuple):
    """What is left of rows' scores, (n,) each.

    Attributes
    ----------
    truth, guess : ndarray of int
        Columns of the true class and of the likeliest.
    picked, confidence, plain : ndarray
        Probability of the true class, of the likeliest, and of the latter at temperature 1.
    ahead : ndarray of int
        How many classes come before the true one, the likeliest first.
    """

    truth: np.ndarray
    guess: np.ndarray
    picked: np.ndarray
    confidence: np.ndarray
    plain: np.ndarray
    ahead: np.ndarray


def _rate(scores: np.ndarray, truth: np.ndarray, temperature: float) -> _Rated:
    """Scores (n, classes), and the column of each true class."""
    proba = softmax(scores, temperature)
    picked = proba[np.arange(len(truth)), truth]
    return _Rated(
        truth, proba.argmax(axis=1), picked, proba.max(axis=1), softmax(scores, 1.0).max(axis=1), _ahead(proba, truth)
    )


def _ahead(proba: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many classes come before the true one, (n,); of equally likely ones the first comes first, as for argmax."""
    if proba.shape[1] <= MANY:  # nobody asks
        return np.zeros(len(truth), int)
    own = proba[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(proba.shape[1]) < truth[:, None]  # (n, classes)
    return ((proba > own) | ((proba == own) & earlier)).sum(axis=1)


class Blocks(Protocol):
    """Scores of rows, which may be asked for several times: their places, and the scores (m, classes)."""

    def __iter__(self) -> Iterator[tuple[np.ndarray | slice, np.ndarray]]:
        """Block after block; each row is in one of them."""
        ...


class Judged(NamedTuple):
    """What is said of scores after a temperature: the figures, and of each row (n,) whether it is right, how surely."""

    figures: dict[str, Any]
    right: np.ndarray
    sure: np.ndarray


def judge(blocks: Blocks, columns: np.ndarray, classes: np.ndarray, temperature: float) -> Judged:
    """`evaluate`'s figures of scores that need not all be in memory, and what each row says.

    Parameters
    ----------
    blocks : Blocks
    columns : ndarray of int, shape (n,)
        The place of each row's true class in `classes`.
    classes : ndarray, shape (classes,)
    temperature : float
    """
    rated, right = rate(blocks, columns, temperature)
    return Judged(_figures(rated, classes), right, rated.confidence)


def rate(blocks: Blocks, columns: np.ndarray, temperature: float) -> tuple[_Rated, np.ndarray]:
    """What is left of scores, and whether the highest score of each row is that of its true class, (n,)."""
    found: _Rated | None = None
    right = np.zeros(len(columns), bool)
    for at, scores in blocks:
        rated = _rate(scores, columns[at], temperature)
        if found is None:
            found = _Rated(*(np.zeros(len(columns), one.dtype) for one in rated))
        for whole, part in zip(found, rated, strict=True):
            whole[at] = part
        right[at] = scores.argmax(axis=1) == columns[at]
    assert found is not None  # there are rows
    return found, right


def figures(scores: np.ndarray, labels: np.ndarray, classes: np.ndarray, temperature: float = 1.0) -> dict[str, Any]:
    """`evaluate`'s figures of scores (n, classes)."""
    return _figures(_rate(scores, np.searchsorted(classes, labels), temperature), classes)


def pooled(parts: Sequence[_Rated], classes: np.ndarray) -> dict[str, Any]:
    """`evaluate`'s figures of the rows of several classifiers of the same classes.

    Parameters
    ----------
    parts : sequence
        What `rate` leaves of each classifier's scores.
    classes : ndarray, shape (classes,)
    """
    return _figures(_Rated(*map(np.concatenate, zip(*parts, strict=True))), classes)


def _figures(rated: _Rated, classes: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truth, guess = rated.truth, rated.guess
    every = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(truth, guess, labels=every, zero_division=0)
    top5 = {"top5": float(np.mean(rated.ahead < TOP))} if len(classes) > MANY else {}
    confused = {"confused": _confused(truth, guess, classes)} if len(classes) > MATRIX else {}
    return {
        "n": len(truth),
        "top1": float(np.mean(guess == truth)),
        **top5,
        "balanced_accuracy": float(recall[support > 0].mean()),
        "log_loss": mean_loss(rated.picked),
        "ece": _ece(rated.confidence, guess == truth),
        "ece_uncalibrated": _ece(rated.plain, guess == truth),
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
        "confusion": confusion_matrix(truth, guess, labels=every).tolist() if len(classes) <= MATRIX else None,
        **confused,
    }


def _confused(truth: np.ndarray, guess: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    """The pairs of classes that are most often confused, and how many more there are."""
    wrong = truth != guess
    codes, counts = np.unique(truth[wrong] * len(classes) + guess[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:PAIRS]
    pairs = [
        {"true": str(classes[code // len(classes)]), "predicted": str(classes[code % len(classes)]), "count": int(n)}
        for code, n in zip(codes[order], counts[order], strict=True)
    ]
    return {"pairs": pairs, "more": len(codes) - len(pairs)}


def _ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error: |accuracy − confidence| over equal-width bins, weighted by their counts."""
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, correct - confidence, ECE_BINS)  # per bin: count × (accuracy − confidence)
    return float(np.abs(gaps).sum() / len(confidence))


def check_known(labels: np.ndarray, classes: np.ndarray) -> None:
    """Raise ProbeError naming a label that is not among the classes."""
    unknown = sorted(set(labels.tolist()) - set(classes.tolist()), key=str)
    if unknown:
        raise ProbeError(f"class {unknown[0]!r} is unknown to the model; it knows {_listed(classes)}")


def _listed(classes: np.ndarray) -> str:
    shown = ", ".join(map(str, classes[:8]))
    return shown if len(classes) <= 8 else f"{shown}, … ({len(classes)} in all)"
