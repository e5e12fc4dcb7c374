"""Windows of a sound, and statistics of MFCC."""

import numpy as np
import pytest
from recorded import noise, tone, written

from featurepipe.errors import SoundError
from featurepipe.sounds import MfccTransform, SoundTransform, mfcc, opened
from featurepipe.sounds.transforms import cut, standardised

pytest.importorskip("soundfile", reason="needs featurepipe[sound]")


def starts(seconds, part=None, length=1.0, most=10):
    """Where the windows of a ramp begin, by what is in them."""
    ramp = np.linspace(0, 1, round(seconds * 16_000), dtype=np.float32)
    with opened(written(ramp, subtype="FLOAT")) as recording:
        return [round(float(one[0]) * seconds, 2) for one in cut(recording, part, length, most)]


def test_windows_lie_evenly_from_the_start_to_the_end():
    assert starts(1) == [0]
    assert starts(2.5) == [0, 0.75, 1.5]
    assert starts(60, most=3) == [0, 29.5, 59]
    assert starts(10, "4.0-6.0") == [4, 5]


def test_a_window_has_mean_0_and_deviation_1_and_those_that_are_not_there_are_nan():
    transform = SoundTransform((24, 32))
    found = transform.decode(written(noise(2.5)))
    assert found.shape == transform.shape == (10, 24, 32)
    assert found.dtype == transform.dtype
    assert np.isfinite(found).all(axis=(1, 2)).tolist() == [True] * 3 + [False] * 7
    assert np.isnan(found[3:]).all()
    assert np.allclose(found[:3].mean(axis=(1, 2)), 0, atol=1e-5)
    assert np.allclose(found[:3].std(axis=(1, 2)), 1, atol=1e-5)


def test_loudness_does_not_count_and_high_frequencies_are_on_top():
    transform = SoundTransform((64, 64))
    signal = tone(5000) + noise() / 10
    quiet, loud = (transform.decode(written(factor * signal, subtype="FLOAT"))[0] for factor in (0.01, 1))
    assert np.allclose(quiet, loud, atol=1e-3)
    assert np.argmax(loud.mean(axis=1)) < 16


def test_silence_is_zeros_and_a_short_sound_is_followed_by_silence():
    transform = SoundTransform((64, 100))
    assert not transform.decode(written(np.zeros(16_000, np.float32)))[0].any()
    found = transform.decode(written(noise(0.5)))[0]
    assert found[:, :40].mean() > 0.5
    assert np.ptp(found[:, 60:]) == 0


def test_a_part_is_what_a_file_of_its_own_would_be():
    transform, signal = SoundTransform((32, 32)), noise(4)
    part = transform.decode(written(signal, subtype="FLOAT"), "1.0-2.5")
    assert np.array_equal(part, transform.decode(written(signal[16_000:40_000], subtype="FLOAT")), equal_nan=True)
    with pytest.raises(SoundError, match="reaches beyond the end"):
        transform.decode(written(signal), "3.0-4.5")


def test_mfcc_are_summed_up_over_the_whole_sound():
    signal = noise(3)
    found = MfccTransform().decode(written(signal, subtype="FLOAT"))
    frames = mfcc(signal)
    assert np.allclose(found, np.concatenate([frames.mean(axis=1), frames.std(axis=1)]), atol=1e-4)
    long = MfccTransform(seconds=1.0).decode(written(signal, subtype="FLOAT"))
    assert np.allclose(long[:20], found[:20], atol=1)


@pytest.mark.parametrize("transform", [SoundTransform((16, 16)), MfccTransform()], ids=["network", "mfcc"])
def test_trials_are_always_the_same_finite_and_differ_from_each_other(transform):
    found = transform.trial(3)
    assert found.shape == (3, *transform.shape)
    assert found.dtype == transform.dtype
    assert np.array_equal(found, transform.trial(3), equal_nan=True)
    first = found.reshape(3, -1)[:, :80]
    assert np.isfinite(first).all()
    assert not np.allclose(first[0], first[1])


def test_an_even_picture_is_not_blown_up():
    assert not standardised(np.full((3, 3), -80, np.float32)).any()
