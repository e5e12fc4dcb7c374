"""Sound textures: statistics of a sound that say what kind of sound it is, whatever its moment.

They are those of Owens et al. 2016, "Ambient Sound Provides Supervision for Visual Learning", after McDermott and
Simoncelli 2011, "Sound Texture Perception via Statistics of the Auditory Periphery": the sound goes through 32 band
filters, evenly spaced on the scale of equivalent rectangular bandwidths (ERB, Glasberg and Moore 1990). The envelope of
each, to the power 0.3 as a cochlea compresses, is sampled at 400 Hz. Of these envelopes there are 502 numbers:

- 32 means, and 32 deviations, each by its mean;
- 117 correlations of bands that are 1, 2, 3 or 5 apart;
- 320 powers of 10 bands of modulation (0.5 to 200 Hz, evenly spaced in octaves) of each envelope, by its variance;
- the loudness: the median over time of the envelopes' norm, by which all envelopes are divided first, as its logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from featurepipe.errors import SoundError
from featurepipe.media.spans import span_of
from featurepipe.sounds.rates import resampled
from featurepipe.sounds.recordings import opened, require_soundfile
from featurepipe.sounds.spectrograms import RATE
from featurepipe.sources import Content

BANDS, LOWEST, HIGHEST = 32, 50.0, 7600.0  # Hz
COMPRESSION, ENVELOPE_RATE = 0.3, 400
APART = (1, 2, 3, 5)  # bands that are correlated
MODULATIONS, SLOWEST, FASTEST = 10, 0.5, 200.0  # Hz
LENGTH = BANDS + BANDS + sum(BANDS - gap for gap in APART) + BANDS * MODULATIONS + 1  # 502
SHORTEST, LONGEST = 0.1, 30.0  # seconds
SILENT = 1e-4  # norm of envelopes below which a sound is silence
FLAT = 1e-6  # variance, by its squared mean, below which an envelope is even
AUDIBLE = 0.01  # mean, by the loudness, below which a band holds nothing but what filters leak


@dataclass(frozen=True)
class TextureTransform:
    """The sound texture of a file, or of a span of it.

    Attributes
    ----------
    seconds : float
        The most that is listened to: of a longer sound its middle.
    """

    seconds: float = LONGEST
    medium: ClassVar[str] = "sound"
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)

    def __post_init__(self) -> None:
        require_soundfile()

    @property
    def shape(self) -> tuple[int, ...]:
        """502 numbers."""
        return (LENGTH,)

    @property
    def cost(self) -> int:
        """Samples."""
        return round(self.seconds * RATE)

    def decode(self, data: Content, part: str | None = None, /) -> np.ndarray:
        """The texture of a file or of a span of it, float32 (502,).

        Raises
        ------
        SoundError
            It is empty, broken, has no sound track, or is shorter than a tenth of a second.
        """
        with opened(data) as recording:
            start, end = (0.0, recording.seconds) if part is None else span_of(part, recording.seconds)
            if end - start > self.seconds:
                start += (end - start - self.seconds) / 2
                end = start + self.seconds
            count = round((end - start) * RATE)
            return texture(resampled(recording, RATE, round(start * RATE), count))

    def trial(self, count: int, /) -> np.ndarray:
        """Textures of noise, float32 (count, 502)."""
        rng = np.random.default_rng(0)
        return np.stack([texture(rng.normal(0, 0.1, RATE).astype(np.float32)) for _ in range(count)])


def texture(signal: np.ndarray) -> np.ndarray:
    """The texture of a sound of 16 kHz.

    Parameters
    ----------
    signal : ndarray, shape (n,)
        At least a tenth of a second.

    Returns
    -------
    ndarray of float32, shape (502,)
        Means, deviations, correlations, modulations (band by band), loudness; see the module. Silence has zeros, and a
        loudness of -4.

    Raises
    ------
    SoundError
        It is shorter.

    Examples
    --------
    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    >>> found = texture(tone)
    >>> found.shape, int(found[:32].argmax())  # the band that hears 1000 Hz
    ((502,), 14)
    """
    if len(signal) < SHORTEST * RATE:
        raise SoundError(f"it lasts {len(signal) / RATE:.2f} s; a sound texture needs {SHORTEST} s at least")
    envelopes = _envelopes(np.asarray(signal, np.float64))  # (32, m)
    loudness = float(np.median(np.linalg.norm(envelopes, axis=0)))
    if loudness < SILENT:
        made = np.zeros(LENGTH, np.float32)
        made[-1] = np.log10(SILENT)
        return made
    envelopes /= loudness
    means = envelopes.mean(axis=1)  # (32,)
    centred = envelopes - means[:, None]
    variances = (centred**2).mean(axis=1)
    moves = (variances > FLAT * means**2) & (means > AUDIBLE)  # others have neither correlations nor modulations
    deviations = np.where(moves, np.sqrt(variances) / np.maximum(means, AUDIBLE), 0.0)
    unit = np.where(moves[:, None], centred / np.sqrt(np.where(moves, variances, 1.0))[:, None], 0.0)
    correlations = [(unit[gap:] * unit[:-gap]).mean(axis=1) for gap in APART]
    powers = _modulations(unit).ravel()
    return np.concatenate([means, deviations, *correlations, powers, [np.log10(loudness)]]).astype(np.float32)


def _envelopes(signal: np.ndarray) -> np.ndarray:
    """Compressed envelopes of all bands at 400 Hz, (32, m); band by band, as one of 30 seconds takes 8 MB and more."""
    count = len(signal)
    spectrum = np.fft.fft(signal)[: count // 2 + 1]
    spectrum[1:] *= 2  # of the analytic signal, which has no negative frequency
    scale = _erb(np.fft.rfftfreq(count, 1 / RATE))
    edges = np.linspace(_erb(LOWEST), _erb(HIGHEST), BANDS + 2)  # each band from one to the next but one
    reach = edges[1] - edges[0]
    return np.stack([_envelope(spectrum, (scale - middle) / reach, count) for middle in edges[1:-1]])


def _envelope(spectrum: np.ndarray, away: np.ndarray, count: int) -> np.ndarray:
    """The envelope of one band, (m,), of a signal of `count` samples.

    Gains are half cosines on the ERB scale that overlap by half, so that their squares sum to 1 between the outermost
    middles; `away` is how far a frequency is from the band's middle, (n // 2 + 1,), in units of its reach.
    """
    inside = np.abs(away) < 1
    found = np.zeros(count, complex)
    found[: len(away)][inside] = np.cos(np.pi / 2 * away[inside]) * spectrum[inside]
    envelope = np.abs(np.fft.ifft(found)) ** COMPRESSION  # (n,)
    step = RATE // ENVELOPE_RATE
    return envelope[: count // step * step].reshape(-1, step).mean(axis=1)


def _erb(hertz: Any) -> Any:
    """Frequencies on the scale of equivalent rectangular bandwidths."""
    return 9.265 * np.log(1 + np.asarray(hertz) / (24.7 * 9.265))


def _modulations(unit: np.ndarray) -> np.ndarray:
    """The power of ten bands of modulation of envelopes of variance 1, (32, m) → (32, 10)."""
    count = unit.shape[1]
    power = np.abs(np.fft.rfft(unit, axis=1)) ** 2 / count**2
    power[:, 1 : (count + 1) // 2] *= 2  # what the negative frequencies have
    octaves = np.log2(np.maximum(np.fft.rfftfreq(count, 1 / ENVELOPE_RATE), SLOWEST / 4))
    edges = np.linspace(np.log2(SLOWEST), np.log2(FASTEST), MODULATIONS)
    away = (octaves[None] - edges[:, None]) / (edges[1] - edges[0])
    gains = np.where(np.abs(away) < 1, np.cos(np.pi / 2 * away) ** 2, 0.0)
    return power @ gains.T
