"""Labels as a notebook has them: one class for each image, and none missing."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sized
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d

from featurepipe.estimators.rows import is_missing

DATES = (datetime.date, np.datetime64, np.timedelta64, datetime.timedelta)


def check_labelled(X: Sized, y: Any) -> np.ndarray:
    """Labels (n,) of as many images, if a classifier can learn from them.

    Raises
    ------
    ValueError
        A label is missing or is nothing that classes can be called by, or there are more or fewer than images.
    """
    if not isinstance(y, str) and hasattr(y, "__len__"):  # before NumPy makes text of None and NaN among texts
        _check_each(y)
    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    check_consistent_length(X, y)
    return y


def _check_each(y: Any) -> None:
    if np.ma.isMaskedArray(y):
        y = y.tolist()  # None where it is masked
    if isinstance(y, np.ndarray) and y.dtype.kind in "biufU":  # numbers and texts are looked at as a whole
        return
    texts = others = None
    for row, label in enumerate(_each(y)):
        if is_missing(label):
            raise ValueError(f"Input y contains NaN: row {row} has no label ({label!r}); leave it out of X and y")
        if isinstance(label, (bytes, bytearray)):
            raise ValueError(f"y holds bytes ({label!r} in row {row}); give text: [label.decode() for label in y]")
        if isinstance(label, DATES):
            raise ValueError(f"y holds dates ({label} in row {row}); give classes as text, such as str(label.year)")
        if isinstance(label, (list, tuple, set, frozenset, dict)) and len(label) != 1:
            raise ValueError(
                f"row {row} of y is a {type(label).__name__}, and each sample has one label; for sets of labels see "
                "featurepipe.probe(…, multi_label=True)"
            )
        texts, others = (label, others) if isinstance(label, str) else (texts, label)
    if texts is not None and others is not None:  # NumPy would make texts of all of them
        raise ValueError(
            f"y mixes text with other types ({texts!r}, {others!r}); give labels of one type: list(map(str, y))"
        )


def _each(y: Any) -> Iterable[Any]:
    """The labels one by one, of a column or of a table with one."""
    if hasattr(y, "columns"):
        y = np.asarray(y, object).ravel()
    return y.ravel() if isinstance(y, np.ndarray) else y


def check_groups(X: Sized, groups: Any) -> np.ndarray | None:
    """Groups (n,) of as many images, as texts; None if there are none.

    Raises
    ------
    ValueError
        One is missing, or there are more or fewer than images.
    """
    if groups is None:
        return None
    found = column_or_1d(groups, warn=True)
    check_consistent_length(X, found)
    if any(is_missing(group) for group in found.tolist()):
        raise ValueError("a group is missing; give every sample one, or leave groups out")
    return found.astype(str)
