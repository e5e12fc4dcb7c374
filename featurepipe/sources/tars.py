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
import time
import weakref
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
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
RECENT = 2**14  # files behind the first link that are kept unsorted, at the least
CHAIN = 40  # links that lead to links, as in Linux
PATIENCE = 10  # times as long as it took to fail, an archive is left alone before it is read again
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
        self.forget()
        made = Listing(iter(()), is_tree=True)
        made.items = self._items(made, columns)
        return made

    def forget(self) -> None:
        """See `Archives.forget`."""
        super().forget()
        object.__setattr__(self, "_held", _Held())  # other threads may still have files open that were in it

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
        links = dict[str, _Link]()  # those whose end is not known for sure yet
        index.begin()
        with inputs.opened(plain) as file:
            for found in _scan(file, path, remarks):
                if isinstance(found, _Link):
                    if found.is_hard and found.target in links:  # a soft link has another name then
                        found = found._replace(target=links[found.target].target, is_hard=False)
                    there = index.find(self.place(path, found.target))
                    links.pop(found.name, None)
                    if there is None or not found.is_hard:  # a hard link stays with what was there then
                        links[found.name] = found._replace(is_given=there is not None)
                    if there is None:
                        continue
                    at = there
                else:
                    at = number, found.offset, found.size
                index.add(self.place(path, found.name), *at)
                yield Member(found.name, *at[1:])  # in its place, next to its neighbours
        lost = list[str]()
        yield from self._late(path, links, index, lost)
        if lost:
            remarks.append(f"{path}: left out {_count(lost, 'link')} to what is no file in it, first {lost[0]}")

    def _late(self, path: str, links: dict[str, _Link], index: _Index, lost: list[str]) -> Iterator[Member]:
        """What links lead to once the whole archive is known, which is put into an index; others are lost."""
        there = index.closed(index.start) if links else None
        for name, link in links.items():
            own = there and there.find(self.place(path, name))
            if own and own[1] > link.offset:  # a file took its name later
                continue
            found = there and _followed(links, link.target, lambda target: there.find(self.place(path, target)))
            if not found:
                if not link.is_given:
                    lost.append(f"{name} → {link.target}")
                continue
            if found != own:
                index.add(self.place(path, name), *found)
            if not link.is_given:
                yield Member(name, *found[1:])

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
                self._held.index = self._indexed(range(len(self.paths)))
        found = self._held.index.find(place) or self._find_late(place)
        return self.paths[found[0]], *found[1:]

    def _find_late(self, place: str) -> tuple[int, int, int]:
        """Where a file is in an archive that could not be read before; disks and servers fail for a while."""
        path, held = self.parted(place)[0], self._held
        with held.opening:
            lost = held.unreadable.get(path)
            if lost is not None and held.index is not None and time.monotonic() >= lost.until:
                held.index = held.index.joined(self._indexed([self.paths.index(path)]))
            lost, found = held.unreadable.get(path), held.index and held.index.find(place)
        if found:
            return found
        if lost is not None:
            raise OSError(lost.kind, lost.why, place)
        raise FileNotFoundError(errno.ENOENT, "it is not in the archive any more", place)

    def _indexed(self, numbers: Iterable[int]) -> _Closed:
        """Where all files are, as far as the archives can be read: the files of others need not suffer."""
        index, unreadable = _Index(), self._held.unreadable
        for number in numbers:
            path, start = self.paths[number], time.monotonic()
            unreadable.pop(path, None)
            try:
                for _ in self._members(path, number, index, []):
                    pass
            except (ManifestError, OSError) as error:
                now = time.monotonic()
                kind, why = getattr(error, "errno", None), getattr(error, "strerror", None)
                unreadable[path] = _Lost(kind or errno.EIO, why or str(error), now + PATIENCE * (now - start))
        return index.closed()


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


class _Link(NamedTuple):
    """A link in an archive: its name, where it stands, and the name of what it leads to.

    Who unpacks an archive gives a hard link the file that has the name by then, and a soft one that which has it in
    the end.
    """

    name: str
    offset: int
    target: str
    is_hard: bool
    is_given: bool = False  # as a file of its own, before the end was known


class _Lost(NamedTuple):
    """Why an archive cannot be read, and until when nobody tries again."""

    kind: int
    why: str
    until: float


class _Held:
    """What a process has of archives: the index, open files and unpacked copies."""

    def __init__(self) -> None:
        self.index: _Closed | None = None
        self.unreadable: dict[str, _Lost] = {}  # archive → why
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


def _followed(
    links: dict[str, _Link], target: str, find: Callable[[str], tuple[int, int, int] | None]
) -> tuple[int, int, int] | None:
    """The file at the end of a chain of links."""
    for _ in range(CHAIN):
        found, link = find(target), links.get(target)
        if link is None or (found is not None and found[1] > link.offset):
            return found
        target = link.target
    return None


def _scan(file: Any, path: str, remarks: list[str]) -> Iterator[Member | _Link]:
    """The files and links of a plain archive, in order. What ends it too early becomes a remark."""
    length = os.fstat(file.fileno()).st_size
    try:
        tar = tarfile.TarFile(fileobj=file)
    except tarfile.TarError as error:
        raise ManifestError(f"{path} cannot be read as a tar archive: {error}") from error
    why, sparse = None, list[str]()
    while why is None:
        try:
            found = tar.next()
        except (tarfile.TarError, ValueError, OverflowError, MemoryError) as error:  # of sizes that headers claim
            why = str(error)
            break
        if found is None:
            break
        tar.members.clear()  # type: ignore[attr-defined]  # else a kilobyte for each
        if found.islnk():
            yield _Link(_plain(found.name), found.offset, _plain(found.linkname), is_hard=True)
        elif found.issym():
            target = os.path.normpath(os.path.join(_above(found.name), found.linkname))
            yield _Link(_plain(found.name), found.offset, target, is_hard=False)
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
        self.start = 0  # of the archive that is being gone through
        self._sorted: _Closed | None = None  # of this archive, where something was looked up in it
        self._recent: dict[bytes, int] = {}  # hash → number, of those that came since

    def add(self, place: str, number: int, offset: int, size: int) -> None:
        """Put one in; a later one of the same place is the one that counts."""
        key = _key(place)
        if self._sorted is not None:
            self._recent[key] = len(self)
        self._keys += key
        self._rows.extend((number, offset, size))

    def begin(self) -> None:
        """Say that an archive begins."""
        self.start, self._sorted = len(self), None

    def __len__(self) -> int:
        return len(self._rows) // 3

    def find(self, place: str) -> tuple[int, int, int] | None:
        """See `_Closed.find`, in this archive as far as it is known."""
        if self._sorted is None or len(self._recent) > max(RECENT, len(self._sorted.keys) // 2):
            self._sorted = self.closed(self.start)
            self._recent.clear()
        at = self._recent.get(_key(place))
        if at is None:
            return self._sorted.find(place)
        number, offset, size = self._rows[3 * at : 3 * at + 3]
        return number, offset, size

    def closed(self, start: int = 0) -> _Closed:
        """The same, to be looked up in; without what was put in before the one of this number."""
        import numpy as np

        keys = np.frombuffer(bytes(memoryview(self._keys)[KEY * start :]), f"S{KEY}")
        return _Closed.of(keys, np.array(self._rows[3 * start :], np.int64).reshape(-1, 3))


class _Closed(NamedTuple):
    """Sorted hashes of places (n,), and of each the archive, offset and size (n, 3)."""

    keys: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, rows: np.ndarray) -> _Closed:
        """From these in any order; the last of each hash counts."""
        import numpy as np

        order = np.argsort(keys, kind="stable")
        keys, rows = keys[order], rows[order]
        last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
        return cls(keys[last], rows[last])

    def joined(self, other: _Closed) -> _Closed:
        """With what another one has."""
        import numpy as np

        return self.of(np.concatenate([self.keys, other.keys]), np.concatenate([self.rows, other.rows]))

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
