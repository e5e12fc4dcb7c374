"""Tokens where they lie: rows of shards, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from featurepipe import shards
from featurepipe.errors import StoreError
from featurepipe.matrices.features import FeatureMatrix
from featurepipe.stores import Entry

BLOCK_BYTES = 2**24  # of tokens at a time


class TokenRows:
    """The tokens of samples, read from their shards row by row, each compared with its checksum.

    It is used as an array is, as far as rows are asked for: a number, a slice, numbers, or a mask gives float16
    (…, H, W, D) in memory. Nothing is held open in between, and threads may share it.

    Parameters
    ----------
    entry : Entry
        One that holds tokens.
    outlined : FeatureMatrix
        Samples of `featurepipe.matrices.outline`, or some of them, in any order.

    Attributes
    ----------
    shape : tuple of int
        (n, H, W, D).
    dtype : dtype

    Raises
    ------
    StoreError
        The entry holds vectors.

    Examples
    --------
    >>> from featurepipe import extract
    >>> from featurepipe.matrices import TokenRows, outline
    >>> from featurepipe.stores import Store
    >>> store = Store.open(extract("data/digits", "/tmp/tokens.store", backbone="bundled", tokens=2)["store"])
    >>> entry = store.choose(tokens=True)
    >>> rows = TokenRows(entry, outline(store, entry))
    >>> rows.shape[:3], rows[[5, 3]].shape == (2, *rows.shape[1:])
    ((1797, 2, 2), True)
    """

    def __init__(self, entry: Entry, outlined: FeatureMatrix) -> None:
        if entry.grid is None:
            raise StoreError(
                f"{entry.title} are vectors, not tokens; get these with: featurepipe extract DATA --tokens"
            )
        self._readers = [shards.Reader.open(index.path) for index in entry.indexes]
        self._places = np.asarray(outlined.X, np.int64).reshape(len(outlined), 2)  # (n, 2): shard, row
        self.shape = (len(outlined), *entry.shape)
        self.dtype = np.dtype(entry.dtype)

    @property
    def ndim(self) -> int:  # noqa: D102
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """What all rows would take in memory."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: int | slice | np.ndarray | list[int]) -> np.ndarray:
        """The rows, copied, in the order in which they are asked for."""
        places = self._places[at]
        if places.ndim == 1:
            return self[np.array([at])][0]
        found = np.empty((len(places), *self.shape[1:]), self.dtype)
        for shard in np.unique(places[:, 0]):
            mine = np.flatnonzero(places[:, 0] == shard)
            found[mine] = self._readers[shard].read(places[mine, 1])
        return found

    def blocks(self, size: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """All rows in order, a few at a time: where they are, and the rows (b, H, W, D).

        Parameters
        ----------
        size : int, optional
            Rows of a block; by default as many as take 16 MiB.
        """
        step = size or max(1, BLOCK_BYTES // max(1, self.nbytes // max(1, len(self))))
        for start in range(0, len(self), step):
            at = slice(start, min(start + step, len(self)))
            yield at, self[at]
