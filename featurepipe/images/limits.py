"""What one picture may cost, and all pictures together that are decoded at the same time.

A JPEG may consist of any number of scans, and every one of them takes as long as the whole picture: of more than a
hundred nobody's encoder makes any. Pictures of many pixels take turns, as large files do, so that memory is needed for
a few of them, whatever number of threads decode.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from featurepipe.errors import ImageError
from featurepipe.media import FREE, Turns

SCANS = 100  # libtiff's limit, too
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # none that lies within a scan
SCAN, END = 0xDA, 0xD9
BARE = (0x01, 0xD8)  # markers without a segment
PIXELS = 2 * 89_478_485  # at once, of large pictures: as many as the largest one may have
LARGE = 2**24  # pixels: pictures of fewer do not take turns


def _turns() -> Turns:
    """For this process: on many cores more, so that photos of phones and cameras do not wait for each other."""
    return Turns(max(PIXELS, (os.cpu_count() or 1) * LARGE))


TURNS = _turns()


def _start_anew() -> None:
    """A forked child has none of the threads that hold pixels."""
    global TURNS
    TURNS = _turns()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def turn(size: tuple[int, int]) -> AbstractContextManager[None]:
    """A context in which a picture of that size may be decoded; entering it waits, if it is a large one."""
    pixels = size[0] * size[1]
    return FREE if pixels <= LARGE else TURNS.taken(pixels)


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
