"""Boxes: parts of an image in pixels of the upright image."""

import io

import numpy as np
import pytest
from PIL import Image

from featurepipe import images
from featurepipe.errors import ImageError
from featurepipe.images import ImageTransform
from featurepipe.images.boxes import box_of

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)  # (48, 64, 3)
BOX = "8,16,40,48"
CUT = PICTURE[16:48, 8:40]


def wanted(decoder, size=32):
    return ImageTransform((3, size, size), "bilinear", (0.0,) * 3, (1.0,) * 3, 1.0, "squash", decoder)


def encoded(array, format, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("decoder", ["pillow", "torchvision", "draft"])
@pytest.mark.parametrize("size", [32, 16])
def test_a_box_gives_the_pixels_of_the_image_cut_beforehand(decoder, size):
    transform = wanted(decoder, size)
    expected = images.decode(encoded(CUT, "PNG"), transform)
    np.testing.assert_array_equal(images.decode(encoded(PICTURE, "PNG"), transform, BOX), expected)
    np.testing.assert_array_equal(images.decode(PICTURE, transform, BOX), expected)
    close = images.decode(encoded(PICTURE, "JPEG", quality=100, subsampling=0), transform, BOX)
    assert np.abs(close.astype(int) - expected).max() < 8


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
def test_a_box_is_one_of_the_upright_image(decoder):
    exif = Image.Exif()
    exif[0x112] = 6  # turned by a quarter
    turned = encoded(np.rot90(PICTURE).copy(), "JPEG", quality=100, subsampling=0, exif=exif)
    found = images.decode(turned, wanted(decoder), BOX)
    assert np.abs(found.astype(int) - CUT.transpose(2, 0, 1)).max() < 8


def test_a_draft_does_not_shrink_the_image_that_a_box_is_cut_from():
    large = PICTURE.repeat(16, 0).repeat(16, 1)  # (768, 1024, 3)
    data = encoded(large, "JPEG", quality=100, subsampling=0)
    found, exact = (images.decode(data, wanted(name, 16), "0,0,32,32") for name in ("draft", "pillow"))
    assert np.abs(found.astype(int) - exact).max() <= 2


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("12.0-16.0", r"the part '12\.0-16\.0' is not a box; write whole pixels as x0,y0,x1,y1"),
        ("1,2,3", "is not a box"),
        ("-1,0,3,4", "is not a box"),
        ("0;0;3;4", "is not a box"),
        ("٣,0,4,4", "is not a box"),
        ("0,0,65,48", "the box 0,0,65,48 reaches out of the image, which is 64×48; correct the box"),
        ("0,0,64,49", "reaches out of the image"),
        ("9,9,9,10", "the box 9,9,9,10 is empty; x1 must be greater than x0, and y1 greater than y0"),
        ("9,9,10,8", "is empty"),
    ],
)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_what_is_no_box_of_the_image_is_refused_in_one_line(part, why, format):
    with pytest.raises(ImageError, match=why) as caught:
        images.decode(encoded(PICTURE, format), wanted("torchvision"), part)
    assert "\n" not in str(caught.value)


def test_the_whole_image_is_a_box_too():
    assert box_of("0,0,64,48", (64, 48)) == (0, 0, 64, 48)
    assert (
        images.decode(PICTURE, wanted("pillow"), "0,0,64,48").tolist()
        == images.decode(PICTURE, wanted("pillow")).tolist()
    )
