"""Distillation: the embeddings that a teacher has of the very same views."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featurepipe import backbones
from featurepipe.backbones.makers import maker_of
from featurepipe.errors import PretrainingError, WeightsUnavailable
from featurepipe.images import ImageTransform
from featurepipe.manifests import Manifest
from featurepipe.media import Transform
from featurepipe.pretraining.bodies import Body
from featurepipe.pretraining.objectives.pretext import Inputs, Need, Pretext
from featurepipe.pretraining.pictures import Pictures
from featurepipe.pretraining.teachers import check_teacher, pupil_transform, teach
from featurepipe.stores import Pending
from featurepipe.vocabulary import PretrainOptions

STORE = "teacher.store"
TOGETHER = 64  # numbers of an embedding that are standardised at once
SMALLEST = 1e-6  # deviation of a number that the teacher never changes


class Taught(NamedTuple):
    """What a teacher said: embeddings, float32 (n, K, D), and its fingerprint."""

    wanted: np.ndarray
    teacher: str


class Distill(Pretext):
    """Matches a linear projection of the embedding with a teacher's, whose numbers are standardised.

    The teacher has embedded all views once (`featurepipe.pretraining.teachers`). Which view of a picture an epoch shows
    is drawn from the seed. What the teacher said is standardised in place, as a second copy may not fit into memory.

    References
    ----------
    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets"; Beyer et al. 2022, "Knowledge Distillation: A Good Teacher
    Is Patient and Consistent", which says why both have to see the same views.
    """

    reads: ClassVar[tuple[str, ...]] = ("teacher", "teacher_weights", "teacher_size", "views", "distance")

    def __init__(self, how: PretrainOptions, size: tuple[int, int], pictures: Pictures, extra: Any = None) -> None:
        super().__init__(how, size, pictures)
        assert isinstance(extra, Taught)
        self._teacher, wanted = extra.teacher, np.asarray(extra.wanted, np.float32)  # (n, K, D)
        standardise(wanted, pictures.learned)
        self.wanted = torch.from_numpy(wanted)

    @classmethod
    def check(cls, how: PretrainOptions, manifest: Manifest) -> None:
        """It needs a teacher, and the file of weights that is named."""
        if how.teacher is None:
            raise PretrainingError("the objective distill needs a teacher; name one with --teacher")
        maker_of(how.teacher)  # BackboneError for a name that nobody knows
        if how.teacher_weights is not None and not os.path.isfile(how.teacher_weights):
            raise WeightsUnavailable(
                f"the teacher's weights file {how.teacher_weights} does not exist; give its place with "
                "--teacher-weights (teacher_weights= in Python)"
            )

    @classmethod
    def transform(cls, need: Need, held: ImageTransform) -> tuple[Transform, int]:
        """Each picture as it is, and its views, all as large as the network's input."""
        own = replace(need.backbone.transform, decoder=held.decoder)
        return pupil_transform(own, need.how.augment, need.how.seed, need.how.views), 1 + need.how.views

    @classmethod
    def extras(cls, need: Need, pending: Sequence[Pending], learned: np.ndarray) -> tuple[Any, np.ndarray]:
        """The teacher's embeddings of all views of what is learned from."""
        how = need.how
        size = None if how.teacher_size is None else (3, how.teacher_size, how.teacher_size)
        options: dict[str, Any] = {"weights": how.teacher_weights, "device": how.device}
        options["transform"] = {"input_size": size}
        teacher = check_teacher(backbones.create(how.teacher, **options))
        asked = pending, learned, teacher, need.folder / STORE
        wanted = teach(*asked, how.augment, how.seed, how.views, need.workers, need.listener)
        return Taught(wanted, teacher.fingerprint), learned

    def sources(self) -> dict[str, str]:
        """The teacher, with its weights."""
        return {"teacher": self._teacher}

    def make_head(self, body: Body) -> nn.Module:
        """A linear layer."""
        return nn.Linear(body.width, self.wanted.shape[2])

    def prepare(self, pictures: Pictures, rows: np.ndarray, generator: torch.Generator, epoch: int) -> Any:
        """One view of each, 0…1 (B, 3, H, W), and what the teacher says of it, (B, D)."""
        views = self.wanted.shape[1]
        drawn = np.random.default_rng([self.how.seed, epoch]).integers(views, size=len(pictures))[rows]
        chosen, numbers = torch.from_numpy(rows), torch.from_numpy(drawn)
        pixels = pictures.pixels[chosen, 1 + numbers].to(generator.device)  # the first is the picture as it is
        return (pixels.float() / 255,), self.wanted[chosen, numbers].to(generator.device)

    def outputs(self, body: Body, head: nn.Module, inputs: Inputs) -> Tensor:
        """Projections (B, D)."""
        return head(body.embed(*inputs))

    def loss(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
        """1 - cosine, or the mean squared error."""
        if self.how.distance == "cosine":
            return (1 - F.cosine_similarity(outputs, targets)).sum(), float(len(targets))
        return (outputs - targets).square().mean(1).sum(), float(len(targets))


def standardise(wanted: np.ndarray, rows: np.ndarray) -> None:
    """Bring each of the D numbers of float32 (n, K, D) to mean 0 and deviation 1 over some rows, in place."""
    count = wanted.shape[2]
    for numbers in np.array_split(np.arange(count), max(1, count // TOGETHER)):
        some = wanted[:, :, numbers[0] : numbers[-1] + 1]
        own = some[rows]  # a copy
        middle, spread = own.mean((0, 1)), np.maximum(own.std((0, 1)), SMALLEST)
        some -= middle
        some /= spread
