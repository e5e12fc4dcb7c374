"""Cross-validation of ridge classifiers: every alpha on every held-out row, in a few products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.statistics.ridges import Ridge, check_alphas, solve_ridge, target_products
from featurepipe.statistics.sums import Chunk, Statistics, blocks, by_fold

UNIT = 2.0**-24  # of float32: the relative error of one operation
BASIS_TOLERANCE = 1e-7  # below the bound of what float32 products lose


@dataclass(frozen=True)
class RidgeScores:
    """What cross-validation says of each alpha.

    Attributes
    ----------
    alphas : ndarray of float64, shape (A,)
    counts : ndarray of int64, shape (F,)
        Rows held out in each fold.
    accuracy : ndarray of float64, shape (F, A)
        Top-1 on the rows held out.
    squared_error : ndarray of float64, shape (F, A)
        Mean over those rows and all classes of (score − target)², with targets −1 and 1.
    """

    alphas: np.ndarray
    counts: np.ndarray
    accuracy: np.ndarray
    squared_error: np.ndarray

    @property
    def best_alpha(self) -> float:
        """The alpha of the greatest accuracy (mean of the folds); equal ones are told apart by the squared error."""
        best = np.lexsort((self.squared_error.mean(axis=0), -self.accuracy.mean(axis=0)))[0]
        return float(self.alphas[best])


def cross_validate_ridge(
    statistics: Statistics, chunks: Iterable[Chunk], alphas: Sequence[float], *, scale: bool = False
) -> RidgeScores:
    """Accuracy of every alpha in k-fold cross-validation, by a second pass over the rows.

    Each fold's classifiers come from the statistics of the other folds; so does the squared error, which needs no
    second pass. That one multiplies held-out rows with coefficients, and is fast for two reasons. Coefficients change
    smoothly with alpha, so those of any number of alphas are combinations of a few, to 1e-7 (`_basis`). And the
    products are of float32: where the scores that decide a row are nearer to each other than a bound of the error
    allows, they are computed again in float64, so that the counts are those of float64.

    Parameters
    ----------
    statistics : Statistics
        With folds.
    chunks : iterable of tuple
        The very rows that they were taken of.
    alphas : sequence of float
        Each 0 or above.
    scale : bool
        As in `ridge_path`; what it is standardised by comes from the training folds alone.

    Returns
    -------
    RidgeScores
        Folds without rows are left out.

    Raises
    ------
    ProbeError
        No fold has rows, a fold leaves fewer than two classes to train on, rows are weighted, or the chunks are not the
        same rows.

    Examples
    --------
    >>> from featurepipe.statistics import gather
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 3
    >>> chunks = [(rng.normal(size=(60, 4)) + y[:, None], y, np.arange(60) // 12)]
    >>> scores = cross_validate_ridge(gather(chunks, y, folds=5), chunks, [0.1, 10, 1e6])
    >>> scores.accuracy.shape
    (5, 3)
    """
    checked = check_alphas(alphas)
    if statistics.counts.dtype.kind == "f":
        raise ProbeError("accuracy counts rows, and these statistics are weighted; take them without class_weight")
    held_out = [fold for fold in range(statistics.folds) if statistics.counts[fold].any()]
    if not held_out:
        raise ProbeError("no fold has rows to hold out; give each row's fold to gather")
    fitted, errors = {}, []
    for fold in held_out:
        train = statistics.without(fold)
        if np.count_nonzero(train.class_counts) < 2:
            raise ProbeError(f"without fold {fold} fewer than two classes are left to train on; use other folds")
        basis = _basis(solve_ridge(train, scale), checked)
        errors.append(_squared_error(statistics.only(fold), basis))
        fitted[fold] = _Judge.of(basis, checked, train.class_counts > 0)
    counts, correct = _count_correct(statistics, chunks, fitted, len(checked))
    if (counts != statistics.counts).any():
        raise ProbeError(
            f"the second pass met {counts.sum()} rows where the first had {statistics.rows}, or others; "
            "give the same chunks again (a generator gives its items once)"
        )
    sizes = counts[held_out].sum(axis=1)  # (F,)
    return RidgeScores(checked, sizes, correct[held_out] / sizes[:, None], np.stack(errors))


@dataclass(frozen=True)
class _Basis:
    """Coefficients of all alphas as combinations of q: those of alpha a are Σ_j mix[j, a] weights[j].

    Attributes
    ----------
    ridge : Ridge
    weights : ndarray of float64, shape (q, D, K)
    mix : ndarray of float64, shape (q, A)
    rest : ndarray of float64, shape (A,)
        Bound of the norm by which the combined coefficients of a class can be off.
    """

    ridge: Ridge
    weights: np.ndarray
    mix: np.ndarray
    rest: np.ndarray


def _basis(ridge: Ridge, alphas: np.ndarray) -> _Basis:
    """The singular vectors of the factors 1/(λ + α), weighted by what they multiply, that are above the tolerance.

    Between two neighbours on a fine grid of alphas hardly anything happens, so that q stays near 15 for any number.
    """
    size = np.linalg.norm(ridge.products, axis=1)  # (r,)
    size = np.where(size > 0, size, 1.0)[:, None]
    factors = size * ridge.factors(alphas)  # (r, A)
    norms = np.linalg.norm(factors, axis=0)  # (A,): so that every alpha is met with the same relative precision
    left, singular, right = np.linalg.svd(factors / norms, full_matrices=False)
    kept = int((singular > BASIS_TOLERANCE * singular.max(initial=0)).sum())
    rest = singular[kept] if kept < len(singular) else 0.0
    weights = ridge.weights(left[:, :kept] * singular[:kept] / size)
    return _Basis(ridge, weights, right[:kept] * norms, rest * norms)


def _squared_error(held_out: Statistics, basis: _Basis) -> np.ndarray:
    """Mean (score − target)² over rows and classes, per alpha: (A,).

    About the rows' own means, so that nothing large is subtracted:
    ‖Xw − y‖² = w'Sw − 2 w'(X − mean)'y + ‖y − mean y‖² + n (mean score − mean target)².
    """
    rows, targets = held_out.rows, 2 * held_out.class_counts / held_out.rows - 1  # (K,)
    spread = held_out.scatter() @ basis.weights  # (q, D, K)
    left, right = (np.ascontiguousarray(np.moveaxis(of, 2, 0)) for of in (basis.weights, spread))  # (K, q, D)
    forms = ((left @ np.moveaxis(right, 1, 2) @ basis.mix) * basis.mix).sum(axis=1).T  # w'Sw: (A, K)
    fits = basis.mix.T @ np.einsum("qdk,dk->qk", basis.weights, target_products(held_out))  # (A, K)
    offsets = basis.mix.T @ ((held_out.mean - basis.ridge.mean) @ basis.weights) + basis.ridge.targets - targets
    return ((forms - 2 * fits) / rows + 1 - targets**2 + offsets**2).mean(axis=1)


@dataclass(frozen=True)
class _Judge:
    """Says of held-out rows by which alphas they are classified correctly.

    Attributes
    ----------
    basis : _Basis
    factors : ndarray of float64, shape (r, A)
    targets : ndarray of float64, shape (K,)
        Scores at the mean; −inf for a class that is in no training fold, which scikit-learn would not know either.
    weights : ndarray of float32, shape (q, D, K)
    mix : ndarray of float32, shape (A, q)
    errors : ndarray of float64, shape (A,)
        Bound of a score's error, per norm of the row about the mean.
    """

    basis: _Basis
    factors: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    mix: np.ndarray
    errors: np.ndarray

    @classmethod
    def of(cls, basis: _Basis, alphas: np.ndarray, known: np.ndarray) -> _Judge:
        count, width, _ = basis.weights.shape
        norms = np.abs(basis.mix).T @ np.linalg.norm(basis.weights, axis=1)  # (A, K)
        # Of a sum of n products the error is below n units of Σ|product|, which Cauchy and Schwarz bound by norms
        # (Higham 2002, "Accuracy and Stability of Numerical Algorithms", 3.1); rounding to float32 adds four.
        errors = UNIT * (width + count + 4) * norms.max(axis=1) + basis.rest
        targets = np.where(known, basis.ridge.targets, -np.inf)
        with np.errstate(over="ignore"):  # what float32 cannot hold makes no number, and hence doubt
            weights, mix = basis.weights.astype(np.float32), basis.mix.T.astype(np.float32)
        return cls(basis, basis.ridge.factors(alphas), targets, weights, mix, errors)

    def correct(self, X: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Whether rows X (n, D) get the class of their code (n,): bool (A, n)."""
        Z = X - self.basis.ridge.mean
        with np.errstate(over="ignore", invalid="ignore"):
            margins = self._margins(Z, codes)
        doubt = 2 * (self.errors[:, None] * np.linalg.norm(Z, axis=1) + 4 * UNIT)
        right, doubtful = margins > 0, ~(np.abs(margins) > doubt)  # this way round nan is doubtful
        rows = np.flatnonzero(doubtful.any(axis=0))
        turned = Z[rows] @ self.basis.ridge.axes  # (n', r)
        for a in np.flatnonzero(doubtful.any(axis=1)):
            mine = doubtful[a, rows]
            exact = (turned[mine] * self.factors[:, a]) @ self.basis.ridge.products + self.targets  # (n'', K)
            right[a, rows[mine]] = exact.argmax(axis=1) == codes[rows[mine]]
        return right

    def _margins(self, Z: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """By how much the score of a row's own class exceeds all others, in float32: (A, n)."""
        parts = Z.astype(np.float32) @ self.weights  # (q, n, K)
        scores = (self.mix @ parts.reshape(len(parts), -1)).reshape(-1, *parts.shape[1:])  # (A, n, K)
        scores += self.targets.astype(np.float32)
        every = np.arange(len(codes))
        own = scores[:, every, codes]  # (A, n)
        scores[:, every, codes] = -np.inf
        return own - scores.max(axis=2)  # at least two classes are known, so that one of the others is


def _count_correct(
    statistics: Statistics, chunks: Iterable[Chunk], fitted: dict[int, _Judge], alphas: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows met per part and class (F + 1, K), and correct ones per part and alpha (F + 1, A)."""
    known = len(statistics.classes)
    counts = np.zeros(statistics.counts.size, np.int64)
    correct = np.zeros((len(statistics.counts), alphas), np.int64)
    for X, cells in blocks(chunks, statistics.classes, statistics.folds, made=alphas * known):
        counts += np.bincount(cells, minlength=len(counts))
        for fold, rows in by_fold(cells, known):
            if fold in fitted:
                correct[fold] += fitted[fold].correct(X[rows], cells[rows] % known).sum(axis=1)
    return counts.reshape(statistics.counts.shape), correct
