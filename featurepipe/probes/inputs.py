"""What every probe and protocol asks of embeddings and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from featurepipe.errors import ProbeError
from featurepipe.probes.kinds import TOKENS, VECTORS
from featurepipe.probes.metrics import check_known
from featurepipe.solvers import chunks

SHAPES = {VECTORS: (2,), TOKENS: (3, 4)}  # axes of X


@overload
def check(
    X: ArrayLike, y: ArrayLike, X_other: ArrayLike, y_other: ArrayLike, *, reads: str = ...
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...


@overload
def check(
    X: ArrayLike,
    y: ArrayLike,
    X_other: ArrayLike | None = None,
    y_other: ArrayLike | None = None,
    *,
    reads: str = ...,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]: ...


def check(
    X: ArrayLike,
    y: ArrayLike,
    X_other: ArrayLike | None = None,
    y_other: ArrayLike | None = None,
    *,
    reads: str = VECTORS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The same as arrays, features uncopied where they are numbers.

    Parameters
    ----------
    X, X_other : array-like, shape (n, width)
    y, y_other : array-like, shape (n,)
        Labels. Give both of X_other and y_other, or neither.
    reads : {'vectors', 'tokens'}
        What the kind of probe reads: X is (n, width), or (n, H, W, width) or (n, tokens, width).

    Raises
    ------
    ProbeError
        A single class, no rows, values that are not finite or no numbers, a missing label, a class in y_other only, or
        rows, labels and widths that do not match.
    """
    X, y, X_other, y_other = check_rows(X, y, X_other, y_other, reads)
    classes = np.unique(y)
    if len(classes) < 2:
        found = f"only one class ({classes.tolist()[0]!r})" if len(classes) else "no samples"
        raise ProbeError(f"{found} to train on; a classifier needs at least two classes")
    if y_other is not None:
        check_known(y_other, classes)
    return X, y, X_other, y_other


def check_rows(
    X: ArrayLike,
    y: ArrayLike,
    X_other: ArrayLike | None = None,
    y_other: ArrayLike | None = None,
    reads: str = VECTORS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """As `check`, whatever the labels are, if there are any."""
    X, y = _pair(X, y, reads)
    others: tuple[np.ndarray, np.ndarray] | tuple[None, None] = (None, None)
    if (X_other is None) != (y_other is None):
        raise ProbeError("selection data are embeddings and labels; one of the two is missing")
    if X_other is not None and y_other is not None:
        others = X_other, y_other = _pair(X_other, y_other, reads)
        if not len(y_other):
            raise ProbeError("there are no samples to select on; leave the selection data out, or give some")
        if X_other.shape[1:] != X.shape[1:]:
            one, other = ("×".join(map(str, some.shape[1:])) for some in (X, X_other))
            raise ProbeError(f"embeddings of width {one} and {other}; all must be of one backbone")
    return X, y, *others


def check_groups(groups: Sequence[object] | np.ndarray | None, rows: int) -> None:
    """Raise ProbeError unless there is a group for each row, or there are none."""
    if groups is not None and len(groups) != rows:
        raise ProbeError(f"{len(groups)} groups for {rows} rows; give one for each")


def _pair(X: ArrayLike, y: ArrayLike, reads: str) -> tuple[np.ndarray, np.ndarray]:
    X, y = finite(X), np.asarray(y)
    if reads == TOKENS and X.ndim == 2:
        raise ProbeError(
            f"this probe reads tokens, (n, H, W, width), and got vectors, {X.shape}; keep tokens with: featurepipe "
            "extract DATA --tokens"
        )
    if X.ndim not in SHAPES[reads] or y.shape != (len(X),):
        raise ProbeError(f"embeddings are (n, width) with n labels; got {X.shape} and {y.shape}")
    if len(X) and not X.size:
        raise ProbeError(f"embeddings have no features; got {X.shape}")
    for row, label in enumerate(y.tolist()):
        if label is None or label != label:  # NaN is no label either
            raise ProbeError(f"row {row} has no label; leave such rows out")
    return X, y


def finite(X: ArrayLike) -> np.ndarray:
    """Embeddings as an array of real numbers, uncopied where they are one; ProbeError unless all are finite."""
    try:
        X = np.asanyarray(X)  # a memory map stays one
        if X.dtype.kind not in "fiu":
            X = X.astype(np.float64)
    except (TypeError, ValueError) as error:  # text, or rows of different lengths
        raise ProbeError(f"embeddings are numbers; {error}") from error
    if X.ndim >= 2 and not all(np.isfinite(chunk).all() for _, chunk in chunks(X)):
        raise ProbeError("embeddings hold values that are not finite; check the store with featurepipe verify")
    return X
