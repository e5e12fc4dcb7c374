"""Tables of samples: which columns are meant, and their cells as texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from featurepipe.errors import ManifestError
from featurepipe.tables.cells import MISSING, cell_text
from featurepipe.tables.columns import check_columns, match_columns
from featurepipe.tables.formats import read_csv, read_jsonl, read_parquet

READERS = {".csv": read_csv, ".tsv": read_csv, ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".parquet": read_parquet}
TABLE_SUFFIXES = frozenset(READERS)


class Table:
    """The rows of a table, one after the other: of each its number and the texts of some columns.

    The case of a column's name and blanks around it do not count, nor do blanks around a cell; what means no label
    is None. Of keys every character counts.

    Parameters
    ----------
    path : Path
    needed, others : collection of str
        Columns to read. `needed` ones must be there.
    keys : collection of str
        Those of them whose cells are not labels: ids, paths, splits.
    prose : collection of str
        Those of them whose cells may be texts of several lines, and are taken as they are.

    Attributes
    ----------
    used, unused : list of str
        Wanted columns that the table has, as they were asked for; and the names of all other columns.
    blank_rows : int
        Rows without any cell.
    missing : Counter
        Text that means no label → number of cells.

    Raises
    ------
    ManifestError
        While it is read: a table that cannot be read, a column that is needed and not there, or there twice, a quote
        that is not closed, a cell that is not text. The message names the row; the one below the header is row 1.
    DependencyMissing
        A Parquet table without pyarrow installed.
    """

    def __init__(
        self,
        path: Path,
        needed: Collection[str],
        others: Collection[str] = (),
        keys: Collection[str] = ("id", "path"),
        prose: Collection[str] = (),
    ) -> None:
        self.path, self.needed, self.keys, self.prose = path, list(needed), frozenset(keys), frozenset(prose)
        self.wanted = list(dict.fromkeys([*needed, *others]))
        self.used: list[str] = []
        self.unused: list[str] = []
        self.blank_rows, self.missing = 0, Counter[str]()

    def __iter__(self) -> Iterator[tuple[int, dict[str, str | None]]]:
        places: dict[tuple[str, ...], dict[str, int]] = {}  # of each set of columns; in JSONL there may be several
        try:
            lines = READERS[self.path.suffix.lower()](self.path, self.wanted, self.needed, self.prose)
            for number, (columns, cells) in enumerate(lines, start=1):
                if not cells:
                    self.blank_rows += 1
                    continue
                if columns not in places:
                    places[columns] = self._place(columns)
                there = places[columns].items()
                yield number, {name: self._text(number, name, cells[i]) for name, i in there if i < len(cells)}
        except UnicodeDecodeError as error:
            raise ManifestError(_undecodable(self.path)) from error
        if places:
            check_columns(self.path, [*self.used, *self.unused], self.needed)

    def _place(self, columns: tuple[str, ...]) -> dict[str, int]:
        """Where the wanted columns are; remembers which others there are."""
        found = match_columns(self.path, columns, self.wanted)
        others = [name.strip() for i, name in enumerate(columns) if i not in found.values()]
        self.used = list(dict.fromkeys([*self.used, *found]))
        self.unused = list(dict.fromkeys([*self.unused, *filter(None, others)]))
        return found

    def _text(self, number: int, name: str, value: object) -> str | None:
        try:
            text = cell_text(value)
        except ValueError as error:
            raise ManifestError(f"{self.path}: row {number}: {name} {error}") from error
        if text is None or name in self.keys | self.prose:
            return text
        text = text.strip()
        if text in MISSING:
            self.missing[text] += 1
            return None
        return text or None


def _undecodable(path: Path) -> str:
    """Which byte of a file is not UTF-8, and what to do."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return (
                    f"{path}: line {number} is not UTF-8 text (byte 0x{line[error.start]:02x} after "
                    f"{line[: error.start].decode()[-20:]!r}); save the table as UTF-8"
                )
    return f"{path} is not UTF-8 text; save the table as UTF-8"  # as when it changes meanwhile
