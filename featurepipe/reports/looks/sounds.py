"""How sounds are shown: a waveform above a spectrogram, and a few seconds to listen to."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from featurepipe.reports.looks.look import Look, Way, jpeg
from featurepipe.sounds.recordings import opened, require_soundfile
from featurepipe.sounds.spectrograms import RANGE, RATE, log_mel
from featurepipe.sounds.transforms import cut
from featurepipe.sources.source import Content

SECONDS = 4.0  # at most, of a sound or of the span that is meant
WIDTH, WAVE, MELS = 192, 24, 72  # pixels: of both, and the heights of waveform and spectrogram
PAPER, INK = 245, 60  # shades of grey of the waveform


def look(data: Content, part: str | None) -> Look:
    """The first seconds of a sound, or of a span of it."""
    with opened(data) as recording:
        signal = next(cut(recording, part, SECONDS, 1))  # (n,)
    return Look(picture=jpeg(np.concatenate([_wave(signal), _spectrogram(signal)])), sound=_played(signal))


def _wave(signal: np.ndarray) -> np.ndarray:
    """The loudest of each column, up and down from the middle; uint8 (24, 192, 3)."""
    peaks = np.array([np.abs(one).max(initial=0.0) for one in np.array_split(signal, WIDTH)])  # (192,)
    heights = np.round(peaks / max(peaks.max(), 1e-6) * (WAVE // 2 - 1))
    inside = np.abs(np.arange(WAVE)[:, None] - (WAVE - 1) / 2) <= heights + 0.5  # (24, 192)
    return np.repeat(np.where(inside, INK, PAPER).astype(np.uint8)[:, :, None], 3, axis=2)


def _spectrogram(signal: np.ndarray) -> np.ndarray:
    """Decibels, low tones below, from black over red to yellow; uint8 (72, 192, 3)."""
    found = log_mel(signal)[::-1]  # (mels, frames)
    shares = (found - found.max()) / RANGE + 1  # 0…1
    small = np.asarray(Image.fromarray(shares.astype(np.float32)).resize((WIDTH, MELS), Image.Resampling.BILINEAR))
    colours = np.stack([1.6 * small, 1.8 * small - 0.7, 0.5 * np.sin(np.pi * small)], axis=2)
    return (255 * np.clip(colours, 0, 1)).astype(np.uint8)


def _played(signal: np.ndarray) -> str | None:
    """Base64 of an MP3 file, as loud as it may be; None where libsndfile is older than 1.1, which writes none."""
    soundfile, file = require_soundfile(), io.BytesIO()
    if "MP3" not in soundfile.available_formats():
        return None
    loud = 0.9 * signal / max(float(np.abs(signal).max(initial=0.0)), 1e-6)
    soundfile.write(file, loud, RATE, format="MP3", subtype="MPEG_LAYER_III")
    return base64.b64encode(file.getvalue()).decode()


SOUNDS = Way(look, 1000)
