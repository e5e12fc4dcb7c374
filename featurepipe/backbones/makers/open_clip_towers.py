"""Image towers of open_clip as a family: ``open_clip:ARCH/TAG``, or ``open_clip:ARCH`` with a file of weights.

A tower ends before its projection into the space that it shares with texts, unless that is asked for.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.makers.assembly import assemble
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.networks import quiet
from featurepipe.backbones.towers import TextTower
from featurepipe.backbones.trust import ALLOW, GIVE, check_input, check_room
from featurepipe.backbones.weights import OPTION, check_finite, first_line, load_weights, read_weights
from featurepipe.errors import BackboneError, DependencyMissing, WeightsUnavailable
from featurepipe.images import DEFAULT_DECODER, ImageTransform

if TYPE_CHECKING:
    from featurepipe.backbones.plain import Plain

PROJECTIONS = ("proj", "head.proj", "head.mlp")  # what they are called in a tower
QUICK = "-quickgelu"  # how the names of architectures end whose weights were trained with that activation
PREPARED = ("mean", "std", "interpolation", "resize_mode")  # of open_clip's words, those that weights may change
CROP_MODES = {"shortest": "center", "squash": "squash"}


class OpenClipTowers(Maker):
    """The architectures of open_clip, with the tag of their weights after a slash, or the path of a file."""

    family = "open_clip"

    def knows(self, name: Any) -> bool:
        """None without the family in front."""
        return False

    def create(self, name: Any, request: Request) -> Backbone:
        """See `Maker.create`; the one argument is ``projection``."""
        from featurepipe.backbones.plain import check_output

        called = f"open_clip:{name}"
        request.allow(called, "weights", "random_weights", "arguments", "precision", "transform")
        base, tag = _split(name)
        weights = request.weights or (tag if os.path.isfile(tag) else None)
        if (request.random_weights and (weights or tag)) or (request.weights and tag):
            raise BackboneError(f"{called}: random weights, a tag and a weights file exclude each other; give only one")
        if weights is None and not request.random_weights:
            base = _with_activation(base, tag, called, request)
        tower, prepared = _tower(base, None if weights else tag, _projects(request, called), request.seed, called)
        notes = [load_weights(tower, read_weights(Path(weights))[0], called)] if weights else []
        check_finite(tower, str(weights or called))
        transform = ImageTransform.from_mapping({**_transform(prepared, called), **request.transform})
        check_output(tower, transform, called)
        seed = request.seed if request.random_weights else None
        return assemble(
            tower,
            transform,
            request,
            name=called if seed is None else f"{called} (random weights, seed {seed})",
            architecture=f"open_clip:{base}",
            arguments={"projection": _projects(request, called)},
            source={
                "name": f"open_clip:{base}" if weights or not tag else f"open_clip:{base}/{tag}",
                "weights": None if weights is None else str(Path(weights).resolve()),
                "random_seed": seed,
            },
            notes=filter(None, notes),
        )

    def pair(self, name: Any, request: Request) -> tuple[Backbone, TextTower]:
        """The projected image tower, and the text tower of the same weights; see `Maker.pair`."""
        called = f"open_clip:{name}"
        images = self.create(name, replace(request, arguments={**request.arguments, "projection": True}))
        base, tag = _split(images.source["name"].removeprefix("open_clip:"))
        weights, seed = images.source["weights"], images.source["random_seed"]
        model, _ = _model(base, tag, seed or 0, called)
        if weights:
            _load_whole(model, Path(weights), called)
        model.visual = None  # the backbone has its own
        return images, TextTower(_encoder(model.eval(), base, called), float(model.logit_scale.detach().exp()))

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`."""
        name = spec["architecture"] if origin.weights else origin.source["name"]
        base, tag = _split(name.removeprefix("open_clip:"))
        seed = None if origin.weights else origin.source["random_seed"]
        if not origin.trust:
            _check_described(base, tag, spec, origin)
        elif tag:
            origin.note(f"weights of {name}: from the cache of Hugging Face's hub, or downloaded from there")
        return {
            "name": name,
            "weights": origin.weights,
            "random_weights": seed is not None,
            "seed": seed or 0,
            **{key: spec[key] for key in ("arguments", "transform", "precision")},
        }

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """open_clip's, with the tags of their weights if they shall have some; none unless it is there or asked for."""
        if importlib.util.find_spec("open_clip") is None and not pattern.startswith("open_clip:"):
            return []
        open_clip = require_open_clip()
        tagged = [f"open_clip:{base}/{tag}" for base, tag in open_clip.list_pretrained()]
        found = tagged if pretrained else [f"open_clip:{base}" for base in open_clip.list_models()]
        return [name for name in found if fnmatch(name, pattern)]

    def files(self, name: Any, weights: Path | None) -> Iterable[Path]:
        """A weights file, wherever it is given."""
        tag = name.partition("/")[2]
        return [path for path in (weights, Path(tag) if os.path.isfile(tag) else None) if path is not None]

    def fetches(self, name: Any) -> bool:
        """All but those of a file."""
        return bool(tag := _split(name)[1]) and not os.path.isfile(tag)


def _split(name: str) -> tuple[str, str]:
    """The architecture, and the tag or file of the weights, which may be empty; BackboneError for an unknown one."""
    base, _, tag = name.partition("/")
    known = require_open_clip().list_models()
    if base not in known:
        near = difflib.get_close_matches(base, known, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "list names with: featurepipe backbones 'open_clip:*'"
        raise BackboneError(f"open_clip has no architecture {base!r}; {hint}")
    return base, tag


def _with_activation(base: str, tag: str, called: str, request: Request) -> str:
    """The architecture with the activation that the weights of a tag were trained with."""
    open_clip = require_open_clip()
    known = open_clip.list_pretrained_tags_by_model(base)
    found = open_clip.get_pretrained_cfg(base, tag) if tag else None
    if not found:
        what = f"it has no weights {tag!r}" if tag else "say which weights"
        tags = f"write open_clip:{base}/TAG with {', '.join(known)}" if known else "open_clip has none for it"
        raise BackboneError(f"{called}: {what}; {tags}, or give a file {OPTION}, or --random-weights")
    quick = f"{base.removesuffix(QUICK)}{QUICK}"
    return quick if found.get("quick_gelu") and quick in open_clip.list_models() else base


def _tower(base: str, tag: str | None, projection: bool, seed: int, called: str) -> tuple[Plain, dict[str, Any]]:
    """An image tower, and how open_clip prepares images for it; random where there is no tag."""
    from featurepipe.backbones.plain import Plain

    model, prepared = _model(base, tag, seed, called)
    tower = model.visual
    if hasattr(tower, "output_tokens"):
        tower.output_tokens = False
    if not projection:
        _cut(tower, called)
    return Plain(tower, () if projection else PROJECTIONS), {**prepared, **({} if tag else _common(base))}


def _load_whole(model: Any, weights: Path, called: str) -> None:
    """Load both towers from a file."""
    from featurepipe.backbones.plain import Plain

    try:
        load_weights(Plain(model), read_weights(weights)[0], called)
    except BackboneError as error:
        raise BackboneError(f"{weights} does not hold both towers of {called}: {error}") from error


def _encoder(model: Any, base: str, called: str) -> Callable[[Sequence[str]], np.ndarray]:
    """Prompts → vectors (n, D), by a model's text tower and its own tokenizer."""
    import torch

    try:
        tokenizer = require_open_clip().get_tokenizer(base)
    except (OSError, ValueError, RuntimeError, ImportError) as error:  # some are on a hub
        raise WeightsUnavailable(
            f"the tokenizer of {called} cannot be made ({first_line(error)}); fetch it where the hub can be reached"
        ) from error

    def encode(prompts: Sequence[str]) -> np.ndarray:
        with torch.no_grad():
            return model.encode_text(tokenizer(list(prompts))).float().numpy()

    return encode


def _model(base: str, tag: str | None, seed: int, called: str) -> tuple[Any, dict[str, Any]]:
    """A model with both towers, and how open_clip prepares images for it; random where there is no tag."""
    import torch

    open_clip = require_open_clip()
    try:
        with torch.random.fork_rng(devices=[]), quiet("open_clip", "root"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(seed)
            model = open_clip.create_model(base, pretrained=tag or None, pretrained_text=False)
    except (RuntimeError, OSError, ValueError) as error:  # a hub that is not reached is a RuntimeError there
        raise WeightsUnavailable(
            f"{called} cannot be made ({first_line(error)}); weights that were downloaded elsewhere are given {OPTION}"
        ) from error
    return model, open_clip.get_model_preprocess_cfg(model)


def _cut(tower: Any, called: str) -> None:
    """Take the projection out."""
    import torch

    if getattr(tower, "proj", None) is not None:
        tower.proj = None
        return
    for name in ("proj", "mlp"):
        if hasattr(getattr(tower, "head", None), name):
            setattr(tower.head, name, torch.nn.Identity())
            return
    raise BackboneError(
        f"{called} has no projection that could be left out, as its pooling projects; "
        "take the projected embedding: --backbone-arg projection=True (arguments={'projection': True} in Python)"
    )


def _common(base: str) -> dict[str, Any]:
    """How images are prepared for all weights that open_clip has for an architecture, where that is one way."""
    open_clip = require_open_clip()
    found = [open_clip.get_pretrained_cfg(base, tag) for tag in open_clip.list_pretrained_tags_by_model(base)]
    ways = [{key: one[key] for key in PREPARED if one.get(key)} for one in found]
    return ways[0] if ways and all(way == ways[0] for way in ways) else {}


def _transform(prepared: Mapping[str, Any], called: str) -> dict[str, Any]:
    """open_clip's words in timm's."""
    size, mode = prepared["size"], prepared["resize_mode"]
    if mode not in CROP_MODES:
        raise BackboneError(f"{called} prepares images by resize_mode {mode!r}, which featurepipe does not have")
    return {
        "input_size": (3, *(size if isinstance(size, list | tuple) else (size, size))),
        "interpolation": prepared["interpolation"],
        "mean": prepared["mean"],
        "std": prepared["std"],
        "crop_pct": 1.0,
        "crop_mode": CROP_MODES[mode],
        "decoder": DEFAULT_DECODER,
    }


def _projects(request: Request, called: str) -> bool:
    """Whether the embedding is the projected one."""
    if unknown := request.arguments.keys() - {"projection"}:
        raise BackboneError(f"{called} takes the argument projection alone, not {min(unknown)!r}")
    projection = request.arguments.get("projection", False)
    if not isinstance(projection, bool):
        raise BackboneError(f"{called}: projection is True or False, not {projection!r}")
    return projection


def _check_described(base: str, tag: str, spec: Mapping[str, Any], origin: Origin) -> None:
    """Refuse a description of a tower that asks for more than a file may."""
    who, weights = origin.who, origin.weights
    if tag:
        raise BackboneError(f"{who} wants open_clip to fetch the weights {tag!a} of {base}; {ALLOW}, or {GIVE}")
    size = spec["transform"]["input_size"]
    check_input(size, who)
    room = os.path.getsize(weights) if weights and os.path.isfile(weights) else 0
    check_room(lambda: _tower(base, None, bool(spec["arguments"].get("projection")), 0, who)[0], size, room, who)


def require_open_clip() -> ModuleType:
    """The library.

    Raises
    ------
    DependencyMissing
        It is not installed.
    """
    try:
        import open_clip
    except ImportError as error:
        raise DependencyMissing("open_clip:… needs open_clip: pip install 'featurepipe[open_clip]'") from error
    return open_clip
