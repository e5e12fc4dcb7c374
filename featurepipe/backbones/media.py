"""What each medium has of backbones: its baselines, and how a network of images is made for it.

A new medium is a line in each of the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from featurepipe.backbones.clips import over_frames
from featurepipe.backbones.color_motion import COLOR_MOTION, ColorMotion
from featurepipe.backbones.descriptors import COLOR_HISTOGRAM, HOG, PIXELS, ColorHistogram, Hog, Pixels
from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.makers.sentence_encoders import PACKAGED
from featurepipe.backbones.mfcc import MFCC, Mfcc
from featurepipe.backbones.packages import default_name
from featurepipe.backbones.sound_networks import hear
from featurepipe.backbones.specs import Extractor
from featurepipe.backbones.tfidf import TFIDF, Tfidf
from featurepipe.errors import BackboneError
from featurepipe.media import IMAGE, plural
from featurepipe.videos import VideoTransform

VIDEO = VideoTransform.medium
Makes = dict[str, Callable[[], Extractor]]  # name → what makes it
# medium → its hand-made baseline
SIMPLE: dict[str, Makes] = {
    IMAGE: {PIXELS: Pixels},
    "sound": {MFCC: Mfcc},
    "text": {TFIDF: Tfidf},
    VIDEO: {COLOR_MOTION: ColorMotion},
}
FURTHER: dict[str, Makes] = {IMAGE: {HOG: Hog, COLOR_HISTOGRAM: ColorHistogram}}  # others, which a comparison may add
OWN = {"text": (PACKAGED, "sentence-transformers:NAME", "word2vec:FILE", "model2vec:NAME")}  # networks of its own
DEFAULT = {"text": PACKAGED}  # the backbone of a medium, where none is named
# medium → what makes an image network one for it, with the values of the transform that are the caller's own choice
SHOWN: dict[str, Callable[[Backbone, Mapping[str, Any]], Extractor]] = {"sound": hear, VIDEO: over_frames}


def default_of(name: Any, medium: str | None) -> Any:
    """A backbone's name, or that of the medium's default where none is given."""
    return name or DEFAULT.get(medium or IMAGE) or default_name()


def made_for(medium: str | None, extractor: Extractor, chosen: Mapping[str, Any] | None = None) -> Extractor:
    """A backbone for a medium: itself, or what an image network becomes for another one.

    Raises
    ------
    BackboneError
        It cannot embed that medium.
    """
    own = extractor.transform.medium
    if own != VIDEO and medium != VIDEO and (unfit := [key for key in ("clips", "fps") if key in (chosen or {})]):
        raise BackboneError(
            f"{unfit[0]} is for videos; {extractor.name} is given {plural(medium or own)}, so leave it out"
        )
    if medium in (None, own):
        return extractor
    if own != IMAGE or medium not in SHOWN or not isinstance(extractor, Backbone):
        fitting = ", ".join([*OWN.get(medium, ()), *SIMPLE.get(medium, ())])
        such = f", such as {fitting}" if fitting else ""
        raise BackboneError(
            f"{extractor.name} is for {plural(own)}, not for {plural(medium)}; choose a backbone for them{such}"
        )
    return SHOWN[medium](extractor, chosen or {})
