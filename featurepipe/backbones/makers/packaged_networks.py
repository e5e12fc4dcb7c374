"""Networks whose weights are in an installed Python package, as a family: ``efficientnet_lite0``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.makers.timm_networks import TimmNetworks
from featurepipe.backbones.packages import FAMILY, LICENCE, PACKAGES, Package
from featurepipe.errors import BackboneError


class PackagedNetworks(Maker):
    """timm's networks with the weights of a package; a spec says of them what it says of timm's with a file.

    Parameters
    ----------
    timm : TimmNetworks
        Makes them.
    """

    family = FAMILY
    tunable = True
    layered = True

    def __init__(self, timm: TimmNetworks) -> None:
        self._timm = timm

    def knows(self, name: Any) -> bool:
        """Whether its package is installed: timm has the same names, and would ask a hub for weights."""
        return isinstance(name, str) and name in PACKAGES and PACKAGES[name].place() is not None

    def create(self, name: Any, request: Request) -> Backbone:
        """See `Maker.create`; with weights of the caller's own, or random ones, it is timm's network of that name."""
        package = _package(name)
        if request.weights is not None or request.random_weights:
            return self._timm.create(name, request)
        made = self._timm.create(package.architecture, replace(request, weights=package.weights()))
        return replace(
            made,
            name=name,
            source={"name": f"{FAMILY}:{name}", "weights": None, "random_seed": None},
            notes=(
                *made.notes,
                f"note: {name} is timm's {package.architecture} with the ImageNet weights of the installed package "
                f"{package.distribution} ({LICENCE})",
            ),
        )

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`; their specs are of timm's networks."""
        return self._timm.recall(spec, origin)

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """Those whose package is installed."""
        named = [f"{FAMILY}:{name}" for name, package in PACKAGES.items() if package.place() is not None]
        return [name for name in named if fnmatch(name, pattern)]

    def files(self, name: Any, weights: Path | None) -> Iterable[Path] | None:
        """The file in the package, or the one that is given."""
        path = weights or _package(name).place()
        return None if path is None else [path]

    def fetches(self, name: Any) -> bool:
        """Never; raises BackboneError for an unknown name."""
        _package(name)
        return False


def _package(name: Any) -> Package:
    if name not in PACKAGES:
        raise BackboneError(f"no package is known with weights of {name!r}; there are those of {', '.join(PACKAGES)}")
    return PACKAGES[name]
