"""Hand-crafted descriptors of texts as a family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.specs import Extractor
from featurepipe.backbones.tfidf import TFIDF, Tfidf
from featurepipe.errors import BackboneError


class TextDescriptors(Maker):
    """``tfidf``."""

    family = "text"
    handmade = True

    def knows(self, name: Any) -> bool:
        """Whether it is theirs."""
        return isinstance(name, str) and name == TFIDF

    def create(self, name: Any, request: Request) -> Extractor:
        """See `Maker.create`; there is nothing to choose."""
        if name != TFIDF:
            raise BackboneError(f"no descriptor of texts is called {name!r}; there is {TFIDF}")
        request.allow(name)
        return Tfidf()

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`."""
        return {"name": spec["architecture"], "weights": origin.weights}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """It, if it matches."""
        return [TFIDF] if fnmatch(TFIDF, pattern) else []

    def files(self, name: Any, weights: Path | None) -> Iterable[Path]:
        """None: nothing is learned."""
        return [] if weights is None else [weights]
