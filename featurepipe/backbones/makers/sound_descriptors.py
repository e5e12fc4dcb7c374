"""Hand-crafted descriptors of sounds as a family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.mfcc import MFCC, Mfcc
from featurepipe.backbones.specs import Extractor
from featurepipe.errors import BackboneError


class SoundDescriptors(Maker):
    """``mfcc``."""

    family = "sound"
    handmade = True

    def knows(self, name: Any) -> bool:
        """Whether it is theirs."""
        return isinstance(name, str) and name == MFCC

    def create(self, name: Any, request: Request) -> Extractor:
        """See `Maker.create`; there is nothing to choose."""
        if name != MFCC:
            raise BackboneError(f"no descriptor of sounds is called {name!r}; there is {MFCC}")
        request.allow(name)
        return Mfcc()

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`."""
        return {"name": spec["architecture"], "weights": origin.weights}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """It, if it matches."""
        return [MFCC] if fnmatch(MFCC, pattern) else []

    def files(self, name: Any, weights: Path | None) -> Iterable[Path]:
        """None: nothing is learned."""
        return [] if weights is None else [weights]
