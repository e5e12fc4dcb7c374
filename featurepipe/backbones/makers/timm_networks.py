"""timm's networks as a family, and the one inside the package, which is one of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from os import PathLike
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.makers.assembly import assemble
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.networks import BUNDLED, check_name, make_network, repository_arguments, set_pooling
from featurepipe.backbones.packages import package_of
from featurepipe.backbones.specs import PENULTIMATE, TimmModule, plain
from featurepipe.backbones.trust import (
    GIVE,
    WEIGHTS_SUFFIXES,
    cached_weights,
    check_arguments,
    check_size,
)
from featurepipe.backbones.weights import check_finite, is_model_name, load_weights, read_weights
from featurepipe.errors import BackboneError
from featurepipe.images import DEFAULT_DECODER, ImageTransform

BUNDLED_FILES = {  # the newest first; what was made with an earlier one is recalled with that
    BUNDLED: Path(__file__).parents[2] / "bundled" / "backbone.safetensors",
    f"{BUNDLED}-1": Path(__file__).parents[2] / "bundled" / "backbone-1.safetensors",
}
HUBS = ("hf-hub:", "hf_hub:", "local-dir:")  # how timm's own names begin that lead elsewhere
LOCAL = "local-dir:"


class TimmNetworks(Maker):
    """Any name that timm knows, ``hf-hub:…`` and ``local-dir:…`` among them, and ``bundled``."""

    family = "timm"
    tunable = True
    layered = True

    def knows(self, name: Any) -> bool:
        """Whether it is text without a family: a name, or one of timm's hubs, or a URL, which timm refuses."""
        return isinstance(name, str) and (":" not in name or name.startswith(HUBS) or "://" in name)

    def create(self, name: Any, request: Request) -> Backbone:
        """See `Maker.create`."""
        weights, random = request.weights, request.random_weights
        arguments = plain(request.arguments)
        if taken := {"pretrained", "num_classes", "checkpoint_path"} & arguments.keys():
            raise BackboneError(f"backbone argument {taken.pop()!r} is set by featurepipe; leave it out")
        if random and weights is not None:
            raise BackboneError("random weights and a weights file exclude each other; give only one of them")
        file = Path(weights) if weights is not None else BUNDLED_FILES.get(name)
        is_bundled = name in BUNDLED_FILES
        content, config = read_weights(file) if file is not None else (None, {})
        if is_bundled and "architecture" not in config:
            raise BackboneError(f"{file} does not say its architecture; name it with -b (backbone= in Python)")
        timm_name = config["architecture"] if is_bundled else name
        if is_bundled:
            own = plain(config.get("arguments", {}))
            if weights is not None and not request.trust:
                check_network(timm_name, own, config.get("transform", {}).get("input_size"), file, str(file))
            arguments = {**own, **arguments}
        if random:
            content = None
        pretrained = content is None and not random
        cached = cached_weights(timm_name) if pretrained and not request.download else None
        module = make_network(timm_name, arguments, pretrained=pretrained, seed=request.seed, file=cached)
        if ":" in timm_name:  # what the repository's config adds shapes the network too, so the spec must say it
            arguments = {**plain(repository_arguments(timm_name)), **arguments}
        note = None
        if content is not None:
            if config.get("pooling") is not None and config.get("layer") == PENULTIMATE:
                # it may have taken weights out, which the file then lacks
                set_pooling(module, config["pooling"], name)
            note = load_weights(module, content, timm_name)
        if not random:
            check_finite(module, str(file or name))
        if request.pooling is not None and request.layer == PENULTIMATE:
            set_pooling(module, request.pooling, name)
        return assemble(
            module,
            _resolve_transform(module, config.get("transform", {}), arguments, request.transform),
            request,
            name=f"{name} (random weights, seed {request.seed})" if random else name,
            architecture=module.pretrained_cfg.get("architecture", timm_name),
            arguments=arguments,
            source={
                "name": name,
                "weights": str(Path(weights).resolve()) if weights is not None else None,
                "random_seed": request.seed if random else None,
            },
            notes=[text for text in (note, _unnamed(weights)) if text is not None],
        )

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`."""
        source, file = origin.source, origin.weights
        if not origin.trust:
            _check_described(spec, origin)
        seed = None if file else source["random_seed"]
        name = spec["architecture"] if file else edition(source["name"], spec)
        if origin.trust and not file and seed is None and name not in BUNDLED_FILES and package_of(name) is None:
            origin.note(f"weights of {name}: from timm's cache, or downloaded from where timm has them")
        return {
            "name": name if ":" in name else f"{self.family}:{name}",  # without it, another family may know the name
            "weights": file,
            "arguments": spec["arguments"],
            "random_weights": seed is not None,
            "seed": seed or 0,
            **settings(spec),
        }

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """The bundled ones', and timm's."""
        import timm

        own = [name for name in BUNDLED_FILES if fnmatch(name, pattern)]
        return own + timm.list_models(pattern, pretrained=pretrained)

    def files(self, name: Any, weights: Path | None) -> Iterable[Path]:
        """Its weights; and all that is in a folder that is named."""
        if weights is not None:
            yield weights
        elif name in BUNDLED_FILES:
            yield BUNDLED_FILES[name]
        if name.startswith(LOCAL):
            yield from sorted(path for path in Path(name.removeprefix(LOCAL)).rglob("*") if path.is_file())

    def fetches(self, name: Any) -> bool:
        """All but the bundled ones'; raises BackboneError for an unknown name, which has no weights to wait for."""
        if name in BUNDLED_FILES:
            return False
        check_name(name)
        return True


def settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `create` that make a spec's layer, transform, pooling and precision again."""
    layer = "layer" if isinstance(spec["layer"], str) else "layers"
    return {layer: spec["layer"], **{key: spec[key] for key in ("transform", "pooling", "precision")}}


def edition(name: str, spec: Mapping[str, Any]) -> str:
    """The name of a network today: an earlier bundled network was called ``bundled`` when it was used, and is not now.

    Parameters
    ----------
    name : str
        What it is called where its `spec` was recorded.
    spec : mapping

    Examples
    --------
    >>> edition("bundled", {"arguments": {"channels": [32, 48, 48, 112]}}), edition("resnet50", {})
    ('bundled-1', 'resnet50')
    """
    if name != BUNDLED:
        return name
    for edition, file in BUNDLED_FILES.items():
        if read_weights(file)[1]["arguments"].items() <= dict(spec["arguments"]).items():
            return edition
    return name


def _check_described(spec: Mapping[str, Any], origin: Origin) -> None:
    """Refuse a description of a network that asks for more than a file may."""
    source, file, who = origin.source, origin.weights, origin.who
    size, arguments = spec["transform"]["input_size"], spec["arguments"]
    if file is None and is_model_name(source["name"]):
        raise BackboneError(f"{who} names another file, {source['name']!a}, for its backbone; {GIVE}")
    package = package_of(source["name"])
    name = spec["architecture"] if file else source["name"] if package is None else package.architecture
    if name in BUNDLED_FILES:
        own = read_weights(BUNDLED_FILES[name])[1]
        check_arguments(own["architecture"], arguments, who)
        check_size(own["architecture"], {**own["arguments"], **arguments}, size, 0, who)
    else:
        is_random = file is None and source["random_seed"] is not None
        check_network(name, arguments, size, file, who, 0 if is_random else None)


def check_network(
    name: str,
    arguments: Mapping[str, Any],
    input_size: Sequence[int] | None,
    file: str | PathLike[str] | None,
    who: str,
    room: int | None = None,
) -> None:
    """Check arguments and size of a network that a file describes, whose weights are in a `file`, if they are."""
    check_arguments(name, arguments, who)
    if file is not None and os.path.isfile(file):
        room = Path(file).stat().st_size
    check_size(name, arguments, input_size or (3, 1, 1), room, who)


def _unnamed(weights: str | PathLike[str] | None) -> str | None:
    """What to know of a weights file that no model file may name, whose name is not one of weights."""
    if weights is None or Path(weights).suffix.lower() in WEIGHTS_SUFFIXES:
        return None
    return (
        f"{weights} is not called as weights are ({', '.join(WEIGHTS_SUFFIXES[:3])}, …), so models and stores made "
        f"with it do not open it by themselves; rename it, or {GIVE} to them"
    )


def _resolve_transform(
    module: TimmModule, of_file: Mapping[str, Any], arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> ImageTransform:
    """Values of timm, under those of the weights file, of the network's shape, and of the caller."""
    import timm.data

    config = {**timm.data.resolve_model_data_config(module), **of_file}
    try:
        channels, *size = np.atleast_1d(config["input_size"]).tolist()
        if "img_size" in arguments:
            size = np.broadcast_to(arguments["img_size"], 2).tolist()
        if arguments.get("in_chans", channels) != channels:
            channels = arguments["in_chans"]
            for key in ("mean", "std"):  # greyscale: the mean of the colours'
                config[key] = fmean(np.atleast_1d(config[key]))
    except (TypeError, ValueError) as error:
        raise BackboneError(f"a transform cannot be made of {config}: {error}") from error
    decoder = {"decoder": DEFAULT_DECODER}  # whatever made the vectors of the file's own model
    return ImageTransform.from_mapping({**config, "input_size": (channels, *size), **decoder, **given})
