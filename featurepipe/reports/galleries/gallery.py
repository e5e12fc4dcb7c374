"""All that a page shows of single samples: where they lie, what they are taken for, how they look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from featurepipe.reports.looks import Look

NONE = -1  # of a label or a split that is not known
SHEET = 8  # samples of each part of the contact sheet
ALIKE = 3  # training samples that are shown next to a reported one
COMPARED = 1000  # reported samples, at most, for which they are looked up


@dataclass(frozen=True)
class Alike:
    """A training sample that is similar to another one.

    Attributes
    ----------
    row : int
        The sample.
    cosine : float
        Cosine of the two embeddings, from -1 to 1.
    """

    row: int
    cosine: float


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
    alike : mapping of int to list of Alike
        Reported sample → the training samples that are nearest to it, the nearest first.
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
    alike: Mapping[int, Sequence[Alike]] = field(default_factory=dict)
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
        first = np.concatenate([self.mistakes[:SHEET], self.doubtful, self.best[: 2 * SHEET]])
        some = [first, self._near(first), self.mistakes, self._near(self.mistakes), np.arange(self.reported)]
        return _distinct([*some, self._near(np.arange(self.reported)), np.arange(len(self))])

    @property
    def compared(self) -> np.ndarray:
        """The reported samples whose nearest training samples matter most, at most `COMPARED`."""
        first = [self.mistakes[:SHEET], self.doubtful, self.best, self.mistakes, np.arange(self.reported)]
        return _distinct(first)[:COMPARED]

    def _near(self, rows: np.ndarray) -> np.ndarray:
        """The training samples that are similar to some."""
        return np.array([one.row for row in rows.tolist() for one in self.alike.get(row, ())], int)

    def shown(self, looks: Mapping[int, Look]) -> Gallery:
        """The same with looks."""
        return replace(self, looks=looks)

    def near(self, alike: Mapping[int, Sequence[Alike]]) -> Gallery:
        """The same with similar training samples."""
        return replace(self, alike=alike)

    def confusions(self, most: int) -> list[tuple[int, int, int]]:
        """True label, what it is taken for, and how often, of reported samples; the most frequent first."""
        pairs = np.stack([self.truth[: self.reported], self.guess[: self.reported]], axis=1)[~self.right]
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:most]
        return [(int(found[i, 0]), int(found[i, 1]), int(counts[i])) for i in order]


def _distinct(parts: Sequence[np.ndarray]) -> np.ndarray:
    """All rows of some lists, each where it comes first."""
    every = np.concatenate(parts)
    return every[np.sort(np.unique(every, return_index=True)[1])]
