"""Sets of labels as a matrix of 0 and 1, and the figures of multi-label scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from featurepipe.manifests import read_set


def labels_of(y: Iterable[str]) -> np.ndarray:
    """The labels that occur in sets of labels, sorted, (K,).

    Examples
    --------
    >>> labels_of(["dog", "cat;dog", ";"]).tolist()
    ['cat', 'dog']
    """
    return np.array(sorted({label for text in set(y) for label in read_set(text)}), np.str_)


def indicator(y: Sequence[str] | np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sets of labels as 0 and 1.

    Parameters
    ----------
    y : sequence of str, shape (n,)
        As in a manifest: labels between semicolons.
    labels : ndarray, shape (K,)
        All that occur.

    Returns
    -------
    ndarray of uint8, shape (n, K)

    Examples
    --------
    >>> indicator(["dog", "cat;dog", ";"], np.array(["cat", "dog"])).tolist()
    [[0, 1], [1, 1], [0, 0]]
    """
    column = {label: i for i, label in enumerate(labels.tolist())}
    Y = np.zeros((len(y), len(labels)), np.uint8)
    for row, text in enumerate(y):
        Y[row, [column[label] for label in read_set(text)]] = 1
    return Y


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the interpolated curve of precision over recall.

    Parameters
    ----------
    scores : ndarray, shape (n,)
    positive : ndarray of bool, shape (n,)
        At least one.

    Notes
    -----
    Everingham et al. 2010, "The Pascal Visual Object Classes Challenge", as changed in 2010: precision at each recall
    is the best at that or any higher recall, and recall takes every value, not eleven.

    Examples
    --------
    >>> average_precision(np.array([3.0, 2, 1]), np.array([True, False, True]))
    0.8333333333333333
    """
    hits = positive[np.lexsort((positive, -scores))]  # (n,) highest score first; of equal ones the hits come last
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].mean())  # recall rises by the same at each hit


def label_figures(scores: np.ndarray, Y: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Figures of multi-label scores.

    Parameters
    ----------
    scores : ndarray, shape (n, K)
        Log-odds: a label above 0 is predicted.
    Y : ndarray of 0 and 1, shape (n, K)
    labels : ndarray, shape (K,)

    Returns
    -------
    dict
        ``n, map`` (mean average precision, as `average_precision` has it), ``micro_f1, macro_f1, subset_accuracy``
        (share of images with exactly the right set), ``hamming`` (share of wrong decisions), ``log_loss`` (nats, mean
        over images and labels), ``classes``, ``per_class`` (label → average_precision, precision, recall, f1, support).
        ``map`` and ``macro_f1`` are means over the labels that some image has; of the others ``average_precision`` is
        None, and with no such label so are the means.
    """
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    positive, guess = Y.astype(bool), scores > 0
    precision, recall, f1, support = precision_recall_fscore_support(Y, guess, average=None, zero_division=0)
    has = [i for i in range(len(labels)) if support[i]]
    ap = {i: average_precision(scores[:, i], positive[:, i]) for i in has}
    return {
        "n": len(Y),
        "map": float(np.mean(list(ap.values()))) if has else None,
        "micro_f1": float(f1_score(Y, guess, average="micro", zero_division=0)),
        "macro_f1": float(f1[has].mean()) if has else None,
        "subset_accuracy": float((guess == positive).all(axis=1).mean()),
        "hamming": float((guess != positive).mean()),
        "log_loss": float(label_losses(scores, Y).mean()),
        "classes": labels.tolist(),
        "per_class": {
            label: {
                "average_precision": ap.get(i),
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(labels.tolist())
        },
    }


def chance(y: Sequence[str] | np.ndarray) -> float:
    """Mean average precision to expect of a ranking that knows nothing: the mean share of images with a label.

    Over the labels that occur in these sets; 0 where none does.
    """
    return float(np.mean(indicator(y, labels_of(y)).mean(axis=0))) if len(labels_of(y)) else 0.0


def label_losses(scores: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Negative log-probability (nats) of what is true of each image and label, (n, K), of log-odds (n, K)."""
    return np.logaddexp(0, scores) - scores * Y
