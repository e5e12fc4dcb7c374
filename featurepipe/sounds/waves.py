"""The transform of networks that hear samples themselves: windows of a waveform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from featurepipe.sounds.recordings import opened, require_soundfile
from featurepipe.sounds.spectrograms import RATE
from featurepipe.sounds.transforms import MEDIUM, NUMBER, cut
from featurepipe.sources import Content

COST = 224 * 224  # in pixels, of a second


@dataclass(frozen=True)
class WaveTransform:
    """Evenly spaced windows of a sound at 16 kHz; what a short sound lacks is NaN.

    Attributes
    ----------
    seconds : float
        Length of a window. A sound that is shorter is one window of its own length.
    windows : int
        How many there are at most: of sounds longer than all of them together there are gaps.
    least : int
        Samples of the shortest window: silence follows what is shorter.
    rate : int
        Samples per second, which is always this.
    """

    seconds: float = 10.0
    windows: int = 6
    least: int = 0
    rate: int = RATE
    medium: ClassVar[str] = MEDIUM
    dtype: ClassVar[np.dtype[Any]] = NUMBER

    def __post_init__(self) -> None:
        require_soundfile()

    @property
    def shape(self) -> tuple[int, int]:
        """Windows, samples."""
        return self.windows, round(self.seconds * RATE)

    @property
    def cost(self) -> int:
        """A picture for each second."""
        return round(self.windows * self.seconds) * COST

    def decode(self, data: Content, part: str | None = None, /) -> np.ndarray:
        """Windows of a file or of a span of it, float32 (windows, samples); see `SoundTransform.decode`."""
        made = np.full(self.shape, np.nan, NUMBER)
        with opened(data) as recording:
            for room, signal in zip(made, cut(recording, part, self.seconds, self.windows), strict=False):
                room[: self.least] = 0
                room[: len(signal)] = signal
        return made

    def trial(self, count: int, /) -> np.ndarray:
        """Noise of a second and more, always the same, float32 (count, windows, samples)."""
        made, rng = np.full((count, *self.shape), np.nan, NUMBER), np.random.default_rng(0)
        for number, row in enumerate(made):
            length = max(self.least, RATE * (1 + number % 2))
            row[0, :length] = rng.normal(0, 0.1, length)
        return made
