"""Feature matrices: ids, X, y and split of one backbone in a store, aligned in manifest order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featurepipe import shards
from featurepipe.errors import StoreError
from featurepipe.files import atomic
from featurepipe.manifests import require_pyarrow
from featurepipe.stores import Entry, Row, Store

EXPORT_SUFFIXES = (".npz", ".parquet", ".csv")


@dataclass(frozen=True)
class FeatureMatrix:
    """Embeddings with what is known about their samples; row i of each belongs to one sample.

    Attributes
    ----------
    ids : ndarray of object (str), shape (n,)
    X : ndarray of float32, shape (n, width)
    y : ndarray of object (str or None), shape (n,)
        Labels.
    split : ndarray of object (str or None), shape (n,)
        ``train``, ``val``, ``test``.
    digests : ndarray of object (str), shape (n,)
        Hexadecimal sha256 of each file.
    """

    ids: np.ndarray
    X: np.ndarray
    y: np.ndarray
    split: np.ndarray
    digests: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: np.ndarray) -> FeatureMatrix:
        """The rows that a boolean mask or an index array picks."""
        return FeatureMatrix(self.ids[which], self.X[which], self.y[which], self.split[which], self.digests[which])


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
    places, refused = entry.places(), entry.rejects()
    rows = store.rows()
    pending = [row for row in rows if row.digest and row.digest not in places and row.digest not in refused]
    if pending:
        raise StoreError(
            f"{store.path}: {len(pending)} of {len(rows)} samples are not extracted for {entry.folder.name} "
            f"(first {pending[0].sample.id}); run featurepipe extract again to finish"
        )
    held = [row for row in rows if row.digest in places]
    if not held:
        raise StoreError(f"{store.path} holds no embedding of its samples; see {store.path / 'rejects.csv'}")
    return from_rows(held, gather(entry, [places[row.digest] for row in held]))


def from_rows(rows: Sequence[Row], X: np.ndarray) -> FeatureMatrix:
    """The matrix of manifest rows and their embeddings X (n, width), in the same order."""
    return FeatureMatrix(
        ids=_objects([row.sample.id for row in rows]),
        X=X,
        y=_objects([row.sample.label for row in rows]),
        split=_objects([row.sample.split for row in rows]),
        digests=_objects([row.digest for row in rows]),
    )


def gather(entry: Entry, places: list[tuple[int, int]]) -> np.ndarray:
    """Rows of an entry's shards, by (position of the shard, row), one shard in memory at a time.

    Returns
    -------
    ndarray of float32, shape (len(places), width)
    """
    X = np.empty((len(places), entry.indexes[0].width), np.float32)
    wanted = np.array(places)  # (n, 2): shard, row
    for number in np.unique(wanted[:, 0]):
        mine = np.flatnonzero(wanted[:, 0] == number)
        X[mine] = shards.read(entry.indexes[number].path).embeddings[wanted[mine, 1]]
    return X


def export(matrix: FeatureMatrix, path: str | Path) -> None:
    """Write a matrix as NumPy archive, Parquet or CSV; no format holds pickled objects.

    ``.npz`` has the arrays ``ids, labels, splits, digests`` (text; '' for none) and ``X``; ``.parquet`` the columns
    ``id, label, split, digest, embedding`` (fixed-size lists); ``.csv`` the same with ``f0, f1, …``.

    Raises
    ------
    StoreError
        Another suffix, or for Parquet a file name that is not Unicode.
    DependencyMissing
        Parquet without pyarrow.
    """
    path = Path(path)
    check_suffix(path)
    write = {".npz": _write_npz, ".parquet": _write_parquet, ".csv": _write_csv}[path.suffix.lower()]
    with atomic(path) as temporary:
        write(matrix, temporary)


def check_suffix(path: str | Path) -> None:
    """Raise StoreError if `export` cannot write such a file, or DependencyMissing if it lacks a library for it."""
    path = Path(path)
    if path.suffix.lower() not in EXPORT_SUFFIXES:
        raise StoreError(f"cannot export to {path.name}; use one of {', '.join(EXPORT_SUFFIXES)}")
    if path.suffix.lower() == ".parquet":
        require_pyarrow()


def _write_npz(matrix: FeatureMatrix, path: Path) -> None:
    with open(path, "wb") as file:  # given a name, NumPy would add a suffix
        np.savez(
            file,
            ids=_texts(matrix.ids),
            labels=_texts(matrix.y),
            splits=_texts(matrix.split),
            digests=_texts(matrix.digests),
            X=matrix.X,
        )


def _write_parquet(matrix: FeatureMatrix, path: Path) -> None:
    pyarrow = require_pyarrow()
    texts = {"id": matrix.ids, "label": matrix.y, "split": matrix.split, "digest": matrix.digests}
    try:
        columns = {name: pyarrow.array(values, pyarrow.string()) for name, values in texts.items()}
    except UnicodeEncodeError as error:
        raise StoreError(f"Parquet cannot hold the file name {error.object!r}; export to .npz or .csv") from error
    columns["embedding"] = pyarrow.FixedSizeListArray.from_arrays(matrix.X.reshape(-1), matrix.X.shape[1])
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def _write_csv(matrix: FeatureMatrix, path: Path) -> None:
    import csv

    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)  # its own line end, \r\n, is what makes it quote both characters in names
        writer.writerow(["id", "label", "split", "digest", *(f"f{i}" for i in range(matrix.X.shape[1]))])
        known = (matrix.ids, _texts(matrix.y), _texts(matrix.split), matrix.digests)
        writer.writerows([*row, *map(str, x)] for *row, x in zip(*known, matrix.X, strict=True))


def _texts(values: np.ndarray) -> np.ndarray:
    return np.array([value or "" for value in values], np.str_)


def _objects(values: list) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array
