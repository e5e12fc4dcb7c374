"""DICOM: pictures of hospitals, as a screen there shows them.

In this order: a frame is chosen by a part that is its number (from 1; else the first), samples become what they measure
(rescale slope and intercept, or a modality table), a window decides what is black and white, and MONOCHROME1 is
inverted. The window is the transform's ``levels`` if it has some, else the first one of the file, else its table of
values of interest. Without any, samples of more than 8 bits are refused: the file does not say what they mean.

Enhanced files say such things in functional groups: what is said of one frame counts before what is said of all frames,
and that before what the data set itself says. An empty value counts as none.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from featurepipe.errors import ImageError
from featurepipe.images.frames import Picture
from featurepipe.images.limits import turn
from featurepipe.images.samples import Wanted, as_picture, check_colours, check_pixels, only_image_errors, scaled

# functional group -> what of it, and of the data set itself, it stands for
GROUPS = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
}


class Dicom:
    """Files of DICOM's part 10, by pydicom."""

    def knows(self, data: bytes | bytearray, transform: Wanted) -> bool:
        """See `featurepipe.images.formats.Format.knows`."""
        return data[128:132] == b"DICM"

    def read(self, data: bytes | bytearray, transform: Wanted, part: str | None) -> tuple[Picture, str | None]:
        """See `featurepipe.images.formats.Format.read`."""
        check_colours(transform)
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
                _bring_up(found, frame)
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


def _bring_up(found: Any, frame: int) -> None:
    """Make what an enhanced file says of a frame (from 0) the data set's own."""
    frames = found.get("PerFrameFunctionalGroupsSequence") or ()
    shared = found.get("SharedFunctionalGroupsSequence") or ()
    places = [*frames[frame : frame + 1], *shared[:1]]
    for group, names in GROUPS.items():
        items = (item for place in places for item in (place.get(group) or ())[:1])
        said = next((item for item in items if None not in [_number(item, name) for name in names[:2]]), None)
        if said is None:
            continue
        for name in names:
            if name in found:
                del found[name]
            if name in said:
                found[name] = said[name]


def _number(found: Any, name: str) -> float | None:
    """The value of that name, the first of several; None where it is absent or empty."""
    values = np.ravel(found.get(name))
    return None if not values.size or values[0] in (None, "") else float(values[0])


def _pixels(found: Any, array: np.ndarray, levels: tuple[float, float] | None) -> np.ndarray:
    """Samples as a screen shows them, uint8."""
    from pydicom.pixels import apply_color_lut

    kind = str(found.get("PhotometricInterpretation", ""))
    if kind == "PALETTE COLOR":
        array = apply_color_lut(array, found)
        return scaled(array, (0, np.iinfo(array.dtype).max))
    if array.ndim == 3:
        return scaled(array, levels or (0, 2 ** _bits(found) - 1))
    values, bits = _measured(found, array)
    grey = scaled(values, levels) if levels is not None and values.dtype != np.uint8 else _windowed(found, values, bits)
    return 255 - grey if kind == "MONOCHROME1" else grey


def _bits(found: Any) -> int:
    return int(found.get("BitsStored", 8))


def _measured(found: Any, array: np.ndarray) -> tuple[np.ndarray, int | None]:
    """What samples measure, and of how many bits that is; None where a slope has made them something else."""
    if found.get("ModalityLUTSequence"):
        return _looked_up(found, "ModalityLUTSequence", array)
    slope, intercept = _number(found, "RescaleSlope"), _number(found, "RescaleIntercept")
    if slope is None or intercept is None:
        return array, _bits(found)
    return array.astype(np.float64) * slope + intercept, _bits(found) if (slope, intercept) == (1, 0) else None


def _looked_up(found: Any, name: str, values: np.ndarray) -> tuple[np.ndarray, int]:
    """Values by the first table of that name, uint8 or uint16, and of how many bits they are: DICOM part 3, C.11.1.1.

    pydicom's own functions wrap around where a table of 8 bits has more than 256 entries, warn where values are no
    integers, and know tables of 8 and 16 bits alone of what samples measure.
    """
    table = found[name].value[0]
    count, first, bits = (int(number) for number in table.LUTDescriptor)
    entries = table.LUTData
    if isinstance(entries, bytes):
        word = np.dtype(np.uint16).newbyteorder("<" if found.original_encoding[1] else ">")
        entries = np.frombuffer(entries, np.uint8 if len(entries) < 2 * (count or 2**16) else word)
    known = np.ravel(entries)[: count or 2**16]
    if not 8 <= bits <= 16 or (bits == 8 and known.max() > 255):
        raise ImageError(f"a table of {bits} bits whose entries reach {known.max()}")
    places = np.clip(values.astype(np.float64) - first, 0, len(known) - 1).astype(np.intp)
    return known.astype(np.uint8 if bits == 8 else np.uint16)[places], bits


def _windowed(found: Any, values: np.ndarray, bits: int | None) -> np.ndarray:
    """Grey values under the file's own window, or its table; uint8."""
    center, width = _number(found, "WindowCenter"), _number(found, "WindowWidth")
    if center is not None and width is not None:
        function = str(found.get("VOILUTFunction") or "LINEAR")
        return scaled(_shares(values, center, width, function), (0, 1))
    if found.get("VOILUTSequence"):
        looked_up, depth = _looked_up(found, "VOILUTSequence", values)
        return scaled(looked_up.astype(np.float64), (0, 2**depth - 1))
    if bits is not None and bits <= 8 and values.min() >= 0:
        return scaled(values.astype(np.float64), (0, 2**bits - 1))
    raise ImageError(
        f"a DICOM of {_bits(found)} bits without a window; say what is black and white with --levels LOW HIGH, in its "
        "own units"
    )


def _shares(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Where samples lie between black (0) and white (1): DICOM part 3, C.11.2.1.2 and C.11.2.1.3."""
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ImageError(f"a window of the unknown function {function}")
    if width < (1 if function == "LINEAR" else 1e-9):
        raise ImageError(f"a window of width {width:g}")
    x = values.astype(np.float64)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (x - center) / width))
    if function == "LINEAR_EXACT":
        return (x - center) / width + 0.5
    return (x > center - 0.5).astype(np.float64) if width == 1 else (x - (center - 0.5)) / (width - 1) + 0.5
