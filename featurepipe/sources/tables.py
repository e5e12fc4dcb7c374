"""Texts in a column of a table: the table is the source, and a cell is the place."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import weakref
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from featurepipe import inputs
from featurepipe.errors import ManifestError
from featurepipe.sources.source import Source, Stamp
from featurepipe.tables import Table


def cell(column: str, row: int) -> str:
    """The place of a table's cell; the row below the header is row 1.

    Examples
    --------
    >>> cell("text", 17)
    'text[17]'
    """
    return f"{column}[{row}]"


@dataclass(frozen=True)
class Tables(Source):
    """The cells of a CSV, TSV, JSONL or Parquet file, as UTF-8; a place is what `cell` gives.

    Tables are read from the beginning. So the first cell of a column that is asked for has the whole column copied into
    a temporary file, and memory holds eight bytes of each row.

    Attributes
    ----------
    root : str
        The table.
    """

    root: str
    kind: ClassVar[str] = "table"
    _columns: dict[str, _Column] = field(default_factory=dict, init=False, repr=False, compare=False)
    _opening: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root,)  # another process has its own copies

    def stamp(self, place: str) -> Stamp:
        """See `Source.stamp`: the table's, as no cell has changed where the table has not."""
        return _stamp(self.root)

    def read(self, place: str) -> bytes:
        """See `Source.read`; nothing of an empty cell."""
        name, bracket, number = place.rpartition("[")
        if not bracket or not number.removesuffix("]").isdecimal():
            raise OSError(errno.EINVAL, "it names no cell, such as text[17]", place)
        with self._opening:
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = _Column(self.root, name)
        return column.read(int(number.removesuffix("]")))


class _Column:
    """Copies of a column's cells, end to end in a file that has no name.

    Raises
    ------
    OSError
        The table cannot be read, or has no such column.
    """

    def __init__(self, root: str, name: str) -> None:
        self._root, self._stamp, self._reading = root, _stamp(root), threading.Lock()
        self._file, self._bounds = tempfile.TemporaryFile(), array("q", [0])  # noqa: SIM115  # closed with it
        weakref.finalize(self, self._file.close)
        end = 0
        try:
            for row, cells in Table(Path(root), [name], prose=[name]):
                self._bounds.extend([end] * (row - len(self._bounds)))  # of blank rows
                end += self._file.write((cells.get(name) or "").encode("utf-8", "surrogatepass"))
                self._bounds.append(end)
        except ManifestError as error:
            raise OSError(errno.EINVAL, str(error), root) from error

    def read(self, row: int) -> bytes:
        """The cell of a row; OSError where there is none, or the table has changed since it was copied."""
        if _stamp(self._root) != self._stamp:
            raise OSError(errno.EAGAIN, "the table has just changed; run again", self._root)
        if not 0 < row < len(self._bounds):
            raise OSError(errno.ENOENT, f"the table has no row {row}", self._root)
        start, end = self._bounds[row - 1 : row + 1]
        with self._reading:
            self._file.seek(start)
            return self._file.read(end - start)


def _stamp(root: str) -> Stamp:
    """The table's; how long its cells are is not known before."""
    return Stamp.of(inputs.status(os.fspath(root)))._replace(size=0)
