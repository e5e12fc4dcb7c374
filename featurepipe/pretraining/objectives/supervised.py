"""Supervised: the classes of labelled pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featurepipe.errors import PretrainingError
from featurepipe.manifests import Manifest
from featurepipe.pretraining.bodies import Body
from featurepipe.pretraining.objectives.pretext import Inputs, Need, Pretext
from featurepipe.pretraining.pictures import Pictures
from featurepipe.stores import Pending
from featurepipe.vocabulary import PretrainOptions


class Supervised(Pretext):
    """Cross-entropy of classes under a linear layer.

    References
    ----------
    Kornblith et al. 2019, "Do Better ImageNet Models Transfer Better?".
    """

    def __init__(self, how: PretrainOptions, size: tuple[int, int], pictures: Pictures, extra: Any = None) -> None:
        super().__init__(how, size, pictures)
        self._classes = len(pictures.names)

    @classmethod
    def check(cls, how: PretrainOptions, manifest: Manifest) -> None:
        """It needs two classes at least."""
        labels = {one.label for one in manifest.samples if one.label is not None and one.split in (None, "train")}
        if len(labels) < 2:
            found = f"only the class {labels.pop()!r}" if labels else "no labels"
            raise PretrainingError(
                f"{manifest.root} has {found}, and the objective supervised learns classes; give class folders or a "
                "table with labels, or choose an objective without labels, such as contrastive"
            )

    @classmethod
    def extras(cls, need: Need, pending: Sequence[Pending], learned: np.ndarray) -> tuple[Any, np.ndarray]:
        """Nothing; what has no label is not learned from."""
        labels = {(one.place, one.part): one.label for one in need.manifest.samples}  # boxes of a photo have their own
        kept = np.array([labels[pending[row].place, pending[row].part] is not None for row in learned], bool)
        if not kept.all():
            need.listener.note(f"note: {(~kept).sum()} images have no label and are not learned from")
        return None, learned[kept]

    def make_head(self, body: Body) -> nn.Module:
        """A linear layer."""
        return nn.Linear(body.width, self._classes)

    def prepare(self, pictures: Pictures, rows: np.ndarray, generator: torch.Generator, epoch: int) -> Any:
        """A view of each, and its class number."""
        pixels = pictures.take(rows, str(generator.device))
        return (self.views(pixels, generator),), torch.from_numpy(pictures.classes[rows]).to(pixels.device)

    def outputs(self, body: Body, head: nn.Module, inputs: Inputs) -> Tensor:
        """Logits (B, K)."""
        return head(body.embed(*inputs))

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        """Cross-entropy."""
        return F.cross_entropy(outputs, targets, reduction="sum"), float(len(targets))
