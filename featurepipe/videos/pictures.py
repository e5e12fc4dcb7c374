"""One decoded frame → upright RGB pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

MATRIX = "DISPLAYMATRIX"


def upright(frame: Any) -> np.ndarray:
    """Pixels of a frame as players show it: uint8 (h, w, 3).

    It is turned and mirrored as the file says, by quarter turns. Pixels that are not square stay as they are.
    """
    pixels = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get(MATRIX)
    return pixels if matrix is None else turned(pixels, np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist())


def turned(pixels: np.ndarray, matrix: list[int]) -> np.ndarray:
    """Pixels (h, w, 3) where a display matrix puts them: x' = a·x + c·y and y' = b·x + d·y for (a, b, c, d)."""
    a, b, c, d = matrix
    if b and c and not (a or d):  # x' runs along y
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    elif b or c:  # no quarter turn
        return pixels
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
