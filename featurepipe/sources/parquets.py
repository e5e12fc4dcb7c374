"""Images in the cells of Parquet and Arrow files."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from featurepipe import inputs
from featurepipe.errors import DependencyMissing, ManifestError
from featurepipe.sources.archives import Archives, root_of
from featurepipe.sources.containers import Columns, Item, Listing
from featurepipe.sources.roots import is_url
from featurepipe.sources.source import Stamp
from featurepipe.sources.tables import cell
from featurepipe.tables import remarks, require_pyarrow
from featurepipe.tables.cells import MISSING, cell_text
from featurepipe.tables.columns import match_columns
from featurepipe.tables.formats import UNREADABLE

PARQUET, ARROW = (".parquet",), (".arrow", ".feather")
CACHED = 2**30  # bytes of row groups that are kept: a row cannot be read without its group
BATCH = 4096  # rows whose labels are read at a time
DIGITS = 7  # of a row's number, so that rows keep their order
MEDIA_OF = {"Image": "image", "Audio": "sound", "Video": "video"}  # Hugging Face's types of columns
DATA = ("data", "train", "test", "validation", "val")  # folders in which Parquet files of one data set lie


@dataclass(frozen=True)
class Parquets(Archives):
    """Cells that hold the bytes of a file: binary ones, or ``{bytes, path}`` as Hugging Face writes them.

    A row of Parquet cannot be read without its row group. So groups that were read last are kept in memory, up to
    1 GiB: read in order, each is read once. Arrow files are mapped into memory.

    Attributes
    ----------
    root : str
        An absolute path of a file, a pattern of several, or a folder of Parquet files.
    """

    kind: ClassVar[str] = "parquet"
    _groups: OrderedDict[tuple[str, str, int], Any] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )
    _bounds: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _opening: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root,)

    @cached_property
    def paths(self) -> list[str]:
        """The files, in order."""
        return files_in(self.root) if os.path.isdir(self.root) else super().paths

    @cached_property
    def base(self) -> str | None:
        """See `Archives.base`."""
        return self.root if os.path.isdir(self.root) else super().base

    def stamp(self, place: str) -> Stamp | None:
        """See `Source.stamp`: the file's; how long a cell is is not known before."""
        return self.stamp_of(self._parsed(place)[0], 0)

    def read(self, place: str) -> bytes:
        """See `Source.read`; OSError where the cell is empty."""
        path, column, row = self._parsed(place)
        found = self._value(path, column, row)
        data, linked = (found.get("bytes"), found.get("path")) if isinstance(found, dict) else (found, None)
        if data is None and linked:
            return inputs.content(os.path.join(os.path.dirname(path), linked), inputs.IMAGE_BYTES)
        if not isinstance(data, bytes):
            raise OSError(errno.ENODATA, f"row {row} has no bytes in the column {column!r}", place)
        return data

    def list_items(self, columns: Columns) -> Listing:
        """See `Container.list_items`."""
        made = Listing(iter(()))
        made.items = self._items(made, columns)
        return made

    def _items(self, listing: Listing, columns: Columns) -> Iterator[Item]:
        for path in self.paths:
            with _Opened(path) as opened:
                column = image_column(path, opened.schema, columns.path)
                listing.medium = medium_of(opened.schema, column)
                roles = roles_of(path, opened.schema, columns)
                used = [column, *(roles.values())]
                listing.columns = [name for name in opened.schema.names if name not in used]
                batches = opened.batches([*roles.values()])
                for row, said in items_of(path, opened.schema, roles, batches, opened.rows):
                    id_ = said.pop("id", None) or self.place(path, f"{row:0{DIGITS}}")
                    yield Item(self.place(path, cell(column, row)), id_, **said)
        listing.remarks += remarks(listing.columns, [role for role in roles if role != "id"])

    def _parsed(self, place: str) -> tuple[str, str, int]:
        """File, column and row of a place."""
        inside, bracket, number = place.rpartition("[")
        file, _, column = inside.rpartition("/")
        if not bracket or not number.removesuffix("]").isdecimal():
            raise OSError(errno.EINVAL, "it names no cell, such as image[17]", place)
        path = self.root if self.base is None else os.path.join(self.base, file)
        return path, inside if self.base is None else column, int(number.removesuffix("]"))

    def _value(self, path: str, column: str, row: int) -> Any:
        """What is in a cell."""
        pyarrow = require_pyarrow()
        try:
            with self._opening:
                if path not in self._bounds:
                    with _Opened(path) as opened:
                        self._bounds[path] = opened.bounds
                group = next((n for n, end in enumerate(self._bounds[path]) if row <= end), None)
                if group is None or row < 1:
                    raise OSError(errno.ENOENT, f"it has no row {row} any more", path)
                held = self._group(path, column, group)
            start = self._bounds[path][group - 1] if group else 0
            return held[row - 1 - start].as_py()
        except (pyarrow.ArrowException, KeyError) as error:
            raise OSError(errno.EIO, f"row {row} cannot be read: {error}", path) from error

    def _group(self, path: str, column: str, number: int) -> Any:
        """The column of a row group, kept as long as there is room; the caller holds the lock."""
        key = path, column, number
        if key not in self._groups:
            with _Opened(path) as opened:
                self._groups[key] = opened.group(number, column)
            while sum(one.nbytes for one in self._groups.values()) > CACHED and len(self._groups) > 1:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


class _Opened:
    """A Parquet or Arrow file: its schema, and its rows in groups."""

    def __init__(self, path: str) -> None:
        self._arrow, pyarrow = path.lower().endswith(ARROW), require_pyarrow()
        try:
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

    def __enter__(self) -> _Opened:
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

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """The rows of some columns, in order; once, if there are no columns."""
        if not columns:
            return iter([None])
        if self._arrow:
            return iter(self._table.select(columns).to_batches(BATCH))
        batches: Iterator[Any] = self._file.iter_batches(BATCH, columns=columns)
        return batches


def _arrow_table(pyarrow: Any, file: Any) -> Any:
    """All of an Arrow file, of either format; its content stays on disk until it is asked for."""
    try:
        return pyarrow.ipc.open_file(file).read_all()
    except pyarrow.ArrowInvalid:
        file.seek(0)
        return pyarrow.ipc.open_stream(file).read_all()


def _features(schema: Any) -> dict[str, Any]:
    """What Hugging Face's metadata say of columns; nothing where there are none."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: about for name, about in found.items() if isinstance(about, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _image_columns(schema: Any) -> list[str]:
    """Columns that hold the bytes of files; binary ones only where no column has paths."""
    types = require_pyarrow().types
    structs = [one.name for one in schema if types.is_struct(one.type) and _has_bytes(types, one.type)]
    if structs or match_columns(Path(), schema.names, ["path"]):
        return structs
    return [one.name for one in schema if _is_binary(types, one.type)]


def _has_bytes(types: Any, struct: Any) -> bool:
    at = struct.get_field_index("bytes")
    return at >= 0 and _is_binary(types, struct.field(at).type)


def _is_binary(types: Any, kind: Any) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def image_column(path: str, schema: Any, wanted: str | None) -> str:
    """The column whose cells are files; a ManifestError where it is not clear which."""
    found = _image_columns(schema)
    if wanted is not None:
        if wanted not in found:
            listed = ", ".join(found) or "none"
            raise ManifestError(f"{path}: the column {wanted!r} holds no bytes of images (columns that do: {listed})")
        return wanted
    if len(found) != 1:
        listed = f"several columns that may ({', '.join(found)})" if found else "no column that does"
        raise ManifestError(f"{path} should hold bytes of images, and has {listed}; name one with --path-column")
    return found[0]


def roles_of(path: str, schema: Any, columns: Columns) -> dict[str, str]:
    """Id, label, split and group → the column that has it; a ManifestError where one that was named is not there."""
    names = {"id": "id", "label": columns.label or "label", "split": "split", "group": columns.group or "group"}
    found = match_columns(Path(path), schema.names, names.values())
    for given in (columns.label, columns.group):
        if given is not None and given not in found:
            raise ManifestError(f"{path} has no column {given!r} (its columns: {', '.join(schema.names)})")
    return {role: schema.names[found[name]] for role, name in names.items() if name in found}


def medium_of(schema: Any, column: str) -> str:
    """What Hugging Face's metadata say that a column holds; images where they say nothing."""
    return MEDIA_OF.get(_features(schema).get(column, {}).get("_type", "Image"), "image")


def items_of(
    where: str, schema: Any, roles: dict[str, str], batches: Iterable[Any], count: int
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """The number of each row, and what it says in its roles; a ManifestError names a row that says no text.

    Parameters
    ----------
    where : str
        What errors call it.
    schema : pyarrow.Schema
    roles : dict
        From `roles_of`.
    batches : iterable of pyarrow tables or batches
        The columns of these roles; a single None where there are no roles.
    count : int
        How many rows there are in all.
    """
    row, features = 0, _features(schema)
    about = {role: features.get(name, {}) for role, name in roles.items()}
    for batch in batches:
        cells = {role: batch[name].to_pylist() for role, name in roles.items()}
        for i in range(len(next(iter(cells.values()))) if cells else count):
            row += 1
            yield row, {role: _said(where, row, role, values[i], about[role]) for role, values in cells.items()}


def _said(path: str, row: int, role: str, value: object, feature: dict[str, Any]) -> str | None:
    """The text of a cell; of Hugging Face's numbers of classes, their names."""
    try:
        names = feature.get("names") or feature.get("feature", {}).get("names")
        if isinstance(names, list):
            value = [_class(names, one) for one in value] if isinstance(value, list) else _class(names, value)
        text = cell_text(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: row {row}: {role} {error}") from error
    return None if text is None or (role == "label" and text.strip() in MISSING) else text.strip() or None


def _class(names: list[Any], value: object) -> object:
    """The name of a class; None where the number says that it is not known."""
    if not isinstance(value, int) or value == -1:
        return None if value == -1 else value
    if not 0 <= value < len(names):
        raise ValueError(f"is {value}, and there are {len(names)} names of classes")
    return names[value]


def files_in(folder: str) -> list[str]:
    """The Parquet files of a folder, and of those of its folders that are called as splits are, or data."""
    places = (folder, *(os.path.join(folder, name) for name in DATA))
    return sorted(
        os.path.join(place, name)
        for place in places
        if os.path.isdir(place)
        for name in os.listdir(place)
        if name.endswith(".parquet") and not name.startswith(".")
    )


def open_parquets(data: object) -> Parquets | None:
    """Parquet or Arrow files whose cells are images; None for tables of anything else.

    Raises
    ------
    ManifestError
        A file is not there or cannot be read.
    DependencyMissing
        Arrow files without pyarrow installed.
    """
    if isinstance(data, str | os.PathLike) and os.path.isdir(data):
        paths, root = files_in(os.fspath(data)), os.path.abspath(data)
    else:
        found = None if _is_gone(data) else root_of(data, PARQUET + ARROW)
        if found is None or is_url(found):
            return None
        root, paths = found, Parquets(found).paths
    if not paths:
        return None
    is_arrow = paths[0].lower().endswith(ARROW)
    try:
        with _Opened(paths[0]) as opened:
            holds = is_arrow or len(paths) > 1 or bool(_image_columns(opened.schema))
    except (DependencyMissing, ManifestError):
        if is_arrow:
            raise
        return None  # what reads tables says what is wrong
    return Parquets(root) if holds else None


def _is_gone(data: object) -> bool:
    """A single table that is not there, or no file, of which those who read tables say so."""
    text = str(data)
    return text.lower().endswith(PARQUET) and not os.path.isfile(text) and not any(char in text for char in "{*?[")
