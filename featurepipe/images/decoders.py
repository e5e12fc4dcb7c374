"""The decoders by name; see the package's docstring for what they do."""

from __future__ import annotations

import numpy as np
from PIL import Image

from featurepipe.images.frames import Frame, Picture, fit_image, fit_tensor
from featurepipe.images.jpegs import decode_jpeg
from featurepipe.images.orientations import orientation_of, upright_tensor
from featurepipe.images.pictures import JPEG, simplify

DRAFT_MARGIN = 2  # how many times the wanted size a draft keeps at least: the less, the faster and the coarser


class Decoder:
    """The seam that decoders plug into, and Pillow's decoder; others derive from it and say what they do differently.

    The file is opened by Pillow first, and refused where it must be. No method loads pixels before `read`.
    """

    def prepare(self, image: Image.Image, frame: Frame) -> None:
        """Ask an opened file for fewer pixels than it has, where it can give them; nothing here."""

    def read(self, image: Image.Image, data: bytes | bytearray, channels: int) -> Picture:
        """The whole picture of an opened file, upright and 8-bit, with as many channels (1 or 3)."""
        return simplify(image, channels)

    def fit(self, picture: Picture, frame: Frame) -> np.ndarray:
        """Resize and crop a whole picture; returns uint8 of shape (C, H, W)."""
        return fit_image(picture, frame)


class Torchvision(Decoder):
    """JPEGs by the libraries of PyTorch's family, other files by Pillow; resized on tensors."""

    def read(self, image: Image.Image, data: bytes | bytearray, channels: int) -> Picture:
        """See `Decoder.read`."""
        if image.format in JPEG and image.mode in ("RGB", "L") and channels == 3:
            tensor = decode_jpeg(data)
            if tensor is not None:
                return upright_tensor(tensor, orientation_of(image))
        return super().read(image, data, channels)

    def fit(self, picture: Picture, frame: Frame) -> np.ndarray:
        """See `Decoder.fit`."""
        return fit_tensor(picture, frame)


class Draft(Decoder):
    """JPEGs at 1/2, 1/4 or 1/8 of their size, by Pillow; resized on tensors."""

    def prepare(self, image: Image.Image, frame: Frame) -> None:
        """See `Decoder.prepare`."""
        if image.format in JPEG:
            image.draft(None, draft_size(image.size, frame))

    def fit(self, picture: Picture, frame: Frame) -> np.ndarray:
        """See `Decoder.fit`."""
        return fit_tensor(picture, frame)


def draft_size(size: tuple[int, int], frame: Frame) -> tuple[int, int]:
    """The least size (width, height) that a draft may have: what will be resized to, times the margin."""
    wanted = DRAFT_MARGIN * max(frame.input_size[1:]) / frame.crop_pct
    scale = wanted / min(size)  # of both sides, so that the short one keeps what it needs; also right if it squashes
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


DECODERS: dict[str, Decoder] = {"torchvision": Torchvision(), "pillow": Decoder(), "draft": Draft()}
DEFAULT_DECODER = "torchvision"
