"""Networks of transformers behind timm's methods: one vector of what they give for an image."""

from __future__ import annotations

from typing import Any

import torch

from featurepipe.backbones.plain import Plain

CLASS_TOKENS = ("cls_token", "class_embedding", "distillation_token")  # parameters that put a token before the patches


class Tokens(Plain):
    """An image model of transformers; its tensors are called as in the model itself.

    Parameters
    ----------
    network : PreTrainedModel
    pooling : str
        ``pooled``: what the model itself calls its pooled output. ``cls``: the first token of the last layer. ``mean``:
        the mean over its other tokens, without those of registers, or over all places of a map.
    """

    def __init__(self, network: Any, pooling: str) -> None:
        super().__init__(network, ("classifier", "pooler"))
        self.pooling, self.prefix = pooling, prefix_length(network)
        if pooling != "pooled" and has_pooler(network):
            network.pooler = None  # its weights decide nothing

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) → (B, D)."""
        found = self.network(pixel_values=x)
        if self.pooling == "pooled":
            return found.pooler_output.flatten(1)
        last = found.last_hidden_state.float()  # (B, T, D) or (B, D, h, w)
        if last.ndim == 4:
            return last.mean((2, 3))
        return last[:, 0] if self.pooling == "cls" else last[:, self.prefix :].mean(1)


def has_pooler(network: Any) -> bool:
    """Whether it makes its pooled output with weights of their own, which a file may lack."""
    pooler = getattr(network, "pooler", None)
    return isinstance(pooler, torch.nn.Module) and any(True for _ in pooler.parameters())


def prefix_length(network: Any) -> int:
    """How many tokens come before those of the patches."""
    names = {name.rpartition(".")[2] for name, _ in network.named_parameters()}
    count = sum(name in names for name in CLASS_TOKENS)
    return count + (getattr(network.config, "num_register_tokens", 0) or 0) if count else 0


def poolings_of(network: Any, size: tuple[int, int, int]) -> list[str]:
    """The poolings that an image model offers, the one that is its own first; tried on a black image."""
    with torch.inference_mode():
        found = network.eval()(pixel_values=torch.zeros(1, *size))
    pooled = ["pooled"] if found.get("pooler_output") is not None else []
    tokens = found.last_hidden_state.ndim == 3 and prefix_length(network) > 0
    return [*pooled, *(["cls"] if tokens else []), "mean"]
