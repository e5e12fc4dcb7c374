"""Small videos, made by PyAV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

LOSSLESS = {"form": "matroska", "codec": "ffv1", "pixels": "bgr0"}


def film(
    frames: Sequence[np.ndarray],
    *,
    form: str = "mp4",
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    rotation: int | None = None,
    options: dict[str, str] | None = None,
    buffer: io.BytesIO | None = None,
) -> bytes:
    """A file of RGB frames (h, w, 3), shown at those numbers of tenths of a second."""
    import av

    buffer = buffer or io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.time_base = pixels, Fraction(1, 10)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixels)
            picture.pts = times[number] if times else number
            picture.time_base = Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def shades(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Grey frames, each 5 brighter than the one before."""
    return [np.full((height, width, 3), 5 * number, np.uint8) for number in range(count)]
