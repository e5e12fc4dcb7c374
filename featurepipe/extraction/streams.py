"""Embeddings of a data set that nobody keeps: handed on in the order of its rows, a block at a time, and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from featurepipe.backbones import as_rows
from featurepipe.sources import Source
from featurepipe.stores import Plan, Rows
from featurepipe.stores.rows import keys

BLOCK_ROWS = 2**14  # whose embeddings are in memory at once
Take = Callable[[np.ndarray, np.ndarray], object]  # of the numbers of rows (m,), and their embeddings (m, width)


class Once(Plan):
    """A plan in which each content of a block of rows comes once, in their order; again in another block.

    A content that is in several blocks is embedded several times: its embedding would have to be kept until then.

    Parameters
    ----------
    rows : Rows
    source : Source
        Where the rows' places are.
    size : int
        Rows of a block.
    """

    def __init__(self, rows: Rows, source: Source, size: int = BLOCK_ROWS) -> None:
        starts = range(0, len(rows), size)
        firsts = [_firsts(rows, start, min(start + size, len(rows))) for start in starts]
        numbers = np.concatenate([np.zeros(0, np.int64), *firsts])
        super().__init__(rows, source, numbers, len(numbers), int(rows.readable.sum()), ())
        self.blocks = [slice(*pair) for pair in pairwise([*starts, len(rows)])]


def _firsts(rows: Rows, start: int, stop: int) -> np.ndarray:
    """The first row of each content that can be read, of some rows."""
    readable = start + np.flatnonzero(rows.readable[start:stop])
    _, first = np.unique(keys(rows.digests[readable]), return_index=True)
    return readable[np.sort(first)]


class Stream:
    """A sink that hands on each block of rows as soon as all of it has been embedded, or rejected.

    Parameters
    ----------
    rows : Rows
    plan : Once
        What is embedded: the sink must be filled in this order.
    spec : mapping
        That of the backbone.
    take : callable
        Takes the numbers of rows (m,), which ascend, and their embeddings (m, width); rejected rows are in no block.
    """

    def __init__(self, rows: Rows, plan: Once, spec: Mapping[str, Any], take: Take) -> None:
        self._rows, self._plan, self._spec, self._hand_on = rows, plan, spec, take
        self._at, self._block = 0, 0  # in the plan, and among its blocks
        self._held: dict[bytes, np.ndarray] = {}

    def append(self, digests: Sequence[str], vectors: np.ndarray, rejects: Mapping[str, str]) -> None:
        """Take one batch: `vectors` (B, width), one per digest. What the plan has between them was rejected."""
        for digest, vector in zip(map(bytes.fromhex, digests), as_rows(self._spec, vectors), strict=True):
            numbers = self._plan.numbers
            while self._rows.digests[numbers[self._at]].tobytes() != digest:
                self._at += 1
            while numbers[self._at] >= self._plan.blocks[self._block].stop:
                self._flush()
            self._held[digest] = vector
            self._at += 1

    def commit(self) -> None:
        """Nothing is made permanent here: a block may be incomplete."""

    def finish(self) -> None:
        """Hand on what is left, at the end of the plan."""
        while self._block < len(self._plan.blocks):
            self._flush()

    def _flush(self) -> None:
        """Hand on the block, and turn to the next."""
        block, held = self._plan.blocks[self._block], self._held
        digests = self._rows.digests[block]
        found = [held.get(digest.tobytes()) for digest in digests]
        numbers = [number for number, vector in enumerate(found, block.start) if vector is not None]
        self._block, self._held = self._block + 1, {}
        if numbers:
            self._hand_on(np.array(numbers), np.stack([vector for vector in found if vector is not None]))
