"""The transform of videos: some clips of each, evenly spaced, of some frames each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, ClassVar

import numpy as np

from featurepipe.errors import BackboneError
from featurepipe.images import ImageTransform, from_array
from featurepipe.images.frames import Picture
from featurepipe.images.limits import turn
from featurepipe.images.pictures import simplify
from featurepipe.media.spans import span_of
from featurepipe.videos.files import Frames, frames_of, pictures

MOST = 1024  # frames of one input
RATES = (0.001, 1000)  # frames a second


@dataclass(frozen=True)
class VideoTransform(ImageTransform):
    """Which frames of a video a network sees, and what happens to each of them, as it does to an image.

    Attributes
    ----------
    clips : int
        Number of clips, evenly spaced over the video, or over the part that is named.
    length : int
        Frames of a clip.
    fps : float or None
        Frames a second within a clip. None: the frames of all clips are evenly spaced over the whole.
    resize : tuple of int or None
        Height and width, or the short side, to which frames are resized before the crop, without antialiasing, where a
        network wants that instead of `crop_pct`.

    Examples
    --------
    >>> frame = ImageTransform((3, 32, 32), "bicubic", (0.5,) * 3, (0.5,) * 3, crop_pct=0.9)
    >>> video = VideoTransform.of(frame, clips=2, length=2)
    >>> video.shape, video.moments(0, 8).tolist()
    ((4, 3, 32, 32), [1.0, 3.0, 5.0, 7.0])
    """

    clips: int = 8
    length: int = 1  # type: ignore[misc]  # of images it is always 1
    fps: float | None = None
    resize: tuple[int, ...] | None = None
    medium: ClassVar[str] = "video"

    @classmethod
    def of(cls, transform: ImageTransform, **values: Any) -> VideoTransform:
        """Of the frames that an image transform crops."""
        return cls.from_mapping({**asdict(transform), **values})

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> VideoTransform:
        """As `ImageTransform.from_mapping`, with the values that say which frames there are."""
        frame = ImageTransform.from_mapping(values)
        own = {
            one.name: values[one.name] for one in fields(cls) if one.name not in asdict(frame) and one.name in values
        }
        if own.get("resize") is not None:
            own["resize"] = tuple(own["resize"])
        made = cls(**asdict(frame), **own)
        made._check_clips()
        return made

    def _check_clips(self) -> None:
        if not all(isinstance(number, int) and number > 0 for number in (self.clips, self.length)):
            raise BackboneError(f"clips and their length are whole numbers from 1; got {self.clips}, {self.length}")
        if self.clips * self.length > MOST:
            raise BackboneError(f"{self.clips} clips of {self.length} frames are too many; {MOST} frames are the most")
        if self.fps is not None and not (isfinite(self.fps) and RATES[0] <= self.fps <= RATES[1]):
            raise BackboneError(f"fps is a number from {RATES[0]} to {RATES[1]}; got {self.fps}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Frames of all clips, channels, height, width."""
        return self.clips * self.length, *self.input_size

    @property
    def cost(self) -> int:
        """Pixels of all frames."""
        return self.clips * self.length * super().cost

    def moments(self, start: float, end: float) -> np.ndarray:
        """Seconds at which the frames are shown, of a video or of a part of it that has this start and end.

        Clips that are longer than it all begin at its start.
        """
        if self.fps is None:
            count = self.clips * self.length
            return start + (end - start) * (np.arange(count) + 0.5) / count
        free = max(end - start - self.length / self.fps, 0.0)
        starts = start + free * (np.arange(self.clips) + 0.5) / self.clips  # (clips,)
        return (starts[:, None] + np.arange(self.length) / self.fps).ravel()

    def decode(self, data: Any, part: str | None = None, /) -> np.ndarray:
        """Frames of a video file.

        Parameters
        ----------
        data : bytes
            A file in a format that FFmpeg reads.
        part : str, optional
            Seconds ``start-end``, such as ``12.0-16.0``; frames are taken from within.

        Returns
        -------
        ndarray of uint8, shape (clips * length, C, H, W)
            Clip after clip. A clip that is longer than the video ends in its last frame.

        Raises
        ------
        SampleError
            Not a video, no frames, frames that are missing or broken, or a part that is not inside the video.
        """
        frames = frames_of(data)
        start, end = (0.0, frames.promised) if part is None else span_of(part, frames.promised)
        numbers = [frames.at(min(moment, end)) for moment in self.moments(start, end)]
        return self._filled(data, frames, np.minimum(numbers, frames.before(end)))

    def _filled(self, data: bytes, frames: Frames, numbers: np.ndarray) -> np.ndarray:
        """Cropped frames by their numbers; each is decoded once."""
        channels, height, width = self.input_size
        room = np.empty((len(numbers), height, width, channels), self.dtype).transpose(0, 3, 1, 2)
        wanted = np.unique(numbers).tolist()
        with turn(frames.size):
            for number, pixels in zip(wanted, pictures(data, frames, wanted), strict=True):
                room[numbers == number] = self.crop(simplify(from_array(pixels), channels))
        return room

    def crop(self, picture: Picture) -> np.ndarray:
        """Resize and crop a whole frame; returns uint8 of shape (C, H, W)."""
        if self.resize is None:
            return super().crop(picture)
        from torchvision.transforms import (
            InterpolationMode,
            functional,  # whose rounding is that of the networks' own transform
        )

        from featurepipe.images.frames import to_tensor

        mode = InterpolationMode(self.interpolation)
        resized = functional.resize(to_tensor(picture), list(self.resize), mode, antialias=False)
        return functional.center_crop(resized, list(self.input_size[1:])).numpy()

    def trial(self, count: int, /) -> np.ndarray:
        """Videos to try a network on, always the same: pictures that wander to the right."""
        still = super().trial(count)  # (count, C, H, W)
        return np.stack([np.roll(still, step, axis=3) for step in range(self.shape[0])], axis=1)
