"""The transforms of images: one for a backbone's evaluation, random views for training, several views at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from typing import Any, ClassVar, TypeAlias

import numpy as np
from PIL import Image

from featurepipe.errors import BackboneError
from featurepipe.images.augmentations import augment
from featurepipe.images.boxes import cut
from featurepipe.images.decoders import DECODERS
from featurepipe.images.formats import format_of
from featurepipe.images.frames import Frame, Picture, to_image
from featurepipe.images.limits import turn
from featurepipe.images.orientations import orientation_of, upright
from featurepipe.images.pictures import check_kind, convert, from_array, opened, simplify
from featurepipe.images.samples import check_colours
from featurepipe.images.switches import unswayed
from featurepipe.vocabulary.names import CROP_MODES

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROPS = (0.05, 20)  # of crop_pct; those of timm are 0.875 to 1.15, and a small one enlarges each image to gigabytes
Encoded: TypeAlias = bytes | bytearray | np.ndarray | Image.Image  # a file, or pixels
LATER = ("bands", "levels")  # fields that a spec has only where they are set, so that older fingerprints stay
MEDIUM, PIXEL = "image", np.dtype(np.uint8)


@dataclass(frozen=True)
class ImageTransform:
    """The evaluation transform of a backbone, in timm's words.

    Attributes
    ----------
    input_size : tuple of int
        Channels, height, width.
    interpolation : str
        ``bilinear``, ``bicubic``, …
    mean, std : tuple of float
        Per channel, of pixels scaled to 0…1.
    crop_pct : float
        The short side is resized to ``size / crop_pct`` before the crop.
    crop_mode : str
        ``center``, ``squash`` or ``border``.
    decoder : str
        ``pillow``, ``torchvision`` or ``draft``; see `featurepipe.images`.
    bands : tuple of int or None
        Bands of a TIFF, from 1, that become the channels.
    levels : tuple of float or None
        The samples that become black and white, where they have more than 8 bits.
    """

    input_size: tuple[int, int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str = "center"
    decoder: str = "pillow"
    bands: tuple[int, ...] | None = None
    levels: tuple[float, float] | None = None
    medium: ClassVar[str] = MEDIUM
    dtype: ClassVar[np.dtype[Any]] = PIXEL
    length: ClassVar[int] = 1  # pictures that a network sees together

    @property
    def shape(self) -> tuple[int, ...]:
        """As `input_size`."""
        return self.input_size

    @property
    def cost(self) -> int:
        """Pixels."""
        return self.input_size[1] * self.input_size[2]

    @property
    def frame(self) -> Frame:
        """What of it resizing and cropping need."""
        return Frame(self.input_size, self.interpolation, self.crop_pct, self.crop_mode, self.mean)

    @property
    def members(self) -> tuple[ImageTransform, ...]:
        """Itself alone; of `Views` there are several."""
        return (self,)

    def decode(self, data: Encoded, part: str | None = None, /) -> np.ndarray:
        """See `featurepipe.images.decode`."""
        return decode(data, self, part)

    def crop(self, picture: Picture) -> np.ndarray:
        """Resize and crop a whole picture; returns uint8 of shape (C, H, W)."""
        decoder = DECODERS[self.decoder]
        if isinstance(picture, Image.Image) or len(picture) in (1, 3):
            return decoder.fit(picture, self.frame)
        frames = (replace(self.frame, mean=(mean,)) for mean in self.mean)
        return np.concatenate([decoder.fit(picture[i : i + 1], frame) for i, frame in enumerate(frames)])

    def trial(self, count: int, /) -> np.ndarray:
        """Pictures to try a network on, always the same: coloured slopes with noise; uint8 (count, C, H, W)."""
        channels, height, width = self.input_size
        rng = np.random.default_rng(0)
        y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
        tilt, lean, bend = rng.normal(0, 60, (3, count, channels, 1, 1))  # (count, C, 1, 1) each
        slopes = 128 + tilt * y + lean * x + bend * np.cos(6 * x * y)
        return np.clip(slopes + rng.normal(0, 30, (count, channels, height, width)), 0, 255).astype(PIXEL)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ImageTransform:
        """Build from timm's data config or from JSON; a scalar mean or std serves all channels.

        Raises
        ------
        BackboneError
            Values that no image could be transformed with.
        """
        try:
            size = tuple(int(n) for n in values["input_size"])
            made = cls(
                input_size=size,  # type: ignore[arg-type]  # of whatever length, which is checked below
                interpolation=str(values["interpolation"]),
                mean=_per_channel(values["mean"], size[0]),
                std=_per_channel(values["std"], size[0]),
                crop_pct=float(values["crop_pct"]),
                crop_mode=str(values.get("crop_mode") or "center"),
                decoder=str(values.get("decoder") or "pillow"),
                bands=None if values.get("bands") is None else tuple(int(n) for n in values["bands"]),
                levels=None if values.get("levels") is None else tuple(float(v) for v in values["levels"]),  # type: ignore[arg-type]
            )
        except (TypeError, ValueError, IndexError) as error:
            raise BackboneError(f"a transform cannot be made of {dict(values)}: {error}") from error
        made._check()
        return made

    def _check(self) -> None:
        channels, size = self.input_size[0], self.input_size[1:]
        for fits, says in (
            (len(size) == 2 and min(size) > 0, f"input_size is channels, height, width; got {self.input_size}"),
            (
                channels in (1, 3) or self.bands is not None,
                f"images give 1 or 3 channels; input_size asks for {channels}: name as many bands",
            ),
            (
                self.bands is None or (len(self.bands) == channels and min(self.bands) > 0),
                f"bands are {channels} numbers from 1, one per input channel; got {self.bands}",
            ),
            (
                self.levels is None or (len(self.levels) == 2 and self.levels[0] < self.levels[1]),
                f"levels are the samples of black and of white, the second greater; got {self.levels}",
            ),
            (len(self.mean) == channels, f"mean needs {channels} values, one per input channel; got {len(self.mean)}"),
            (len(self.std) == channels, f"std needs {channels} values, one per input channel; got {len(self.std)}"),
            (
                all(map(isfinite, self.mean + self.std)) and 0 not in self.std,
                f"mean and std are finite, std not 0; got {self.mean}, {self.std}",
            ),
            (
                CROPS[0] <= self.crop_pct <= CROPS[1],
                f"crop_pct is the share of the short side kept, from {CROPS[0]} to {CROPS[1]}; got {self.crop_pct}",
            ),
            (
                self.crop_pct <= min(size, default=0),
                f"crop_pct {self.crop_pct} leaves nothing of images of {'×'.join(map(str, size))} pixels",
            ),
            (self.interpolation in INTERPOLATIONS, _choose("interpolation", self.interpolation, INTERPOLATIONS)),
            (self.crop_mode in CROP_MODES, _choose("crop_mode", self.crop_mode, CROP_MODES)),
            (self.decoder in DECODERS, _choose("decoder", self.decoder, tuple(DECODERS))),
        ):
            if not fits:
                raise BackboneError(f"the transform cannot be used: {says}")


@dataclass(frozen=True)
class View(ImageTransform):
    """One of many random views of each image, for training; drawn from its numbers and the image's content alone.

    Attributes
    ----------
    augmentation : str
        One of `featurepipe.images.AUGMENTATIONS`.
    seed, number : int
        Different numbers give different views.
    version : int
        Version of the augmentation's rules; see `featurepipe.images.augmentations`.
    """

    augmentation: str = "standard"
    seed: int = 0
    number: int = 0
    version: int = 1

    @classmethod
    def of(cls, transform: ImageTransform, augmentation: str, seed: int, number: int) -> View:
        """A view that ends in what `transform` ends in: the same size, interpolation and normalisation."""
        if transform.input_size[0] not in (1, 3):
            raise BackboneError(
                f"random views are of 1 or 3 channels, not of {transform.input_size[0]} bands; do without tuning"
            )
        return cls(**asdict(transform), augmentation=augmentation, seed=seed, number=number)

    def crop(self, picture: Picture) -> np.ndarray:
        """A random view of a whole picture; returns uint8 of shape (C, H, W)."""
        return augment(picture, self.frame, self.augmentation, self.seed, self.number)


@dataclass(frozen=True)
class Views:
    """Several views of each image, made of one decoded image: their pixels lie one below the other.

    Attributes
    ----------
    members : tuple of ImageTransform
        They may differ in what `View` adds, and in nothing else.

    Raises
    ------
    BackboneError
        They differ in more.

    Examples
    --------
    >>> plain = ImageTransform((3, 32, 32), "bicubic", (0.5,) * 3, (0.5,) * 3, crop_pct=0.9)
    >>> Views(tuple(View.of(plain, "crop", seed=0, number=number) for number in range(4))).input_size
    (3, 128, 32)
    """

    members: tuple[ImageTransform, ...]
    medium: ClassVar[str] = MEDIUM
    dtype: ClassVar[np.dtype[Any]] = PIXEL

    def __post_init__(self) -> None:
        names = [field.name for field in fields(ImageTransform)]
        if len({tuple(getattr(one, name) for name in names) for one in self.members}) != 1:
            raise BackboneError("all views must have the same size and decoder")

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, the heights of all together, width."""
        channels, height, width = self.members[0].input_size
        return channels, len(self.members) * height, width

    @property
    def shape(self) -> tuple[int, int, int]:
        """As `input_size`."""
        return self.input_size

    @property
    def cost(self) -> int:
        """Pixels of one view: they go through the network one by one."""
        return self.members[0].cost

    def decode(self, data: Encoded, part: str | None = None, /) -> np.ndarray:
        """See `featurepipe.images.decode`."""
        return decode(data, self, part)

    def trial(self, count: int, /) -> np.ndarray:
        """Pictures to try a network on, the same in each view; uint8 (count, C, H, W)."""
        return np.concatenate([one.trial(count) for one in self.members], axis=2)


@unswayed
def decode(data: Encoded, transform: ImageTransform | Views, part: str | None = None) -> np.ndarray:
    """Decode one image, once, and resize and crop it.

    Parameters
    ----------
    data : bytes, bytearray, ndarray or PIL.Image.Image
        A file in any format that Pillow reads, pixels as `from_array` takes them, or an image that is held in memory.
    transform : ImageTransform or Views
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
    first = transform.members[0]
    channels, decoder = first.input_size[0], DECODERS[first.decoder]
    if isinstance(data, np.ndarray):
        data = from_array(data)
    if isinstance(data, Image.Image):
        with turn(data.size):
            return _cropped(cut(simplify(data, channels), part), transform.members)
    other = format_of(data, first)
    if other is not None:
        whole, rest = other.read(data, first, part)
        return _cropped(cut(whole, rest), transform.members)
    check_colours(first)
    with opened(data) as image:
        check_kind(image, data)
        if part is None:  # a box may need every pixel
            decoder.prepare(image, first.frame)
        with turn(image.size):
            return _cropped(cut(decoder.read(image, data, channels), part), transform.members)


def described(transform: Any) -> dict[str, Any]:
    """The fields of a transform that decide its pixels, for a spec."""
    return {key: value for key, value in asdict(transform).items() if key not in LATER or value is not None}


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of an encoded image, as it is decoded; ImageError where it cannot be."""
    other = format_of(data, ANY)
    if other is not None:
        return to_image(other.read(data, ANY, None)[0]).size
    with opened(data) as image:
        if image.format in LATE:
            return upright(image).size
        return image.size if orientation_of(image) not in LYING else image.size[::-1]


def picture_of(data: bytes) -> Image.Image:
    """An encoded image as it is decoded, upright and RGB; ImageError where it cannot be."""
    other = format_of(data, ANY)
    if other is not None:
        return to_image(other.read(data, ANY, None)[0]).convert("RGB")
    with opened(data) as image:
        return convert(image)


LATE = ("TIFF",)  # formats that turn themselves when they are loaded
LYING = (5, 6, 7, 8)  # orientations that exchange the sides
ANY = ImageTransform((3, 1, 1), "bilinear", (0.5,) * 3, (0.5,) * 3, 1.0)  # with which a size is asked for


def _cropped(picture: Picture, members: Iterable[ImageTransform]) -> np.ndarray:
    """The views of a picture, (C, H, W) each, one below the other."""
    first, *others = (one.crop(picture) for one in members)
    return np.concatenate([first, *others], axis=1) if others else first


def _choose(field: str, value: str, known: tuple[str, ...]) -> str:
    return f"{field} {value!r} is unknown; use {', '.join(known)}"


def _per_channel(value: Any, channels: int) -> tuple[float, ...]:
    return tuple(float(v) for v in value) if np.ndim(value) else (float(value),) * channels
