"""DICOM: pictures of hospitals, as a screen there shows them.

In this order: a frame is chosen by a part that is its number (from 1; else the first), samples become what they measure
(rescale slope and intercept, or a modality table), a window decides what is black and white, and MONOCHROME1 is
inverted. The window is the transform's ``levels`` if it has some, else the first one of the file, else its table of
values of interest. Without any, samples of more than 8 bits are refused: the file does not say what they mean.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from featurepipe.errors import ImageError
from featurepipe.images.frames import Picture
from featurepipe.images.limits import turn
from featurepipe.images.samples import Wanted, as_picture, check_pixels, only_image_errors, scaled


class Dicom:
    """Files of DICOM's part 10, by pydicom."""

    def knows(self, data: bytes | bytearray, transform: Wanted) -> bool:
        """See `featurepipe.images.formats.Format.knows`."""
        return data[128:132] == b"DICM"

    def read(self, data: bytes | bytearray, transform: Wanted, part: str | None) -> tuple[Picture, str | None]:
        """See `featurepipe.images.formats.Format.read`."""
        try:
            import pydicom
            from pydicom.pixels import pixel_array
        except ImportError as error:
            raise ImageError(
                "DICOM needs pydicom: pip install 'featurepipe[dicom]'; or convert the image to JPEG or PNG"
            ) from error
        with only_image_errors("DICOM"):
            found = pydicom.dcmread(io.BytesIO(data))
            if "PixelData" not in found:
                raise ImageError("a DICOM file without pixels")
            frame, part = _frame(found, part)
            size = int(found.Columns), int(found.Rows)
            check_pixels(*size, int(found.get("SamplesPerPixel", 1)))
            with turn(size):
                array = pixel_array(found, index=frame)  # (h, w) or (h, w, 3), colours as RGB
                picture = _pixels(found, array, transform.levels)
        return as_picture(picture if picture.ndim == 3 else picture[:, :, None], transform.input_size[0]), part


def _frame(found: Any, part: str | None) -> tuple[int, str | None]:
    """The frame that a part names, from 0, and the rest of the part."""
    count = int(found.get("NumberOfFrames") or 1)
    if part is None or not part.strip().isdecimal():
        return 0, part
    if not 1 <= int(part) <= count:
        raise ImageError(f"it has {count} frames, and no frame {part}; correct the part")
    return int(part) - 1, None


def _pixels(found: Any, array: np.ndarray, levels: tuple[float, float] | None) -> np.ndarray:
    """Samples as a screen shows them, uint8."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    kind, bits = str(found.get("PhotometricInterpretation", "")), int(found.get("BitsStored", 8))
    if kind == "PALETTE COLOR":
        array = apply_color_lut(array, found)
        return scaled(array, (0, np.iinfo(array.dtype).max))
    if array.ndim == 3:
        return scaled(array, (0, 2**bits - 1))
    values = apply_modality_lut(array, found)
    grey = scaled(values, levels) if levels is not None and values.dtype != np.uint8 else _windowed(found, values, bits)
    return 255 - grey if kind == "MONOCHROME1" else grey


def _windowed(found: Any, values: np.ndarray, bits: int) -> np.ndarray:
    """Grey samples under the file's own window, or its table; uint8."""
    from pydicom.pixels import apply_voi

    if "WindowCenter" in found and "WindowWidth" in found:
        center, width = (float(np.atleast_1d(found[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
        return scaled(_shares(values, center, width, str(found.get("VOILUTFunction", "LINEAR"))), (0, 1))
    if "VOILUTSequence" in found:
        table = apply_voi(values, found)
        return scaled(table.astype(np.float64), (0, 2 ** int(found.VOILUTSequence[0].LUTDescriptor[2]) - 1))
    if bits <= 8 and values.dtype.kind in "iu" and values.min() >= 0:
        return scaled(values.astype(np.float64), (0, 2**bits - 1))
    raise ImageError(
        f"a DICOM of {bits} bits without a window; say what is black and white with --levels LOW HIGH, in its own units"
    )


def _shares(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Where samples lie between black (0) and white (1): DICOM part 3, C.11.2.1.2 and C.11.2.1.3."""
    if width < (1 if function == "LINEAR" else 1e-9):
        raise ImageError(f"a window of width {width:g}")
    x = values.astype(np.float64)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (x - center) / width))
    if function == "LINEAR_EXACT":
        return (x - center) / width + 0.5
    return (x > center - 0.5).astype(np.float64) if width == 1 else (x - (center - 0.5)) / (width - 1) + 0.5
