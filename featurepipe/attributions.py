"""Which part of an image speaks for a class: gradients of its score at the last place where a network still sees where.

With A (C, h, w) the last map of features and s the score of a class, the map is Σ_c A · ∂s/∂A, and nothing where that
is below 0. Where a network ends in a mean over all places, ∂s/∂A is the same everywhere, and this is the class
activation map of Zhou et al. 2016, "Learning Deep Features for Discriminative Localization": the probe's own weights,
times the features. Elsewhere it is the elementwise form of Grad-CAM (Selvaraju et al. 2017); why the gradient is not
averaged first is in Draelos et al. 2020, "HiResCAM". Of transformers A are the tokens of the patches; where only a
class token goes on, those that the last block still mixes into it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurepipe.backbones import Backbone, Extractor, embedding_forward
from featurepipe.errors import BackboneError, ModelFileError
from featurepipe.graphs import HEADED, head_scores, normalisation
from featurepipe.images import ImageTransform
from featurepipe.models import Model
from featurepipe.surroundings import guarded

if TYPE_CHECKING:
    import torch

PREFIXES = 10  # tokens before those of the patches, at most, where a network does not say how many


def check(model: Model, backbone: Extractor, who: str) -> Backbone:
    """The model's network, where maps can be drawn of it.

    Raises
    ------
    ModelFileError
        The kind of probe has no score with a gradient.
    BackboneError
        It is not a network that torch runs on images.
    """
    if model.kind not in HEADED:
        raise ModelFileError(
            f"{who}: maps of a {model.kind} probe are not built; see the nearest training samples with: featurepipe "
            f"search STORE IMAGE, or use one of {', '.join(HEADED)}"
        )
    if not isinstance(backbone, Backbone) or not isinstance(backbone.transform, ImageTransform):
        raise BackboneError(
            f"{who}: maps are drawn of networks that torch runs on images, and {backbone.name} is not one; see the "
            "nearest training samples with: featurepipe search STORE IMAGE"
        )
    return backbone


@dataclass(frozen=True)
class _Place:
    """What a module gave, in the order of the forward pass."""

    output: torch.Tensor
    gradient: torch.Tensor


@guarded
def attribute(model: Model, backbone: Backbone, pixels: np.ndarray, number: int) -> np.ndarray:
    """How much each place of an image speaks for a class.

    Parameters
    ----------
    model : Model
    backbone : Backbone
        The model's, which `check` has let pass.
    pixels : ndarray of uint8, shape (C, H, W)
    number : int
        Place of the class in ``model.classes``.

    Returns
    -------
    ndarray of float32, shape (h, w)
        From 0 to 1, the strongest place; all 0 where nothing speaks for the class.

    Raises
    ------
    BackboneError
        The network has no place where it sees where.
    """
    import torch

    x = torch.from_numpy(pixels[None].astype(np.float32)).to(backbone.device).requires_grad_()  # (1, C, H, W)
    forward, scores = embedding_forward(backbone, "fp32", normalisation(backbone)), head_scores(model, backbone.device)
    outputs: list[torch.Tensor] = []
    with torch.enable_grad(), _recorded(backbone.module, outputs):
        score = _score(model, scores(forward(x)), number)
        gradients = torch.autograd.grad(score, outputs, allow_unused=True)
    places = [_Place(*pair) for pair in zip(outputs, gradients, strict=True) if pair[1] is not None]
    found = _last_map(places, backbone)
    if found is None:
        raise BackboneError(f"{backbone.name} gives no map of features or tokens of patches, so none can be drawn")
    strongest = float(found.max())
    return np.maximum(found, 0) / strongest if strongest > 0 else np.zeros_like(found)


def _score(model: Model, found: torch.Tensor, number: int) -> torch.Tensor:
    """The score of a class, of (1, K), against the mean of all: weights that all classes share say nothing of one."""
    if model.is_multi_label:
        return found[0, number]
    if found.shape[1] == 1:  # of two classes
        return found[0, 0] if number else -found[0, 0]
    return found[0, number] - found[0].mean()


@contextmanager
def _recorded(module: torch.nn.Module, into: list[torch.Tensor]) -> Iterator[None]:
    """Keep what all modules give that gradients flow through."""
    import torch

    def keep(_: Any, __: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.requires_grad and output.ndim in (3, 4):
            into.append(output)

    handles = [one.register_forward_hook(keep) for one in module.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _last_map(places: list[_Place], backbone: Backbone) -> np.ndarray | None:
    """The map (h, w) of the last place that has one through which anything flows.

    First among those as wide as the embedding. Of a small image a network may end in a map of 1×1; then the last map
    before it.
    """
    widths = {getattr(backbone.module, "num_features", backbone.width), backbone.width}
    prefix = getattr(backbone.module, "num_prefix_tokens", None)
    _, height, width = backbone.transform.shape
    readers: list[Callable[[_Place], np.ndarray | None]] = [
        lambda one: _of_map(one, widths),
        lambda one: _of_tokens(one, widths, prefix, height / width),
        lambda one: _of_map(one, {one.output.shape[1]}),
    ]
    for some in (readers[:2], readers[2:]):
        for found in (read(place) for place in reversed(places) for read in some):
            if found is not None and found.size > 1 and found.any():
                return found
    return None


def _of_map(place: _Place, widths: set[int]) -> np.ndarray | None:
    """Of (1, C, h, w), or (1, h, w, C) as in Swin; None of anything else, such as the heads of an attention."""
    if place.output.ndim != 4:
        return None
    axis = next((axis for axis in (1, 3) if place.output.shape[axis] in widths), None)
    return None if axis is None else _summed(place, axis)


def _of_tokens(place: _Place, widths: set[int], prefix: int | None, ratio: float) -> np.ndarray | None:
    """Of (1, N, C): the patches behind the class token and its like; None where their grid has another shape."""
    if place.output.ndim != 3 or place.output.shape[2] not in widths:
        return None
    count = place.output.shape[1]
    for first in range(min(PREFIXES, count)) if prefix is None else [prefix]:
        across = round(math.sqrt((count - first) / ratio))
        if across and (count - first) % across == 0 and math.isclose((count - first) / across**2, ratio):
            return _summed(place, 2)[first:].reshape(-1, across)
    return None


def _summed(place: _Place, axis: int) -> np.ndarray:
    """Features times gradients, summed over the features; without the axis of the batch."""
    return (place.output * place.gradient).sum(dim=axis)[0].detach().float().cpu().numpy()
