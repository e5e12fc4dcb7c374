"""Rows of CSV, TSV, JSONL and Parquet files, as columns and cells."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from featurepipe.errors import DependencyMissing, ManifestError
from featurepipe.tables.columns import check_columns, match_columns, places_of

SEPARATORS = {".csv": ",;\t", ".tsv": "\t,;"}  # of equally good ones the first
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Of dates out of range, text that is not UTF-8, zones of time that are unknown, and kinds that Python has not
UNREADABLE = (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError)
Line = tuple[tuple[str, ...], Sequence[object]]  # columns, and the cells of the first of them


def read_csv(
    path: Path, wanted: Collection[str], needed: Collection[str], prose: Collection[str] = ()
) -> Iterator[Line]:
    """Rows of a table whose separator its header shows (a comma, a semicolon or a tab); of blank ones no cells.

    Raises
    ------
    ManifestError
        Another encoding than UTF-8, a quote that is not closed, more cells than the header has, or no needed column.
    """
    with _open(path) as file:
        reader, row = csv.reader(file, delimiter=_separator(file, path.suffix.lower(), wanted), strict=True), 0
        columns: tuple[str, ...] = ()
        places, texts = set[int](), set[int]()
        while True:
            line = reader.line_num
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise ManifestError(
                    f"{path}: {f'row {row}' if row else 'the header'} cannot be read ({error}); is a quote in it not "
                    'closed? write a quote inside of a cell twice ("")'
                ) from error
            if cells is None:
                return
            if not cells:  # a line without anything
                continue
            if not row:
                columns, row = tuple(cells), 1
                check_columns(path, columns, needed)
                places = set(match_columns(path, columns, wanted).values())
                texts = set(match_columns(path, columns, prose).values())
                continue
            if any(cell.strip() for cell in cells[len(columns) :]):
                raise ManifestError(
                    f"{path}: row {row} ({_first(cells)}) has more cells than the header; quote cells that have a "
                    f"{_NAMES[reader.dialect.delimiter]} in them"
                )
            if reader.line_num > line + 1:
                _check_lines(path, row, cells, len(columns), places, texts, reader.dialect.delimiter)
            yield columns, cells[: len(columns)] if any(map(str.strip, cells)) else []
            row += 1


_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


def _first(cells: Sequence[str]) -> str:
    """What a message calls a row by: the beginning of its first cell with anything in it."""
    return next((cell.strip().splitlines()[0][:80] for cell in cells if cell.strip()), "")


def _open(path: Path) -> TextIO:
    with open(path, "rb") as file:
        head = file.readline(4096)
    if head.startswith(UTF16) or b"\0" in head:
        raise ManifestError(f"{path} is UTF-16 text (Excel's 'Unicode text') or no text; save it as UTF-8 (CSV UTF-8)")
    return open(path, encoding="utf-8-sig", newline="")  # Excel writes a byte-order mark


def _separator(file: TextIO, suffix: str, wanted: Collection[str]) -> str:
    """What the first line with anything in it is separated by: the wanted columns come out, or most columns."""
    line = next((line for line in file if line.strip()), "")
    file.seek(0)

    def fit(separator: str) -> tuple[int, int]:
        try:
            columns = next(csv.reader([line], delimiter=separator), [])
        except csv.Error:  # what is no separator of a very wide table leaves a cell that is too long
            return 0, 0
        return sum(bool(places_of(name, columns)) for name in wanted), len(columns)

    return max(SEPARATORS[suffix], key=fit)


def _check_lines(
    path: Path,
    row: int,
    cells: Sequence[str],
    width: int,
    places: Collection[int],
    texts: Collection[int],
    separator: str,
) -> None:
    """Refuse a cell that seems to have swallowed rows: a quote was not closed, and another one ended it.

    Texts may have lines of any kind.
    """
    for i, cell in enumerate(cells[:width]):
        if i in texts:
            continue
        lines = [line.split(separator) for line in re.split("\r\n|\r|\n", cell)]
        if len(lines) > 1 and _are_rows(lines, i, cells, width, places):
            raise ManifestError(
                f"{path}: row {row} ({_first(cells)}) has a cell of several lines that look like rows; is a "
                "quote in it not closed?"
            )


def _are_rows(
    lines: Sequence[Sequence[str]], i: int, cells: Sequence[str], width: int, places: Collection[int]
) -> bool:
    """Whether the lines of cell `i` look like the end of one row, whole rows, and the beginning of another.

    Texts of several lines may have separators in them. So a line has to have as many cells as it would have then, and
    one that ends as the row's own, such as .jpg; where the row has no such cell, all lines have to have their number.
    """
    if i in places and any(len(line) > 1 for line in lines[1:]):
        return True
    spans = [(i, width), *[(0, width)] * (len(lines) - 2), (0, i + 1)]
    fitting = [(line, *span) for line, span in zip(lines, spans, strict=True) if len(line) == span[1] - span[0]]
    endings = {place: _ending(cells[place]) for place in places if place < len(cells) and _ending(cells[place])}
    if not endings:
        return len(fitting) == len(lines) and width > 1
    return any(
        start <= place < end and _ending(line[place - start]) == ending
        for line, start, end in fitting
        for place, ending in endings.items()
    )


def _ending(cell: str) -> str:
    """The suffix of a cell that is a file's name, in lower case; '' of others."""
    found = re.search(r"\.\w{1,5}$", cell.strip())
    return found[0].lower() if found else ""


def read_jsonl(
    path: Path, wanted: Collection[str], needed: Collection[str], prose: Collection[str] = ()
) -> Iterator[Line]:
    """Rows of a file with a JSON object on every line, which may each have other columns.

    Raises
    ------
    ManifestError
        Another encoding than UTF-8, or a line that is not a JSON object.
    """
    row = 1
    with _open(path) as file:
        for line in file:
            if not line.strip():
                continue
            try:
                found = json.loads(line, object_pairs_hook=_Object)
            except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and endless brackets
                raise ManifestError(f"{path}: row {row} cannot be read as jsonl: {error}") from error
            if not isinstance(found, _Object):
                raise ManifestError(f"{path}: row {row}: every line must be a JSON object with a 'path'")
            yield tuple(name for name, _ in found.pairs), [cell for _, cell in found.pairs]
            row += 1


class _Object(dict[str, object]):
    """A JSON object that knows its pairs: a name may be there twice."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def read_parquet(
    path: Path, wanted: Collection[str], needed: Collection[str], prose: Collection[str] = ()
) -> Iterator[Line]:
    """Rows of a Parquet file; columns that are not wanted come last, and without cells.

    Raises
    ------
    ManifestError
        No Parquet, or no needed column.
    DependencyMissing
        Without pyarrow installed.
    """
    pyarrow, row = require_pyarrow(), 1
    try:
        with pyarrow.parquet.ParquetFile(path) as file:  # read_table would add columns from folders called key=value
            names = file.schema_arrow.names
            check_columns(path, names, needed)
            read = [names[i] for i in match_columns(path, names, wanted).values()]
            columns = (*read, *(name for name in names if name not in read))
            for batch in file.iter_batches(columns=read):
                texts = [_cells(path, row, name, batch.column(name)) for name in read]
                for cells in zip(*texts, strict=True):
                    yield columns, cells
                row += batch.num_rows
    except ManifestError:
        raise
    except (pyarrow.ArrowException, OSError, *UNREADABLE) as error:
        raise ManifestError(f"{path} cannot be read as parquet: {error}") from error


def _cells(path: Path, row: int, name: str, column: Any) -> list[object]:
    """The cells of a column of a batch that begins with a row; a ManifestError for one that Python cannot hold."""
    try:
        return column.to_pylist()
    except UNREADABLE as error:
        for number, cell in enumerate(column, start=row):
            try:
                cell.as_py()
            except UNREADABLE as its:
                raise ManifestError(f"{path}: row {number}: {name} cannot be read: {its}; write text instead") from its
        raise ManifestError(f"{path}: {name} cannot be read: {error}; write text instead") from error


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
