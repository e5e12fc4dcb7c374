"""Files in tar archives, plain or compressed, and samples of webdataset's shards."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import tarfile
import tempfile
import threading
import weakref
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from featurepipe import inputs
from featurepipe.errors import ManifestError
from featurepipe.files import FULL
from featurepipe.sources.archives import Archives, root_of
from featurepipe.sources.containers import Columns, Item, Listing
from featurepipe.sources.sidecars import Member, Sidecars, bundled
from featurepipe.sources.source import Stamp

if TYPE_CHECKING:
    import numpy as np

BLOCK = 512  # bytes, of which archives consist
KEY = 16  # bytes of a hash that stands for a place: two places of one hash do not occur
PIECE = 2**20
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MAGIC: dict[Callable[[str], Any], re.Pattern[bytes]] = {  # how compressed files begin
    gzip.open: re.compile(rb"\x1f\x8b\x08"),
    bz2.open: re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    lzma.open: re.compile(rb"\xfd7zXZ\0"),
}
BROKEN = (EOFError, zlib.error, lzma.LZMAError)  # what the end of a cut stream raises; and OSError without a number


@dataclass(frozen=True)
class Tars(Archives):
    """The regular files of tar archives.

    A plain archive is gone through once, header by header, without reading what is between; then any file is read where
    it lies. 40 bytes of each file stay in memory. A compressed archive cannot be read in places, so it is unpacked into
    a temporary file, once in each process that reads it.

    Where files of one name differ in their suffix (``0001.jpg 0001.cls 0001.json``), they are one sample of a
    webdataset: ``.cls`` is its label, and ``.json`` an object that may have ``label``, ``split`` and ``group``. See
    `featurepipe.sources.sidecars`.

    Attributes
    ----------
    root : str
        An absolute path, or a pattern such as ``/data/shards-{0000..0099}.tar``.
    """

    kind: ClassVar[str] = "tar"
    _held: _Held = field(default_factory=lambda: _Held(), init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root,)  # another process opens the archives itself

    def stamp(self, place: str) -> Stamp | None:
        """See `Source.stamp`: the archive's."""
        path, _, size = self._find(place)
        return self.stamp_of(path, size)

    def read(self, place: str) -> bytes:
        """See `Source.read`; OSError where the archive ends before the file does."""
        path, offset, size = self._find(place)
        if size > inputs.IMAGE_BYTES:
            raise OSError(errno.EFBIG, "it is larger than 1 GiB, the most that is read of such a file", place)
        data = _read(self._file(path), offset, size)
        self.stamp_of(path, 0)
        if len(data) < size:
            raise OSError(errno.EIO, "the archive is cut off within this file", place)
        return data

    def list_items(self, columns: Columns) -> Listing:
        """See `Container.list_items`."""
        if columns.path is not None:
            raise ManifestError(f"{self.root} has no column of paths; leave out --path-column")
        made = Listing(iter(()), is_tree=True)
        made.items = self._items(made, columns)
        return made

    def _items(self, listing: Listing, columns: Columns) -> Iterator[Item]:
        index, sidecars = _Index(), Sidecars(columns, listing.missing)
        for number, path in enumerate(self.paths):
            above, read = self.place(path, ""), partial(self._content, path)
            for bundle in bundled(self._members(path, number, index, listing.remarks)):
                for member, known in sidecars.describe(bundle, path, above, read):
                    yield Item(above + member.name, member.name, **known)
        self._held.index = index.closed()
        sidecars.check(self.root)
        listing.remarks += sidecars.remarks()

    def _members(self, path: str, number: int, index: _Index, remarks: list[str]) -> Iterator[Member]:
        """The files of an archive, which are put into an index; remarks say what is wrong with it."""
        self.stamp_of(path, 0)
        plain = self._plain(path, remarks)
        links: list[tuple[str, str]] = []
        with inputs.opened(plain) as file:
            for found in _scan(file, path, links, remarks):
                index.add(self.place(path, found.name), number, found.offset, found.size)
                yield found
        there, lost = index.closed() if links else None, []
        for name, target in links:
            found_at = there and there.find(self.place(path, target))
            if not found_at:
                lost.append(f"{name} → {target}")
                continue
            index.add(self.place(path, name), *found_at)
            yield Member(name, *found_at[1:])
        if lost:
            remarks.append(f"{path}: left out {_count(lost, 'link')} to what is no file in it, first {lost[0]}")

    def _plain(self, path: str, remarks: list[str]) -> str:
        """A plain tar of this machine."""
        return self._held.unpacked(path, self.local(path), remarks)

    def _file(self, path: str) -> Any:
        return self._held.file(path, lambda: self._plain(path, []))

    def _content(self, path: str, member: Member) -> bytes:
        """The bytes of a member; fewer where the archive is cut off."""
        return _read(self._file(path), member.offset, member.size)

    def _find(self, place: str) -> tuple[str, int, int]:
        """An archive, and where in it a file is."""
        with self._held.opening:
            if self._held.index is None:
                self._held.index = self._indexed().closed()
        found = self._held.index.find(place)
        if found is None:
            why = self._held.unreadable.get(self.parted(place)[0], "it is not in the archive any more")
            raise FileNotFoundError(errno.ENOENT, why, place)
        return self.paths[found[0]], *found[1:]

    def _indexed(self) -> _Index:
        """Where all files are, as far as the archives can be read: the files of others need not suffer."""
        index = _Index()
        for number, path in enumerate(self.paths):
            try:
                for _ in self._members(path, number, index, []):
                    pass
            except (ManifestError, OSError) as error:
                self._held.unreadable[path] = getattr(error, "strerror", None) or str(error)
        return index


def open_tars(data: object) -> Tars | None:
    """Tar archives, if their path or pattern says that they are some.

    Raises
    ------
    ManifestError
        One is not there, or is compressed in a way that is not read.
    """
    if str(data).lower().endswith((".tar.zst", ".tar.lz4")):
        raise ManifestError(f"{data} is compressed in a way that is not read; unpack it to a plain .tar")
    root = root_of(data, SUFFIXES)
    return None if root is None else Tars(root)


class _Held:
    """What a process has of archives: the index, open files and unpacked copies."""

    def __init__(self) -> None:
        self.index: _Closed | None = None
        self.unreadable: dict[str, str] = {}  # archive → why
        self.opening = threading.Lock()
        self._unpacked: dict[str, Any] = {}
        self._files = threading.local()  # a thread mostly stays in one archive

    def unpacked(self, path: str, here: str, remarks: list[str]) -> str:
        """A plain tar: the file itself, or an unpacked copy of it that goes with this process."""
        opener = _opener(here)
        if opener is None:
            return here
        if path not in self._unpacked:
            self._unpacked[path] = copy = _unpack(path, here, opener, remarks)
            weakref.finalize(self, copy.close)
            remarks.append(
                f"{path} is compressed, so each command unpacks it into a temporary file "
                f"({os.path.getsize(copy.name):,} bytes); unpack it to a plain .tar to save that"
            )
        return str(self._unpacked[path].name)

    def file(self, path: str, plain: Callable[[], str]) -> Any:
        """An open archive, which is this thread's own; `plain` says where the plain one is."""
        held = self._files.__dict__
        if held.get("path") != path:
            held.pop("file", None)
            held["file"], held["path"] = _Open(plain(), "rb"), path
        return held["file"]


def _opener(path: str) -> Callable[[str], Any] | None:
    """What unpacks a file, by its first bytes: a link may lead to one without a suffix; None for a plain tar."""
    with inputs.opened(path) as file:
        first = file.read(16)
    return next((opener for opener, magic in MAGIC.items() if magic.match(first)), None)


class _Open(io.FileIO):
    """A file that is closed when nobody has it any more, as when its thread ends."""

    def __del__(self) -> None:
        self.close()


def _unpack(path: str, here: str, opener: Callable[[str], Any], remarks: list[str]) -> Any:
    """A temporary file with the plain archive, as far as it can be unpacked."""
    copy = tempfile.NamedTemporaryFile(suffix=".tar")  # noqa: SIM115  # it is kept
    try:
        with opener(here) as packed:
            while piece := packed.read1(PIECE):  # `read` would lose what comes before a cut
                copy.write(piece)
    except (*BROKEN, OSError) as error:
        if not isinstance(error, OSError) or error.errno is None:
            remarks.append(f"{path} is damaged or cut off ({error}); what lies before that is used")
            copy.flush()
            return copy
        room = "there is no room for it" if error.errno in FULL else error.strerror or str(error)
        raise ManifestError(
            f"{path} cannot be unpacked into {os.path.dirname(copy.name)}: {room}; unpack it to a plain .tar, or name "
            "another folder with TMPDIR"
        ) from error
    copy.flush()
    return copy


def _read(file: Any, offset: int, size: int) -> bytes:
    """Bytes of a file that is open without a buffer; fewer at its end."""
    file.seek(offset)
    parts, left = [], size
    while left and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _scan(file: Any, path: str, links: list[tuple[str, str]], remarks: list[str]) -> Iterator[Member]:
    """The files of a plain archive; hard links are noted. What ends it too early becomes a remark."""
    length = os.fstat(file.fileno()).st_size
    try:
        tar = tarfile.TarFile(fileobj=file)
    except tarfile.TarError as error:
        raise ManifestError(f"{path} cannot be read as a tar archive: {error}") from error
    why, sparse = None, list[str]()
    while why is None:
        try:
            found = tar.next()
        except (tarfile.TarError, ValueError, OverflowError) as error:
            why = str(error)
            break
        if found is None:
            break
        tar.members.clear()  # type: ignore[attr-defined]  # else a kilobyte for each
        if found.islnk():
            links.append((_plain(found.name), _plain(found.linkname)))
        elif found.issym():
            links.append((_plain(found.name), os.path.normpath(os.path.join(_above(found.name), found.linkname))))
        elif found.issparse():
            sparse.append(_plain(found.name))
        elif found.isreg():
            yield Member(_plain(found.name), found.offset_data, found.size)
            if found.offset_data + found.size > length:
                why = f"within {_plain(found.name)}"
    ends = _read(file, tar.offset, BLOCK + tarfile.RECORDSIZE)
    if why is not None or ends[:BLOCK] != bytes(BLOCK):
        about = f" ({why})" if why else ""
        remarks.append(f"{path} is cut off or damaged{about}; what lies before that is used, and the rest is missing")
    elif any(ends):
        remarks.append(
            f"{path} goes on behind its end, as if tars had been joined by cat; what follows is left out; give the "
            "tars one by one, or join them with tar --concatenate"
        )
    if sparse:
        remarks.append(f"{path}: left out {_count(sparse, 'sparse file')}, first {sparse[0]}; pack without --sparse")


def _count(names: list[str], what: str) -> str:
    return f"{len(names):,} {what}{'s' * (len(names) != 1)}"


def _above(name: str) -> str:
    return os.path.dirname(_plain(name))


def _plain(name: str) -> str:
    while name.startswith("./"):
        name = name[2:]
    return name


class _Index:
    """Places and where they are, while they are being found."""

    def __init__(self) -> None:
        self._keys, self._rows = bytearray(), array("q")

    def add(self, place: str, number: int, offset: int, size: int) -> None:
        """Put one in; a later one of the same place is the one that counts."""
        self._keys += _key(place)
        self._rows.extend((number, offset, size))

    def closed(self) -> _Closed:
        """The same, to be looked up in."""
        import numpy as np

        keys = np.frombuffer(bytes(self._keys), f"S{KEY}")
        rows = np.array(self._rows, np.int64).reshape(-1, 3)
        order = np.argsort(keys, kind="stable")
        keys, rows = keys[order], rows[order]
        last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
        return _Closed(keys[last], rows[last])


class _Closed(NamedTuple):
    """Sorted hashes of places (n,), and of each the archive, offset and size (n, 3)."""

    keys: np.ndarray
    rows: np.ndarray

    def find(self, place: str) -> tuple[int, int, int] | None:
        """The number of an archive, the offset and the size; None where the place is not there."""
        import numpy as np

        key = np.array(_key(place), f"S{KEY}")
        at = int(np.searchsorted(self.keys, key))
        if at == len(self.keys) or self.keys[at] != key:
            return None
        number, offset, size = self.rows[at].tolist()
        return number, offset, size


def _key(place: str) -> bytes:
    return blake2b(place.encode("utf-8", "surrogateescape"), digest_size=KEY).digest()
