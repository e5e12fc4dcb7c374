"""Which frames a file has and which are decoded: by their times, in bounded work, none in place of another."""

import tracemalloc

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV (the extra video)")

from films import LOSSLESS, film, shades

from featurepipe.errors import VideoError
from featurepipe.videos.files import frames_of, pictures

X264 = {"codec": "libx264", "options": {"g": "12", "qp": "0"}}


def shown(data, *seconds):
    """Shades of the frames at some moments."""
    frames = frames_of(data)
    numbers = [frames.at(moment) for moment in seconds]
    return [round(picture.mean() / 5) for picture in pictures(data, frames, numbers)]


@pytest.mark.parametrize(
    "how",
    [
        {},
        LOSSLESS,
        X264,
        {"form": "webm", "codec": "libvpx-vp9", "options": {"lossless": "1"}},
        {"form": "avi"},
        {"form": "avi", **X264},  # whose frames come at times that are not theirs
        {"form": "gif", "codec": "gif", "pixels": "gray"},
    ],
    ids=["mp4", "mkv", "h264", "webm", "avi", "avi-h264", "gif"],
)
def test_frames_are_found_by_the_moment_at_which_they_are_shown(how):
    data = film(shades(40), **how)
    assert shown(data, 0.0, 0.35, 1.2, 3.95) == [0, 3, 12, 39]
    assert frames_of(data).end == pytest.approx(4.0, abs=0.11)


def test_rates_may_vary():
    data = film(shades(4), **LOSSLESS, times=[0, 1, 20, 21])
    assert shown(data, 0.05, 1.95, 2.05) == [0, 1, 2]


def test_a_file_that_does_not_say_how_long_it_is_is_measured():
    import io

    import av

    class Pipe(io.BytesIO):  # to which no length can be added at the end
        seekable = None
        seek = None

    data = film(shades(30), **LOSSLESS, buffer=Pipe())
    with av.open(io.BytesIO(data)) as container:
        assert container.duration is None
    assert frames_of(data).promised == pytest.approx(3.0, abs=0.01)


def test_pictures_are_upright():
    corner = np.zeros((16, 32, 3), np.uint8)
    corner[:8, :8] = 255  # top left
    data = film([corner] * 3, codec="libx264rgb", pixels="rgb24", options={"qp": "0"}, rotation=90)
    (picture,) = pictures(data, frames_of(data), [1])
    assert picture.shape == (32, 16, 3)
    assert picture[-8:, :8].min() == 255  # turned a quarter counterclockwise
    assert picture.sum() == corner.sum()


@pytest.mark.parametrize(
    ("matrix", "wanted"), [([1, 0, 0, 1], "abcd"), ([-1, 0, 0, 1], "badc"), ([0, 1, 1, 0], "acbd")]
)
def test_pictures_are_mirrored_as_the_file_says(matrix, wanted):
    from featurepipe.videos.pictures import turned

    square = np.array([[*b"ab"], [*b"cd"]], np.uint8)[:, :, None].repeat(3, 2)
    assert bytes(turned(square, matrix)[:, :, 0].ravel()).decode() == wanted


def test_a_broken_tail_is_no_matter_where_no_frame_is_wanted():
    data = film(shades(40), options={"g": "10"})
    tail = data.rindex(b"moov") if b"moov" in data else len(data)
    broken = bytearray(data)
    packets = data.index(b"mdat") + 4
    broken[packets + (tail - packets) * 9 // 10 : tail - 8] = b"\xff" * (
        tail - 8 - packets - (tail - packets) * 9 // 10
    )
    assert shown(bytes(broken), 0.5, 2.0) == [5, 20]


def test_a_file_that_was_cut_off_is_refused_by_what_is_missing():
    data = film(shades(40), form="matroska", codec="libx264", options={"g": "10", "qp": "0"})
    cut = data[: len(data) // 2]
    frames = frames_of(cut)
    assert frames.promised == pytest.approx(4.0, abs=0.1)
    assert frames.end < 3
    with pytest.raises(
        VideoError, match=r"ends after \d.\d of \d.\d seconds, before a frame that is wanted \(at 3.5\)"
    ):
        frames.at(3.5)
    assert shown(cut, 0.15) == [1]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty file"),
        (b"x" * 5000, "broken video: Invalid data"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n", "broken video: Invalid"),
    ],
)
def test_what_is_not_a_video_is_refused(data, why):
    with pytest.raises(VideoError, match=why):
        frames_of(data)


def test_a_sound_without_pictures_is_refused():
    import io

    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="a file without pictures"):
        frames_of(buffer.getvalue())


def test_memory_does_not_grow_with_length():
    def peak(hours):
        frames = [np.full((16, 16, 3), 99, np.uint8)] * 60
        data = film(frames, codec="libx264", form="matroska", times=[2400 * hours * n // 4 for n in range(60)])
        tracemalloc.start()
        assert shown(data, 0, 3000.0 * hours) == [20, 20]
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(4) < 1.5 * peak(1) + 2**20


def test_only_what_is_near_a_wanted_frame_is_decoded(monkeypatch):
    from featurepipe.videos import files

    data, decoded = film(shades(50), codec="libx264", options={"g": "5", "qp": "0"}), []
    real = files._opened

    class Counted:
        def __init__(self, container):
            self.container = container

        def decode(self, stream):
            for frame in self.container.decode(stream):
                decoded.append(frame)
                yield frame

        def __getattr__(self, name):
            return getattr(self.container, name)

    def counted(data):
        from contextlib import contextmanager

        @contextmanager
        def within():
            with real(data) as (container, stream):
                yield Counted(container), stream

        return within()

    monkeypatch.setattr(files, "_opened", counted)
    assert shown(data, 0.05, 2.55, 4.55) == [0, 25, 45]
    assert len(decoded) < 12
