"""Where the arrays of a C path lie: in NumPy, or in torch on a device; and what the two call differently.

NumPy and torch have most functions under the same names, and both take ``axis`` and ``keepdims``. So the path is
written once: it asks an array for its `namespace`, and for the rest there is a function here. The device ``cpu`` is
NumPy; any other name is torch's, such as ``cuda``, ``cuda:1``, or ``cpu:0``, with which torch's side is tested. It has
never been run on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError

CPU = "cpu"
BLOCK_BYTES = 2**21  # of float64, so that half of it as float32
MIN_BLOCK = 64  # rows: products of fewer are slow
Array = Any  # an ndarray, or a torch tensor that lies on a device


def check_device(device: str) -> None:
    """Raise ProbeError for a device that is not there, or has no float64."""
    if device == CPU:
        return
    import torch

    from featurepipe.backbones.weights import first_line

    if device.partition(":")[0] == "mps":
        raise ProbeError(f"device {device!r} has no float64, which a certificate needs; use {CPU}")
    try:
        torch.ones(1, dtype=torch.float64, device=device).sum().item()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ProbeError(f"device {device!r} cannot be used here ({first_line(error)}); use {CPU}") from error


@contextmanager
def memory_named(device: str, needed: int) -> Iterator[None]:
    """Within, a device without the memory that is needed, in bytes, becomes a ProbeError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        from featurepipe.backbones import is_out_of_memory

        if device == CPU or not is_out_of_memory(error):
            raise
        raise ProbeError(
            f"device {device!r} has too little memory: this C path takes about {needed / 1e9:.2g} GB there; use {CPU}"
        ) from error


def put(x: np.ndarray, device: str) -> Array:
    """An array on a device."""
    if device == CPU:
        return x
    import torch

    return torch.tensor(np.ascontiguousarray(x), device=device)


def device_of(x: Array) -> str:
    """The name of the device where an array lies."""
    return CPU if isinstance(x, np.ndarray) else str(x.device)


def host(x: Array) -> np.ndarray:
    """An array in NumPy."""
    return x if isinstance(x, np.ndarray) else x.cpu().numpy()


def namespace(x: Array) -> ModuleType:
    """Either numpy or torch."""
    if isinstance(x, np.ndarray):
        return np
    import torch

    return torch


def double(x: Array) -> Array:
    """In float64; not a copy where it is."""
    return x.astype(np.float64, copy=False) if isinstance(x, np.ndarray) else x.double()


def single(x: Array) -> Array:
    """In float32."""
    return x.astype(np.float32) if isinstance(x, np.ndarray) else x.float()


def copy(x: Array) -> Array:
    """Where it is."""
    return x.copy() if isinstance(x, np.ndarray) else x.clone()


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """An array of another one's type and on its device."""
    return np.zeros(shape, like.dtype) if isinstance(like, np.ndarray) else like.new_zeros(shape)


def blocks(x: Array) -> Iterator[slice]:
    """The rows of an array (n, K), a few at a time: in NumPy as many as stay in a core's cache, in torch all."""
    yield from slices(len(x), x.shape[1]) if isinstance(x, np.ndarray) else slices(len(x), 0, len(x))


def slices(rows: int, columns: int, step: int = 0) -> Iterator[slice]:
    """Slices of rows, a few at a time: `step`, or as many as stay in a core's cache with that many columns."""
    step = step or max(MIN_BLOCK, BLOCK_BYTES // (8 * max(columns, 1)))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def along_rows(x: Array, columns: Array) -> Array:
    """What x (n, K) has in a column of each row, (n, 1)."""
    if isinstance(x, np.ndarray):
        return np.take_along_axis(x, columns, axis=1)
    return x.take_along_dim(columns, 1)


def expit(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    if isinstance(x, np.ndarray):
        from scipy import special

        return special.expit(x)
    return x.sigmoid()


def dots(a: Array, b: Array) -> Array:
    """Each row's sum of products of float32 arrays, (K, 1), in float64."""
    if isinstance(a, np.ndarray):
        return np.einsum("ij,ij->i", a, b, dtype=np.float64)[:, None]
    return (a.double() * b.double()).sum(axis=1, keepdims=True)


def quotient(a: Array, b: Array, where: Array) -> Array:
    """The quotient in float32, and 0 elsewhere."""
    xp = namespace(a)
    return single(xp.where(where, a / xp.where(where, b, 1.0), 0.0))
