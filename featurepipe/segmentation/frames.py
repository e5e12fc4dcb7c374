"""Where a grid of tokens lies in its image, and scores of patches brought to the size of pixels.

Tokens are cells of the picture that the network has seen: the image, resized and cropped. Everything here is in places
of the original image, so that predictions have its size, and masks need not be resized.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.errors import SegmentationError

AT_ONCE = 2**22  # scores of pixels that are held at a time


@dataclass(frozen=True)
class Window:
    """The part of an image that the network has seen.

    Attributes
    ----------
    left, top, width, height : float
        In pixels of the original image.
    """

    left: float
    top: float
    width: float
    height: float

    @property
    def rows(self) -> slice:
        """The rows of pixels whose middles lie in it."""
        return _whole(self.top, self.height)

    @property
    def columns(self) -> slice:
        """The columns of pixels whose middles lie in it."""
        return _whole(self.left, self.width)


def _whole(start: float, length: float) -> slice:
    return slice(max(0, int(np.ceil(start - 0.5))), int(np.floor(start + length - 0.5)) + 1)


def window_of(transform: Mapping[str, Any], size: tuple[int, int]) -> Window:
    """What a transform keeps of an image of (width, height) pixels.

    Parameters
    ----------
    transform : mapping
        As a spec has it: ``input_size, crop_pct, crop_mode``.
    size : tuple of int

    Raises
    ------
    SegmentationError
        Borders, crops that are not square, or pictures smaller than the input.

    Examples
    --------
    >>> window_of({"input_size": [3, 32, 32], "crop_pct": 1.0, "crop_mode": "center"}, (48, 32))
    Window(left=8.0, top=0.0, width=32.0, height=32.0)
    """
    _, height, width = transform["input_size"]
    share, mode = transform["crop_pct"], transform["crop_mode"]
    if share > 1 or mode not in ("center", "squash") or (mode == "center" and height != width):
        raise SegmentationError(
            f"masks cannot be laid over images with crop mode {mode}, crop_pct {share:g} and input {height}×{width}; "
            "extract with --crop-mode squash --crop-pct 1, which also shows the whole image"
        )
    scaled = [int(side / share) for side in (width, height)]
    if mode == "squash":
        scales = [scaled[0] / size[0], scaled[1] / size[1]]
    else:
        scales = [scaled[0] / min(size)] * 2
    kept = [width / scales[0], height / scales[1]]
    return Window((size[0] - kept[0]) / 2, (size[1] - kept[1]) / 2, *kept)


def spread(count: int, places: np.ndarray) -> np.ndarray:
    """Weights that interpolate between cells, (n, count), at places of 0…1: linear between their middles.

    Beyond the middles of the first and the last cell it is theirs, as in torch's bilinear interpolation with
    ``align_corners=False``.

    Examples
    --------
    >>> spread(2, np.array([0.1, 0.5, 0.75])).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    at = np.clip(places * count - 0.5, 0, count - 1)
    low = np.minimum(at.astype(int), max(count - 2, 0))
    weights = np.zeros((len(places), count))
    rows = np.arange(len(places))
    weights[rows, low] = 1 - (at - low)
    if count > 1:
        weights[rows, low + 1] = at - low
    return weights


def middles(count: int) -> np.ndarray:
    """The middles of equal cells of 0…1, (count,)."""
    return (np.arange(count) + 0.5) / count


def classify(scores: np.ndarray, window: Window, size: tuple[int, int], *, whole: bool = False) -> np.ndarray:
    """The class of every pixel of a window, int64 (rows, columns): scores are interpolated, and the highest counts.

    Parameters
    ----------
    scores : ndarray, shape (h, w, K)
        Scores of patches.
    window : Window
    size : tuple of int
        Width and height of the image.
    whole : bool
        Also the pixels around the window, (height, width), as the nearest ones inside.
    """
    rows, columns = np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5
    if not whole:
        rows, columns = rows[window.rows], columns[window.columns]
    down = spread(scores.shape[0], (rows - window.top) / window.height)  # (rows, h)
    across = spread(scores.shape[1], (columns - window.left) / window.width)  # (columns, w)
    wide = np.tensordot(across, scores, (1, 1)).transpose(1, 0, 2)  # (h, columns, K)
    said = np.empty((len(rows), len(columns)), np.int64)
    step = max(1, AT_ONCE // max(1, wide[0].size))
    for start in range(0, len(rows), step):
        some = np.tensordot(down[start : start + step], wide, (1, 0))  # (rows, columns, K)
        said[start : start + step] = some.argmax(-1)
    return said
