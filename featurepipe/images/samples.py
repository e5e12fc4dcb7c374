"""Samples of other libraries: arrays of any depth → 8-bit pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Protocol

import numpy as np

from featurepipe.errors import ImageError
from featurepipe.images.frames import MAX_PIXELS, Picture
from featurepipe.images.pictures import from_array

BLOCK = 2**20  # samples that are scaled at once, in several copies of 8 bytes each


class Wanted(Protocol):
    """What of `featurepipe.images.ImageTransform` decides how such files are read."""

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        ...

    @property
    def bands(self) -> tuple[int, ...] | None:
        """Numbers of bands, from 1."""
        ...

    @property
    def levels(self) -> tuple[float, float] | None:
        """The samples of black and of white."""
        ...


def check_pixels(*shape: int) -> None:
    """Refuse an array of more samples than Pillow would decode pixels; ImageError says how many."""
    if prod(shape) > MAX_PIXELS:
        raise ImageError(f"too large: {'×'.join(map(str, shape))} samples, of more than {MAX_PIXELS}")


def check_colours(wanted: Wanted) -> None:
    """Refuse a file that has no bands for a network that takes several; ImageError says so."""
    channels = wanted.input_size[0]
    if channels not in (1, 3) and wanted.bands is not None:
        raise ImageError(f"the backbone takes {channels} bands, and only a TIFF has them")


def scaled(array: np.ndarray, levels: tuple[float, float] | None) -> np.ndarray:
    """Samples as uint8: the first level is black, the second is white, and what is not a number is black.

    Parameters
    ----------
    array : ndarray of any number type
        Samples of 8 bits stay as they are.
    levels : tuple of float or None
        Black and white; the first may be the greater one.

    Raises
    ------
    ImageError
        Samples of more than 8 bits without levels: no file says what they mean.

    Examples
    --------
    >>> scaled(np.array([0, 1500, 9999], np.uint16), (0, 3000)).tolist()
    [0, 128, 255]
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iuf":
        raise ImageError(f"samples of type {array.dtype} are not read")
    if levels is None:
        raise ImageError(f"its {array.dtype} samples have no defined black and white; say them with --levels LOW HIGH")
    found = np.empty(array.shape, np.uint8)
    rows = max(1, BLOCK * len(array) // max(1, array.size))
    for start in range(0, len(array), rows):
        found[start : start + rows] = _scaled(array[start : start + rows], *levels)
    return found


def _scaled(array: np.ndarray, low: float, high: float) -> np.ndarray:
    shares = (np.nan_to_num(array.astype(np.float64), nan=low) - low) / (high - low)
    return np.floor(np.clip(shares, 0, 1) * 255 + 0.5).astype(np.uint8)


def as_picture(array: np.ndarray, channels: int) -> Picture:
    """A picture of uint8 samples (h, w, B), B being 1, 3 or as many as the network takes."""
    if channels not in (1, 3):
        import torch

        return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))  # (B, h, w)
    return from_array(np.ascontiguousarray(array)).convert("RGB" if channels == 3 else "L")


@contextmanager
def only_image_errors(kind: str) -> Iterator[None]:
    """Turn whatever a library raises about a broken file into an `ImageError`, except a lack of memory."""
    try:
        yield
    except (ImageError, MemoryError, Warning):  # of the latter `unswayed` decides
        raise
    except Exception as error:  # libraries raise anything on broken data
        why = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"broken {kind}: {why}") from error
