"""What one picture may cost, and all pictures together that are decoded at the same time.

A JPEG may consist of any number of scans, and every one of them takes as long as the whole picture: of more than a
hundred nobody's encoder makes any. Pictures of many pixels take turns, and so do large files, so that memory is needed
for a few of them, whatever number of threads decode. What the largest leave behind is given back to the system at
once: the C library would keep it for the thread that had it, and every thread has a large one sooner or later.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from itertools import islice
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from featurepipe.errors import ImageError

SCANS = 100  # libtiff's limit, too
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # none that lies within a scan
SCAN, END = 0xDA, 0xD9
BARE = (0x01, 0xD8)  # markers without a segment
PIXELS = 2 * 89_478_485  # at once, of large pictures: as many as the largest one may have
LARGE = 2**24  # pixels: pictures of fewer do not take turns
HUGE = 2**26  # pixels: of larger pictures the memory is given back, which takes some hundred milliseconds
BYTES = 2**30  # at once, of large files: as many as the largest one may have
LARGE_FILE = 2**24  # bytes: files of fewer do not take turns
FREE = nullcontext()


class Turns:
    """Lets threads have pixels as long as there are some left, in the order in which they ask.

    Parameters
    ----------
    pixels : int
        That may be had at once.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = self._left = pixels
        self._next, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Within, this many are taken; more than exist count as all of them."""
        pixels = min(pixels, self._pixels)
        with self._next, self._changed:  # who comes later waits behind this one, however few pixels it wants
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            if pixels > HUGE:
                _give_back()
            with self._changed:
                self._left += pixels
                self._changed.notify_all()


def _give_back() -> None:
    """Give memory that is free back to the system, of all threads, where the C library is glibc."""
    library = _libc()
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def _turns() -> Turns:
    """For this process: on many cores more, so that photos of phones and cameras do not wait for each other."""
    return Turns(max(PIXELS, (os.cpu_count() or 1) * LARGE))


TURNS, READING = _turns(), Turns(BYTES)


def _start_anew() -> None:
    """A forked child has none of the threads that hold pixels."""
    global TURNS, READING
    TURNS, READING = _turns(), Turns(BYTES)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def turn(size: tuple[int, int]) -> AbstractContextManager[None]:
    """A context in which a picture of that size may be decoded; entering it waits, if it is a large one."""
    pixels = size[0] * size[1]
    return FREE if pixels <= LARGE else TURNS.taken(pixels)


def file_turn(size: int) -> AbstractContextManager[None]:
    """A context in which a file of that size, in bytes, may be held; entering it waits, if the file is large.

    Within, a picture may wait for its turn, but not the other way round: so no two wait for each other.
    """
    return FREE if size <= LARGE_FILE else READING.taken(size)


def check_scans(image: Image.Image, data: bytes | bytearray) -> None:
    """Refuse a JPEG of more scans than anybody makes, before it is decoded.

    Parameters
    ----------
    image : PIL.Image.Image
        Just opened, its pixels not loaded.
    data : bytes or bytearray
        Its file.

    Raises
    ------
    ImageError
        It has more than `SCANS`.
    """
    if _is_single(image, data):
        return
    if next(islice(_scans(data), SCANS, None), None) is not None:
        raise ImageError(f"a JPEG of more than {SCANS} scans, which takes very long to decode; save it again")


def _is_single(image: Image.Image, data: bytes | bytearray) -> bool:
    """Whether the first scan, before whose pixels Pillow has stopped reading, has all that is decoded."""
    if "progressive" in image.info:
        return False
    assert isinstance(image, JpegImageFile)
    assert image.fp is not None  # it is not loaded yet
    length = 6 + 2 * image.layers
    start = image.fp.tell() - length
    return start >= 2 and data[start - 2 : start + 3] == bytes([0xFF, SCAN, 0, length, image.layers])


def _scans(data: bytes | bytearray) -> Iterator[int]:
    """Where the scans of a JPEG begin, up to its end; what follows that, such as other pictures, is not decoded."""
    at = 2
    while found := MARKER.search(data, at):
        at, kind = found.end(), data[found.end() - 1]
        if kind == END:
            return
        if kind == SCAN:
            yield at
        if kind not in BARE:
            at += int.from_bytes(data[at : at + 2], "big")
