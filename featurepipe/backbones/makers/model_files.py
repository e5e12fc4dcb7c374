"""Model files that carry their backbone, as a family: what is inside is another family's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.makers.maker import Maker, Origin, Request, find
from featurepipe.backbones.specs import Extractor
from featurepipe.backbones.trust import GIVE
from featurepipe.backbones.weights import carried_backbone, is_model_name
from featurepipe.errors import BackboneError, FingerprintMismatch


class ModelFiles(Maker):
    """A backbone by the path of the model file that holds it.

    Parameters
    ----------
    makers : mapping
        All families, of which one makes what is inside.
    """

    family = "file"
    tunable = True
    layered = True

    def __init__(self, makers: Mapping[str, Maker]) -> None:
        self._makers = makers

    def knows(self, name: Any) -> bool:
        """Whether it ends as they do."""
        return isinstance(name, str) and is_model_name(name)

    def create(self, name: Any, request: Request) -> Backbone:
        """See `Maker.create`; it has the name that it has in the file."""
        if request.weights is not None or request.random_weights:
            raise BackboneError(f"{name} has its own weights; do not give others")
        path = Path(name)
        held = carried_backbone(path)
        spec, source = held["spec"], held["source"]
        within = find(self._makers, spec["architecture"])[0]
        options = within.recall(spec, Origin({**source, "random_seed": None}, path, request.trust, str(path)))
        made = self._made(options, request)
        assert isinstance(made, Backbone)  # as all are of which a file carries more than a name
        repooled = made.spec["pooling"] is not None and (made.spec["pooling"], request.layer) != (
            spec["pooling"],
            spec["layer"],
        )
        changed = request.arguments or repooled  # which may change what weights there are
        if made.spec["weights"] != spec["weights"] and not changed:
            raise FingerprintMismatch(
                f"{path}: the weights of its backbone do not match their digest; make the file again"
            )
        seed = source["random_seed"]
        origin = {
            "name": held["name"] if seed is None else source["name"],
            "weights": str(path.resolve()),
            "random_seed": seed,
        }
        return replace(made, name=held["name"], source=origin)

    def _made(self, options: Mapping[str, Any], request: Request) -> Extractor:
        """What `options` describe, except for what is asked for here; layer and precision always are."""
        maker, name = find(self._makers, options["name"])
        of_file = options.get("transform", {})
        if "img_size" in request.arguments:
            of_file = {key: value for key, value in of_file.items() if key != "input_size"}
        return maker.create(
            name,
            replace(
                request,
                weights=options["weights"],
                arguments={**options.get("arguments", {}), **request.arguments},
                pooling=request.pooling or options.get("pooling"),
                transform={**of_file, **request.transform},
                trust=False,
                download=True,
            ),
        )

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """A file may hold a backbone, and be named by a backbone's weights, but no spec has a file for architecture."""
        raise BackboneError(f"{origin.who} names another file, {spec['architecture']!a}, for its architecture; {GIVE}")

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """None: they are wherever their makers put them."""
        return []

    def files(self, name: Any, weights: Path | None) -> Iterable[Path]:
        """The file, and the weights that are given to be refused."""
        return [Path(name)] if weights is None else [weights, Path(name)]
