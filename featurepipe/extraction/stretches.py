"""Stretches: new files are read once, just ahead of embedding, and their digests and inputs come from the same bytes.

1. The rows whose files are not known (`stores.Survey`) are gone through in the manifest's order, with the known ones
   that an entry lacks. A thread prepares one stretch of them while the one before is embedded.
2. Threads read and hash the files. Contents that entries hold, or that came before, are dropped; those that were
   rejected before wait for the end. The bytes of the others are kept (`sources.Kept`) until a lane decodes them.
3. A stretch has whole batches, so batches are those of a plan that was made of all digests. It ends when it has enough
   contents, or when one more batch might not fit into the budget. It ends no shard: the sink goes on with the next.
4. What is larger than a quarter of the budget, or comes when twice the budget is full, is hashed and not kept: the lane
   reads it again.
5. Digests go into the store's journal when a stretch is ready, so a run that is killed costs the stretches in flight.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import NamedTuple, Self

import numpy as np

from featurepipe.backbones import Embedder
from featurepipe.extraction.engines import first_batch
from featurepipe.extraction.loop import Part
from featurepipe.sources import Kept
from featurepipe.stores import Holdings, Journal, Pending, Plan, Seen, Survey
from featurepipe.stores.rows import keys

ROWS = 1024  # contents of a stretch, about
BYTES = 2**28  # of contents that a stretch keeps, about; two stretches are in memory
LARGEST = 4  # a content of more than this part of the budget is not kept
POLL = 0.2  # seconds between two looks at how far the other thread is


class _Stretch(NamedTuple):
    """What is to be embedded next, and how many rows come after it; nothing at the end."""

    plan: Sequence[Pending]
    left: int


class Stretches:
    """The files of a survey as the parts of a loop (`loop.Parts`), to be used as a context.

    Parameters
    ----------
    survey : Survey
    todo : Plan
        What entries lack of the rows that the survey has settled already.
    holdings : Holdings
        What the same entries hold.
    journal : Journal
    batch : int
        Contents per batch.
    budget : int
        Bytes of contents that a stretch may keep.
    advance : callable
        Called, in the thread that takes parts, with the number of rows that need no embedding.

    Attributes
    ----------
    left : int
        Rows that are likely to be in stretches that have not been taken yet; those of copies and of files that cannot
        be read among them, which nobody can tell before.
    """

    def __init__(
        self,
        survey: Survey,
        todo: Plan,
        holdings: Holdings,
        journal: Journal,
        *,
        batch: int,
        budget: int = BYTES,
        advance: Callable[[int], object] = lambda count: None,
    ) -> None:
        self._survey, self._holdings, self._journal = survey, holdings, journal
        self._batch, self._budget, self._advance = batch, budget, advance
        self._candidates = np.union1d(todo.numbers, np.flatnonzero(survey.unread))
        self.left = len(self._candidates)
        self._seen, self._retried = Seen(), list[int]()
        self._passed = self._told = self._gone_through = 0
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(1, "ahead")
        self._pieces = survey.read(self._candidates, budget // LARGEST)
        self._new = self._chosen()
        self._coming: Future[_Stretch] | None = None

    def __enter__(self) -> Self:
        self._coming = self._pool.submit(self._prepare)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._stopped.set()
        self._survey.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with closing(self._pieces), closing(self._new):  # nobody is in them any more
            self._journal.__exit__(kind, error, trace)

    def take(self, *, wait: bool) -> Part | None:
        """See `featurepipe.extraction.loop.Parts`."""
        while self._coming is not None:
            if not self._is_ready(wait):
                return None
            stretch = self._coming.result()
            self.left = stretch.left
            self._coming = self._pool.submit(self._prepare) if stretch.plan else None
            if stretch.plan:
                return Part(stretch.plan, ends_shard=False)
        return None

    def finish(self, part: Part) -> None:
        """What was kept has gone when it was read."""

    def _is_ready(self, patient: bool) -> bool:
        """Whether the next stretch is there; tells how many rows were passed meanwhile."""
        assert self._coming is not None  # as the caller has seen
        while True:
            is_ready = self._coming.done()
            if (passed := self._passed) > self._told:
                self._advance(passed - self._told)
                self._told = passed
            if is_ready or not patient:
                return is_ready
            wait([self._coming], POLL)

    def _prepare(self) -> _Stretch:
        """Read on until there is a stretch."""
        kept, rows, samples = Kept(self._survey.source), list[int](), self._survey.rows.samples
        for row, data in self._new:
            fits = data is not None and kept.size + len(data) <= 2 * self._budget
            kept.add(samples[row].place, data if fits else None)
            rows.append(row)
            if self._is_full(len(rows), kept.size):
                break
        self._journal.write()
        left = len(self._candidates) - self._gone_through + len(self._retried)
        if rows:
            return _Stretch(self._planned(rows, kept), left)
        retried, self._retried = np.array(self._retried, np.int64), []
        return _Stretch(Plan(self._survey.rows, self._survey.source, retried, 0, len(retried), ()), 0)

    def _is_full(self, count: int, size: int) -> bool:
        """Whether `count` contents, of `size` bytes together, are whole batches and enough."""
        return count % self._batch == 0 and (count >= ROWS or size + size // (count // self._batch) > self._budget)

    def _planned(self, rows: Sequence[int], kept: Kept) -> list[Pending]:
        found = self._survey.rows
        digests = found.digests_at(np.array(rows))
        samples = [found.samples[row] for row in rows]
        return [
            Pending(digest.tobytes().hex(), kept, one.place, one.part)
            for digest, one in zip(digests, samples, strict=True)
        ]

    def _chosen(self) -> Generator[tuple[int, bytes | None], None, None]:
        """The rows of contents that are to be embedded for the first time, and what was kept of each."""
        for piece in self._pieces:
            if self._stopped.is_set():
                return
            rows = self._survey.rows
            numbers = np.array([one.row for one in piece])
            self._survey.record(piece, self._journal)
            values = keys(rows.digests_at(numbers))
            lacked = self._lacked(values, rows.readable[numbers])
            tried = self._holdings.tried(values)
            self._retried += numbers[lacked & tried].tolist()
            self._passed += int((~lacked).sum())
            for at, one in enumerate(piece):
                self._gone_through += 1
                if lacked[at] and not tried[at]:
                    yield one.row, one.data

    def _lacked(self, values: np.ndarray, readable: np.ndarray) -> np.ndarray:
        """Which contents are lacked and have not come before; they count as seen from now on."""
        lacked: np.ndarray = readable & self._holdings.missing(values) & ~self._seen.has(values)
        firsts = np.unique(values[lacked], return_index=True)[1]
        at = np.flatnonzero(lacked)[firsts]
        lacked = np.zeros(len(values), bool)
        lacked[at] = True
        self._seen.add(values[lacked])
        return lacked


def batch_of(extractor: Embedder, batch_size: int | None) -> int:
    """The number of contents of which a stretch has a multiple."""
    return batch_size or first_batch(extractor)
