"""Images: bytes → uint8 pixels, exactly as timm's evaluation transform makes them.

Decoding is Pillow's. EXIF orientation is applied; 16-bit greyscale is scaled to 8 bits; palette, CMYK, 1-bit and
greyscale images become RGB; an alpha channel is dropped, as timm and torchvision do; of several frames the first
is taken. Pillow releases the interpreter lock while it works, so threads decode in parallel.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from featurepipe.backbones import Transform
from featurepipe.errors import BackboneError, FeaturepipeError, ImageError

MAX_PIXELS = 2 * 89_478_485  # where Pillow, too, calls an image a decompression bomb
UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, transform: Transform) -> np.ndarray:
    """Decode one image file and resize and crop it.

    Parameters
    ----------
    data : bytes
        A file in any format that Pillow reads.
    transform : Transform
        Of the backbone that the pixels are for.

    Returns
    -------
    ndarray of uint8, shape (C, H, W)
        As ``transform.input_size`` says; not yet normalised.

    Raises
    ------
    ImageError
        Empty, unreadable, truncated or suspiciously large data.
    """
    if not data:
        raise ImageError("empty file (0 bytes)")
    with _only_image_errors():
        image = Image.open(io.BytesIO(data))
    with image:
        if image.format == "EPS":  # Pillow would run it, as a program, in Ghostscript
            raise ImageError("EPS is a program, not pixels; save the image as PNG")
        return to_pixels(image, transform)


def to_pixels(image: Image.Image, transform: Transform) -> np.ndarray:
    """Convert, resize and crop an opened image; returns uint8 of shape (C, H, W)."""
    image = convert(image, transform.input_size[0])
    resized = (max(transform.input_size[1:]) / transform.crop_pct) ** 2 * max(image.size) / min(image.size)
    if transform.crop_mode == "center" and resized > MAX_PIXELS:  # its short side is resized to the crop's
        raise ImageError(
            f"too narrow: {image.width}×{image.height} pixels would be enlarged beyond {MAX_PIXELS} pixels"
        )
    return _resize_and_crop(transform)(image).numpy()


def convert(image: Image.Image, channels: int = 3) -> Image.Image:
    """An upright 8-bit image, RGB for 3 channels and greyscale for 1."""
    if channels not in (1, 3):
        raise BackboneError(f"the backbone wants {channels} channels; images give 1 or 3")
    if 0 in image.size:
        raise ImageError(f"no pixels: {image.width}×{image.height}")
    with _only_image_errors():
        image = _to_8bit(_upright(image))
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
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"too large: {str(error).rstrip('.')}") from error
    except FeaturepipeError:
        raise
    except Exception as error:  # Pillow's plugins raise anything on broken data: OSError, SyntaxError, struct.error, …
        raise ImageError(f"broken image: {str(error) or type(error).__name__}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Undo the EXIF orientation; ImageOps.exif_transpose also rewrites the other tags, and fails on odd ones."""
    image.load()  # a TIFF turns itself here, and forgets its orientation
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # the pixels are whole, whatever stands beside them
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _to_8bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit greyscale to 8 bits, where Pillow's own conversion would clip it to white."""
    if image.mode == "F":
        raise ImageError("floating-point pixels have no defined range; save the image with 8 or 16 bits")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("32-bit integer pixels have no defined range; save the image with 8 or 16 bits")
    return Image.fromarray((values // 257).astype(np.uint8))


@lru_cache(maxsize=8)
def _resize_and_crop(transform: Transform) -> Callable:
    """Timm's evaluation transform up to the uint8 tensor (what it calls the prefetcher's half)."""
    from timm.data import create_transform

    return create_transform(
        input_size=transform.input_size,
        is_training=False,
        use_prefetcher=True,
        interpolation=transform.interpolation,
        mean=transform.mean,
        std=transform.std,
        crop_pct=transform.crop_pct,
        crop_mode=transform.crop_mode,
    )
