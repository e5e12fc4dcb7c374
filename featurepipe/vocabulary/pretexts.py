"""What a user may ask of pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from featurepipe.vocabulary.backbones import BACKBONE, BackboneOptions, TransformOptions
from featurepipe.vocabulary.flags import Flag, option
from featurepipe.vocabulary.names import AUGMENTATIONS, DISTANCES, OBJECTIVES, OPTIMIZERS, SOUND_TARGETS

VIEWS, TRAINING, TEACHER, SOUND, OUTPUT = "Views", "Training", "Teacher", "Sound", "Output"  # panels


def _flag(group: type, name: str) -> Flag:
    """The flag of a field of other options, which means the same here."""
    return group.__dataclass_fields__[name].metadata["flags"][0]  # type: ignore[attr-defined]  # all are dataclasses


@dataclass(frozen=True)
class PretrainOptions:
    """What a network is pretrained for, and how."""

    objective: str = option(
        "contrastive",
        "What the network learns; see `featurepipe.pretraining.OBJECTIVES`.",
        Flag(
            ("--objective",),
            "What the network learns: classes (supervised), views of one image (contrastive, vicreg), pixels "
            "(autoencoder), colours from grey (colorize), the sound of a frame (sound), or a teacher's embeddings "
            "(distill).",
            choices=OBJECTIVES,
            shown=True,
        ),
    )
    backbone: str | None = option(
        None,
        "The architecture: any name that timm knows. By default that of the bundled backbone.",
        Flag(
            ("-b", "--backbone"),
            "Architecture to train, by its name in timm.  [default: that of the bundled backbone]",
        ),
    )
    epochs: int | None = option(
        None,
        "Passes over the images; 20 by default.",
        Flag(("--epochs",), "Number of passes over the images.  [default: 20]", kind="integer", least=1),
    )
    minutes: float | None = option(
        None,
        "Minutes of training, instead of epochs. The number of epochs is chosen by the speed of the first seconds; "
        "reading images, a teacher and probes come on top.",
        Flag(
            ("--minutes",),
            "Train for about this many minutes instead of a number of epochs.",
            kind="number",
            least=0,
            above=True,
        ),
    )
    batch_size: int = option(
        256,
        "Images per step.",
        Flag(("--batch-size",), "Number of images per step.", kind="integer", least=2, shown=True),
    )
    lr: float | None = option(
        None,
        "The highest learning rate. By default as for `featurepipe.finetune`, which depends on the batch size.",
        Flag(
            ("--lr",),
            "Peak learning rate.  [default: 3e-3 with adamw and 3e-2 with sgd for batches of 256; more for larger "
            "ones]",
            kind="number",
            least=0,
            above=True,
        ),
    )
    every: int = option(
        5,
        "Epochs from one probe of the embeddings to the next, where images have labels; 0 never probes.",
        Flag(
            ("--probe-every", "every"),
            "Measure probes on labelled images after every N epochs. 0 measures none.",
            kind="integer",
            least=0,
            shown=True,
            metavar="N",
        ),
    )
    weights: str | PathLike[str] | None = option(
        None,
        "A file of weights to start from; by default weights are random.",
        Flag(("--weights",), "File with weights to start from.  [default: random weights]", BACKBONE, "path"),
    )
    arguments: Mapping[str, Any] | None = option(
        None,
        "Passed to ``timm.create_model``: what shapes the architecture.",
        _flag(BackboneOptions, "arguments"),
    )
    input_size: tuple[int, int, int] | None = option(
        None,
        "Channels (3), height and width; by default the architecture's own.",
        _flag(TransformOptions, "input_size"),
    )
    augment: str = option(
        "standard",
        "``standard`` crops and mirrors, ``crop`` does not mirror, ``none`` shows images as they are. Contrastive "
        "objectives change colours as well.",
        Flag(
            ("--augment",),
            "How views of an image differ. standard crops and mirrors. crop does not mirror: choose it for letters, "
            "digits, and whatever has a left and a right.",
            VIEWS,
            choices=AUGMENTATIONS,
            shown=True,
        ),
    )
    crop: float = option(
        0.2,
        "Smallest share of an image that a crop keeps. Distillation does not use it: its crops keep at least half.",
        Flag(
            ("--crop",),
            "Smallest share of an image that a crop keeps. distill does not use it: its crops keep at least half.",
            VIEWS,
            "number",
            least=0,
            most=1,
            above=True,
            shown=True,
        ),
    )
    temperature: float = option(
        0.5,
        "Of the contrastive loss.",
        Flag(
            ("--temperature",),
            "Temperature of the contrastive loss.",
            VIEWS,
            "number",
            least=0,
            above=True,
            shown=True,
        ),
    )
    mask: float = option(
        0.75,
        "Share of the patches that a masked autoencoder does not see.",
        Flag(
            ("--mask",),
            "Share of the patches that are hidden from a vision transformer as an autoencoder.",
            VIEWS,
            "number",
            least=0,
            most=1,
            above=True,
            below=True,
            shown=True,
        ),
    )
    optimizer: str = option(
        "adamw",
        "SGD has momentum 0.9.",
        Flag(("--optimizer",), "Optimizer to train with; sgd uses momentum.", TRAINING, choices=OPTIMIZERS, shown=True),
    )
    weight_decay: float | None = option(
        None,
        "Weight decay, except for biases and norms. By default 0.05 (adamw) or 0 (sgd).",
        Flag(
            ("--weight-decay",),
            "Weight decay of everything except biases and norms.  [default: 0.05 with adamw, 0 with sgd]",
            TRAINING,
            "number",
            least=0,
        ),
    )
    warmup: float = option(
        0.1,
        "Share of the steps in which the learning rate rises; it then falls along a cosine.",
        Flag(
            ("--warmup",),
            "Share of the steps during which the learning rate rises to its peak.",
            TRAINING,
            "number",
            least=0,
            most=1,
            below=True,
            shown=True,
        ),
    )
    ema: float = option(
        0.0,
        "Decay of the moving average of the weights, which is what is probed and kept. 0 is none.",
        Flag(
            ("--ema",),
            "Average the weights over the steps with this decay.  [default: none]",
            TRAINING,
            "number",
            least=0,
            most=1,
            below=True,
        ),
    )
    accumulate: int = option(
        1,
        "Pieces that a batch is cut into, one after the other in memory. Contrastive losses still compare whole "
        "batches.",
        Flag(
            ("--accumulate",),
            "Split each batch into this many pieces, to save memory.",
            TRAINING,
            "integer",
            least=1,
            shown=True,
        ),
    )
    precision: str = option(
        "auto",
        "Number format in training; ``auto`` is bf16 on GPUs, and fp32 on CPUs, which train faster in it.",
        Flag(
            ("--precision",),
            "Number format of training. auto is bf16 on a GPU and fp32 on a CPU.",
            TRAINING,
            choices=("auto", "fp32", "bf16"),
            shown=True,
        ),
    )
    seed: int = option(
        0,
        "Seed for first weights, order, views, masks, and which labelled images are held back for probes.",
        Flag(("--seed",), "Seed for every random draw.", kind="integer", least=0, shown=True),
    )
    device: str = option(
        "auto", "``auto`` (cuda, else mps, else cpu) or a torch device.", _flag(BackboneOptions, "device")
    )
    teacher: str | None = option(
        None,
        "For distillation: the network whose embeddings are matched, as for `featurepipe.backbones.create`.",
        Flag(("--teacher",), "Network whose embeddings are to be matched. It takes what extract -b takes.", TEACHER),
    )
    teacher_weights: str | PathLike[str] | None = option(
        None,
        "The teacher's weights, where they are not those that its name means.",
        Flag(("--teacher-weights",), "File with the teacher's weights.", TEACHER, "path"),
    )
    teacher_size: int | None = option(
        None,
        "Height and width of the teacher's input; by default its own.",
        Flag(
            ("--teacher-size",),
            "Height and width of the teacher's input in pixels. A smaller one is faster.  [default: the teacher's own]",
            TEACHER,
            "integer",
            least=1,
        ),
    )
    views: int = option(
        4,
        "Views of each image that the teacher embeds, once.",
        Flag(
            ("--views",),
            "Number of views of each image that the teacher embeds.",
            TEACHER,
            "integer",
            least=1,
            shown=True,
        ),
    )
    distance: str = option(
        "cosine",
        "What is made small between a projection and the teacher's embedding.",
        Flag(
            ("--distance",),
            "Measure of the distance between the network's embedding and the teacher's, which training makes small.",
            TEACHER,
            choices=DISTANCES,
            shown=True,
        ),
    )
    sound_target: str = option(
        "clusters",
        "What is predicted of a sound: its cluster (k-means), or a code of bits (signs of principal components).",
        Flag(
            ("--sound-target",),
            "What is predicted of a sound texture: the cluster that it is in, or a code of bits.",
            SOUND,
            choices=SOUND_TARGETS,
            shown=True,
        ),
    )
    codes: int = option(
        30,
        "How many clusters, or bits.",
        Flag(
            ("--codes",),
            "Number of clusters, or of bits, that sound textures are coded in.",
            SOUND,
            "integer",
            least=2,
            shown=True,
        ),
    )
    licence: str | None = option(
        None,
        "A line about the licence of the weights, which depends on that of the data; it goes into the file.",
        Flag(
            ("--licence",),
            "Licence of the resulting weights, in a line that goes into the file.",
            OUTPUT,
            metavar="TEXT",
        ),
    )
    resume: bool = option(
        False,
        "Go on from the checkpoint of the same run, which was interrupted.",
        Flag(("--resume",), "Continue an interrupted run of the same command."),
    )
