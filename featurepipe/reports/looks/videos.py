"""How videos are shown: as a strip of frames."""

from __future__ import annotations

import numpy as np

from featurepipe.images import ImageTransform
from featurepipe.media import span_of
from featurepipe.reports.looks.look import Look, Way, jpeg
from featurepipe.sources.source import Content
from featurepipe.videos.files import frames_of, pictures

FRAMES, SIDE = 4, 72  # of a strip; pixels
FRAMED = ImageTransform((3, SIDE, SIDE), "bilinear", (0.5,) * 3, (0.5,) * 3, 1.0, "border")


def look(data: Content, part: str | None) -> Look:
    """Evenly spaced frames of a video, or of a span of it, next to each other."""
    assert isinstance(data, bytes)  # no video is an array
    frames = frames_of(data)
    start, stop = (0.0, frames.end) if part is None else span_of(part, frames.promised)
    moments = start + (stop - start) * (np.arange(FRAMES) + 0.5) / FRAMES
    numbers = sorted({frames.at(moment) for moment in moments.tolist()})
    strip = [FRAMED.decode(frame).transpose(1, 2, 0) for frame in pictures(data, frames, numbers)]
    return Look(picture=jpeg(np.concatenate(strip, axis=1)))


VIDEOS = Way(look, 300)
