"""What is to be seen of images without a network: their sizes, small copies of them, perceptual hashes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from featurepipe.images import ImageTransform, size_of
from featurepipe.images.boxes import box_of
from featurepipe.listeners import SILENT, Listener
from featurepipe.media import file_turn
from featurepipe.stores import Pending

SIDE = 32  # pixels of a small copy
SCALES = (1.0, 0.9, 0.8, 0.7)  # of the middle that a hash is taken of, so that crops are known again
LOW = 8  # frequencies of a hash in each direction
BITS_OF = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)  # set in a byte
AT_ONCE = 512  # images that are waited for
SIGHT = ImageTransform((3, 2 * SIDE, 2 * SIDE), "bilinear", (0.5,) * 3, (0.5,) * 3, 1.0, "squash", "draft")


class Picture(NamedTuple):
    """What is to be seen of one image; `hashes` are of its middle at each of `SCALES`."""

    size: tuple[int, int]
    nbytes: int
    small: np.ndarray
    hashes: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """What is to be seen of images, 3 kB each.

    Attributes
    ----------
    sizes : ndarray of int64, shape (n, 2)
        Width and height.
    nbytes : ndarray of int64, shape (n,)
        Sizes of the files.
    small : ndarray of uint8, shape (n, 32, 32, 3)
    hashes : ndarray of uint8, shape (n, 4, 8)
        64 bits of each middle.
    """

    sizes: np.ndarray
    nbytes: np.ndarray
    small: np.ndarray
    hashes: np.ndarray

    @classmethod
    def of(cls, pictures: Iterable[Picture], count: int) -> Pictures:
        """Gather them in arrays."""
        made = cls(
            np.empty((count, 2), np.int64),
            np.empty(count, np.int64),
            np.empty((count, SIDE, SIDE, 3), np.uint8),
            np.empty((count, len(SCALES), LOW), np.uint8),
        )
        for n, one in enumerate(pictures):
            made.sizes[n], made.nbytes[n], made.small[n], made.hashes[n] = one
        return made

    def differences(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """In how many of 63 bits the hashes of pairs of images differ, (m,).

        Each as a whole is compared with the other's middles, so that a crop is as near as the image that it is of.
        """
        a, b = self.hashes[one], self.hashes[other]  # (m, scales, 8)
        forth, back = (BITS_OF[x[:, :1] ^ y].sum(axis=2, dtype=np.int64).min(axis=1) for x, y in ((a, b), (b, a)))
        return np.minimum(forth, back)


def look(images: Sequence[Pending], listener: Listener = SILENT) -> Pictures:
    """Read images again and look at them.

    Raises
    ------
    OSError
        One cannot be read any more.
    SampleError
        One is no image.
    """
    with (
        listener.progress("looking at images", len(images)) as advance,
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):

        def seen() -> Iterable[Picture]:
            for start in range(0, len(images), AT_ONCE):
                part = images[start : start + AT_ONCE]
                yield from threads.map(see, part)
                advance(len(part))

        return Pictures.of(seen(), len(images))


def see(image: Pending) -> Picture:
    """Look at one image."""
    with file_turn(image.size):
        data = image.read()
        pixels = SIGHT.decode(data, image.part)  # (3, 64, 64)
        size, nbytes = _measure(data, image.part)
    small = pixels.reshape(3, SIDE, 2, SIDE, 2).mean(axis=(2, 4)).transpose(1, 2, 0)
    return Picture(size, nbytes, small.round().astype(np.uint8), perceptual_hashes(pixels))


def _measure(data: bytes | np.ndarray, part: str | None) -> tuple[tuple[int, int], int]:
    """Width and height of an image, or of its part, and the bytes of all of it."""
    if isinstance(data, bytes):
        size, nbytes = size_of(data), len(data)
    else:
        size, nbytes = (data.shape[1], data.shape[0]), data.nbytes
    if part is not None:
        x0, y0, x1, y1 = box_of(part, (2**30, 2**30))
        size = x1 - x0, y1 - y0
    return size, nbytes


def perceptual_hashes(pixels: np.ndarray) -> np.ndarray:
    """Hashes of an image's middle at each of `SCALES`, of 63 bits: which low frequencies are above their median.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (3, S, S)

    Returns
    -------
    ndarray of uint8, shape (4, 8)
        The bits of each.

    References
    ----------
    Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1 (pHash).
    """
    from scipy.fft import dctn

    grey = Image.fromarray(pixels.transpose(1, 2, 0)).convert("L")
    margins = [(1 - scale) / 2 * grey.width for scale in SCALES]
    boxes = [(margin, margin, grey.width - margin, grey.height - margin) for margin in margins]
    middles = [grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box) for box in boxes]
    waves = dctn(np.stack([np.asarray(middle) for middle in middles]).astype(float), axes=(1, 2), norm="ortho")[
        :, :LOW, :LOW
    ]
    low = waves.reshape(len(SCALES), -1)[:, 1:]  # without the mean
    bits = low > np.median(low, axis=1, keepdims=True)  # (scales, 63)
    return np.packbits(bits, axis=1)
