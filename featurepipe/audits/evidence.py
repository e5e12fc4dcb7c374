"""All that checks can know of samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from featurepipe.audits.findings import Unknown
from featurepipe.audits.pictures import Pictures
from featurepipe.errors import ProbeError
from featurepipe.manifests.labelsets import SEPARATOR
from featurepipe.matrices import FeatureMatrix
from featurepipe.probes import OutOfFold, out_of_fold
from featurepipe.statistics.neighbours import Nearest, nearest

NEIGHBOURS = 10
KIND = "logistic"
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)  # a larger C learns wrong labels by heart, and takes most of the time


@dataclass(frozen=True)
class Evidence:
    """All that checks can know of samples; what is costly is made when it is asked for.

    Attributes
    ----------
    samples : FeatureMatrix
        All of them, with or without labels and splits.
    seen : Pictures or None
        What is to be seen of each of `contents`; None where nobody could look.
    unseen : str
        Why nobody could look.
    seed : int
        Seed of folds.
    """

    samples: FeatureMatrix
    seen: Pictures | None = None
    unseen: str = "the images were not looked at"
    seed: int = 0

    @cached_property
    def contents(self) -> np.ndarray:
        """The first row of each content, (m,), in the order of the samples."""
        return np.array([rows[0] for rows in self.copies])

    @cached_property
    def copies(self) -> list[np.ndarray]:
        """All rows of each content."""
        _, firsts, numbers = np.unique(self.samples.digests.astype(str), return_index=True, return_inverse=True)
        places = firsts.argsort().argsort()[numbers]  # (n,): each row's place in `contents`
        order = np.argsort(places, kind="stable")
        return np.split(order, np.cumsum(np.bincount(places))[:-1])

    def rows_of(self, places: np.ndarray) -> np.ndarray:
        """All rows of contents, which are given as places in `contents`."""
        return np.sort(np.concatenate([self.copies[place] for place in places]))

    @cached_property
    def nearest(self) -> Nearest:
        """The nearest other contents of each content, as places in `contents`."""
        if len(self.contents) < 2:
            raise Unknown("there is only one image")
        return nearest(self.samples.X[self.contents], NEIGHBOURS)

    @property
    def pictures(self) -> Pictures:
        """What is to be seen of each of `contents`."""
        if self.seen is None:
            raise Unknown(self.unseen)
        return self.seen

    @cached_property
    def labelled(self) -> np.ndarray:
        """The rows that have a label, (l,), of two classes at least."""
        rows = np.flatnonzero([label is not None for label in self.samples.y])
        sets = [label for label in self.samples.y[rows] if SEPARATOR in label]
        if sets:
            raise Unknown(f"labels are sets, such as {sets[0]!r}")
        if len(set(self.samples.y[rows])) < 2:
            raise Unknown("there are fewer than two classes")
        return rows

    @cached_property
    def answers(self) -> OutOfFold:
        """What a probe says of the `labelled` rows, each of which it has not learned from; nor from their groups."""
        known = self.samples.take(self.labelled)
        try:
            return out_of_fold(KIND, known.X, known.y, groups=known.units, values=STRENGTHS, seed=self.seed)
        except ProbeError as error:
            raise Unknown(str(error)) from error
