"""What takes part in a comparison, and on which samples."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featurepipe import matrices
from featurepipe.errors import ComparisonError
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import check_finite, labelled
from featurepipe.stores import Entry, Row, Store


@dataclass(frozen=True)
class Contender:
    """An entry that takes part.

    Attributes
    ----------
    store : Store
        That it lies in.
    entry : Entry
    label : str
        Tells it from the others: the entry's title, and if need be the start of its fingerprint.
    """

    store: Store
    entry: Entry
    label: str

    def matrix(self, samples: FeatureMatrix) -> FeatureMatrix:
        """The embeddings of samples, in their order; ProbeError where one is not finite."""
        places = self.entry.places()
        X = matrices.gather(self.entry, [places[digest] for digest in samples.digests])
        found = replace(samples, X=X)
        check_finite(found, self.entry)
        return found

    def is_called(self, name: str) -> bool:
        """Whether `name` is its label, backbone, folder or the start of its fingerprint."""
        return name in (self.label, self.entry.name, self.entry.folder.name) or self.entry.fingerprint.startswith(name)


def gather(
    stores: Sequence[Store], reads: Collection[str] = ("vectors",)
) -> tuple[list[Contender], FeatureMatrix, list[str]]:
    """What can be compared, the labelled samples that all of it holds (without embeddings), and notes.

    Parameters
    ----------
    stores : sequence of Store
    reads : collection of str
        What the kinds of probe read: ``vectors``, ``tokens`` or both.

    Raises
    ------
    ComparisonError
        No complete entry, no sample that all hold, or stores that disagree on one's label or split.
    """
    tables = [store.rows() for store in stores]
    held, notes = _entries(stores, tables, reads)
    parts: list[tuple[Store, list[Row]]] = []
    for store, table in zip(stores, tables, strict=True):
        contents = [entry.places().keys() for of, entry in held if of is store]
        if contents:
            both = set(contents[0]).intersection(*contents[1:])
            parts.append((store, [row for row in table if row.digest in both]))
    if not parts:
        tokens = " --tokens" if "tokens" in reads else ""
        why = "; ".join(notes) or f"fill it with: featurepipe extract DATA --store {stores[0].path}{tokens}"
        raise ComparisonError(f"{_listed(stores)}: no backbone to compare; {why}")
    rows = _common(parts)
    shared = {(row.sample.id, row.digest) for row in rows}
    taking_part = [store for store, _ in parts]
    for store, table in zip(stores, tables, strict=True):
        if store not in taking_part:  # what it lacks is said above
            continue
        missing = sum((row.sample.id, row.digest) not in shared for row in table)
        if missing:
            notes.append(f"{missing} of {len(table)} samples of {store.path} are not in every row")
    entries, copies = _distinct(held)
    notes += copies
    samples, unlabelled = labelled(matrices.from_rows(rows, np.empty((len(rows), 0), np.float32)))
    contenders = [Contender(*pair, label) for pair, label in zip(entries, _labels(entries), strict=True)]
    return contenders, samples, notes + unlabelled


def _entries(
    stores: Sequence[Store], tables: Sequence[Sequence[Row]], reads: Collection[str]
) -> tuple[list[tuple[Store, Entry]], list[str]]:
    """The entries that hold all of their store's samples, and notes on the others."""
    found, notes = [], []
    for store, rows in zip(stores, tables, strict=True):
        for entry in (one for one in store.entries() if one.reads in reads):
            known = entry.places().keys() | entry.rejects().keys()
            lacking = sum(1 for row in rows if row.digest and row.digest not in known)
            if lacking:
                again = "run featurepipe extract again to finish"
                notes.append(f"left out: {entry.folder} lacks {lacking} of {len(rows)} samples; {again}")
            else:
                found.append((store, entry))
    return found, notes


def _distinct(held: Sequence[tuple[Store, Entry]]) -> tuple[list[tuple[Store, Entry]], list[str]]:
    """Each fingerprint once, as its vectors of one content are the same in every store; and notes on the others."""
    found: dict[str, tuple[Store, Entry]] = {}
    notes = []
    for store, entry in held:
        first = found.setdefault(entry.fingerprint, (store, entry))[1]
        if first is not entry:
            notes.append(f"{entry.folder} and {first.folder} are the same: one row")
    return list(found.values()), notes


def _common(parts: Sequence[tuple[Store, list[Row]]]) -> list[Row]:
    """The first store's rows of samples that every other store holds too, with the same id and content."""
    (first, common), *others = parts
    for store, rows in others:
        by_id = {row.sample.id: row for row in rows}
        pairs = [(row, by_id[row.sample.id]) for row in common if row.sample.id in by_id]
        pairs = [(row, other) for row, other in pairs if row.digest == other.digest]
        for row, other in pairs:
            _check_agreement(row, other, first, store)
        common = [row for row, _ in pairs]
    if not common:
        stores = _listed([store for store, _ in parts])
        raise ComparisonError(f"{stores} share no sample of the same id and content; extract the same data into each")
    return common


def _check_agreement(row: Row, other: Row, store: Store, another: Store) -> None:
    for what in ("label", "split", "group"):
        one, two = getattr(row.sample, what), getattr(other.sample, what)
        if one != two:
            raise ComparisonError(
                f"{row.sample.id} has {what} {one or 'none'} in {store.path} and {two or 'none'} in {another.path}; "
                "correct one of them, and run featurepipe extract again"
            )


def _labels(entries: Sequence[tuple[Store, Entry]]) -> list[str]:
    plain = [entry.title for _, entry in entries]
    return [
        label if plain.count(label) == 1 else f"{label} ({entry.fingerprint[:8]})"
        for label, (_, entry) in zip(plain, entries, strict=True)
    ]


def _listed(stores: Sequence[Store]) -> str:
    return ", ".join(str(store.path) for store in stores)
