"""Colours: CIE Lab of RGB, and the bins of *ab* that a screen can show."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

GRID = 10  # sides of a bin
REACH = 110  # of a and b, to either side
NEAREST = 5  # bins that a colour is spread over
DEVIATION = 5.0  # of that spreading, and of the smoothing of how common bins are
UNIFORM = 0.5  # share of the uniform distribution in what weights are made of
STEPS = 128  # levels of each primary colour that the gamut is looked for at
CANDIDATES = 9  # bins near a cell of the grid, among which the nearest ones are looked for
# sRGB to XYZ under D65 (IEC 61966-2-1), each row by its white, so that Lab's cube roots take shares.
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
SHARES = (TO_XYZ / TO_XYZ.sum(1, keepdims=True)).astype(np.float32)
EPSILON, KAPPA = 216 / 24389, 24389 / 27  # CIE 15:2004


def lab_of(pixels: Tensor) -> Tensor:
    """CIE Lab of sRGB.

    Parameters
    ----------
    pixels : torch.Tensor, shape (B, 3, …)
        From 0 to 1.

    Returns
    -------
    torch.Tensor, shape (B, 3, …)
        L from 0 to 100, and a and b.

    Examples
    --------
    >>> lab_of(torch.tensor([[1.0, 0.0, 0.0]])).round().tolist()  # red
    [[53.0, 80.0, 67.0]]
    """
    linear = torch.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055).clamp(min=0) ** 2.4)
    xyz = torch.einsum("ij,bj...->bi...", torch.from_numpy(SHARES).to(pixels.device), linear)
    root = torch.where(xyz > EPSILON, xyz.clamp(min=EPSILON) ** (1 / 3), (KAPPA * xyz + 16) / 116)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


@lru_cache(1)
def gamut() -> np.ndarray:
    """The middles of all bins that some colour of sRGB falls into, float32 (Q, 2).

    There are 262 of them. Zhang et al. count 313, by a table of their own that also has bins that no colour falls into.
    """
    levels = torch.linspace(0, 1, STEPS)
    colours = torch.cartesian_prod(levels, levels, levels)  # (STEPS³, 3)
    bins = (lab_of(colours)[:, 1:] / GRID).round().int()
    return (torch.unique(bins, dim=0) * GRID).float().numpy()


class BinTable:
    """Bins of *ab*, and which of them are near each cell of the grid.

    Attributes
    ----------
    middles : torch.Tensor of float32, shape (Q, 2)
    """

    def __init__(self) -> None:
        self.middles = torch.from_numpy(gamut())
        self._side = 2 * REACH // GRID + 1
        steps = torch.arange(-REACH, REACH + 1, GRID).float()
        cells = torch.cartesian_prod(steps, steps)  # (side², 2)
        self._near = torch.cdist(cells, self.middles).topk(CANDIDATES, largest=False).indices  # (side², 9)

    def __len__(self) -> int:
        return len(self.middles)

    def spread(self, ab: Tensor) -> tuple[Tensor, Tensor]:
        """The five bins nearest to each colour, and the share of each.

        Parameters
        ----------
        ab : torch.Tensor, shape (B, 2, h, w)

        Returns
        -------
        numbers : torch.Tensor of int64, shape (B, h, w, 5)
            The nearest first.
        shares : torch.Tensor of float32, shape (B, h, w, 5)
            They sum to 1.
        """
        places = ab.movedim(1, -1).float()  # (B, h, w, 2)
        cells = ((places + REACH) / GRID).round().long().clamp(0, self._side - 1)
        near = self._near.to(ab.device)[cells[..., 0] * self._side + cells[..., 1]]  # (B, h, w, 9)
        squared = (self.middles.to(ab.device)[near] - places[..., None, :]).square().sum(-1)
        least, order = squared.topk(NEAREST, largest=False)
        return near.gather(-1, order), (-least / (2 * DEVIATION**2)).softmax(-1)

    def counts(self, ab: Tensor) -> Tensor:
        """How many of the colours (n, 2, h, w) are nearest to each bin, int64 (Q,)."""
        return torch.bincount(self.spread(ab)[0][..., 0].flatten(), minlength=len(self))

    def weights(self, counts: Tensor) -> Tensor:
        """How much each bin counts, (Q,), given how common it is, (Q,); 1 on average."""
        smooth = (-torch.cdist(self.middles, self.middles).double().square() / (2 * DEVIATION**2)).exp()
        smooth = smooth / smooth.sum(1, keepdim=True)
        common = counts.double() @ smooth / counts.sum()  # (Q,)
        rare = 1 / ((1 - UNIFORM) * common + UNIFORM / len(self))
        return (rare / (rare * common).sum()).float()
