"""The end of making a network, the same for every family: frozen, tried on images, and given a spec and a precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featurepipe.backbones.clips import Clips
from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.makers.maker import Request
from featurepipe.backbones.networks import freeze, probe_widths
from featurepipe.backbones.precisions import choose_precision
from featurepipe.backbones.specs import TimmModule, make_spec
from featurepipe.backbones.weights import first_line
from featurepipe.digests import sha256_state_dict
from featurepipe.errors import BackboneError
from featurepipe.images import ImageTransform
from featurepipe.videos import VideoTransform
from featurepipe.vocabulary.names import PRECISIONS

ALL = "all"  # devices


def assemble(
    module: TimmModule,
    transform: ImageTransform,
    request: Request,
    *,
    name: str,
    architecture: str,
    arguments: Mapping[str, Any],
    source: Mapping[str, Any],
    notes: Iterable[str] = (),
) -> Backbone:
    """A backbone of a network that has its weights.

    Parameters
    ----------
    module : torch.nn.Module
        A timm network without classifier, or a `featurepipe.backbones.plain.Plain`.
    transform : ImageTransform, or a VideoTransform
    request : Request
        Its layer, pooling, precision and device count here.
    name : str
    architecture, arguments
        For the spec.
    source : mapping
        How to make it again.
    notes : iterable of str
        What a caller should know, a sentence each.
    """
    device = resolve_device(request.device)
    module = freeze(module, device)
    if request.precision not in ("auto", *PRECISIONS):
        raise BackboneError(f"precision {request.precision!r} is unknown; use auto, {', '.join(PRECISIONS)}")
    tried = "fp32" if request.precision == "auto" else request.precision
    (width,) = probe_widths(module, transform, [request.layer], request.pooling, tried, name)
    weights = sha256_state_dict(module.state_dict())
    kind: type[Any] = Clips if isinstance(transform, VideoTransform) else Backbone
    made = kind(
        name=name,
        module=module,
        spec=make_spec(architecture, arguments, weights, transform, request.layer, request.pooling, tried),
        source=dict(source),
        transform=transform,
        width=width,
        device=device,
        notes=tuple(f"note: {text}" for text in notes),
    )
    return made if request.precision == tried else made.adapted(precision=choose_precision(made))


def resolve_devices(devices: Sequence[str]) -> tuple[str, ...]:
    """Several devices as they are given; ``all``, alone, becomes every GPU of this machine.

    These are all CUDA devices (AMD's count as such), or else the GPU of a Mac.

    Raises
    ------
    BackboneError
        There is no GPU, or ``all`` is one of several.

    Examples
    --------
    >>> resolve_devices(["cpu", "cpu"])
    ('cpu', 'cpu')
    """
    import torch

    if ALL not in devices:
        return tuple(devices)
    if len(devices) > 1:
        raise BackboneError(f"devices {', '.join(devices)}: all means every GPU already; give it alone, or name each")
    if count := torch.cuda.device_count():
        return tuple(f"cuda:{number}" for number in range(count))
    if torch.backends.mps.is_available():
        return ("mps",)
    raise BackboneError("devices all: this machine has no GPU that PyTorch can use; leave out --devices to use the CPU")


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
