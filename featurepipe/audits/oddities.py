"""Check: images that show nothing, or are of an odd size: what a look at the pixels tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from featurepipe.audits.evidence import Evidence
from featurepipe.audits.findings import Finding
from featurepipe.audits.pictures import Pictures

BLANK = 3.0  # standard deviation of a small copy's pixels, of 255
DARK, BRIGHT = 12.0, 243.0  # mean of a small copy's pixels
TINY = 0.25  # of the usual short side
LONG = 3.0  # times as long as it is wide, in units of the usual


def odd_images(evidence: Evidence) -> Iterator[Finding]:
    """Images that are blank, dark, overexposed, tiny or oddly shaped."""
    pictures = evidence.pictures
    for kind, (measure, says) in ODDITIES.items():
        scores = measure(pictures)
        for place in np.flatnonzero(scores > 0):
            rows = tuple(evidence.rows_of(np.array([place])).tolist())
            width, height = pictures.sizes[place]
            yield Finding(kind, float(min(scores[place], 1)), rows, f"{says} ({width}×{height} pixels)")


def _means(pictures: Pictures) -> np.ndarray:
    return pictures.small.mean(axis=(1, 2, 3))


def _blankness(pictures: Pictures) -> np.ndarray:
    spread = pictures.small.reshape(len(pictures.small), -1, 3).std(axis=1).max(axis=1)  # of the liveliest channel
    return 1 - spread / BLANK


def _tininess(pictures: Pictures) -> np.ndarray:
    short = pictures.sizes.min(axis=1)
    return 1 - short / (TINY * np.median(short))


def _length(pictures: Pictures) -> np.ndarray:
    shape = pictures.sizes.max(axis=1) / pictures.sizes.min(axis=1)
    return 1 - LONG * np.median(shape) / shape


# What an odd image is, its measure (above 0 where it is true, at most 1), and the words for it
ODDITIES: dict[str, tuple[Callable[[Pictures], np.ndarray], str]] = {
    "blank images": (_blankness, "all of one colour"),
    "dark images": (lambda pictures: 1 - _means(pictures) / DARK, "nearly black"),
    "overexposed images": (lambda pictures: 1 - (255 - _means(pictures)) / (255 - BRIGHT), "nearly white"),
    "tiny images": (_tininess, "much smaller than the others"),
    "oddly shaped images": (_length, "much longer than the others are"),
}
