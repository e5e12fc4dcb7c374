"""Small pictures that a page holds itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping

from PIL import Image

from featurepipe.errors import SampleError
from featurepipe.images import ImageTransform
from featurepipe.media import file_turn
from featurepipe.stores import Pending

SIDE = 96
QUALITY = 75
BYTES = 10_000_000  # of all together
FRAMED = ImageTransform((3, SIDE, SIDE), "bilinear", (0.5,) * 3, (0.5,) * 3, 1.0, "border", "draft")


def thumbnails(images: Mapping[str, Pending], ids: Iterable[str], budget: int = BYTES) -> dict[str, str]:
    """Addresses that are the pictures themselves (``data:``), by id, as far as the budget goes.

    An image that cannot be read any more has none.

    Parameters
    ----------
    images : mapping of str to Pending
        Id → where it is.
    ids : iterable of str
        The most important first.
    budget : int
        Bytes of all together.
    """
    made: dict[str, str] = {}
    for id_ in dict.fromkeys(ids):
        try:
            uri = _uri(images[id_])
        except (OSError, SampleError):
            continue
        budget -= len(uri)
        if budget < 0:
            break
        made[id_] = uri
    return made


def _uri(image: Pending) -> str:
    with file_turn(image.size):
        pixels = FRAMED.decode(image.read(), image.part)
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
