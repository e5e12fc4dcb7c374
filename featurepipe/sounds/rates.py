"""Another rate: polyphase resampling, of any span as if the whole sound were resampled at once."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np

from featurepipe.sounds.recordings import Recording

FINEST = 16_000  # largest denominator of a ratio of rates: an odd one is met within a millionth
REACH = 10  # periods of the slower rate that the filter reaches to either side, SciPy's own choice


def resampled(recording: Recording, rate: int, start: int, count: int) -> np.ndarray:
    """Samples of a sound at another rate, float32 (count,); silence after its end.

    Parameters
    ----------
    recording : Recording
    rate : int
        Samples per second that are wanted.
    start, count : int
        The first sample, and how many, at that rate.
    """
    ratio = Fraction(rate, recording.rate).limit_denominator(FINEST)
    up, down = ratio.numerator, ratio.denominator
    if up == down:
        return recording.mixed(start, start + count)
    from scipy.signal import resample_poly

    margin = -(-REACH * max(up, down) // (up * down)) + 1  # blocks of `down` samples, each of which gives `up`
    first, last = start // up - margin, -(-(start + count) // up) + margin
    found = resample_poly(recording.mixed(first * down, last * down), up, down, window=_filter(up, down))
    return found[start - first * up :][:count].astype(np.float32)


@lru_cache(16)
def _filter(up: int, down: int) -> np.ndarray:
    """SciPy's own low-pass filter of `resample_poly`, made once."""
    from scipy.signal import firwin

    largest = max(up, down)
    return firwin(2 * REACH * largest + 1, 1 / largest, window=("kaiser", 5.0)).astype(np.float32)
