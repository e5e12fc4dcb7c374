"""Image files that Pillow does not read: DICOM, HEIC, and TIFFs of many bands or of floating-point samples.

Each is a member of `FORMATS`, and needs a library of its own. What it gives is what a decoder gives for other files: a
whole picture, upright and 8-bit.
"""

from __future__ import annotations

import io
from typing import Any, Protocol

import numpy as np

from featurepipe.errors import ImageError
from featurepipe.images.depths import is_shallow
from featurepipe.images.dicoms import Dicom
from featurepipe.images.frames import Picture
from featurepipe.images.limits import turn
from featurepipe.images.orientations import upright, upright_array
from featurepipe.images.pictures import TIFF, opened
from featurepipe.images.samples import Wanted, as_picture, check_colours, check_pixels, only_image_errors, scaled

HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
GENERIC, AVIF = (b"mif1", b"msf1"), (b"avif", b"avis")  # brands that do not say how pixels are coded; that do
WHITE_IS_0, PALETTE, LAB = 0, 3, (8, 9, 10)  # values of a TIFF's PhotometricInterpretation
ORIENTATION = 274  # a TIFF's tag
ALPHA = 2  # of its ExtraSamples: one that the colours are not multiplied with


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
        if data[4:8] != b"ftyp" or bytes(data[8:12]) not in HEIF:
            return False
        others = bytes(data[16 : int.from_bytes(data[:4], "big")])
        return bytes(data[8:12]) not in GENERIC or not any(brand in others for brand in AVIF)

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
    """TIFFs whose bands or samples the transform names, by tifffile.

    The picture is upright, and inverted where the file says that 0 is white, as of other TIFFs.
    """

    def knows(self, data: bytes | bytearray, transform: Wanted) -> bool:
        """See `Format.knows`."""
        if bytes(data[:4]) not in TIFF:
            return False
        return transform.bands is not None or (transform.levels is not None and not _by_pillow(data))

    def read(self, data: bytes | bytearray, transform: Wanted, part: str | None) -> tuple[Picture, str | None]:
        """See `Format.read`."""
        try:
            import tifffile
        except ImportError as error:
            raise ImageError("bands of a TIFF need tifffile: pip install 'featurepipe[tiff]'") from error
        with only_image_errors("TIFF"), tifffile.TiffFile(io.BytesIO(data)) as file:
            series, page, count = file.series[0], file.series[0].keyframe, _band_count(file.series[0])
            bands = _numbers(count, page, transform.bands)
            apart = page.ndim == 2 and len(series) == count > 1  # a page for each band
            height, width = (series.shape[series.axes.index(axis)] for axis in "YX")
            size = height, width, len(bands) if apart else count
            check_pixels(*size)
            with turn((size[0] * size[1], size[2])):
                array = _pages(series, bands) if apart else _bands_last(series.asarray(), series.axes, bands)
                array = upright_array(_shown(array, page, transform.levels), page.tags.valueof(ORIENTATION))
                return as_picture(array, transform.input_size[0]), part


def _by_pillow(data: bytes | bytearray) -> bool:
    """Whether Pillow reads a TIFF, and its samples need no levels."""
    try:
        with opened(data) as image:
            return is_shallow(image) and image.info.get("compression") != "webp"  # for which few are built
    except ImageError:
        return False


def _band_count(series: Any) -> int:
    """How many bands there are; pages count as bands."""
    axes, shape = series.axes, series.shape
    if "Y" not in axes or "X" not in axes:
        raise ImageError(f"a TIFF with the axes {axes} is no picture")
    others = [length for axis, length in zip(axes, shape, strict=True) if axis not in "YX" and length > 1]
    if len(others) > 1:
        raise ImageError(f"a TIFF with the axes {axes} has more than bands; save one picture to a file")
    return others[0] if others else 1


def _numbers(count: int, page: Any, bands: tuple[int, ...] | None) -> list[int]:
    """Which bands are shown, from 0."""
    if page.photometric == PALETTE:
        raise ImageError(
            "a TIFF whose samples are indexes of a palette has no bands; leave out --bands, or save it as RGB"
        )
    if bands is not None:
        if max(bands) > count:
            raise ImageError(f"it has {count} bands, and no band {max(bands)}; correct --bands")
        return [number - 1 for number in bands]
    if page.photometric in LAB:
        raise ImageError("a TIFF whose colours are Lab; save it as RGB, or choose with --bands")
    if count - 1 in (1, 3) and page.extrasamples == (ALPHA,):  # which is dropped, as of other images
        count -= 1
    if count not in (1, 3):
        raise ImageError(f"it has {count} bands; choose with --bands, such as 4,3,2")
    return list(range(count))


def _pages(series: Any, bands: list[int]) -> np.ndarray:
    """(h, w, B) of single pages, from 0; the others are not read."""
    return np.stack([series.asarray(key=number) for number in bands], axis=2)


def _bands_last(array: np.ndarray, axes: str, bands: list[int]) -> np.ndarray:
    """(h, w, B) of some bands, from 0, of an array whose axes tifffile names."""
    moved = np.moveaxis(array, (axes.index("Y"), axes.index("X")), (0, 1))
    moved = moved.reshape(*moved.shape[:2], -1)
    return moved if bands == list(range(moved.shape[2])) else moved[:, :, bands]


def _shown(array: np.ndarray, page: Any, levels: tuple[float, float] | None) -> np.ndarray:
    """Samples as uint8: those of less than 8 bits fill them, and 0 is white where the page says so."""
    bits = page.bitspersample
    if isinstance(bits, int) and bits < 8 and array.dtype.kind in ("b", "u"):
        top = 2**bits - 1
        array = np.floor(np.arange(top + 1) * 255 / top + 0.5).astype(np.uint8)[array.astype(np.uint8)]
    if page.photometric == WHITE_IS_0 and page.samplesperpixel == 1:  # of several bands it says nothing
        if array.dtype == np.uint8:
            return 255 - array
        levels = None if levels is None else (levels[1], levels[0])
    return scaled(array, levels)


FORMATS: list[Format] = [Dicom(), Heif(), Bands()]


def format_of(data: bytes | bytearray, transform: Wanted) -> Format | None:
    """The format that reads a file for a transform; None for what Pillow reads."""
    return next((one for one in FORMATS if one.knows(data, transform)), None)
