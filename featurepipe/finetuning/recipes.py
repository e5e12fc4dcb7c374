"""What decides how a network is tuned: every trick by its name, each of them recorded in the model file."""

from __future__ import annotations

from dataclasses import dataclass, fields

from featurepipe.errors import FinetuningError
from featurepipe.finetuning.depths import ALL, check_depth
from featurepipe.images import AUGMENTATIONS

OPTIMIZERS = ("adamw", "sgd")
PROBE, RANDOM = "probe", "random"
NO_AUGMENTATION = "none"
LEARNING_RATES = {"adamw": 3e-3, "sgd": 3e-2}  # for batches of 256; see `Recipe.lr`
WEIGHT_DECAYS = {"adamw": 0.05, "sgd": 0.0}


@dataclass(frozen=True)
class Recipe:
    """How a network is tuned.

    Parameters
    ----------
    tune : str
        How deep to tune: ``head``, ``last-N`` blocks, ``stageK+`` or ``all``; ``auto`` follows `featurepipe.advise`.
    head : {'probe', 'random'}
        What the head starts from: the probe (LP-FT), or a small random layer.
    epochs : int, optional
        Passes over the images. By default 20, or as many as make 500 steps, but no more than 100.
    head_epochs : int
        Epochs that train the head alone, before the others. They are for a random head; a probe's is trained
        already.
    batch_size : int
        Images per step.
    accumulate : int
        Pieces that a batch is cut into, one after the other in memory. The step is the same, except for rounding,
        dropout, and batch norms in training.
    optimizer : {'adamw', 'sgd'}
        SGD has momentum 0.9.
    lr : float, optional
        The highest learning rate, of the head and the last layer. By default 3e-3 (adamw) or 3e-2 (sgd) for a batch of
        256; ``docs/tuning.md`` says what was tried. For other batches in proportion to their size
        with sgd, to its square root with adamw (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive
        Gradient Algorithms").
    layer_decay : float, optional
        Each layer's learning rate is this times that of the next. Layers are timm's, as for `tune`. By default the
        rates fall evenly from the head's to a tenth of it in the first layer, however many layers there are.
    weight_decay : float, optional
        Weight decay, except for biases and norms. By default 0.05 (adamw) or 0 (sgd).
    warmup : float
        Share of the steps in which the learning rate rises; it then falls along a cosine.
    augment : {'standard', 'crop', 'none'}
        ``standard``: random resized crops of at least half of the image, and half of the images mirrored; ``crop``:
        no mirroring, for letters and digits; ``none``: the pixels that the probe saw.
    label_smoothing, mixup : float
        Share of the label that is spread over all classes; alpha of mixup's Beta distribution, one draw per batch.
        0 is none. Of several processes each mixes within its share of the batch.
    clip_grad : float
        Largest norm of the gradient; 0 sets no limit.
    ema : float
        Decay of the moving average of the weights, which is what is validated and kept; lower in the first steps. 0 is
        none.
    l2_sp : float
        Strength of the pull to the weights that tuning started from (L2-SP), the head's included; 0 is none.
    batch_norm : {'eval', 'train'}
        Whether batch norms keep the statistics of the pretraining, or follow the batches.
    checkpointing : bool
        Compute activations again in the backward pass instead of keeping them: slower, with less memory.
    precision : {'auto', 'fp32', 'bf16'}
        Number format of the forward pass in training; ``auto`` is the backbone's own. Validation always uses the
        backbone's own.
    class_weight : {None, 'balanced'}
        ``balanced`` gives every class the same weight in the loss.
    patience : int
        Tuning stops after this many epochs without a better validation, and keeps the best epoch. 0 never stops, and
        keeps the last epoch.
    refit : bool
        Whether a network that is kept is trained once more in the same way, on the held-back images too; never with
        `patience`, which needs images to be patient with.
    views : int
        Where the frozen bottom is cached: augmented views of each training image.
    seed : int
        Seed for augmentation, order, dropout and a random head.
    """

    tune: str = ALL
    head: str = PROBE
    epochs: int | None = None
    head_epochs: int = 0
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float | None = None
    layer_decay: float | None = None
    weight_decay: float | None = None
    warmup: float = 0.1
    augment: str = "standard"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    clip_grad: float = 1.0
    ema: float = 0.0
    l2_sp: float = 0.0
    batch_norm: str = "eval"
    checkpointing: bool = False
    precision: str = "auto"
    class_weight: str | None = None
    patience: int = 0
    refit: bool = True
    views: int = 4
    seed: int = 0

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
