"""Figures of a protocol's classifier on rows that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np

from featurepipe import probes
from featurepipe.errors import ProbeError
from featurepipe.protocols.outcomes import Result


def evaluate(outcome: Result, X: np.ndarray, y: Sequence[str] | np.ndarray) -> dict[str, Any]:
    """Figures on labelled embeddings.

    Parameters
    ----------
    outcome : Result
    X : ndarray, shape (n, width)
        Raw embeddings.
    y : sequence, shape (n,)

    Returns
    -------
    dict
        For logistic regression those of `featurepipe.probes.evaluate`. For vissl-svm ``n, top1, map, classes,
        per_class`` (class → average precision). For dinov2-knn ``n, top1, balanced_accuracy`` of the marked k, and
        ``by_k``: the same for every k.

    Raises
    ------
    ProbeError
        A class that the classifier does not know, or no rows.
    """
    X, truth = np.asarray(X, np.float64), np.asarray(y)
    method, estimator = outcome.protocol.method, outcome.estimator
    if method == "logistic":
        return probes.evaluate(estimator, X, truth, outcome.temperature)
    if not len(truth):
        raise ProbeError("there are no labelled samples to evaluate on")
    probes.check_known(truth, estimator.classes_)
    if method == "svm":
        found = average_precisions(estimator.decision_function(X), truth, estimator.classes_)
        return {"n": len(truth), "top1": float(np.mean(estimator.predict(X) == truth)), **found}
    by_k = [{"k": step["k"], **_with_neighbours(estimator, step["k"], X, truth)} for step in outcome.path]
    chosen = next(one for one in by_k if one["k"] == outcome.chosen)
    return {"n": len(truth), "top1": chosen["top1"], "balanced_accuracy": chosen["balanced_accuracy"], "by_k": by_k}


def _with_neighbours(estimator: Any, k: int, X: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Top-1 and balanced accuracy of the same neighbours' votes, but of k of them."""
    guess = copy(estimator).set_params(n_neighbors=k).predict(X)
    recalls = [np.mean(guess[truth == label] == label) for label in np.unique(truth)]
    return {"top1": float(np.mean(guess == truth)), "balanced_accuracy": float(np.mean(recalls))}


def average_precisions(scores: np.ndarray, truth: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    """Average precision of every class, as VISSL computes it: `featurepipe.probes.average_precision`.

    Parameters
    ----------
    scores : ndarray, shape (n, K)
    truth : ndarray, shape (n,)
        Labels.
    classes : ndarray, shape (K,)

    Returns
    -------
    dict
        ``map, classes, per_class`` (class → average precision); classes without rows count in neither.

    Examples
    --------
    >>> truth = np.array(["ant", "bee", "ant"])
    >>> average_precisions(np.array([[3.0, 0], [2, 1], [1, 2]]), truth, np.array(["ant", "bee"]))["per_class"]
    {'ant': 0.8333333333333333, 'bee': 0.5}
    """
    per_class = {
        str(label): probes.average_precision(scores[:, i], truth == label)
        for i, label in enumerate(classes.tolist())
        if (truth == label).any()
    }
    return {
        "map": float(np.mean(list(per_class.values()))),
        "classes": [str(label) for label in classes.tolist()],
        "per_class": per_class,
    }
