"""What is missing: files by the digest of their content, against what an entry holds."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar, overload

import numpy as np
from PIL import Image

from featurepipe import inputs, shards
from featurepipe.digests import sha256_file
from featurepipe.files import check_scarce
from featurepipe.manifests import Manifest, Sample
from featurepipe.stores.entries import Entry
from featurepipe.stores.manifest import Known
from featurepipe.stores.rows import BLOCK, NO_STAMP, Row, Rows, Stamp, keys

FILES_PER_TASK = 64  # one future for each file would cost more than looking at an unchanged one
RACY_NS = 2_000_000_000  # the coarsest clock of a file system in use (FAT)
Item = TypeVar("Item")
Made = TypeVar("Made")


class Pending(NamedTuple):
    """A content still to be embedded, and where it is: one file that holds it, its bytes, or an image in memory.

    `retried` contents were rejected before; they never share a batch with new ones.
    """

    digest: str
    source: Path | bytes | Image.Image
    retried: bool = False


class Plan(Sequence[Pending]):
    """What is still to be embedded, new contents first; a `Pending` is made when it is asked for.

    Parameters
    ----------
    rows : Rows
    root : Path
        Where relative paths start.
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
        self, rows: Rows, root: Path, numbers: np.ndarray, new: int, samples: int, held: tuple[np.ndarray, ...]
    ) -> None:
        self._rows, self._root, self._numbers, self._new = rows, root, numbers, new
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
        number = int(self._numbers[index])
        row = self._rows[number]
        return Pending(row.digest, self._root / row.sample.path, index % len(self) >= self._new)


def digest_rows(
    manifest: Manifest,
    workers: int,
    progress: Callable[[int], object] = lambda n: None,
    known: Iterable[Known] = (),
) -> tuple[Rows, dict[str, str]]:
    """Take the sha256 of every file of a manifest, reading those that are not `known`.

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
    count, root = len(manifest), str(manifest.root)
    rows = Rows(
        manifest.samples,
        digests=np.zeros((count, 32), np.uint8),
        readable=np.zeros(count, bool),
        stamps=np.zeros((count, len(NO_STAMP)), np.int64),
    )
    unreadable: dict[str, str] = {}
    number = 0
    with ThreadPoolExecutor(workers) as pool:
        tasks = _parts(_beside(manifest.samples, known), FILES_PER_TASK)
        for found in _in_order(pool, lambda part: [_check(root, *pair) for pair in part], tasks, 4 * workers):
            digests, stamps, reasons = zip(*found, strict=True)
            part = slice(number, number + len(found))
            rows.digests[part] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
            rows.readable[part] = [not reason for reason in reasons]
            rows.stamps[part] = stamps
            unreadable |= {manifest.samples[number + i].id: reason for i, reason in enumerate(reasons) if reason}
            number += len(found)
            progress(len(found))
    return rows, unreadable


def _beside(samples: Iterable[Sample], known: Iterable[Known]) -> Iterator[tuple[str, Known | None]]:
    """Each sample's path and what is known of it: one pass over two tables that are sorted by id."""
    records = iter(known)
    record = next(records, None)
    for sample in samples:
        while record is not None and record.id < sample.id:
            record = next(records, None)
        same = record is not None and record.id == sample.id and record.path == sample.path
        yield sample.path, record if same else None
    for _ in records:  # at its end it says whether it was read as it was written
        pass


def _parts(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
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


def _check(root: str, path: str, known: Known | None) -> tuple[bytes, Stamp, str]:
    """A file's digest and stamp, and why it cannot be read."""
    file = os.path.join(root, path)
    try:
        now = time.time_ns()
        stamp = Stamp.of(inputs.status(file, inputs.IMAGE_BYTES))
        if known is not None and known.stamp == stamp:
            return known.digest, stamp, ""
        digest = bytes.fromhex(sha256_file(file))
        settled = stamp.mtime_ns < now - RACY_NS and Stamp.of(os.stat(file)) == stamp
    except OSError as error:
        check_scarce(error)
        return bytes(32), NO_STAMP, f"cannot be read: {error.strerror or error}"
    return digest, stamp if settled else NO_STAMP, ""


def plan(rows: Sequence[Row], root: Path, *entries: Entry) -> Plan:
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
    return Plan(table, root, np.concatenate([new, retried]), len(new), int(copies[missing].sum()), ahead)


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
