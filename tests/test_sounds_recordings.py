"""Opening sounds: every container, only what is asked for, and broken ones by name."""

import io
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from recorded import noise, tone, written

from featurepipe.errors import SoundError
from featurepipe.sounds import duration, opened

pytest.importorskip("soundfile", reason="needs featurepipe[sound]")


def read(data, start=0, stop=None):
    with opened(data) as recording:
        return recording.mixed(start, recording.frames if stop is None else stop)


@pytest.mark.parametrize(
    ("kind", "subtype", "most"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "FLOAT", 0),
        ("FLAC", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.1),
        ("MP3", None, 0.05),
    ],
)
def test_what_is_written_is_read(kind, subtype, most):
    signal = tone(seconds=2)
    found = read(written(signal, kind=kind, subtype=subtype))
    assert len(found) == pytest.approx(len(signal), abs=2000)
    inner = slice(4000, 24000)
    assert np.abs(found[inner] - signal[inner]).max() <= most


def test_channels_are_mixed_by_their_mean_and_silence_lies_outside():
    both = np.stack([tone(440), tone(880)], axis=1)
    found = read(written(both, subtype="FLOAT"), -10, len(both) + 10)
    assert np.allclose(found[10:-10], both.mean(axis=1), atol=1e-7)
    assert not found[:10].any()
    assert not found[-10:].any()


CHANNELS = np.zeros((100, 30), np.float32)
WHOLE = noise(2)
BROKEN = {
    "an array": (lambda: np.zeros((8, 8, 3), np.uint8), "it is an array; a sound is given as a file"),
    "nothing": (lambda: b"", "the file is empty"),
    "text": (lambda: b"this is text, whatever its suffix says\n" * 50, "not a sound that can be read"),
    "playlist": (lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "not a sound that can be read"),
    "no samples": (lambda: written(WHOLE[:0]), "it has no samples"),
    "header": (lambda: written(WHOLE)[:44], "cut off"),
    "half of a wav": (lambda: written(WHOLE)[:20_000], "cut off"),
    "half of a flac": (lambda: written(WHOLE, kind="FLAC")[:20_000], "cut off"),
    "half of an ogg": (lambda: written(WHOLE, kind="OGG")[:8_000], "cut off"),
    "30 channels": (lambda: written(CHANNELS), "it has 30 channels; at most 16"),
    "NaN": (lambda: written(np.where(np.arange(100) == 50, np.nan, 0.1), subtype="FLOAT"), "NaN or infinite"),
    "1 Hz": (lambda: written(WHOLE, rate=1), "its rate is 1 Hz"),
    "a rate of millions": (lambda: written(WHOLE, rate=2_000_000), "its rate is 2000000 Hz"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_with_one_printable_line(name):
    make, says = BROKEN[name]
    with pytest.raises(SoundError, match=says) as caught:
        read(make())
    assert str(caught.value).isprintable()


def test_a_wav_that_was_streamed_and_says_no_length_is_read():
    data = bytearray(written(WHOLE))
    data[40:44] = data[4:8] = b"\xff\xff\xff\xff"
    assert len(read(bytes(data))) == len(WHOLE)


def test_a_long_file_is_not_in_memory_as_samples():
    data = written(np.zeros(16_000 * 600, np.float32), kind="FLAC")  # ten minutes
    tracemalloc.start()
    read(data, 9_000_000, 9_016_000)
    assert tracemalloc.get_traced_memory()[1] < 2**20 + len(data)
    tracemalloc.stop()


def encoded(samples=None, *, container="mp4", frames=0):
    """A file that only FFmpeg reads, with a track of sound, 16 kHz, and one of black frames, ten a second."""
    av = pytest.importorskip("av", reason="needs featurepipe[sound]")
    file = io.BytesIO()
    with av.open(file, "w", format=container) as made:
        film = made.add_stream("mpeg4", rate=10) if frames else None
        sound = made.add_stream("aac", rate=16_000, layout="mono") if samples is not None else None
        if film is not None:
            film.width = film.height = 64
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            made.mux(film.encode(frame))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            for part in av.AudioResampler(format="fltp", layout="mono", rate=16_000, frame_size=1024).resample(frame):
                made.mux(sound.encode(part))
        for stream in filter(None, (film, sound)):
            made.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(("container", "frames"), [("mp4", 0), ("mp4", 30), ("matroska", 30)])
def test_what_only_ffmpeg_reads_is_read_and_so_is_the_track_of_a_video(container, frames):
    signal = tone(seconds=3)
    data = encoded(signal, container=container, frames=frames)
    assert duration(data) == pytest.approx(3, abs=0.15)
    whole, part = read(data), read(data, 20_000, 30_000)
    assert np.abs(part - whole[20_000:30_000]).max() < 1e-3
    assert np.corrcoef(part, signal[20_000:30_000])[0, 1] > 0.999


def test_a_film_without_sound_and_a_cut_off_film_are_refused():
    with pytest.raises(SoundError, match="no sound track"):
        read(encoded(frames=3))
    whole = encoded(noise(3))
    with pytest.raises(SoundError, match="not a sound that can be read"):
        read(whole[: len(whole) // 2])
