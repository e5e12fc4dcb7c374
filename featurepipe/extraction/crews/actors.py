"""What runs in an actor of a cluster: one network, and the loop that embeds the chunks which the driver hands out."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import featurepipe
from featurepipe import backbones
from featurepipe.errors import BackboneError, StoreError
from featurepipe.extraction.chunks import Chunk, Inbox, Share
from featurepipe.extraction.loop import Part, fill_parts
from featurepipe.extraction.outcomes import Outcome
from featurepipe.listeners import Listener
from featurepipe.stores import Writer, Writers, locks


@dataclass(frozen=True)
class Job:
    """What an actor has to know before its first chunk.

    Attributes
    ----------
    version : str
        The driver's version of featurepipe.
    folder : str
        The driver's working directory.
    store : Path
        The store, from the root of the file system.
    name : str
        Under which the actor may write.
    spec, source : mapping
        What makes the backbone again.
    device : str
    sink : Writer or Writers
    trial : Share
        A single sample, which the driver can read.
    left : int
        Samples that it is likely to be given.
    options : mapping
        Batch size, workers and compile.
    """

    version: str
    folder: str
    store: Path
    name: str
    spec: Mapping[str, Any]
    source: Mapping[str, Any]
    device: str
    sink: Writer | Writers
    trial: Share
    left: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """What came of a chunk.

    Attributes
    ----------
    computed : int
    rejects : dict
        Digest → reason, of all that failed.
    broken : dict
        Those of them that the shard has.
    """

    computed: int
    rejects: dict[str, str]
    broken: dict[str, str]


@dataclass
class Worker(Listener):
    """An actor; threads call its methods at the same time.

    It holds a lock of its own in the store from before its first chunk to its end. So whoever takes the store over from
    a driver that was killed knows when the driver's actors cannot write any more.
    """

    _done: int = 0
    _notes: deque[str] = field(default_factory=deque)
    _chunks: queue.SimpleQueue[Chunk | None] = field(default_factory=queue.SimpleQueue)
    _waiting: dict[int, Future[Report]] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _error: BaseException | None = None
    _outcome: Outcome | None = None

    def start(self, job: Job) -> str:
        """Make the network, and be ready for chunks; says where this is.

        Raises
        ------
        StoreError
            This machine has another version, or sees another store or no samples.
        FingerprintMismatch, BackboneError
            The network is another one here, or cannot be made.
        """
        here = socket.gethostname()
        if job.version != featurepipe.__version__:
            raise StoreError(
                f"{here} has featurepipe {featurepipe.__version__}, the driver {job.version}; install the same on both"
            )
        with suppress(OSError):  # where all paths are whole ones, it need not be there
            os.chdir(job.folder)
        self._lock = locks.join(job.store, job.name)
        trial = job.trial[0]
        try:
            trial.size  # noqa: B018
        except OSError as error:
            raise StoreError(
                f"{here} cannot read {trial.place} ({error}); keep the samples in a folder that all machines share"
            ) from error
        made = backbones.recreate(job.spec, job.source, device=job.device, trust=True)  # the driver has made the same
        inbox = Inbox(self._receive, job.sink, job.left, self._check, self._tell(job.sink), tagged=True)
        self._thread = threading.Thread(target=self._work, args=(inbox, made, job), daemon=True)
        self._thread.start()
        return here

    def embed(self, chunk: Chunk) -> Report:
        """Returns when the chunk's shard is written; another one may be handed over before."""
        with self._guard:
            if self._error is not None:
                raise self._error
            coming = self._waiting[chunk.place] = Future()
            self._chunks.put(chunk)
        return coming.result()

    def progress_made(self) -> tuple[int, list[str]]:
        """Samples that are done, and what was said since the last time."""
        return self._done, [self._notes.popleft() for _ in range(len(self._notes))]

    def finish(self) -> Outcome:
        """The outcome, when no chunk is left and none will come."""
        self._chunks.put(None)
        self._thread.join()
        if self._outcome is None:
            raise self._error or BackboneError("an actor stopped before its end")
        return self._outcome

    def stop(self) -> None:
        """Write what is finished, and end."""
        self._stopped.set()
        self._thread.join()

    def note(self, text: str) -> None:
        """Keep it for the driver."""
        self._notes.append(text)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], object]]:
        """Count it for the driver."""
        yield self._advance

    def _advance(self, count: int) -> None:
        self._done += count
        self._check()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise KeyboardInterrupt  # on which `fill_parts` writes what is finished

    def _receive(self, block: bool, timeout: float) -> Chunk | None:
        return self._chunks.get(block, timeout)

    def _tell(self, sink: Writer | Writers) -> Callable[[Chunk, Part], object]:
        def tell(chunk: Chunk, part: Part) -> None:
            broken = {digest: why for digest, why in part.rejects.items() if digest in sink.rejects}
            self._waiting.pop(chunk.place).set_result(Report(part.computed, part.rejects, broken))

        return tell

    def _work(self, inbox: Inbox, made: backbones.Extractor, job: Job) -> None:
        import torch

        torch.set_num_threads(job.options["workers"])
        try:
            self._outcome = fill_parts(inbox, made, job.sink, **job.options, listener=self)
        except KeyboardInterrupt:
            self._end(BackboneError("an actor was stopped"))
        except BaseException as error:  # it is raised where the driver waits for a chunk
            self._end(error)

    def _end(self, error: BaseException) -> None:
        with self._guard:
            self._error = error
            for coming in self._waiting.values():
                coming.set_exception(error)
