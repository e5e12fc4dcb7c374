"""timm's convolutional networks made to see time as a family: ``inflated:resnet18``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from featurepipe.backbones.clips import Clips
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.makers.timm_networks import TimmNetworks
from featurepipe.backbones.precisions import choose_precision
from featurepipe.errors import BackboneError
from featurepipe.videos import VideoTransform

FAMILY = "inflated"
OWN = {"frames": 16, "strides": 0, "taps": "mean"}  # the arguments that are not timm's, and what they are by default
MOST = 256  # frames of a clip


class InflatedNetworks(Maker):
    """A convolutional network of timm, inflated; see `featurepipe.backbones.inflation`.

    Next to timm's own arguments it takes ``frames`` of a clip, ``strides`` in time and ``taps``.
    """

    family = FAMILY

    def knows(self, name: Any) -> bool:
        """None without the family in front: they have timm's names."""
        return False

    def create(self, name: Any, request: Request) -> Clips:
        """See `Maker.create`."""
        from featurepipe.backbones.inflation import inflate

        request.allow(f"{FAMILY}:{name}", "weights", "arguments", "random_weights", "pooling", "precision", "transform")
        arguments = dict(request.arguments)
        frames, strides, taps = (arguments.pop(key, value) for key, value in OWN.items())
        _check(frames, strides)
        tried = "fp32" if request.precision == "auto" else request.precision
        flat = TimmNetworks().create(name, replace(request, arguments=arguments, precision=tried))
        inflate(flat.module, flat.transform.input_size, frames, strides, taps, name)
        chosen = {"clips": 1, **request.transform, "length": frames}
        made = Clips.of(
            replace(flat, name=f"{FAMILY}:{flat.name}", source=_inflated(flat.source)),
            VideoTransform.of(
                flat.transform, **{key: chosen[key] for key in ("clips", "length", "fps") if key in chosen}
            ),
            architecture=f"{FAMILY}:{flat.spec['architecture']}",
            arguments={**flat.spec["arguments"], "frames": frames, "strides": strides, "taps": taps},
        )
        return made if request.precision == tried else made.adapted(precision=choose_precision(made))

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`; what is within is timm's."""
        arguments = dict(spec["arguments"])
        own = {key: arguments.pop(key) for key in OWN if key in arguments}
        if not origin.trust:
            _check(own.get("frames", 1), own.get("strides", 0))
        within = {**spec, "architecture": _flat(spec["architecture"]), "arguments": arguments}
        source = {**origin.source, "name": _flat(origin.source["name"])}
        options = TimmNetworks().recall(within, replace(origin, source=source))
        within_timm = str(options["name"]).removeprefix("timm:")
        return {**options, "name": f"{FAMILY}:{within_timm}", "arguments": {**options["arguments"], **own}}

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """Any of timm's convolutional networks could be named; they are listed without the family."""
        return []


def _check(frames: Any, strides: Any) -> None:
    """Refuse what is no number of frames, or of strides."""
    for what, value, least in (("frames", frames, 2), ("strides", strides, 0)):
        if not isinstance(value, int) or not least <= value <= MOST:
            raise BackboneError(
                f"{what} of an inflated network is a whole number from {least} to {MOST}; got {value!r}"
            )


def _flat(name: str) -> str:
    return name.removeprefix(f"{FAMILY}:")


def _inflated(source: Mapping[str, Any]) -> dict[str, Any]:
    return {**source, "name": f"{FAMILY}:{source['name']}"}
