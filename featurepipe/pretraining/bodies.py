"""The network that is pretrained, and parts of heads that lie above it meanwhile."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from featurepipe.backbones import Backbone
from featurepipe.errors import PretrainingError

FEWEST = 32  # channels of a decoder's last layers, at least


class Body(nn.Module):
    """A timm network that takes pixels of 0…1 and gives embeddings or maps.

    Parameters
    ----------
    backbone : Backbone
        Its module is trained itself: let nobody else use it meanwhile.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        transform = backbone.transform
        self.module: Any = backbone.module  # with timm's methods, which torch does not declare
        self.width, self.size, self.name = backbone.width, transform.input_size[1:], backbone.name
        self.register_buffer("mean", torch.tensor(transform.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(transform.std).view(-1, 1, 1))
        self.to(backbone.device)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels of 0…1, (B, 3, H, W), as the network takes them."""
        layout = torch.contiguous_format if pixels.device.type == "mps" else torch.channels_last
        return ((pixels - self.mean) / self.std).contiguous(memory_format=layout)

    def embed(self, pixels: Tensor) -> Tensor:
        """Embeddings (B, width), the same that featurepipe extracts."""
        module = self.module
        return module.forward_head(module.forward_features(self.normalise(pixels)), pre_logits=True)

    def maps(self, pixels: Tensor) -> Tensor:
        """The last features before pooling, (B, C, h, w); a transformer's patch tokens lie in their places.

        Raises
        ------
        PretrainingError
            The features are neither a map nor tokens that fill a rectangle.
        """
        found = self.module.forward_features(self.normalise(pixels))
        if not isinstance(found, Tensor) or found.ndim not in (3, 4):
            raise PretrainingError(f"{self.name} has no map of features for a decoder; choose another network")
        if found.ndim == 3:  # (B, N, C), with class and register tokens first
            found = found[:, getattr(self.module, "num_prefix_tokens", 0) :]
            rows, columns = self._grid(found.shape[1])
            return found.transpose(1, 2).reshape(len(found), -1, rows, columns)
        is_last = found.shape[-1] == self.module.num_features != found.shape[1]
        return found.permute(0, 3, 1, 2) if is_last else found

    def _grid(self, tokens: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        grid = getattr(getattr(self.module, "patch_embed", None), "grid_size", None)
        rows, columns = grid or (math.isqrt(tokens),) * 2
        if rows * columns != tokens:
            fixed = f"; add --backbone-arg img_size={self.size[0]}, or choose another network"
            raise PretrainingError(
                f"the {tokens} tokens that {self.name} has of an image of {self.size[0]} × {self.size[1]} pixels do "
                f"not fill its {rows} × {columns} places{fixed if grid else '; choose another network'}"
            )
        return rows, columns

    def channels(self) -> tuple[int, int, int]:
        """Channels, height and width of `maps`."""
        device = self.mean.device
        with torch.no_grad():
            _, *shape = self.eval().maps(torch.zeros(1, 3, *self.size, device=device)).shape
        return shape[0], shape[1], shape[2]


def make_projector(width: int, *layers: int) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them, the last one plain."""
    parts: list[nn.Module] = []
    for number in layers[:-1]:
        parts += [nn.Linear(width, number, bias=False), nn.BatchNorm1d(number), nn.ReLU()]
        width = number
    return nn.Sequential(*parts, nn.Linear(width, layers[-1]))


def make_decoder(body: Body, channels: int, size: tuple[int, int]) -> nn.Sequential:
    """A small convolutional decoder: maps (B, C, h, w) → (B, channels, *size).

    Its channels halve and its sides double from layer to layer.
    """
    width, height, _ = body.channels()
    hidden = max(FEWEST, min(width, 256))
    parts: list[nn.Module] = [nn.Conv2d(width, hidden, 1), nn.ReLU()]
    while height < size[0]:
        thinner = max(FEWEST, hidden // 2)
        parts += [nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(hidden, thinner, 3, padding=1, bias=False)]
        parts += [nn.BatchNorm2d(thinner), nn.ReLU()]
        hidden, height = thinner, 2 * height
    return nn.Sequential(*parts, nn.Upsample(size=size, mode="bilinear"), nn.Conv2d(hidden, channels, 1))
