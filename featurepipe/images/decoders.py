"""One image: opened, made upright and 8-bit, resized and cropped; see the package's docstring for the decoders."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, reduce
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from featurepipe.backbones import Transform, View, Views
from featurepipe.errors import BackboneError, FeaturepipeError, ImageError
from featurepipe.images.augmentations import augment
from featurepipe.images.boxes import box_of
from featurepipe.images.depths import depth_of, to_8bit
from featurepipe.images.jpegs import decode_jpeg
from featurepipe.images.limits import check_scans, turn
from featurepipe.images.orientations import orientation_of, upright, upright_tensor
from featurepipe.images.switches import unswayed

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 2 * 89_478_485  # where Pillow, too, calls an image a decompression bomb
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how one begins
UNREAD = {  # pictures that nothing here reads: where their mark is, and which marks there are
    "HEIC": (4, (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim")),
    "DICOM": (128, (b"DICM",)),
}
JPEG = ("JPEG", "MPO")  # MPO: what some phones write, the first frame a JPEG like any other
DRAFT_MARGIN = 2  # how many times the wanted size a draft keeps at least: the less, the faster and the coarser


@unswayed
def decode(data: bytes | bytearray | np.ndarray, transform: Transform | Views, part: str | None = None) -> np.ndarray:
    """Decode one image file, once, and resize and crop it.

    Parameters
    ----------
    data : bytes, bytearray or ndarray
        A file in any format that Pillow reads, or pixels as `from_array` takes them.
    transform : Transform or Views
        Transform of the backbone that the pixels are for; its ``decoder`` says how.
    part : str, optional
        A box ``x0,y0,x1,y1`` in pixels of the upright image, which is cut out before anything else.

    Returns
    -------
    ndarray of uint8, shape (C, H, W)
        As ``transform.input_size`` says; not yet normalised.

    Raises
    ------
    ImageError
        Empty, unreadable, truncated or suspiciously large data, samples that have no black and white, or a box that is
        not inside the image.
    """
    if isinstance(data, np.ndarray):
        return to_pixels(from_array(data), transform, part)
    first = transform.members[0]
    with _opened(data) as image:
        if image.format == "EPS":  # Pillow would run it, as a program, in Ghostscript
            raise ImageError("EPS is a program, not pixels; save the image as PNG")
        if image.format in JPEG:
            check_scans(image, data)
        if first.decoder == "draft" and image.format in JPEG and part is None:  # a box may need every pixel
            image.draft(None, _draft_size(image.size, first))
        with turn(image.size):
            if first.decoder == "torchvision" and image.format in JPEG and image.mode in ("RGB", "L"):
                tensor = decode_jpeg(data) if transform.input_size[0] == 3 else None
                if tensor is not None:
                    tensor = _cut_tensor(upright_tensor(tensor, orientation_of(image)), part)
                    return _stacked(_crop_tensor(tensor, one) for one in transform.members)
            return _to_pixels(image, transform, part)


@unswayed
def to_pixels(image: Image.Image, transform: Transform | Views, part: str | None = None) -> np.ndarray:
    """Convert, cut out, resize and crop an opened image; returns uint8 of shape (C, H, W)."""
    with turn(image.size):
        return _to_pixels(image, transform, part)


@unswayed
def convert(image: Image.Image, channels: int = 3) -> Image.Image:
    """An upright 8-bit image, RGB for 3 channels and greyscale for 1."""
    with turn(image.size):
        return _convert(image, channels)


def _opened(data: bytes | bytearray) -> Image.Image:
    if not data:
        raise ImageError("empty file (0 bytes)")
    with _only_image_errors():
        try:
            return Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:
            if data[:4] in TIFF:
                raise ImageError(
                    "a TIFF of a depth or kind that Pillow cannot read; save the image as PNG or 8-bit TIFF"
                ) from error
            for name, (start, marks) in UNREAD.items():
                if data[start : start + 8].startswith(marks):
                    raise ImageError(f"{name} is not read here; convert the image to JPEG or PNG") from error
            raise


def _to_pixels(image: Image.Image, transform: Transform | Views, part: str | None) -> np.ndarray:
    image = _convert(image, transform.input_size[0])
    image = image if part is None else image.crop(box_of(part, image.size))
    return _stacked(_crop_image(image, one) for one in transform.members)


def _cut_tensor(tensor: torch.Tensor, part: str | None) -> torch.Tensor:
    """A part of an upright image (C, h, w), or all of it."""
    if part is None:
        return tensor
    x0, y0, x1, y1 = box_of(part, (tensor.shape[2], tensor.shape[1]))
    return tensor[:, y0:y1, x0:x1].contiguous()


def _stacked(views: Iterable[np.ndarray]) -> np.ndarray:
    """Views (C, H, W) one below the other."""
    first, *others = views
    return np.concatenate([first, *others], axis=1) if others else first


def _crop_image(image: Image.Image, transform: Transform) -> np.ndarray:
    """Resize and crop a converted image; returns uint8 of shape (C, H, W)."""
    if transform.decoder != "pillow" or isinstance(transform, View):
        return _crop_tensor(_to_tensor(image), transform)
    _check_narrow(image.size, transform)
    return _resize_and_crop(transform)(image).numpy()


def _convert(image: Image.Image, channels: int) -> Image.Image:
    if channels not in (1, 3):
        raise BackboneError(f"the backbone wants {channels} channels; images give 1 or 3")
    if 0 in image.size:
        raise ImageError(f"no pixels: {image.width}×{image.height}")
    with _only_image_errors():
        depth = depth_of(image)
        image = to_8bit(upright(image), depth)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB" if channels == 3 else "L")


def _check_narrow(size: tuple[int, int], transform: Transform) -> None:
    """Refuse what would be enlarged beyond all bounds; the center mode resizes the short side, the others both."""
    resized = (max(transform.input_size[1:]) / transform.crop_pct) ** 2
    if transform.crop_mode == "center":
        resized *= max(size) / min(size)
    if resized > MAX_PIXELS:
        raise ImageError(f"too narrow: {size[0]}×{size[1]} pixels would be enlarged beyond {MAX_PIXELS} pixels")
    if transform.crop_mode == "border":  # which keeps the ratio, too, and resizes the long side
        height, width = (floor(side / transform.crop_pct) for side in transform.input_size[1:])
        if not all(map(round, (side * min(width / size[0], height / size[1]) for side in size))):
            raise ImageError(f"too narrow: {size[0]}×{size[1]} pixels would be reduced to none")


def from_array(array: np.ndarray) -> Image.Image:
    """A PIL image of a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"an image array is uint8 of shape (H, W) or (H, W, 3); got {array.dtype} {array.shape}")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


@contextmanager
def _only_image_errors() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError("not an image that Pillow can read") from error
    except (FeaturepipeError, MemoryError):  # the latter is the machine's fault, not the image's
        raise
    except (Image.DecompressionBombError, Warning):  # `unswayed` decides
        raise
    except Exception as error:  # Pillow's plugins raise anything on broken data: OSError, SyntaxError, struct.error, …
        raise ImageError(f"broken image: {str(error) or type(error).__name__}") from error


@lru_cache(maxsize=8)
def _resize_and_crop(transform: Transform) -> Callable[[Image.Image], Any]:
    """Timm's evaluation transform up to the uint8 tensor (what it calls the prefetcher's half).

    Its steps are run by `forward`: to call a module would fail in this thread while torch traces a network in another.
    """
    from timm.data import create_transform

    made = create_transform(
        input_size=transform.input_size,
        is_training=False,
        use_prefetcher=True,
        interpolation=transform.interpolation,
        mean=transform.mean,
        std=transform.std,
        crop_pct=transform.crop_pct,
        crop_mode=transform.crop_mode,
    )
    steps = [getattr(step, "forward", step) for step in made.transforms]
    return lambda image: reduce(lambda found, step: step(found), steps, image)


def _draft_size(size: tuple[int, int], transform: Transform) -> tuple[int, int]:
    """The least size (width, height) that a draft may have: what will be resized to, times the margin."""
    wanted = DRAFT_MARGIN * max(transform.input_size[1:]) / transform.crop_pct
    scale = wanted / min(size)  # of both sides, so that the short one keeps what it needs; also right if it squashes
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _to_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB or L image as uint8 tensor (C, h, w), in Pillow's own order of bytes."""
    import torch

    array = np.array(image)  # (h, w, C) or (h, w); a copy, which torch may hold
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)


def _crop_tensor(tensor: torch.Tensor, transform: Transform) -> np.ndarray:
    """Resize and crop a uint8 tensor (C, h, w) as timm's transform would; returns uint8 of shape (C, H, W).

    What tensors cannot do (other interpolations, borders, crops that are not square) goes through Pillow. So does
    bicubic squashing, where tensors overshoot if one side is stretched and the other shrunk: by 21/255, measured.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    height, width = transform.input_size[1:]
    _check_narrow((tensor.shape[2], tensor.shape[1]), transform)
    if isinstance(transform, View):
        return augment(tensor, transform)
    squash = transform.crop_mode == "squash"
    square = transform.crop_mode == "center" and height == width
    known = ("bilinear",) if squash else ("bilinear", "bicubic")
    if not (squash or square) or transform.interpolation not in known or transform.crop_pct > 1:
        array = tensor.permute(1, 2, 0).numpy()  # (h, w, C)
        return _resize_and_crop(transform)(from_array(np.ascontiguousarray(array))).numpy()
    scaled = [int(side / transform.crop_pct) for side in (height, width)]
    tensor = functional.resize(
        tensor, scaled if squash else scaled[:1], InterpolationMode(transform.interpolation), antialias=True
    )
    return functional.center_crop(tensor, [height, width]).numpy()
