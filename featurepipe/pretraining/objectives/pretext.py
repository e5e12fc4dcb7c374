"""The seam of pretexts: what a network is asked, so that it learns to see; each a file in this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from featurepipe.backbones import Backbone
from featurepipe.finetuning.objectives import Row
from featurepipe.images import ImageTransform
from featurepipe.listeners import Listener
from featurepipe.manifests import Manifest
from featurepipe.media import IMAGE, Transform
from featurepipe.pretraining.augmentations import Views
from featurepipe.pretraining.bodies import Body
from featurepipe.pretraining.figures import KNN, LINEAR, probe_figures
from featurepipe.pretraining.pictures import Pictures
from featurepipe.stores import Pending
from featurepipe.vocabulary import PretrainOptions

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Need:
    """What an objective may go by when it says what it needs.

    Attributes
    ----------
    how : PretrainOptions
    manifest : Manifest
    table : Path
        What that was read from.
    path_column : str
        Its column of files, if it is a table.
    backbone : Backbone
        That is trained.
    folder : Path
        For what is to be kept beside the checkpoint.
    workers : int or None
    listener : Listener
    """

    how: PretrainOptions
    manifest: Manifest
    table: Path
    path_column: str
    backbone: Backbone
    folder: Path
    workers: int | None
    listener: Listener


class Pretext(ABC):
    """What a network is pretrained for: a `featurepipe.finetuning.Objective` that also makes its inputs and its head.

    Parameters
    ----------
    how : PretrainOptions
    size : tuple of int
        Height and width of the network's input.
    pictures : Pictures
    extra : object
        What `extras` gave: sounds, or a teacher's embeddings.

    Attributes
    ----------
    media : tuple of str
        What it learns from.
    couples : bool
        Whether its loss compares the rows of a batch with each other.
    columns : tuple of str
        Columns of a table that it reads itself.
    strength : float
        How much its views change colours; see `featurepipe.pretraining.augmentations.Views`.
    reads : tuple of str
        Fields of `PretrainOptions` that it reads, of those that not every objective does.
    """

    media: ClassVar[tuple[str, ...]] = (IMAGE,)
    couples: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ()
    strength: ClassVar[float] = 0.0
    reads: ClassVar[tuple[str, ...]] = ("crop",)

    def __init__(self, how: PretrainOptions, size: tuple[int, int], pictures: Pictures, extra: Any = None) -> None:
        self.how, self.size = how, size
        crops = how.augment != "none"
        self.views = Views(size, how.crop if crops else 1.0, how.augment == "standard", self.strength)

    @classmethod  # noqa: B027  # most learn from any samples
    def check(cls, how: PretrainOptions, manifest: Manifest) -> None:
        """Raise PretrainingError for options and samples that it cannot learn from, before anything is read."""

    @classmethod
    def transform(cls, need: Need, held: ImageTransform) -> tuple[Transform, int]:
        """How pictures are decoded, and how many views of each that gives: as they are held, where nothing else is
        said.
        """
        return held, 1

    @classmethod
    def extras(cls, need: Need, pending: Sequence[Pending], learned: np.ndarray) -> tuple[Any, np.ndarray]:
        """What it needs besides pictures, and which of the rows that would be learned from have it."""
        return None, learned

    def sources(self) -> dict[str, str]:
        """What it learns from besides pictures and files of weights, in words, to a digest of its content."""
        return {}

    @abstractmethod
    def make_head(self, body: Body) -> nn.Module:
        """What lies above the network in training, and is thrown away."""

    @abstractmethod
    def prepare(self, pictures: Pictures, rows: np.ndarray, generator: torch.Generator, epoch: int) -> Any:
        """Inputs and targets of a batch: a tuple of tensors (B, …), and a tensor (B, …)."""

    @abstractmethod
    def outputs(self, body: Body, head: nn.Module, inputs: Inputs) -> Tensor:
        """What the loss takes, (B, …)."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        """See `featurepipe.finetuning.Objective.loss`."""

    def validate(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """See `featurepipe.pretraining.figures.probe_figures`."""
        return probe_figures(outputs, targets)

    def better(self, curve: Sequence[Row], best: int) -> bool:
        """Whether the last epoch had the lowest loss so far: it decides only where training ends early."""
        before, last = curve[best]["train_loss"], curve[-1]["train_loss"]
        return before is None or last < before

    def stale(self, curve: Sequence[Row]) -> int:
        """Nothing is ever stale: a pretext's loss falls to the last epoch."""
        return 0

    def tell(self, row: Row) -> str:
        """The probes, where they were measured."""
        if KNN not in row:
            return ""
        return f"kNN {100 * row[KNN]:.1f} %, linear probe {100 * row[LINEAR]:.1f} % of {row['n']} held-back images"


def numbered(rows: np.ndarray, device: torch.device) -> Tensor:
    """Targets of an objective that has none: the rows' numbers, int64 (B,)."""
    return torch.from_numpy(rows).to(device)
