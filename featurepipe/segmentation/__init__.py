"""Segmentation: linear classifiers of patches, from tokens in a store and masks next to the images.

The closed forms (ridge and LDA) come from sums that are read once; logistic regression is trained by gradient descent,
as published evaluations do it. Scores of patches are interpolated to pixels.
"""

from featurepipe.segmentation.choices import Choice, choose
from featurepipe.segmentation.closed import CLOSED, Patches
from featurepipe.segmentation.descent import logistic
from featurepipe.segmentation.drawings import LARGEST, mask_png, overlay, overlay_png, palette, small
from featurepipe.segmentation.figures import confused, confusion, figures, ious, mean_iou
from featurepipe.segmentation.frames import Window, classify, middles, spread, window_of
from featurepipe.segmentation.masks import Masks, find_masks, learn_classes, shares
from featurepipe.segmentation.moments import FINER, Moments
from featurepipe.segmentation.paintings import Files, Painter, places

__all__ = [
    "CLOSED",
    "FINER",
    "LARGEST",
    "Choice",
    "Files",
    "Masks",
    "Moments",
    "Painter",
    "Patches",
    "Window",
    "choose",
    "classify",
    "confused",
    "confusion",
    "figures",
    "find_masks",
    "ious",
    "learn_classes",
    "logistic",
    "mask_png",
    "mean_iou",
    "middles",
    "overlay",
    "overlay_png",
    "palette",
    "places",
    "shares",
    "small",
    "spread",
    "window_of",
]
