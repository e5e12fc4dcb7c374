"""Random views of an image: drawn from its content, a seed and a number, and from nothing else."""

import io
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from featurepipe import images
from featurepipe.errors import BackboneError
from featurepipe.images import AUGMENTATIONS, ImageTransform, View, Views

PLAIN = ImageTransform((3, 24, 24), "bicubic", (0.5,) * 3, (0.5,) * 3, 0.9)
DECODERS = ("pillow", "torchvision", "draft")


def view(augmentation="standard", seed=0, number=0, **changes):
    return View.of(replace(PLAIN, **changes), augmentation, seed, number)


def slope(width=60, height=40):
    """Red grows to the right and green downwards: a view's crop can be read off it."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 6 * y, 0 * x + 128], axis=-1).astype(np.uint8)


def encode(pixels, kind="PNG", mode=None, **options):
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


SLOPE = encode(slope())


def views(count=200, data=SLOPE, **options):
    return np.stack([images.decode(data, view(number=number, **options)) for number in range(count)])


def is_mirrored(pixels):
    """Of views of the slope (..., C, H, W)."""
    red = pixels[..., 0, :, :].astype(int).mean(axis=-2)
    return red[..., 0] > red[..., -1]


def test_a_view_ends_in_what_its_transform_ends_in():
    made = view(number=3, seed=9)
    assert {name: value for name, value in asdict(made).items() if name in asdict(PLAIN)} == asdict(PLAIN)
    assert (made.augmentation, made.seed, made.number) == ("standard", 9, 3)
    assert hash(made) == hash(view(number=3, seed=9))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_content_seed_and_number_decide_a_view_in_any_order_and_thread(decoder, kind):
    contents = [encode(np.roll(slope(), 7 * shift, axis=1), kind) for shift in range(4)]
    wanted = {
        (which, number): images.decode(data, view(number=number, decoder=decoder)).tobytes()
        for which, data in enumerate(contents)
        for number in range(6)
    }
    jobs = list(wanted)
    random.Random(0).shuffle(jobs)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda job: images.decode(contents[job[0]], view(number=job[1], decoder=decoder)), jobs)
        assert all(one.tobytes() == wanted[job] for one, job in zip(found, jobs, strict=True))
    assert len(set(wanted.values())) == len(wanted)


def test_another_seed_gives_other_views():
    assert all((one != other).any() for one, other in zip(views(20), views(20, seed=1), strict=True))


def test_other_content_gets_another_crop():
    """Or every image of an epoch would be cut and mirrored alike."""
    other = slope()
    other[0, 0, 2] += 1
    cut = [images.decode(data, view("crop")) for data in (SLOPE, encode(other))]
    assert np.abs(cut[0][:2].astype(int) - cut[1][:2]).max() > 4


def test_crop_never_mirrors_and_standard_does_in_about_half():
    assert not is_mirrored(views(augmentation="crop")).any()
    assert 75 < is_mirrored(views(augmentation="standard")).sum() < 125


def test_a_crop_is_at_least_half_of_the_image_and_nearly_of_its_shape():
    found = views(augmentation="crop", interpolation="nearest").astype(float)
    left, right = found[:, 0, :, 0].mean(axis=1) / 4, found[:, 0, :, -1].mean(axis=1) / 4
    top, bottom = found[:, 1, 0].mean(axis=1) / 6, found[:, 1, -1].mean(axis=1) / 6
    width, height = (right - left) * 24 / 23, (bottom - top) * 24 / 23
    share = width * height / (60 * 40)
    assert 0.45 < share.min() < 0.6
    assert 0.85 < share.max() < 1.05
    assert (width / height).min() > 0.7
    assert (width / height).max() < 1.45
    assert len(np.unique(left.round(1))) > 20
    assert len(np.unique(top.round(1))) > 6
    assert (left >= -0.5).all()
    assert (right <= 60).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_view_shows_the_image_whatever_the_interpolation(interpolation, decoder):
    found = views(10, interpolation=interpolation, decoder=decoder)
    reference = views(10, interpolation="bilinear")
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - reference).mean() < 4


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "kind", "mode"),
    [
        ((1, 1), "PNG", None),
        ((4000, 3), "PNG", None),
        ((3, 4000), "JPEG", None),
        ((1, 50), "PNG", None),
        ((60, 40), "PNG", "L"),
        ((60, 40), "JPEG", "L"),
        ((60, 40), "PNG", "P"),
        ((60, 40), "PNG", "1"),
        ((60, 40), "PNG", "RGBA"),
        ((60, 40), "JPEG", "CMYK"),
        ((60, 40), "GIF", "P"),
    ],
    ids=str,
)
def test_odd_images_have_views_too(decoder, channels, size, kind, mode):
    data = encode(slope(*size), kind, mode)
    normal = {"input_size": (channels, 24, 20), "mean": (0.5,) * channels, "std": (0.5,) * channels}
    for number in range(5):
        pixels = images.decode(data, view(number=number, decoder=decoder, **normal))
        assert (pixels.dtype, pixels.shape) == (np.uint8, (channels, 24, 20))


def test_of_an_image_too_long_for_a_crop_the_middle_is_shown():
    pixels = slope(4000, 3)
    pixels[:] = 0
    pixels[:, 1990:2010] = 255
    assert (images.decode(encode(pixels), view("crop")) == 255).all()


def test_exif_orientation_is_undone_before_a_view_is_drawn():
    upright = Image.fromarray(slope())
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    np.testing.assert_array_equal(images.decode(turned.getvalue(), view()), images.decode(SLOPE, view()))


def test_a_pillow_image_has_the_views_of_its_file():
    np.testing.assert_array_equal(images.decode(Image.fromarray(slope()), view()), images.decode(SLOPE, view()))


def test_a_view_is_not_taken_for_its_transform():
    """Caches go by the transform."""
    assert view() != PLAIN
    assert view(number=1) != view(number=2)
    assert (images.decode(SLOPE, view()) != images.decode(SLOPE, PLAIN)).any()


def turned(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(slope(90, 70), kind, exif=exif)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "data",
    [
        encode(slope(150, 100), "JPEG"),
        SLOPE,
        turned("JPEG", 6),
        turned("PNG", 8),
        encode(slope(), "PNG", mode="RGBA"),
        encode(slope(), "JPEG", mode="L"),
        encode(slope(), "JPEG", mode="CMYK"),
    ],
    ids=["jpeg", "png", "turned jpeg", "turned png", "alpha", "grey", "cmyk"],
)
@pytest.mark.parametrize("changes", [{}, {"interpolation": "lanczos"}, {"input_size": (1, 24, 16), "mean": (0.5,)}])
def test_views_of_one_decoded_image_are_those_of_an_image_each(decoder, data, changes):
    transform = replace(PLAIN, decoder=decoder, **changes)
    several = [transform, *(view(kind, 3, n, decoder=decoder, **changes) for n, kind in enumerate(AUGMENTATIONS * 2))]
    height = transform.input_size[1]
    together = images.decode(data, Views(tuple(several)))  # (C, 5·H, W)
    assert together.shape == Views(tuple(several)).input_size
    for number, one in enumerate(several):
        np.testing.assert_array_equal(together[:, number * height :][:, :height], images.decode(data, one))
        with Image.open(io.BytesIO(data)) as image:
            alone = images.decode(image, one)
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(
                images.decode(image, Views(tuple(several)))[:, number * height :][:, :height], alone
            )


def test_views_that_end_in_different_sizes_are_not_made_together():
    with pytest.raises(BackboneError, match="same size"):
        Views((PLAIN, view(input_size=(3, 16, 16))))
