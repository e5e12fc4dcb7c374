"""Creating backbones by name, weights and settings, and again from what a store or model file says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from featurepipe.backbones.descriptors import ColorHistogram, Descriptor, Hog, Pixels
from featurepipe.backbones.extractors import Backbone, Layers
from featurepipe.backbones.networks import (
    BUNDLED,
    freeze,
    make_network,
    probe_widths,
    repository_arguments,
    set_pooling,
    stages_of,
)
from featurepipe.backbones.precisions import AGREEMENT, agreement, choose_precision, sample_pixels
from featurepipe.backbones.sift import SIFT, Sift
from featurepipe.backbones.specs import (
    PENULTIMATE,
    TimmModule,
    Transform,
    check_same,
    check_shapes,
    make_spec,
    plain,
)
from featurepipe.backbones.trust import (
    GIVE,
    WEIGHTS_SUFFIXES,
    cached_weights,
    check_arguments,
    check_place,
    check_size,
    unechoed,
)
from featurepipe.backbones.weights import (
    carried_backbone,
    check_finite,
    first_line,
    is_model_name,
    load_weights,
    read_weights,
)
from featurepipe.digests import sha256_state_dict
from featurepipe.errors import BackboneError, FingerprintMismatch
from featurepipe.surroundings import guarded
from featurepipe.vocabulary.names import DECODERS, PRECISIONS

STAGES = "stages"  # all stages of a network, and its penultimate embedding
DESCRIPTORS: dict[str, type[Descriptor]] = {kind.architecture: kind for kind in (Pixels, Hog, ColorHistogram, Sift)}
BUNDLED_WEIGHTS = Path(__file__).parents[1] / "bundled" / "backbone.safetensors"


@guarded
def create(
    name: str | PathLike[str] | None = None,
    *,
    weights: str | PathLike[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    random_weights: bool = False,
    seed: int = 0,
    layer: str = PENULTIMATE,
    pooling: str | None = None,
    precision: str = "auto",
    device: str = "auto",
    transform: Mapping[str, Any] | None = None,
    trust: bool = False,
    download: bool = True,
) -> Backbone | Descriptor:
    """Make a frozen backbone.

    Parameters
    ----------
    name : str or path, optional
        Any timm name (``resnet50.a1_in1k``, ``hf-hub:timm/…``), ``'bundled'`` (the default: the small network
        inside the package), or one that is not a network: ``'pixels'`` (raw pixels), ``'hog'``, ``'color-histogram'``,
        ``'sift'`` (a bag of visual words, whose codebook `weights` gives). Or a model file (``tuned.safetensors``) that
        holds its backbone, as those of tuned networks do. Weights, architecture, arguments, transform and pooling then
        come from the file, unless others are given; layer and precision do not.
    weights : path, optional
        A safetensors file, a torch file that loads with ``weights_only``, or a NumPy archive of JAX weights that timm
        can read; told by content, not by suffix. The network's tensors may be inside dictionaries (``model_ema``,
        ``teacher``, …), behind a prefix (``module.``, ``backbone.``, …) and under names that timm converts. All that
        the network needs must be there with its shape. Classifiers, and what only training needs, are left out; other
        tensors are refused. Transform values in a safetensors file's metadata (``mean``, ``std``, ``interpolation``,
        ``crop_pct``, ``crop_mode``, ``input_size``) replace timm's.
    arguments : mapping, optional
        Passed to ``timm.create_model``: what shapes the architecture, such as ``pad_type='same'``.
    random_weights : bool
        Make an untrained network, as a baseline, initialised with `seed`.
    layer : str
        ``'penultimate'`` (timm's pre-logits) or ``'stageK'``, K from 1: the pooled output of timm's K-th feature
        stage (for a ViT: block).
    pooling : str, optional
        timm's global pooling (``avg``, ``max``, ``token``, …); None is the model's own. A stage takes avg or max.
    precision : {'auto', 'fp32', 'bf16', 'fp16'}
        ``auto`` is bf16 if the device computes in it natively and this network's vectors stay the same (cosine
        with fp32 at least 0.999, tried on a few images), otherwise fp32.
    device : str
        ``auto`` (cuda, else mps, else cpu) or a torch device.
    transform : mapping, optional
        Overrides of the transform, by `Transform` field; None values are ignored. The decoder is ``torchvision`` unless
        given here.
    trust : bool
        Trust what a model file, or the weights of ``'bundled'``, say about the backbone; see
        `featurepipe.backbones.trust`.
    download : bool
        False: take timm's own weights from this machine's caches, and ask no host for them.

    Raises
    ------
    BackboneError
        The name is unknown (the nearest ones are listed); weights, arguments or transform do not fit; or a file asks
        for more than it may without `trust`.
    WeightsUnavailable
        The weights cannot be downloaded, or a file does not exist.
    FingerprintMismatch
        A model file holds another backbone than it describes.

    Examples
    --------
    >>> backbone = create("bundled")
    >>> backbone.embed(np.zeros((2, *backbone.transform.input_size), np.uint8)).shape == (2, backbone.width)
    True
    """
    _check_kinds(name, weights)
    name = os.fspath(name or BUNDLED)
    if name in DESCRIPTORS:
        chosen = (arguments, random_weights, pooling, _chosen(transform))
        if any(chosen) or layer != PENULTIMATE or precision not in ("auto", "fp32"):
            raise BackboneError(f"{name} takes no arguments, random weights, layer, pooling, precision or transform")
        return _descriptor(name, weights)
    if is_model_name(name):
        if weights is not None or random_weights:
            raise BackboneError(f"{name} has its own weights; do not give others")
        return _create_carried(
            Path(name), arguments or {}, layer, pooling, precision, device, _chosen(transform), trust
        )
    given = _chosen(transform)
    if unknown := given.keys() - {field.name for field in fields(Transform)}:
        known = ", ".join(field.name for field in fields(Transform))
        raise BackboneError(f"a transform has no {unknown.pop()!r}; it has {known}")
    arguments = plain(arguments or {})
    if taken := {"pretrained", "num_classes", "checkpoint_path"} & arguments.keys():
        raise BackboneError(f"backbone argument {taken.pop()!r} is set by featurepipe; leave it out")
    if random_weights and weights is not None:
        raise BackboneError("random weights and a weights file exclude each other; give only one of them")
    file = Path(weights) if weights is not None else BUNDLED_WEIGHTS if name == BUNDLED else None
    content, config = read_weights(file) if file is not None else (None, {})
    if name == BUNDLED and "architecture" not in config:
        raise BackboneError(f"{file} does not say its architecture; name it with -b (backbone= in Python)")
    timm_name = config["architecture"] if name == BUNDLED else name
    if name == BUNDLED:
        own = plain(config.get("arguments", {}))
        if file != BUNDLED_WEIGHTS and not trust:
            _check_network(timm_name, own, config.get("transform", {}).get("input_size"), file, str(file))
        arguments = {**own, **arguments}
    if random_weights:
        content = None
    pretrained = content is None and not random_weights
    cached = cached_weights(timm_name) if pretrained and not download else None
    module = make_network(timm_name, arguments, pretrained=pretrained, seed=seed, file=cached)
    if ":" in timm_name:  # what the repository's config adds shapes the network too, so the spec must say it
        arguments = {**plain(repository_arguments(timm_name)), **arguments}
    note = None
    if content is not None:
        if config.get("pooling") is not None and config.get("layer") == PENULTIMATE:
            set_pooling(module, config["pooling"], name)  # it may have taken weights out, which the file then lacks
        note = load_weights(module, content, timm_name)
    if not random_weights:
        check_finite(module, str(file or name))
    if pooling is not None and layer == PENULTIMATE:
        set_pooling(module, pooling, name)
    resolved = _resolve_transform(module, config.get("transform", {}), arguments, given)
    device = resolve_device(device)
    module = freeze(module, device)
    if precision not in ("auto", *PRECISIONS):
        raise BackboneError(f"precision {precision!r} is unknown; use auto, {', '.join(PRECISIONS)}")
    tried = "fp32" if precision == "auto" else precision
    (width,) = probe_widths(module, resolved, [layer], pooling, tried, name)
    architecture = module.pretrained_cfg.get("architecture", timm_name)
    weights_digest = sha256_state_dict(module.state_dict())
    seed_used = seed if random_weights else None
    made = Backbone(
        name=name if seed_used is None else f"{name} (random weights, seed {seed})",
        module=module,
        spec=make_spec(architecture, arguments, weights_digest, resolved, layer, pooling, tried),
        source={
            "name": name,
            "weights": str(Path(weights).resolve()) if weights is not None else None,
            "random_seed": seed_used,
        },
        transform=resolved,
        width=width,
        device=device,
        notes=tuple(f"note: {text}" for text in (note, _unnamed(weights)) if text is not None),
    )
    return made if precision == tried else made.adapted(precision=choose_precision(made))


def _unnamed(weights: str | PathLike[str] | None) -> str | None:
    """What to know of a weights file that no model file may name, whose name is not one of weights."""
    if weights is None or Path(weights).suffix.lower() in WEIGHTS_SUFFIXES:
        return None
    return (
        f"{weights} is not called as weights are ({', '.join(WEIGHTS_SUFFIXES[:3])}, …), so models and stores made "
        f"with it do not open it by themselves; rename it, or {GIVE} to them"
    )


def _check_kinds(name: object, weights: object) -> None:
    """Refuse networks and tensors themselves, where a name and a file are wanted."""
    advice = "save its weights: torch.save(network.state_dict(), 'weights.pth'), and give that path as weights"
    if name is not None and not isinstance(name, str | PathLike):
        known = getattr(name, "pretrained_cfg", None) or {}
        which = f" {known['architecture']!r}" if "architecture" in known else ""
        raise BackboneError(f"a backbone is given by its name{which}, not as a {type(name).__name__}; {advice}")
    if weights is not None and not isinstance(weights, str | PathLike):
        raise BackboneError(f"weights are the path of a file, not a {type(weights).__name__}; {advice}")


def _create_carried(
    path: Path,
    arguments: Mapping[str, Any],
    layer: str,
    pooling: str | None,
    precision: str,
    device: str,
    transform: Mapping[str, Any],
    trust: bool,
) -> Backbone:
    """The backbone that a model file carries, under the name that it has there."""
    held = carried_backbone(path)
    spec, source = held["spec"], held["source"]
    if not trust:
        _check_network(spec["architecture"], spec["arguments"], spec["transform"]["input_size"], path, str(path))
    of_file = {
        key: value for key, value in spec["transform"].items() if key != "input_size" or "img_size" not in arguments
    }
    made = create(
        spec["architecture"],
        weights=path,
        arguments={**spec["arguments"], **arguments},
        layer=layer,
        pooling=pooling or spec["pooling"],
        precision=precision,
        device=device,
        transform={**of_file, **transform},
    )
    assert isinstance(made, Backbone)  # a descriptor takes no transform
    repooled = made.spec["pooling"] is not None and (made.spec["pooling"], layer) != (spec["pooling"], spec["layer"])
    if made.spec["weights"] != spec["weights"] and not arguments and not repooled:  # which may change what there is
        raise FingerprintMismatch(f"{path}: the weights of its backbone do not match their digest; make the file again")
    seed = source["random_seed"]
    origin = {
        "name": held["name"] if seed is None else source["name"],
        "weights": str(path.resolve()),
        "random_seed": seed,
    }
    return replace(made, name=held["name"], source=origin)


@guarded
def create_layers(
    name: str | PathLike[str] | None = None,
    layers: str | Sequence[str] = STAGES,
    *,
    pooling: str | None = None,
    precision: str = "auto",
    **options: Any,
) -> Layers:
    """Make a frozen backbone that gives several of its layers in one forward pass.

    Parameters
    ----------
    name : str, optional
        As for `create`.
    layers : str or sequence of str
        ``'stages'``: all of them and the penultimate embedding. Or names of layers, as a list or separated by commas.
    pooling, precision
        As for `create`, the same for all layers: ``auto`` is bf16 only if every layer tolerates it.
    **options
        As for `create`; not `layer`.

    Returns
    -------
    Layers
        The same vectors, except for rounding, as the backbones that `create` makes with each `layer`; so are their
        fingerprints.

    Raises
    ------
    BackboneError
        As for `create`; and a network whose stages timm cannot return.

    Examples
    --------
    >>> several = create_layers("test_resnet", "stage2,penultimate", random_weights=True)
    >>> [(member.spec["layer"], member.width) for member in several.members]
    [('stage2', 32), ('penultimate', 96)]
    """
    named = [layer.strip() for layer in layers.split(",")] if isinstance(layers, str) else list(layers)
    name = os.fspath(name) if isinstance(name, PathLike) else name
    if name in DESCRIPTORS or not named:
        raise BackboneError(f"{name} has no layers" if named else "name at least one layer")
    if "layer" in options:
        raise BackboneError("layer is for one layer and layers for several; give only one of them")
    tried = "fp32" if precision == "auto" else precision
    of_stages = set(named) != {PENULTIMATE}
    first = create(name, layer="stage1" if of_stages else PENULTIMATE, pooling=pooling, precision=tried, **options)
    assert isinstance(first, Backbone)  # a descriptor has no layers
    pooling = first.spec["pooling"]  # a model file's, where none is given
    chosen = _in_order(named, first) if of_stages else [PENULTIMATE]
    if pooling is not None and of_stages and PENULTIMATE in chosen:
        set_pooling(first.module, pooling, first.name)
        if sha256_state_dict(first.module.state_dict()) != first.spec["weights"]:  # it had a pooling with weights
            raise BackboneError(
                f"pooling by {pooling!r} takes weights out of {first.name}, which its stages keep; "
                "extract its stages and its penultimate embedding in separate runs"
            )
    widths = probe_widths(first.module, first.transform, chosen, pooling, tried, first.name)
    made = Layers(
        name=first.name,
        module=first.module,
        spec={**first.spec, "layer": chosen},
        source=first.source,
        transform=first.transform,
        width=sum(widths),
        device=first.device,
        notes=first.notes,
        widths=widths,
    )
    _check_penultimate(made)
    return made if precision == tried else made.adapted(precision=choose_precision(made))


def _in_order(named: Sequence[str], backbone: Backbone) -> list[str]:
    """Layers in the network's order, each once; unknown ones first, to be refused."""
    known = [*stages_of(backbone.module, backbone.name), PENULTIMATE]
    wanted = {*named} - {STAGES} | ({*known} if STAGES in named else set())
    return [*sorted(wanted - {*known}), *(layer for layer in known if layer in wanted)]


def _check_penultimate(backbone: Layers) -> None:
    """Hold timm to it that a forward pass which also returns stages ends as one that does not."""
    *stages, last = backbone.members
    if not stages or last.spec["layer"] != PENULTIMATE:
        return
    pixels = sample_pixels(1, backbone.transform)
    found, wanted = backbone.split(backbone.embed(pixels))[-1], last.embed(pixels)
    same = np.array_equal(found, wanted, equal_nan=True)  # fp16 may overflow in both
    if not same and agreement(found, wanted) < AGREEMENT:
        raise BackboneError(
            f"timm's forward_intermediates of {backbone.name} gives a different final embedding than its "
            "forward_features; extract its stages and its penultimate embedding in separate runs"
        )


@guarded
def recreate(
    spec: Mapping[str, Any],
    source: Mapping[str, Any],
    *,
    weights: str | PathLike[str] | None = None,
    device: str = "auto",
    trust: bool = False,
    who: str = "this file",
    note: Callable[[str], object] = lambda text: None,
) -> Backbone | Descriptor:
    """Make the backbone that a store or a model file describes, and check that it is the same.

    Parameters
    ----------
    spec, source : mapping
    weights : path, optional
        Where its weights are now.
    device : str
    trust : bool
        Do whatever the description asks for: see `featurepipe.backbones.trust`.
    who : str
        What it is described by, for messages.
    note : callable
        Hears a line before weights are taken from where timm says, which may download them; only with `trust`.

    Raises
    ------
    FingerprintMismatch
        What was made differs from `spec`: the message names the fields.
    BackboneError
        The description asks for more than it may; see `check_described`.
    WeightsUnavailable
        The weights are not here, and would have to be downloaded.
    """
    named = None if trust else check_described(spec, source, weights=weights, who=who)
    file = weights or source["weights"]
    with unechoed(named, who):
        if spec["architecture"] in DESCRIPTORS:
            made: Backbone | Descriptor = _descriptor(spec["architecture"], file)
            made = replace(made, transform=replace(made.transform, decoder=spec["transform"].get("decoder", "pillow")))
        else:
            random_seed = None if file else source["random_seed"]
            if trust and not file and random_seed is None and source["name"] != BUNDLED:
                note(f"weights of {source['name']}: from timm's cache, or downloaded from where timm has them")
            several = not isinstance(spec["layer"], str)
            made = (create_layers if several else create)(
                spec["architecture"] if file else source["name"],
                weights=file,
                arguments=spec["arguments"],
                random_weights=random_seed is not None,
                seed=random_seed or 0,
                **_settings(spec),
                device=device,
                trust=trust,
                download=trust,
            )
    check_same(made.spec, spec)
    return made


def check_described(
    spec: Mapping[str, Any], source: Mapping[str, Any], *, weights: str | PathLike[str] | None, who: str
) -> Path | None:
    """Refuse a description of a backbone that asks for more than a file may; see `featurepipe.backbones.trust`.

    Returns
    -------
    Path or None
        The weights file that it names, if that is to be opened.

    Raises
    ------
    BackboneError
        It says what the file wants to do.
    """
    try:
        check_shapes(spec, source)
    except ValueError as error:
        raise BackboneError(f"{who} does not describe a backbone: {error}") from error
    named = check_place(source["weights"], spec["weights"], who) if weights is None and source["weights"] else None
    if spec["architecture"] in DESCRIPTORS:
        return named
    file, size = weights or named, spec["transform"]["input_size"]
    if file is None and is_model_name(source["name"]):
        raise BackboneError(f"{who} names another file, {source['name']!a}, for its backbone; {GIVE}")
    name = spec["architecture"] if file else source["name"]
    if name == BUNDLED:
        own = read_weights(BUNDLED_WEIGHTS)[1]
        check_arguments(own["architecture"], spec["arguments"], who)
        check_size(own["architecture"], {**own["arguments"], **spec["arguments"]}, size, 0, who)
    else:
        is_random = file is None and source["random_seed"] is not None
        _check_network(name, spec["arguments"], size, file, who, 0 if is_random else None)
    return named


def _check_network(
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


@guarded
def twin(spec: Mapping[str, Any], name: str, *, seed: int = 0, device: str = "auto", trust: bool = False) -> Backbone:
    """The randomly initialised copy of a backbone: same architecture, arguments, transform and layer.

    Parameters
    ----------
    spec : mapping
        Spec of the trained backbone; a descriptor has no twin.
    name : str
        What to call it; ``(random weights, seed …)`` is added.
    seed : int
    device : str
    trust : bool
        As for `recreate`.
    """
    if not trust:
        _check_network(spec["architecture"], spec["arguments"], spec["transform"]["input_size"], None, name)
    made = create(
        spec["architecture"],
        arguments=spec["arguments"],
        random_weights=True,
        seed=seed,
        **_settings(spec),
        device=device,
    )
    assert isinstance(made, Backbone)  # a descriptor takes no random weights
    return replace(made, name=f"{name} (random weights, seed {seed})")


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `create` that reproduce a spec's transform, layer, pooling and precision."""
    layer = "layer" if isinstance(spec["layer"], str) else "layers"
    return {layer: spec["layer"], **{key: spec[key] for key in ("transform", "pooling", "precision")}}


def names(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names that `create` takes, filtered by a shell pattern: the bundled one, descriptors, and timm's."""
    import fnmatch

    import timm

    own = [name for name in (BUNDLED, *DESCRIPTORS) if fnmatch.fnmatch(name, pattern)]
    return own + timm.list_models(pattern, pretrained=pretrained)


def _descriptor(name: str, weights: str | PathLike[str] | None) -> Descriptor:
    """A descriptor by name; only a codebook is read from a file."""
    if name == SIFT:
        return Sift.load(weights)
    if weights is not None:
        raise BackboneError(f"{name} has no weights; leave {weights} out")
    make: Callable[[], Descriptor] = DESCRIPTORS[name]
    return make()


def resolve_device(device: str) -> str:
    """``auto`` becomes cuda, mps or cpu; anything else must exist here."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(f"device {device!r} cannot be used here ({first_line(error)}); try auto") from error
    return device


def _chosen(transform: Mapping[str, Any] | None) -> dict[str, Any]:
    """What of the transform's values is the caller's own choice."""
    given = {key: value for key, value in (transform or {}).items() if value is not None}
    return {key: value for key, value in given.items() if (key, value) != ("decoder", "auto")}


def _resolve_transform(
    module: TimmModule, of_file: Mapping[str, Any], arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> Transform:
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
    decoder = {"decoder": DECODERS[0]}  # whatever made the vectors of the file's own model
    return Transform.from_mapping({**config, "input_size": (channels, *size), **decoder, **given})
