"""How images are shown: all of each, as large as a square lets it be."""

from __future__ import annotations

import numpy as np

from featurepipe.images import ImageTransform
from featurepipe.reports.looks.look import Look, Way, jpeg
from featurepipe.sources.source import Content

SIDE = 96  # pixels
FRAMED = ImageTransform((3, SIDE, SIDE), "bilinear", (0.5,) * 3, (0.5,) * 3, 1.0, "border", "draft")
GREY = round(255 * FRAMED.mean[0])  # of the border


def look(data: Content, part: str | None) -> Look:
    """A small copy of an image, or of a box of it."""
    return Look(picture=jpeg(_unframed(FRAMED.decode(data, part).transpose(1, 2, 0))))


def _unframed(pixels: np.ndarray) -> np.ndarray:
    """The same (h, w, 3) without the border that makes it square."""
    is_border = (pixels == GREY).all(axis=2)  # (h, w)
    if is_border.all():
        return pixels
    rows, columns = (np.flatnonzero(~is_border.all(axis=axis)) for axis in (1, 0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


IMAGES = Way(look, 5000)
