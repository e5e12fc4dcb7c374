"""A corpus of everything that Pillow can write: the same pixels through all decoders, or refused by all."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from featurepipe import images
from featurepipe.errors import ImageError
from featurepipe.images import ImageTransform
from featurepipe.images.orientations import UPRIGHT

DECODERS = ("pillow", "torchvision", "draft")
WANTED = ImageTransform((3, 36, 36), "bilinear", (0.5,) * 3, (0.5,) * 3, 0.9)
MODES = ("1", "L", "P", "LA", "La", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F")
MODES += ("I;16", "I;16L", "I;16B")
NO_IMAGES = ("PDF", "PALM", "HDF5", "GRIB", "BUFR", "WMF")  # which Pillow writes, and does not read by itself
RESIZED = ("ICNS", "ICO")  # what Pillow writes is not what it was given; and …
CLIPPED = ("AVIF", "GIF", "WEBP", "JPEG2000")  # … of more than 8 bits it makes white, or something else
UNORIENTED = ("JPEG2000",)  # whose orientation Pillow neither writes nor reads


def picture(mode):
    """64×48, smooth in every mode: a slope in each colour; of more than 8 bits, from black to white of 16."""
    y, x = np.mgrid[:48, :64]
    image = Image.fromarray(np.stack([x * 4, y * 5, (x + y) * 2], axis=-1).astype(np.uint8))
    if mode.startswith("I"):
        grey = np.asarray(image.convert("L")).astype(np.int32)
        grey = (grey - grey.min()) * 65535 // np.ptp(grey)
        return Image.fromarray(grey if mode == "I" else grey.astype(">u2" if mode == "I;16B" else "<u2"))
    if mode in ("La", "PA", "RGBa"):
        return image.convert({"La": "LA", "PA": "P", "RGBa": "RGBA"}[mode]).convert(mode)
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    return image.convert(mode)


def written(kind, mode, **options):
    """The file, or None where Pillow writes no such."""
    buffer = io.BytesIO()
    try:
        picture(mode).save(buffer, kind, **options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SystemError):
        return None
    return buffer.getvalue()


def outcome(data, decoder):
    """Pixels, or why there are none."""
    try:
        return images.decode(data, replace(WANTED, decoder=decoder)).astype(int)
    except ImageError as error:
        return str(error)


def corpus():
    Image.init()
    for kind in sorted(set(Image.SAVE) - set(NO_IMAGES)):
        for mode in MODES:
            data = written(kind, mode)
            if data:
                yield kind, mode, 1, data
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO", "JPEG2000"):
        for orientation in range(2, 9):
            for mode in ("L", "RGB", "CMYK", "I;16"):
                exif = Image.Exif()  # one for each file: an AVIF takes the orientation out of it
                exif[0x112] = orientation
                xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
                for options in ({"xmp": xmp}, {"exif": exif})[kind in ("PNG", "TIFF") :]:  # no XMP there
                    data = kind in Image.SAVE and written(kind, mode, **options)
                    if data:
                        yield kind, mode, orientation, data


def expected(kind, mode, orientation):
    """What is to be seen, if the file holds it."""
    if kind in RESIZED or (mode.startswith(("I", "F")) and kind in CLIPPED):
        return None
    image = picture(mode)
    if orientation in UPRIGHT and kind not in UNORIENTED:
        image = image.transpose(UPRIGHT[orientation][0])
    return images.decode(image, WANTED).astype(int)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of formats and data that Pillow frowns at
def test_every_image_that_pillow_writes_gives_the_same_pixels_by_all_decoders_or_is_refused_by_all():
    different, far, seen = [], [], set()
    for kind, mode, orientation, data in corpus():
        what = kind, mode, orientation
        first, *others = (outcome(data, decoder) for decoder in DECODERS)
        if isinstance(first, str):
            different += [(what, first, other) for other in others if not isinstance(other, str) or other != first]
            continue
        seen.add(what)
        different += [(what, other) for other in others if isinstance(other, str) or np.abs(first - other).max() > 2]
        right = expected(*what)
        if right is not None and np.abs(first - right).mean() > 6:
            far.append(what)
    assert not different
    assert not far
    assert len(seen) > 250
