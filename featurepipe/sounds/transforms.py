"""The transforms of sounds: windows of a spectrogram for networks, and statistics of MFCC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from featurepipe.sounds.rates import resampled
from featurepipe.sounds.recordings import Recording, opened, require_soundfile
from featurepipe.sounds.spans import span_of
from featurepipe.sounds.spectrograms import COEFFICIENTS, FRAME, HOP, MELS, RATE, log_mel, mfcc
from featurepipe.sources import Content

MEDIUM, NUMBER = "sound", np.dtype(np.float32)
FLAT = 1e-6  # decibels: a window that varies less is even


@dataclass(frozen=True)
class SoundTransform:
    """Evenly spaced windows of a sound, each as a picture of its log-mel spectrogram with mean 0 and deviation 1.

    A sound that is shorter than a window is followed by silence. One of up to `windows` windows is covered from its
    start to its end; of a longer one there are gaps between them.

    Attributes
    ----------
    size : tuple of int
        Height and width of each picture: the spectrogram is resized to it, high frequencies on top.
    seconds : float
        Length of a window.
    windows : int
        How many there are at most; those that a short sound lacks are NaN.
    rate, frame, hop, mels : int
        Those of the spectrogram: see `featurepipe.sounds.spectrograms`, which knows these values and no other.
    """

    size: tuple[int, int]
    seconds: float = 1.0
    windows: int = 10
    rate: int = RATE
    frame: int = FRAME
    hop: int = HOP
    mels: int = MELS
    medium: ClassVar[str] = MEDIUM
    dtype: ClassVar[np.dtype[Any]] = NUMBER

    def __post_init__(self) -> None:
        require_soundfile()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, height, width."""
        return (self.windows, *self.size)

    @property
    def cost(self) -> int:
        """Pixels of all windows."""
        return self.windows * self.size[0] * self.size[1]

    def decode(self, data: Content, part: str | None = None, /) -> np.ndarray:
        """Windows of a file or of a span of it, float32 (windows, height, width).

        Raises
        ------
        SoundError
            It is empty, broken, cut off where a window lies, or the span is not inside of it.
        """
        made = np.full(self.shape, np.nan, NUMBER)
        with opened(data) as recording:
            for picture, signal in zip(made, cut(recording, part, self.seconds, self.windows), strict=False):
                picture[:] = self._picture(signal)
        return made

    def _picture(self, signal: np.ndarray) -> np.ndarray:
        padded = np.pad(signal, (0, round(self.seconds * RATE) - len(signal)))
        height, width = self.size
        found = Image.fromarray(log_mel(padded)[::-1]).resize((width, height), Image.Resampling.BILINEAR)
        return standardised(np.asarray(found))

    def trial(self, count: int, /) -> np.ndarray:
        """Noise of one window, whose every sound has another colour; float32 (count, windows, height, width)."""
        made = np.full((count, *self.shape), np.nan, NUMBER)
        rng = np.random.default_rng(0)
        for row in made:
            colour = np.cumsum(rng.normal(size=round(self.seconds * RATE)).astype(NUMBER)) * rng.uniform()
            row[0] = self._picture(colour + rng.normal(size=len(colour)).astype(NUMBER))
        return made


@dataclass(frozen=True)
class MfccTransform:
    """Mean and deviation of MFCC and of their slopes over a whole sound: the vector itself.

    Attributes
    ----------
    seconds : float
        Length of the windows in which a long sound is gone through.
    windows : int
        How many there are at most: of sounds longer than all of them together there are gaps.
    rate, frame, hop, mels, coefficients : int
        See `featurepipe.sounds.spectrograms`, which knows these values and no other.
    """

    seconds: float = 60.0
    windows: int = 10
    rate: int = RATE
    frame: int = FRAME
    hop: int = HOP
    mels: int = MELS
    coefficients: int = COEFFICIENTS
    medium: ClassVar[str] = MEDIUM
    dtype: ClassVar[np.dtype[Any]] = NUMBER

    def __post_init__(self) -> None:
        require_soundfile()

    @property
    def shape(self) -> tuple[int]:
        """Mean and deviation of the coefficients and their slopes."""
        return (4 * self.coefficients,)

    @property
    def cost(self) -> int:
        """There is no network."""
        return 1

    def decode(self, data: Content, part: str | None = None, /) -> np.ndarray:
        """Means, then deviations, float32 (80,); see `SoundTransform.decode`."""
        with opened(data) as recording:
            frames = [mfcc(signal) for signal in cut(recording, part, self.seconds, self.windows)]
        return summary(np.concatenate(frames, axis=1))

    def trial(self, count: int, /) -> np.ndarray:
        """Those of noise, float32 (count, 80)."""
        rng = np.random.default_rng(0)
        return np.stack([summary(mfcc(rng.normal(size=RATE) * rng.uniform())) for _ in range(count)])


def cut(recording: Recording, part: str | None, seconds: float, most: int) -> Iterator[np.ndarray]:
    """Evenly spaced windows at 16 kHz of a recording or a span of it, float32 (n,) each; a short sound's is shorter.

    One window's samples are in memory at a time.
    """
    start, stop = (0.0, recording.seconds) if part is None else span_of(part, recording.seconds)
    first, length = round(start * RATE), max(1, round((stop - start) * RATE))
    count = min(length, round(seconds * RATE))
    for begin in np.linspace(first, first + length - count, min(most, ceil(length / count))):
        yield resampled(recording, RATE, round(begin), count)


def standardised(picture: np.ndarray) -> np.ndarray:
    """The same with mean 0 and deviation 1; zeros where it is even, as of silence."""
    deviation = picture.std()
    return (picture - picture.mean()) / deviation if deviation > FLAT else np.zeros_like(picture)


def summary(frames: np.ndarray) -> np.ndarray:
    """Mean and deviation of each row, float32 (2 × rows,)."""
    return np.concatenate([frames.mean(axis=1), frames.std(axis=1)]).astype(NUMBER)
