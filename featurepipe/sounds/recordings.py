"""An opened sound: how long it is, and any span of it, mixed into one channel."""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np

from featurepipe.errors import DependencyMissing, SoundError
from featurepipe.sources import Content

CHANNELS = 16  # at most
RATES = (1_000, 768_000)  # samples per second, from and to
TAIL = 0.1  # seconds that may be missing at the end, as lengths in headers are not always exact
BLOCK = 2**16  # frames that are read at a time, where a length has to be counted
ROLL = Fraction(1, 2)  # seconds before a span where FFmpeg begins: what comes first after a jump is not right yet
UNKNOWN = 2**60  # frames: libsndfile says more than this of a stream whose length it does not know
# What FFmpeg may take a file for: nothing that names other files, as playlists do.
FORMATS = "mov,mp4,m4a,matroska,webm,aac,avi,asf,ogg,mp3,flac,wav,aiff,mpegts,mpeg,flv,caf,amr"
CLAIMED = re.compile(r"^data *: *(\d+) *\(should be", re.MULTILINE)  # libsndfile's log of a WAV that is cut off
CUT = "the file is cut off; it says that there is more"
STREAMED = (0, 2**32 - 1)  # sizes that programs write which do not know the size yet
OGG, LAST = b"OggS", 4  # how a page begins; the flag of the last one


class Recording(ABC):
    """A sound whose samples are read when they are asked for.

    Attributes
    ----------
    rate : int
        Samples per second.
    channels : int
    """

    rate: int
    channels: int

    @property
    @abstractmethod
    def frames(self) -> int:
        """Samples in each channel."""

    @abstractmethod
    def read(self, start: int, count: int) -> np.ndarray:
        """Up to that many samples from a position on, float32 (n, channels)."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / self.rate

    def check(self) -> None:
        """Raise SoundError for what no microphone gives."""
        if not RATES[0] <= self.rate <= RATES[1]:
            raise SoundError(f"its rate is {self.rate} Hz; sounds have {RATES[0]} to {RATES[1]} samples per second")
        if not 1 <= self.channels <= CHANNELS:
            raise SoundError(f"it has {self.channels} channels; at most {CHANNELS} are mixed into one")
        if not self.frames:
            raise SoundError("it has no samples")

    def mixed(self, start: int, stop: int) -> np.ndarray:
        """The mean of all channels from one position to another, float32 (stop - start,); silence outside of the sound.

        Raises
        ------
        SoundError
            The sound ends before it said it does, or has samples that are not finite.
        """
        first, last = max(0, start), min(stop, self.frames)
        room = np.zeros(stop - start, np.float32)
        if first >= last:
            return room
        found = self.read(first, last - first)
        if len(found) < last - first - TAIL * self.rate:
            raise SoundError(
                f"it ends after {(first + len(found)) / self.rate:.2f} s of the {self.seconds:.2f} s that its header "
                "says; the file is cut off"
            )
        if not np.isfinite(found).all():
            raise SoundError("it has samples that are NaN or infinite")
        room[first - start : first - start + len(found)] = found.mean(axis=1)
        return room


class _Libsndfile(Recording):
    """By the package soundfile."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.rate, self.channels = file.samplerate, file.channels
        claimed = CLAIMED.search(file.extra_info)
        if claimed and int(claimed[1]) not in STREAMED:
            raise SoundError(CUT)
        self._frames = file.frames if file.frames < UNKNOWN else None

    @property
    def frames(self) -> int:
        """Counted, where the file does not say it."""
        if self._frames is None:
            self._frames = sum(map(len, iter(lambda: self._file.read(BLOCK, "float32", always_2d=True), [])))
        return self._frames

    def read(self, start: int, count: int) -> np.ndarray:
        """See `Recording.read`."""
        self._file.seek(start)
        return self._file.read(count, "float32", always_2d=True)


class _FFmpeg(Recording):
    """By the package PyAV: the first sound track of a file of any container."""

    def __init__(self, container: Any) -> None:
        if not container.streams.audio:
            raise SoundError("it has no sound track")
        self._container, self._stream = container, container.streams.audio[0]
        self.rate, self.channels = self._stream.codec_context.sample_rate or 0, self._stream.codec_context.channels
        self._begin = (self._stream.start_time or 0) * self._stream.time_base  # seconds
        self._frames: int | None = None

    @property
    def frames(self) -> int:
        """Of the track's own length; counted where the file does not say it."""
        if self._frames is None:
            length = self._stream.duration and self._stream.duration * self._stream.time_base
            self._frames = round(length * self.rate) if length else max((end for _, end, _ in self._from(0)), default=0)
        return self._frames

    def read(self, start: int, count: int) -> np.ndarray:
        """See `Recording.read`; samples lie where their times say."""
        room, reached = np.zeros((count, self.channels), np.float32), start
        for first, end, block in self._from(start):
            if first >= start + count:
                break
            here = slice(max(first, start), min(end, start + count))
            if here.start < here.stop:
                room[here.start - start : here.stop - start] = block[here.start - first : here.stop - first]
                reached = max(reached, here.stop)
        return room[: reached - start]

    def _from(self, start: int) -> Iterator[tuple[int, int, np.ndarray]]:
        """First sample, end and samples (n, channels) of blocks, from one at or before a position on."""
        from av.audio.resampler import AudioResampler

        base, plain = self._stream.time_base, AudioResampler(format="fltp")
        begin = max(Fraction(start, self.rate) - ROLL, 0) + self._begin
        self._container.seek(int(begin / base), stream=self._stream)
        at = start
        for frame in self._container.decode(self._stream):
            if frame.pts is not None:
                at = round((frame.pts * frame.time_base - self._begin) * self.rate)
            for block in plain.resample(frame):
                samples = block.to_ndarray().T  # (n, channels)
                yield at, at + len(samples), samples
                at += len(samples)


@contextmanager
def opened(data: Content) -> Iterator[Recording]:
    """A sound file, open and checked.

    Raises
    ------
    SoundError
        The data are empty, not a sound, cut off, or of a kind that no microphone gives; also within, where reading
        fails.
    """
    if isinstance(data, np.ndarray):
        raise SoundError("it is an array; a sound is given as a file, or as the bytes of one")
    if not len(data):
        raise SoundError("the file is empty")
    if data[:4] == OGG and not _is_whole_ogg(data):
        raise SoundError(CUT)
    soundfile = require_soundfile()
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except (soundfile.SoundFileError, TypeError) as error:
        with _of_ffmpeg(data, _line(error)) as track:
            track.check()
            yield track
        return
    try:
        with file:
            recording = _Libsndfile(file)
            recording.check()
            yield recording
    except soundfile.SoundFileError as error:
        raise SoundError(f"it cannot be decoded ({_line(error)}); the file is cut off or damaged") from error


@contextmanager
def _of_ffmpeg(data: bytes, reason: str) -> Iterator[_FFmpeg]:
    """As `opened`, by PyAV."""
    try:
        import av
    except ImportError:
        raise SoundError(
            f"it is not a wav, flac, ogg or mp3 file ({reason}); other formats need PyAV: "
            "pip install 'featurepipe[sound]'"
        ) from None
    try:
        with av.open(io.BytesIO(data), metadata_errors="replace", options={"format_whitelist": FORMATS}) as container:
            yield _FFmpeg(container)
    except (av.FFmpegError, UnicodeError) as error:
        raise SoundError(f"it is not a sound that can be read ({_line(error)})") from error


def _is_whole_ogg(data: bytes) -> bool:
    """Whether an Ogg file ends in a page that is complete and calls itself the last: libraries read on to any end."""
    page = data.rfind(OGG)
    head = data[page : page + 27]
    if len(head) < 27 or not head[5] & LAST:
        return False
    lengths = data[page + 27 : page + 27 + head[26]]
    return len(data) >= page + 27 + head[26] + sum(lengths)


def _line(error: Exception) -> str:
    """What a library says of a file, without naming the object that held it."""
    return (
        re.sub(r"(Error opening )?<[^>]*>: |: '<none>'|\[Errno \d+\] ", "", str(error)).partition("\n")[0].strip(" .")
    )


def duration(data: Content) -> float:
    """Seconds of a sound; a SoundError where it is broken."""
    with opened(data) as recording:
        return recording.seconds


def require_soundfile() -> ModuleType:
    """The module soundfile.

    Raises
    ------
    DependencyMissing
        It is not installed.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without the library libsndfile itself
        raise DependencyMissing("sounds need soundfile: pip install 'featurepipe[sound]'") from error
    return soundfile
