"""The loop: lanes read and infer, the calling thread writes; in planned order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from featurepipe.backbones import Embedder, as_rows
from featurepipe.errors import OutOfMemory
from featurepipe.extraction.allocation import reuse_memory
from featurepipe.extraction.batches import Batch, join, read_batch
from featurepipe.extraction.engines import Engine
from featurepipe.extraction.outcomes import Outcome
from featurepipe.interrupts import Interrupts
from featurepipe.listeners import SILENT, Listener
from featurepipe.media import plural
from featurepipe.sources.patience import listen
from featurepipe.stores import Pending
from featurepipe.surroundings import guarded

ROWS_PER_SHARD = 1024
PIECE = 8  # samples that a lane decodes at a stretch for a device's batch
GROUPS_AHEAD = 3  # of a device's batches
NOT_FINITE = "the embedding is not finite"


class Sink(Protocol):
    """Where embeddings go: `featurepipe.stores.Writer` (shards), `Writers` (of several layers) or `Memory`."""

    def append(self, digests: Sequence[str], vectors: np.ndarray, rejects: Mapping[str, str]) -> None:
        """Take one batch: `vectors` (B, width), one per digest, and the rejects (digest → reason) of the same batch."""
        ...

    def commit(self) -> None:
        """Make what has been taken permanent."""
        ...


@dataclass
class Memory:
    """A sink that keeps the vectors, for a few samples that need no store; or tokens, as a store would, of a `spec`."""

    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)

    def append(self, digests: Sequence[str], vectors: np.ndarray, rejects: Mapping[str, str]) -> None:
        """Take one batch: `vectors` (B, width), one per digest."""
        self.vectors.update(zip(digests, as_rows(self.spec, vectors), strict=True))

    def commit(self) -> None:
        """Nothing is left to do."""


@dataclass
class Part:
    """Planned samples whose batches are their own, and what has come of them.

    Attributes
    ----------
    plan : sequence of Pending
        Not empty.
    ends_shard : bool
        Whether the sink commits at its end. If not, the sink goes on with the next part, and decides by itself what
        becomes a shard.
    left : int
        Samples that nothing has come of yet.
    computed : int
        Embeddings.
    rejects : dict
        Digest → reason, of all that failed.
    """

    plan: Sequence[Pending]
    ends_shard: bool = True
    left: int = field(init=False)
    computed: int = 0
    rejects: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left = len(self.plan)


class Parts(Protocol):
    """The work of a loop, which may become known while it runs.

    It is one plan, the chunks that this process is given, or the stretches of files that are being read just ahead.

    Attributes
    ----------
    left : int
        Samples that are likely to be in parts that have not been taken yet.
    """

    left: int

    def take(self, *, wait: bool) -> Part | None:
        """The next part; None where there is none yet, or, with `wait`, none any more."""
        ...

    def finish(self, part: Part) -> None:
        """Hear that all samples of a part are in the sink; parts are finished in the order that they were taken in.

        The sink has made them permanent, if the part ends a shard.
        """
        ...


class Whole:
    """One plan, as the only part there is."""

    def __init__(self, plan: Sequence[Pending]) -> None:
        self._plan, self.left = plan, len(plan)

    def take(self, *, wait: bool) -> Part | None:
        """See `Parts.take`."""
        if not self.left:
            return None
        self.left = 0
        return Part(self._plan)

    def finish(self, part: Part) -> None:
        """Nothing comes after it."""


@dataclass(frozen=True)
class _Done:
    """What came of a batch: vectors (B, width), those that are not finite among the rejects, and no more inputs."""

    digests: list[str]
    vectors: np.ndarray
    rejects: dict[str, str]
    unreadable: dict[str, str]
    load_seconds: float
    decode_seconds: float
    decode_cpu_seconds: float

    def __len__(self) -> int:
        """How many planned samples these are."""
        return len(self.digests) + len(self.rejects) + len(self.unreadable)


def fill(
    plan: Sequence[Pending],
    backbone: Embedder,
    sink: Sink,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    compile: str = "auto",
    listener: Listener = SILENT,
) -> Outcome:
    """Embed what is planned into a sink.

    Whatever ends it early, an interrupt or an error, the finished batches are written first, before waiting for threads
    that are still at work.

    Parameters
    ----------
    plan : sequence of Pending
        What is retried comes last.
    backbone : Backbone, Layers or Descriptor
    sink : Writer, Writers or Memory
        A Writer must be of the same backbone's entry, and Writers of its layers' entries.
    batch_size : int, optional
        Inputs per forward pass; None chooses it.
    workers : int, optional
        Lanes; None is one per core.
    compile : {'auto', 'on', 'off'}
        See `Engine`.
    listener : Listener
        Its progress is that of planned samples, batch by batch.

    Returns
    -------
    Outcome

    Raises
    ------
    BackboneError
        The network fails, or (`OutOfMemory`) there is no memory for a single input.
    """
    return fill_parts(
        Whole(plan), backbone, sink, batch_size=batch_size, workers=workers, compile=compile, listener=listener
    )


@guarded
def fill_parts(
    parts: Parts,
    backbone: Embedder,
    sink: Sink,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    compile: str = "auto",
    listener: Listener = SILENT,
) -> Outcome:
    """As `fill`, but of one part after another, without a pause between them.

    The sink commits at the end of each part that ends a shard, and at the end of all.
    """
    started = time.perf_counter()
    engine = Engine(backbone, batch_size=batch_size, workers=workers, compile=compile)
    outcome = Outcome(lanes=engine.lanes, own_device=engine.own_device, infer_threads=engine.infer_threads)
    interrupts = Interrupts()
    expected = parts.left
    bar, stopped = listener.progress("embedding", expected), threading.Event()
    with bar as advance, interrupts.heard(), _lanes(engine, stopped) as (lanes, device):
        try:
            _run(parts, engine, lanes, device, sink, outcome, interrupts, advance, listener)
        except BaseException:  # here, as leaving the lanes may take as long as compiling does
            stopped.set()
            with interrupts.held():  # of somebody who presses twice
                sink.commit()
                if engine.compiling:
                    listener.note("stopping; waiting for the compiler, which cannot be interrupted")
            raise
    interrupts.check()
    if expected:
        engine.finish()
    _tell(engine, listener)  # what a lane that compiled to the end had to say
    outcome.compile_seconds, outcome.infer_seconds = engine.compile_seconds, engine.infer_seconds
    outcome.infer_floor = engine.infer_floor
    outcome.elapsed = time.perf_counter() - started
    return outcome


def _run(
    parts: Parts,
    engine: Engine,
    lanes: ThreadPoolExecutor,
    device: ThreadPoolExecutor | None,
    sink: Sink,
    outcome: Outcome,
    interrupts: Interrupts,
    advance: Callable[[int], object],
    listener: Listener,
) -> None:
    """Take results as they come, and let a lane compile when that is wanted: the others wait for it to infer."""
    if parts.left and engine.wants_compiling(parts.left):  # where it was asked for, and nothing has to be found first
        lanes.submit(engine.compile)
    for part, done in _in_order(parts, engine, lanes, device):
        _take(part, done, sink, outcome)
        advance(len(done))
        if not part.left:
            if part.ends_shard:
                _timed_commit(sink, outcome)
            parts.finish(part)
        interrupts.check()
        if engine.wants_compiling(part.left + parts.left):
            lanes.submit(engine.compile)
        _tell(engine, listener)
    _timed_commit(sink, outcome)


@contextmanager
def _lanes(engine: Engine, stopped: threading.Event) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor | None]]:
    """The lanes, and the threads of an accelerator; on leaving, what has not begun is dropped."""
    import torch

    threads = torch.get_num_threads()  # what this process has been given; the lanes share it
    each = 1 if engine.own_device else max(1, threads // engine.lanes)
    with ExitStack() as stack:
        if not engine.own_device:
            stack.enter_context(reuse_memory())
        stack.callback(torch.set_num_threads, threads)  # a lane's setting is its own, but new threads inherit the last

        def begin() -> None:
            torch.set_num_threads(each)
            listen(stopped)

        pools = [ThreadPoolExecutor(engine.lanes, "lane", begin)]
        if engine.own_device:
            pools.append(ThreadPoolExecutor(engine.infer_threads, "device"))
        for pool in pools:
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        yield pools[0], pools[1] if engine.own_device else None


def _in_order(
    parts: Parts, engine: Engine, lanes: ThreadPoolExecutor, device: ThreadPoolExecutor | None
) -> Iterator[tuple[Part, _Done]]:
    """Results in planned order, the lanes kept some batches ahead of the consumer, also into the next part."""
    ahead: deque[tuple[Part, Future[_Done]]] = deque()
    limit = 4 * engine.lanes + 8 if device is None else GROUPS_AHEAD
    few = 2 * engine.lanes if device is None else limit  # with more, another device may be sooner at the next part

    def first() -> tuple[Part, _Done]:
        part, future = ahead.popleft()
        return part, future.result()

    while True:
        part = parts.take(wait=not ahead) if len(ahead) < few else None
        if part is None and not ahead:
            return
        if part is None:  # there may be one when this result is there
            yield first()
            continue
        for future in _submit(part.plan, engine, lanes, device):
            ahead.append((part, future))
            while ahead and (len(ahead) >= limit or ahead[0][1].done()):  # written soon: a crash costs less
                yield first()


def _submit(
    plan: Sequence[Pending], engine: Engine, lanes: ThreadPoolExecutor, device: ThreadPoolExecutor | None
) -> Iterator[Future[_Done]]:
    """Cut the plan into batches of the engine's size at the time, and set the threads on them one after another.

    What is retried starts a batch of its own, so that new files always meet in the same batches.
    """
    transform = engine.extractor.transform
    fresh = len(plan)
    while fresh and plan[fresh - 1].retried:
        fresh -= 1
    for start, end in ((0, fresh), (fresh, len(plan))):
        while start < end:
            part = plan[start : min(end, start + engine.size.current)]
            start += len(part)
            if device is None:
                yield lanes.submit(_deal, engine, part, 1, len(part), lambda some: read_batch(some, transform))
                continue
            pieces = [part[i : i + PIECE] for i in range(0, len(part), PIECE)]
            reading = [lanes.submit(read_batch, piece, transform) for piece in pieces]
            yield device.submit(_deal, engine, reading, PIECE, len(part), _joined)


def _joined(reading: Sequence[Future[Batch]]) -> Batch:
    return join(piece.result() for piece in reading)


def _deal(engine: Engine, parts: Sequence[Any], each: int, count: int, make: Callable[[Sequence[Any]], Batch]) -> _Done:
    """Make a batch of its parts, of `each` samples and `count` together, and infer it.

    Where there is no memory for its inputs, one half is dealt with after the other. Pieces for a device that could not
    be read for lack of memory stay unread.
    """
    try:
        batch = make(parts)
    except MemoryError as error:
        engine.back_off(count)
        if len(parts) == 1:
            raise OutOfMemory(
                f"out of memory with {count} more {plural(engine.medium)} to read; try a smaller batch size or fewer "
                "workers"
            ) from error
    else:
        return _infer(engine, batch)
    half = len(parts) // 2
    first = _deal(engine, parts[:half], each, half * each, make)
    second = _deal(engine, parts[half:], each, count - half * each, make)
    return _both(first, second)


def _both(first: _Done, second: _Done) -> _Done:
    return _Done(
        first.digests + second.digests,
        np.concatenate([first.vectors, second.vectors]),
        first.rejects | second.rejects,
        first.unreadable | second.unreadable,
        first.load_seconds + second.load_seconds,
        first.decode_seconds + second.decode_seconds,
        first.decode_cpu_seconds + second.decode_cpu_seconds,
    )


def _infer(engine: Engine, batch: Batch) -> _Done:
    vectors = engine.infer(batch.inputs)  # (B, D)
    finite = np.isfinite(vectors).all(axis=1)
    bad = {digest: NOT_FINITE for digest, good in zip(batch.digests, finite, strict=True) if not good}
    kept = [digest for digest in batch.digests if digest not in bad]
    return _Done(
        kept,
        vectors[finite],
        {**batch.rejects, **bad},
        batch.unreadable,
        batch.load_seconds,
        batch.decode_seconds,
        batch.decode_cpu_seconds,
    )


def _tell(engine: Engine, listener: Listener) -> None:
    while engine.notes:
        listener.note(engine.notes.popleft())


def _take(part: Part, done: _Done, sink: Sink, outcome: Outcome) -> None:
    started = time.perf_counter()
    sink.append(done.digests, done.vectors, done.rejects)
    outcome.write_seconds += time.perf_counter() - started
    part.left -= len(done)
    for counted in (part, outcome):
        counted.computed += len(done.digests)
        counted.rejects |= done.rejects | done.unreadable
    outcome.load_seconds += done.load_seconds
    outcome.decode_seconds += done.decode_seconds
    outcome.decode_cpu_seconds += done.decode_cpu_seconds


def _timed_commit(sink: Sink, outcome: Outcome) -> None:
    started = time.perf_counter()
    sink.commit()
    outcome.write_seconds += time.perf_counter() - started
