"""The first third: what sources give → pixels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from featurepipe.backbones import Transform, Views
from featurepipe.backbones.networks import is_out_of_memory
from featurepipe.errors import ImageError
from featurepipe.files import check_scarce
from featurepipe.images import decode, file_turn
from featurepipe.sources import Content
from featurepipe.stores import Pending


@dataclass(frozen=True)
class Batch:
    """Decoded images, and what could not be decoded.

    Attributes
    ----------
    digests : list of str
        One per image.
    pixels : ndarray of uint8, shape (B, C, H, W)
    rejects : dict
        Digest → reason: contents that are broken, now and for ever.
    unreadable : dict
        Digest → reason: files that could not be read this time (or decoded, for lack of memory), or changed since
        they were listed.
    load_seconds, decode_seconds : float
        Spent on reading and hashing, and on decoding, resizing and cropping.
    decode_cpu_seconds : float
        What of the latter this thread's core was really at work: a busy machine does not lengthen it.
    """

    digests: list[str]
    pixels: np.ndarray
    rejects: dict[str, str]
    unreadable: dict[str, str]
    load_seconds: float = 0.0
    decode_seconds: float = 0.0
    decode_cpu_seconds: float = 0.0


def read_batch(plan: Sequence[Pending], transform: Transform | Views) -> Batch:
    """Read, check and decode what is planned, in this thread.

    Raises
    ------
    MemoryError
        No memory is left for the pixels of the batch.
    """
    channels, height, width = transform.input_size
    pixels = np.empty((len(plan), height, width, channels), np.uint8)  # as decoders give them and networks want them
    pixels = pixels.transpose(0, 3, 1, 2)  # (B, C, H, W)
    digests: list[str] = []
    rejects: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    load_seconds, load_cpu, before, before_cpu = 0.0, 0.0, time.perf_counter(), time.thread_time()
    data: Content | None
    for pending in plan:
        try:
            with file_turn(pending.size):
                started, started_cpu = time.perf_counter(), time.thread_time()
                data = pending.read()
                load_seconds += time.perf_counter() - started
                load_cpu += time.thread_time() - started_cpu
                decoded = decode(data, transform, pending.part)
            pixels[len(digests)] = decoded
            digests.append(pending.digest)
        except ImageError as error:
            rejects[pending.digest] = _printable(str(error))
        except OSError as error:
            check_scarce(error)
            unreadable[pending.digest] = f"cannot be read: {error.strerror or error}"
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            unreadable[pending.digest] = "cannot be decoded: out of memory; try fewer workers"
        data = None  # before the next one is read
    seconds, cpu_seconds = time.perf_counter() - before, time.thread_time() - before_cpu
    return Batch(
        digests,
        pixels[: len(digests)],
        rejects,
        unreadable,
        load_seconds,
        seconds - load_seconds,
        min(cpu_seconds - load_cpu, seconds - load_seconds),
    )


def join(batches: Iterable[Batch]) -> Batch:
    """One batch of several, in their order; MemoryError where there is no memory for one more copy of the pixels."""
    parts = list(batches)
    return Batch(
        digests=[digest for part in parts for digest in part.digests],
        pixels=np.concatenate([part.pixels for part in parts]),
        rejects={digest: why for part in parts for digest, why in part.rejects.items()},
        unreadable={digest: why for part in parts for digest, why in part.unreadable.items()},
        load_seconds=sum(part.load_seconds for part in parts),
        decode_seconds=sum(part.decode_seconds for part in parts),
        decode_cpu_seconds=sum(part.decode_cpu_seconds for part in parts),
    )


def _printable(text: str) -> str:
    """One line without control characters, which HDF5 text cannot hold; decoders quote broken files' bytes."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))
