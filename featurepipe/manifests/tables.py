"""Rows of CSV, TSV, JSONL and Parquet tables."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from featurepipe.errors import DependencyMissing, ManifestError

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})


def table_rows(path: Path, needed: Collection[str], others: Collection[str]) -> Iterator[Mapping[str, object]]:
    """Rows of a table as column → cell, those after a CSV's header under None.

    Parameters
    ----------
    path : Path
    needed, others : collection of str
        Columns to read from Parquet; of other tables every column comes. `needed` ones must be there: Parquet says so
        before a row is read, of the others the reader of the rows has to.

    Raises
    ------
    ManifestError
        A table that cannot be read, or a Parquet table without a column that is needed.
    DependencyMissing
        A Parquet table without pyarrow installed.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(path, needed, others)
        return
    try:
        with open(path, encoding="utf-8-sig") as file:  # Excel writes a byte-order mark
            if suffix not in (".jsonl", ".ndjson"):
                yield from csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
                return
            for row in (json.loads(line) for line in file if line.strip()):
                if not isinstance(row, dict):
                    raise ManifestError(f"{path}: every line must be a JSON object with a 'path'")
                yield row
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ManifestError(f"{path} cannot be read as {suffix[1:]}: {error}") from error


def require_pyarrow() -> ModuleType:
    """The pyarrow module, with its parquet part.

    Raises
    ------
    DependencyMissing
        It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyMissing("Parquet needs pyarrow: pip install 'featurepipe[parquet]'") from error
    return pyarrow


def _parquet_rows(path: Path, needed: Collection[str], others: Collection[str]) -> Iterator[Mapping[str, object]]:
    pyarrow = require_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:  # read_table would add columns from folders called key=value
            names = file.schema_arrow.names
            check_columns(path, names, needed)
            for batch in file.iter_batches(columns=[name for name in names if name in {*needed, *others}]):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ManifestError(f"{path} cannot be read as parquet: {error}") from error


def check_columns(path: Path, columns: Collection[object], needed: Collection[str]) -> None:
    """Raise ManifestError naming a column that is needed and not there."""
    for name in needed:
        if name not in columns:
            there = ", ".join(str(column) for column in columns if column is not None) or "none"
            raise ManifestError(f"{path} has no column {name!r} (its columns: {there})")


def cell_text(value: object) -> str | None:
    """A table cell as text.

    Empty cells and NaN are None, 3.0 is '3' (integers with gaps come as floats), and a list, of JSONL or Parquet, is
    its members between semicolons: a set of labels.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return ";".join(map(str, value)) or ";"
    return str(value)
