"""Softmax regression that keeps no array of rows × classes, with its certificate.

L-BFGS goes the whole way (`featurepipe.solvers.descents`), and a bound in float64 says how far it came. What is proven
does not need an intercept at its optimum. With t the classes' weights, s the sums of the predictions P over the rows,
and P′ predictions whose sums are t, the duality gap at P′ is

    Σ wᵢ KL(P′ᵢ ‖ Pᵢ) + C/2 · ‖W/C − Σ wᵢ (Yᵢ − P′ᵢ) xᵢᵀ‖²,

which is C/2 · ‖∇F‖² where s is t. P′ takes from each class that is predicted too often the share that is too much,
row by row, and gives it to those that are predicted too rarely, as much as they lack. So two passes over the rows
prove a bound: one for s, and one for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from featurepipe.solvers.arrays import slices
from featurepipe.solvers.axes import Rotated
from featurepipe.solvers.descents import descend

TIGHTER = (1.0, 0.25, 0.0625)  # times the tolerance, one after the other, as long as the bound is not within it


class Reached(NamedTuple):
    """As `featurepipe.solvers.Certificate` has it, and how often the gradient was computed.

    The gradient's norm is that with P′ instead of P, next to s − t.
    """

    objective: float
    gradient_norm: float
    gap: float
    passes: int


class Lean:
    """A path whose scores are made block by block.

    Parameters
    ----------
    rows : Rotated
    codes : ndarray of int, shape (n,)
        Class numbers.
    classes : int
    w : ndarray, shape (n,)
        Weights of the rows.
    tolerance : float
    """

    def __init__(self, rows: Rotated, codes: np.ndarray, classes: int, w: np.ndarray, tolerance: float) -> None:
        self.rows, self._codes, self._w, self.tolerance = rows, codes, w, tolerance
        self._wanted = np.bincount(codes, w, classes)  # t, (K,)
        self._last = np.zeros((classes, rows.rank + 1))

    def solve(self, C: float) -> tuple[np.ndarray, Reached]:
        """Coefficients (K, r + 1), and what is known about them."""
        W, passes = self._last, 0
        for share in TIGHTER:
            W, count = descend(
                self.rows.single, self._codes, self._w, C, W, self._curvatures(C), share * self.tolerance
            )
            passes += count
            reached = Reached(*self._certify(W, C), passes)
            if reached.gap <= self.tolerance:
                break
        self._last = W
        return W, reached

    def _curvatures(self, C: float) -> np.ndarray:
        """About the diagonal of the Hessian, (K, r + 1)."""
        shares = self._wanted / self.rows.weight
        found = (shares * (1 - shares))[:, None] * np.append(self.rows.squares, self.rows.weight)
        found[:, :-1] += 1 / C
        return found

    def _certify(self, W: np.ndarray, C: float) -> tuple[float, float, float]:
        """Objective, norm of the gradient, and the proven gap relative to the objective."""
        sums, loss = np.zeros(len(W)), 0.0
        for at, _, logs in self._logs(W):
            w = self._w[at]
            sums += w @ np.exp(logs)
            loss -= float(w @ logs[np.arange(len(logs)), self._codes[at]])
        objective = loss + float((W[:, :-1] ** 2).sum()) / (2 * C)
        moved = [0.0]
        G, lost = self.rows.backward_of(self._residuals(W, sums, moved))  # (K, r + 1)
        G[:, :-1] += W[:, :-1] / C
        gap = moved[0] + C / 2 * (float((G[:, :-1] ** 2).sum()) + lost)
        G[:, -1] = sums - self._wanted
        return objective, float(np.linalg.norm(G)), gap / objective

    def _residuals(
        self, W: np.ndarray, sums: np.ndarray, moved: list[float]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows (m, D) and their w (P′ − Y), (m, K); Σ w KL(P′ ‖ P) is added to `moved`."""
        kept = np.where(sums > self._wanted, self._wanted / sums, 1.0)  # of what is predicted too often
        lacking = np.maximum(self._wanted - sums, 0)
        few = np.flatnonzero(lacking)
        given = lacking[few] / max(lacking.sum(), 1e-300)
        many, log_kept = kept < 1, np.log(kept)
        for at, chunk, logs in self._logs(W):
            P, w = np.exp(logs), self._w[at]
            freed = P @ (1 - kept)  # (m,)
            P *= kept
            change = P[:, many] @ log_kept[many]  # (m,) of the divergence
            if len(few):
                P[:, few] += freed[:, None] * given
                change += (P[:, few] * (np.log(np.maximum(P[:, few], 1e-300)) - logs[:, few])).sum(axis=1)
            moved[0] += float(w @ change)
            P[np.arange(len(P)), self._codes[at]] -= 1
            yield chunk, P * w[:, None]

    def _logs(self, W: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Where rows are, the rows (m, D), and the logarithms of their predictions (m, K), all in float64."""
        for at, chunk, scores in self.rows.scores(W, lambda rows: slices(rows, len(W))):
            scores -= scores.max(axis=1, keepdims=True)
            yield at, chunk, scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
