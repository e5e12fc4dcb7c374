"""Contrastive: two views of a picture are to be more alike than views of other pictures."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featurepipe.pretraining.bodies import Body, make_projector
from featurepipe.pretraining.objectives.pretext import Inputs, Pretext, numbered
from featurepipe.pretraining.pictures import Pictures

PROJECTED = 128  # numbers that are compared


def nt_xent(outputs: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross-entropy, a mean over the 2·B views.

    Parameters
    ----------
    outputs : torch.Tensor, shape (B, 2, D)
        Two views of each picture.
    temperature : float

    Examples
    --------
    >>> round(nt_xent(torch.eye(4)[:, None].expand(4, 2, 4), 0.5).item(), 4)
    0.5944
    """
    flat = F.normalize(outputs.transpose(0, 1).flatten(0, 1), dim=1)  # (2·B, D), the second views after the first
    alike = flat @ flat.T / temperature
    alike.fill_diagonal_(float("-inf"))
    count = len(outputs)
    other = torch.arange(2 * count, device=outputs.device).roll(count)
    return F.cross_entropy(alike, other)


class TwoViews(Pretext):
    """What the objectives that compare two views of each picture have in common."""

    couples: ClassVar[bool] = True
    strength: ClassVar[float] = 0.5
    layers: ClassVar[tuple[int, ...]]

    def make_head(self, body: Body) -> nn.Module:
        """A perceptron."""
        return make_projector(body.width, *self.layers)

    def prepare(self, pictures: Pictures, rows: np.ndarray, generator: torch.Generator, epoch: int) -> Any:
        """Two views of each."""
        pixels = pictures.take(rows, str(generator.device))
        return (self.views(pixels, generator), self.views(pixels, generator)), numbered(rows, pixels.device)

    def outputs(self, body: Body, head: nn.Module, inputs: Inputs) -> Tensor:
        """Projections (B, 2, D); both views are one batch, also for batch norms."""
        found = head(body.embed(torch.cat(inputs)))  # (2·B, D)
        return torch.stack(found.chunk(2), dim=1)


class Contrastive(TwoViews):
    """SimCLR: NT-Xent of projections of two views, under a perceptron of two layers.

    References
    ----------
    Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations".
    """

    layers: ClassVar[tuple[int, ...]] = (512, PROJECTED)
    reads: ClassVar[tuple[str, ...]] = ("crop", "temperature")

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        """See `nt_xent`."""
        return nt_xent(outputs, self.how.temperature) * len(targets), float(len(targets))
