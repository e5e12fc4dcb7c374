"""The depth of an image's samples: what is black, what is white, and the 8 bits that become of them.

A ramp from black to white comes out as one, or the image is refused with a way out:

- Samples of up to 8 bits, and colours of 16: Pillow scales them by their declared depth.
- Greyscale of 16 bits (TIFF, PNG, PGM, JPEG 2000, …): 65535 is white. A TIFF of 12 bits is scaled by 4095; one whose
  MaxSampleValue is the highest value of 9 to 15 bits (1023, 4095, 16383, …), by that. Where it says that 0 is white,
  it is.
- Samples of 16 bits that nowhere reach 4096, though they are not all 0: refused. They are 12-bit data (of a camera, a
  microscope, depth in millimetres), or a photo so dark that 8 bits would keep at most 16 nearly black shades. The file
  does not say which, and to scale each image by its own brightest sample would make different images look alike.
  Pillow keeps only the upper 8 bits of colours: where these are all 0, so may be the image, but 8-bit data in 16 bits
  look the same, and are refused.
- Samples of 16 bits that do reach 4096 are taken for what the file declares: 14-bit data look like a dark photo.
- Integers of 32 bits have no white of their own. They are read as 16 bits if they need all 16, else refused.
- Signed samples of up to 16 bits, and floating-point samples: refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as Tag

from featurepipe.errors import ImageError

WHITE, LEAST = 65535, 4096  # of 16 bits: what is white, and what some sample must reach
CLAIMS = {2**bits - 1 for bits in range(9, 16)}  # what a MaxSampleValue says of the depth; others are mere statistics
SIGNED, SEPARATE = 2, 2  # values of TIFF's SampleFormat and PlanarConfiguration
RAW_16BIT = (";16B", ";16L", ";16N")  # ends of Pillow's names for 16-bit samples that it reduces to 8

DARK = (
    "its 16-bit samples reach only {top} of 65535, as 12-bit data do, and would be nearly black; "
    "scale them so that white is 65535, or save the image with 8 bits"
)


@dataclass(frozen=True)
class Depth:
    """What a file says of its samples.

    Attributes
    ----------
    white : int or None
        The highest sample that there can be; None if that is unknown.
    claimed : int or None
        A lower one that the file says is the highest of its own.
    inverted : bool
        0 is white, and Pillow leaves that to us.
    reduced : bool
        Pillow keeps the upper 8 of 16 bits.
    """

    white: int | None = WHITE
    claimed: int | None = None
    inverted: bool = False
    reduced: bool = False


def depth_of(image: Image.Image) -> Depth:
    """What an opened image says of its samples; to be asked before its pixels are loaded, since Pillow then forgets.

    Raises
    ------
    ImageError
        The samples are of a kind that has no black and white, or that Pillow gets wrong.
    """
    if image.mode == "F":
        raise ImageError("floating-point pixels have no defined range; save the image with 8 or 16 bits")
    decoder, raw = _raw(image)
    reduced = raw.endswith(RAW_16BIT)
    if image.format != "TIFF":
        return Depth(None if image.mode == "I" and image.format not in ("PNG", "PPM") else WHITE, reduced=reduced)
    from PIL.TiffImagePlugin import TiffImageFile  # which has opened it, so it is loaded

    assert isinstance(image, TiffImageFile)
    tags = image.tag_v2
    bits = max(tags.get(Tag.BitsPerSample, (1,)))
    if SIGNED in tags.get(Tag.SampleFormat, ()) and bits <= 16:
        raise ImageError("signed pixels have no defined black and white; save the image with unsigned 8 or 16 bits")
    if tags.get(Tag.PlanarConfiguration) == SEPARATE and bits > 8 and decoder == "raw":
        raise ImageError("Pillow cannot read planes of 16 bits; save the image with interleaved colours or 8 bits")
    if image.mode == "I":
        return Depth(None)
    claims = np.ravel(tags.get(Tag.MaxSampleValue, ()))
    return Depth(
        white=4095 if bits == 12 else WHITE,
        claimed=int(claims[0]) if len(claims) == 1 and claims[0] in CLAIMS else None,
        inverted=tags.get(Tag.PhotometricInterpretation) == 0,
        reduced=reduced,
    )


def is_shallow(image: Image.Image) -> bool:
    """Whether an opened TIFF has unsigned samples of up to 8 bits, which need no levels."""
    from PIL.TiffImagePlugin import TiffImageFile  # which has opened it, so it is loaded

    assert isinstance(image, TiffImageFile)
    tags = image.tag_v2
    return max(tags.get(Tag.BitsPerSample, (1,))) <= 8 and SIGNED not in tags.get(Tag.SampleFormat, ())


def _raw(image: Image.Image) -> tuple[str, str]:
    """Pillow's names of the decoder of an image that is not loaded yet, and of the samples in the file."""
    for decoder, _, _, arguments in getattr(image, "tile", ())[:1]:
        return decoder, str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
    return "", ""


def to_8bit(image: Image.Image, depth: Depth) -> Image.Image:
    """Scale greyscale of more than 8 bits to 8, where Pillow's own conversion would clip it to white."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        if depth.reduced and image.mode in ("L", "RGB", "RGBA"):
            top = int(np.reshape(image.getextrema(), (-1, 2))[:3, 1].max())  # of the colours
            if top < (LEAST >> 8):
                raise ImageError(DARK.format(top=f"{top << 8} to {(top << 8) + 255}"))
        return image
    values = np.asarray(image)
    white = _white(depth, int(values.min()), int(values.max()))
    if depth.inverted:
        values = white - values
    return Image.fromarray((values.astype(np.uint32) * 255 // white).astype(np.uint8))


def _white(depth: Depth, least: int, top: int) -> int:
    """Which sample is white, of those that are there."""
    if depth.white is None:
        if least < 0 or not (top == 0 or WHITE // 2 < top <= WHITE):
            raise ImageError("32-bit integer pixels have no defined range; save the image with 8 or 16 bits")
        return WHITE
    if depth.claimed is not None and top <= depth.claimed:
        return depth.claimed
    if depth.white == WHITE and 0 < top < LEAST:
        raise ImageError(DARK.format(top=top))
    return depth.white
