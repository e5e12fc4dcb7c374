"""Transforms of images: what the rooms above ask of any medium's, and that their fields are what they were."""

import numpy as np
import pytest

from featurepipe.images import ImageTransform, View, Views, described
from featurepipe.media import Transform


def made(size=(3, 32, 48)):
    return ImageTransform(size, "bicubic", (0.5,) * size[0], (0.25,) * size[0], 0.9)


def several(count=2):
    return Views(tuple(View.of(made(), "crop", 0, number) for number in range(count)))


@pytest.mark.parametrize(
    ("transform", "shape"),
    [(made(), (3, 32, 48)), (View.of(made(), "crop", 0, 1), (3, 32, 48)), (several(), (3, 64, 48))],
)
def test_every_transform_of_images_says_what_it_gives(transform: Transform, shape):
    assert (transform.medium, transform.dtype, transform.shape) == ("image", np.uint8, shape)
    assert transform.cost == 32 * 48  # views go through the network one by one
    found = transform.trial(5)
    assert (found.dtype, found.shape) == (np.uint8, (5, *shape))


def test_what_a_transform_is_for_extraction_is_no_part_of_a_fingerprint():
    fields = ["input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode", "decoder"]
    assert list(described(made())) == fields
    assert list(described(View.of(made(), "crop", 0, 1))) == [*fields, "augmentation", "seed", "number", "version"]


@pytest.mark.parametrize("size", [(3, 32, 32), (1, 224, 224), (3, 48, 160)])
def test_pictures_to_try_are_always_the_same_and_differ_from_each_other(size):
    pixels = made(size).trial(4)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (4, *size))
    np.testing.assert_array_equal(pixels, made(size).trial(4))
    assert len({picture.tobytes() for picture in pixels}) == 4
    assert all(picture.std() > 10 for picture in pixels)
