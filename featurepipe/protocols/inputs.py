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
        A single class, values that are not finite, or a class in y_other only.
    """
    X, y = _finite(X), np.asarray(y)
    classes = np.unique(y)
    if len(classes) < 2:
        found = f"only one class ({classes.tolist()[0]!r})" if len(classes) else "no samples"
        raise ProbeError(f"{found} to train on; a classifier needs at least two classes")
    if X_other is not None:
        X_other, y_other = _finite(X_other), np.asarray(y_other)
        probes.check_known(y_other, classes)
    return X, y, X_other, y_other


def _finite(X: np.ndarray) -> np.ndarray:
    X = np.asarray(X, np.float64)
    if not np.isfinite(X).all():
        raise ProbeError("embeddings hold values that are not finite; check the store with featurepipe verify")
    return X
