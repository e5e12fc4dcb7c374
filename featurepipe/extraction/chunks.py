"""Chunks: a plan cut into what becomes a shard each, and handed out to whoever is free.

So a slow device takes fewer of them, and holds no other one back.
"""

from __future__ import annotations

import queue
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

from featurepipe.digests import sha256_bytes
from featurepipe.extraction.loop import Part
from featurepipe.extraction.opened import OPENED
from featurepipe.manifests.samples import Rare, Texts
from featurepipe.sources import Source
from featurepipe.stores import Pending, Writer, Writers

POLL = 0.2  # seconds between two looks at how far the others are
LEAST = 8  # a chunk has at least an eighth of the rows of a shard, unless it is the last
EVEN = 64  # what chunks are multiples of where nobody has said how large a batch is


class Share(Sequence[Pending]):
    """A part of a plan, packed to be sent: fifty bytes an image, and its place.

    A `Pending` is made when it is asked for; as objects, or pickled ones, all of them would need many times as much.

    Parameters
    ----------
    plan : iterable of Pending

    Examples
    --------
    >>> from featurepipe.sources import Files
    >>> share = Share([Pending("ab" * 32, Files(), "a.jpg"), Pending("cd" * 32, Files(), "b.jpg", retried=True)])
    >>> len(share), share[1].place, share[1].retried
    (2, 'b.jpg', True)
    """

    def __init__(self, plan: Iterable[Pending]) -> None:
        self._digests, self._places, self._parts, self._retried = bytearray(), Texts(), Rare(), bytearray()
        self._sources, self._codes = list[Source](), array("i")
        codes: dict[int, int] = {}  # a source need not be hashable; mostly there is but one
        for pending in plan:
            self._digests += bytes.fromhex(pending.digest)
            self._places.append(pending.place)
            self._parts.append(pending.part)
            self._retried.append(pending.retried)
            code = codes.setdefault(id(pending.source), len(self._sources))
            self._sources += [pending.source] if code == len(self._sources) else []
            self._codes.append(code)

    def __getstate__(self) -> dict[str, Any]:
        """What a process is sent: of a source that holds contents, those of this part."""
        places: list[set[str]] = [set() for _ in self._sources]
        for number, code in enumerate(self._codes):
            places[code].add(self._places[number])
        sources = [source.share(some) for source, some in zip(self._sources, places, strict=True)]
        return {**self.__dict__, "_sources": sources}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was sent; of a source that this process has open, that one."""
        self.__dict__.update(state, _sources=[OPENED.one(source) for source in state["_sources"]])

    @property
    def digests(self) -> list[str]:
        """Of all of them, in order."""
        return [self._digests[i : i + 32].hex() for i in range(0, len(self._digests), 32)]

    @property
    def key(self) -> str:
        """The sha256 of their digests, one after another."""
        return sha256_bytes(bytes(self._digests))

    def __len__(self) -> int:
        return len(self._retried)

    @overload
    def __getitem__(self, index: int) -> Pending: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pending]: ...

    def __getitem__(self, index: int | slice) -> Pending | list[Pending]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        digest, source = self._digests[32 * i : 32 * i + 32].hex(), self._sources[self._codes[i]]
        return Pending(digest, source, self._places[i], self._parts[i], bool(self._retried[i]))


@dataclass(frozen=True)
class Chunk:
    """What becomes one shard.

    Attributes
    ----------
    place : int
        Number of the shard among all of the run, from 0.
    plan : Share
    left : int
        Samples that are likely to come after it for the same device.
    """

    place: int
    plan: Share
    left: int

    @property
    def tag(self) -> str:
        """What a name says of its contents."""
        return "-" + self.plan.key[:12]


class Chunks:
    """Cuts a plan into chunks, from its beginning to its end.

    A chunk is what one device alone would have made a shard of: batches until there are enough rows. So its batches are
    those of one device, and its vectors the same to the byte, if the batch size is given. When less than a shard is
    left for each device, chunks get smaller, so that all come to an end at about the same time.

    Parameters
    ----------
    plan : sequence of Pending
        What is retried comes last; it is in no batch with what is new.
    rows : int
        Planned samples per shard.
    batch_size : int or None
    count : int
        Devices; it may change.

    Examples
    --------
    >>> from featurepipe.sources import Files
    >>> plan = [Pending(f"{n:064x}", Files(), f"{n}.jpg") for n in range(43)]
    >>> [len(chunk.plan) for chunk in iter(Chunks(plan, 8, 3, 2).take, None)]
    [9, 9, 9, 9, 6, 1]
    """

    def __init__(self, plan: Sequence[Pending], rows: int, batch_size: int | None, count: int) -> None:
        self._plan, self._rows, self.count = plan, rows, count
        self._batch_size, self._even = (batch_size, 1) if batch_size else (1, EVEN)
        self._start = self._places = 0
        self._fresh = len(plan)
        while self._fresh and plan[self._fresh - 1].retried:
            self._fresh -= 1

    @property
    def left(self) -> int:
        """Samples that are in no chunk yet."""
        return len(self._plan) - self._start

    def take(self) -> Chunk | None:
        """The next chunk; None if there is none any more."""
        if not self.left:
            return None
        start, end, enough = self._start, self._start, self._start + self._wanted
        while end < min(enough, len(self._plan)):
            whole = self._fresh if end < self._fresh else len(self._plan)
            end = min(end + self._batch_size, whole)
        share = Share(self._plan[start:end])
        self._start, self._places = end, self._places + 1
        return Chunk(self._places - 1, share, self.left // self.count)

    @property
    def _wanted(self) -> int:
        each = max(-(-self.left // self.count), self._rows // LEAST, 1)
        return min(self._rows, -(-each // self._even) * self._even)


class Inbox:
    """The chunks that one device is given, as the parts of a loop; each becomes a shard of its own.

    Parameters
    ----------
    receive : callable
        As `queue.Queue.get`, whose arguments it is called with: the next chunk, or None when no more will come.
    sink : Writer or Writers
    left : int
        Samples that the device is likely to be given.
    check : callable
        Called while there is nothing to do; what it raises ends the loop.
    tell : callable, optional
        Called with each chunk when its shard is written, and what has come of it.
    tagged : bool
        Whether a shard's name also says what is in it.
    """

    def __init__(
        self,
        receive: Callable[[bool, float], Chunk | None],
        sink: Writer | Writers,
        left: int,
        check: Callable[[], object],
        tell: Callable[[Chunk, Part], object] = lambda chunk, part: None,
        tagged: bool = False,
    ) -> None:
        self.left = left
        self._receive, self._sink, self._check, self._tell, self._tagged = receive, sink, check, tell, tagged
        self._taken = deque[Chunk]()
        self._ended = False

    def take(self, *, wait: bool) -> Part | None:
        """See `featurepipe.extraction.loop.Parts`."""
        chunk = self._next(wait)
        if chunk is None:
            return None
        self.left = chunk.left
        self._taken.append(chunk)
        if len(self._taken) == 1:
            self._turn(idle=True)
        return Part(chunk.plan)

    def finish(self, part: Part) -> None:
        """See `featurepipe.extraction.loop.Parts`."""
        self._tell(self._taken.popleft(), part)
        if self._taken:
            self._turn()

    def _next(self, wait: bool) -> Chunk | None:
        while not self._ended:
            try:
                chunk = self._receive(wait, POLL)
            except queue.Empty:
                if not wait:
                    return None
                self._check()
                continue
            self._ended = chunk is None
            self.left = 0 if self._ended else self.left
            return chunk
        return None

    def _turn(self, *, idle: bool = False) -> None:
        chunk = self._taken[0]
        self._sink.turn_to(chunk.place, len(chunk.plan), chunk.tag if self._tagged else "", idle=idle)
