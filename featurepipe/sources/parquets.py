"""Images in the cells of Parquet and Arrow files."""

from __future__ import annotations

import errno
import json
import os
import threading
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from featurepipe import inputs
from featurepipe.errors import DependencyMissing, ManifestError
from featurepipe.sources.archives import Archives, as_os_error, root_of
from featurepipe.sources.containers import Columns, Item, Listing
from featurepipe.sources.roots import is_url
from featurepipe.sources.row_groups import ARROW, RowFile
from featurepipe.sources.source import Stamp
from featurepipe.sources.tables import cell
from featurepipe.tables import remarks, require_pyarrow
from featurepipe.tables.cells import MISSING, cell_text
from featurepipe.tables.columns import match_columns

PARQUET = (".parquet",)
CACHED = 2**30  # bytes of row groups that are kept: a row cannot be read without its group
LINKED = 2**28  # bytes of the paths in cells that are kept
LINKED_GROUPS = 4096  # row groups of which they are, at most
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
    _links: OrderedDict[tuple[str, str, int], Any] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )
    _bounds: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _gaps: dict[tuple[str, str], list[bool]] = field(default_factory=dict, init=False, repr=False, compare=False)
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
        """See `Source.stamp`: the file's, joined with that of a file which the cell names; the length is not known.

        Bytes are only read where there is a file of that name: mostly, a name is all that is left of it.
        """
        path, column, row = self._parsed(place)
        found = self.stamp_of(path, 0)
        linked = self._link(path, column, row)
        if found is None or linked is None:
            return found
        try:
            other = Stamp.of(inputs.status(_beside(path, linked)))
        except (OSError, ValueError):  # which reading the cell raises, too, if it is a link
            return found
        data, _ = self._cell(path, column, row)
        return Stamp.joined([found, other]) if data is None else found

    def read(self, place: str) -> bytes:
        """See `Source.read`; OSError where the cell is empty."""
        path, column, row = self._parsed(place)
        data, linked = self._cell(path, column, row)
        self.stamp_of(path, 0)
        if linked is not None:
            with row_errors(path, row):
                return inputs.content(_beside(path, linked), inputs.IMAGE_BYTES)
        if data is None:
            raise OSError(errno.ENODATA, f"row {row} has no bytes in the column {column!r}", place)
        return data

    def list_items(self, columns: Columns) -> Listing:
        """See `Container.list_items`."""
        self.forget()
        made = Listing(iter(()))
        made.items, made.numbered = self._items(made, columns), lambda: self._items(made, columns, is_numbered=True)
        return made

    def forget(self) -> None:
        """See `Archives.forget`."""
        super().forget()
        for known in (self._groups, self._links, self._bounds, self._gaps):
            known.clear()

    def _items(self, listing: Listing, columns: Columns, *, is_numbered: bool = False) -> Iterator[Item]:
        listing.missing.clear()
        for path in self.paths:
            self.stamp_of(path, 0)
            with RowFile(path) as opened:
                column = image_column(path, opened.schema, columns.path)
                listing.medium = medium_of(opened.schema, column)
                roles = roles_of(path, opened.schema, columns, is_numbered=is_numbered)
                used = [column, *(roles.values())]
                listing.columns = [name for name in opened.schema.names if name not in used]
                batches = opened.batches([*roles.values()])
                for row, said in items_of(path, opened.schema, roles, batches, opened.rows, listing.missing):
                    id_ = said.pop("id", None) or self.place(path, f"{row:0{DIGITS}}")
                    yield Item(self.place(path, cell(column, row)), id_, **said)
        listing.remarks = remarks(listing.columns, [role for role in roles if role != "id"])

    def _parsed(self, place: str) -> tuple[str, str, int]:
        """File, column and row of a place."""
        path, inside = self.parted(place)
        column, bracket, number = inside.rpartition("[")
        if not bracket or not number.removesuffix("]").isdecimal():
            raise OSError(errno.EINVAL, "it names no cell, such as image[17]", place)
        return path, column, int(number.removesuffix("]"))

    def _cell(self, path: str, column: str, row: int) -> tuple[bytes | None, str | None]:
        """See `content_of`."""
        with row_errors(path, row), self._opening:
            number = self._group_of(path, row)
            held = self._group(path, column, number)
            start = self._start(path, number)
        with row_errors(path, row):
            return content_of(held[row - 1 - start])

    def _link(self, path: str, column: str, row: int) -> str | None:
        """The file that a cell may name instead of having bytes, which are not read."""
        with row_errors(path, row), self._opening:
            number = self._group_of(path, row)
            if (path, column) not in self._gaps:
                with RowFile(path) as opened:
                    self._gaps[path, column] = opened.gaps(column)
            if not self._gaps[path, column][number]:
                return None
            if (path, column, number) not in self._links:
                with RowFile(path) as opened:
                    made = opened.links(number, column)
                self._links[path, column, number] = made, made.nbytes  # to ask for it takes as long as some of these
                while len(self._links) > LINKED_GROUPS or (
                    sum(size for _, size in self._links.values()) > LINKED and len(self._links) > 1
                ):
                    self._links.popitem(last=False)
            self._links.move_to_end((path, column, number))
            link = self._links[path, column, number][0][row - 1 - self._start(path, number)]
            try:
                return link.as_py() or None
            except UnicodeDecodeError:  # there may be bytes next to it; if not, reading says what is wrong
                return None

    def _start(self, path: str, number: int) -> int:
        """How many rows there are before a group."""
        return self._bounds[path][number - 1] if number else 0

    def _group_of(self, path: str, row: int) -> int:
        """The number of the group of a row; the caller holds the lock."""
        if path not in self._bounds:
            self.stamp_of(path, 0)
            with RowFile(path) as opened:
                self._bounds[path] = opened.bounds
        bounds = self._bounds[path]
        if not 0 < row <= (bounds or [0])[-1]:
            raise OSError(errno.ENOENT, f"it has no row {row} any more", path)
        return bisect_left(bounds, row)

    def _group(self, path: str, column: str, number: int) -> Any:
        """The column of a row group, kept as long as there is room; the caller holds the lock."""
        key = path, column, number
        if key not in self._groups:
            with RowFile(path) as opened:
                self._groups[key] = opened.group(number, column)
            while sum(one.nbytes for one in self._groups.values()) > CACHED and len(self._groups) > 1:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


@contextmanager
def row_errors(path: str, row: int) -> Iterator[None]:
    """Errors of pyarrow, and of what a cell says, as those of the row that is read."""
    pyarrow = require_pyarrow()
    try:
        with as_os_error(path):
            yield
    except (pyarrow.ArrowException, KeyError, ValueError) as error:  # also of text, which Parquet does not look at
        raise OSError(errno.EIO, f"row {row} cannot be read: {error}", path) from error


def content_of(cell: Any) -> tuple[bytes | None, str | None]:
    """What a cell, a scalar of pyarrow, has: the bytes of a file, or else the path of one, or neither."""
    if not require_pyarrow().types.is_struct(cell.type):
        data = cell.as_py()
    elif (data := _part(cell, "bytes")) is None:  # a path next to bytes is not looked at: it may be damaged
        return None, _part(cell, "path") or None
    return (data if isinstance(data, bytes) else None), None


def _part(cell: Any, name: str) -> Any:
    """A field of a cell, None where there is none."""
    return cell[name].as_py() if cell.is_valid and cell.type.get_field_index(name) >= 0 else None


def _beside(path: str, linked: str) -> str:
    """The file that a cell names, from the folder of the cell's own file."""
    return os.path.join(os.path.dirname(path), linked)


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


def roles_of(path: str, schema: Any, columns: Columns, *, is_numbered: bool = False) -> dict[str, str]:
    """Id, label, split and group → the column that has it; a ManifestError where one that was named is not there.

    If rows are numbered, no column has their ids.
    """
    names = {"id": "id", "label": columns.label or "label", "split": "split", "group": columns.group or "group"}
    found = match_columns(Path(path), schema.names, names.values())
    for given in (columns.label, columns.group):
        if given is not None and given not in found:
            raise ManifestError(f"{path} has no column {given!r} (its columns: {', '.join(schema.names)})")
    if is_numbered:
        del names["id"]
    return {role: schema.names[found[name]] for role, name in names.items() if name in found}


def medium_of(schema: Any, column: str) -> str:
    """What Hugging Face's metadata say that a column holds; images where they say nothing."""
    return MEDIA_OF.get(_features(schema).get(column, {}).get("_type", "Image"), "image")


def items_of(
    where: str, schema: Any, roles: dict[str, str], batches: Iterable[Any], count: int, missing: Counter[str]
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
    missing : Counter
        Takes texts that mean no label.
    """
    row, features = 0, _features(schema)
    about = {role: features.get(name, {}) for role, name in roles.items()}
    for batch in batches:
        cells = {role: _cells(where, row, batch[name]) for role, name in roles.items()}
        for i in range(len(next(iter(cells.values()))) if cells else count):
            row += 1
            said = {role: _said(where, row, role, values[i], about[role]) for role, values in cells.items()}
            label = said.get("label")
            if label in MISSING:
                missing[label] += 1
                said["label"] = None
            yield row, said


def _cells(where: str, before: int, column: Any) -> list[Any]:
    """What is in a column; a ManifestError names the rows among which text is damaged."""
    try:
        found: list[Any] = column.to_pylist()
    except UnicodeDecodeError as error:
        rows = f"rows {before + 1:,} to {before + len(column):,}"
        raise ManifestError(f"{where}: {rows} have text that is not UTF-8 ({error}); write the file again") from error
    return found


def _said(path: str, row: int, role: str, value: object, feature: dict[str, Any]) -> str | None:
    """The text of a cell; of Hugging Face's numbers of classes, their names."""
    try:
        names = feature.get("names") or feature.get("feature", {}).get("names")
        if isinstance(names, list):
            value = [_class(names, one) for one in value] if isinstance(value, list) else _class(names, value)
        text = cell_text(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: row {row}: {role} {error}") from error
    return None if text is None else text.strip() or None


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
    is_arrow, is_folder = paths[0].lower().endswith(ARROW), os.path.isdir(root)
    try:
        holds = is_arrow or (len(paths) > 1 and not is_folder) or any(map(_has_images, paths))
    except (DependencyMissing, ManifestError):
        if is_arrow:
            raise
        return None  # what reads tables says what is wrong
    return Parquets(root) if holds else None


def _has_images(path: str) -> bool:
    """Whether a file has a column of images; a folder of image files may hold tables of what is known of them."""
    with RowFile(path) as opened:
        return bool(_image_columns(opened.schema))


def _is_gone(data: object) -> bool:
    """A single table that is not there, or no file, of which those who read tables say so."""
    text = str(data)
    return text.lower().endswith(PARQUET) and not os.path.isfile(text) and not any(char in text for char in "{*?[")
