"""What a closed form needs to know of tokens and masks: sums that are read once, for every strength and every fold.

Scores of patches are interpolated between them. Least squares of *interpolated* scores is a matter of sums, too: of a
picture's tokens X (h·w, D) the interpolated features are V = U X, with U the weights of bilinear interpolation at finer
cells; with class shares P (cells, K) of weight m = P 1 the sums are V' m V, V' P, V' m, and all of them over pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featurepipe.segmentation.frames import middles, spread

FINER = 4  # cells of a token's side


@dataclass
class Moments:
    """Sums over the cells of some pictures.

    Attributes
    ----------
    products : ndarray of float64, shape (D, D)
        V' m V.
    crossed : ndarray of float64, shape (D, K)
        V' P.
    sums : ndarray of float64, shape (D,)
        V' m.
    counts : ndarray of float64, shape (K,)
        P' 1.
    """

    products: np.ndarray
    crossed: np.ndarray
    sums: np.ndarray
    counts: np.ndarray

    @classmethod
    def empty(cls, width: int, classes: int) -> Moments:
        """Of no picture."""
        return cls(np.zeros((width, width)), np.zeros((width, classes)), np.zeros(width), np.zeros(classes))

    def add(self, tokens: np.ndarray, held: np.ndarray) -> None:
        """Add a picture: its tokens (h, w, D), and the shares of classes in finer cells, (r·h, r·w, K)."""
        h, w, D = tokens.shape
        X = tokens.astype(np.float64)
        down, across = spread(h, middles(held.shape[0])), spread(w, middles(held.shape[1]))
        counted = held.sum(-1)  # (R, C)
        V = widen(X, down, across)  # (R, C, D)
        back = narrow(V * counted[..., None], down, across)  # (h, w, D): U' m V
        self.products += X.reshape(-1, D).T @ back.reshape(-1, D)
        self.crossed += X.reshape(-1, D).T @ narrow(held, down, across).reshape(h * w, -1)
        self.sums += X.reshape(-1, D).T @ narrow(counted[..., None], down, across).ravel()
        self.counts += held.sum((0, 1))

    def without(self, other: Moments) -> Moments:
        """Of all pictures but those of another one."""
        return Moments(*(mine - theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


def widen(X: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Features of tokens (h, w, D) at finer cells, (R, C, D)."""
    rows = np.tensordot(down, X, (1, 0))  # (R, w, D)
    return np.tensordot(across, rows, (1, 1)).transpose(1, 0, 2)


def narrow(values: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """What `widen` does, the other way (its adjoint): values of finer cells (R, C, D) summed to tokens, (h, w, D)."""
    rows = np.tensordot(down, values, (0, 0))  # (h, C, D)
    return np.tensordot(across, rows, (0, 1)).transpose(1, 0, 2)
