"""Augmentation: random views of an image, for training.

``standard``
    Random resized crops, and half of the views mirrored: what image networks are commonly fine-tuned with (Szegedy et
    al., *Going Deeper with Convolutions*, 2015), but of at least half of the image: fine-tuning is short.
``crop``
    The same without mirroring, for letters and digits and whatever else a mirror would make something different.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from PIL import Image

from featurepipe.images.frames import Frame, Picture, check_narrow, to_tensor

AUGMENTATIONS = ("standard", "crop")
LEAST, RATIO = 1 / 2, 4 / 3  # of the image's area; of the crop's sides
TRIES = 10  # to fit a crop into the image, as torchvision's RandomResizedCrop


def augment(picture: Picture, frame: Frame, augmentation: str, seed: int, number: int) -> np.ndarray:
    """A random view of a whole picture; returns uint8 of shape (C, H, W).

    The same content under the same seed and number always gives the same view, in whatever order images are read.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    tensor = to_tensor(picture)  # (C, h, w)
    check_narrow((tensor.shape[2], tensor.shape[1]), frame)
    array = np.ascontiguousarray(tensor.numpy())
    rng = np.random.default_rng([seed, number, zlib.crc32(array.data)])
    top, left, height, width = _crop(rng, *array.shape[1:])
    mirrored = augmentation == "standard" and rng.random() < 0.5
    size = frame.input_size[1:]
    if frame.interpolation in ("bilinear", "bicubic"):
        mode = InterpolationMode(frame.interpolation)
        made = functional.resized_crop(tensor, top, left, height, width, size, mode, antialias=True).numpy()
    else:  # tensors know no other, but Pillow does
        made = np.stack([_resize(one, (left, top, left + width, top + height), frame) for one in array])
    return made[:, :, ::-1] if mirrored else made


def _crop(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop; of an image too long for one, the largest middle that fits."""
    for _ in range(TRIES):
        area = height * width * rng.uniform(LEAST, 1)
        ratio = math.exp(rng.uniform(-math.log(RATIO), math.log(RATIO)))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = min(height, max(1, round(width * RATIO))), min(width, max(1, round(height * RATIO)))
    return (height - h) // 2, (width - w) // 2, h, w


def _resize(channel: np.ndarray, box: tuple[int, int, int, int], frame: Frame) -> np.ndarray:
    """One channel (h, w) of a crop, resized by Pillow."""
    height, width = frame.input_size[1:]
    method = Image.Resampling[frame.interpolation.upper()]
    return np.asarray(Image.fromarray(channel).resize((width, height), method, box=box))
