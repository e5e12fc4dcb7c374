"""Check: images that are nearly the same, such as the same photo encoded twice, resized or cropped.

Of each image its ten nearest neighbours by embedding are considered. A pair is a near copy if one of two is true.

- Its distance is far below those of other images to their nearest neighbour: below Tukey's outer fence of their
  logarithms, the lower quartile less three times the distance between the quartiles (Tukey 1977, "Exploratory Data
  Analysis", section 2D).
- It is no farther than tenth neighbours usually are, and the perceptual hashes agree: they differ in no more than ten
  of 63 bits, and in so few that it is an outlier among tenth neighbours, most of which are merely similar (a modified
  z-score of -3.5; see `featurepipe.audits.outliers`). Digits on white, say, all have similar hashes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from featurepipe.audits.evidence import Evidence
from featurepipe.audits.findings import Finding, copies_kind
from featurepipe.audits.outliers import FAR, TO_SIGMA
from featurepipe.audits.pictures import Pictures
from featurepipe.statistics.neighbours import Nearest

BITS = 10  # in which hashes of copies differ at most
LEAST = 1e-6  # distance, of what float32 tells from 0


@dataclass(frozen=True)
class Pairs:
    """Pairs of contents that are near copies.

    Attributes
    ----------
    one, other : ndarray of int, shape (p,)
    distances : ndarray of float, shape (p,)
    bits : ndarray of int, shape (p,), or None
        In which the hashes differ; None where nobody could look.
    """

    one: np.ndarray
    other: np.ndarray
    distances: np.ndarray
    bits: np.ndarray | None


def near_copies(evidence: Evidence) -> Iterator[Finding]:
    """Images that look the same and differ in their bytes: encoded again, resized, cropped, or of one burst."""
    pairs = find_pairs(evidence.nearest, evidence.seen)
    if not len(pairs.one):
        return
    usual = np.median(evidence.nearest.distances[:, -1])
    for places, members in _linked(pairs, len(evidence.contents)):
        closest = members[np.argmin(pairs.distances[members])]
        distance = float(pairs.distances[closest])
        rows = evidence.rows_of(places)
        opinion = "" if pairs.bits is None else f"; perceptual hashes differ in {pairs.bits[closest]} of 63 bits"
        yield Finding(
            copies_kind("near copies", evidence.samples, rows),
            _sureness(distance / max(usual, LEAST), None if pairs.bits is None else int(pairs.bits[closest])),
            tuple(rows.tolist()),
            f"{len(places)} images look the same (distance {distance:.3f}, usual is {usual:.3f}{opinion})",
        )


def find_pairs(near: Nearest, pictures: Pictures | None) -> Pairs:
    """The near copies among neighbours."""
    count, k = near.rows.shape
    one, other = np.repeat(np.arange(count), k), near.rows.ravel()
    _, firsts = np.unique(np.minimum(one, other) * count + np.maximum(one, other), return_index=True)
    one, other, distances = one[firsts], other[firsts], near.distances.ravel()[firsts]
    kept = distances < fence(near.distances[:, 0])
    bits = None
    if pictures is not None:
        bits = pictures.differences(one, other)
        agreeing = bits <= most_bits(pictures, near)
        kept |= agreeing & (distances <= np.median(near.distances[:, -1]))
    return Pairs(one[kept], other[kept], distances[kept], None if bits is None else bits[kept])


def fence(distances: np.ndarray) -> float:
    """Tukey's lower outer fence of distances, on the logarithmic scale."""
    low, high = np.quantile(np.log(np.maximum(distances, LEAST)), (0.25, 0.75))
    return float(np.exp(low - 3 * (high - low)))


def most_bits(pictures: Pictures, near: Nearest) -> int:
    """In how many bits hashes of copies may differ: in far fewer than those of the last neighbours do."""
    chance = pictures.differences(np.arange(len(near.rows)), near.rows[:, -1])
    middle = np.median(chance)
    spread = np.median(np.abs(chance - middle)) / TO_SIGMA
    return min(BITS, int(np.floor(middle - FAR * spread)))


def _linked(pairs: Pairs, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Contents that pairs link, and which pairs these are."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs.one), bool), (pairs.one, pairs.other)), shape=(count, count))
    _, component = connected_components(links, directed=False)
    for number in np.unique(component[pairs.one]):
        yield np.flatnonzero(component == number), np.flatnonzero(component[pairs.one] == number)


def _sureness(distance: float, bits: int | None) -> float:
    """From 0 to 1: by the distance, in units of the usual one, and by the hashes, if there are any."""
    by_distance = float(np.exp(-2 * distance))
    return by_distance if bits is None else (by_distance + max(0.0, 1 - bits / 32)) / 2
