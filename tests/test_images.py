import io
import random
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features
from timm.data import create_transform

from featurepipe import images
from featurepipe.backbones import Transform
from featurepipe.errors import BackboneError, ImageError


def transform(size=32, interpolation="bicubic", crop_pct=0.9, crop_mode="center", channels=3):
    height, width = size if isinstance(size, tuple) else (size, size)
    return Transform(
        (channels, height, width), interpolation, (0.5,) * channels, (0.5,) * channels, crop_pct, crop_mode
    )


SQUARE = transform(24)
WHOLE = transform((30, 40), "nearest", 1.0, "squash")  # pixels of a 40 by 30 image as they are


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
def test_lossless_formats_give_the_very_pixels(kind, options):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    pixels = images.decode(encode(noise(), kind, **options), WHOLE)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), np.asarray(noise()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_give_nearly_the_pixels(kind):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    pixels = images.decode(encode(smooth(), kind), WHOLE).transpose(1, 2, 0).astype(int)
    assert np.abs(pixels - np.asarray(smooth()).astype(int)).mean() < 12


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (images.decode(data, WHOLE) == np.array([255, 0, 0]).reshape(3, 1, 1)).all()


@pytest.mark.parametrize(("kind", "order"), [("PNG", "<"), ("PNG", ">"), ("TIFF", "<"), ("TIFF", ">"), ("PPM", "<")])
def test_16bit_greyscale_is_scaled_and_not_clipped_to_white(kind, order):
    values = np.linspace(0, 65535, 1200).astype(f"{order}u2").reshape(30, 40)
    pixels = images.decode(encode(Image.fromarray(values), kind), WHOLE)
    np.testing.assert_array_equal(pixels, np.broadcast_to(values // 257, (3, 30, 40)))
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert len(np.unique(pixels)) == 256


def test_an_image_of_32bit_integers_is_scaled_like_16bit_or_refused():
    values = np.linspace(0, 65535, 1200).astype(np.int32).reshape(30, 40)
    pixels = images.decode(encode(Image.fromarray(values), "TIFF"), WHOLE)
    np.testing.assert_array_equal(pixels[0], values // 257)
    for outside in (-1, 65536):
        values[3, 4] = outside
        with pytest.raises(ImageError, match="no defined range"):
            images.decode(encode(Image.fromarray(values), "TIFF"), WHOLE)


def test_floating_point_pixels_are_refused():
    with pytest.raises(ImageError, match="floating-point"):
        images.decode(encode(noise(mode="F"), "TIFF"), WHOLE)


def test_alpha_is_dropped_and_the_colours_below_it_kept():
    image = noise(mode="RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    pixels = images.decode(encode(image), WHOLE)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), np.asarray(image)[..., :3])


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 2))])
def test_palette_images_with_transparency_keep_their_colours_and_warn_of_nothing(transparency):
    image = noise(mode="P")
    data = encode(image, transparency=transparency)
    opened = Image.open(io.BytesIO(data))
    assert opened.mode == "P"
    assert type(opened.info["transparency"]) is type(transparency)
    pixels = images.decode(data, WHOLE)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), np.asarray(image.convert("RGB")))


def test_one_bit_images_are_black_and_white():
    image = noise(mode="1")
    pixels = images.decode(encode(image), WHOLE)
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
def test_exif_orientation_is_honoured(orientation, kind):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    data = oriented(orientation, kind)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright.size == ((40, 30) if orientation < 5 else (30, 40))
    wanted = transform((upright.height, upright.width), "nearest", 1.0, "squash")
    np.testing.assert_array_equal(images.decode(data, wanted).transpose(1, 2, 0), np.asarray(upright.convert("RGB")))


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, "tl"), (2, "tr"), (3, "br"), (4, "bl"), (5, "tl"), (6, "tr"), (7, "br"), (8, "bl")]
)
def test_exif_orientation_says_where_the_top_left_pixel_goes(orientation, corner):
    image = Image.new("RGB", (40, 30))
    image.paste("white", (0, 0, 8, 6))
    pixels = images.decode(oriented(orientation, "PNG", image), transform(20, "nearest", 1.0, "squash"))[0]
    row, column = {"t": 1, "b": -2}[corner[0]], {"l": 1, "r": -2}[corner[1]]
    assert pixels[row, column] == 255
    assert (pixels > 0).sum() == 16


def test_16bit_greyscale_is_turned_upright_too():
    values = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    pixels = images.decode(oriented(6, "PNG", Image.fromarray(values)), transform((40, 30), "nearest", 1.0, "squash"))
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
def test_a_whole_image_with_broken_exif_is_taken_as_it_stands(exif):
    data = encode(smooth(), "JPEG", exif=exif)
    np.testing.assert_array_equal(images.decode(data, WHOLE), images.decode(encode(smooth(), "JPEG"), WHOLE))


@BROKEN_EXIF
def test_odd_exif_tags_beside_the_orientation_reject_no_photo():
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "Canon", 0x011A: 72.0})
    raw, chooser = exif.tobytes(), random.Random(0)
    whole = 0
    for _ in range(300):
        odd = bytearray(raw)
        for _ in range(2):
            odd[chooser.randrange(26, len(odd))] = chooser.choice([0, 1, 2, 3, 4, 5, 7, 10, 255])
        whole += images.decode(encode(smooth(), "JPEG", exif=bytes(odd)), SQUARE).shape == (3, 24, 24)
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
def test_what_is_no_image_is_refused_with_its_reason(data, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        images.decode(data, SQUARE)
    assert "\n" not in str(caught.value)


def test_a_complete_bomb_is_refused_before_it_is_unpacked():
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(2501 * 1000)) for _ in range(20)) + packer.flush()
    started = time.perf_counter()
    with pytest.raises(ImageError, match="too large"):
        images.decode(png(20_000, 20_000, data=data), SQUARE)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("shape", [(100_000, 1), (1, 100_000)])
def test_a_hair_thin_image_is_refused_before_it_fills_the_memory(shape):
    with pytest.raises(ImageError, match="too narrow"):
        images.decode(png(*shape), transform(224))
    assert images.decode(png(*shape), transform(224, crop_mode="squash")).shape == (3, 224, 224)


def test_a_panorama_is_fine():
    assert images.decode(png(3000, 60), transform(64)).shape == (3, 64, 64)


def test_eps_which_pillow_would_run_as_a_program_is_refused():
    with pytest.raises(ImageError, match="EPS is a program"):
        images.decode(encode(noise(), "EPS"), SQUARE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_truncated_files_are_refused_not_filled_with_grey(kind, share):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    data = encode(noise(64, 64), kind)
    with pytest.raises(ImageError):
        images.decode(data[: int(len(data) * share)], SQUARE)


@pytest.mark.parametrize("missing", [1, 2, 10, 100])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}])
def test_a_jpeg_that_lacks_its_last_bytes_is_refused(missing, options):
    data = encode(noise(64, 64), "JPEG", **options)
    with pytest.raises(ImageError, match="truncated"):
        images.decode(data[:-missing], SQUARE)


def test_importing_everything_has_not_allowed_truncated_images():
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_flipped_bytes_give_pixels_or_an_image_error_and_never_hang(kind):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    data, chooser = encode(noise(24, 20), kind), random.Random(kind)
    outcomes, started = set(), time.perf_counter()
    for round_ in range(250):
        broken = bytearray(data)
        for _ in range(chooser.randint(1, 6)):
            broken[chooser.randrange(len(broken) if round_ % 2 else min(64, len(broken)))] = chooser.randrange(256)
        if round_ % 5 == 0:
            broken = broken[: chooser.randrange(1, len(broken))]
        try:
            pixels = images.decode(bytes(broken), SQUARE)
            assert pixels.shape == SQUARE.input_size
            assert pixels.dtype == np.uint8
            outcomes.add("pixels")
        except ImageError:
            outcomes.add("error")
    assert outcomes == {"pixels", "error"}
    assert time.perf_counter() - started < 30


def test_a_backbone_with_odd_channels_is_the_backbones_fault_not_the_images():
    with pytest.raises(BackboneError, match="4 channels"):
        images.decode(encode(noise()), transform(24, channels=4))


# Arrays and opened images


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (30, 40, 3), (30, 40, 4)])
def test_arrays_become_images(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = images.to_pixels(images.from_array(array), WHOLE)
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
def test_images_without_pixels_are_refused(shape):
    with pytest.raises(ImageError, match="no pixels"):
        images.to_pixels(images.from_array(np.zeros(shape, np.uint8)), SQUARE)


def test_an_opened_image_that_turns_out_broken_is_an_image_error():
    data = encode(noise(64, 64), "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        images.to_pixels(Image.open(io.BytesIO(data[:2000])), SQUARE)


def test_the_callers_image_is_not_changed():
    image = Image.open(io.BytesIO(oriented(6)))
    before = np.asarray(image).copy()
    images.to_pixels(image, SQUARE)
    assert image.size == (40, 30)
    np.testing.assert_array_equal(np.asarray(image), before)
    assert image.getexif()[0x0112] == 6


def test_threads_decode_as_one_would():
    wanted = [transform(24), transform(32, "bilinear", 0.875), transform(20, crop_mode="squash")]
    jobs = [(oriented(1 + n % 8, image=noise(60, 50, seed=n)), wanted[n % 3]) for n in range(60)]
    alone = [images.decode(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for one, many in zip(alone, pool.map(lambda job: images.decode(*job), jobs), strict=True):
                np.testing.assert_array_equal(one, many)
