"""What is missing: samples by the digest of their content, against what an entry holds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar, overload

import numpy as np

from featurepipe import shards
from featurepipe.digests import sha256_bytes, sha256_part
from featurepipe.files import check_scarce
from featurepipe.manifests import Manifest, Sample, Samples
from featurepipe.sources import NO_STAMP, Content, Source, Stamp
from featurepipe.stores.entries import Entry
from featurepipe.stores.manifest import Known
from featurepipe.stores.rows import BLOCK, Row, Rows, keys

FILES_PER_TASK = 64  # one future for each file would cost more than looking at an unchanged one
RACY_NS = 2_000_000_000  # the coarsest clock of a file system in use (FAT)
Item = TypeVar("Item")
Made = TypeVar("Made")
Task = tuple[int, tuple[str, Known | None]]  # a row, its place, and what is known of it


class Pending(NamedTuple):
    """A content still to be embedded, and one place that holds it; where it is a part of that, which part.

    `retried` contents were rejected before; they never share a batch with new ones.
    """

    digest: str
    source: Source
    place: str
    part: str | None = None
    retried: bool = False

    @classmethod
    def of(cls, row: Row, source: Source, *, retried: bool = False) -> Pending:
        """A manifest's row, which could be read."""
        return cls(row.digest, source, row.sample.place, row.sample.part, retried)

    @property
    def size(self) -> int:
        """How many bytes `read` gives; 0 where that is not known before. OSError where it is not to be read."""
        stamp = self.source.stamp(self.place)
        return 0 if stamp is None else stamp.size

    def read(self) -> Content:
        """All that its place holds.

        Raises
        ------
        OSError
            It cannot be read, or is not what it was when the digest was taken.
        """
        data = self.source.read(self.place)
        if isinstance(data, bytes):  # an array in memory is not expected to change
            digest = sha256_bytes(data)
            if self.digest != (digest if self.part is None else sha256_part(bytes.fromhex(digest), self.part)):
                raise OSError("its content has just changed; run again")  # its vector would have the old one's key
        return data


class Plan(Sequence[Pending]):
    """What is still to be embedded, new contents first; a `Pending` is made when it is asked for.

    Parameters
    ----------
    rows : Rows
    source : Source
        Where the rows' places are.
    numbers : ndarray of int
        The row that represents each content.
    new : int
        How many of them have not been tried before.
    samples : int
        How many rows they all represent, copies included.
    held : tuple of ndarray
        For each entry that was planned for, what of the plan it holds already: sorted keys (see `Rows.keys`). Empty
        where there is but one entry; of several layers, one may be ahead of the others.
    """

    def __init__(
        self, rows: Rows, source: Source, numbers: np.ndarray, new: int, samples: int, held: tuple[np.ndarray, ...]
    ) -> None:
        self._rows, self._source, self._numbers, self._new = rows, source, numbers, new
        self.samples, self.held = samples, held

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Pending: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pending]: ...

    def __getitem__(self, index: int | slice) -> Pending | list[Pending]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._rows[int(self._numbers[index])]
        return Pending.of(row, self._source, retried=index % len(self) >= self._new)


def digest_rows(
    manifest: Manifest,
    workers: int,
    progress: Callable[[int], object] = lambda n: None,
    known: Iterable[Known] = (),
) -> tuple[Rows, dict[str, str]]:
    """Take the sha256 of every file of a manifest, reading those that are not `known`; of several parts of one, once.

    A file keeps its known digest if its path and `Stamp` are still the same: size, modification and change time, inode,
    which git compares too. A file that was modified less than two seconds before it was read, or while it was, gets no
    stamp: a change in the same tick of the clock would not show, so that it is read again next time, as git does. Where
    a file server's clock is further behind, such a change can go unseen.

    Parameters
    ----------
    manifest : Manifest
    workers : int
        Threads that read.
    progress : callable
        Called with the number of files that have just been dealt with.
    known : iterable of Known
        Sorted by id, as the manifest is; from `featurepipe.stores.Store.known`.

    Returns
    -------
    rows : Rows
        In manifest order; the digest is '' where the file could not be read.
    unreadable : dict
        Sample id → reason.
    """
    samples = Samples.of(manifest.samples)
    rows = Rows(
        samples,
        contents=np.zeros((len(samples), 32), np.uint8),
        readable=np.zeros(len(samples), bool),
        stamps=np.zeros((len(samples), len(NO_STAMP)), np.int64),
    )
    unreadable: dict[str, str] = {}
    first = _first_parts(samples)
    tasks = (task for task in enumerate(_beside(samples, known)) if task[0] not in first)
    with ThreadPoolExecutor(workers) as pool:
        for found in _in_order(pool, partial(_check, manifest.source), _pieces(tasks, FILES_PER_TASK), 4 * workers):
            numbers, contents, stamps, reasons = map(list, zip(*found, strict=True))
            rows.contents[numbers] = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, 32)
            rows.readable[numbers] = [not reason for reason in reasons]
            rows.stamps[numbers] = stamps
            unreadable |= {samples[i].id: reason for i, reason in zip(numbers, reasons, strict=True) if reason}
            progress(len(found))
    for column in (rows.contents, rows.readable, rows.stamps):
        column[list(first)] = column[list(first.values())]
    unreadable |= {samples[i].id: unreadable[samples[one].id] for i, one in first.items() if not rows.readable[i]}
    progress(len(first))
    return rows, unreadable


def _first_parts(samples: Samples) -> dict[int, int]:
    """Each row that is a part of a file, except the first one of that file: row → first row."""
    if not samples.parts.any:
        return {}
    firsts: dict[str, int] = {}
    rows = ((row, firsts.setdefault(one.place, row)) for row, one in enumerate(samples) if one.part is not None)
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
    pool: ThreadPoolExecutor, function: Callable[[Item], Made], items: Iterable[Item], ahead: int
) -> Iterator[Made]:
    """`pool.map`, with no more than `ahead` tasks waiting: a million futures would fill the memory."""
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _check(source: Source, tasks: Sequence[Task]) -> list[tuple[int, bytes, Stamp, str]]:
    """Of each task the row, the digest and stamp of what is there, and why that cannot be read."""
    return [(row, *_checked(source, place, known)) for row, (place, known) in tasks]


def _checked(source: Source, place: str, known: Known | None) -> tuple[bytes, Stamp, str]:
    try:
        now = time.time_ns()
        stamp = source.stamp(place)
        if known is not None and known.stamp == stamp:
            return known.digest, known.stamp, ""
        digest = bytes.fromhex(source.digest(place))
        if stamp is None or stamp.mtime_ns >= now - RACY_NS or source.stamp(place) != stamp:
            return digest, NO_STAMP, ""
    except OSError as error:
        check_scarce(error)
        return bytes(32), NO_STAMP, f"cannot be read: {error.strerror or error}"
    return digest, stamp, ""


def plan(rows: Sequence[Row], source: Source, *entries: Entry) -> Plan:
    """The distinct contents that any entry lacks, in manifest order; those rejected before come last, to be retried.

    If one forward pass fills several entries, those that are behind get the batches that they would have got
    if nothing had interrupted the run before: what only some of them have rejected keeps its place.
    """
    table = Rows.of(rows)
    order = np.lexsort((~table.readable, table.keys))  # copies stand together, in manifest order
    leads = _leads(table.keys, order)  # where each content's copies start
    first = order[leads]
    held = [_mask(table.keys, order, (index.digests for index in entry.indexes))[leads] for entry in entries]
    refused = [_mask(table.keys, order, [shards.digest_array(entry.rejects())])[leads] for entry in entries]
    tried = np.logical_and.reduce([has | not_this for has, not_this in zip(held, refused, strict=True)])
    missing = table.readable[first] & ~np.logical_and.reduce(held)
    copies = np.add.reduceat(table.readable[order], leads, dtype=np.int64) if len(leads) else np.zeros(0, np.int64)
    new, retried = np.sort(first[missing & ~tried]), np.sort(first[missing & tried])
    ahead = tuple(table.keys[first[missing & has]] for has in held)
    return Plan(table, source, np.concatenate([new, retried]), len(new), int(copies[missing].sum()), ahead)


def _leads(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Positions in `order`, which sorts `values`, where a value differs from the one before."""
    differs = np.ones(len(order), bool)
    for start in range(1, len(order), BLOCK):  # whole columns in sorted order would be two more copies
        part = values[order[start - 1 : start + BLOCK]]
        differs[start : start + BLOCK] = part[1:] != part[:-1]
    return np.flatnonzero(differs)


def _mask(values: np.ndarray, order: np.ndarray, digests: Iterable[np.ndarray]) -> np.ndarray:
    """By position in `order`: whether that is where a value's copies start and the value is one of `digests`."""
    found = np.zeros(len(order), bool)
    for some in digests:
        wanted = keys(some)
        at = np.searchsorted(values, wanted, sorter=order)
        wanted, at = wanted[at < len(order)], at[at < len(order)]
        found[at[values[order[at]] == wanted]] = True
    return found
