"""Any torch module behind the methods by which timm's networks are run, so that all of them run in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.networks import device_of
from featurepipe.backbones.weights import first_line
from featurepipe.errors import BackboneError
from featurepipe.images import ImageTransform

TRIALS = 2  # images; with one alone a lost batch dimension would not show


class Plain(torch.nn.Module):
    """A module whose output is the embedding (B, D), or a map of features (B, D, H, W), of which the mean is taken.

    Its tensors are called as in the module itself.

    Parameters
    ----------
    network : torch.nn.Module
    classifiers : sequence of str
        Names of classifiers that it has lost: weights files may hold them.
    """

    def __init__(self, network: torch.nn.Module, classifiers: Sequence[str] = ()) -> None:
        super().__init__()
        self.network = network
        self.pretrained_cfg = {"classifier": classifiers}  # where the readers of weights look for it
        self.register_buffer("_place", torch.empty(0), persistent=False)  # says the device where nothing else does

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) → (B, D) or (B, D, h, w)."""
        return self.network(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = True) -> torch.Tensor:
        """(B, D) or (B, D, h, w) → (B, D)."""
        return x.mean((2, 3)) if x.ndim == 4 else x

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # passed on
        """The network's own."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load what `state_dict` gives."""
        return self.network.load_state_dict(*args, **kwargs)


class PlainClips(Plain):
    """A module that takes clips (B, C, T, H, W), behind the methods of one that takes their frames.

    Parameters
    ----------
    network, classifiers
        As for `Plain`; its output is the embedding (B, D).
    length : int
        Frames of a clip.
    """

    def __init__(self, network: torch.nn.Module, length: int, classifiers: Sequence[str] = ()) -> None:
        super().__init__(network, classifiers)
        self._length = length

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B·T, C, H, W) → (B, D)."""
        return self.network(x.unflatten(0, (-1, self._length)).transpose(1, 2))


def check_output(module: Plain, transform: ImageTransform, name: str) -> bool:
    """Try a module on its device; whether it gives a map of features, of which the mean is taken.

    Raises
    ------
    BackboneError
        It fails, or gives anything but a vector or a map for each image.
    """
    x = torch.zeros(TRIALS, *transform.input_size, device=device_of(module))
    try:
        with torch.inference_mode():
            found = module.eval().forward_features(x)
    except Exception as error:  # whatever a module says to input that does not fit
        size = "×".join(map(str, transform.input_size))
        raise BackboneError(
            f"{name} does not run on {size} input: {first_line(error)}; check the transform's input_size"
        ) from error
    wanted = "a tensor of shape (B, D) or (B, D, H, W)"
    if not isinstance(found, torch.Tensor):
        raise BackboneError(
            f"{name} gives a {type(found).__name__}, not {wanted}; wrap it in a module that returns that tensor"
        )
    if found.ndim not in (2, 4) or len(found) != TRIALS or not found.is_floating_point():
        raise BackboneError(
            f"{name} gives {found.dtype} of shape {tuple(found.shape)} for {TRIALS} images, not {wanted} of floats; "
            "wrap it in a module that returns one vector for each image"
        )
    return found.ndim == 4


def check_repeatable(backbone: Backbone) -> None:
    """Refuse a network that gives different vectors for the same images, although it is in evaluation mode."""
    pixels = backbone.transform.trial(TRIALS)
    if not np.allclose(backbone.embed(pixels), backbone.embed(pixels), rtol=1e-3, atol=1e-5, equal_nan=True):
        raise BackboneError(
            f"{backbone.name} gives different vectors for the same images, even in evaluation mode; "
            "take the randomness out of it, such as functional.dropout without training=self.training"
        )
