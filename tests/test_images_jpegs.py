"""JPEGs by whichever library is installed: the same pixels, as they are stored."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from featurepipe.images import jpegs
from featurepipe.images.jpegs import LIBRARIES, decode_jpeg

JPEGS = {
    "4:4:4": {"quality": 95, "subsampling": 0},
    "4:2:2": {"quality": 85, "subsampling": 1},
    "4:2:0": {"quality": 75, "subsampling": 2},
    "progressive": {"quality": 85, "progressive": True},
    "coarse": {"quality": 20},
    "restarts": {"quality": 85, "restart_marker_blocks": 3},
}


@pytest.fixture(params=LIBRARIES)
def library(request):
    if not jpegs.installed(request.param):
        pytest.skip(f"no {request.param} that decodes JPEGs")
    return request.param


def scene(width=133, height=97, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    colours = 128 + 80 * np.sin(9 * x * y + rng.uniform(0, 6, 3)) + rng.normal(0, 10, (height, width, 3))
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


def encode(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def of_pillow(data):
    """Whose orientation is not undone either."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1).astype(int)


@pytest.mark.parametrize("options", JPEGS.values(), ids=list(JPEGS))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_each_library_gives_pillows_pixels(library, mode, options):
    data = encode(scene().convert(mode), **options)
    found = decode_jpeg(data, [library])
    assert (found.dtype, found.shape) == (torch.uint8, (3, 97, 133))
    assert np.abs(found.numpy() - of_pillow(data)).max() <= 2


@pytest.mark.parametrize("options", JPEGS.values(), ids=list(JPEGS))
@pytest.mark.parametrize("size", [(1, 1), (17, 15), (133, 97), (640, 427)])
def test_all_libraries_give_the_same_pixels(options, size):
    here = [name for name in LIBRARIES if jpegs.installed(name)]
    if len(here) < 2:
        pytest.skip(f"of {LIBRARIES} there is {here} only")
    data = encode(scene(*size), **options)
    first, second = (decode_jpeg(data, [name]).numpy() for name in here)
    np.testing.assert_array_equal(first, second)


@pytest.mark.shared
def test_all_libraries_give_the_same_pixels_of_real_photos(library, shared):
    files = sorted((shared / "datasets" / "imagenet_sample200").rglob("*.JPEG"))[::5]
    assert len(files) == 40
    for path in files:
        data = path.read_bytes()
        np.testing.assert_array_equal(decode_jpeg(data, [library]).numpy(), decode_jpeg(data).numpy())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_no_library_turns_an_image(library, orientation, order):
    exif = Image.Exif()
    exif.endian = order
    exif[0x112] = orientation
    data, plain = encode(scene(), exif=exif, quality=90), encode(scene(), quality=90)
    np.testing.assert_array_equal(decode_jpeg(data, [library]).numpy(), decode_jpeg(plain, [library]).numpy())


def test_what_is_broken_is_left_to_pillow(library):
    data = encode(scene())
    for broken in (data[: len(data) // 2], data[:-2], data[:4], data[:200] + b"\xff\xd8" + data[300:]):
        assert decode_jpeg(broken, [library]) is None


def test_bytes_and_bytearrays_are_read_and_not_changed(library):
    data = encode(scene())
    shared = bytearray(data)
    np.testing.assert_array_equal(decode_jpeg(shared, [library]).numpy(), decode_jpeg(data, [library]).numpy())
    assert shared == data


def test_where_there_is_no_library_pillow_decodes():
    assert decode_jpeg(encode(scene()), []) is None


def test_a_library_that_does_not_load_is_passed_over(library, monkeypatch):
    def unloadable():
        raise OSError("undefined symbol: built for another torch")

    monkeypatch.setattr(jpegs, f"_{library}", unloadable)
    jpegs._decoder.cache_clear()
    try:
        assert not jpegs.installed(library)
        assert decode_jpeg(encode(scene()), [library]) is None
    finally:
        monkeypatch.undo()
        jpegs._decoder.cache_clear()
    assert jpegs.installed(library)
