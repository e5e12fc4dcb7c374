"""Backbones: pretrained networks without classifier, frozen, with the transform their weights expect.

Every vector is decided by a backbone's *spec*; the sha256 of the spec is its *fingerprint*. A spec holds the
architecture and its arguments, the sha256 of the weights themselves, the resolved transform, layer, pooling
and compute precision. Library versions are recorded beside it, not in it.
"""

from featurepipe.backbones.creation import (
    BUNDLED,
    STAGES,
    create,
    create_layers,
    names,
    recreate,
    resolve_device,
    twin,
)
from featurepipe.backbones.extractors import Backbone, Layers
from featurepipe.backbones.pixels import PIXELS, Pixels
from featurepipe.backbones.precisions import cosines, drifting
from featurepipe.backbones.specs import PENULTIMATE, Extractor, Transform, check_same, stage_of

__all__ = [
    "BUNDLED",
    "PENULTIMATE",
    "PIXELS",
    "STAGES",
    "Backbone",
    "Extractor",
    "Layers",
    "Pixels",
    "Transform",
    "check_same",
    "cosines",
    "create",
    "create_layers",
    "drifting",
    "names",
    "recreate",
    "resolve_device",
    "stage_of",
    "twin",
]
