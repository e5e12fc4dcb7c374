"""The seam that every kind of source plugs into."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, TypeAlias

from featurepipe.digests import sha256_bytes, sha256_json

if TYPE_CHECKING:
    import numpy as np

Content: TypeAlias = "bytes | np.ndarray"  # a file's bytes, or what is decoded already


class Stamp(NamedTuple):
    """What an unchanged content is known by.

    Size and modification time alone would take a file for the one that had its name before, where both are of one size
    and their times have been normalised: files that were renamed, folders too, and links that now lead elsewhere.
    `size` is the number of bytes that reading the place gives; 0 where that is not known before.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Of the file itself, where its path leads over links."""
        inode = status.st_ino & (2**63 - 1)  # so that it fits a signed column, whatever the file system counts in
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode)

    def resembles(self, other: Stamp) -> bool:
        """Whether size and modification time are the same.

        For what is open, that is enough. A new mode or another link changes the change time and no byte, and some file
        systems number their files anew all the time.
        """
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)

    @classmethod
    def joined(cls, stamps: Sequence[Stamp]) -> Stamp:
        """Of several files that have a content together, of which nobody knows how long it is."""
        inode = int(sha256_json([list(one) for one in stamps])[:15], 16)
        return cls(0, max(one.mtime_ns for one in stamps), max(one.ctime_ns for one in stamps), inode)


NO_STAMP = Stamp(-1, 0, 0, 0)  # of a content of which nothing could be trusted


class Source(Protocol):
    """Gives the content of places; derive from it for the two members that most sources need not write.

    Its methods raise OSError where a place cannot be read. Threads call them at the same time, and processes get a
    pickled copy.

    Attributes
    ----------
    kind : str
        The name of its class in `SOURCES`, which a store records.
    root : str
        What all places are in, such as a folder: text from which ``SOURCES[kind]`` makes the source again.
    placed : bool
        Whether the root may be a place of the file system, rather than just a name.
    numbered : bool
        Whether places are mere numbers, and the root just a kind: equal ones do not mean that it is the same data set.
    alone : bool
        Whether each place is a file of its own: what happens to other places says nothing of its content.
    outdated : bool
        Whether it was seen that what is open is not what is there any more: who wants to read on makes it again.
    """

    kind: ClassVar[str]
    root: str
    placed: ClassVar[bool] = True
    numbered: ClassVar[bool] = False
    alone: ClassVar[bool] = False

    @property
    def outdated(self) -> bool:  # noqa: D102
        return False

    def stamp(self, place: str) -> Stamp | None:
        """What an unchanged content is known by, found out without reading it; None where nothing tells."""
        return None

    def digest(self, place: str) -> str:
        """Hexadecimal sha256 of a content; of an array, what `featurepipe.sources.sha256_content` gives."""
        data = self.read(place)
        assert isinstance(data, bytes)  # a source of arrays says what their digest is
        return sha256_bytes(data)

    def read(self, place: str) -> Content:
        """A content: bytes as of a file, or an array if there never was a file."""
        ...

    def share(self, places: Collection[str]) -> Source:
        """What another process needs to read these places; itself, unless it holds the contents."""
        return self


def lasting_root(source: Source) -> str:
    """A source's root, as it names the same place in every working directory."""
    return os.path.realpath(source.root) if source.placed and os.path.exists(source.root) else source.root
