"""Resizing and cropping: a whole upright picture → the pixels of one input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import floor
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from featurepipe.errors import ImageError
from featurepipe.images.pictures import from_array

if TYPE_CHECKING:
    import torch

Picture: TypeAlias = "Image.Image | torch.Tensor"  # upright and 8-bit; a tensor is (C, h, w)
MAX_PIXELS = 2 * 89_478_485  # where Pillow, too, calls an image a decompression bomb


@dataclass(frozen=True)
class Frame:
    """To which size a picture is brought, and how; the words are those of `featurepipe.images.ImageTransform`."""

    input_size: tuple[int, int, int]
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, ...]  # the colour of a border


def check_narrow(size: tuple[int, int], frame: Frame) -> None:
    """Refuse what would be enlarged beyond all bounds; the center mode resizes the short side, the others both."""
    resized = (max(frame.input_size[1:]) / frame.crop_pct) ** 2
    if frame.crop_mode == "center":
        resized *= max(size) / min(size)
    if resized > MAX_PIXELS:
        raise ImageError(f"too narrow: {size[0]}×{size[1]} pixels would be enlarged beyond {MAX_PIXELS} pixels")
    if frame.crop_mode == "border":  # which keeps the ratio, too, and resizes the long side
        height, width = (floor(side / frame.crop_pct) for side in frame.input_size[1:])
        if not all(map(round, (side * min(width / size[0], height / size[1]) for side in size))):
            raise ImageError(f"too narrow: {size[0]}×{size[1]} pixels would be reduced to none")


def fit_image(picture: Picture, frame: Frame) -> np.ndarray:
    """Resize and crop a picture by Pillow, as timm does; returns uint8 of shape (C, H, W)."""
    image = to_image(picture)
    check_narrow(image.size, frame)
    return _resize_and_crop(frame)(image).numpy()


def fit_tensor(picture: Picture, frame: Frame) -> np.ndarray:
    """Resize and crop a picture as timm's transform would, on tensors; returns uint8 of shape (C, H, W).

    What tensors cannot do (other interpolations, borders, crops that are not square) goes through Pillow. So does
    bicubic squashing, where tensors overshoot if one side is stretched and the other shrunk: by 21/255, measured.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    height, width = frame.input_size[1:]
    squash = frame.crop_mode == "squash"
    square = frame.crop_mode == "center" and height == width
    known = ("bilinear",) if squash else ("bilinear", "bicubic")
    if not (squash or square) or frame.interpolation not in known or frame.crop_pct > 1:
        return fit_image(picture, frame)
    tensor = to_tensor(picture)
    check_narrow((tensor.shape[2], tensor.shape[1]), frame)
    scaled = [int(side / frame.crop_pct) for side in (height, width)]
    tensor = functional.resize(
        tensor, scaled if squash else scaled[:1], InterpolationMode(frame.interpolation), antialias=True
    )
    return functional.center_crop(tensor, [height, width]).numpy()


def to_image(picture: Picture) -> Image.Image:
    """An RGB or L image of whatever holds a picture."""
    if isinstance(picture, Image.Image):
        return picture
    return from_array(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))  # (h, w, C)


def to_tensor(picture: Picture) -> torch.Tensor:
    """A uint8 tensor (C, h, w) of whatever holds a picture, in Pillow's own order of bytes."""
    import torch

    if not isinstance(picture, Image.Image):
        return picture
    array = np.array(picture)  # (h, w, C) or (h, w); a copy, which torch may hold
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)


@lru_cache(maxsize=8)
def _resize_and_crop(frame: Frame) -> Callable[[Image.Image], Any]:
    """Timm's evaluation transform up to the uint8 tensor (what it calls the prefetcher's half).

    Its steps are run by `forward`: to call a module would fail in this thread while torch traces a network in another.
    """
    from timm.data import create_transform

    made = create_transform(
        input_size=frame.input_size,
        is_training=False,
        use_prefetcher=True,
        interpolation=frame.interpolation,
        mean=frame.mean,
        crop_pct=frame.crop_pct,
        crop_mode=frame.crop_mode,
    )
    steps = [getattr(step, "forward", step) for step in made.transforms]
    return lambda image: reduce(lambda found, step: step(found), steps, image)
