"""Sounds for tests: made here, written by soundfile."""

import io

import numpy as np


def tone(hertz=440.0, seconds=1.0, rate=16_000, strength=0.5):
    """A sine, float32 (n,)."""
    return (strength * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise(seconds=1.0, rate=16_000, seed=0):
    """White noise, float32 (n,)."""
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate)).astype(np.float32)


def written(samples, rate=16_000, kind="WAV", subtype=None):
    """The bytes of a file."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()
