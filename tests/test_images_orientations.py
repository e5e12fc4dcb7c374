"""Every place where an orientation can stand, through every decoder."""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin, features

from featurepipe import images
from featurepipe.images import ImageTransform
from featurepipe.images.orientations import UPRIGHT, orientation_of, upright, upright_tensor

DECODERS = ("pillow", "torchvision", "draft")
WANTED = ImageTransform((3, 48, 48), "bilinear", (0.5,) * 3, (0.5,) * 3, 1.0, "squash")
STORED = {  # what makes of an upright image one that is stored under an orientation
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def picture():
    """Smooth, and another one after each turn."""
    y, x = np.mgrid[:64, :96]
    return Image.fromarray(np.stack([x * 2, y * 3, (x * 64 + y * 96) // 64], axis=-1).astype(np.uint8))


def stored(orientation):
    how = STORED[orientation]
    return picture() if how is None else picture().transpose(how)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation, order="<", kind="H"):
    value = struct.pack(order + kind, orientation).ljust(4, b"\0")
    entry = struct.pack(order + "HHI", 0x112, {"H": 3, "I": 4}[kind], 1) + value
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, 1)
    return b"Exif\0\0" + head + entry + b"\0" * 4


def xmp(orientation, element=False):
    said = f"><tiff:Orientation>{orientation}</tiff:Orientation>" if element else f' tiff:Orientation="{orientation}">'
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{said}</rdf:Description></rdf:RDF></x:xmpmeta>'
    ).encode()


def jpeg(orientation, **options):
    return encode(stored(orientation), "JPEG", quality=95, subsampling=0, **options)


def png(orientation, *texts):
    info = PngImagePlugin.PngInfo()
    for text in texts:
        (info.add_itxt if text[0].startswith("XML") else info.add_text)(*text)
    return encode(stored(orientation), "PNG", pnginfo=info)


def png_exif_last(orientation):
    content = b"eXIf" + exif(orientation)[6:]
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    data = encode(stored(orientation), "PNG")
    return data[:-12] + chunk + data[-12:]


def png_raw_profile(orientation):
    block = exif(orientation)
    return png(orientation, ("Raw profile type exif", f"\nexif\n    {len(block)}\n{block.hex()}\n"))


def tiff(orientation, order="<", kind="H"):
    """An uncompressed RGB file written by hand."""
    image = stored(orientation)
    tags = {256: image.width, 257: image.height, 258: 8, 259: 1, 262: 2, 273: 0, 277: 3, 278: image.height}
    tags |= {274: orientation, 279: image.width * image.height * 3}
    where = 8 + 2 + 12 * len(tags) + 4
    tags |= {258: where, 273: where + 6}
    entries = b""
    for tag, value in sorted(tags.items()):
        if tag == 258:
            entries += struct.pack(order + "HHII", tag, 3, 3, value)
        elif tag == 274 and kind == "H":
            entries += struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
        else:
            entries += struct.pack(order + "HHII", tag, 4, 1, value)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, len(tags))
    return head + entries + b"\0" * 4 + struct.pack(order + "HHH", 8, 8, 8) + image.tobytes()


def mpo(orientation):
    image = stored(orientation)
    options = {"quality": 95, "subsampling": 0, "exif": exif(orientation)}
    return encode(image, "MPO", save_all=True, append_images=[image], **options)


PLACES = {
    "JPEG, EXIF, II SHORT": lambda n: jpeg(n, exif=exif(n)),
    "JPEG, EXIF, MM SHORT": lambda n: jpeg(n, exif=exif(n, ">")),
    "JPEG, EXIF, II LONG": lambda n: jpeg(n, exif=exif(n, "<", "I")),
    "JPEG, EXIF, MM LONG": lambda n: jpeg(n, exif=exif(n, ">", "I")),
    "JPEG, XMP attribute": lambda n: jpeg(n, xmp=xmp(n)),
    "JPEG, XMP element": lambda n: jpeg(n, xmp=xmp(n, element=True)),
    "JPEG, EXIF and not XMP": lambda n: jpeg(n, exif=exif(n), xmp=xmp(9 - n)),
    "grey JPEG, XMP": lambda n: encode(stored(n).convert("L"), "JPEG", quality=95, xmp=xmp(n)),
    "MPO, EXIF": mpo,
    "PNG, eXIf": lambda n: encode(stored(n), "PNG", exif=exif(n)),
    "PNG, eXIf after the pixels": png_exif_last,
    "PNG, raw profile": png_raw_profile,
    "PNG, XMP": lambda n: png(n, ("XML:com.adobe.xmp", xmp(n).decode())),
    "WEBP, EXIF": lambda n: encode(stored(n), "WEBP", lossless=True, exif=exif(n)),
    "WEBP, XMP": lambda n: encode(stored(n), "WEBP", lossless=True, xmp=xmp(n)),
    "TIFF, II SHORT": lambda n: tiff(n),
    "TIFF, MM SHORT": lambda n: tiff(n, ">"),
    "TIFF, II LONG": lambda n: tiff(n, "<", "I"),
    "TIFF, MM LONG": lambda n: tiff(n, ">", "I"),
    "TIFF, XMP": lambda n: encode(stored(n), "TIFF", tiffinfo={700: xmp(n)}),
    "compressed TIFF": lambda n: encode(stored(n), "TIFF", tiffinfo={274: n}, compression="tiff_lzw"),
    "AVIF, EXIF": lambda n: encode(stored(n), "AVIF", quality=95, subsampling="4:4:4", exif=exif(n)),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_image_is_upright_wherever_its_orientation_is_said(place):
    kind = place.split(",")[0].split()[-1]
    if kind in ("WEBP", "AVIF") and not features.check(kind.lower()):
        pytest.skip(f"this Pillow has no {kind}")
    right = picture().convert("L") if "grey" in place else picture()
    right = images.decode(encode(right, "PNG"), WANTED).astype(int)
    for orientation in STORED:
        data = PLACES[place](orientation)
        for decoder in DECODERS:
            found = images.decode(data, replace(WANTED, decoder=decoder))
            assert np.abs(found - right).max() <= (8 if kind in ("JPEG", "MPO", "AVIF") else 1), (orientation, decoder)


@pytest.mark.parametrize("orientation", [0, 9, 1000, None])
def test_an_orientation_that_means_nothing_turns_nothing(orientation):
    data = jpeg(1) if orientation is None else jpeg(1, exif=exif(orientation))
    assert orientation_of(Image.open(io.BytesIO(data))) is None
    for decoder in DECODERS:
        wanted = replace(WANTED, decoder=decoder)
        np.testing.assert_array_equal(images.decode(data, wanted), images.decode(jpeg(1), wanted))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_tensors_turn_as_images_do(orientation):
    image = Image.open(io.BytesIO(encode(stored(orientation), "PNG", exif=exif(orientation))))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    turned = upright_tensor(pixels, orientation_of(image)).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(turned, np.asarray(upright(image)))
    np.testing.assert_array_equal(turned, np.asarray(picture()))
