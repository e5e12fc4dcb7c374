"""Which way up an image is: one rule for every decoder.

The rule is Pillow's own: what EXIF says, else what XMP says, wherever a format keeps them. No other library's reading
is used: those of torchvision and torchcodec know neither XMP nor big-endian LONGs, and a decoder that turns images by a
rule of its own makes other pixels of the same file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image

if TYPE_CHECKING:
    import torch

UPRIGHT = {  # orientation -> what undoes it in Pillow; of a tensor (C, h, w), whether to transpose, then axes to flip
    2: (Image.Transpose.FLIP_LEFT_RIGHT, False, (2,)),
    3: (Image.Transpose.ROTATE_180, False, (1, 2)),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, False, (1,)),
    5: (Image.Transpose.TRANSPOSE, True, ()),
    6: (Image.Transpose.ROTATE_270, True, (2,)),
    7: (Image.Transpose.TRANSVERSE, True, (1, 2)),
    8: (Image.Transpose.ROTATE_90, True, (1,)),
}


def orientation_of(image: Image.Image) -> int | None:
    """The orientation of an opened image, 2 to 8; None if it is upright or does not say.

    A PNG may say so after its pixels, and a TIFF turns itself when it is loaded: load those before.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Warning:  # raised only where the process turns warnings into errors: without that, Pillow would go on
        raise
    except Exception:  # the pixels are whole, whatever the metadata are like
        return None
    return orientation if orientation in UPRIGHT else None


def upright(image: Image.Image) -> Image.Image:
    """The image, loaded and turned upright; ImageOps.exif_transpose also rewrites other tags, and fails on odd ones."""
    image.load()
    orientation = orientation_of(image)
    return image if orientation is None else image.transpose(UPRIGHT[orientation][0])


def upright_array(array: np.ndarray, orientation: int | None) -> np.ndarray:
    """Samples (h, w, B) as they are stored, turned upright."""
    if orientation not in UPRIGHT:
        return array
    _, transposed, flipped = UPRIGHT[orientation]
    array = array.swapaxes(0, 1) if transposed else array
    return np.flip(array, tuple(axis - 1 for axis in flipped))  # of (C, h, w) the axes are one further


def upright_tensor(tensor: torch.Tensor, orientation: int | None) -> torch.Tensor:
    """Pixels (C, h, w) as they are stored, turned upright."""
    if orientation is None:
        return tensor
    _, transposed, flipped = UPRIGHT[orientation]
    tensor = tensor.transpose(1, 2) if transposed else tensor
    return tensor.flip(flipped) if flipped else tensor
