"""Frozen networks: made by timm, and run in one place."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
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
_THREAD = threading.local()


def make_network(name: str, arguments: Mapping[str, Any], *, pretrained: bool, seed: int) -> torch.nn.Module:
    """A timm model without classifier; random initialisation leaves the global generator alone."""
    import timm
    import torch

    check_name(name)
    try:
        with torch.random.fork_rng(devices=[]), quiet("huggingface_hub", "timm"):
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
def quiet(*loggers: str) -> Iterator[None]:
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


def with_tag(name: str) -> str:
    """A timm name with the tag of the weights that it stands for.

    Examples
    --------
    >>> with_tag("resnet50"), with_tag("hf-hub:timm/resnet18.a1_in1k"), with_tag("my own")
    ('resnet50.a1_in1k', 'resnet18.a1_in1k', 'my own')
    """
    from timm.models import get_pretrained_cfg

    name = name.rpartition("/")[2] if name.startswith("hf-hub:") else name
    config = None if "." in name else get_pretrained_cfg(name)
    return f"{name}.{config.tag}" if config is not None and config.tag else name


def freeze(module: torch.nn.Module) -> torch.nn.Module:
    """Evaluation mode, no parameter that wants a gradient, and the memory layout that convolutions are fastest in."""
    import torch

    return module.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def set_pooling(module: torch.nn.Module, pooling: str, name: str) -> None:
    """Choose how the penultimate layer is pooled."""
    try:
        module.reset_classifier(0, pooling)
    except Exception as error:
        raise BackboneError(f"{name} cannot be pooled by {pooling!r}: {first_line(error)}") from error


def make_forward(
    module: torch.nn.Module, transform: Transform, layer: str, pooling: str | None, precision: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function that runs a network: uint8 (B, C, H, W) on its device → float32 (B, D).

    The one place where that happens: timm's normalisation on the device, autocast, the layer, its pooling.
    """
    import torch

    device = next(module.parameters()).device
    mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (transform.mean, transform.std))
    shift, scale = 255 * mean, 1 / (255 * std)  # of pixels 0…255, so that no pass is needed to bring them to 0…1
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.to(torch.float32, memory_format=torch.channels_last).sub(shift).mul(scale)  # (B, C, H, W)
        with torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32"):
            maps = _features(module, x, layer)
        return _pooled(module, maps.float(), layer, pooling)  # in fp32: a mean over many positions, rounded only then

    return forward


def embed(
    forward: Callable[[torch.Tensor], torch.Tensor], module: torch.nn.Module, pixels: np.ndarray, precision: str
) -> np.ndarray:
    """Run a `make_forward` function, or its compiled twin, on pixels; float32 (B, D). Threads may share it."""
    import torch

    device = next(module.parameters()).device
    module.eval()  # a notebook may have called train() on it since
    x = torch.from_numpy(np.require(pixels, requirements="CW"))  # a view that torch may hold
    with torch.inference_mode():
        if device.type != "cuda":
            return forward(x.to(device)).cpu().numpy()
        # A stream of each thread's own: one thread's copies run beside another's kernels. Flags are the process's.
        with (
            torch.cuda.stream(_thread_stream(device)),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=precision != "fp32"),
        ):
            return forward(x.pin_memory().to(device, non_blocking=True)).cpu().numpy()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is any of the ways in which torch says that memory has run out."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error).lower()  # the CPU's allocator and MPS raise a plain RuntimeError; oneDNN cannot make an object
    return any(words in said for words in ("out of memory", "not enough memory", "can't allocate memory"))


def _thread_stream(device: torch.device) -> torch.cuda.Stream:
    """The calling thread's own stream on a CUDA device."""
    import torch

    streams = vars(_THREAD).setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)
    return streams[device]


def _features(module: torch.nn.Module, x: torch.Tensor, layer: str) -> torch.Tensor:
    """The layer's feature map or tokens, not yet pooled."""
    if layer == PENULTIMATE:
        return module.forward_features(x)
    index = int(layer.removeprefix("stage")) - 1
    (maps,) = module.forward_intermediates(x, indices=[index], intermediates_only=True)  # (B, D, h, w)
    return maps


def _pooled(module: torch.nn.Module, maps: torch.Tensor, layer: str, pooling: str | None) -> torch.Tensor:
    """(B, D) of feature maps or tokens."""
    if layer == PENULTIMATE:
        return module.forward_head(maps, pre_logits=True)
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
        features = embed(make_forward(module, transform, layer, pooling, precision), module, blank, precision)
    except Exception as error:  # whatever a network says to input that does not fit
        size = "×".join(map(str, transform.input_size))
        raise BackboneError(
            f"{name} does not run on {size} input: {first_line(error)}; "
            "check --input-size (a ViT needs --backbone-arg img_size=N beside it)"
        ) from error
    if features.ndim != 2:
        raise BackboneError(f"{name} with pooling {pooling!r} gives {features.ndim - 1}-D features; choose avg or max")
    return features.shape[1]
