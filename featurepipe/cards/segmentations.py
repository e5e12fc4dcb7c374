"""How good a segmentation is, by its card."""

from __future__ import annotations

from dataclasses import dataclass

from featurepipe.cards.parts import Absent, Anything, Count, Figure, Number, Part, Share, Text


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchClass(Part):
    """A class: its intersection over union, null where it is nowhere, and how many pixels are of it."""

    iou: Figure
    pixels: Count


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmented(Part):
    """Figures of a segmentation, as `featurepipe.segment` returns them.

    Attributes
    ----------
    kind : str
    strength : float or None
    evaluated_on : str
    n : int
        Images.
    miou, pixel_accuracy : float
    miou_interval, pixel_accuracy_interval : list of float or None
    covered : float
        Share of the pixels that the network has seen, and that count.
    per_class : dict
    path : list of dict
        What was tried, and its mIoU in cross-validation.
    mask_values : list of int, or None
        What each class is in a mask; without them, the number of the class.
    ignored : int or None
        The value of pixels that do not count.
    """

    kind: Text
    strength: Number | None
    evaluated_on: Text
    n: Count
    miou: Share
    pixel_accuracy: Share
    miou_interval: Absent[list[Share]] = None
    pixel_accuracy_interval: Absent[list[Share]] = None
    covered: Share
    per_class: dict[str, PatchClass]
    path: Anything = None
    mask_values: Absent[list[Count]] = None
    ignored: Absent[Count] = None
