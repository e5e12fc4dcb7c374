"""What decides a vector: the spec, whose digest is the fingerprint; and what the rooms above ask of a backbone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from featurepipe.backbones.grids import grid_of
from featurepipe.digests import canonical_json
from featurepipe.errors import BackboneError, FingerprintMismatch
from featurepipe.images import described
from featurepipe.jsons import ANYTHING, COUNT, DIGEST, NUMBER, TEXT, Each, check
from featurepipe.media import IMAGE, Transform

SPEC_FORMAT = 1
PENULTIMATE = "penultimate"
# The shapes of what files say of a backbone.
PIXELS = {
    "input_size": [COUNT],
    "interpolation": TEXT,
    "mean": [NUMBER],
    "std": [NUMBER],
    "crop_pct": NUMBER,
    "crop_mode?": TEXT,
    "decoder?": TEXT,
    "bands?": [COUNT],
    "levels?": [NUMBER],
}
SPEC = {
    "format?": COUNT,
    "architecture": TEXT,
    "arguments": Each(ANYTHING),
    "weights": (DIGEST, None),
    "transform": PIXELS,
    "layer": TEXT,
    "pooling": (TEXT, None),
    "precision": TEXT,
    "tokens?": {"grid": [COUNT], "dtype": TEXT},
}
# Of other media: the transform is of the pictures that a network is shown, or says how a descriptor hears.
OTHER = {
    **SPEC,
    "medium": TEXT,
    "transform": {f"{key.removesuffix('?')}?": shape for key, shape in PIXELS.items()},
    "windows?": Each(ANYTHING),
}
SOURCE = {"name": TEXT, "weights": (TEXT, None), "random_seed": (COUNT, None)}
DESCRIPTION = {"name": TEXT, "fingerprint": DIGEST, "source": SOURCE}
JOINT = {"name": TEXT, "fingerprint": DIGEST, "members": [Each(ANYTHING)]}


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
        """From bytes to inputs."""
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
    """What extraction needs to embed samples, by one network or under several views of each."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def source(self) -> dict[str, Any]:
        """How to make it again."""
        ...

    @property
    def transform(self) -> Transform:
        """From bytes to inputs."""
        ...

    @property
    def width(self) -> int:
        """Length of all vectors of one sample together."""
        ...

    @property
    def device(self) -> str:
        """Where it runs."""
        ...

    def embed(self, inputs: np.ndarray, /) -> np.ndarray:
        """(B, …), each of the transform's shape and type → (B, width) float32."""
        ...


class Extractor(Described, Protocol):
    """What every backbone is: a frozen dataclass with these members. `Backbone`, `Layers` and the descriptors are."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def members(self) -> Sequence[Extractor]:
        """Whose vectors `embed` gives side by side, each with an entry of its own in a store; mostly itself alone."""
        ...

    def embed(self, inputs: np.ndarray, /) -> np.ndarray:
        """(B, …), each of the transform's shape and type → (B, width) float32."""
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
    """Everything that decides a vector, as it will be read back from JSON: lists, no tuples.

    It has a key ``medium`` where that is not images.
    """
    spec = {
        "format": SPEC_FORMAT,
        "architecture": architecture,
        "arguments": dict(arguments),
        "weights": weights,
        "transform": described(transform),  # all of them are dataclasses
        "layer": layer,
        "pooling": pooling,
        "precision": precision,
        **({} if transform.medium == IMAGE else {"medium": transform.medium}),
    }
    return plain(spec)


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they will be read back from JSON, so that a backbone made again gets the very same."""
    try:
        return json.loads(canonical_json(dict(values)))
    except (TypeError, ValueError) as error:
        raise BackboneError(f"backbone arguments are numbers, text and lists of them; {error}") from error


def check_description(described: Any) -> None:
    """Raise ValueError, naming the first value that does not fit, unless a file describes a backbone in this way.

    Several backbones are ``members``, each of which is described so.
    """
    if isinstance(described, dict) and "members" in described:
        check(described, JOINT, "the backbone")
        if len(described["members"]) < 2:
            raise ValueError("the backbone has fewer than two members")
        for member in described["members"]:
            _check_one(member)
    else:
        _check_one(described)


def _check_one(described: Any) -> None:
    check(described, {**DESCRIPTION, "spec": Each(ANYTHING)}, "the backbone")
    check(described["spec"], _shape(described["spec"]), "the backbone.spec")


def check_shapes(spec: Any, source: Any) -> None:
    """Raise ValueError unless these are a spec, of one layer or of several, and a source."""
    check(spec, {**_shape(spec), "layer": (TEXT, [TEXT])}, "the spec")
    check(source, SOURCE, "the source")


def _shape(spec: Any) -> dict[str, Any]:
    """The shape that a spec must have."""
    return OTHER if isinstance(spec, dict) and "medium" in spec else SPEC


def medium_of(spec: Mapping[str, Any]) -> str:
    """What the backbone of a spec embeds."""
    return spec.get("medium", IMAGE)


def stage_of(spec: Mapping[str, Any]) -> str | None:
    """The layer of a spec where it is a stage; None for the penultimate embedding and for descriptors."""
    return spec["layer"] if spec["layer"].startswith("stage") else None


def output_of(spec: Mapping[str, Any]) -> str | None:
    """What a spec means of a network, where that is not its penultimate embedding: a stage, or tokens.

    Examples
    --------
    >>> output_of({"layer": "penultimate", "tokens": {"grid": [7, 7], "dtype": "float16"}})
    'tokens 7x7'
    """
    grid = grid_of(spec)
    return stage_of(spec) if grid is None else f"tokens {grid[0]}x{grid[1]}"


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
