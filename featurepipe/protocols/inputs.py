"""What every protocol asks of embeddings and labels."""

from __future__ import annotations

import numpy as np

from featurepipe import probes
from featurepipe.errors import ProbeError


def check(
    X: np.ndarray, y: np.ndarray, X_other: np.ndarray | None, y_other: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The same as arrays, features in float64.

    Raises
    ------
    ProbeError
        A single class, values that are not finite, a class in y_other only, or rows and labels that do not match.
    """
    X, y = _pair(X, y)
    classes = np.unique(y)
    if len(classes) < 2:
        found = f"only one class ({classes.tolist()[0]!r})" if len(classes) else "no samples"
        raise ProbeError(f"{found} to train on; a classifier needs at least two classes")
    if X_other is not None:
        X_other, y_other = _pair(X_other, y_other)
        if X_other.shape[1] != X.shape[1]:
            raise ProbeError(f"embeddings of width {X.shape[1]} and {X_other.shape[1]}; all must be of one backbone")
        probes.check_known(y_other, classes)
    return X, y, X_other, y_other


def _pair(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    X, y = _finite(X), np.asarray(y)
    if X.ndim != 2 or y.shape != (len(X),):
        raise ProbeError(f"embeddings are (n, width) with n labels; got {X.shape} and {y.shape}")
    return X, y


def _finite(X: np.ndarray) -> np.ndarray:
    X = np.asarray(X, np.float64)
    if not np.isfinite(X).all():
        raise ProbeError("embeddings hold values that are not finite; check the store with featurepipe verify")
    return X
