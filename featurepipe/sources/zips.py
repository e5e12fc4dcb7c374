"""Files in zip archives."""

from __future__ import annotations

import errno
import lzma
import struct
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from featurepipe import inputs
from featurepipe.errors import ManifestError
from featurepipe.sources.archives import Archives, as_os_error, root_of
from featurepipe.sources.containers import Columns, Item, Listing
from featurepipe.sources.source import Stamp

OPEN, MOST = 16, 64  # archives at once: always, and at most
ENTRIES = 2**18  # files of the archives that are open, above which no more than the first number stay open
BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OverflowError,
    UnicodeDecodeError,  # of names
    RuntimeError,  # passwords
    NotImplementedError,  # kinds of compression
)


@dataclass(frozen=True)
class Zips(Archives):
    """The files of zip archives; Python's own reader needs about a kilobyte of memory for each.

    Attributes
    ----------
    root : str
        An absolute path, or a pattern such as ``/data/part-*.zip``.
    """

    kind: ClassVar[str] = "zip"
    _open: OrderedDict[str, zipfile.ZipFile] = field(default_factory=OrderedDict, init=False, repr=False, compare=False)
    _opening: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root,)

    def stamp(self, place: str) -> Stamp | None:
        """See `Source.stamp`: the archive's."""
        path, found = self._find(place)
        return self.stamp_of(path, found.file_size)

    def read(self, place: str) -> bytes:
        """See `Source.read`; OSError where the archive is damaged there, or wants a password."""
        path, found = self._find(place)
        if found.file_size > inputs.IMAGE_BYTES:
            raise OSError(errno.EFBIG, "it is larger than 1 GiB, the most that is read of such a file", place)
        try:
            data = self._archive(path).read(found)
        except BROKEN as error:
            raise OSError(errno.EIO, f"the archive cannot be read there ({error})", place) from error
        self.stamp_of(path, 0)
        return data

    def list_items(self, columns: Columns) -> Listing:
        """See `Container.list_items`."""
        if columns != Columns():
            raise ManifestError(f"{self.root} has no columns; leave out --path-column, --label-column and --group")
        self.forget()
        return Listing(self._items(), is_tree=True)

    def forget(self) -> None:
        """See `Archives.forget`."""
        super().forget()
        self._open.clear()

    def _items(self) -> Iterator[Item]:
        for path in self.paths:
            try:
                files = self._archive(path).infolist()
            except BROKEN as error:
                raise ManifestError(
                    f"{path} cannot be read as a zip archive: {error}; its list of files is at its end; copy it again"
                ) from error
            is_foreign = not any("/" in found.filename for found in files)
            for found in files:
                name = found.filename.replace("\\", "/") if is_foreign else found.filename  # as some of Windows write
                if not name.endswith("/"):
                    yield Item(self.place(path, name), name)

    def _archive(self, path: str) -> zipfile.ZipFile:
        """An open archive, which threads share."""
        with self._opening:
            found = self._open.get(path)
            if found is None:
                here = self.local(path)
                self.stamp_of(path, 0)
                found = self._open[path] = zipfile.ZipFile(here)
                while self._has_too_many():
                    self._open.popitem(last=False)  # closed when no thread reads it any more
            self._open.move_to_end(path)
            return found

    def _has_too_many(self) -> bool:
        count = len(self._open)
        return count > OPEN and (count > MOST or sum(len(one.filelist) for one in self._open.values()) > ENTRIES)

    def _find(self, place: str) -> tuple[str, zipfile.ZipInfo]:
        path, name = self.parted(place)
        try:
            with as_os_error(place):
                known = self._archive(path).NameToInfo
        except BROKEN as error:
            raise OSError(errno.EIO, f"it cannot be read as a zip archive ({error})", path) from error
        found = known.get(name) or known.get(name.replace("/", "\\"))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "it is not in the archive any more", place)
        return path, found


def open_zips(data: object) -> Zips | None:
    """Zip archives, if their path or pattern says that they are some; ManifestError where one is not there."""
    root = root_of(data, (".zip",))
    return None if root is None else Zips(root)
