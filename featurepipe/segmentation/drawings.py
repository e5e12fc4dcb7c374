"""Predicted masks as files: class values as PNG, and colours over the image to look at."""

from __future__ import annotations

import colorsys
import io

import numpy as np
from PIL import Image

LARGEST = 65535  # value of a pixel of a mask
GOLDEN = 0.61803398875  # turns of hue from class to class, so that neighbours differ
SHARE = 0.5  # of the colour over the image


def palette(count: int) -> np.ndarray:
    """A colour for each class, uint8 (K, 3); the first is black, as background mostly is first."""
    hues = [(number * GOLDEN) % 1 for number in range(count)]
    bright = [colorsys.hsv_to_rgb(hue, 0.75, 0.95) for hue in hues]
    made = np.round(255 * np.array(bright)).astype(np.uint8)
    made[0] = 0
    return made


def mask_png(classes: np.ndarray) -> bytes:
    """Values of classes (height, width) as a PNG: its pixels are the values, shown in colours."""
    if int(classes.max()) > 255:
        image = Image.fromarray(classes.astype(np.uint16))
    else:
        image = Image.fromarray(classes.astype(np.uint8))
        image.putpalette(palette(256).ravel().tolist())
    return _bytes(image)


def overlay_png(picture: Image.Image, classes: np.ndarray) -> bytes:
    """The image with the classes' colours over it; the first class leaves it as it is."""
    pixels = np.asarray(picture.convert("RGB")).astype(float)
    colours = palette(int(classes.max()) + 1)[classes].astype(float)
    blended = np.where(classes[..., None] > 0, (1 - SHARE) * pixels + SHARE * colours, pixels)
    return _bytes(Image.fromarray(blended.round().astype(np.uint8)))


def _bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
