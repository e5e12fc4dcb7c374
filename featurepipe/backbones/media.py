"""What each medium has of backbones: its baselines, and how a network of images is made for it.

A new medium is a line in each of the tables.
"""

from __future__ import annotations

from collections.abc import Callable

from featurepipe.backbones.descriptors import COLOR_HISTOGRAM, HOG, PIXELS, ColorHistogram, Hog, Pixels
from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.makers.sentence_encoders import PACKAGED
from featurepipe.backbones.mfcc import MFCC, Mfcc
from featurepipe.backbones.sound_networks import hear
from featurepipe.backbones.specs import Extractor
from featurepipe.backbones.tfidf import TFIDF, Tfidf
from featurepipe.errors import BackboneError
from featurepipe.media import IMAGE, MEDIA

Makes = dict[str, Callable[[], Extractor]]  # name → what makes it
# medium → its hand-made baseline
SIMPLE: dict[str, Makes] = {IMAGE: {PIXELS: Pixels}, "sound": {MFCC: Mfcc}, "text": {TFIDF: Tfidf}}
FURTHER: dict[str, Makes] = {IMAGE: {HOG: Hog, COLOR_HISTOGRAM: ColorHistogram}}  # others, which a comparison may add
OWN = {"text": (PACKAGED, "sentence-transformers:NAME", "word2vec:FILE", "model2vec:NAME")}  # networks of its own
DEFAULT = {"text": PACKAGED}  # the backbone of a medium, where none is named
SHOWN: dict[str, Callable[[Backbone], Extractor]] = {"sound": hear}  # medium → what makes an image network one for it


def made_for(medium: str | None, extractor: Extractor) -> Extractor:
    """A backbone for a medium: itself, or what an image network becomes for another one.

    Raises
    ------
    BackboneError
        It cannot embed that medium.
    """
    own = extractor.transform.medium
    if medium in (None, own):
        return extractor
    if own != IMAGE or medium not in SHOWN or not isinstance(extractor, Backbone):
        plural = MEDIA[medium].plural if medium in MEDIA else f"{medium}s"
        fitting = ", ".join([*OWN.get(medium, ()), *SIMPLE.get(medium, ())])
        such = f", such as {fitting}" if fitting else ""
        raise BackboneError(f"{extractor.name} is for {own}s, not for {plural}; choose a backbone for them{such}")
    return SHOWN[medium](extractor)
