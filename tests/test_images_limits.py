"""No picture holds a thread for minutes, and few large ones are in memory at the same time."""

import io
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurepipe import images
from featurepipe.errors import ImageError
from featurepipe.images import ImageTransform, limits
from featurepipe.images.limits import SCANS, check_scans
from featurepipe.media import FREE, Turns, turns

DECODERS = ("pillow", "torchvision", "draft")


def wanted(decoder):
    return ImageTransform((3, 24, 24), "bicubic", (0.5,) * 3, (0.5,) * 3, 0.9, "center", decoder)


def picture(mode="RGB", size=(64, 48)):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def repeated(data, times):
    """A JPEG with its last scan again and again, as often as given."""
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * times + data[-2:]


def separate(times):
    """A sequential JPEG whose components are in scans of their own, the last of them repeated."""
    grey = encoded(picture("L"), quality=30)
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    header, entropy = grey[:frame], grey[scan + 10 : -2]
    size = grey[frame + 5 : frame + 9]
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    start = b"\xff\xc0" + struct.pack(">HB", 17, 8) + size + b"\x03" + components
    tables = grey[frame + 13 : scan]
    scans = [b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, number, 0, 0, 63, 0) + entropy for number in (1, 2, 3)]
    return header + start + tables + b"".join(scans) + scans[-1] * times + b"\xff\xd9"


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_of_repeated_scans_is_refused_before_it_is_decoded(decoder, mode):
    data = repeated(encoded(picture(mode), progressive=True), 20_000)
    for file in (data, data[:-2]):  # who decodes the second finds that it is truncated
        with pytest.raises(ImageError, match="a JPEG of more than 100 scans, which takes very long"):
            images.decode(file, wanted(decoder))


@pytest.mark.parametrize("decoder", DECODERS)
def test_so_is_one_that_is_not_progressive(decoder):
    assert images.decode(separate(0), wanted(decoder)).shape == (3, 24, 24)
    with pytest.raises(ImageError, match="more than 100 scans"):
        images.decode(separate(SCANS), wanted(decoder))


def test_a_hundred_scans_are_fine_and_one_more_is_not():
    data = encoded(picture(), progressive=True)
    more = SCANS - data.count(b"\xff\xda")
    with Image.open(io.BytesIO(repeated(data, more))) as image:
        check_scans(image, repeated(data, more))
    with Image.open(io.BytesIO(data)) as image, pytest.raises(ImageError):
        check_scans(image, repeated(data, more + 1))


@pytest.mark.parametrize("progressive", [False, True])
def test_what_follows_a_jpeg_or_lies_in_its_notes_is_no_scan(progressive):
    """As a film behind a phone's photo, or a preview in front of it."""
    data = encoded(picture(), progressive=progressive, comment=b"\xff\xda" * 200) + b"\xff\xda\x00\x08" * 5000
    assert images.decode(data, wanted("pillow")).shape == (3, 24, 24)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
@pytest.mark.parametrize("end", [3, 40, 700, None])
def test_broken_ends_are_left_to_the_decoder(options, end):
    data = encoded(picture(), **options)
    with Image.open(io.BytesIO(data)) as image:
        check_scans(image, data[:end])


def test_of_an_ordinary_photo_nothing_is_counted():
    """Its one scan follows the header, so what comes then is not searched, which would take as long as decoding."""
    data = encoded(picture())
    pixels = data.index(b"\xff\xda") + 14
    with Image.open(io.BytesIO(data)) as image:
        check_scans(image, data[:pixels] + b"\xff\xda\x00\x08" * 5000)


# -- pixels that are decoded at once


def test_large_pictures_take_turns_and_small_ones_do_not():
    assert limits.turn((4000, 4000)) is FREE
    assert limits.turn((5000, 5000)) is not FREE


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(turns._libc(), "malloc_trim"), reason="memory can be given back with glibc only")
def test_threads_keep_nothing_of_huge_pictures(monkeypatch):
    monkeypatch.setattr(limits, "TURNS", Turns(2**24 + 10**6, huge=2**22))
    buffer = io.BytesIO()
    Image.new("RGB", (4096, 4100)).save(buffer, "TIFF", compression="tiff_deflate")
    held = []

    def decode(_):
        images.decode(buffer.getvalue(), wanted("pillow"))
        held.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decode, range(9)))
    assert max(held[4:]) - min(held[4:]) < 2.5 * 4 * 2**24  # two of four threads may be at work, with 4 bytes a pixel


def test_pixels_are_given_back_when_a_picture_is_broken(monkeypatch):
    turns = Turns(10)
    monkeypatch.setattr(limits, "TURNS", turns)
    monkeypatch.setattr(limits, "LARGE", 1)
    data = encoded(picture())
    for decoder in DECODERS:
        assert images.decode(data, wanted(decoder)).shape == (3, 24, 24)
        with pytest.raises(ImageError):
            images.decode(data[: len(data) // 2], wanted(decoder))
    assert images.decode(picture(), wanted("pillow")).shape == (3, 24, 24)
    assert turns._left == 10
