"""Weights of EfficientNet-Lite as efficientnet-pytorch names them, under timm's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from featurepipe.backbones.specs import TimmModule

if TYPE_CHECKING:
    import torch

# All such files are ports from TensorFlow, which pads as the networks of these names do. They fit timm's
# efficientnet_lite0 as well, and are silently worse there.
PORTED = "tf_efficientnet_lite"
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def renamed(state: Mapping[str, torch.Tensor], model: TimmModule) -> dict[str, torch.Tensor]:
    """Tensors under the names that a network has for them; nothing for other networks.

    Blocks are numbered through in the file, and within their stage in timm. A KeyError or IndexError says that a file
    is something else.
    """
    if not model.pretrained_cfg.get("architecture", "").startswith(PORTED):
        return {}
    blocks = [f"blocks.{s}.{b}" for s, stage in enumerate(model.get_submodule("blocks")) for b, _ in enumerate(stage)]
    return {_renamed(key, state, blocks): tensor for key, tensor in state.items()}


def _renamed(key: str, state: Mapping[str, torch.Tensor], blocks: list[str]) -> str:
    *outer, part, leaf = key.split(".")
    if not outer:
        return f"{OUTSIDE[part]}.{leaf}"
    _, number = outer
    names = EXPANDED if f"_blocks.{number}._expand_conv.weight" in state else BLOCK
    return f"{blocks[int(number)]}.{names[part]}.{leaf}"
