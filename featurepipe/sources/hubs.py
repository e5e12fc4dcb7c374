"""Data sets of Hugging Face's library: by their name on the hub, or a folder that `save_to_disk` wrote."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from featurepipe import inputs
from featurepipe.errors import DependencyMissing, ManifestError
from featurepipe.sources.containers import Columns, Container, Item, Listing
from featurepipe.sources.parquets import (
    DIGITS,
    content_of,
    image_column,
    items_of,
    medium_of,
    roles_of,
    row_errors,
)
from featurepipe.sources.row_groups import BATCH, has_gaps, links_of
from featurepipe.sources.source import Stamp
from featurepipe.sources.tables import cell
from featurepipe.tables import remarks

PREFIX = "hf:"
SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")  # files of `save_to_disk`; the last two go together
ADVICE = (
    "; without a connection, load it where there is one, write it with its method save_to_disk(FOLDER), and give FOLDER"
)


@dataclass(frozen=True)
class Hubs(Container):
    """The images in a data set of the library `datasets`, as they were encoded.

    Attributes
    ----------
    root : str
        ``hf:NAME`` or ``hf:NAME:SPLIT``, or the absolute path of a folder that `save_to_disk` wrote.
    """

    root: str
    kind: ClassVar[str] = "hf"
    _parts: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _stamps: dict[str, Stamp | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    _gaps: dict[tuple[str, str], bool] = field(default_factory=dict, init=False, repr=False, compare=False)
    _opening: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root,)

    def stamp(self, place: str) -> Stamp | None:
        """See `Source.stamp`: that of the library's files, joined with that of a file which the cell names."""
        name, column, row = _parsed(place)
        part, found = self._part(name), self._stamps[name]
        if found is None or not self._may_link(name, column):
            return found
        with row_errors(place, row):
            linked = links_of(_column(part, place, column, row))[0].as_py() or None
            return found if linked is None else Stamp.joined([found, Stamp.of(inputs.status(linked))])

    def read(self, place: str) -> bytes:
        """See `Source.read`; OSError where the cell is empty, or names a file that is not there."""
        name, column, row = _parsed(place)
        with row_errors(place, row):
            data, linked = content_of(_column(self._part(name), place, column, row)[0])
            if linked is not None:
                return inputs.content(linked, inputs.IMAGE_BYTES)
        if data is None:
            raise OSError(errno.ENODATA, f"row {row} has no bytes in the column {column!r}", place)
        return data

    def list_items(self, columns: Columns) -> Listing:
        """See `Container.list_items`."""
        made = Listing(iter(()))
        made.items, made.numbered = self._items(made, columns), lambda: self._items(made, columns, is_numbered=True)
        return made

    def _items(self, listing: Listing, columns: Columns, *, is_numbered: bool = False) -> Iterator[Item]:
        listing.missing.clear()
        several = len(self._opened()) > 1
        for name, part in self._opened().items():
            where, schema = f"{self.root} ({name})", part.features.arrow_schema
            column = image_column(where, schema, columns.path)
            roles = roles_of(where, schema, columns, is_numbered=is_numbered)
            listing.medium = medium_of(schema, column)
            listing.columns = [one for one in schema.names if one not in (column, *roles.values())]
            chosen = part.select_columns([*roles.values()]) if roles else part
            batches = (chosen[i : i + BATCH] for i in range(0, len(part), BATCH)) if roles else iter([None])
            for row, said in items_of(where, schema, roles, batches, len(part), listing.missing):
                id_ = said.pop("id", None) or (f"{name}/" if several else "") + f"{row:0{DIGITS}}"
                yield Item(f"{name}/{cell(column, row)}", id_, **said)
        listing.remarks = remarks(listing.columns, [role for role in roles if role != "id"])

    def _part(self, name: str) -> Any:
        try:
            return self._opened()[name]
        except KeyError:
            raise OSError(errno.ENOENT, f"it has no split {name!r} any more", self.root) from None
        except (ManifestError, DependencyMissing) as error:
            raise OSError(errno.EIO, str(error), self.root) from error

    def _opened(self) -> dict[str, Any]:
        """Its splits, whose rows are given as Arrow: encoded images stay so."""
        with self._opening:
            if not self._parts:
                parts = _load(self.root)
                for name, part in parts.items():  # now, as what is open stays what it is when the files are replaced
                    self._stamps[name] = _stamp_of([one["filename"] for one in part.cache_files])
                self._parts.update(parts)
            return self._parts

    def _may_link(self, name: str, column: str) -> bool:
        """Whether there are cells without bytes in a column, which may name files instead."""
        part = self._part(name)
        if column in part.column_names and (name, column) not in self._gaps:
            self._gaps[name, column] = has_gaps(part.data.column(column))
        return self._gaps.get((name, column), False)


def _stamp_of(files: list[str]) -> Stamp | None:
    """What unchanged files are known by, together; None where there are none, or not any more."""
    try:
        return Stamp.joined([Stamp.of(os.stat(file)) for file in files]) if files else None
    except OSError:
        return None


def _parsed(place: str) -> tuple[str, str, int]:
    """Split, column and row of a place."""
    name, _, inside = place.partition("/")
    column, bracket, number = inside.rpartition("[")
    if not bracket or not number.removesuffix("]").isdecimal():
        raise OSError(errno.EINVAL, "it names no cell, such as train/image[17]", place)
    return name, column, int(number.removesuffix("]"))


def _column(part: Any, place: str, column: str, row: int) -> Any:
    """A column of a single row (1,), as it lies on disk."""
    if column not in part.column_names or not 0 < row <= len(part):
        raise OSError(errno.ENOENT, f"it has no row {row} any more, or no column {column!r}", place)
    return part[row - 1][column]


def _load(root: str) -> dict[str, Any]:
    """Name of a split → data set.

    Raises
    ------
    ManifestError
        The library cannot load it, from the hub or from the folder.
    DependencyMissing
        The library is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise DependencyMissing(f"{root} needs the library datasets: pip install 'featurepipe[hf]'") from error
    name, _, split = root.removeprefix(PREFIX).partition(":")
    try:
        found: Any = (
            datasets.load_dataset(name, split=split or None)
            if root.startswith(PREFIX)
            else datasets.load_from_disk(root)
        )
    except Exception as error:  # of the library, of the hub, of what downloads: nothing says which there may be
        why = " ".join(str(error).split()) or type(error).__name__
        raise ManifestError(f"{root} cannot be loaded: {why}{ADVICE if root.startswith(PREFIX) else ''}") from error
    parts = found if isinstance(found, dict) else {"all": found}
    return {str(key): part.with_format("arrow") for key, part in parts.items()}


def open_hubs(data: object) -> Hubs | None:
    """A data set of Hugging Face's library, if that is what its name or folder says."""
    if not isinstance(data, str | os.PathLike):
        return None
    text = os.fspath(data)
    if text.startswith(PREFIX) and not os.path.exists(text):
        if not text.removeprefix(PREFIX).partition(":")[0]:
            raise ManifestError(f"{text} names no data set; write hf:NAME or hf:NAME:SPLIT")
        return Hubs(text)
    if not os.path.isdir(text):
        return None
    there = [os.path.isfile(os.path.join(text, name)) for name in SAVED]
    return Hubs(os.path.abspath(text)) if there[0] or all(there[1:]) else None
