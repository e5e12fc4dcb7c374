"""What a kind of probe says of itself and can do: the seam that every kind plugs into."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from featurepipe import jsons
from featurepipe.errors import ProbeError
from featurepipe.solvers import CPU, Certificate, Matrix, stacked

Fitted = tuple[Any, Certificate | None]
FOLDS = 5
BALANCED = "balanced"
SMALL_BYTES = 2**26
VECTORS, TOKENS = "vectors", "tokens"  # what a kind reads of a sample: (D,), or (H, W, D)


@dataclass(frozen=True, kw_only=True)
class Head(ABC):
    """How a fitted classifier is written into a model file, and made again from it.

    Attributes
    ----------
    name : str
    tensors : tuple of str
        Names of its arrays in a model file.
    may_be_nan : tuple of str
        Those of them that may hold what is not a number, as they decide no answer.
    of_pixels : bool
        Whether it answers for each pixel, and not for a sample.
    since : str
        The version of a model file that holds it alone: the earliest one, from 1.2, that has it.
    """

    name: str
    tensors: tuple[str, ...]
    may_be_nan: tuple[str, ...] = ()
    of_pixels: bool = False
    since: str = "1.2"

    @property
    @abstractmethod
    def chosen(self) -> Any:
        """What a card has as its strength."""

    @abstractmethod
    def dump(self, estimator: Any) -> tuple[np.ndarray, ...]:
        """The arrays of a fitted estimator, in the order of `tensors`."""

    @abstractmethod
    def restore(self, classes: np.ndarray, arrays: Sequence[np.ndarray], chosen: Any, seed: int) -> Any:
        """A scikit-learn estimator as if it had been fitted here.

        Parameters
        ----------
        classes : ndarray, shape (K,)
            Sorted.
        arrays : sequence of ndarray
            In the order of `tensors`.
        chosen : float, mapping or None
            Its strength, as `featurepipe.probes.Probe.chosen` has it.
        seed : int
            What it was fitted with.

        Raises
        ------
        ValueError
            The arrays do not fit the classes, or each other.
        """


@dataclass(frozen=True, kw_only=True)
class Kind(Head):
    """A kind of probe.

    Attributes
    ----------
    parameter : str or None
        What its strength is called; None where there is nothing to choose.
    grid : tuple of float or None
        The strengths that are tried.
    is_linear : bool
        Whether it has a weight for each class and feature, from which a network's head can start.
    is_cross_entropy : bool
        Whether it minimises the cross-entropy, as tuning does, so that a tuned head has its strength.
    is_weighted : bool
        Whether it takes class weights.
    weighs_rows : bool
        Whether it takes a weight for each row, of which 2 is exactly the row twice.
    on_devices : bool
        Whether it can be fitted on a GPU.
    is_copied : bool
        Whether it is made of a copy of the features, which then have to be in memory.
    holds_scores : bool
        Whether its fit holds numbers of all rows and classes at once, however many there are.
    is_dear : bool
        Whether it is fitted once only, and not by cross-validation too, where its strength is given.
    is_standardised : bool
        Whether it standardises features, so that blocks of several backbones can be balanced.
    reads : {'vectors', 'tokens'}
        What it reads of a sample: which entries of a store it is for, and whether X is (n, D) or (n, H, W, D).
    """

    parameter: str | None
    grid: tuple[float | None, ...]
    is_linear: bool = False
    is_cross_entropy: bool = False
    is_weighted: bool = True
    weighs_rows: bool = True
    on_devices: bool = False
    is_copied: bool = False
    holds_scores: bool = False
    is_dear: bool = False
    is_standardised: bool = True
    reads: str = VECTORS

    @property
    def chosen(self) -> Any:
        """A number, where there is anything to choose."""
        return jsons.ANYTHING if self.parameter is None else jsons.NUMBER

    @abstractmethod
    def fit(
        self,
        X: Matrix,
        y: np.ndarray,
        candidates: Sequence[float | None],
        weights: np.ndarray | None,
        *,
        seed: int,
        keep: bool,
        device: str,
    ) -> Iterable[Fitted]:
        """Fit every candidate; as `fit_path`, with the weights (n,) of the rows."""

    def fit_path(
        self,
        X: Matrix,
        y: np.ndarray,
        candidates: Sequence[float | None],
        *,
        class_weight: str | None = None,
        sample_weight: np.ndarray | None = None,
        seed: int = 0,
        keep: bool = True,
        device: str = CPU,
    ) -> list[Fitted]:
        """Fit every candidate.

        Parameters
        ----------
        X : ndarray or Stack, shape (n, D), or (n, H, W, D) of a kind that reads tokens
        y : ndarray, shape (n,)
        candidates : sequence
            Strengths, of `parameter`.
        class_weight : {None, 'balanced'}
            See `featurepipe.probes.fit`.
        sample_weight : ndarray, shape (n,), optional
            What each row weighs, above 0.
        seed : int
            Seed of an mlp's initialisation and batches.
        keep : bool
        device : str
            See `featurepipe.probes.fit`.

        Returns
        -------
        list of (estimator, certificate)
            scikit-learn estimators for raw X; None where there is no certificate.
        """
        weights = balanced(y) if class_weight == BALANCED else None
        if sample_weight is not None:
            weights = sample_weight if weights is None else weights * sample_weight
        with threads(X):
            return list(self.fit(X, y, candidates, weights, seed=seed, keep=keep, device=device))

    def fit_folds(
        self, X: Matrix, y: np.ndarray, candidates: Sequence[float | None], folds: np.ndarray, **how: Any
    ) -> Iterator[tuple[np.ndarray, list[Fitted]]]:
        """Fit every candidate on all rows but those of a fold, fold after fold.

        Parameters
        ----------
        X, y, candidates, **how
            As for `fit_path`.
        folds : ndarray of int, shape (n,)
            From 0 to `FOLDS` - 1, or -1 for a row that is never held out. Every class stays when a fold is left out.

        Yields
        ------
        out : ndarray of bool, shape (n,)
            The rows held out.
        list of (estimator, certificate)
        """
        weights = how.pop("sample_weight", None)
        for fold in range(FOLDS):
            out = folds == fold
            if out.any():
                mine = None if weights is None else weights[~out]
                yield out, self.fit_path(stacked(X).take(~out), y[~out], candidates, sample_weight=mine, **how)

    def candidates(self, value: float | None, rows: int) -> tuple[float | None, ...]:
        """The strengths to try: the given one, or the grid as far as this many rows allow.

        Raises
        ------
        ProbeError
            A value that the kind cannot have.
        """
        if value is None:
            return self.grid
        if self.parameter is None:
            raise ProbeError(f"a {self.name} probe has no strength to set; leave {value} out")
        self.check_value(value, rows)
        return (value,)

    def check_value(self, value: float, rows: int) -> None:
        """Raise ProbeError for a strength that the kind cannot have."""
        if not 0 < value < np.inf:
            raise ProbeError(f"{self.parameter} must be above 0 and finite; got {value}")

    def check_installed(self) -> None:
        """Raise DependencyMissing if it needs a library that is not installed."""

    def notes(self, estimator: Any) -> list[str]:
        """What has to be said of a fitted estimator, in notes."""
        return []

    def is_at_edge(self, chosen: float | None) -> bool:
        """Whether better strengths may lie beyond the grid: the chosen one is its first or last."""
        return len(self.grid) > 1 and chosen in (self.grid[0], self.grid[-1])

    def untested(self, X: np.ndarray, strength: float | None, is_given: bool) -> tuple[float, list[str]]:
        """The temperature where no scores are there to fit it on, and notes on that."""
        return 1.0, []


def threads(X: Matrix) -> AbstractContextManager[object]:
    """One BLAS thread for small matrices: they gain little from more, and waiting for busy cores costs tenfold."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1 if 8 * prod(X.shape) < SMALL_BYTES else None, "blas")


def numbers(candidates: Iterable[float | None]) -> Iterator[float]:
    """The candidates of a kind that has a parameter: none of them is None."""
    for candidate in candidates:
        assert candidate is not None
        yield candidate


def balanced(y: np.ndarray) -> np.ndarray:
    """Weights (n,) of samples that make the classes count alike, as scikit-learn's: n / (K × count of the class)."""
    _, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    return (len(y) / (len(counts) * counts))[codes]


def outputs(classes: int) -> int:
    """How many scores a classifier gives: one for two classes."""
    return 1 if classes == 2 else classes


def check_shapes(classes: int, arrays: Sequence[np.ndarray], fits: bool) -> None:
    """Raise ValueError unless a head's arrays fit."""
    if not fits:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"a head of shapes {shapes} does not fit {classes} classes")
