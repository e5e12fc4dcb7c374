"""A survey: which files of a manifest are what they were, and then the digests of the others, as they are read."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np

from featurepipe.digests import sha256_bytes
from featurepipe.files import check_scarce
from featurepipe.manifests import Manifest, Sample, Samples
from featurepipe.sources import NO_STAMP, Content, Source, Stamp
from featurepipe.sources.patience import heard
from featurepipe.stores.journals import Journal
from featurepipe.stores.manifest import Known
from featurepipe.stores.rows import Rows

FILES_PER_TASK = 64  # one future for each file would cost more than looking at an unchanged one
ROOM = 4  # contents of the largest size that is kept, which may wait between two threads
TASK_BYTES = 2**20  # of contents that are kept, in one task: the tasks that wait hold little
RACY_NS = 2_000_000_000  # the coarsest clock of a file system in use (FAT)
NOTHING = bytes(32)  # the digest of what cannot be read
UNASKED = (
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ENETRESET,
    errno.ENOTCONN,
    errno.ESTALE,
    getattr(errno, "EREMOTEIO", errno.EIO),  # of Linux alone
    errno.ESHUTDOWN,
    errno.ENODEV,
    errno.ENXIO,
    errno.EBUSY,
)  # what says that nobody can ask for a file now; all else says that it is not what it was, or may not be
Item = TypeVar("Item")
Made = TypeVar("Made")


class Settled(NamedTuple):
    """A row whose file was dealt with: its digest, its stamp, why it cannot be read, and what was kept of it.

    A content of zeros says that there is none. What `is_open` is still to be read, and this if nobody can ask for it.
    """

    row: int
    content: bytes
    stamp: Stamp
    reason: str = ""
    data: bytes | None = None
    is_open: bool = False


class Survey:
    """The rows of a manifest, and which files are still to be read for them.

    A file keeps its known digest if its path and `Stamp` are still the same: size, modification and change time, inode,
    which git compares too. A file that was modified less than two seconds before it was read, or while it was, gets no
    stamp: a change in the same tick of the clock would not show, so that it is read again next time, as git does. Where
    a file server's clock is further behind, such a change can go unseen.

    A file on its own that is known with a stamp also keeps its digest while nobody can ask for it, and is `unreadable`
    as well: credentials expire, and servers and disks fail, for a while. What has no stamp, is seen to have changed,
    or lies in an archive or an object, whose members may have moved, never keeps a digest that was not checked.

    Parameters
    ----------
    manifest : Manifest
    workers : int
        Threads that look at files and read them.
    progress : callable
        Called with the number of rows that have just been settled.
    known : iterable of Known
        Sorted by id, as the manifest is; from `featurepipe.stores.Store.known`.
    rehash : bool
        Read all files, also those that look as they did.

    Attributes
    ----------
    source : Source
    unread : ndarray of bool, shape (n,)
        The rows that are not settled yet.
    unreadable : dict
        Sample id → reason; also of rows that are as they were known before.
    seconds : float
        Spent on reading, summed over threads.
    """

    def __init__(
        self,
        manifest: Manifest,
        workers: int,
        progress: Callable[[int], object] = lambda n: None,
        known: Iterable[Known] = (),
        *,
        rehash: bool = False,
    ) -> None:
        samples = Samples.of(manifest.samples)
        self.source, self._workers, self._rehash = manifest.source, workers, rehash
        self._rows = Rows(
            samples,
            contents=np.zeros((len(samples), 32), np.uint8),
            readable=np.zeros(len(samples), bool),
            stamps=np.full((len(samples), len(NO_STAMP)), NO_STAMP, np.int64),
        )
        self.unread = np.ones(len(samples), bool)
        self.unreadable: dict[str, str] = {}
        self.seconds = 0.0
        self._stopped = threading.Event()
        self._firsts = _first_parts(samples)
        self._before = _Before(len(samples))
        self._recognise(known, progress)

    @property
    def rows(self) -> Rows:
        """The rows as far as they are settled; the others are as of files that could not be read."""
        return replace(self._rows)  # which remembers nothing of what the columns were before

    def read(
        self, rows: np.ndarray, most: int = 0, progress: Callable[[int], object] = lambda n: None
    ) -> Generator[list[Settled], None, None]:
        """Settle the unread ones among these rows, in order, and give all of them piece by piece.

        Parameters
        ----------
        rows : ndarray of int
            Ascending.
        most : int
            Files of up to this many bytes are kept, so that they need not be read again.
        progress : callable
            Called with the number of rows that have just been settled.

        Yields
        ------
        list of Settled
            Of rows that had been settled before, the `row` alone is right.
        """
        self._stopped = threading.Event()  # of this reading
        reader = _Reader(self.source, most, self._workers, self._stopped, self._before)
        tasks = self._tasks(rows, reader)
        with ThreadPoolExecutor(self._workers, "reading") as pool, self._stopping():
            for found, seconds in _in_order(pool, reader, tasks, lambda: reader.ahead):
                self.seconds += seconds
                reader.hand_over(found)
                count = self._settle([one for one in found if one.row not in self._firsts and self.unread[one.row]])
                for one in found:
                    count += self._follow(one.row)
                progress(count)
                yield found

    def stop(self) -> None:
        """Let all threads end, each with the file that it is at; the rows that are left stay unread."""
        self._stopped.set()

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Within, an error or an interrupt stops the threads: nobody waits for the rest of a task of theirs."""
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def read_all(self, progress: Callable[[int], object] = lambda n: None, journal: Journal | None = None) -> None:
        """Settle all rows, and keep nothing; digests go into a journal as they become known, if there is one."""
        pieces = self.read(np.flatnonzero(self.unread), progress=progress)
        with closing(pieces), journal if journal is not None else nullcontext():
            for found in pieces:
                if journal is not None:
                    self.record(found, journal)

    def record(self, found: Iterable[Settled], journal: Journal) -> None:
        """Put the digests of these rows into a journal, as far as they were read now and have a stamp."""
        for one in found:
            if one.stamp.size >= 0 and not one.reason:
                sample = self._rows.samples[one.row]
                journal.add(sample.id, sample.place, one.content, one.stamp)

    def _recognise(self, known: Iterable[Known], progress: Callable[[int], object]) -> None:
        """Settle the files that are known and look as they did, and those that are gone."""
        tasks = self._known_files(known)
        with ThreadPoolExecutor(self._workers) as pool, self._stopping():
            look = partial(_recognised, self.source, self._stopped, self._rehash)
            for found in _in_order(pool, look, _pieces(tasks, FILES_PER_TASK), lambda: 4 * self._workers):
                progress(self._settle([one for one in found if not one.is_open]))
                for one in found:
                    if one.is_open:
                        self._before.add(one)
        progress(sum(map(self._follow, self._firsts)))

    def _known_files(self, known: Iterable[Known]) -> Iterator[tuple[int, str, Known]]:
        """The first row of each file of which any row is known, with the place and what is known."""
        looked_at = set[int]()  # of files in parts
        for row, (place, one) in enumerate(_beside(self._rows.samples, known)):
            first = self._firsts.get(row, row)
            if one is not None and first not in looked_at:
                yield first, place, one
                if self._firsts:
                    looked_at.add(first)

    def _tasks(self, rows: np.ndarray, reader: _Reader) -> Iterator[list[tuple[int, str | None]]]:
        """Rows in pieces, each with the place where it is to be read."""
        start = 0
        while start < len(rows):
            some = rows[start : start + reader.pace].tolist()
            start += len(some)
            wanted = (self.unread[row] and row not in self._firsts for row in some)
            yield [(row, self._rows.samples[row].place if is_ else None) for row, is_ in zip(some, wanted, strict=True)]

    def _settle(self, found: Sequence[Settled]) -> int:
        if not found:
            return 0
        numbers, contents, stamps, reasons, *_ = map(list, zip(*found, strict=True))
        self._rows.contents[numbers] = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, 32)
        self._rows.readable[numbers] = [content != NOTHING for content in contents]
        self._rows.stamps[numbers] = stamps
        self.unread[numbers] = False
        samples = self._rows.samples
        self.unreadable |= {samples[i].id: reason for i, reason in zip(numbers, reasons, strict=True) if reason}
        return len(found)

    def _follow(self, row: int) -> int:
        """Settle a row of a file whose first row is settled; says how many that were."""
        first = self._firsts.get(row)
        if first is None or self.unread[first] or not self.unread[row]:
            return 0
        for column in (self._rows.contents, self._rows.readable, self._rows.stamps, self.unread):
            column[row] = column[first]
        samples = self._rows.samples
        if (reason := self.unreadable.get(samples[first].id)) is not None:
            self.unreadable[samples[row].id] = reason
        return 1


class _Before:
    """What rows were, and are still if nobody can ask for their files; memory is taken for these rows alone."""

    def __init__(self, count: int) -> None:
        self._contents, self._stamps = np.zeros((count, 32), np.uint8), np.zeros((count, len(NO_STAMP)), np.int64)

    def add(self, one: Settled) -> None:
        self._contents[one.row], self._stamps[one.row] = np.frombuffer(one.content, np.uint8), one.stamp

    def restore(self, lost: Settled, seen: Stamp | None) -> Settled:
        """A row that cannot be read as it was before, if it was known and nothing that was seen says otherwise."""
        content, stamp = self._contents[lost.row].tobytes(), Stamp(*self._stamps[lost.row].tolist())
        return lost if content == NOTHING or seen not in (None, stamp) else lost._replace(content=content, stamp=stamp)


class _Reader:
    """Reads files for their digests, and keeps those of up to `most` bytes; arrays are not kept, as nothing reads them.

    What waits to be handed over takes `ROOM` times as much at most; what comes when that is full is not kept either.

    Attributes
    ----------
    pace : int
        Files that the next task should have.
    """

    def __init__(self, source: Source, most: int, workers: int, stopped: threading.Event, before: _Before) -> None:
        self._source, self._most, self._workers = source, most, workers
        self._stopped, self._before = stopped, before
        self._room, self._held, self._lock = ROOM * most, 0, threading.Lock()
        self.pace = 1 if most else FILES_PER_TASK  # until it is known how large they are
        self._each = most  # bytes of a file, about: after large ones it is slow to expect small ones

    @property
    def ahead(self) -> int:
        """How many tasks may wait: of large files few, as what has no room is read again."""
        if not self._room:
            return 4 * self._workers
        return max(1, min(2 * self._workers, self._room // max(1, 2 * self._each * self.pace)))

    def hand_over(self, found: Sequence[Settled]) -> None:
        """Count what was kept of these as somebody else's."""
        for one in found:
            self._free(one.data)

    def __call__(self, task: Sequence[tuple[int, str | None]]) -> tuple[list[Settled], float]:
        """What is at these places, and how long that took; of rows without one nothing."""
        started = time.perf_counter()
        found = list[Settled]()
        with heard(self._stopped):
            for row, place in task:
                if self._stopped.is_set():
                    break
                one = Settled(row, b"", NO_STAMP) if place is None else self._read(row, place)
                if one.reason and self._stopped.is_set():  # nobody waited long enough to know
                    break
                found.append(one)
        if self._most and found:
            self._each = max(self._each // 2, *(len(one.data or b"") for one in found))
            self.pace = max(1, min(FILES_PER_TASK, min(TASK_BYTES, self._room // 8) // max(1, self._each)))
        return found, time.perf_counter() - started

    def _read(self, row: int, place: str) -> Settled:
        data, stamp, digest = None, None, ""
        try:
            now = time.time_ns()
            stamp = self._source.stamp(place)
            data = self._contents(place, -1 if stamp is None else stamp.size)
            digest = self._source.digest(place) if data is None else sha256_bytes(data)
            is_new = stamp is not None and stamp.mtime_ns >= now - RACY_NS
            if stamp is None or is_new or not _fits(stamp) or self._source.stamp(place) != stamp:
                stamp = NO_STAMP
        except OSError as error:
            self._free(data)
            lost = _unreadable(row, error)
            return self._before.restore(lost, stamp) if error.errno in UNASKED and not digest else lost
        if data is not None and len(data) > self._most:  # whose size nobody knew
            self._free(data)
            data = None
        return Settled(row, bytes.fromhex(digest), stamp, "", data)

    def _contents(self, place: str, size: int) -> bytes | None:
        """What a file of that size holds (of -1, nobody knows it), if there is room for it; else the digest is all."""
        if not self._most or not self._takes(max(size, 0)):
            return None
        data: Content | None = None
        try:
            data = self._source.read(place)
        except MemoryError:  # the digest needs less
            return None
        finally:
            kept = len(data) if isinstance(data, bytes) else 0
            with self._lock:
                self._held += kept - max(size, 0)
        if not isinstance(data, bytes):
            self._most = 0
            return None
        return data

    def _free(self, data: bytes | None) -> None:
        with self._lock:
            self._held -= 0 if data is None else len(data)

    def _takes(self, size: int) -> bool:
        """Whether there is room for these bytes, which is taken then; a single content always has it."""
        with self._lock:
            fits = size <= self._most and (self._held + size <= self._room or not self._held)
            self._held += size if fits else 0
        return fits


def digest_rows(
    manifest: Manifest,
    workers: int,
    progress: Callable[[int], object] = lambda n: None,
    known: Iterable[Known] = (),
) -> tuple[Rows, dict[str, str]]:
    """Take the sha256 of every file of a manifest, reading those that are not `known`; of several parts of one, once.

    Parameters
    ----------
    manifest, workers, progress, known
        As of `Survey`, which says when a file keeps its known digest.

    Returns
    -------
    rows : Rows
        In manifest order; the digest is '' where the file could not be read.
    unreadable : dict
        Sample id → reason.
    """
    survey = Survey(manifest, workers, progress, known)
    survey.read_all(progress)
    return survey.rows, survey.unreadable


def _first_parts(samples: Samples) -> dict[int, int]:
    """Each row of a file that another row before it is of, too, where there are parts: row → first row."""
    if not samples.parts.any:
        return {}
    firsts: dict[str, int] = {}
    rows = ((row, firsts.setdefault(one.place, row)) for row, one in enumerate(samples))
    return {row: first for row, first in rows if row != first}


def _beside(samples: Iterable[Sample], known: Iterable[Known]) -> Iterator[tuple[str, Known | None]]:
    """Each sample's place and what is known of it: one pass over two tables that are sorted by id."""
    records = iter(known)
    record = next(records, None)
    for sample in samples:
        while record is not None and record.id < sample.id:
            record = next(records, None)
        same = record is not None and record.id == sample.id and record.place == sample.place
        yield sample.place, record if same else None
    for _ in records:  # at its end it says whether it was read as it was written
        pass


def _pieces(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while part := list(islice(items, size)):
        yield part


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Made], items: Iterable[Item], ahead: Callable[[], int]
) -> Iterator[Made]:
    """`pool.map`, with no more than `ahead()` tasks waiting: a million futures would fill the memory."""
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            while len(waiting) > ahead():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _recognised(
    source: Source, stopped: threading.Event, rehash: bool, tasks: Sequence[tuple[int, str, Known]]
) -> list[Settled]:
    """Of each task whose file has not changed, as far as can be told, what is true of it; see `_compared`."""
    with heard(stopped):
        found = (_compared(source, rehash, *task) for task in tasks if not stopped.is_set())
        return [one for one in found if one is not None]


def _compared(source: Source, rehash: bool, row: int, place: str, known: Known) -> Settled | None:
    """What is known of a file, open where that is still to be compared; None if it is to be read as a new one."""
    if known.stamp == NO_STAMP:
        return None
    before = Settled(row, known.digest, known.stamp)
    try:
        stamp = None if rehash else source.stamp(place)
    except OSError as error:
        lost = _unreadable(row, error)
        return before._replace(reason=lost.reason) if source.alone and error.errno in UNASKED else lost
    if stamp is None:
        return before._replace(is_open=True) if source.alone else None
    return before if stamp == known.stamp else None


def _fits(stamp: Stamp) -> bool:
    """Whether a column of stamps can hold it: some file systems know times far beyond our own."""
    return all(-(2**63) <= number < 2**63 for number in stamp)


def _unreadable(row: int, error: OSError) -> Settled:
    check_scarce(error)
    return Settled(row, NOTHING, NO_STAMP, f"cannot be read: {error.strerror or error}")
