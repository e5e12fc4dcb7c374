"""What a network is trained for: the loss of a batch, the figures of validation data, and which epoch is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from featurepipe import probes
from featurepipe.finetuning.choices import better
from featurepipe.finetuning.recipes import Recipe
from featurepipe.probes.metrics import log_loss, softmax

if TYPE_CHECKING:
    import torch

Row = Mapping[str, Any]  # of a curve


class Objective(Protocol):
    """The seam that everything a network can be trained for plugs into.

    One whose loss compares the rows of a batch with each other says so by an attribute ``couples = True``: if memory is
    too small for a batch, its rows are then embedded piece by piece, and compared as a whole all the same.
    """

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The sum of the losses of some rows, outputs (B, K) and targets (B, …); and what to divide it by."""
        ...

    def validate(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """Figures of validation data, outputs float64 (n, K); a figure that is not finite ends the training."""
        ...

    def better(self, curve: Sequence[Row], best: int) -> bool:
        """Whether the last epoch of a curve is to be kept instead of epoch `best`, where training ends early."""
        ...

    def stale(self, curve: Sequence[Row]) -> int:
        """How many epochs have passed since any figure was better than all before."""
        ...

    def tell(self, row: Row) -> str:
        """The validation figures of an epoch, in words."""
        ...


class Classes:
    """One class per image: cross-entropy, judged by top-1 and log-loss.

    Parameters
    ----------
    label_smoothing : float
    weights : torch.Tensor, shape (K,), optional
        Weights of the classes.
    """

    def __init__(self, label_smoothing: float = 0.0, weights: torch.Tensor | None = None) -> None:
        self._options: dict[str, Any] = {"reduction": "sum", "label_smoothing": label_smoothing, "weight": weights}
        self._weights = weights

    @classmethod
    def of(cls, recipe: Recipe, targets: np.ndarray, like: torch.Tensor) -> Classes:
        """As a recipe has it.

        Parameters
        ----------
        recipe : Recipe
        targets : ndarray of int64, shape (n,)
            Class numbers of all training images, for class weights under which every class counts alike.
        like : torch.Tensor, shape (K, D)
            The head's weights, where the class weights shall be too.
        """
        if recipe.class_weight is None:
            return cls(recipe.label_smoothing)
        counts = np.bincount(targets, minlength=len(like))
        weights = like.new_tensor(counts.sum() / (len(counts) * np.maximum(counts, 1)))
        return cls(recipe.label_smoothing, weights)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, float]:
        """See `Objective.loss`; targets are class numbers (B,)."""
        import torch

        total = torch.nn.functional.cross_entropy(outputs, targets, **self._options)
        return total, float(len(targets)) if self._weights is None else self._weights[targets].sum().item()

    def validate(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """Top-1 and log-loss, and of how many.

        The log-loss is that at the temperature that suits these very logits best, as the finished model will have it:
        a network grows sure of itself long before it grows worse.
        """
        top1, loss = float((outputs.argmax(axis=1) == targets).mean()), math.nan
        if np.isfinite(outputs).all():
            temperature = probes.fit_temperature(outputs, targets, np.arange(outputs.shape[1]))
            loss = log_loss(softmax(outputs, temperature), targets)
        return {"top1": top1, "log_loss": loss, "n": len(targets)}

    def better(self, curve: Sequence[Row], best: int) -> bool:
        """See `featurepipe.finetuning.better`."""
        return better(curve, best)

    def stale(self, curve: Sequence[Row]) -> int:
        """Epochs since top-1 or log-loss was better than ever."""
        rows = range(len(curve))
        by_top1 = max(rows, key=lambda i: (curve[i]["top1"], -i))
        by_loss = min(rows, key=lambda i: (curve[i]["log_loss"], i))
        return len(curve) - 1 - max(by_top1, by_loss)

    def tell(self, row: Row) -> str:
        """Accuracy and log-loss, and on how many images."""
        accuracy = f"accuracy on {row['n']} held-back images {100 * row['top1']:.1f} %"
        return f"{accuracy}, calibrated log-loss {row['log_loss']:.3f}"
