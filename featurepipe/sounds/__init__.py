"""Sounds: bytes → windows of a log-mel spectrogram or of the wave itself, or statistics of MFCC.

wav, flac, ogg, opus and mp3 are read by libsndfile (the package soundfile); m4a, and the sound track of a video, by
FFmpeg (the package PyAV). Only what is asked for is decoded, so memory does not grow with the length of a file. All
channels are mixed into one by their mean, and brought to 16 kHz by a polyphase filter (SciPy's ``resample_poly``).

What cannot be heard as it was meant is refused: a file that ends before it says it does, samples that are not finite,
more than 16 channels, rates that no recorder has. A part is a span of seconds, ``12.0-16.0``.
"""

from featurepipe.sounds.recordings import Recording, duration, opened
from featurepipe.sounds.spectrograms import RATE, log_mel, mfcc
from featurepipe.sounds.textures import TextureTransform, texture
from featurepipe.sounds.transforms import MfccTransform, SoundTransform
from featurepipe.sounds.waves import WaveTransform

__all__ = [
    "RATE",
    "MfccTransform",
    "Recording",
    "SoundTransform",
    "TextureTransform",
    "WaveTransform",
    "duration",
    "log_mel",
    "mfcc",
    "opened",
    "texture",
]
