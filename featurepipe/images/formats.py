"""Image files that Pillow does not read: DICOM, HEIC, and TIFFs of many bands or of floating-point samples.

Each is a member of `FORMATS`, and needs a library of its own. What it gives is what a decoder gives for other files: a
whole picture, upright and 8-bit.
"""

from __future__ import annotations

import io
from typing import Protocol

import numpy as np

from featurepipe.errors import ImageError
from featurepipe.images.dicoms import Dicom
from featurepipe.images.frames import Picture
from featurepipe.images.limits import turn
from featurepipe.images.orientations import upright
from featurepipe.images.samples import Wanted, as_picture, check_colours, check_pixels, only_image_errors, scaled

HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Format(Protocol):
    """A kind of image files."""

    def knows(self, data: bytes | bytearray, transform: Wanted) -> bool:
        """Whether a file is of this kind, and to be read in this way for such a transform."""
        ...

    def read(self, data: bytes | bytearray, transform: Wanted, part: str | None) -> tuple[Picture, str | None]:
        """The whole picture, and what of the part is left to be cut out of it; ImageError where it cannot be read."""
        ...


class Heif:
    """Photos of phones, by pillow-heif."""

    def knows(self, data: bytes | bytearray, transform: Wanted) -> bool:
        """See `Format.knows`."""
        return data[4:8] == b"ftyp" and bytes(data[8:12]) in HEIF

    def read(self, data: bytes | bytearray, transform: Wanted, part: str | None) -> tuple[Picture, str | None]:
        """See `Format.read`."""
        check_colours(transform)
        try:
            import pillow_heif
        except ImportError as error:
            raise ImageError(
                "HEIC needs pillow-heif: pip install 'featurepipe[heif]'; or convert the image to JPEG or PNG"
            ) from error
        with only_image_errors("HEIC"):
            opened = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
            check_pixels(*opened.size)
            with turn(opened.size):
                image = opened.to_pillow()
        return upright(image).convert("RGB" if transform.input_size[0] == 3 else "L"), part


class Bands:
    """TIFFs whose bands or samples the transform names, by tifffile."""

    def knows(self, data: bytes | bytearray, transform: Wanted) -> bool:
        """See `Format.knows`."""
        return (transform.bands is not None or transform.levels is not None) and bytes(data[:4]) in TIFF

    def read(self, data: bytes | bytearray, transform: Wanted, part: str | None) -> tuple[Picture, str | None]:
        """See `Format.read`; a TIFF of several bands has no orientation."""
        try:
            import tifffile
        except ImportError as error:
            raise ImageError("bands of a TIFF need tifffile: pip install 'featurepipe[tiff]'") from error
        with only_image_errors("TIFF"), tifffile.TiffFile(io.BytesIO(data)) as opened:
            series = opened.series[0]
            check_pixels(*series.shape)
            array = _bands_last(series.asarray(), series.axes)  # (h, w, B)
        if transform.bands is not None:
            array = _chosen(array, transform.bands)
        elif array.shape[2] not in (1, 3):
            raise ImageError(f"it has {array.shape[2]} bands; choose with --bands, such as 4,3,2")
        return as_picture(scaled(array, transform.levels), transform.input_size[0]), part


def _bands_last(array: np.ndarray, axes: str) -> np.ndarray:
    """(h, w, B) of an array whose axes tifffile names; pages count as bands."""
    if "Y" not in axes or "X" not in axes:
        raise ImageError(f"a TIFF with the axes {axes} is no picture")
    others = [number for number, axis in enumerate(axes) if axis not in "YX" and array.shape[number] > 1]
    if len(others) > 1:
        raise ImageError(f"a TIFF with the axes {axes} has more than bands; save one picture to a file")
    moved = np.moveaxis(array, (axes.index("Y"), axes.index("X")), (0, 1))
    return moved.reshape(*moved.shape[:2], -1)


def _chosen(array: np.ndarray, bands: tuple[int, ...]) -> np.ndarray:
    """The bands of these numbers, the first of which is 1."""
    if max(bands) > array.shape[2]:
        raise ImageError(f"it has {array.shape[2]} bands, and no band {max(bands)}; correct --bands")
    return array[:, :, [number - 1 for number in bands]]


FORMATS: list[Format] = [Dicom(), Heif(), Bands()]


def format_of(data: bytes | bytearray, transform: Wanted) -> Format | None:
    """The format that reads a file for a transform; None for what Pillow reads."""
    return next((one for one in FORMATS if one.knows(data, transform)), None)
