"""Sounds as a notebook has them: files, and arrays of samples."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from featurepipe.errors import SoundError
from featurepipe.estimators.rows import Listing, opened
from featurepipe.sounds.recordings import RATES
from featurepipe.sources import Content

HELD = {"array", "sampling_rate", "path"}  # how Hugging Face data sets hold a decoded sound
WHOLE = ("int16", "int32")  # whole numbers that WAV files hold as they are
LOUDEST = 10.0  # of floats of -1…1: what is louder has not been scaled


@dataclass(frozen=True)
class Sounds(Listing):
    """A row is a file, or an array of one channel, which becomes a WAV file in memory."""

    medium: ClassVar[str] = "sound"
    error: ClassVar[type[SoundError]] = SoundError
    wanted: ClassVar[str] = "a path, encoded bytes, or an array of one channel (samples,), float of -1…1 or int16"
    example: ClassVar[str] = "*.wav"
    rated: ClassVar[bool] = True

    def content(self, item: Any) -> Path | Content:
        """See `Listing.content`."""
        if (file := self.file_of(item)) is not None:
            return file
        item, rate = opened(item), self.sample_rate
        if isinstance(item, Mapping) and item.keys() <= HELD and item.get("array") is not None:
            item, rate = np.asarray(item["array"]), item.get("sampling_rate", rate)
        if not hasattr(item, "__array__"):
            raise SoundError(self.refusal(item))
        samples = _checked(np.asarray(item))
        if rate is None:
            raise SoundError("an array does not say how fast it is; give sample_rate, the samples per second")
        return _encoded(samples, rate)

    def of_numbers(self, X: np.ndarray) -> Sequence[Any]:
        """Sounds of one length (n, samples)."""
        if X.ndim != 2:
            hint = "; wrap a single sound in a list: [X]" if X.ndim == 1 else ""
            raise ValueError(f"an array of sounds has the shape (n, samples); got {X.dtype} {X.shape}{hint}")
        return X  # type: ignore[return-value]  # an array is no Sequence, but has what is asked of one here

    def of_tensor(self, X: Any) -> Sequence[Any]:
        """See `Listing.of_tensor`; another library's are as good as NumPy's."""
        return self.of_numbers(np.asarray(X))


def _checked(samples: np.ndarray) -> np.ndarray:
    """One channel of samples, if they are numbers that a microphone gives."""
    if samples.ndim != 1:
        raise SoundError(f"an array of sound has one channel, (samples,); got {samples.shape}: average several")
    if samples.dtype.kind != "f" and samples.dtype.name not in WHOLE:
        raise SoundError(f"samples are float of -1…1, or int16; got {samples.dtype}")
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise SoundError("it has samples that are NaN or infinite; leave it out of X")
    if samples.dtype.kind == "f" and samples.size and (most := float(np.abs(samples).max())) > LOUDEST:
        raise SoundError(f"samples are float of -1…1; these reach {most:,.0f}: divide them by 32768 if they were int16")
    return samples.astype(np.float32) if samples.dtype.kind == "f" else samples


def _encoded(samples: np.ndarray, rate: float) -> bytes:
    """The WAV file of one channel."""
    from scipy.io import wavfile

    least, most = RATES
    if not isinstance(rate, Real) or rate % 1 or not least <= rate <= most:  # NaN leaves NaN
        raise SoundError(f"a sample_rate is a whole number of samples per second, {least} to {most}; got {rate!r}")
    file = io.BytesIO()
    wavfile.write(file, int(rate), samples)
    return file.getvalue()
