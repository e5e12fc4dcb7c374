"""What a family of backbones is: it knows its names, makes them, and makes them again from what a file says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from featurepipe.backbones.specs import PENULTIMATE, Extractor
from featurepipe.backbones.towers import TextTower
from featurepipe.errors import BackboneError
from featurepipe.videos import VideoTransform

# What the options of `create` are called in messages, and what they are if nobody has asked for anything.
WORDS = {
    "weights": "weights",
    "arguments": "arguments",
    "random_weights": "random weights",
    "layer": "layer",
    "pooling": "pooling",
    "precision": "precision",
    "transform": "transform",
}


@dataclass(frozen=True)
class Request:
    """What a caller wants of a backbone besides its name: the options of `featurepipe.backbones.create`.

    Attributes
    ----------
    weights, arguments, random_weights, seed, layer, pooling, precision, device, trust, download
        As for `create`.
    transform : dict
        The values of the transform that are the caller's own choice.
    """

    weights: str | PathLike[str] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    random_weights: bool = False
    seed: int = 0
    layer: str = PENULTIMATE
    pooling: str | None = None
    precision: str = "auto"
    device: str = "auto"
    transform: Mapping[str, Any] = field(default_factory=dict)
    trust: bool = False
    download: bool = True

    def __post_init__(self) -> None:
        known = [one.name for one in fields(VideoTransform)]  # an image's, and what frames there are
        if unknown := self.transform.keys() - {*known}:
            raise BackboneError(f"a transform has no {unknown.pop()!r}; it has {', '.join(known)}")

    def allow(self, name: str, *taken: str) -> None:
        """Refuse options that a backbone does not take, except those in `taken`."""
        refused = [option for option in WORDS if option not in taken]
        if any(option not in ("layer", "precision") and getattr(self, option) for option in refused) or (
            ("layer" in refused and self.layer != PENULTIMATE)
            or ("precision" in refused and self.precision not in ("auto", "fp32"))
        ):
            *most, last = (WORDS[option] for option in refused)
            raise BackboneError(f"{name} takes no {' or '.join(filter(None, [', '.join(most), last]))}")


@dataclass(frozen=True)
class Origin:
    """Where a backbone comes from that a file describes, and how far that file is trusted.

    Attributes
    ----------
    source : mapping
        As the file has it: ``name, weights, random_seed``.
    weights : path or None
        Where the weights are now, if the caller or the file says so.
    trust : bool
        Whether to do whatever the description asks for; see `featurepipe.backbones.trust`.
    who : str
        The file, in words.
    note : callable
        Hears a line before something may be downloaded.
    """

    source: Mapping[str, Any]
    weights: str | PathLike[str] | None
    trust: bool
    who: str
    note: Callable[[str], object] = lambda text: None


class Maker(ABC):
    """A family of backbones; the five members without a default are all that a new one needs.

    What `create` gives is a frozen dataclass with the members of `featurepipe.backbones.Extractor`. What else it can
    do, it says by having the members of `Compilable`, `Adaptable` or `Portable`.

    Attributes
    ----------
    family : str
        Stands before the colon in ``-b FAMILY:NAME``. The architecture in a spec begins with it as well, except in
        the families that were there before there were families.
    handmade : bool
        Nothing in it was learned from other images, so it is a baseline and has no untrained twin.
    tunable : bool
        Its networks can be fine-tuned.
    layered : bool
        Its networks can give several layers.
    """

    family: ClassVar[str]
    handmade: ClassVar[bool] = False
    tunable: ClassVar[bool] = False
    layered: ClassVar[bool] = False

    @abstractmethod
    def knows(self, name: Any) -> bool:
        """Whether a name without its family, or an architecture of a spec, is this family's."""

    @abstractmethod
    def create(self, name: Any, request: Request) -> Extractor:
        """Make a frozen backbone; the name comes without its family."""

    @abstractmethod
    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """The keyword arguments of `featurepipe.backbones.create` that make the backbone of a spec again.

        Raises
        ------
        BackboneError
            The description asks for more than a file may, or it cannot be made again.
        """

    @abstractmethod
    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """Names that match a shell pattern, as ``-b`` takes them."""

    def pair(self, name: Any, request: Request) -> tuple[Extractor, TextTower]:
        """A frozen backbone and the text tower whose vectors lie in the space of its embeddings.

        Raises
        ------
        BackboneError
            The network has no text tower, as most have none.
        """
        raise BackboneError(
            f"{name} has no text tower, so class names mean nothing to it; choose open_clip:ARCH/TAG, or "
            "transformers:FOLDER of a SigLIP model"
        )

    def files(self, name: Any, weights: Path | None) -> Iterable[Path] | None:
        """The files that decide, next to the options, what `create` makes; None where more than files may decide it.

        Only where it is known is a backbone kept for the next one who asks for it.
        """
        return None

    def fetches(self, name: Any) -> bool:
        """Whether its weights may have to be downloaded; raises BackboneError for an unknown name."""
        return False


def find(makers: Mapping[str, Maker], name: Any) -> tuple[Maker, Any]:
    """Whose backbone a name or an architecture is, and the name without its family.

    Raises
    ------
    BackboneError
        Nobody knows it.
    """
    family, colon, rest = name.partition(":") if isinstance(name, str) else ("", "", "")
    if colon and family in makers:
        return makers[family], rest
    found = next((maker for maker in makers.values() if maker.knows(name)), None)
    if found is None:
        raise BackboneError(
            f"no family of backbones is called {family!r} ({name!r}); write FAMILY:NAME with one of "
            f"{', '.join(makers)}, or a timm name without a colon"
        )
    return found, name
