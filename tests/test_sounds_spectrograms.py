"""Log-mel and MFCC are librosa's."""

import numpy as np
import pytest
from recorded import noise, tone

from featurepipe.sounds import log_mel, mfcc

SIGNALS = {"noise": noise(), "tone": tone(), "chirp": np.sin(np.cumsum(np.linspace(0.02, 3, 16_000)))}
# librosa 0.11.0's of `noise()`, at (mel, frame) and (coefficient, frame)
MEL = {(0, 50): -4.1887, (64, 10): -2.8344, (127, 100): -9.6188}


@pytest.mark.parametrize("name", SIGNALS)
def test_they_are_librosas_within_a_thousandth_of_a_decibel(name):
    librosa = pytest.importorskip("librosa")
    signal = SIGNALS[name].astype(np.float32)
    power = librosa.feature.melspectrogram(y=signal, sr=16_000, n_fft=1024, hop_length=160, pad_mode="constant")
    wanted = librosa.power_to_db(power)
    assert np.abs(log_mel(signal) - wanted).max() < 1e-3
    cepstrum = librosa.feature.mfcc(S=wanted, n_mfcc=20)
    slopes = librosa.feature.delta(cepstrum, mode="nearest")
    assert np.abs(mfcc(signal) - np.concatenate([cepstrum, slopes])).max() < 1e-3


def test_they_are_what_librosa_gave_also_without_librosa():
    found = log_mel(noise())
    assert {place: found[place] for place in MEL} == pytest.approx(MEL, abs=1e-3)


def test_silence_is_even_and_a_louder_sound_is_louder_by_as_many_decibels():
    assert np.ptp(log_mel(np.zeros(16_000, np.float32))) == 0
    assert np.allclose(log_mel(10 * noise()) - log_mel(noise()), 20, atol=1e-3)
