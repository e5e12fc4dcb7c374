"""What a user may ask of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from featurepipe.vocabulary.backbones import OriginOptions
from featurepipe.vocabulary.flags import Flag, option
from featurepipe.vocabulary.names import AUGMENTATIONS, OPTIMIZERS, SWITCH
from featurepipe.vocabulary.probes import SEED

START, OPTIMISATION, REGULARISATION, COMPUTE = "Start", "Optimisation", "Regularisation", "Compute"  # panels


@dataclass(frozen=True)
class TuneOptions:
    """How a network is tuned."""

    tune: str = option(
        "all",
        "How deep to tune: ``head``, ``last-N`` blocks, ``stageK+`` or ``all``; ``auto`` follows `featurepipe.advise`, "
        "which may be to tune nothing.",
        Flag(
            ("--tune",),
            "Part of the network to tune: head, last-N (blocks), stageK+ or all; auto follows featurepipe advise.",
            parse="depth",
            shown=True,
        ),
    )
    head: str = option(
        "probe",
        "What the head starts from: the probe (LP-FT), or a small random layer.",
        Flag(
            ("--head",),
            "What the head starts from: the probe, or random weights.",
            START,
            choices=("probe", "random"),
            shown=True,
        ),
    )
    epochs: int | None = option(
        None,
        "Passes over the images. By default 20, or as many as make 500 steps, but no more than 100.",
        Flag(
            ("--epochs",),
            "Number of passes over the images.  [default: 20, or up to 100 epochs to reach 500 steps]",
            kind="integer",
            least=1,
        ),
    )
    head_epochs: int = option(
        0,
        "Epochs that train the head alone, before the others. They are for a random head; a probe's is trained "
        "already.",
        Flag(
            ("--head-epochs",),
            "Epochs that train the head alone before the network.",
            START,
            "integer",
            least=0,
            shown=True,
        ),
    )
    batch_size: int = option(
        32,
        "Images per step.",
        Flag(("--batch-size",), "Number of images per step.", kind="integer", least=1, shown=True),
    )
    accumulate: int = option(
        1,
        "Pieces that a batch is cut into, one after the other in memory. The step is the same, except for rounding, "
        "dropout, and batch norms in training.",
        Flag(
            ("--accumulate",),
            "Split each batch into this many pieces, to save memory.",
            COMPUTE,
            "integer",
            least=1,
            shown=True,
        ),
    )
    optimizer: str = option(
        "adamw",
        "SGD has momentum 0.9.",
        Flag(
            ("--optimizer",),
            "Optimizer to train with; sgd uses momentum.",
            OPTIMISATION,
            choices=OPTIMIZERS,
            shown=True,
        ),
    )
    lr: float | None = option(
        None,
        "The highest learning rate, of the head and the last layer. By default 3e-3 (adamw) or 3e-2 (sgd) for a batch "
        "of 256; ``docs/tuning.md`` says what was tried. For other batches in proportion to their size with sgd, to "
        'its square root with adamw (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient '
        'Algorithms").',
        Flag(
            ("--lr",),
            "Peak learning rate.  [default: 1.1e-3 with adamw and 3.75e-3 with sgd for batches of 32; more for larger "
            "ones]",
            kind="number",
            least=0,
            above=True,
        ),
    )
    layer_decay: float | None = option(
        None,
        "Each layer's learning rate is this times that of the next. Layers are timm's, as for `tune`. By default the "
        "rates fall evenly from the head's to a tenth of it in the first layer, however many layers there are.",
        Flag(
            ("--layer-decay",),
            "Each layer learns at this factor times the rate of the layer after it.  [default: the first layer learns "
            "at a tenth of the rate of the head]",
            OPTIMISATION,
            "number",
            least=0,
            most=1,
            above=True,
        ),
    )
    weight_decay: float | None = option(
        None,
        "Weight decay, except for biases and norms. By default 0.05 (adamw) or 0 (sgd).",
        Flag(
            ("--weight-decay",),
            "Weight decay of everything except biases and norms.  [default: 0.05 with adamw, 0 with sgd]",
            OPTIMISATION,
            "number",
            least=0,
        ),
    )
    warmup: float = option(
        0.1,
        "Share of the steps in which the learning rate rises; it then falls along a cosine.",
        Flag(
            ("--warmup",),
            "Share of the steps during which the learning rate rises to its peak.  [default: 0.1]",
            OPTIMISATION,
            "number",
            least=0,
            most=1,
            below=True,
        ),
    )
    augment: str = option(
        "standard",
        "``standard``: random resized crops of at least half of the image, and half of the images mirrored; ``crop``: "
        "no mirroring, for letters and digits; ``none``: the pixels that the probe saw.",
        Flag(
            ("--augment",),
            "How training images are varied. standard crops and mirrors. crop does not mirror: choose it for letters, "
            "digits, and whatever has a left and a right.",
            choices=AUGMENTATIONS,
            shown=True,
        ),
    )
    label_smoothing: float = option(
        0.0,
        "Share of the label that is spread over all classes; 0 is none.",
        Flag(
            ("--label-smoothing",),
            "Share of each label that is spread over all classes.  [default: 0, none]",
            REGULARISATION,
            "number",
            least=0,
            most=1,
            below=True,
        ),
    )
    mixup: float = option(
        0.0,
        "Alpha of mixup's Beta distribution, one draw per batch; 0 is none. Of several processes each mixes within its "
        "share of the batch.",
        Flag(
            ("--mixup",),
            "Mix pairs of images, in shares drawn from a Beta distribution with this alpha.  [default: 0, none]",
            REGULARISATION,
            "number",
            least=0,
        ),
    )
    clip_grad: float = option(
        1.0,
        "Largest norm of the gradient; 0 sets no limit.",
        Flag(
            ("--clip-grad",),
            "Scale gradients down to this norm if theirs is larger. 0 sets no limit.  [default: 1]",
            OPTIMISATION,
            "number",
            least=0,
        ),
    )
    ema: float = option(
        0.0,
        "Decay of the moving average of the weights, which is what is validated and kept; lower in the first steps. 0 "
        "is none.",
        Flag(
            ("--ema",),
            "Average the weights over the steps with this decay.  [default: none]",
            REGULARISATION,
            "number",
            least=0,
            most=1,
            below=True,
        ),
    )
    l2_sp: float = option(
        0.0,
        "Strength of the pull to the weights that tuning started from (L2-SP), the head's included; 0 is none.",
        Flag(
            ("--l2-sp",),
            "Strength of the penalty on the distance from the starting weights (L2-SP).  [default: 0]",
            REGULARISATION,
            "number",
            least=0,
        ),
    )
    batch_norm: str = option(
        "eval",
        "Whether batch norms keep the statistics of the pretraining, or follow the batches.",
        Flag(
            ("--batch-norm",),
            "Statistics that batch norms use: eval keeps those of the pretraining, train follows the batches.",
            REGULARISATION,
            choices=("eval", "train"),
            shown=True,
        ),
    )
    checkpointing: bool = option(
        False,
        "Compute activations again in the backward pass instead of keeping them: slower, with less memory.",
        Flag(
            ("--checkpointing",),
            "Save memory: compute activations again in the backward pass instead of keeping them.",
            COMPUTE,
        ),
    )
    precision: str = option(
        "auto",
        "Number format of the forward pass in training; ``auto`` is the backbone's own. Validation always uses the "
        "backbone's own.",
        Flag(
            ("--precision",),
            "Number format of the training forward pass.",
            COMPUTE,
            choices=("auto", "fp32", "bf16"),
            shown=True,
        ),
    )
    class_weight: str | None = option(
        None,
        "``balanced`` gives every class the same weight in the loss.",
        Flag(
            ("--class-weight",),
            "Give every class the same weight, however many images it has.",
            REGULARISATION,
            choices=("balanced",),
        ),
        shape="{None, 'balanced'}",
    )
    patience: int = option(
        0,
        "Tuning stops after this many epochs without a better validation, and keeps the best epoch. 0 never stops, and "
        "keeps the last epoch.",
        Flag(
            ("--patience",),
            "Stop after this many epochs without improvement and keep the best epoch. 0 trains all epochs and keeps "
            "the last.  [default: 0]",
            OPTIMISATION,
            "integer",
            least=0,
        ),
    )
    refit: bool = option(
        True,
        "Whether a network that is kept is trained once more in the same way, on the held-back images too; never with "
        "`patience`, which needs images to be patient with.",
        Flag(
            ("--refit/--no-refit",),
            "Whether to train a kept network once more, this time also on the held-back images.",
            START,
            shown=True,
        ),
    )
    views: int = option(
        4,
        "Where the frozen bottom is cached: augmented views of each training image.",
        Flag(
            ("--views",),
            "Number of augmented views of each image in the cache of activations.  [default: 4]",
            COMPUTE,
            "integer",
            least=1,
        ),
    )
    seed: int = option(0, "Seed for splits that have to be made, augmentation, order, dropout and a random head.", SEED)


@dataclass(frozen=True)
class PromotionOptions(OriginOptions):
    """What is tuned, and what else is made of it."""

    backbone: str | None = option(
        None,
        "Which backbone of the store to use, if it holds several.",
        Flag(("-b", "--backbone"), "Backbone to use, if the store holds several."),
    )
    from_scratch: bool = option(
        False,
        "Also train the same network from random weights with the same recipe, except for what protects pretrained "
        "weights: no layer-wise decay, batch norms that learn, no early end. Its curve and figures are next to the "
        "tuned network's.",
        Flag(("--from-scratch",), "Also train the same network from random weights, for comparison.", START),
    )
    cache: str = option(
        "auto",
        "Whether to cache the activations of the frozen bottom in ``activations/`` of the store. ``auto`` does so if a "
        "part of the network is frozen and the recipe allows it. The activations are kept until a run with different "
        "ones begins; see `featurepipe.finetuning.claims`.",
        Flag(
            ("--cache",),
            "Whether to compute the activations of the frozen layers once and keep them on disk.",
            COMPUTE,
            choices=SWITCH,
            shown=True,
        ),
    )
