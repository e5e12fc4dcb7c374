"""Hand-crafted descriptors as a family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from fnmatch import fnmatch
from os import PathLike
from pathlib import Path
from typing import Any

from featurepipe.backbones.color_motion import ColorMotion
from featurepipe.backbones.descriptors import ColorHistogram, Descriptor, Hog, Pixels
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.sift import SIFT, Sift
from featurepipe.backbones.specs import Extractor
from featurepipe.errors import BackboneError

DESCRIPTORS: dict[str, type[Descriptor]] = {
    kind.architecture: kind for kind in (Pixels, Hog, ColorHistogram, Sift, ColorMotion)
}


class Descriptors(Maker):
    """``pixels``, ``hog``, ``color-histogram``, ``sift``; of videos ``color-motion``."""

    family = "descriptor"
    handmade = True

    def knows(self, name: Any) -> bool:
        """Whether it is one of theirs."""
        return isinstance(name, str) and name in DESCRIPTORS

    def create(self, name: Any, request: Request) -> Extractor:
        """See `Maker.create`; of a transform they take the decoder alone, and of files a codebook."""
        if name not in DESCRIPTORS:
            raise BackboneError(f"no descriptor is called {name!r}; there are {', '.join(DESCRIPTORS)}")
        decoder = request.transform.get("decoder")
        request.allow(name, "weights", *(["transform"] if {*request.transform} == {"decoder"} else []))
        made = self._make(name, request.weights)
        if decoder is None:
            return made
        kind = type(made.transform)
        return replace(made, transform=kind.from_mapping({**asdict(made.transform), "decoder": decoder}))

    def _make(self, name: str, weights: str | PathLike[str] | None) -> Descriptor:
        if name == SIFT:
            return Sift.load(weights)
        if weights is not None:
            raise BackboneError(f"{name} has no weights; leave {weights} out")
        make: Callable[[], Descriptor] = DESCRIPTORS[name]
        return make()

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`."""
        decoder = {"decoder": spec["transform"].get("decoder", "pillow")}  # which it was before there was a choice
        return {"name": spec["architecture"], "weights": origin.weights, "transform": decoder}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """All of them that match."""
        return [name for name in DESCRIPTORS if fnmatch(name, pattern)]

    def files(self, name: Any, weights: Path | None) -> Iterable[Path]:
        """A codebook."""
        return [] if weights is None else [weights]
