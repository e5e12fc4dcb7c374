"""A ramp from black to white comes out as one, or it is refused with a way out."""

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, features

from featurepipe import images
from featurepipe.errors import ImageError
from featurepipe.images import ImageTransform

DECODERS = ("pillow", "torchvision", "draft")
WHOLE = ImageTransform((3, 30, 40), "nearest", (0.5,) * 3, (0.5,) * 3, 1.0, "squash")
RAMP = np.linspace(0, 1, 1200).reshape(30, 40)
LIKE_12_BITS = "reach only .* of 65535, as 12-bit data do.* scale them so that white is 65535, or save .* 8 bits"
UNDEFINED = "no defined .*; save the image with .*8 or 16 bits"


def ramp(white, dtype=np.uint16):
    return (RAMP * white).round().astype(dtype)


def tiff(array, bits=None, order="<", **tags):
    """A file of greyscale (h, w) or RGB (h, w, 3), written by hand; of packed samples if `bits` is 12."""
    colours = array.shape[2] if array.ndim == 3 else 1
    bits = bits or array.itemsize * 8
    data = packed(array) if bits == 12 else array.astype(array.dtype.newbyteorder(order)).tobytes()
    height, width = array.shape[:2]
    known = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "offset": 273}
    known |= {"colours": 277, "rows": 278, "bytes": 279, "most": 281, "planar": 284, "format": 339}
    tags = {
        "width": width,
        "height": height,
        "bits": bits,
        "compression": 1,
        "photometric": 1 if colours == 1 else 2,
        "colours": colours,
        "rows": height,
        "bytes": len(data),
        "format": {"u": 1, "i": 2, "f": 3}[array.dtype.kind],
        **tags,
    }
    tags = {known[name]: value for name, value in tags.items() if value is not None} | {273: 0}
    tags[273] = 8 + 2 + 12 * len(tags) + 4 + 6
    if colours == 3:
        tags[258] = tags[273] - 6
    shorts = {258, 259, 262, 277, 281, 284, 339}
    entries = b""
    for tag, value in sorted(tags.items()):
        if tag == 258 and colours == 3:
            entries += struct.pack(order + "HHII", tag, 3, 3, value)
        elif tag in shorts:
            entries += struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
        else:
            entries += struct.pack(order + "HHII", tag, 4, 1, value)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, len(tags))
    return head + entries + b"\0" * 4 + struct.pack(order + "HHH", bits, bits, bits) + data


def packed(array):
    """Two samples of 12 bits in three bytes."""
    first, second = array.reshape(-1, 2).astype(int).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()


def encode(image, kind, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def pgm(array, white):
    return b"P5 %d %d %d\n" % (*array.shape[::-1], white) + array.astype(">u2" if white > 255 else "u1").tobytes()


def ppm(array, white):
    colours = np.repeat(array[..., None], 3, axis=2)
    return b"P6 %d %d %d\n" % (*array.shape[::-1], white) + colours.astype(">u2" if white > 255 else "u1").tobytes()


def png_rgb16(array):
    """Written by OpenCV, since Pillow does not write them."""
    return pytest.importorskip("cv2").imencode(".png", np.repeat(array[..., None], 3, axis=2))[1].tobytes()


def rgb(array):
    return np.repeat(array[..., None], 3, axis=2)


SCALED = {
    "8 bits": lambda: tiff(ramp(255, np.uint8)),
    "8 bits, 0 is white": lambda: tiff(255 - ramp(255, np.uint8), photometric=0),
    "12 bits, packed": lambda: tiff(ramp(4095), bits=12),
    "16 bits": lambda: tiff(ramp(65535)),
    "16 bits, big-endian": lambda: tiff(ramp(65535), order=">"),
    "16 bits, 0 is white": lambda: tiff(65535 - ramp(65535), photometric=0),
    "16 bits of which 10 are used, and it says so": lambda: tiff(ramp(1023), most=1023),
    "16 bits of which 12 are used, and it says so": lambda: tiff(ramp(4095), most=4095),
    "16 bits of which 14 are used, and it says so": lambda: tiff(ramp(16383), most=16383),
    "16 bits of which 12 are used, and it says so, 0 is white": lambda: tiff(
        4095 - ramp(4095), most=4095, photometric=0
    ),
    "16 bits whose statistics say nothing of the depth": lambda: tiff(ramp(65535), most=60000),
    "16 bits whose statistics are wrong": lambda: tiff(ramp(65535), most=4095),
    "16 bits, compressed": lambda: encode(ramp(65535), "TIFF", compression="tiff_lzw"),
    "32 bits that use 16": lambda: tiff(ramp(65535, np.uint32)),
    "RGB of 16 bits": lambda: tiff(rgb(ramp(65535))),
    "RGB of 16 bits, big-endian": lambda: tiff(rgb(ramp(65535)), order=">"),
    "PNG of 16 bits": lambda: encode(ramp(65535), "PNG"),
    "PNG, RGB of 16 bits": lambda: png_rgb16(ramp(65535)),
    "PGM of 16 bits": lambda: pgm(ramp(65535), 65535),
    "PGM of 12 bits": lambda: pgm(ramp(4095), 4095),
    "PGM of 100 shades": lambda: pgm(ramp(99, np.uint8), 99),
    "PPM of 12 bits": lambda: ppm(ramp(4095), 4095),
    "PPM of 16 bits": lambda: ppm(ramp(65535), 65535),
    "JPEG 2000 of 16 bits": lambda: encode(ramp(65535), "JPEG2000"),
}


@pytest.mark.parametrize("what", SCALED)
def test_a_ramp_from_black_to_white_comes_out_as_one(what):
    if "2000" in what and not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    for decoder in DECODERS:
        found = images.decode(SCALED[what](), replace(WHOLE, decoder=decoder)).astype(int)
        assert np.abs(found - RAMP * 255).max() <= (3 if "100 shades" in what else 1.5), decoder


REFUSED = {
    "16 bits of which 10 are used": (lambda: tiff(ramp(1023)), LIKE_12_BITS),
    "16 bits of which 12 are used": (lambda: tiff(ramp(4095)), LIKE_12_BITS),
    "16 bits of which 12 are used, big-endian": (lambda: tiff(ramp(4095), order=">"), LIKE_12_BITS),
    "RGB of 16 bits of which 12 are used": (lambda: tiff(rgb(ramp(4095))), LIKE_12_BITS),
    "RGB of 16 bits in planes": (lambda: tiff(rgb(ramp(65535)), planar=2), "planes of 16 bits; save"),
    "PNG of 16 bits of which 12 are used": (lambda: encode(ramp(4095), "PNG"), LIKE_12_BITS),
    "PNG, RGB of 16 bits of which 12 are used": (lambda: png_rgb16(ramp(4095)), LIKE_12_BITS),
    "PNG, RGB of 16 bits of which 8 are used": (lambda: png_rgb16(ramp(255)), LIKE_12_BITS),
    "RGB of 16 bits of which 8 are used": (lambda: tiff(rgb(ramp(255))), LIKE_12_BITS),
    "PGM of 16 bits of which 12 are used": (lambda: pgm(ramp(4095), 65535), LIKE_12_BITS),
    "int8": (lambda: tiff(ramp(127, np.int8)), UNDEFINED),
    "int16": (lambda: tiff(ramp(32767, np.int16)), UNDEFINED),
    "int16 with negative values": (lambda: tiff((RAMP * 4000 - 1000).astype(np.int16)), UNDEFINED),
    "int32 that uses 8 bits": (lambda: tiff(ramp(255, np.int32)), UNDEFINED),
    "int32 that uses 15 bits": (lambda: tiff(ramp(32767, np.int32)), UNDEFINED),
    "uint32 that uses 8 bits": (lambda: tiff(ramp(255, np.uint32)), UNDEFINED),
    "uint32": (lambda: tiff(ramp(2**32 - 1, np.uint32)), UNDEFINED),
    "float32": (lambda: tiff(RAMP.astype(np.float32)), UNDEFINED),
    "float32, 0 is white": (lambda: tiff(RAMP.astype(np.float32), photometric=0), UNDEFINED),
    "float64": (lambda: tiff(RAMP), "cannot read; save the image as PNG"),
    "10 bits": (lambda: tiff(ramp(1023), bits=10), "cannot read; save the image as PNG"),
    "int16, 0 is white": (lambda: tiff(ramp(32767, np.int16), photometric=0), "cannot read; save the image as PNG"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_certain_white_is_refused_with_a_way_out(what):
    make, reason = REFUSED[what]
    data = make()
    for decoder in DECODERS:
        with pytest.raises(ImageError, match=reason) as caught:
            images.decode(data, replace(WHOLE, decoder=decoder))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("top", [0, 4096, 16383])
@pytest.mark.parametrize("make", [tiff, lambda values: encode(values, "PNG")], ids=["TIFF", "PNG"])
def test_black_and_dark_images_that_use_more_than_12_bits_are_taken_as_declared(make, top):
    np.testing.assert_array_equal(images.decode(make(ramp(top)), WHOLE)[0], ramp(top) // 257)


def test_a_black_image_of_32_bits_is_black():
    assert not images.decode(tiff(ramp(0, np.uint32)), WHOLE).any()


def test_full_16_bits_keep_the_pixels_that_they_always_had():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = images.decode(encode(values, "PNG"), replace(WHOLE, input_size=(3, 256, 256)))
    np.testing.assert_array_equal(found[0], values // 257)


def test_bitmaps_of_5_6_5_bits_are_no_16_bit_samples():
    pixels = np.full((30, 40), 1, "<u2")  # a blue of 8 in 255
    header = struct.pack("<IiiHHIIiiII", 40, 40, 30, 1, 16, 3, pixels.nbytes, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    data = b"BM" + struct.pack("<IHHI", 66 + pixels.nbytes, 0, 0, 66) + header + masks + pixels.tobytes()
    assert images.decode(data, WHOLE).reshape(3, -1).max(axis=1).tolist() == [0, 0, 8]


# Images of a notebook


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (ramp(255, np.int32), UNDEFINED),
        (ramp(4095), LIKE_12_BITS),
        (RAMP.astype(np.float32), UNDEFINED),
        (-ramp(255, np.int32), UNDEFINED),
    ],
    ids=["int32", "uint16", "float32", "negative"],
)
def test_opened_images_follow_the_same_rules(values, reason):
    with pytest.raises(ImageError, match=reason):
        images.decode(Image.fromarray(values), WHOLE)
    with pytest.raises(ImageError, match=reason):
        images.convert(Image.fromarray(values))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_opened_images_of_16_bits_are_scaled(dtype):
    np.testing.assert_array_equal(images.decode(Image.fromarray(ramp(65535, dtype)), WHOLE)[0], ramp(65535) // 257)
