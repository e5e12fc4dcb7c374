"""What other libraries and notebooks set for the whole process decides nothing."""

import io
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from featurepipe import images
from featurepipe.errors import ImageError
from featurepipe.images import ImageTransform
from featurepipe.images.switches import unswayed

DECODERS = pytest.mark.parametrize("decoder", ["pillow", "torchvision", "draft"])
WANTED = ImageTransform((3, 24, 24), "bicubic", (0.5,) * 3, (0.5,) * 3, 0.9)


def of(decoder):
    return replace(WANTED, decoder=decoder)


def encode(kind="JPEG", seed=0, **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def lenient(monkeypatch):
    """The switch as another library sets it; still what that library has set when the test ends."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    yield
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA"])
@DECODERS
def test_truncated_files_are_refused_whatever_the_switch_says(kind, decoder):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    data = encode(kind)
    assert images.decode(data, of(decoder)).shape == (3, 24, 24)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(ImageError):
            images.decode(data[: int(len(data) * share)], of(decoder))
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.usefixtures("lenient")
@DECODERS
def test_so_are_broken_ones(decoder):
    data = bytearray(encode("PNG"))
    data[len(data) // 2] ^= 255
    with pytest.raises(ImageError):
        images.decode(data, of(decoder))


@pytest.mark.usefixtures("lenient")
def test_so_are_opened_images():
    data = encode()
    for function in (lambda image: images.decode(image, WANTED), images.convert):
        with pytest.raises(ImageError, match="truncated"):
            function(Image.open(io.BytesIO(data[: len(data) // 2])))


@pytest.mark.usefixtures("lenient")
@DECODERS
def test_so_are_they_by_many_threads(decoder):
    whole = [encode(seed=seed) for seed in range(6)]
    jobs = [data[: len(data) // 2] if n % 2 else data for n, data in enumerate(whole * 10)]

    def refused(data):
        try:
            images.decode(data, of(decoder))
        except ImageError:
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(refused, jobs)) == [bool(n % 2) for n in range(len(jobs))]


@pytest.mark.usefixtures("lenient")
def test_other_threads_keep_the_switch_as_they_set_it():
    seen = []

    @unswayed
    def decoding(_):
        seen.append(bool(ImageFile.LOAD_TRUNCATED_IMAGES))
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(lambda: bool(ImageFile.LOAD_TRUNCATED_IMAGES)).result())

    decoding(b"")
    assert seen == [False, True]


def test_a_switch_that_is_turned_on_meanwhile_is_noticed(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    seen = []

    @unswayed
    def decoding(_):
        seen.append(bool(ImageFile.LOAD_TRUNCATED_IMAGES))
        if len(seen) == 1:
            ImageFile.LOAD_TRUNCATED_IMAGES = True
        return len(seen)

    assert decoding(b"") == 2
    assert seen == [False, False]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_a_switch_that_is_turned_off_meanwhile_stays_off(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    unswayed(lambda _: setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False))(b"")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def on_its_side(promised=1):
    """By EXIF data that Pillow reads with a warning where more entries are promised than there are."""
    entry = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    return encode(exif=b"Exif\0\0II*\0" + struct.pack("<IH", 8, promised) + entry + b"\0" * 4 * (promised == 1))


@pytest.mark.parametrize("action", ["error", "always"])
@DECODERS
def test_warnings_as_errors_refuse_no_image_and_lay_none_on_its_side(action, decoder):
    right = images.decode(on_its_side(), of(decoder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = Image.open(io.BytesIO(on_its_side(promised=2)))
    with warnings.catch_warnings(record=action == "always"):
        warnings.simplefilter(action)
        before = list(warnings.filters)
        np.testing.assert_array_equal(images.decode(on_its_side(promised=2), of(decoder)), right)
        opened = images.decode(opened, of(decoder))
        assert list(warnings.filters) == before
    assert np.abs(opened.astype(int) - right).max() <= (0 if decoder == "pillow" else 9)  # of noise


@pytest.mark.parametrize("most", [None, 10, 3000])
@DECODERS
def test_no_limit_of_others_refuses_an_image(most, decoder, monkeypatch):
    right = images.decode(encode(), of(decoder))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    np.testing.assert_array_equal(images.decode(encode(), of(decoder)), right)
    assert most == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("most", [2**12, 2**24])
@DECODERS
def test_no_size_of_buffers_changes_a_pixel(most, decoder, monkeypatch):
    right = images.decode(encode(), of(decoder))
    monkeypatch.setattr(ImageFile, "MAXBLOCK", most)
    np.testing.assert_array_equal(images.decode(encode(), of(decoder)), right)


@DECODERS
def test_numpy_that_raises_at_every_oddity_changes_no_pixel(decoder):
    ramp = Image.fromarray(np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64))
    right = images.decode(encode(), of(decoder)), images.decode(ramp, of(decoder))
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(images.decode(encode(), of(decoder)), right[0])
        np.testing.assert_array_equal(images.decode(ramp, of(decoder)), right[1])
