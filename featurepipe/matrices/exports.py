"""A feature matrix as a file for other programs."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe.characters import safe_cell
from featurepipe.errors import StoreError
from featurepipe.files import atomic
from featurepipe.manifests import header
from featurepipe.matrices.features import FeatureMatrix
from featurepipe.tables import require_pyarrow

EXPORT_SUFFIXES = (".npz", ".parquet", ".csv")


def export(matrix: FeatureMatrix, path: str | Path, *, safe_csv: bool = False) -> None:
    """Write a matrix as NumPy archive, Parquet or CSV; no format holds pickled objects.

    ``.npz`` has the arrays ``ids, labels, splits, digests`` (text; '' for none) and ``X``; ``.parquet`` the columns
    ``id, label, split, digest, embedding`` (fixed-size lists); ``.csv`` the same with ``f0, f1, …``; with `safe_csv` no
    id or label in it is a formula to a spreadsheet (see `featurepipe.characters.safe_cell`).

    Raises
    ------
    StoreError
        Another suffix, or for Parquet a file name that is not Unicode.
    DependencyMissing
        Parquet without pyarrow.
    """
    path = Path(path)
    check_suffix(path)
    csv: Callable[[FeatureMatrix, Path], None] = partial(_write_csv, safe=safe_csv)
    write = {".npz": _write_npz, ".parquet": _write_parquet, ".csv": csv}[path.suffix.lower()]
    with atomic(path) as temporary:
        write(matrix, temporary)


def is_export(path: Path) -> bool:
    """Whether a file holds what `export` writes."""
    if path.suffix.lower() != ".npz":
        names = header(path)
        return names[:4] == ["id", "label", "split", "digest"] and names[4:5] in (["embedding"], ["f0"])
    try:
        with zipfile.ZipFile(path) as file:
            return set(file.namelist()) == {f"{name}.npy" for name in ("ids", "labels", "splits", "digests", "X")}
    except (OSError, zipfile.BadZipFile):
        return False


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


def _write_csv(matrix: FeatureMatrix, path: Path, safe: bool) -> None:
    import csv

    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)  # its own line end, \r\n, is what makes it quote both characters in names
        writer.writerow(["id", "label", "split", "digest", *(f"f{i}" for i in range(matrix.X.shape[1]))])
        known: list[Iterable[Any]] = [matrix.ids, _texts(matrix.y), _texts(matrix.split), matrix.digests]
        if safe:
            known[:2] = ([safe_cell(str(value)) for value in column] for column in known[:2])
        writer.writerows([*row, *map(str, x)] for *row, x in zip(*known, matrix.X, strict=True))


def _texts(values: np.ndarray) -> np.ndarray:
    return np.array([value or "" for value in values], np.str_)
