"""Log-mel spectrograms and MFCC, as librosa makes them.

Frames of 64 ms every 10 ms (Hann window, the signal centred in zeros), 128 triangular filters up to 8 kHz on Slaney's
mel scale (Auditory Toolbox, 1998: linear below 1 kHz, logarithmic above), each of area 1; decibels of their power, at
most 80 below the loudest. That is ``librosa.power_to_db(librosa.feature.melspectrogram(y=y, sr=16000, n_fft=1024,
hop_length=160, pad_mode="constant"))``; a test holds the two together within 0.001 dB.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

RATE, FRAME, HOP, MELS = 16_000, 1024, 160, 128  # Hz, samples, samples, filters
FLOOR, RANGE = 1e-10, 80.0  # least power; decibels
COEFFICIENTS, DELTA = 20, 9  # of the cepstrum; frames that a slope is taken over
KNEE, STEP, GROWTH = 1000.0, 200 / 3, np.log(6.4) / 27  # of Slaney's scale: Hz, Hz per mel, per mel


def log_mel(signal: np.ndarray) -> np.ndarray:
    """Decibels of a signal at 16 kHz, float32 (128, frames), lowest filter first.

    Examples
    --------
    >>> log_mel(np.zeros(16000, np.float32)).shape
    (128, 101)
    """
    power = _mel_filters() @ _power(signal)  # (128, frames)
    decibels = 10 * np.log10(np.maximum(power, FLOOR))
    return np.maximum(decibels, decibels.max() - RANGE).astype(np.float32)


def _power(signal: np.ndarray) -> np.ndarray:
    """Power of each frequency in each frame, (513, frames)."""
    from scipy.fft import rfft
    from scipy.signal import get_window

    padded = np.pad(signal.astype(np.float64), FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    found = rfft(frames * get_window("hann", FRAME), axis=1)  # (frames, 513)
    return (found.real**2 + found.imag**2).T


@lru_cache(1)
def _mel_filters() -> np.ndarray:
    """Slaney's triangles, (128, 513)."""
    edges = _hertz(np.linspace(0, _mel(RATE / 2), MELS + 2))  # (130,)
    bins = np.fft.rfftfreq(FRAME, 1 / RATE)  # (513,)
    widths = np.diff(edges)[:, None]  # (129, 1)
    rising, falling = (bins - edges[:-2, None]) / widths[:-1], (edges[2:, None] - bins) / widths[1:]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def _mel(hertz: float) -> float:
    return hertz / STEP if hertz < KNEE else KNEE / STEP + np.log(hertz / KNEE) / GROWTH


def _hertz(mels: np.ndarray) -> np.ndarray:
    return np.where(mels < KNEE / STEP, mels * STEP, KNEE * np.exp(GROWTH * (mels - KNEE / STEP)))


def mfcc(signal: np.ndarray) -> np.ndarray:
    """20 mel-frequency cepstral coefficients and their slopes over 9 frames, float32 (40, frames).

    The coefficients are librosa's (orthonormal DCT-II of the log-mel decibels), the slopes its ``delta`` with
    ``mode="nearest"``.
    """
    from scipy.fft import dct
    from scipy.signal import savgol_filter

    cepstrum = dct(log_mel(signal), axis=0, norm="ortho")[:COEFFICIENTS]
    slopes = savgol_filter(cepstrum, DELTA, polyorder=1, deriv=1, axis=1, mode="nearest")
    return np.concatenate([cepstrum, slopes]).astype(np.float32)
