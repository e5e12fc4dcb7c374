"""Rows that are read where they lie: some rows of one or several matrices, in chunks, never copied as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.solvers.arrays import CPU, Array, double, host

CHUNK_BYTES = 2**24  # of rows in float64 at a time: they stay in a core's cache


class Stack:
    """Rows of matrices that lie one below the other, as far as a matrix's rows are asked for in slices.

    Parameters
    ----------
    *parts : ndarray, shape (n_i, D), or (n_i, H, W, D) of tokens
        Only read; memory maps will do.
    blocks : sequence of int
        Widths of the blocks of features that are standardised each by itself; nothing where they are one.

    Attributes
    ----------
    shape : tuple of int
        (n, D), or (n, H, W, D).

    Examples
    --------
    >>> stack = Stack(np.zeros((2, 3)), np.ones((2, 3)))
    >>> stack.take(np.array([1, 2]))[:].tolist()
    [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """

    def __init__(self, *parts: np.ndarray, blocks: Sequence[int] = ()) -> None:
        self._parts = parts
        self.blocks = tuple(blocks)
        self._starts = np.cumsum([0, *map(len, parts)])  # (parts + 1,)
        self._rows: np.ndarray = np.arange(self._starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:  # noqa: D102
        return len(self._rows), *self._parts[0].shape[1:]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: slice | np.ndarray) -> np.ndarray:
        """A copy of these rows, (m, D), or (m, H, W, D)."""
        rows = self._rows[at]
        if len(self._parts) == 1:
            return self._parts[0][rows]
        found = np.empty((len(rows), *self.shape[1:]), np.result_type(*self._parts))
        for part, start in zip(self._parts, self._starts[:-1], strict=True):
            mine = (rows >= start) & (rows < start + len(part))
            found[mine] = part[rows[mine] - start]
        return found

    def take(self, which: np.ndarray) -> Stack:
        """The rows that a boolean mask or an index array picks."""
        taken = Stack(*self._parts, blocks=self.blocks)
        taken._rows = self._rows[which]
        return taken


Matrix = np.ndarray | Stack


def stacked(X: Matrix) -> Stack:
    """Rows as a stack, which can be taken from without a copy."""
    return X if isinstance(X, Stack) else Stack(X)


def blocks_of(X: Matrix) -> tuple[int, ...]:
    """Widths of the blocks of features that are standardised each by itself; nothing where they are one."""
    return X.blocks if isinstance(X, Stack) else ()


def chunks(X: Matrix | Array) -> Iterator[tuple[slice, Array]]:
    """Where rows are, and the rows in float64, (m, D), a few megabytes at a time, on the device where X lies.

    Of tokens (m, H, W, D).
    """
    step = rows_at_once(prod(X.shape[1:]))
    for start in range(0, len(X), step):
        at = slice(start, min(start + step, len(X)))
        yield at, double(X[at])


def hold(X: Matrix, device: str) -> Array:
    """Rows (n, D) on a device, in float32 where that is what they are; on ``cpu`` X itself, which is only read."""
    if device == CPU:
        return X
    import torch

    dtype = np.result_type(X[:0].dtype, np.float32)  # smaller numbers are float32 exactly
    held = torch.empty(X.shape, dtype=getattr(torch, dtype.name), device=device)
    step = rows_at_once(X.shape[1])
    for start in range(0, len(X), step):
        at = slice(start, start + step)
        held[at] = torch.tensor(np.ascontiguousarray(X[at], dtype))  # torch has no reversed views
    return held


def rows_at_once(width: int) -> int:
    """How many rows of that many features a chunk has."""
    return max(1, CHUNK_BYTES // (8 * max(width, 1)))


def weighted_moments(X: Matrix | Array, w: Array) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation of each feature, (D,), with weights w (n,) on X's device.

    Raises
    ------
    ProbeError
        Values that are not finite.
    """
    total = w.sum()
    mean = sum(w[at] @ chunk for at, chunk in chunks(X)) / total
    if not np.isfinite(host(mean)).all():
        raise ProbeError("features hold values that are not finite; check the store with featurepipe verify")
    return host(mean), np.sqrt(host(sum(w[at] @ (chunk - mean) ** 2 for at, chunk in chunks(X)) / total))
