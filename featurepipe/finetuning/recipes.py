"""What decides how a network is tuned: every trick by its name, each of them recorded in the model file."""

from __future__ import annotations

from dataclasses import dataclass, fields

from featurepipe.errors import FinetuningError
from featurepipe.finetuning.depths import check_depth
from featurepipe.images import AUGMENTATIONS
from featurepipe.signatures import documented
from featurepipe.vocabulary import TuneOptions
from featurepipe.vocabulary.names import OPTIMIZERS

PROBE, RANDOM = "probe", "random"
NO_AUGMENTATION = "none"
LEARNING_RATES = {"adamw": 3e-3, "sgd": 3e-2}  # for batches of 256; see `Recipe.lr`
WEIGHT_DECAYS = {"adamw": 0.05, "sgd": 0.0}


@documented(fields=TuneOptions)
@dataclass(frozen=True)
class Recipe(TuneOptions):
    """How a network is tuned.

    Parameters
    ----------
    fields
    """

    def check(self) -> None:
        """Raise FinetuningError for what cannot be done, before anything is read."""
        check_depth(self.tune)
        for name, known in (
            ("head", (PROBE, RANDOM)),
            ("optimizer", OPTIMIZERS),
            ("augment", (NO_AUGMENTATION, *AUGMENTATIONS)),
            ("batch_norm", ("eval", "train")),
            ("precision", ("auto", "fp32", "bf16")),
            ("class_weight", (None, "balanced")),
        ):
            if getattr(self, name) not in known:
                raise FinetuningError(f"{name} {getattr(self, name)!r} is unknown; use {', '.join(map(str, known))}")
        for name, fits, says in (
            ("epochs", self.epochs is None or self.epochs >= 1, "at least 1"),
            ("head_epochs", self.head_epochs >= 0, "0 or more"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("accumulate", 1 <= self.accumulate <= self.batch_size, "from 1 to the batch size"),
            ("lr", self.lr is None or 0 < self.lr < float("inf"), "above 0"),
            ("layer_decay", self.layer_decay is None or 0 < self.layer_decay <= 1, "above 0 and at most 1"),
            ("weight_decay", self.weight_decay is None or 0 <= self.weight_decay < float("inf"), "0 or more"),
            ("warmup", 0 <= self.warmup < 1, "from 0 to below 1"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "from 0 to below 1"),
            ("mixup", 0 <= self.mixup < float("inf"), "0 or more"),
            ("clip_grad", 0 <= self.clip_grad < float("inf"), "0 or more"),
            ("ema", 0 <= self.ema < 1, "from 0 to below 1"),
            ("l2_sp", 0 <= self.l2_sp < float("inf"), "0 or more"),
            ("patience", self.patience is not None and self.patience >= 0, "0 or more"),
            ("views", self.views >= 1, "at least 1"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not fits:
                raise FinetuningError(f"{name} is {getattr(self, name)}; it must be {says}")

    @property
    def peak_lr(self) -> float:
        """The highest learning rate."""
        if self.lr is not None:
            return self.lr
        return LEARNING_RATES[self.optimizer] * (self.batch_size / 256) ** (0.5 if self.optimizer == "adamw" else 1)

    @property
    def decay(self) -> float:
        """The weight decay."""
        return self.weight_decay if self.weight_decay is not None else WEIGHT_DECAYS[self.optimizer]

    @property
    def refits(self) -> bool:
        """Whether a network that is kept is trained once more."""
        return self.refit and not self.patience

    def epochs_for(self, images: int) -> int:
        """The number of epochs on this number of training images, without those of the head alone."""
        if self.epochs is not None:
            return self.epochs
        steps = -(-images // self.batch_size)  # per epoch
        return min(max(20, -(-500 // steps)), 100)


SWITCHES = tuple(field.name for field in fields(Recipe))
