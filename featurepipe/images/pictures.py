"""A picture file: opened, checked, and made upright and 8-bit, by Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from featurepipe.errors import BackboneError, FeaturepipeError, ImageError
from featurepipe.images.depths import depth_of, to_8bit
from featurepipe.images.limits import check_scans, turn
from featurepipe.images.orientations import upright
from featurepipe.images.switches import unswayed

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how one begins
JPEG = ("JPEG", "MPO")  # MPO: what some phones write, the first frame a JPEG like any other


def opened(data: bytes | bytearray) -> Image.Image:
    """A file as Pillow opens it, its pixels not loaded."""
    if not data:
        raise ImageError("empty file (0 bytes)")
    with _only_image_errors():
        try:
            return Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:
            if data[:4] in TIFF:
                raise ImageError(
                    "a TIFF of a depth or kind that Pillow cannot read; save the image as PNG or 8-bit TIFF, or choose "
                    "with --bands and --levels"
                ) from error
            raise


def check_kind(image: Image.Image, data: bytes | bytearray) -> None:
    """Refuse an opened file that would run code, or take for ever, when its pixels are loaded."""
    if image.format == "EPS":  # Pillow would run it, as a program, in Ghostscript
        raise ImageError("EPS is a program, not pixels; save the image as PNG")
    if image.format in JPEG:
        check_scans(image, data)


@unswayed
def convert(image: Image.Image, channels: int = 3) -> Image.Image:
    """An upright 8-bit image, RGB for 3 channels and greyscale for 1."""
    with turn(image.size):
        return simplify(image, channels)


def simplify(image: Image.Image, channels: int) -> Image.Image:
    """As `convert`, for whoever has the image's turn."""
    if channels not in (1, 3):
        raise BackboneError(f"the backbone wants {channels} channels; images give 1 or 3")
    if 0 in image.size:
        raise ImageError(f"no pixels: {image.width}×{image.height}")
    with _only_image_errors():
        depth = depth_of(image)
        image = to_8bit(upright(image), depth)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB" if channels == 3 else "L")


def from_array(array: np.ndarray) -> Image.Image:
    """A PIL image of a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"an image array is uint8 of shape (H, W) or (H, W, 3); got {array.dtype} {array.shape}")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


@contextmanager
def _only_image_errors() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError("not an image that Pillow can read") from error
    except (FeaturepipeError, MemoryError):  # the latter is the machine's fault, not the image's
        raise
    except (Image.DecompressionBombError, Warning):  # `unswayed` decides
        raise
    except Exception as error:  # Pillow's plugins raise anything on broken data: OSError, SyntaxError, struct.error, …
        raise ImageError(f"broken image: {str(error) or type(error).__name__}") from error
