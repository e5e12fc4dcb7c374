"""How images are shown: all of each, on a square."""

from __future__ import annotations

from featurepipe.images import ImageTransform
from featurepipe.reports.looks.look import Look, Way, jpeg
from featurepipe.sources.source import Content

SIDE = 96  # pixels
FRAMED = ImageTransform((3, SIDE, SIDE), "bilinear", (0.5,) * 3, (0.5,) * 3, 1.0, "border", "draft")


def look(data: Content, part: str | None) -> Look:
    """A small copy of an image, or of a box of it, with a border where it is not square."""
    return Look(picture=jpeg(FRAMED.decode(data, part).transpose(1, 2, 0)))


IMAGES = Way(look, 5000)
