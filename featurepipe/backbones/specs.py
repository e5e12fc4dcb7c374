"""What decides a vector: the transform, and the spec whose digest is the fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Protocol

import numpy as np

from featurepipe.digests import canonical_json
from featurepipe.errors import BackboneError, FingerprintMismatch
from featurepipe.jsons import ANYTHING, COUNT, DIGEST, NUMBER, TEXT, Each, check
from featurepipe.vocabulary.names import CROP_MODES, DECODERS

SPEC_FORMAT = 1
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROPS = (0.05, 20)  # of crop_pct; those of timm are 0.875 to 1.15, and a small one enlarges each image to gigabytes
PENULTIMATE = "penultimate"
# The shapes of what files say of a backbone.
SPEC = {
    "format?": COUNT,
    "architecture": TEXT,
    "arguments": Each(ANYTHING),
    "weights": (DIGEST, None),
    "transform": {
        "input_size": [COUNT],
        "interpolation": TEXT,
        "mean": [NUMBER],
        "std": [NUMBER],
        "crop_pct": NUMBER,
        "crop_mode?": TEXT,
        "decoder?": TEXT,
    },
    "layer": TEXT,
    "pooling": (TEXT, None),
    "precision": TEXT,
}
SOURCE = {"name": TEXT, "weights": (TEXT, None), "random_seed": (COUNT, None)}
DESCRIPTION = {"name": TEXT, "fingerprint": DIGEST, "spec": SPEC, "source": SOURCE}


@dataclass(frozen=True)
class Transform:
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
    """

    input_size: tuple[int, int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str = "center"
    decoder: str = "pillow"

    @property
    def members(self) -> tuple[Transform, ...]:
        """Itself alone; of `Views` there are several."""
        return (self,)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Transform:
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
            )
        except (TypeError, ValueError, IndexError) as error:
            raise BackboneError(f"a transform cannot be made of {dict(values)}: {error}") from error
        made._check()
        return made

    def _check(self) -> None:
        channels, size = self.input_size[0], self.input_size[1:]
        for fits, says in (
            (len(size) == 2 and min(size) > 0, f"input_size is channels, height, width; got {self.input_size}"),
            (channels in (1, 3), f"images give 1 or 3 channels; input_size asks for {channels}"),
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
            (self.decoder in DECODERS, _choose("decoder", self.decoder, DECODERS)),
        ):
            if not fits:
                raise BackboneError(f"the transform cannot be used: {says}")


@dataclass(frozen=True)
class View(Transform):
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
    def of(cls, transform: Transform, augmentation: str, seed: int, number: int) -> View:
        """A view that ends in what `transform` ends in: the same size, interpolation and normalisation."""
        return cls(**asdict(transform), augmentation=augmentation, seed=seed, number=number)


@dataclass(frozen=True)
class Views:
    """Several views of each image, made of one decoded image: their pixels lie one below the other.

    Attributes
    ----------
    members : tuple of Transform
        They may differ in what `View` adds, and in nothing else.

    Raises
    ------
    BackboneError
        They differ in more.

    Examples
    --------
    >>> plain = Transform((3, 32, 32), "bicubic", (0.5,) * 3, (0.5,) * 3, crop_pct=0.9)
    >>> Views(tuple(View.of(plain, "crop", seed=0, number=number) for number in range(4))).input_size
    (3, 128, 32)
    """

    members: tuple[Transform, ...]

    def __post_init__(self) -> None:
        names = [field.name for field in fields(Transform)]
        if len({tuple(getattr(one, name) for name in names) for one in self.members}) != 1:
            raise BackboneError("all views must have the same size and decoder")

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, the heights of all together, width."""
        channels, height, width = self.members[0].input_size
        return channels, len(self.members) * height, width


def _choose(field: str, value: str, known: tuple[str, ...]) -> str:
    return f"{field} {value!r} is unknown; use {', '.join(known)}"


def _per_channel(value: Any, channels: int) -> tuple[float, ...]:
    return tuple(float(v) for v in value) if np.ndim(value) else (float(value),) * channels


TimmModule = Any  # a timm network: a torch.nn.Module with more methods, which torch does not declare


class Described(Protocol):
    """What a backbone is; its `Identity` has that too."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that decides a vector (JSON)."""
        ...

    @property
    def source(self) -> dict[str, Any]:
        """How to make it again."""
        ...

    @property
    def transform(self) -> Transform:
        """From bytes to pixels."""
        ...

    @property
    def width(self) -> int:
        """Length of one vector."""
        ...

    @property
    def device(self) -> str:
        """Where it runs."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 of the spec."""
        ...


class Embedder(Protocol):
    """What extraction needs to embed images, by one network or under several views of each."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def source(self) -> dict[str, Any]:
        """How to make it again."""
        ...

    @property
    def transform(self) -> Transform | Views:
        """From bytes to pixels."""
        ...

    @property
    def width(self) -> int:
        """Length of all vectors of one image together."""
        ...

    @property
    def device(self) -> str:
        """Where it runs."""
        ...

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, C, H, W) uint8 → (B, width) float32."""
        ...


class Extractor(Described, Protocol):
    """What extraction needs of a backbone; `Backbone`, `Layers` and the descriptors have it."""

    @property
    def members(self) -> Sequence[Extractor]:
        """Whose vectors `embed` gives side by side, each with an entry of its own in a store; mostly itself alone."""
        ...

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, C, H, W) uint8 → (B, width) float32."""
        ...


def make_spec(
    architecture: str,
    arguments: Mapping[str, Any],
    weights: str | None,
    transform: Transform,
    layer: str,
    pooling: str | None,
    precision: str,
) -> dict[str, Any]:
    """Everything that decides a vector, as it will be read back from JSON: lists, no tuples."""
    spec = {
        "format": SPEC_FORMAT,
        "architecture": architecture,
        "arguments": dict(arguments),
        "weights": weights,
        "transform": asdict(transform),
        "layer": layer,
        "pooling": pooling,
        "precision": precision,
    }
    return plain(spec)


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they will be read back from JSON, so that a backbone made again gets the very same."""
    try:
        return json.loads(canonical_json(dict(values)))
    except (TypeError, ValueError) as error:
        raise BackboneError(f"backbone arguments are numbers, text and lists of them; {error}") from error


def check_description(described: Any) -> None:
    """Raise ValueError, naming the first value that does not fit, unless a file describes a backbone in this way."""
    check(described, DESCRIPTION, "the backbone")


def check_shapes(spec: Any, source: Any) -> None:
    """Raise ValueError unless these are a spec, of one layer or of several, and a source."""
    check(spec, {**SPEC, "layer": (TEXT, [TEXT])}, "the spec")
    check(source, SOURCE, "the source")


def stage_of(spec: Mapping[str, Any]) -> str | None:
    """The layer of a spec where it is a stage; None for the penultimate embedding and for descriptors."""
    return spec["layer"] if spec["layer"].startswith("stage") else None


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise FingerprintMismatch naming each field of two specs that differs, wanted and found."""
    differences = []
    found, wanted = _flat(found), _flat(wanted)
    for key in sorted(found.keys() | wanted.keys()):
        if canonical_json(found.get(key)) != canonical_json(wanted.get(key)):
            differences.append(f"{key} is {found.get(key)!r}, not {wanted.get(key)!r}")
    if differences:
        raise FingerprintMismatch(
            f"not the same backbone: {'; '.join(differences)}; give the one that was used, or extract again"
        )


def _flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec with each field of the transform as an entry of its own."""
    transform = {f"transform.{key}": value for key, value in (spec.get("transform") or {}).items()}
    return {**{key: value for key, value in spec.items() if key != "transform"}, **transform}
