"""A video file: which frames it has and when each is shown, and the frames of some moments as pixels, by PyAV.

Packets are listed first, without decoding: their times say which frames there are, whatever the header claims, and
which keyframe has to be decoded first for each. Only from there to the frame that is wanted is decoded, and one picture
is held at a time: memory does not grow with the length of a video.
"""

from __future__ import annotations

import io
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from featurepipe.errors import DependencyMissing, FeaturepipeError, VideoError
from featurepipe.images.frames import MAX_PIXELS
from featurepipe.videos.pictures import upright

# What is taken for a video, by libavformat's names: none that reads other files or asks a network, as playlists do.
FORMATS = "mov,mp4,matroska,webm,avi,gif,mpeg,mpegts"
PACKETS = 2**23  # of one file; a day has 5 million frames at 60 a second
SLACK = 0.5  # seconds that a header may promise beyond the last frame of a file that is whole


@dataclass(frozen=True)
class Frames:
    """The frames of a video, in the order in which they are shown.

    Attributes
    ----------
    stamps : array of int
        When each is shown, in units of the stream's time base.
    keys : array of int
        Stamps of those that can be decoded without others.
    unit : float
        Seconds of one unit.
    end : float
        Seconds from the first frame until the last one is over.
    promised : float
        The same as the header has it, where that is more and the rest of the file is missing.
    size : tuple of int
        Width and height, before they are turned.
    """

    stamps: Sequence[int]
    keys: Sequence[int]
    unit: float
    end: float
    promised: float
    size: tuple[int, int]

    def at(self, seconds: float) -> int:
        """Number of the frame that is shown at a moment; the first one is at 0.

        Raises
        ------
        VideoError
            The file ends before.
        """
        if seconds > self.end and self.promised > self.end:
            raise VideoError(
                f"the video ends after {self.end:.1f} of {self.promised:.1f} seconds, before a frame that is wanted "
                f"(at {seconds:.1f}); the file is incomplete: copy it again, or cut its end off"
            )
        return max(bisect_right(self.stamps, self._stamp(seconds)) - 1, 0)

    def before(self, seconds: float) -> int:
        """Number of the last frame that is shown before a moment, or of the first."""
        return max(bisect_left(self.stamps, self._stamp(seconds)) - 1, 0)

    def _stamp(self, seconds: float) -> float:
        """A moment in units; those that were computed are not quite whole ones."""
        return self.stamps[0] + round(seconds / self.unit, 3)

    def key_of(self, number: int) -> int:
        """The stamp from which to decode for a frame to come out."""
        found = bisect_right(self.keys, self.stamps[number]) - 1
        return self.keys[found] if found >= 0 else self.stamps[0]


def frames_of(data: bytes) -> Frames:
    """List the frames of a file, without decoding them.

    Raises
    ------
    VideoError
        It is not a video, or has no frames.
    """
    stamps, keys = array("q"), array("q")
    last, over = 0, 0.0  # when the pictures end, in units; when all streams do, in seconds
    with _opened(data) as (container, stream):
        for packet in container.demux():
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None:  # the one that asks for what decoders hold back
                continue
            until = stamp + (packet.duration or 0)
            over = max(over, float(until * packet.time_base))
            if packet.stream_index != stream.index or packet.is_discard:
                continue
            last = until if not stamps else max(last, until)
            stamps.append(stamp)
            if packet.is_keyframe:
                keys.append(stamp)
            if len(stamps) > PACKETS:
                raise VideoError(f"a video of more than {PACKETS} frames; cut it into several files")
        if not stamps:
            raise VideoError("a video without frames")
        unit, promised = float(stream.time_base), _promised(container, stream)
        size = stream.codec_context.width, stream.codec_context.height
    first = min(stamps)
    end = max(last - first, 1) * unit
    whole = max(end, over - first * unit) + SLACK >= promised
    ordered = array("q", sorted(stamps)), array("q", sorted(keys))
    return Frames(*ordered, unit, end, end if whole else promised, size)


def duration(data: bytes) -> float:
    """Seconds of a video; a VideoError where it is broken."""
    return frames_of(data).promised


def _promised(container: Any, stream: Any) -> float:
    """Seconds that the header says; 0 where it says nothing."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return 0.0 if container.duration is None else container.duration / 1e6


def pictures(data: bytes, frames: Frames, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Decode some frames of a file.

    Parameters
    ----------
    data : bytes
    frames : Frames
        All that it has.
    numbers : sequence of int
        Those that are wanted, ascending, each once.

    Yields
    ------
    ndarray of uint8, shape (h, w, 3)
        Upright RGB.

    Raises
    ------
    VideoError
        One cannot be decoded; none is ever replaced by another.
    """
    done = 0
    for picture in _sought(data, frames, numbers):
        done += 1
        yield picture
    if done < len(numbers):
        yield from _counted(data, frames, numbers[done:])


def _sought(data: bytes, frames: Frames, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """As `pictures`, from the nearest keyframes on; ends before a frame that does not come out at its time."""
    with _opened(data) as (container, stream):
        decoded, reached = container.decode(stream), frames.stamps[0]
        for number in numbers:
            stamp, key = frames.stamps[number], frames.key_of(number)
            try:
                if key > reached:
                    container.seek(key, stream=stream)
                    decoded = container.decode(stream)
                frame = next((one for one in decoded if one.pts is None or one.pts >= stamp), None)
            except require_av().FFmpegError:
                return
            if frame is None or frame.pts != stamp or frame.is_corrupt:
                return
            reached = stamp
            yield upright(frame)


def _counted(data: bytes, frames: Frames, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """As `pictures`, from the start, by their numbers: some containers give frames wrong times, or cannot seek."""
    wanted = iter(numbers)
    number = next(wanted)
    with _opened(data) as (container, stream):
        try:
            for count, frame in enumerate(container.decode(stream)):
                if count < number:
                    continue
                if frame.is_corrupt:
                    break
                yield upright(frame)
                if (following := next(wanted, None)) is None:
                    return
                number = following
        except require_av().FFmpegError as error:
            raise VideoError(_undecoded(frames, number, error.strerror)) from error
    raise VideoError(_undecoded(frames, number, "its data is missing or damaged"))


def _undecoded(frames: Frames, number: int, why: object) -> str:
    seconds = (frames.stamps[number] - frames.stamps[0]) * frames.unit
    return f"the frame at {seconds:.2f} seconds cannot be decoded: {why}"


@contextmanager
def _opened(data: bytes) -> Iterator[tuple[Any, Any]]:
    """A file and its first stream of pictures; what FFmpeg says of a broken one becomes a `VideoError`."""
    av = require_av()
    if not data:
        raise VideoError("empty file (0 bytes)")
    try:
        with av.open(io.BytesIO(data), metadata_errors="replace", options={"format_whitelist": FORMATS}) as container:
            if not container.streams.video:
                raise VideoError("a file without pictures")
            stream = container.streams.video[0]
            context = stream.codec_context
            if context.width * context.height > MAX_PIXELS:
                size = f"{context.width}×{context.height}"
                raise VideoError(f"frames of {size} pixels, more than {MAX_PIXELS}; make them smaller")
            context.options = {"max_pixels": str(MAX_PIXELS)}  # of frames that are larger than the header says
            context.thread_count = 1  # there is a thread for every core already
            yield container, stream
    except (FeaturepipeError, MemoryError):
        raise
    except av.FFmpegError as error:
        raise VideoError(f"broken video: {error.strerror}") from error


def require_av() -> ModuleType:
    """The module av.

    Raises
    ------
    DependencyMissing
        PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise DependencyMissing("videos need PyAV: pip install 'featurepipe[video]'") from error
    return av
