"""All that a page shows of single samples: where they lie, what they are taken for, how they look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from featurepipe.reports.looks import Look

NONE = -1  # of a label or a split that is not known
SHEET = 8  # samples of each part of the contact sheet


@dataclass(frozen=True)
class Gallery:
    """Samples, those that are reported first.

    Attributes
    ----------
    ids : sequence of str
        Names of the n samples, below the data's folder.
    labels : list of str
        All labels that samples have or are given.
    truth, guess : ndarray of int, shape (n,)
        Places in `labels`: of the label, -1 where there is none, and of what the model says.
    confidence : ndarray of float32, shape (n,)
        Probability of what the model says.
    split : ndarray of int, shape (n,)
        Places in `featurepipe.manifests.SPLITS`; -1 where there is none.
    reported : int
        How many samples the figures are measured on; they come first.
    points : ndarray of float, shape (n, 2)
        Where they lie on the map.
    projection : str
        How the map was made, in words.
    raw : ndarray of float32, shape (reported,) or None
        `confidence` without the model's temperature; None where that is 1.
    whole : int
        How many samples there are, with those that are left out here.
    store : str or None
        What the folder of the embeddings is called.
    medium : str
        What a sample is.
    looks : mapping of int to Look
        Sample → how it is shown, as far as there is room.
    advice : mapping or None
        What `featurepipe.stages.advise` says.
    notes : list of str
        What the reader has to know of the samples.
    """

    ids: Sequence[str]
    labels: list[str]
    truth: np.ndarray
    guess: np.ndarray
    confidence: np.ndarray
    split: np.ndarray
    reported: int
    points: np.ndarray
    projection: str
    raw: np.ndarray | None = None
    whole: int = 0
    store: str | None = None
    medium: str = "image"
    looks: Mapping[int, Look] = field(default_factory=dict)
    advice: Mapping[str, object] | None = None
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def right(self) -> np.ndarray:
        """Whether the model is right on each reported sample, bool (reported,)."""
        return self.truth[: self.reported] == self.guess[: self.reported]

    @cached_property
    def _by_confidence(self) -> np.ndarray:
        """Reported samples, the most certain first."""
        return np.argsort(-self.confidence[: self.reported], kind="stable")

    @property
    def mistakes(self) -> np.ndarray:
        """Reported samples on which the model is wrong, the most certain first."""
        return self._by_confidence[~self.right[self._by_confidence]]

    @property
    def doubtful(self) -> np.ndarray:
        """The reported samples of which the model is least certain, at most `SHEET`."""
        return self._by_confidence[::-1][:SHEET]

    @property
    def best(self) -> np.ndarray:
        """Of each class the sample that the model is right on and most certain of; rare classes come last."""
        rights = self._by_confidence[self.right[self._by_confidence]]
        classes, firsts, counts = np.unique(self.truth[rights], return_index=True, return_counts=True)
        return rights[firsts[np.lexsort([classes, -counts])]]

    @property
    def order(self) -> np.ndarray:
        """All samples, those first whose look matters most."""
        some = [self.mistakes[:SHEET], self.doubtful, self.best[: 2 * SHEET], self.mistakes, np.arange(len(self))]
        every = np.concatenate(some)
        return every[np.sort(np.unique(every, return_index=True)[1])]

    def shown(self, looks: Mapping[int, Look]) -> Gallery:
        """The same with looks."""
        return replace(self, looks=looks)

    def confusions(self, most: int) -> list[tuple[int, int, int]]:
        """True label, what it is taken for, and how often, of reported samples; the most frequent first."""
        pairs = np.stack([self.truth[: self.reported], self.guess[: self.reported]], axis=1)[~self.right]
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:most]
        return [(int(found[i, 0]), int(found[i, 1]), int(counts[i])) for i in order]
