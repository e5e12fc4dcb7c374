"""Frozen networks: made by timm, and run in one place."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurepipe.backbones.specs import PENULTIMATE, Transform
from featurepipe.backbones.weights import first_line
from featurepipe.errors import BackboneError, WeightsUnavailable

if TYPE_CHECKING:
    import torch

BUNDLED = "bundled"
PRECISIONS = ("fp32", "bf16", "fp16")


def make_network(name: str, arguments: Mapping[str, Any], *, pretrained: bool, seed: int) -> torch.nn.Module:
    """A timm model without classifier; random initialisation leaves the global generator alone."""
    import timm
    import torch

    check_name(name)
    try:
        with torch.random.fork_rng(devices=[]), _quiet("huggingface_hub", "timm"):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every GPU
            return timm.create_model(name, pretrained=pretrained, num_classes=0, **arguments)
    except OSError as error:
        raise WeightsUnavailable(
            f"the weights of {name} cannot be downloaded ({first_line(error)}); "
            "give a file with --weights, or use the bundled backbone (-b bundled)"
        ) from error
    except Exception as error:  # timm's constructors raise anything on arguments that do not fit
        hint = "; give a file with --weights" if "No pretrained weights" in str(error) else ""
        raise BackboneError(f"timm cannot make {name}: {first_line(error)}{hint}") from error


@contextlib.contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Hold back a library's retry chatter; what goes wrong is raised and said once."""
    levels = {logger: logging.getLogger(logger).level for logger in loggers}
    for logger in loggers:
        logging.getLogger(logger).setLevel(logging.ERROR + 1)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logging.getLogger(logger).setLevel(level)


def repository_arguments(name: str) -> dict[str, Any]:
    """The model arguments in the config of an ``hf-hub:`` or ``local-dir:`` repository that timm has just read."""
    scheme, _, place = name.partition(":")
    if scheme == "local-dir":
        return json.loads((Path(place) / "config.json").read_text("utf-8")).get("model_args") or {}
    from timm.models import load_model_config_from_hf

    return load_model_config_from_hf(place)[2] or {}


def check_name(name: str) -> None:
    """Raise BackboneError with the nearest names unless timm knows this one."""
    import timm

    if ":" in name:  # hf-hub:… and local-dir:…; timm resolves them
        return
    architecture, dot, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = [BUNDLED, *timm.list_models()]
        near = difflib.get_close_matches(architecture, known, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "list names with: featurepipe backbones"
        raise BackboneError(f"no backbone is called {name!r}; {hint}")
    if dot:
        tags = [full for full in timm.list_pretrained(f"{architecture}.*") if full.partition(".")[0] == architecture]
        if name not in tags:
            known_tags = f"it has {', '.join(tags)}" if tags else "it has none"
            raise BackboneError(f"{architecture} has no pretrained weights {tag!r}; {known_tags}")


def freeze(module: torch.nn.Module) -> torch.nn.Module:
    """Evaluation mode, and no parameter that wants a gradient."""
    return module.eval().requires_grad_(False)


def set_pooling(module: torch.nn.Module, pooling: str, name: str) -> None:
    """Choose how the penultimate layer is pooled."""
    try:
        module.reset_classifier(0, pooling)
    except Exception as error:
        raise BackboneError(f"{name} cannot be pooled by {pooling!r}: {first_line(error)}") from error


def embed(
    module: torch.nn.Module, pixels: np.ndarray, transform: Transform, layer: str, pooling: str | None, precision: str
) -> np.ndarray:
    """The one place where a network runs: eval mode, inference mode, autocast, timm's normalisation."""
    import torch

    if pixels.dtype != np.uint8 or pixels.shape[1:] != transform.input_size:
        raise BackboneError(f"pixels are uint8 of shape (B, {transform.input_size}); got {pixels.dtype} {pixels.shape}")
    device = next(module.parameters()).device
    with torch.inference_mode():
        module.eval()  # a notebook may have called train() on it since
        x = torch.from_numpy(np.require(pixels, requirements="CW"))  # a view that torch may hold
        x = x.to(device).float().div_(255)  # (B, C, H, W), 0…1
        mean = torch.tensor(transform.mean, device=device).view(-1, 1, 1)
        std = torch.tensor(transform.std, device=device).view(-1, 1, 1)
        x = x.sub_(mean).div_(std)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        with (
            torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32"),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=precision != "fp32"),
        ):
            features = _forward(module, x, layer, pooling)  # (B, D)
        return features.float().cpu().numpy()


def _forward(module: torch.nn.Module, x: torch.Tensor, layer: str, pooling: str | None) -> torch.Tensor:
    if layer == PENULTIMATE:
        return module.forward_head(module.forward_features(x), pre_logits=True)
    index = int(layer.removeprefix("stage")) - 1
    (maps,) = module.forward_intermediates(x, indices=[index], intermediates_only=True)  # (B, D, h, w)
    return maps.amax((2, 3)) if pooling == "max" else maps.mean((2, 3))


def probe_width(
    module: torch.nn.Module, transform: Transform, layer: str, pooling: str | None, precision: str, name: str
) -> int:
    """Check layer and input size by one forward pass, and return the embedding's length."""
    if layer != PENULTIMATE:
        stages = len(getattr(module, "feature_info", ()))
        if layer not in (f"stage{number}" for number in range(1, stages + 1)):
            raise BackboneError(f"{name} has no layer {layer!r}; use penultimate, or stage1 to stage{stages}")
        if pooling not in (None, "avg", "max"):
            raise BackboneError(f"a stage is pooled by avg or max, not {pooling!r}")
    blank = np.zeros((1, *transform.input_size), np.uint8)
    try:
        features = embed(module, blank, transform, layer, pooling, precision)
    except Exception as error:  # whatever a network says to input that does not fit
        size = "×".join(map(str, transform.input_size))
        raise BackboneError(
            f"{name} does not run on {size} input: {first_line(error)}; "
            "check --input-size (a ViT needs --backbone-arg img_size=N beside it)"
        ) from error
    if features.ndim != 2:
        raise BackboneError(f"{name} with pooling {pooling!r} gives {features.ndim - 1}-D features; choose avg or max")
    return features.shape[1]
