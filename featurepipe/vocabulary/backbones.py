"""What a user may ask of a backbone and of its transform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from featurepipe.vocabulary.flags import Flag, option
from featurepipe.vocabulary.names import CROP_MODES, DECODERS, PRECISIONS

BACKBONE, TRANSFORM = "Backbone", "Input transform"  # panels
WEIGHTS = Flag(
    ("--weights",),
    "File with the network's weights: safetensors, or a torch file without pickled code.",
    BACKBONE,
    "path",
)


@dataclass(frozen=True)
class OriginOptions:
    """How the backbone of a store or of a model file is made again."""

    weights: str | PathLike[str] | None = option(
        None, "Path of the backbone's weights, if they have moved since.", WEIGHTS
    )
    trust: bool = option(
        False,
        "Trust what the store or the model file says about its backbone. It may then ask for a hub's repository, "
        "unusual arguments or more memory. Without this, only what is safe is done; see `featurepipe.backbones.trust`.",
        Flag(
            ("--trust",),
            "Trust what a file says about its backbone. The file can then make featurepipe download weights, load "
            "from a model hub, pass any argument to timm, build a network of any size, and import the Python function "
            "that a module:… backbone names. Code in the file itself is never run.",
            BACKBONE,
        ),
    )
    device: str = option(
        "auto",
        "``auto`` (cuda, else mps, else cpu) or a torch device.",
        Flag(("--device",), "Device that runs the network: auto, cpu, cuda, cuda:1 or mps.", shown=True),
    )


@dataclass(frozen=True)
class BackboneOptions(OriginOptions):
    """What decides a backbone besides its name."""

    weights: str | PathLike[str] | None = option(
        None,
        "A safetensors file, a torch file that loads with ``weights_only``, or a NumPy archive of JAX weights that "
        "timm can read; told by content, not by suffix. The network's tensors may be inside dictionaries "
        "(``model_ema``, ``teacher``, …), behind a prefix (``module.``, ``backbone.``, …) and under names that timm "
        "converts. All that the network needs must be there with its shape. Classifiers, and what only training needs, "
        "are left out; other tensors are refused. Transform values in a safetensors file's metadata (``mean``, "
        "``std``, ``interpolation``, ``crop_pct``, ``crop_mode``, ``input_size``) replace timm's.",
        WEIGHTS,
    )
    arguments: Mapping[str, Any] | None = option(
        None,
        "Passed to ``timm.create_model``: what shapes the architecture, such as ``pad_type='same'``.",
        Flag(
            ("--backbone-arg", "arguments"),
            "Extra argument for the network, such as pad_type=same for timm. Repeat the option to give several.",
            BACKBONE,
            many=True,
            metavar="KEY=VALUE",
            parse="arguments",
        ),
    )
    random_weights: bool = option(
        False,
        "Make an untrained network, as a baseline, initialised with `seed`.",
        Flag(
            ("--random-weights",),
            "Use the network untrained, as a baseline. --seed decides its random weights.",
            BACKBONE,
        ),
    )
    seed: int = option(0, "Seed for random weights.")
    layer: str = option(
        "penultimate",
        "``'penultimate'`` (timm's pre-logits) or ``'stageK'``, K from 1: the pooled output of timm's K-th feature "
        "stage (for a ViT: block).",
        Flag(
            ("--layer",),
            "Layer to keep: penultimate; stage1, stage2, … of timm; a tensor of onnx, a layer of keras, or an output "
            "of tensorflow.  [default: penultimate]",
            BACKBONE,
        ),
    )
    pooling: str | None = option(
        None,
        "timm's global pooling (``avg``, ``max``, ``token``, …); None is the model's own. A stage takes avg or max.",
        Flag(
            ("--pooling",),
            "Global pooling: avg, max, token, … of timm; pooled, cls or mean of transformers.  "
            "[default: the model's own]",
            BACKBONE,
        ),
    )
    precision: str = option(
        "auto",
        "``auto`` is bf16 if the device computes in it natively and this network's vectors stay the same (cosine with "
        "fp32 at least 0.999, tried on a few images), otherwise fp32.",
        Flag(
            ("--precision",),
            "Number format of the forward pass. auto is bf16 if the device supports it and the vectors of a few trial "
            "images are nearly those of fp32. Otherwise it is fp32.",
            BACKBONE,
            choices=("auto", *PRECISIONS),
            shown=True,
        ),
    )
    transform: Mapping[str, Any] | None = option(
        None,
        "Overrides of the transform, by `ImageTransform` field; None values are ignored. The decoder is "
        "``torchvision`` unless given here.",
    )
    download: bool = option(True, "False: take timm's own weights from this machine's caches; ask no host.")


@dataclass(frozen=True)
class TransformOptions:
    """What happens to an image before the network sees it: the keys of `BackboneOptions.transform`."""

    decoder: str = option(
        "auto",
        "Library that decodes images.",
        Flag(
            ("--decoder",),
            "Library that decodes images. auto is torchvision: fast, and within 2/255 of pillow on photos. draft is "
            "even faster on large JPEGs.",
            TRANSFORM,
            choices=("auto", *DECODERS),
            shown=True,
        ),
    )
    input_size: tuple[int, int, int] | None = option(
        None,
        "Channels, height and width.",
        Flag(
            ("--input-size",),
            "Input size of the network: channels, height and width.",
            TRANSFORM,
            "integer",
            count=3,
            metavar="C H W",
        ),
    )
    mean: tuple[float, float, float] | None = option(
        None,
        "Mean of each channel.",
        Flag(
            ("--mean",),
            "Per-channel mean of pixels scaled to 0–1.  [default: the weights' own]",
            TRANSFORM,
            "number",
            count=3,
            metavar="R G B",
        ),
    )
    std: tuple[float, float, float] | None = option(
        None,
        "Standard deviation of each channel.",
        Flag(
            ("--std",),
            "Per-channel standard deviation of pixels scaled to 0–1.  [default: the weights' own]",
            TRANSFORM,
            "number",
            count=3,
            metavar="R G B",
        ),
    )
    interpolation: str | None = option(
        None,
        "Method that resizes images.",
        Flag(
            ("--interpolation",),
            "Method that resizes images: bilinear, bicubic, …  [default: the weights' own]",
            TRANSFORM,
        ),
    )
    crop_pct: float | None = option(
        None,
        "Share of the short side that the crop keeps.",
        Flag(
            ("--crop-pct",),
            "Share of the short side that the crop keeps.",
            TRANSFORM,
            "number",
            least=0,
            above=True,
        ),
    )
    crop_mode: str | None = option(
        None,
        "How an image becomes square.",
        Flag(
            ("--crop-mode",),
            "How an image is fitted to the input size: center crops it, squash stretches it, border adds a border.",
            TRANSFORM,
            choices=CROP_MODES,
        ),
    )
    bands: tuple[int, ...] | None = option(
        None,
        "Bands of a TIFF that become the channels, counted from 1.",
        Flag(
            ("--bands",),
            "Bands of a multi-band TIFF that become the channels of the input, such as 4,3,2; the first band is 1.",
            TRANSFORM,
            metavar="N,N,N",
            parse="bands",
        ),
    )
    levels: tuple[float, float] | None = option(
        None,
        "The samples that become black and white, in images of more than 8 bits: TIFF, and DICOM in its own units.",
        Flag(
            ("--levels",),
            "Sample values that become black and white, in TIFF and DICOM images of more than 8 bits.  [default: what "
            "the file says]",
            TRANSFORM,
            "number",
            count=2,
            metavar="LOW HIGH",
        ),
    )
    clips: int | None = option(
        None,
        "Clips of a video, evenly spaced; for a network of images, single frames. The embedding is their mean.",
        Flag(
            ("--clips",),
            "Number of evenly spaced clips per video (frames, for an image network) whose embeddings are averaged.  "
            "[default: 8 frames, or the network's own number of clips]",
            TRANSFORM,
            "integer",
            least=1,
        ),
    )
    fps: float | None = option(
        None,
        "Frames a second within the clips of a video.",
        Flag(
            ("--fps",),
            "Frames a second within each clip of a video.  [default: the network's own]",
            TRANSFORM,
            "number",
            least=0,
            above=True,
        ),
    )
