"""Backbones: pretrained networks without classifier, frozen, with the transform their weights expect.

Every vector is decided by a backbone's *spec*; the sha256 of the spec is its *fingerprint*. A spec holds the
architecture and its arguments, the sha256 of the weights themselves, the resolved transform, layer, pooling
and compute precision. Library versions are recorded beside it, not in it.
"""

from featurepipe.backbones.creation import (
    BUNDLED,
    Backbone,
    create,
    names,
    recreate,
    resolve_device,
    twin,
)
from featurepipe.backbones.pixels import PIXELS, Pixels
from featurepipe.backbones.precisions import cosines
from featurepipe.backbones.specs import PENULTIMATE, Extractor, Transform, check_same

__all__ = [
    "BUNDLED",
    "PENULTIMATE",
    "PIXELS",
    "Backbone",
    "Extractor",
    "Pixels",
    "Transform",
    "check_same",
    "cosines",
    "create",
    "names",
    "recreate",
    "resolve_device",
    "twin",
]
