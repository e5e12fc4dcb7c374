"""The families of backbones. A new one is a file here, and a line below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featurepipe.backbones.makers.backbone_files import BackboneFiles
from featurepipe.backbones.makers.descriptors import DESCRIPTORS, Descriptors
from featurepipe.backbones.makers.i3d_networks import I3dNetworks
from featurepipe.backbones.makers.inflated_networks import InflatedNetworks
from featurepipe.backbones.makers.keras_files import KerasFiles
from featurepipe.backbones.makers.maker import Maker, Origin, Request, find
from featurepipe.backbones.makers.model_files import ModelFiles
from featurepipe.backbones.makers.modules import Modules, is_module
from featurepipe.backbones.makers.onnx_files import OnnxFiles
from featurepipe.backbones.makers.open_clip_towers import OpenClipTowers
from featurepipe.backbones.makers.packaged_networks import PackagedNetworks
from featurepipe.backbones.makers.sentence_encoders import SentenceEncoders
from featurepipe.backbones.makers.sound_descriptors import SoundDescriptors
from featurepipe.backbones.makers.speech_embeddings import SpeechEmbeddings
from featurepipe.backbones.makers.static_encoders import StaticEncoders
from featurepipe.backbones.makers.tensorflow_folders import TensorflowFolders
from featurepipe.backbones.makers.text_descriptors import TextDescriptors
from featurepipe.backbones.makers.timm_networks import BUNDLED_FILES, TimmNetworks, edition
from featurepipe.backbones.makers.torchvision_networks import TorchvisionNetworks
from featurepipe.backbones.makers.transformers_networks import TransformersNetworks
from featurepipe.backbones.makers.word_files import WordFiles
from featurepipe.backbones.specs import medium_of
from featurepipe.errors import BackboneError
from featurepipe.media import IMAGE

TIMM = TimmNetworks()
MAKERS: dict[str, Maker] = {}  # by family; of a bare name, the first that knows it has it
MAKERS |= {
    maker.family: maker
    for maker in (
        Descriptors(),
        SoundDescriptors(),
        TextDescriptors(),
        Modules(),
        BackboneFiles(TIMM),  # before model files, which end in the same way
        ModelFiles(MAKERS),
        SentenceEncoders(),
        I3dNetworks(),  # before timm, which takes any name without a colon
        PackagedNetworks(TIMM),  # before timm, which has the same names
        TIMM,
        TorchvisionNetworks(),
        StaticEncoders(),
        WordFiles(),
        SpeechEmbeddings(),
        InflatedNetworks(),
        TransformersNetworks(),
        OpenClipTowers(),
        OnnxFiles(),
        KerasFiles(),
        TensorflowFolders(),
    )
}

__all__ = [
    "BUNDLED_FILES",
    "DESCRIPTORS",
    "MAKERS",
    "Maker",
    "Origin",
    "Request",
    "edition",
    "find",
    "is_handmade",
    "is_module",
    "is_tunable",
    "maker_of",
]


def maker_of(name: Any) -> Maker:
    """Whose backbone a name or a spec's architecture is; BackboneError where nobody knows it."""
    return find(MAKERS, name)[0]


def is_handmade(spec: Mapping[str, Any]) -> bool:
    """Whether nothing was learned from other images in what a spec describes; not of a family that is unknown here."""
    return (maker := _known(spec)) is not None and maker.handmade


def is_tunable(spec: Mapping[str, Any]) -> bool:
    """Whether what a spec describes can be fine-tuned; not of a family that is unknown here, nor on other media."""
    return (maker := _known(spec)) is not None and maker.tunable and medium_of(spec) == IMAGE


def _known(spec: Mapping[str, Any]) -> Maker | None:
    """The family of a spec, which a store or model file may have from another featurepipe."""
    try:
        return maker_of(spec["architecture"])
    except BackboneError:
        return None
