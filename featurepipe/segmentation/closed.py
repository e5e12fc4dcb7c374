"""Linear classifiers of patches in closed form, from sums alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np

from featurepipe.segmentation.moments import Moments

ALPHAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of ridge, times the number of cells
SHRINKAGES = (1e-4, 1e-3, 1e-2, 1e-1, 0.3)  # of LDA's covariance towards the identity, on standardised features
NEVER = -1e30  # the score of a class that is not there: finite, as model files are
SMALLEST = 1e-6  # deviation of a feature that is always the same


@dataclass(frozen=True)
class Patches:
    """A linear classifier of patches.

    Attributes
    ----------
    coef : ndarray of float64, shape (K, D)
    intercept : ndarray of float64, shape (K,)
    """

    coef: np.ndarray
    intercept: np.ndarray

    def scores(self, tokens: np.ndarray) -> np.ndarray:
        """Scores (…, K) of tokens (…, D)."""
        return tokens.astype(np.float64) @ self.coef.T + self.intercept


def ridge(moments: Moments, strengths: Sequence[float] = ALPHAS) -> list[Patches]:
    """Ridge regression on the shares of classes, at each strength.

    Features are standardised, the intercept is not penalised, and alpha is multiplied by the number of cells.
    """
    from scipy.linalg import cho_factor, cho_solve

    n, mean, scale, covariance = _standard(moments)
    share = moments.counts / n
    crossed = (moments.crossed / n - np.outer(mean, share)) / scale[:, None]  # (D, K)
    made = []
    for strength in strengths:
        solved = cho_solve(cho_factor(covariance + strength * np.eye(len(mean))), crossed)  # (D, K)
        coef = (solved / scale[:, None]).T
        made.append(Patches(coef, share - coef @ mean))
    return made


def lda(moments: Moments, strengths: Sequence[float] = SHRINKAGES) -> list[Patches]:
    """Linear discriminant analysis, at each shrinkage; a class's mean and prior are those of its shares."""
    from scipy.linalg import cho_factor, cho_solve

    n, mean, scale, covariance = _standard(moments)
    prior = moments.counts / n
    means = (moments.crossed / moments.counts - mean[:, None]) / scale[:, None]  # (D, K), standardised
    within = covariance - (means * prior) @ means.T
    size = max(np.trace(within) / len(mean), SMALLEST)
    made = []
    for strength in strengths:
        shrunk = (1 - strength) * within + strength * size * np.eye(len(mean))
        solved = cho_solve(cho_factor(shrunk), means)  # (D, K)
        coef = (solved / scale[:, None]).T
        made.append(Patches(coef, np.log(prior) - (means * solved).sum(0) / 2 - coef @ mean))
    return made


def _standard(moments: Moments) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """How many cells there are, each feature's mean and deviation (D,), and the covariance of standardised ones."""
    n = moments.counts.sum()
    mean = moments.sums / n
    covariance = moments.products / n - np.outer(mean, mean)
    scale = np.sqrt(np.maximum(np.diag(covariance), SMALLEST**2))
    return n, mean, scale, covariance / np.outer(scale, scale)


def fit_all(moments: Moments, candidates: Sequence[tuple[str, float]]) -> list[Patches]:
    """Every candidate, a kind and a strength. A class that no cell is of gets no pixel."""
    there = moments.counts > 0
    some = Moments(moments.products, moments.crossed[:, there], moments.sums, moments.counts[there])
    made = []
    for kind, mine in groupby(candidates, itemgetter(0)):
        for one in CLOSED[kind][0](some, [strength for _, strength in mine]):
            coef, intercept = np.zeros((len(there), len(moments.sums))), np.full(len(there), NEVER)
            coef[there], intercept[there] = one.coef, one.intercept
            made.append(Patches(coef, intercept))
    return made


CLOSED: dict[str, tuple[Callable[..., list[Patches]], Sequence[float]]] = {
    "ridge": (ridge, ALPHAS),
    "lda": (lda, SHRINKAGES),
}
