"""Opening files that somebody else made: regular ones, without waiting for them, and none that is too large.

A name may lead to anything: to a pipe that nobody writes to, a device, a socket, or a file of the kernel's that gives
its content when something happens. Reading these would never end.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from os import PathLike
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

IMAGE_BYTES = 2**30  # of the largest image file that is read
PIECE = 2**20
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
WRONG = (errno.EFBIG, errno.EINVAL, errno.EISDIR, errno.EAGAIN)  # of what this module raises about a file that is none
KINDS = (
    (stat.S_ISDIR, errno.EISDIR, os.strerror(errno.EISDIR)),
    (stat.S_ISFIFO, errno.EINVAL, "it is a pipe, not a file"),
    (stat.S_ISSOCK, errno.EINVAL, "it is a socket, not a file"),
    (stat.S_ISCHR, errno.EINVAL, "it is a device, not a file"),
    (stat.S_ISBLK, errno.EINVAL, "it is a device, not a file"),
)

Found = TypeVar("Found")


class Patient(io.FileIO):
    """An open file that raises where it would have to be waited for, which `io.FileIO` does not."""

    def read(self, size: int | None = -1) -> bytes:  # noqa: D102
        return self._given(super().read(size))

    def readall(self) -> bytes:  # noqa: D102
        return self._given(super().readall())

    def readinto(self, buffer: WriteableBuffer) -> int:  # noqa: D102
        return self._given(super().readinto(buffer))

    def _given(self, found: Found | None) -> Found:
        if found is None:
            raise BlockingIOError(errno.EAGAIN, "it gives its content only when something happens", self.name)
        return found


def status(path: str | PathLike[str], most: int | None = None) -> os.stat_result:
    """`os.stat` of a regular file of at most this many bytes.

    Raises
    ------
    OSError
        It is something else, or larger; the message says what.
    """
    found = os.stat(path)
    _check(path, found, most)
    return found


def opened(path: str | PathLike[str], most: int | None = None) -> Patient:
    """A regular file, open for reading bytes, without a buffer; where it would have to be waited for, reading fails.

    Parameters
    ----------
    path : path
        Links are followed.
    most : int, optional
        Bytes that it may have.

    Raises
    ------
    OSError
        As for `status`.
    """
    status(path, most)  # to open a device may already do something
    file = Patient(os.open(path, FLAGS))
    try:
        file.name = path
        _check(path, os.fstat(file.fileno()), most)
    except BaseException:
        file.close()
        raise
    return file


def content(path: str | PathLike[str], most: int) -> bytes:
    """All bytes of a regular file, once in memory.

    Raises
    ------
    OSError
        As for `status`; also where it gives more than it said it has.
    """
    with opened(path, most) as file:
        parts = [file.read(os.fstat(file.fileno()).st_size)]
        length = len(parts[0])
        while part := file.read(PIECE):
            parts.append(part)
            length += len(part)
            if length > most:
                raise _too_large(path, most)
    return b"".join(parts)  # of a single one no copy


def _check(path: str | PathLike[str], found: os.stat_result, most: int | None) -> None:
    for is_, number, why in KINDS:
        if is_(found.st_mode):
            raise OSError(number, why, path)
    if most is not None and found.st_size > most:
        raise _too_large(path, most)


def _too_large(path: str | PathLike[str], most: int) -> OSError:
    bound = f"{most / 2**30:.3g} GiB" if most >= 2**30 else f"{most / 2**20:.3g} MiB"
    return OSError(errno.EFBIG, f"it is larger than {bound}, the most that is read of such a file", path)
