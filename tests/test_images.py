import io
import random
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps, features
from timm.data import create_transform

from featurepipe import images
from featurepipe.errors import BackboneError, ImageError
from featurepipe.images import ImageTransform


def transform(size=32, interpolation="bicubic", crop_pct=0.9, crop_mode="center", channels=3):
    height, width = size if isinstance(size, tuple) else (size, size)
    return ImageTransform(
        (channels, height, width), interpolation, (0.5,) * channels, (0.5,) * channels, crop_pct, crop_mode
    )


SQUARE = transform(24)
WHOLE = transform((30, 40), "nearest", 1.0, "squash")  # pixels of a 40 by 30 image as they are


DECODERS = pytest.mark.parametrize("decoder", ["pillow", "torchvision", "draft"])


def of(decoder, wanted=SQUARE):
    return replace(wanted, decoder=decoder)


def noise(width=40, height=30, mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def smooth(width=40, height=30):
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 6, y * 8, (x + y) * 3], axis=-1).astype(np.uint8))


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def of_timm(image, wanted, *, channels_mode="RGB"):
    """Pixels as timm's float transform sees them, before mean and std."""
    made = create_transform(
        input_size=wanted.input_size,
        is_training=False,
        interpolation=wanted.interpolation,
        mean=(0.0,) * wanted.input_size[0],
        std=(1.0,) * wanted.input_size[0],
        crop_pct=wanted.crop_pct,
        crop_mode=wanted.crop_mode,
    )
    return made(image.convert(channels_mode)).numpy()


def as_floats(pixels):
    return pixels.astype(np.float32) / np.float32(255)


# Equal to timm


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("size", [32, 33, (32, 48), (47, 31)])
def test_pixels_equal_timms_own_exactly(interpolation, crop_mode, crop_pct, size):
    wanted = transform(size, interpolation, crop_pct, crop_mode)
    for width, height in [(75, 50), (50, 75), (33, 200), (17, 16), (1, 1)]:
        data = encode(noise(width, height), "JPEG")
        pixels = images.decode(data, wanted)
        assert pixels.dtype == np.uint8
        assert pixels.shape == wanted.input_size
        np.testing.assert_array_equal(as_floats(pixels), of_timm(Image.open(io.BytesIO(data)), wanted))


def test_border_crop_equals_timms_up_to_the_colour_of_the_border():
    wanted = transform(32, crop_mode="border")
    data = encode(noise(64, 32))
    ours, theirs = as_floats(images.decode(data, wanted)), of_timm(Image.open(io.BytesIO(data)), wanted)
    np.testing.assert_array_equal(ours[:, 10:22], theirs[:, 10:22])
    assert (ours[:, 0] == np.float32(128 / 255)).all()  # the mean


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_8bit_mode_equals_timms_on_the_image_converted_to_rgb(mode):
    data = encode(noise(mode=mode), "TIFF")
    opened = Image.open(io.BytesIO(data))
    assert opened.mode == mode
    np.testing.assert_array_equal(as_floats(images.decode(data, SQUARE)), of_timm(opened, SQUARE))


def test_a_greyscale_backbone_gets_one_channel():
    wanted = transform(24, channels=1)
    for image in (noise(), noise(mode="L"), noise(mode="RGBA"), noise(mode="P"), noise(mode="1")):
        pixels = images.decode(encode(image), wanted)
        np.testing.assert_array_equal(as_floats(pixels), of_timm(image, wanted, channels_mode="L"))


# Formats and modes, pixel by pixel


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
@DECODERS
def test_lossless_formats_give_the_very_pixels(kind, options, decoder):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    pixels = images.decode(encode(noise(), kind, **options), of(decoder, WHOLE))
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), np.asarray(noise()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
@DECODERS
def test_lossy_formats_give_nearly_the_pixels(kind, decoder):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    pixels = images.decode(encode(smooth(), kind), of(decoder, WHOLE)).transpose(1, 2, 0).astype(int)
    assert np.abs(pixels - np.asarray(smooth()).astype(int)).mean() < 12


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
@DECODERS
def test_of_several_frames_the_first_is_taken(kind, decoder):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (images.decode(data, of(decoder, WHOLE)) == np.array([255, 0, 0]).reshape(3, 1, 1)).all()


@pytest.mark.parametrize(("kind", "order"), [("PNG", "<"), ("PNG", ">"), ("TIFF", "<"), ("TIFF", ">"), ("PPM", "<")])
@DECODERS
def test_16bit_greyscale_is_scaled_and_not_clipped_to_white(kind, order, decoder):
    values = np.linspace(0, 65535, 1200).astype(f"{order}u2").reshape(30, 40)
    pixels = images.decode(encode(Image.fromarray(values), kind), of(decoder, WHOLE))
    np.testing.assert_array_equal(pixels, np.broadcast_to(values // 257, (3, 30, 40)))
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert len(np.unique(pixels)) == 256


@DECODERS
def test_an_image_of_32bit_integers_is_scaled_like_16bit_or_refused(decoder):
    values = np.linspace(0, 65535, 1200).astype(np.int32).reshape(30, 40)
    pixels = images.decode(encode(Image.fromarray(values), "TIFF"), of(decoder, WHOLE))
    np.testing.assert_array_equal(pixels[0], values // 257)
    for outside in (-1, 65536):
        values[3, 4] = outside
        with pytest.raises(ImageError, match="no defined range"):
            images.decode(encode(Image.fromarray(values), "TIFF"), of(decoder, WHOLE))


@DECODERS
def test_floating_point_pixels_are_refused(decoder):
    with pytest.raises(ImageError, match="floating-point"):
        images.decode(encode(noise(mode="F"), "TIFF"), of(decoder, WHOLE))


@DECODERS
def test_alpha_is_dropped_and_the_colours_below_it_kept(decoder):
    image = noise(mode="RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    pixels = images.decode(encode(image), of(decoder, WHOLE))
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), np.asarray(image)[..., :3])


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 2))])
@DECODERS
def test_palette_images_with_transparency_keep_their_colours_and_warn_of_nothing(transparency, decoder):
    image = noise(mode="P")
    data = encode(image, transparency=transparency)
    opened = Image.open(io.BytesIO(data))
    assert opened.mode == "P"
    assert type(opened.info["transparency"]) is type(transparency)
    pixels = images.decode(data, of(decoder, WHOLE))
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), np.asarray(image.convert("RGB")))


@DECODERS
def test_one_bit_images_are_black_and_white(decoder):
    image = noise(mode="1")
    pixels = images.decode(encode(image), of(decoder, WHOLE))
    np.testing.assert_array_equal(pixels[0], np.asarray(image) * np.uint8(255))


# Orientation

BROKEN_EXIF = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of it, and goes on


def oriented(orientation, kind="JPEG", image=None, **tags):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.update(tags)
    return encode(image or smooth(), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@DECODERS
def test_exif_orientation_is_honoured(orientation, kind, decoder):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    data = oriented(orientation, kind)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright.size == ((40, 30) if orientation < 5 else (30, 40))
    wanted = of(decoder, transform((upright.height, upright.width), "nearest", 1.0, "squash"))
    pixels = images.decode(data, wanted).transpose(1, 2, 0)
    if kind == "JPEG" and decoder == "torchvision":  # of another build of libjpeg
        assert np.abs(pixels.astype(int) - np.asarray(upright.convert("RGB"))).max() <= 2
    else:
        np.testing.assert_array_equal(pixels, np.asarray(upright.convert("RGB")))


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, "tl"), (2, "tr"), (3, "br"), (4, "bl"), (5, "tl"), (6, "tr"), (7, "br"), (8, "bl")]
)
@DECODERS
def test_exif_orientation_says_where_the_top_left_pixel_goes(orientation, corner, decoder):
    image = Image.new("RGB", (40, 30))
    image.paste("white", (0, 0, 8, 6))
    pixels = images.decode(oriented(orientation, "PNG", image), of(decoder, transform(20, "nearest", 1.0, "squash")))[0]
    row, column = {"t": 1, "b": -2}[corner[0]], {"l": 1, "r": -2}[corner[1]]
    assert pixels[row, column] == 255
    assert (pixels > 0).sum() == 16


@DECODERS
def test_16bit_greyscale_is_turned_upright_too(decoder):
    values = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    pixels = images.decode(
        oriented(6, "PNG", Image.fromarray(values)), of(decoder, transform((40, 30), "nearest", 1.0, "squash"))
    )
    np.testing.assert_array_equal(pixels[0], np.rot90(values, -1) // 257)


@BROKEN_EXIF
@pytest.mark.parametrize(
    "exif",
    [
        b"garbage",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"Exif\0\0II*\0\xff\xff\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 9, 0) + b"\0\0\0\0",
    ],
)
@DECODERS
def test_a_whole_image_with_broken_exif_is_taken_as_it_stands(exif, decoder):
    data = encode(smooth(), "JPEG", exif=exif)
    np.testing.assert_array_equal(
        images.decode(data, of(decoder, WHOLE)), images.decode(encode(smooth(), "JPEG"), of(decoder, WHOLE))
    )


@BROKEN_EXIF
@DECODERS
def test_odd_exif_tags_beside_the_orientation_reject_no_photo(decoder):
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "Canon", 0x011A: 72.0})
    raw, chooser = exif.tobytes(), random.Random(0)
    whole = 0
    for _ in range(300):
        odd = bytearray(raw)
        for _ in range(2):
            odd[chooser.randrange(26, len(odd))] = chooser.choice([0, 1, 2, 3, 4, 5, 7, 10, 255])
        whole += images.decode(encode(smooth(), "JPEG", exif=bytes(odd)), of(decoder)).shape == (3, 24, 24)
    assert whole == 300


# What is no image


def png(width, height, *, data=None):
    """A 1-bit PNG written by hand, so that size and content need not agree."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 7) // 8 + 1) * height) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text\n" * 50, "not an image"),
        (b"\xff\xd8\xff", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (b"\0" * 5000, "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "not an image"),
        (b"%PDF-1.4\n", "not an image"),
        (png(20_000, 20_000, data=zlib.compress(b"\0" * 1000)), "too large: .*400000000 pixels"),
        (png(2_000_000_000, 1, data=b""), "too large"),
        (png(0, 0), "not an image|no pixels"),
        (png(10, 10, data=b"not zlib"), "broken image"),
    ],
)
@DECODERS
def test_what_is_no_image_is_refused_with_its_reason(data, reason, decoder):
    with pytest.raises(ImageError, match=reason) as caught:
        images.decode(data, of(decoder))
    assert "\n" not in str(caught.value)


@DECODERS
def test_a_bomb_is_refused_before_it_is_unpacked(decoder):
    packer = zlib.compressobj(1)
    complete = b"".join(packer.compress(bytes(2501 * 1000)) for _ in range(20)) + packer.flush()
    for data in (complete, b"what unpacks this finds that it is broken"):
        with pytest.raises(ImageError, match="too large"):
            images.decode(png(20_000, 20_000, data=data), of(decoder))


@pytest.mark.parametrize("shape", [(100_000, 1), (1, 100_000)])
@DECODERS
def test_a_hair_thin_image_is_refused_before_it_fills_the_memory(shape, decoder):
    with pytest.raises(ImageError, match="too narrow"):
        images.decode(png(*shape), of(decoder, transform(224)))
    assert images.decode(png(*shape), of(decoder, transform(224, crop_mode="squash"))).shape == (3, 224, 224)
    with pytest.raises(ImageError, match="too narrow"):  # of its short side nothing would be left
        images.decode(png(*shape), of(decoder, transform(224, crop_mode="border")))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@DECODERS
def test_no_transform_enlarges_a_small_image_beyond_the_memory(crop_mode, decoder):
    with pytest.raises(ImageError, match="would be enlarged beyond"):
        images.decode(png(8, 8), of(decoder, transform(1024, crop_pct=0.05, crop_mode=crop_mode)))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@DECODERS
def test_the_largest_and_the_smallest_share_that_is_kept_can_be_cropped(crop_mode, decoder):
    for crop_pct in (0.05, 20):
        found = images.decode(png(40, 32), of(decoder, transform(32, crop_pct=crop_pct, crop_mode=crop_mode)))
        assert found.shape == (3, 32, 32)


@pytest.mark.parametrize("shape", [(100_000, 1), (1, 100_000)])
@DECODERS
def test_a_hair_thin_image_is_refused_where_it_would_shrink_to_nothing(shape, decoder):
    with pytest.raises(ImageError, match="too narrow"):
        images.decode(png(*shape), of(decoder, transform(224, crop_mode="border")))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@DECODERS
def test_no_crop_enlarges_an_image_beyond_bounds(crop_mode, decoder):
    with pytest.raises(ImageError, match="would be enlarged beyond"):
        images.decode(png(8, 8), of(decoder, transform(224, crop_pct=1e-3, crop_mode=crop_mode)))


@DECODERS
def test_a_panorama_is_fine(decoder):
    assert images.decode(png(3000, 60), of(decoder, transform(64))).shape == (3, 64, 64)


@DECODERS
def test_eps_which_pillow_would_run_as_a_program_is_refused(decoder):
    with pytest.raises(ImageError, match="EPS is a program"):
        images.decode(encode(noise(), "EPS"), of(decoder))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
@DECODERS
def test_truncated_files_are_refused_not_filled_with_grey(kind, share, decoder):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    data = encode(noise(64, 64), kind)
    with pytest.raises(ImageError):
        images.decode(data[: int(len(data) * share)], of(decoder))


@pytest.mark.parametrize("missing", [1, 2, 10, 100])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}])
@DECODERS
def test_a_jpeg_that_lacks_its_last_bytes_is_refused(missing, options, decoder):
    data = encode(noise(64, 64), "JPEG", **options)
    with pytest.raises(ImageError, match="truncated"):
        images.decode(data[:-missing], of(decoder))


def test_importing_everything_has_not_allowed_truncated_images():
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
@DECODERS
def test_flipped_bytes_give_pixels_or_an_image_error(kind, decoder):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    data, chooser = encode(noise(24, 20), kind), random.Random(kind)
    outcomes = set()
    for round_ in range(250):
        broken = bytearray(data)
        for _ in range(chooser.randint(1, 6)):
            broken[chooser.randrange(len(broken) if round_ % 2 else min(64, len(broken)))] = chooser.randrange(256)
        if round_ % 5 == 0:
            broken = broken[: chooser.randrange(1, len(broken))]
        try:
            pixels = images.decode(bytes(broken), of(decoder))
            assert pixels.shape == of(decoder).input_size
            assert pixels.dtype == np.uint8
            outcomes.add("pixels")
        except ImageError:
            outcomes.add("error")
    assert outcomes == {"pixels", "error"}


@DECODERS
def test_a_backbone_with_odd_channels_is_the_backbones_fault_not_the_images(decoder):
    with pytest.raises(BackboneError, match="4 channels"):
        images.decode(encode(noise()), of(decoder, transform(24, channels=4)))


# Arrays and opened images


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (30, 40, 3), (30, 40, 4)])
@DECODERS
def test_arrays_become_images(shape, decoder):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = images.decode(images.from_array(array), of(decoder, WHOLE))
    colours = array[..., None] if array.ndim == 2 else array[..., :3]
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), np.broadcast_to(colours, (30, 40, 3)))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.int64),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ImageError, match="uint8 of shape"):
        images.from_array(array)


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0)])
@DECODERS
def test_images_without_pixels_are_refused(shape, decoder):
    with pytest.raises(ImageError, match="no pixels"):
        images.decode(images.from_array(np.zeros(shape, np.uint8)), of(decoder))


@DECODERS
def test_an_opened_image_that_turns_out_broken_is_an_image_error(decoder):
    data = encode(noise(64, 64), "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        images.decode(Image.open(io.BytesIO(data[:2000])), of(decoder))


@DECODERS
def test_the_callers_image_is_not_changed(decoder):
    image = Image.open(io.BytesIO(oriented(6)))
    before = np.asarray(image).copy()
    images.decode(image, of(decoder))
    assert image.size == (40, 30)
    np.testing.assert_array_equal(np.asarray(image), before)
    assert image.getexif()[0x0112] == 6


@DECODERS
def test_threads_decode_as_one_would(decoder):
    wanted = [
        of(decoder, transform(24)),
        of(decoder, transform(32, "bilinear", 0.875)),
        of(decoder, transform(20, crop_mode="squash")),
    ]
    jobs = [(oriented(1 + n % 8, image=noise(60, 50, seed=n)), wanted[n % 3]) for n in range(60)]
    alone = [images.decode(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for one, many in zip(alone, pool.map(lambda job: images.decode(*job), jobs), strict=True):
                np.testing.assert_array_equal(one, many)


# The fast decoders beside Pillow


def scene(width, height, seed=0):
    """A picture as photos are: slopes and waves of colour, a little grain."""
    rng = np.random.default_rng(seed)
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    tilt, lean, waves, pace = (rng.uniform(*ends, 3) for ends in ((-90, 90), (-90, 90), (10, 60), (3, 40)))
    colours = 128 + tilt * (y - 0.5) + lean * (x - 0.5) + waves * np.sin(6 * pace * x * y + pace)
    grain = rng.normal(0, 20, (height, width, 1)) + rng.normal(0, 5, (height, width, 3))
    return Image.fromarray(np.clip(colours + grain, 0, 255).astype(np.uint8))


def drift(data, wanted, decoder):
    """Largest difference from Pillow's pixels, and the cosine with them."""
    a, b = (images.decode(data, of(name, wanted)).astype(np.float64).ravel() for name in ("pillow", decoder))
    return np.abs(a - b).max(), a @ b / np.linalg.norm(a) / np.linalg.norm(b)


JPEGS = {
    "4:4:4": {"quality": 95, "subsampling": 0},
    "4:2:2": {"quality": 85, "subsampling": 1},
    "4:2:0": {"quality": 75, "subsampling": 2},
    "progressive": {"quality": 85, "progressive": True},
    "coarse": {"quality": 30},
}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("options", JPEGS.values(), ids=list(JPEGS))
def test_torchvision_is_within_two_grey_levels_of_pillow(interpolation, crop_mode, options):
    wanted = transform(96, interpolation, 0.875, crop_mode)
    for n, size in enumerate([(40, 30), (97, 96), (110, 300), (333, 250), (640, 427)]):
        worst, cosine = drift(encode(scene(*size, seed=n), "JPEG", **options), wanted, "torchvision")
        assert worst <= 2
        assert cosine >= 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("options", JPEGS.values(), ids=list(JPEGS))
def test_a_draft_of_a_large_jpeg_drifts_by_a_few_grey_levels(interpolation, options):
    data = encode(scene(2000, 1500), "JPEG", **options)
    opened = Image.open(io.BytesIO(data))
    opened.draft(None, images.decoders.draft_size(opened.size, transform(224).frame))
    assert opened.size == (1000, 750)
    worst, cosine = drift(data, transform(224, interpolation), "draft")
    assert 0 < worst <= 8
    assert cosine >= 0.9999


@pytest.mark.parametrize("size", [(450, 600), (300, 200), (225, 2000)])
def test_a_jpeg_that_is_hardly_larger_than_wanted_is_not_drafted(size):
    data = encode(scene(*size), "JPEG")
    worst, cosine = drift(data, transform(224), "draft")
    assert worst <= 2
    assert cosine >= 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["torchvision", "draft"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(400, 300), (1200, 900)])
def test_every_orientation_of_a_jpeg_is_pillows(orientation, decoder, size):
    data = oriented(orientation, image=scene(*size))
    worst, cosine = drift(data, transform(96), decoder)
    assert worst <= (2 if decoder == "torchvision" else 8)
    assert cosine >= 0.9999


@pytest.mark.parametrize("decoder", ["torchvision", "draft"])
@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_modes_are_pillows(mode, decoder):
    data = encode(scene(200, 150).convert(mode), "JPEG", quality=90)
    assert Image.open(io.BytesIO(data)).mode == mode
    for channels in (1, 3):
        worst, cosine = drift(data, transform(64, channels=channels), decoder)
        assert worst <= 2
        assert cosine >= 0.9999


@pytest.mark.parametrize("decoder", ["torchvision", "draft"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_files_that_are_no_jpeg_are_pillows(mode, decoder, channels, interpolation):
    if mode == "I;16":
        image = Image.fromarray(np.asarray(scene(90, 70).convert("L")).astype(np.uint16) * 257)
    else:
        image = scene(90, 70).convert(mode)
    worst, cosine = drift(encode(image), transform(48, interpolation, channels=channels), decoder)
    assert worst <= 2
    assert cosine >= 0.9999


@pytest.mark.parametrize(
    "wanted", [of("pillow"), of("torchvision", transform(24, "nearest"))], ids=["pillow", "tensor"]
)
def test_no_module_is_called_which_would_fail_while_torch_traces_a_network_elsewhere(wanted, monkeypatch):
    found = images.decode(encode(noise(), "JPEG"), wanted)
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_: pytest.fail("called"))
    np.testing.assert_array_equal(images.decode(encode(noise(), "JPEG"), wanted), found)


@pytest.mark.parametrize("decoder", ["torchvision", "draft"])
@pytest.mark.parametrize(
    "settings",
    [
        {"interpolation": "nearest"},
        {"interpolation": "lanczos"},
        {"interpolation": "box"},
        {"crop_mode": "border"},
        {"crop_mode": "squash", "interpolation": "bicubic"},
        {"crop_pct": 1.2},
        {"size": (48, 32)},
    ],
    ids=str,
)
def test_what_tensors_cannot_do_is_done_by_pillows_own_resize(settings, decoder):
    wanted = transform(**{"size": 32, **settings})
    for image in (scene(60, 44), scene(44, 60), scene(24, 400), noise(24, 400)):
        data = encode(image)
        np.testing.assert_array_equal(images.decode(data, of(decoder, wanted)), images.decode(data, wanted))


@pytest.mark.parametrize("decoder", ["torchvision", "draft"])
@pytest.mark.parametrize("size", [32, 33, (48, 32), (31, 47)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_every_shape_and_crop_is_pillows(size, crop_mode, crop_pct, decoder):
    wanted = transform(size, "bicubic", crop_pct, crop_mode)
    for shape in [(75, 50), (50, 75), (33, 120), (17, 16), (1, 1)]:
        data = encode(scene(*shape), "JPEG", quality=95)
        assert images.decode(data, of(decoder, wanted)).shape == wanted.input_size
        worst, cosine = drift(data, wanted, decoder)
        assert worst <= 2
        assert cosine >= 0.9999


def test_bytes_and_bytearrays_give_the_same_pixels_and_neither_is_changed():
    data = encode(scene(200, 150), "JPEG")
    shared = bytearray(data)
    np.testing.assert_array_equal(images.decode(shared, of("torchvision")), images.decode(data, of("torchvision")))
    assert shared == data


@pytest.mark.filterwarnings("error")
def test_torchvisions_decoder_is_really_used_and_warns_of_nothing():
    data = encode(scene(200, 150), "JPEG")
    picture = images.DECODERS["torchvision"].read(Image.open(io.BytesIO(data)), data, 3)
    assert isinstance(picture, torch.Tensor)  # and no image of Pillow's
    assert images.decode(data, of("torchvision")).shape == SQUARE.input_size


@pytest.mark.shared
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("decoder", "most"), [("torchvision", 2), ("draft", 8)])
def test_the_fast_decoders_on_real_photos(shared, interpolation, decoder, most):
    folders = [shared / "datasets" / name for name in ("imagenet_sample200", "hymenoptera")]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    assert len(files) > 300
    found = [drift(path.read_bytes(), transform(224, interpolation), decoder) for path in files]
    assert max(worst for worst, _ in found) <= most
    assert min(cosine for _, cosine in found) >= 0.9999


@pytest.mark.parametrize(
    ("data", "name", "library"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC", "pillow_heif"),
        (bytes(128) + b"DICM" + bytes(100), "DICOM", "pydicom"),
    ],
)
def test_a_picture_whose_library_is_missing_says_which(data, name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImageError, match=f"{name} needs .*; or convert the image to JPEG or PNG"):
        images.decode(data, SQUARE)
