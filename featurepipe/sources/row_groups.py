"""Parquet and Arrow files: rows in groups, which are read one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from featurepipe import inputs
from featurepipe.errors import ManifestError
from featurepipe.tables import require_pyarrow
from featurepipe.tables.formats import UNREADABLE

ARROW = (".arrow", ".feather")
BATCH = 4096  # rows whose labels are read at a time


class RowFile:
    """A Parquet or Arrow file: its schema, and its rows in groups.

    Parameters
    ----------
    path : str
        Its first bytes say which of the two it is.

    Raises
    ------
    ManifestError
        It cannot be read.
    DependencyMissing
        pyarrow is not installed.
    """

    def __init__(self, path: str) -> None:
        pyarrow = require_pyarrow()
        self._arrow = path.lower().endswith(ARROW)
        try:
            self._arrow = _is_arrow(path)
            if self._arrow:
                self._file: Any = pyarrow.memory_map(path)
                self._table = _arrow_table(pyarrow, self._file)
                self.schema = self._table.schema
            else:
                self._file = pyarrow.parquet.ParquetFile(path)
                self.schema = self._file.schema_arrow
            self.names = list(self.schema.names)
        except (pyarrow.ArrowException, OSError, *UNREADABLE) as error:
            kind = "Arrow" if self._arrow else "Parquet"
            raise ManifestError(f"{path} cannot be read as {kind}: {error}; copy it again") from error

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(self._table.num_rows if self._arrow else self._file.metadata.num_rows)

    @property
    def bounds(self) -> list[int]:
        """How many rows there are up to the end of each group."""
        if self._arrow:
            return [self._table.num_rows]
        bounds = [0]
        for number in range(self._file.metadata.num_row_groups):
            bounds.append(bounds[-1] + self._file.metadata.row_group(number).num_rows)
        return bounds[1:]

    def group(self, number: int, column: str) -> Any:
        """A column of a group."""
        return self._table[column] if self._arrow else self._file.read_row_group(number, columns=[column])[column]

    def links(self, number: int, column: str) -> Any:
        """See `links_of`, of a column of a group; of a Parquet file without reading bytes."""
        if self._arrow:
            return links_of(self._table[column])
        return links_of(self._file.read_row_group(number, columns=[f"{column}.path"])[column])

    def gaps(self, column: str) -> list[bool]:
        """Of each group, whether there are cells that have no bytes and may have a path; True where nothing tells."""
        if not _has_paths(self.schema.field(column).type):
            return [False] * len(self.bounds)
        if self._arrow:
            return [has_gaps(self._table[column])]
        found = []
        for number in range(self._file.metadata.num_row_groups):
            group = self._file.metadata.row_group(number)
            parts = (group.column(i) for i in range(group.num_columns))
            said = [part.statistics for part in parts if part.path_in_schema == f"{column}.bytes"]
            found.append(any(one is None or not one.has_null_count or one.null_count > 0 for one in said))
        return found

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """The rows of some columns, in order; once, if there are no columns."""
        if not columns:
            return iter([None])
        if self._arrow:
            return iter(self._table.select(columns).to_batches(BATCH))
        batches: Iterator[Any] = self._file.iter_batches(BATCH, columns=columns)
        return batches


def links_of(column: Any) -> Any:
    """The paths in cells of ``{bytes, path}`` that have no bytes, or whose bytes were not read; nulls for the others.

    Bytes are not copied.
    """
    import pyarrow.compute

    paths = pyarrow.compute.struct_field(column, "path").cast(pyarrow.string())  # it may be a view, or a dictionary
    if column.type.get_field_index("bytes") < 0:
        return paths
    there = pyarrow.compute.is_valid(pyarrow.compute.struct_field(column, "bytes"))
    return pyarrow.compute.if_else(there, None, paths)


def _has_paths(kind: Any) -> bool:
    types = require_pyarrow().types
    at = kind.get_field_index("path") if types.is_struct(kind) else -1
    if at < 0:
        return False
    path = kind.field(at).type
    path = path.value_type if types.is_dictionary(path) else path
    return any(fits(path) for fits in (types.is_string, types.is_large_string, types.is_string_view))


def has_gaps(column: Any) -> bool:
    """Whether some cells of ``{bytes, path}`` have no bytes."""
    at = column.type.get_field_index("bytes") if _has_paths(column.type) else -1
    return at >= 0 and any(chunk.field(at).null_count for chunk in column.chunks)


def _is_arrow(path: str) -> bool:
    """Whether a file is Arrow rather than Parquet, by its first bytes: a link may lead to one without a suffix."""
    with inputs.opened(path) as file:
        first = file.read(6)
    if first[:4] in (b"PAR1", b"PARE"):
        return False
    return first == b"ARROW1" or first[:4] == b"\xff\xff\xff\xff" or path.lower().endswith(ARROW)


def _arrow_table(pyarrow: Any, file: Any) -> Any:
    """All of an Arrow file, of either format; its content stays on disk until it is asked for."""
    try:
        return pyarrow.ipc.open_file(file).read_all()
    except pyarrow.ArrowInvalid:
        file.seek(0)
        return pyarrow.ipc.open_stream(file).read_all()
