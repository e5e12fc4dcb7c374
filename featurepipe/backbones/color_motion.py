"""Colours and motion: the hand-crafted descriptor of videos, for a trained backbone to beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from featurepipe.backbones.descriptors import SQUASHED, ColorHistogram, Descriptor
from featurepipe.surroundings import guarded
from featurepipe.videos import VideoTransform, require_av

COLOR_MOTION = "color-motion"
PAIRS = VideoTransform.of(SQUASHED, clips=8, length=2, fps=10.0)
GRID = 8  # cells across and down


@dataclass(frozen=True)
class ColorMotion(Descriptor):
    """Mean colour histogram of a video, and how much changes from one frame to the next, place by place.

    Eight evenly spaced pairs of frames, a tenth of a second apart, are squashed to 128×128. The histogram is that of
    `ColorHistogram`, averaged over all frames before the roots are taken. Of each of 8×8 cells there is the mean
    absolute difference of grey values, on average over the pairs.

    Examples
    --------
    >>> ColorMotion.parameters["grid"]
    8
    """

    name: str = COLOR_MOTION
    transform: VideoTransform = PAIRS
    architecture: ClassVar[str] = COLOR_MOTION
    title: ClassVar[str] = "colours and motion"
    parameters: ClassVar[Mapping[str, Any]] = {**ColorHistogram.parameters, "grid": GRID}

    def __post_init__(self) -> None:
        require_av()

    @property
    def width(self) -> int:
        """Length of one vector: 256 colours and 64 cells."""
        return ColorHistogram().width + GRID**2

    @guarded
    def embed(self, inputs: np.ndarray, /) -> np.ndarray:
        """(B, frames, C, H, W) uint8 → (B, 320) float32."""
        count, frames = inputs.shape[:2]
        shares = np.square(ColorHistogram().embed(inputs.reshape(-1, *inputs.shape[2:])))  # (B·frames, 256)
        colours = np.sqrt(shares.reshape(count, frames, -1).mean(axis=1))
        return np.concatenate([colours, self._motion(inputs)], axis=1).astype(np.float32)

    def _motion(self, inputs: np.ndarray) -> np.ndarray:
        """(B, frames, C, H, W) → (B, cells), from 0 to 1."""
        grey = inputs.mean(axis=2, dtype=np.float32)  # (B, frames, H, W)
        change = np.abs(grey[:, 1::2] - grey[:, ::2]).mean(axis=1)  # (B, H, W)
        cells = change.reshape(len(change), GRID, change.shape[1] // GRID, GRID, -1)
        return cells.mean(axis=(2, 4)).reshape(len(change), GRID**2) / 255
