"""Predicted masks as files: class values as PNG, and colours over the image to look at."""

from __future__ import annotations

import colorsys
import io

import numpy as np
from PIL import Image

LARGEST = 65535  # value of a pixel of a mask
GOLDEN = 0.61803398875  # turns of hue from class to class, so that neighbours differ
SHARE = 0.5  # of the colour over the image
SIDE = 224  # pixels of a small copy


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


def overlay(picture: Image.Image, classes: np.ndarray) -> np.ndarray:
    """The image with the classes' colours over it, uint8 (height, width, 3).

    Parameters
    ----------
    picture : PIL image
    classes : ndarray of int, shape (height, width)
        The first class leaves the image as it is. Pixels of class -1 do not count, and are white.
    """
    pixels = np.asarray(picture.convert("RGB")).astype(float)
    colours = palette(max(int(classes.max()), 0) + 1)[classes].astype(float)
    blended = np.where(classes[..., None] > 0, (1 - SHARE) * pixels + SHARE * colours, pixels)
    return np.where(classes[..., None] < 0, 255, blended.round()).astype(np.uint8)


def overlay_png(picture: Image.Image, classes: np.ndarray) -> bytes:
    """As `overlay`, as a PNG."""
    return _bytes(Image.fromarray(overlay(picture, classes)))


def small(picture: Image.Image, *masks: np.ndarray) -> list[np.ndarray]:
    """Small copies of an image (h, w, 3): as it is, and under each of some masks, for a page."""
    copy = picture.convert("RGB")
    copy.thumbnail((SIDE, SIDE))
    rows, columns = (
        ((np.arange(n) + 0.5) * whole / n).astype(int) for n, whole in zip(copy.size[::-1], masks[0].shape, strict=True)
    )
    return [np.asarray(copy), *(overlay(copy, mask[np.ix_(rows, columns)]) for mask in masks)]


def _bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
