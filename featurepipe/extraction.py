"""Extraction: read → infer → write, each third timed.

The reader decodes on threads a few batches ahead, the backbone embeds one batch at a time, the writer gathers
shards. Each third only sees the value before it, so any of them can be replaced.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from featurepipe.backbones import Extractor, Transform
from featurepipe.digests import sha256_bytes
from featurepipe.errors import BackboneError, ImageError
from featurepipe.images import decode, to_pixels
from featurepipe.stores import Pending

BATCH_SIZE = 32
ROWS_PER_SHARD = 1024
LIBRARIES = ("featurepipe", "torch", "timm", "scikit-learn", "numpy", "h5py", "pillow")
BATCHES_AHEAD = 3
NOT_FINITE = "the embedding is not finite"


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
        Digest → reason: files that could not be read this time, or changed since they were listed.
    """

    digests: list[str]
    pixels: np.ndarray
    rejects: dict[str, str]
    unreadable: dict[str, str]


class Sink(Protocol):
    """Where embeddings go: `featurepipe.stores.Writer` (shards) or `Memory`."""

    def append(self, digests: Sequence[str], vectors: np.ndarray, rejects: Mapping[str, str]) -> None:
        """Take one batch: `vectors` (B, width), one per digest, and the rejects (digest → reason) beside them."""
        ...

    def commit(self) -> None:
        """Make what has been taken permanent."""
        ...


@dataclass
class Memory:
    """A sink that keeps the vectors, for a few images that need no store."""

    vectors: dict[str, np.ndarray] = field(default_factory=dict)

    def append(self, digests: Sequence[str], vectors: np.ndarray, rejects: Mapping[str, str]) -> None:
        """Take one batch: `vectors` (B, width), one per digest."""
        self.vectors.update(zip(digests, vectors, strict=True))

    def commit(self) -> None:
        """Nothing is left to do."""


@dataclass
class Outcome:
    """What an extraction did: embeddings computed, seconds per third, and reasons by digest of what failed."""

    computed: int = 0
    read_seconds: float = 0.0
    infer_seconds: float = 0.0
    write_seconds: float = 0.0
    rejects: dict[str, str] = field(default_factory=dict)


def default_workers() -> int:
    """Decoding threads: one per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_batches(
    plan: Sequence[Pending], transform: Transform, *, batch_size: int = BATCH_SIZE, workers: int | None = None
) -> Iterator[Batch]:
    """Decode planned files in order, `batch_size` planned files to a batch, some batches ahead of the consumer.

    What is retried starts a batch of its own, so that new files always meet in the same batches.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}")
    new, retried = [p for p in plan if not p.retried], [p for p in plan if p.retried]
    pool = ThreadPoolExecutor(workers or default_workers(), thread_name_prefix="decode")
    slices = (part[i : i + batch_size] for part in (new, retried) for i in range(0, len(part), batch_size))
    ahead: deque[list[tuple[Pending, Future[np.ndarray]]]] = deque()
    try:
        for pendings in slices:
            ahead.append([(pending, pool.submit(_load, pending, transform)) for pending in pendings])
            if len(ahead) > BATCHES_AHEAD:
                yield _gather(ahead.popleft(), transform)
        while ahead:
            yield _gather(ahead.popleft(), transform)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load(pending: Pending, transform: Transform) -> np.ndarray:
    if not isinstance(pending.source, Path):
        return to_pixels(pending.source, transform)
    data = pending.source.read_bytes()
    if sha256_bytes(data) != pending.digest:  # its vector would be filed under the old content
        raise OSError("its content has just changed; run again")
    return decode(data, transform)


def _gather(loaded: Sequence[tuple[Pending, Future[np.ndarray]]], transform: Transform) -> Batch:
    digests, pixels, rejects, unreadable = [], [], {}, {}
    for pending, future in loaded:
        try:
            pixels.append(future.result())  # (C, H, W)
            digests.append(pending.digest)
        except ImageError as error:
            rejects[pending.digest] = _printable(str(error))
        except OSError as error:
            unreadable[pending.digest] = f"cannot be read: {error.strerror or error}"
    stacked = np.stack(pixels) if pixels else np.empty((0, *transform.input_size), np.uint8)
    return Batch(digests, stacked, rejects, unreadable)


def _printable(text: str) -> str:
    """One line without control characters, which HDF5 text cannot hold; decoders quote broken files' bytes."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


def infer(batch: Batch, backbone: Extractor) -> tuple[list[str], np.ndarray, dict[str, str]]:
    """Embed a batch; returns digests, vectors (B, width) float32, and rejects with those that are not finite."""
    if not batch.digests:
        return [], np.empty((0, backbone.width), np.float32), batch.rejects
    vectors = backbone.embed(batch.pixels)  # (B, D)
    finite = np.isfinite(vectors).all(axis=1)
    bad = {digest: NOT_FINITE for digest, good in zip(batch.digests, finite, strict=True) if not good}
    kept = [digest for digest in batch.digests if digest not in bad]
    return kept, vectors[finite], {**batch.rejects, **bad}


def fill(
    plan: Sequence[Pending],
    backbone: Extractor,
    sink: Sink,
    *,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Outcome:
    """Embed what is planned into a sink.

    Whatever ends it early, an interrupt or an error, the finished batches are written first.

    Parameters
    ----------
    plan : sequence of Pending
    backbone : Backbone or Pixels
    sink : Writer or Memory
        A Writer must be of the same backbone's entry.
    batch_size, workers : int
        Images per forward pass, decoding threads.
    progress : callable
        Called with the number of planned samples that each batch has dealt with.

    Returns
    -------
    Outcome
    """
    outcome = Outcome()
    batches = read_batches(plan, backbone.transform, batch_size=batch_size, workers=workers)
    try:
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            read = time.perf_counter()
            outcome.read_seconds += read - started
            if batch is None:
                break
            digests, vectors, rejects = infer(batch, backbone)
            inferred = time.perf_counter()
            outcome.infer_seconds += inferred - read
            sink.append(digests, vectors, rejects)
            outcome.write_seconds += time.perf_counter() - inferred
            outcome.computed += len(digests)
            outcome.rejects |= rejects | batch.unreadable
            progress(len(digests) + len(rejects) + len(batch.unreadable))
        sink.commit()
        outcome.write_seconds += time.perf_counter() - read
    except (KeyboardInterrupt, BackboneError):
        sink.commit()
        raise
    finally:
        batches.close()
    return outcome


def provenance(extractor: Extractor, batch_size: int) -> dict[str, Any]:
    """What a shard says about how it was made."""
    return {
        "name": extractor.name,
        "source": extractor.source,
        "device": extractor.device,
        "batch_size": batch_size,
        "versions": versions(),
        "created": now(),
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that decide results."""
    return {library: metadata.version(library) for library in LIBRARIES}


def now() -> str:
    """The current second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
