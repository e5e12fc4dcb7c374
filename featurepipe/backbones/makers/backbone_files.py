"""Backbone files, as `featurepipe.pretrain` writes them, as a family: timm's networks with weights of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.makers.timm_networks import TimmNetworks
from featurepipe.backbones.networks import BUNDLED
from featurepipe.backbones.trust import GIVE
from featurepipe.backbones.weights import carried_card, is_model_name
from featurepipe.errors import BackboneError, FingerprintMismatch


class BackboneFiles(Maker):
    """A backbone by the path of its file; stores and models say of it what they say of timm's with a file of weights.

    Parameters
    ----------
    timm : TimmNetworks
        Makes them.
    """

    family = "backbone"
    tunable = True
    layered = True

    def __init__(self, timm: TimmNetworks) -> None:
        self._timm = timm

    def knows(self, name: Any) -> bool:
        """Whether it is a safetensors file that says that it is one: model files end in the same way."""
        return isinstance(name, str) and is_model_name(name) and carried_card(Path(name)) is not None

    def create(self, name: Any, request: Request) -> Backbone:
        """See `Maker.create`; architecture, arguments and transform are the file's, where no others are given."""
        if request.weights is not None or request.random_weights:
            raise BackboneError(f"{name} has its own weights; do not give others")
        path = Path(name)
        card = carried_card(path)
        if card is None:
            raise BackboneError(f"{path} is not a backbone file; make one with: featurepipe pretrain DATA -o {path}")
        made = self._timm.create(BUNDLED, replace(request, weights=path))
        wanted = card.get("weights-sha256", made.spec["weights"])
        if made.spec["weights"] != wanted and not (request.arguments or request.pooling):  # which may change weights
            raise FingerprintMismatch(f"{path}: its weights do not match their digest; make the file again")
        called = card.get("name") or path.stem
        return replace(made, name=called, source={**made.source, "name": called})

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """No spec has a file for its architecture; those of these networks are of timm's."""
        raise BackboneError(f"{origin.who} names another file, {spec['architecture']!a}, for its architecture; {GIVE}")

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """None: they are wherever their makers put them."""
        return []

    def files(self, name: Any, weights: Path | None) -> Iterable[Path]:
        """The file, and the weights that are given to be refused."""
        return [Path(name)] if weights is None else [weights, Path(name)]
