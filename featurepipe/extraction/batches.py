"""The first third: what sources give → inputs of a network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.backbones.networks import is_out_of_memory
from featurepipe.errors import BackboneError, SampleError
from featurepipe.files import check_scarce
from featurepipe.media import Transform, file_turn, plural
from featurepipe.sources.patience import is_stopped
from featurepipe.stores import Pending


@dataclass(frozen=True)
class Batch:
    """Decoded samples, and what could not be decoded.

    Attributes
    ----------
    digests : list of str
        One per input.
    inputs : ndarray, shape (B, …)
        As the transform's shape and type say.
    rejects : dict
        Digest → reason: contents that are broken, now and for ever.
    unreadable : dict
        Digest → reason: files that could not be read this time (or decoded, for lack of memory), or changed since
        they were listed.
    load_seconds, decode_seconds : float
        Spent on reading and hashing, and on decoding with all that the transform does.
    decode_cpu_seconds : float
        What of the latter this thread's core was really at work: a busy machine does not lengthen it.
    """

    digests: list[str]
    inputs: np.ndarray
    rejects: dict[str, str]
    unreadable: dict[str, str]
    load_seconds: float = 0.0
    decode_seconds: float = 0.0
    decode_cpu_seconds: float = 0.0


def read_batch(plan: Sequence[Pending], transform: Transform) -> Batch:
    """Read, check and decode what is planned, in this thread.

    Raises
    ------
    MemoryError
        No memory is left for the inputs of the batch.
    CancelledError
        Nobody wants them any more.
    """
    room: np.ndarray | None = None  # until the first input says in which order its axes lie in memory
    digests: list[str] = []
    rejects: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    load_seconds, load_cpu, before, before_cpu = 0.0, 0.0, time.perf_counter(), time.thread_time()
    data: Any
    for pending in plan:
        if is_stopped():
            raise CancelledError
        try:
            with file_turn(pending.size):
                started, started_cpu = time.perf_counter(), time.thread_time()
                data = pending.read()
                load_seconds += time.perf_counter() - started
                load_cpu += time.thread_time() - started_cpu
                decoded = transform.decode(data, pending.part)
        except SampleError as error:
            rejects[pending.digest] = _printable(str(error))
        except OSError as error:
            check_scarce(error)
            unreadable[pending.digest] = f"cannot be read: {error.strerror or error}"
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            unreadable[pending.digest] = "cannot be decoded: out of memory; try fewer workers"
        else:
            _check(decoded, transform)
            if room is None:
                room = _room(len(plan), transform, decoded)
            room[len(digests), ...] = decoded  # of an array without axes, what is in it
            digests.append(pending.digest)
        data = None  # before the next one is read
    seconds, cpu_seconds = time.perf_counter() - before, time.thread_time() - before_cpu
    return Batch(
        digests,
        np.empty((0, *transform.shape), transform.dtype) if room is None else room[: len(digests)],
        rejects,
        unreadable,
        load_seconds,
        seconds - load_seconds,
        min(cpu_seconds - load_cpu, seconds - load_seconds),
    )


def join(batches: Iterable[Batch]) -> Batch:
    """One batch of several, in their order; MemoryError where there is no memory for one more copy of the inputs."""
    parts = list(batches)
    some = [part.inputs for part in parts if len(part.inputs)]  # the others know no order of axes in memory
    return Batch(
        digests=[digest for part in parts for digest in part.digests],
        inputs=np.concatenate(some or [part.inputs for part in parts]),
        rejects={digest: why for part in parts for digest, why in part.rejects.items()},
        unreadable={digest: why for part in parts for digest, why in part.unreadable.items()},
        load_seconds=sum(part.load_seconds for part in parts),
        decode_seconds=sum(part.decode_seconds for part in parts),
        decode_cpu_seconds=sum(part.decode_cpu_seconds for part in parts),
    )


def _room(count: int, transform: Transform, first: np.ndarray) -> np.ndarray:
    """Room for inputs (count, …), their axes in memory as the first one's: decoders give what networks like best."""
    order = sorted(range(first.ndim), key=lambda axis: -abs(first.strides[axis]))
    room = np.empty((count, *(first.shape[axis] for axis in order)), transform.dtype)
    return room.transpose(0, *(1 + order.index(axis) for axis in range(first.ndim)))


def _check(decoded: np.ndarray, transform: Transform) -> None:
    """Refuse what NumPy would spread or cut to fit."""
    if (decoded.shape, decoded.dtype) != (transform.shape, transform.dtype):
        raise BackboneError(
            f"the transform of {plural(transform.medium)} gave {decoded.dtype} {decoded.shape}, "
            f"not {transform.dtype} {transform.shape}; this is a mistake in it"
        )


def _printable(text: str) -> str:
    """One line without control characters, which HDF5 text cannot hold; decoders quote broken files' bytes."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
