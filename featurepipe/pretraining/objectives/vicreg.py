"""VICReg: two views agree, every number varies over a batch, and no two numbers say the same."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from featurepipe.pretraining.objectives.contrastive import TwoViews

INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0  # weights of the three terms, the paper's
LEAST = 1e-4  # that is added to a variance


def vicreg(one: Tensor, other: Tensor) -> Tensor:
    """The loss of two views' projections, each (B, D): invariance, variance, covariance.

    Examples
    --------
    >>> import torch
    >>> round(vicreg(torch.zeros(8, 4), torch.zeros(8, 4)).item(), 2)
    24.75
    """
    invariance = F.mse_loss(one, other)
    variance = sum(F.relu(1 - (view.var(0) + LEAST).sqrt()).mean() / 2 for view in (one, other))
    covariance = sum(_covariance(view) for view in (one, other))
    return INVARIANCE * invariance + VARIANCE * variance + COVARIANCE * covariance


def _covariance(view: Tensor) -> Tensor:
    """The mean over numbers of their squared covariances with the others."""
    centred = view - view.mean(0)
    matrix = centred.T @ centred / (len(view) - 1)  # (D, D)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / len(matrix)


class Vicreg(TwoViews):
    """VICReg, under an expander of three layers; it needs no large batches.

    References
    ----------
    Bardes, Ponce, LeCun 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning".
    """

    layers: ClassVar[tuple[int, ...]] = (1024, 1024, 1024)

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        """See `vicreg`."""
        return vicreg(outputs[:, 0], outputs[:, 1]) * len(targets), float(len(targets))
