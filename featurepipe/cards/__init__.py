"""Cards: what a model file says of itself. Every key is an attribute here, with its type and the shape it must have.

`Card` is the whole; its parts are small frozen dataclasses. A card from a file is compared with these shapes once,
where the file is read. What earlier versions did not write may be missing, and what later ones add is kept.
"""

from __future__ import annotations

from featurepipe.cards.blocks import Block, Blocks, BlockTest
from featurepipe.cards.card import Card, Data, Followed, Selection, Splits, Tried
from featurepipe.cards.figures import Answered, ClassFigures, Draws, FewShot, Figures, Headline
from featurepipe.cards.parts import Part
from featurepipe.cards.promotions import (
    AFTER_ALL,
    Advice,
    Epoch,
    Range,
    Rated,
    RatedNetwork,
    RatedProbe,
    Refit,
    Scratch,
    Tuning,
    Validation,
)
from featurepipe.cards.segmentations import PatchClass, Segmented

__all__ = [
    "AFTER_ALL",
    "Advice",
    "Answered",
    "Block",
    "BlockTest",
    "Blocks",
    "Card",
    "ClassFigures",
    "Data",
    "Draws",
    "Epoch",
    "FewShot",
    "Figures",
    "Followed",
    "Headline",
    "Part",
    "PatchClass",
    "Range",
    "Rated",
    "RatedNetwork",
    "RatedProbe",
    "Refit",
    "Scratch",
    "Segmented",
    "Selection",
    "Splits",
    "Tried",
    "Tuning",
    "Validation",
]
