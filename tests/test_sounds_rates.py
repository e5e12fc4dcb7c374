"""Resampling."""

import numpy as np
import pytest
from recorded import tone, written

from featurepipe.sounds import opened
from featurepipe.sounds.rates import resampled

pytest.importorskip("soundfile", reason="needs featurepipe[sound]")


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 16_001])
def test_tones_stay_tones_and_a_span_is_what_it_is_in_the_whole(rate):
    def both(at):
        return tone(440, 2, at) + tone(3000, 2, at, 0.3)

    with opened(written(both(rate), rate, subtype="FLOAT")) as recording:
        whole = resampled(recording, 16_000, 0, 32_000)
        assert np.array_equal(resampled(recording, 16_000, 12_345, 8_000), whole[12_345:20_345])
    assert np.abs(whole - both(16_000))[500:-500].max() < 2e-3


def test_what_the_lower_rate_cannot_hold_is_gone():
    with opened(written(tone(12_000, 1, 48_000), 48_000, subtype="FLOAT")) as recording:
        assert np.abs(resampled(recording, 16_000, 0, 16_000))[500:-500].max() < 1e-3


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_it_is_soxr_within_a_small_tolerance(rate):
    soxr = pytest.importorskip("soxr")
    signal = tone(1000, 2, rate)
    with opened(written(signal, rate, subtype="FLOAT")) as recording:
        found = resampled(recording, 16_000, 0, 32_000)
    assert np.abs(found - soxr.resample(signal, rate, 16_000))[500:-500].max() < 2e-3
