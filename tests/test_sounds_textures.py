"""Sound textures: noise, tones, silence and modulated noise have the statistics that theory says."""

import math

import numpy as np
import pytest
from recorded import noise, tone, written

from featurepipe.errors import SoundError
from featurepipe.sounds import TextureTransform, texture

SECONDS = 4.0


def parts(found):
    """Means, deviations, correlations by distance of bands, modulations (32, 10), loudness."""
    ends = np.cumsum([32, 32, 31, 30, 29, 27, 320])
    means, deviations, *correlations, powers, loudness = np.split(found, ends)
    return means, deviations, correlations, powers.reshape(32, 10), float(loudness[0])


def test_a_texture_is_502_numbers():
    found = texture(noise(SECONDS))
    assert (found.shape, found.dtype) == ((502,), np.float32)
    assert np.isfinite(found).all()


def test_white_noise_has_the_envelopes_of_rayleigh():
    means, deviations, correlations, powers, _ = parts(texture(noise(8.0)))
    # a Rayleigh variable to the power p has the mean Γ(1 + p/2), and the square of it Γ(1 + p), in units of its scale
    wanted = math.sqrt(math.gamma(1.3) / math.gamma(1.15) ** 2 - 1)
    np.testing.assert_allclose(deviations[:12], wanted, atol=0.02)  # bands narrow enough for 400 Hz to follow them
    assert (np.diff(means) > -0.005).all()  # wider bands hold more of it
    for apart in correlations[1:]:  # bands that do not overlap know nothing of each other
        assert abs(apart.mean()) < 0.02
    assert 0.02 < correlations[0].mean() < 0.2  # neighbours share half of their band
    np.testing.assert_allclose(powers.sum(axis=1), 1, atol=0.05)  # the filters share out the variance


def test_a_steady_tone_is_one_place_without_movement():
    means, deviations, _, powers, _ = parts(texture(tone(1000.0, SECONDS, strength=0.5)))
    loud = np.flatnonzero(means > 0.3)
    assert 1 <= len(loud) <= 2
    assert (np.diff(loud) == 1).all()
    assert means[[i for i in range(32) if i not in loud]].max() < 0.02
    np.testing.assert_allclose(deviations[loud], 0, atol=1e-3)
    assert powers[loud].max() == 0
    higher = parts(texture(tone(4000.0, SECONDS)))[0]
    assert higher.argmax() > means.argmax()


def test_silence_is_zeros_and_the_least_loudness():
    found = texture(np.zeros(16_000, np.float32))
    assert not found[:-1].any()
    assert found[-1] == pytest.approx(-4)


def test_gain_changes_the_loudness_alone():
    soft, loud = texture(noise(SECONDS)), texture(10 * noise(SECONDS))
    np.testing.assert_allclose(soft[:-1], loud[:-1], atol=1e-4)
    assert loud[-1] - soft[-1] == pytest.approx(0.3, abs=1e-3)  # ten times to the power 0.3, as a logarithm


@pytest.mark.parametrize(("hertz", "band"), [(2.0, 2), (7.2, 4), (27.1, 6)])
def test_modulation_is_found_at_its_rate(hertz, band):
    signal = noise(SECONDS) * (1 + 0.9 * np.sin(2 * np.pi * hertz * np.arange(round(SECONDS * 16_000)) / 16_000))
    powers = parts(texture(signal))[3].mean(axis=0)
    assert powers.argmax() == band
    assert powers[band] > 0.4


def test_bands_that_move_together_are_correlated():
    signal = noise(SECONDS) * (1 + 0.9 * np.sin(2 * np.pi * 4 * np.arange(round(SECONDS * 16_000)) / 16_000))
    _, _, correlations, _, _ = parts(texture(signal))
    assert all(apart.mean() > 0.5 for apart in correlations)


def test_what_is_too_short_is_refused():
    with pytest.raises(SoundError, match=r"lasts 0\.05 s; a sound texture needs 0\.1 s"):
        texture(np.ones(800))


def test_files_and_spans_of_them_are_heard():
    pytest.importorskip("soundfile")
    signal = np.concatenate([tone(500.0, 2.0), tone(3000.0, 2.0)])
    transform, data = TextureTransform(), written(signal)
    first, second = (transform.decode(data, part) for part in ("0.0-1.9", "2.1-4.0"))
    assert first[:32].argmax() < second[:32].argmax()
    assert transform.decode(data).shape == transform.shape
    middle = TextureTransform(seconds=1.0).decode(data, "0.5-1.5")
    np.testing.assert_array_equal(TextureTransform(seconds=1.0).decode(data, "0.0-2.0"), middle)
    assert transform.trial(2).shape == (2, 502)
