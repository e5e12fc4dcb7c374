"""Images as a notebook has them: paths, encoded bytes, PIL images, uint8 arrays, and what holds a column of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from featurepipe.errors import ImageError
from featurepipe.estimators.rows import Listing, described, is_tensor
from featurepipe.images import ImageTransform, convert, from_array
from featurepipe.media import IMAGE
from featurepipe.sources import Content


@dataclass(frozen=True)
class Images(Listing):
    """A row is a file, a PIL image, or an array."""

    transform: ImageTransform
    medium: ClassVar[str] = IMAGE
    error: ClassVar[type[ImageError]] = ImageError
    wanted: ClassVar[str] = "a path, encoded bytes, a PIL image, or a uint8 array (H, W) or (H, W, 3)"
    example: ClassVar[str] = "*.jpg"

    def content(self, item: Any) -> Path | Content:
        """See `Listing.content`."""
        if (file := self.file_of(item)) is not None:
            return file
        if isinstance(item, np.ndarray):
            item = from_array(_checked(item))
        if isinstance(item, Image.Image):
            return np.asarray(convert(item, self.transform.input_size[0]))
        raise ImageError(self.refusal(item))

    def refusal(self, item: Any) -> str:
        """See `Listing.refusal`; a tensor is told how to become an array."""
        return f"it is {described(item)}; {_as_arrays(item, 'it', 3)}" if is_tensor(item) else super().refusal(item)

    def is_one(self, value: Any) -> bool:
        """See `Listing.is_one`."""
        return isinstance(value, Image.Image) or super().is_one(value)

    def of_tensor(self, X: Any) -> Sequence[Any]:
        """See `Listing.of_tensor`."""
        raise ValueError(f"X is {described(X)}; {_as_arrays(X, 'X', 4)}")

    def of_numbers(self, X: np.ndarray) -> Sequence[Any]:
        """Pixels (n, H, W), (n, H, W, 3)."""
        shape = X.shape
        if X.dtype != np.uint8:
            raise ValueError(
                f"an array of images is uint8 of shape (n, H, W) or (n, H, W, 3); got {X.dtype} {shape}"
                f"{_to_uint8(X, 'X')}"
            )
        if X.ndim == 3 and shape[2] in (3, 4):
            raise ValueError(
                f"X of shape {shape} may be one image in colour or {shape[0]} in grey; give [X] for one, "
                f"X[..., None] for {shape[0]}"
            )
        if X.ndim == 4 and shape[3] not in (1, 3, 4) and shape[1] in (1, 3, 4):
            raise ValueError(f"channels come last, as (n, H, W, 3); got {shape}: give X.transpose(0, 2, 3, 1)")
        if X.ndim not in (3, 4) or (X.ndim == 4 and shape[3] not in (1, 3, 4)):
            hint = "; wrap a single image in a list: [X]" if X.ndim == 2 else ""
            raise ValueError(
                f"an array of images is uint8 of shape (n, H, W) or (n, H, W, 3); got {X.dtype} {shape}{hint}"
            )
        return X  # type: ignore[return-value]  # an array is no Sequence, but has what is asked of one here


def _checked(array: np.ndarray) -> np.ndarray:
    """One image's array, if it is uint8 of a shape that an image can have."""
    shape = array.shape
    if array.dtype != np.uint8:
        raise ImageError(f"an image array is uint8; got {array.dtype} {shape}{_to_uint8(array, 'it')}")
    if len(shape) == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        raise ImageError(f"channels come last, as (H, W, 3); got {shape}: transpose it by (1, 2, 0)")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise ImageError(f"an image array is uint8 of shape (H, W) or (H, W, 3); got {array.dtype} {shape}")
    return array


def _to_uint8(array: np.ndarray, name: str) -> str:
    """How to make uint8 of other numbers, as far as their range says it."""
    if array.dtype.kind not in "fiub" or not array.size:
        return ""
    least, most = float(array.min()), float(array.max())
    if least >= 0 and most <= 1 and array.dtype.kind in "fb":
        return f"; scale {name} to 0…255: ({name} * 255).round().astype('uint8')"
    if least >= 0 and most <= 255:
        return f"; convert {name}: {name}.astype('uint8')"
    return f"; its values go from {least:g} to {most:g}: undo the normalisation, scale to 0…255 and convert to uint8"


def _as_arrays(tensor: Any, name: str, dimensions: int) -> str:
    """How to make uint8 arrays of a tensor."""
    shape, at = tuple(tensor.shape), dimensions - 3
    wanted = "(n, H, W, 3)" if dimensions == 4 else "(H, W, 3)"
    first = len(shape) == dimensions and shape[at] in (1, 3, 4) and shape[-1] not in (1, 3, 4)
    order = "(0, 2, 3, 1)" if dimensions == 4 else "(1, 2, 0)"
    moved = f", channels last ({name}.permute{order})" if first else ""
    scaled = "" if "uint8" in str(tensor.dtype) else ", scaled to 0…255 (× 255 where it is 0…1)"
    return f"give NumPy arrays of uint8 {wanted}{moved}{scaled}"
