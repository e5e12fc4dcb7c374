"""Frames of clips: at the right moments, and cropped exactly as images are."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV (the extra video)")

from films import LOSSLESS, film, shades

from featurepipe.errors import BackboneError, SampleError
from featurepipe.images import ImageTransform
from featurepipe.videos import VideoTransform

IMAGE = ImageTransform((3, 32, 32), "bicubic", (0.5,) * 3, (0.5,) * 3, crop_pct=0.9, decoder="torchvision")


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


@pytest.mark.parametrize("decoder", ["torchvision", "pillow"])
@pytest.mark.parametrize("channels", [3, 1])
def test_a_video_of_a_photo_gives_the_photo(photo, decoder, channels):
    image = replace(
        IMAGE, decoder=decoder, input_size=(channels, 32, 32), mean=(0.5,) * channels, std=(0.5,) * channels
    )
    found = VideoTransform.of(image, clips=2, length=2).decode(film([photo] * 12, **LOSSLESS))
    assert (found == image.decode(photo)).all()
    assert found.shape == (4, channels, 32, 32)


def test_a_codec_with_losses_gives_the_photo_within_its_own():
    smooth = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)[:, :, None].repeat(3, 2)
    found = VideoTransform.of(IMAGE).decode(film([smooth] * 12, options={"qscale": "1"}))
    assert np.abs(found.astype(int) - IMAGE.decode(smooth)).max() <= 8


def shades_of(transform, data, part=None):
    return [round(frame.mean() / 5) for frame in transform.decode(data, part)]


def test_frames_are_evenly_spaced_over_the_video_or_its_part():
    data = film(shades(40), **LOSSLESS)
    assert shades_of(VideoTransform.of(IMAGE, clips=4), data) == [5, 15, 25, 35]
    assert shades_of(VideoTransform.of(IMAGE, clips=2), data, "1.0-2.0") == [12, 17]


def test_clips_have_their_rate():
    data = film(shades(40), **LOSSLESS)
    assert shades_of(VideoTransform.of(IMAGE, clips=2, length=3, fps=5), data) == [8, 10, 12, 25, 27, 29]
    assert shades_of(VideoTransform.of(IMAGE, clips=1, length=3, fps=10), data, "2.0-2.2") == [20, 21, 21]


def test_a_video_shorter_than_a_clip_ends_in_its_last_frame():
    assert shades_of(VideoTransform.of(IMAGE, clips=1, length=5, fps=10), film(shades(2), **LOSSLESS)) == [
        0,
        1,
        1,
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("1,2,3,4", "not a span of seconds"),
        ("3.0-3.0", "is empty"),
        ("3.0-9.5", "reaches beyond the end, which is at 4"),
    ],
)
def test_parts_that_are_not_there_are_refused(part, why):
    with pytest.raises(SampleError, match=why):
        VideoTransform.of(IMAGE).decode(film(shades(40), **LOSSLESS), part)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"clips": 0}, "whole numbers from 1"),
        ({"clips": 2000}, "1024 frames are the most"),
        ({"fps": float("nan")}, "fps is a number from"),
    ],
)
def test_values_that_no_video_could_be_read_with_are_refused(values, why):
    with pytest.raises(BackboneError, match=why):
        VideoTransform.of(IMAGE, **values)


def test_trials_move_and_are_always_the_same():
    transform = VideoTransform.of(IMAGE, clips=1, length=4)
    one, other = transform.trial(2), transform.trial(2)
    assert one.shape == (2, *transform.shape)
    assert (one == other).all()
    assert (one[:, 0] != one[:, 1]).any()
