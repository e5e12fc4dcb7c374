"""Backbones: pretrained networks without classifier, frozen, with the transform their weights expect.

Every vector is decided by a backbone's *spec*; the sha256 of the spec is its *fingerprint*. A spec holds the
architecture and its arguments, the sha256 of the weights themselves, the resolved transform, layer, pooling
and compute precision. Library versions are recorded next to it, not in it.

Besides networks there are descriptors: hand-crafted extractors to compare them with. A store treats both alike.
"""

import sys
from types import ModuleType

from featurepipe.backbones.capabilities import Adaptable, Compilable, Portable
from featurepipe.backbones.creation import (
    STAGES,
    create,
    create_layers,
    create_pair,
    described,
    fetches,
    is_ready,
    names,
    recreate,
    twin,
)
from featurepipe.backbones.descriptors import COLOR_HISTOGRAM, HOG, PIXELS, ColorHistogram, Descriptor, Hog, Pixels
from featurepipe.backbones.extractors import Backbone, Layers, embedding_forward
from featurepipe.backbones.grids import as_rows, feature_width, grid_of, row_bytes
from featurepipe.backbones.makers import (
    DESCRIPTORS,
    MAKERS,
    Maker,
    Origin,
    Request,
    edition,
    is_handmade,
    is_tunable,
    maker_of,
)
from featurepipe.backbones.makers.assembly import resolve_device, resolve_devices
from featurepipe.backbones.media import FURTHER, SIMPLE, made_for
from featurepipe.backbones.mfcc import MFCC, Mfcc
from featurepipe.backbones.networks import BUNDLED, check_name, freeze, is_out_of_memory, with_tag
from featurepipe.backbones.packages import licence_of
from featurepipe.backbones.precisions import cosines, drifting
from featurepipe.backbones.shelf import Identity, fetch, forget, identify
from featurepipe.backbones.sift import SIFT, SIFT_LENGTH, Patches, Sift, learn_codebook, learned_from, save_codebook
from featurepipe.backbones.sound_networks import SoundNetwork
from featurepipe.backbones.specs import (
    PENULTIMATE,
    Described,
    Embedder,
    Extractor,
    TimmModule,
    check_description,
    check_same,
    medium_of,
    output_of,
    stage_of,
)
from featurepipe.backbones.towers import TEMPLATES, TextTower, check_templates, class_vectors
from featurepipe.backbones.trust import check_place, unechoed
from featurepipe.backbones.weights import CARRIED, carried_backbone, carried_card, carried_digest, is_model_name

__all__ = [
    "BUNDLED",
    "CARRIED",
    "COLOR_HISTOGRAM",
    "DESCRIPTORS",
    "FURTHER",
    "HOG",
    "MAKERS",
    "MFCC",
    "PENULTIMATE",
    "PIXELS",
    "SIFT",
    "SIFT_LENGTH",
    "SIMPLE",
    "STAGES",
    "TEMPLATES",
    "Adaptable",
    "Backbone",
    "ColorHistogram",
    "Compilable",
    "Described",
    "Descriptor",
    "Embedder",
    "Extractor",
    "Hog",
    "Identity",
    "Layers",
    "Maker",
    "Mfcc",
    "Origin",
    "Patches",
    "Pixels",
    "Portable",
    "Request",
    "Sift",
    "SoundNetwork",
    "TextTower",
    "TimmModule",
    "as_rows",
    "carried_backbone",
    "carried_card",
    "carried_digest",
    "check_description",
    "check_name",
    "check_place",
    "check_same",
    "check_templates",
    "class_vectors",
    "cosines",
    "create",
    "create_layers",
    "create_pair",
    "described",
    "drifting",
    "edition",
    "embedding_forward",
    "feature_width",
    "fetch",
    "fetches",
    "forget",
    "freeze",
    "grid_of",
    "identify",
    "is_handmade",
    "is_model_name",
    "is_out_of_memory",
    "is_ready",
    "is_tunable",
    "learn_codebook",
    "learned_from",
    "licence_of",
    "made_for",
    "maker_of",
    "medium_of",
    "names",
    "output_of",
    "recreate",
    "resolve_device",
    "resolve_devices",
    "row_bytes",
    "save_codebook",
    "stage_of",
    "twin",
    "unechoed",
    "with_tag",
]


class _Names(ModuleType):
    """A module that can be called: it then lists names, as ``featurepipe backbones`` does."""

    __call__ = staticmethod(names)


sys.modules[__name__].__class__ = _Names
