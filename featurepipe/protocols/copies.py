"""Exact copies of an image, and images of one group: none may select what the others train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featurepipe.probes.inputs import check_groups


@dataclass(frozen=True)
class Images:
    """The distinct images of some rows, in the order in which they first occur.

    A recipe that holds out, folds or draws images is followed on `firsts`: without copies these are all rows, as they
    stand, and the recipe is the published one.

    Attributes
    ----------
    numbers : ndarray of int, shape (n,)
        Which image each row is of.
    firsts : ndarray of int, shape (images,)
        The first row of each.
    units : ndarray of int, shape (n,)
        What each row must stay together with, whatever its class.
    """

    numbers: np.ndarray
    firsts: np.ndarray
    units: np.ndarray

    def rows(self, images: np.ndarray) -> np.ndarray:
        """All rows of these images, image by image."""
        ends = np.bincount(self.numbers).cumsum()
        of_image = np.split(np.argsort(self.numbers, kind="stable"), ends[:-1])
        return np.concatenate([of_image[image] for image in images])

    def without(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Those of some rows of which no unit is among that of other rows."""
        return rows[~np.isin(self.units[rows], self.units[others])]


def distinct(y: np.ndarray, groups: Sequence[object] | np.ndarray | None = None) -> Images:
    """Find the distinct images: rows of the same class and group are one, without groups each is its own.

    Parameters
    ----------
    y : ndarray, shape (n,)
    groups : sequence, shape (n,), optional
        Digests, say.

    Raises
    ------
    ProbeError
        There is not one group for each row.

    Examples
    --------
    >>> found = distinct(np.array(["ant", "bee", "ant", "ant"]), ["x", "x", "y", "x"])
    >>> found.numbers.tolist(), found.firsts.tolist(), found.rows(np.array([2, 0])).tolist()
    ([0, 1, 2, 0], [0, 1, 2], [2, 0, 3])
    """
    if groups is None:
        return Images(np.arange(len(y)), np.arange(len(y)), np.arange(len(y)))
    check_groups(groups, len(y))
    (_, classes), (_, codes) = (np.unique(np.asarray(values), return_inverse=True) for values in (y, groups))
    _, firsts, numbers = np.unique(classes * len(y) + codes, return_index=True, return_inverse=True)
    return Images(firsts.argsort().argsort()[numbers], np.sort(firsts), codes)
