"""torchvision's classifiers as a family: ``torchvision:resnet50``, ``torchvision:resnet50.IMAGENET1K_V1``.

The last linear layer is taken out. The transform is that of the weights. Classifiers of videos, such as
``torchvision:r3d_18``, see clips at the rate that they were trained with; the embedding is the mean over clips.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.makers.assembly import assemble
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.trust import DOWNLOAD, GIVE, check_input
from featurepipe.backbones.weights import OPTION, check_finite, first_line, load_weights, read_weights
from featurepipe.errors import BackboneError, WeightsUnavailable
from featurepipe.images import DEFAULT_DECODER, ImageTransform
from featurepipe.videos import VideoTransform

if TYPE_CHECKING:
    from featurepipe.backbones.plain import Plain

AUXILIARY = ("AuxLogits", "aux1", "aux2")  # classifiers that only training needs
ENLARGED = 16  # times the pixels that a network was trained on: then no step of any takes gigabytes
# Ported from TensorFlow: they turn ImageNet's normalisation into their own, if they are told to. They are given their
# own instead.
HALVED = ("googlenet", "inception_v3")
# Clips of the classifiers of videos as torchvision evaluates them: their number, frames, and frames a second.
CLIPS = {"s3d": (1, 128, 15.0), "mvit": (5, 16, 7.5), "swin3d": (12, 32, 15.0), "": (5, 16, 15.0)}


class TorchvisionNetworks(Maker):
    """The names of ``torchvision.models``, with or without the name of their weights after a dot."""

    family = "torchvision"

    def knows(self, name: Any) -> bool:
        """None without the family in front: timm has the same names."""
        return False

    def create(self, name: Any, request: Request) -> Backbone:
        """See `Maker.create`."""
        called, (base, tag) = f"torchvision:{name}", _split(name)
        request.allow(called, "weights", "random_weights", "precision", "transform")
        if request.random_weights and request.weights is not None:
            raise BackboneError("random weights and a weights file exclude each other; give only one of them")
        own, notes = _weights(base, tag), []
        pretrained = not request.random_weights and request.weights is None
        if pretrained and not request.download and not _cached(own).is_file():
            raise WeightsUnavailable(
                f"the weights of {called} are not on this machine, and no file may fetch them from {own.url}; "
                f"{DOWNLOAD}, or {GIVE}"
            )
        transform = _made_transform(own, base, request.transform)
        length = transform.length if isinstance(transform, VideoTransform) else None
        network = _network(base, own if pretrained else None, request.seed, length)
        if request.weights is not None:
            taken = load_weights(network, read_weights(Path(request.weights))[0], called)
            notes += [taken] if taken is not None else []
        if not request.random_weights:
            check_finite(network, str(request.weights or called))
        seed = request.seed if request.random_weights else None
        return assemble(
            network,
            transform,
            request,
            name=called if seed is None else f"{called} (random weights, seed {seed})",
            architecture=f"torchvision:{base}",
            arguments={},
            source={
                "name": f"torchvision:{base}.{own.name}" if pretrained else f"torchvision:{base}",
                "weights": None if request.weights is None else str(Path(request.weights).resolve()),
                "random_seed": seed,
            },
            notes=notes,
        )

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`."""
        name = spec["architecture"] if origin.weights else origin.source["name"]
        seed = None if origin.weights else origin.source["random_seed"]
        base, tag = _split(name.removeprefix("torchvision:"))
        if not origin.trust:
            _, height, width = _transform(_weights(base, tag), base)["input_size"]
            check_input(spec["transform"]["input_size"], origin.who, ENLARGED * height * width)
        elif not origin.weights and seed is None:
            origin.note(f"weights of {name}: from torchvision's cache, or downloaded from {_weights(base, tag).url}")
        return {
            "name": name,
            "weights": origin.weights,
            "random_weights": seed is not None,
            "seed": seed or 0,
            **{key: spec[key] for key in ("transform", "precision")},
        }

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """torchvision's, with the names of their weights if they are to have some."""
        import torchvision.models

        bases = _classifiers()
        tagged = [f"{base}.{one.name}" for base in bases for one in torchvision.models.get_model_weights(base)]
        found = (f"torchvision:{name}" for name in (tagged if pretrained else bases))
        return [name for name in found if fnmatch(name, pattern)]

    def files(self, name: Any, weights: Path | None) -> Iterable[Path]:
        """A weights file that is given."""
        return [] if weights is None else [weights]

    def fetches(self, name: Any) -> bool:
        """All of them; raises BackboneError for an unknown name."""
        _weights(*_split(name))
        return True


def _split(name: str) -> tuple[str, str]:
    """The architecture and the name of the weights, which may be empty; BackboneError for an unknown architecture."""
    base, _, tag = name.partition(".")
    known = _classifiers()
    if base not in known:
        near = difflib.get_close_matches(base, known, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "list names with: featurepipe backbones 'torchvision:*'"
        raise BackboneError(f"torchvision has no classifier {base!r}; {hint}")
    return base, tag


def _classifiers() -> list[str]:
    """What torchvision has of images and of videos."""
    import torchvision.models

    return [
        *torchvision.models.list_models(module=torchvision.models),
        *torchvision.models.list_models(module=torchvision.models.video),
    ]


def _is_of_videos(base: str) -> bool:
    import torchvision.models

    return base in torchvision.models.list_models(module=torchvision.models.video)


def _weights(base: str, tag: str) -> Any:
    """Torchvision's description of some weights, by default of its best."""
    import torchvision.models

    known = torchvision.models.get_model_weights(base)
    if tag and tag not in known.__members__:
        names = ", ".join(one.name for one in known)
        raise BackboneError(f"torchvision:{base} has no weights {tag!r}; it has {names}")
    return known[tag or "DEFAULT"]


def _cached(weights: Any) -> Path:
    """Where torch keeps the file of some weights."""
    import torch

    return Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])


def _network(base: str, weights: Any, seed: int, length: int | None = None) -> Plain:
    """A classifier without its last linear layer, of clips of that length or of images.

    Random initialisation leaves the global generator alone.
    """
    import torch
    import torchvision.models

    from featurepipe.backbones.plain import Plain, PlainClips

    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of another initialisation, some day
            torch.default_generator.manual_seed(seed)
            network: Any = torchvision.models.get_model(base, weights=weights, progress=False)
    except OSError as error:
        raise WeightsUnavailable(
            f"the weights of torchvision:{base} cannot be downloaded ({first_line(error)}); give a file {OPTION}"
        ) from error
    for name in {*AUXILIARY} & dict(network.named_children()).keys():
        setattr(network, name, None)
    if base in HALVED:
        network.transform_input = network.aux_logits = False
    last = (torch.nn.Linear, torch.nn.Conv3d) if base == "s3d" else torch.nn.Linear
    linear = [name for name, part in network.named_modules() if isinstance(part, last)]
    if not linear:
        raise BackboneError(f"torchvision:{base} does not end in a linear layer that could be taken out; use another")
    parent, _, leaf = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), leaf, torch.nn.Identity())
    classifiers = (linear[-1], *AUXILIARY)
    return Plain(network, classifiers) if length is None else PlainClips(network, length, classifiers)


def _made_transform(weights: Any, base: str, chosen: Mapping[str, Any]) -> ImageTransform:
    """The transform of some weights, with the values that a caller chose."""
    kind = VideoTransform if _is_of_videos(base) else ImageTransform
    return kind.from_mapping({**_transform(weights, base), **chosen})


def _clips(base: str) -> tuple[int, int, float]:
    """Clips of a video, frames of a clip and frames a second, of a classifier of videos."""
    return next(value for begin, value in CLIPS.items() if base.startswith(begin))


def _video_transform(weights: Any, base: str) -> dict[str, Any]:
    """As `_transform`, of a classifier of videos."""
    own, (clips, length, fps) = weights.transforms(), _clips(base)
    return {
        "input_size": (3, *own.crop_size),
        "interpolation": own.interpolation.value,
        "mean": own.mean,
        "std": own.std,
        "crop_pct": 1.0,  # `resize` takes its place
        "resize": tuple(own.resize_size),
        "decoder": DEFAULT_DECODER,
        "clips": clips,
        "length": length,
        "fps": fps,
    }


def _transform(weights: Any, base: str) -> dict[str, Any]:
    """The transform of some weights in timm's words, which resize to the same pixels."""
    if _is_of_videos(base):
        return _video_transform(weights, base)
    own = weights.transforms()
    (size,), (resized,) = own.crop_size, own.resize_size
    mean, std = ((0.5,) * 3, (0.5,) * 3) if base in HALVED else (own.mean, own.std)
    return {
        "input_size": (3, size, size),
        "interpolation": own.interpolation.value,
        "mean": mean,
        "std": std,
        "crop_pct": size / resized,
        "crop_mode": "center",
        "decoder": DEFAULT_DECODER,
    }
