"""Boxes: parts of an image, as ``x0,y0,x1,y1`` in pixels of the upright image."""

from __future__ import annotations

import re

from PIL import Image

from featurepipe.errors import ImageError
from featurepipe.images.frames import Picture

BOX = re.compile(r"([0-9]{1,9}),([0-9]{1,9}),([0-9]{1,9}),([0-9]{1,9})")


def box_of(part: str, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom edge of a box; the last two are the first column and row outside of it.

    Parameters
    ----------
    part : str
    size : tuple of int
        Width and height of the image.

    Raises
    ------
    ImageError
        It is no box, is empty, or reaches out of the image.

    Examples
    --------
    >>> box_of("10,20,200,180", (640, 480))
    (10, 20, 200, 180)
    """
    found = BOX.fullmatch(part.replace(" ", ""))
    if found is None:
        raise ImageError(f"the part {part!r} is not a box; write whole pixels as x0,y0,x1,y1, such as 10,20,200,180")
    x0, y0, x1, y1 = map(int, found.groups())
    if not (x0 < x1 and y0 < y1):
        raise ImageError(f"the box {part} is empty; x1 must be greater than x0, and y1 greater than y0")
    if x1 > size[0] or y1 > size[1]:
        raise ImageError(f"the box {part} reaches out of the image, which is {size[0]}×{size[1]}; correct the box")
    return x0, y0, x1, y1


def cut(picture: Picture, part: str | None) -> Picture:
    """A box of a whole picture, upright and 8-bit; or all of it."""
    if part is None:
        return picture
    if isinstance(picture, Image.Image):
        return picture.crop(box_of(part, picture.size))
    x0, y0, x1, y1 = box_of(part, (picture.shape[2], picture.shape[1]))
    return picture[:, y0:y1, x0:x1].contiguous()
