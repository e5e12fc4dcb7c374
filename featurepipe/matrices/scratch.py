"""Where features are held: in memory, or where that is too small, in a scratch file next to the shards."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections import Counter
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from featurepipe.errors import ProbeError, StoreError
from featurepipe.files import size_text
from featurepipe.matrices.features import FeatureMatrix, fill
from featurepipe.matrices.parts import check_finite
from featurepipe.stores import Entry, JointEntry

LEAST = 4  # such arrays of the rows that are selected on, at the least, whatever the kind and wherever features lie


SMALL = 2**26  # bytes that can always be had
ZEROS = bytes(2**20)  # written at a time where a file system cannot promise space


def check_scores(samples: FeatureMatrix, *room: int | None, most: int = sys.maxsize) -> None:
    """Refuse classes whose scores alone do not fit, for which features on disk would be no help.

    Parameters
    ----------
    samples : FeatureMatrix
        With labels and splits.
    *room : int or None
        Bytes of memory; the largest counts, and None where it is not known.
    most : int
        How many scores are kept at once, where not all are.

    Raises
    ------
    ProbeError
        They do not fit.
    """
    classes, sizes = len(set(samples.y)), Counter(samples.split)
    rows = sizes["val"] or sizes["train"]  # without val, it is cross-validation that selects
    least = LEAST * 8 * min(rows * classes, most)
    known = [one for one in room if one is not None]
    if len(known) == len(room) and least > max(*known, SMALL):
        raise ProbeError(
            f"scores of {rows} samples for {classes} classes take {size_text(least)} or more, and the memory is "
            f"{size_text(max(known))}; probe fewer classes or fewer val samples, or on a machine with more memory"
        )


def read(entry: Entry | JointEntry, samples: FeatureMatrix, X: np.ndarray | None = None) -> FeatureMatrix:
    """The embeddings of samples, as `featurepipe.matrices.fill` reads them; ProbeError where one is not finite."""
    matrix = fill(entry, samples, X)
    check_finite(matrix, entry)
    return matrix


def scratch(folder: Path, shape: tuple[int, ...], dtype: str = "float32", what: str = "features") -> np.memmap:
    """An array in a file without a name; its space is free again when the array is.

    All of the space is taken at once: a disk that is full later would kill the process that writes there.

    Parameters
    ----------
    folder : Path
        Where the file lies; it is made if it is missing.
    shape : tuple of int
    dtype : str
    what : str
        What the array holds, in words, for an error.

    Raises
    ------
    StoreError
        There is no room, or nobody may write there.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            _take(file, size)
            return np.memmap(file, dtype, "w+", shape=shape)
    except OSError as error:
        raise StoreError(
            f"no room for {what} in {folder}: they take {size_text(size)} ({error.strerror or error}); make room, and "
            "run the same command again"
        ) from error


def _take(file: IO[bytes], size: int) -> None:
    """Take space on the disk for a file that is empty; OSError where there is not enough."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot do it
                raise
    for start in range(0, size, len(ZEROS)):
        file.write(ZEROS[: size - start])
    file.flush()
