"""What is missing: samples by the digest of their content, against what an entry holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, overload

import numpy as np

from featurepipe import shards
from featurepipe.digests import sha256_part
from featurepipe.sources import Content, Source, sha256_content
from featurepipe.stores.entries import Entry
from featurepipe.stores.rows import BLOCK, Row, Rows, are_among, keys

CHANGED = "its content has just changed; run again"
RESTLESS = (
    "it gives other pixels each time it is asked; leave out its random transforms, so that the vector is that of the "
    "pixels it is known by"
)


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
        digest = sha256_content(data)
        if self.digest != (digest if self.part is None else sha256_part(bytes.fromhex(digest), self.part)):
            raise OSError(CHANGED if isinstance(data, bytes) else RESTLESS)  # its vector would have the old one's key
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
        self._rows, self._source, self.numbers, self._new = rows, source, numbers, new
        self.samples, self.held = samples, held

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Pending: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pending]: ...

    def __getitem__(self, index: int | slice) -> Pending | list[Pending]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._rows[int(self.numbers[index])]
        return Pending.of(row, self._source, retried=index % len(self) >= self._new)


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


class Holdings:
    """What entries hold and have rejected, to look up contents that become known one after another; 32 bytes each.

    Parameters
    ----------
    entries : sequence of Entry

    Attributes
    ----------
    held, refused : tuple of ndarray
        For each entry the contents that it holds, and those that it has rejected: sorted keys (see `Rows.keys`).
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.held = tuple(_sorted(index.digests for index in entry.indexes) for entry in entries)
        self.refused = tuple(_sorted([shards.digest_array(entry.rejects())]) for entry in entries)

    def missing(self, values: np.ndarray) -> np.ndarray:
        """Which contents any entry lacks; bool, as `values`."""
        return ~np.logical_and.reduce([are_among(values, held) for held in self.held])

    def tried(self, values: np.ndarray) -> np.ndarray:
        """Which contents every entry holds or has rejected before; bool, as `values`."""
        both = zip(self.held, self.refused, strict=True)
        return np.logical_and.reduce([are_among(values, held) | are_among(values, refused) for held, refused in both])


class Seen:
    """A set of keys that grows, in 32 bytes each; a set of Python objects would need five times as much.

    Examples
    --------
    >>> seen = Seen()
    >>> seen.add(np.array([b"b", b"a"], "S32"))
    >>> seen.has(np.array([b"a", b"c"], "S32")).tolist()
    [True, False]
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []  # sorted, each more than twice as long as the next: few, whatever they hold

    def add(self, values: np.ndarray) -> None:
        """Put keys in that are not there yet."""
        run = np.sort(values)
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")  # of two sorted halves in one pass
        self._runs += [run] if len(run) else []

    def has(self, values: np.ndarray) -> np.ndarray:
        """Which keys are there; bool, as `values`."""
        found = np.zeros(len(values), bool)
        for run in self._runs:
            found |= are_among(values, run)
        return found


def _sorted(digests: Iterable[np.ndarray]) -> np.ndarray:
    """Keys of all these digests (n, 32), sorted."""
    return np.sort(np.concatenate([np.empty(0, "S32"), *map(keys, digests)]))
