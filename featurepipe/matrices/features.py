"""Feature matrices: ids, X, y and split of one backbone in a store, aligned in manifest order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featurepipe import shards
from featurepipe.errors import StoreError
from featurepipe.manifests import units
from featurepipe.stores import Entry, JointEntry, Row, Rows, Store
from featurepipe.stores.rows import keys

PIECE_ROWS = 2**14  # that `stream` gives at once


@dataclass(frozen=True)
class FeatureMatrix:
    """Embeddings with what is known about their samples; row i of each belongs to one sample.

    Attributes
    ----------
    ids : ndarray of object (str), shape (n,)
    X : ndarray of float32, shape (n, width)
        Tokens are as they are stored: (n, H, W, D), float16.
    y : ndarray of object (str or None), shape (n,)
        Labels.
    split : ndarray of object (str or None), shape (n,)
        ``train``, ``val``, ``test``.
    digests : ndarray of object (str), shape (n,)
        Hexadecimal sha256 of each file, or of a part of it (`featurepipe.digests.sha256_part`).
    groups : ndarray of object (str or None), shape (n,), or None
        What each belongs to together with others, such as a patient; None where no sample has a group.
    contents : ndarray of object (str), shape (n,), or None
        Hexadecimal sha256 of each file as a whole; None where no sample is a part of one.
    blocks : tuple of int
        Widths of the blocks that X consists of, one for each of several backbones; nothing of one backbone.
    """

    ids: np.ndarray
    X: np.ndarray
    y: np.ndarray
    split: np.ndarray
    digests: np.ndarray
    groups: np.ndarray | None = None
    contents: np.ndarray | None = None
    blocks: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: np.ndarray | slice) -> FeatureMatrix:
        """The rows that a boolean mask or an index array picks, copied, or those of a slice, where they are."""
        columns: dict[str, Any] = {name: one[which] for name, one in vars(self).items() if isinstance(one, np.ndarray)}
        return replace(self, **columns)

    def of(self, columns: slice) -> FeatureMatrix:
        """The same rows with some of the features, which are not copied."""
        return replace(self, X=self.X[:, columns], blocks=())

    @property
    def files(self) -> np.ndarray:
        """The digest of the file that each row is, or is a part of, (n,)."""
        return self.digests if self.contents is None else self.contents

    @property
    def units(self) -> np.ndarray:
        """What must stay together, as the digest of one of its files, (n,): see `featurepipe.manifests.units`."""
        files = self.files
        return files if self.groups is None else units(files, self.groups)

    @property
    def has_units(self) -> bool:
        """Whether more must stay together than exact copies: groups, or parts of one file."""
        return self.groups is not None or self.contents is not None


def load(store: Store, entry: Entry) -> FeatureMatrix:
    """Read one backbone's embeddings, each row checked against its checksum.

    Rejected samples have no row.

    Raises
    ------
    StoreError
        Samples of the manifest have not been extracted yet.
    ShardCorrupt
        A row fails its checksum.
    """
    return fill(entry, outline(store, entry))


def outline(store: Store, entry: Entry) -> FeatureMatrix:
    """The rows of `load` without their embeddings: X (n, 2) says where these lie, as position of the shard and row.

    Raises
    ------
    StoreError
        As `load`.
    """
    rows, numbers, places = _placed(store, entry)
    return from_rows(_pick(rows, numbers), places)


def fill(entry: Entry | JointEntry, outlined: FeatureMatrix, X: np.ndarray | None = None) -> FeatureMatrix:
    """The rows of an outline, or some of them, with their embeddings.

    Parameters
    ----------
    entry : Entry or JointEntry
        The outline's.
    outlined : FeatureMatrix
        See `outline`; of several entries, `featurepipe.matrices.join` of theirs.
    X : ndarray of float32, shape (n, width), optional
        Where to put the embeddings, such as a memory map; of tokens float16, (n, H, W, D).

    Raises
    ------
    ShardCorrupt
        A row fails its checksum.
    """
    widths = tuple(member.width for member in entry.members)
    return replace(outlined, X=gather(entry, outlined.X, X), blocks=widths if len(widths) > 1 else ())


def stream(store: Store, entry: Entry) -> Iterator[FeatureMatrix]:
    """The rows of `load` in pieces, shard by shard: no more than one shard's embeddings are in memory.

    Within a shard the rows come in manifest order. A content that is in the manifest several times gives as many
    rows, as in `load`.

    Returns
    -------
    iterator of FeatureMatrix
        Parts of at most 16,384 rows. Of tokens X is (rows, H, W, D), and a part is a shard of at most 64 MiB, or less.

    Raises
    ------
    StoreError, ShardCorrupt
        As `load`; the latter when the iteration comes to that shard.
    """
    return _pieces(entry, *_placed(store, entry))


def _pieces(entry: Entry, rows: Rows, numbers: np.ndarray, places: np.ndarray) -> Iterator[FeatureMatrix]:
    order = np.argsort(places[:, 0], kind="stable")  # stable: what is in one shard stays in manifest order
    starts = np.flatnonzero(np.diff(places[order, 0], prepend=-1))
    for mine in np.split(order, starts[1:]):
        embeddings = shards.read(entry.indexes[places[mine[0], 0]].path).embeddings
        for start in range(0, len(mine), PIECE_ROWS):
            part = mine[start : start + PIECE_ROWS]
            X = embeddings[places[part, 1]].astype(entry.dtype, copy=False)
            yield from_rows(_pick(rows, numbers[part]), X)


def _pick(rows: Rows, numbers: np.ndarray) -> list[Row]:
    return [rows[number] for number in numbers.tolist()]


def _placed(store: Store, entry: Entry) -> tuple[Rows, np.ndarray, np.ndarray]:
    """The manifest, which of its rows have an embedding (n,), and where: shard and row (n, 2); raises as `load`."""
    rows = store.rows()
    # In arrays, where Entry.places has a text and a tuple for every row: a million of those fill half a gigabyte.
    held = keys(np.concatenate([np.zeros((0, 32), np.uint8), *(index.digests for index in entry.indexes)]))  # (m,)
    sizes = np.array([len(index.digests) for index in entry.indexes], np.int64)
    shard = np.repeat(np.arange(len(sizes)), sizes)  # (m,)
    row = np.arange(len(held)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # (m,)
    order = np.argsort(held)
    at = np.searchsorted(held, rows.keys, sorter=order)  # (n,)
    inside = np.flatnonzero(at < len(held))
    at = order[at[inside]]
    same = rows.readable[inside] & (held[at] == rows.keys[inside])
    numbers, at = inside[same], at[same]
    pending = rows.readable & ~np.isin(rows.keys, keys(shards.digest_array(entry.rejects())))
    pending[numbers] = False
    if pending.any():
        first = rows.samples[int(pending.argmax())].id
        raise StoreError(
            f"{store.path}: {pending.sum()} of {len(rows)} samples are not extracted for {entry.folder.name} "
            f"(first {first}); run featurepipe extract again to finish"
        )
    if not len(numbers):
        found = Counter(entry.rejects().values()).most_common(1)
        why = "".join(f"; the most common reason ({count} of {len(rows)}): {reason}" for reason, count in found)
        raise StoreError(f"{store.path} holds no embedding of its samples{why}; see {store.path / 'rejects.csv'}")
    return rows, numbers, np.stack([shard[at], row[at]], axis=1)


def from_rows(rows: Sequence[Row], X: np.ndarray) -> FeatureMatrix:
    """The matrix of manifest rows and their embeddings X (n, width), in the same order."""
    groups = _objects([row.sample.group for row in rows])
    contents = _objects([row.digest if row.content is None else row.content for row in rows])
    return FeatureMatrix(
        ids=_objects([row.sample.id for row in rows]),
        X=X,
        y=_objects([row.sample.label for row in rows]),
        split=_objects([row.sample.split for row in rows]),
        digests=_objects([row.digest for row in rows]),
        groups=groups if any(group is not None for group in groups) else None,
        contents=contents if any(row.content is not None for row in rows) else None,
    )


def gather(
    entry: Entry | JointEntry, places: Sequence[tuple[int, int]] | np.ndarray, X: np.ndarray | None = None
) -> np.ndarray:
    """Rows of an entry's shards, by (position of the shard, row), one shard in memory at a time.

    Of several entries a place is the place in each of them, one behind the other.

    Returns
    -------
    ndarray of float32, shape (len(places), width), or of float16, (len(places), H, W, D), of tokens
        X, where it is given.
    """
    X = np.empty((len(places), *entry.shape), entry.dtype) if X is None else X
    wanted = np.array(places)  # (n, 2 × members): shard, row
    start = 0
    for at, member in enumerate(entry.members):
        shard, row = wanted[:, 2 * at], wanted[:, 2 * at + 1]
        for number in np.unique(shard):
            mine = np.flatnonzero(shard == number)
            X[mine, ..., start : start + member.width] = shards.read(member.indexes[number].path).embeddings[row[mine]]
        start += member.width
    return X


def _objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array
