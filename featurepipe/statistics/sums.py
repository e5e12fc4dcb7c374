"""The one pass: rows in chunks → counts, sums and X'X per fold and class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.statistics.scales import ROUNDING, feature_scales, is_constant

Chunk = tuple[Any, ...]  # X (n, D), labels (n,), and optionally the fold of each row (n,)
BLOCK_BYTES = 2**25
EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Statistics:
    """Counts, sums and X'X of rows, per fold and class.

    All is about a common `shift`, the mean of the first rows. Embeddings often have means far larger than their
    deviations; X'X about zero then consists of the means, and their square has to be subtracted again to find the
    covariance, by which a mean of 10⁴ deviations loses eight of float64's sixteen digits. About a point that is near
    the mean hardly anything has to be subtracted. The shift is common, so that folds can be added.

    Attributes
    ----------
    classes : ndarray, shape (K,)
        Sorted labels.
    shift : ndarray of float64, shape (D,)
    counts : ndarray of int64, shape (F + 1, K)
        Rows of each fold and class; the last of the F + 1 parts are the rows that are never held out. Of float64,
        their weights added up, where classes are weighted: then a row of weight 2 is two rows in all that follows.
    sums : ndarray of float64, shape (F + 1, K, D)
        Sums of X − shift. For one-hot targets this is X'Y.
    grams : ndarray of float64, shape (F + 1, D, D)
        (X − shift)'(X − shift).
    blocks : tuple of int
        Widths of the blocks of features, for `scales`; nothing where they are one.
    """

    classes: np.ndarray
    shift: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    grams: np.ndarray
    blocks: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    def folds(self) -> int:
        """How many parts can be held out."""
        return len(self.counts) - 1

    @property
    def rows(self) -> int | float:
        """How many rows there are in all, or what they weigh."""
        return self.counts.sum().item()

    @property
    def width(self) -> int:
        """How many features a row has."""
        return len(self.shift)

    @property
    def mean(self) -> np.ndarray:
        """Mean of all rows, (D,)."""
        return self.shift + self.sums.sum(axis=(0, 1)) / self.rows

    @property
    def class_counts(self) -> np.ndarray:
        """Rows of each class over all folds, (K,)."""
        return self.counts.sum(axis=0)

    @property
    def class_sums(self) -> np.ndarray:
        """Sums of X − shift of each class over all folds, (K, D)."""
        return self.sums.sum(axis=0)

    @property
    def class_means(self) -> np.ndarray:
        """Mean of each class over all folds, (K, D); nan for a class without rows."""
        with np.errstate(invalid="ignore"):
            return self.shift + self.class_sums / self.class_counts[:, None]

    def total(self) -> Statistics:
        """The same rows in a single part that is never held out."""
        return self._add(range(len(self.counts)))

    def without(self, fold: int) -> Statistics:
        """All rows but those of one fold: what k-fold cross-validation trains on."""
        return self._add(part for part in range(len(self.counts)) if part != self._fold(fold))

    def only(self, fold: int) -> Statistics:
        """The rows of one fold alone: what k-fold cross-validation holds out."""
        return self._add([self._fold(fold)])

    def scatter(self) -> np.ndarray:
        """(X − mean)'(X − mean) of all rows, (D, D)."""
        total = self.sums.sum(axis=(0, 1))  # (D,)
        return self.gram() - np.outer(total, total / self.rows)

    def within_scatter(self) -> np.ndarray:
        """The sum over the classes of (X − class mean)'(X − class mean), (D, D)."""
        counts = np.where(self.class_counts > 0, self.class_counts, 1)  # no rows, no sums
        scaled = self.class_sums / np.sqrt(counts)[:, None]  # (K, D)
        return self.gram() - scaled.T @ scaled

    def gram(self) -> np.ndarray:
        """(X − shift)'(X − shift) of all rows, (D, D)."""
        return self.grams.sum(axis=0)

    def squares(self) -> np.ndarray:
        """The diagonal of `gram`, (D,)."""
        return np.einsum("pii->i", self.grams)

    def within_squares(self) -> np.ndarray:
        """The diagonal of `within_scatter`, (D,)."""
        counts = np.where(self.class_counts > 0, self.class_counts, 1)
        return np.maximum(self.squares() - (self.class_sums**2 / counts[:, None]).sum(axis=0), 0)

    def principal(self, scales: np.ndarray, *, within: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (r,) and eigenvectors (D, r) of a scatter, without those that are zero up to rounding.

        Parameters
        ----------
        scales : ndarray, shape (D,)
            What the features are divided by.
        within : bool
            Whether of `within_scatter`, instead of `scatter`. It is a difference, in which the rounding of the total
            remains where nothing varies within the classes, and which is therefore measured by that.
        """
        scatter = self.within_scatter() if within else self.scatter()
        return eigenpairs(scatter / np.outer(scales, scales), self._floor(scales) if within else 0.0)

    def _floor(self, scales: np.ndarray) -> float:
        """Below what the eigenvalues of a within-class scatter are rounding."""
        return self.width * EPSILON * self.rows * float((self.variances() / scales**2).sum())

    def variances(self) -> np.ndarray:
        """Variance of each feature over all rows, (D,), as scikit-learn's StandardScaler takes it (over n)."""
        total = self.sums.sum(axis=(0, 1))
        return np.maximum(self.squares() - total**2 / self.rows, 0) / self.rows

    def constant(self) -> np.ndarray:
        """Which features are constant up to rounding, bool (D,); see `is_constant`.

        What has been added up is about the shift, to which rows of other folds belong too, so rounding is that of the
        distance from there as well.
        """
        return is_constant(np.sqrt(self.variances()), np.abs(self.mean) + np.abs(self.mean - self.shift))

    def deviations(self) -> np.ndarray:
        """Standard deviation of each feature, (D,); 1 for a constant one."""
        return np.where(self.constant(), 1.0, np.sqrt(self.variances()))

    def scales(self) -> np.ndarray:
        """What standardised features are divided by, (D,): `feature_scales`, and infinity for a constant feature."""
        constant = self.constant()
        found = feature_scales(np.sqrt(self.variances()), constant, self.rows, self.blocks)
        return np.where(constant, np.inf, found)

    def for_classifier(self) -> Statistics:
        """The total without classes that have no rows.

        Raises
        ------
        ProbeError
            Fewer than two classes have rows.
        """
        total = self.total()
        held = np.flatnonzero(total.class_counts)
        if len(held) < 2:
            found = f"only class {self.classes.tolist()[held[0]]!r} has rows" if len(held) else "there are no rows"
            raise ProbeError(f"{found}; a classifier needs at least two classes")
        return replace(total, classes=total.classes[held], counts=total.counts[:, held], sums=total.sums[:, held])

    def _fold(self, fold: int) -> int:
        if not 0 <= fold < self.folds:
            raise ProbeError(f"there is no fold {fold}; these statistics have {self.folds}")
        return fold

    def _add(self, parts: Iterable[int]) -> Statistics:
        # Added up, not subtracted from the total: where nearly all rows are in one fold, nothing is lost.
        parts = list(parts)
        counts, sums, grams = (sum(of[part] for part in parts)[None] for of in (self.counts, self.sums, self.grams))
        return replace(self, counts=counts, sums=sums, grams=grams)


def gather(
    chunks: Iterable[Chunk],
    classes: Sequence[Any] | np.ndarray,
    *,
    folds: int = 0,
    class_weight: np.ndarray | None = None,
    weighted: bool = False,
    block_bytes: int | None = None,
) -> Statistics:
    """Take the statistics of rows in one pass; memory is O(folds × width²), whatever the number of rows.

    Parameters
    ----------
    chunks : iterable of tuple
        Each of X (n, D), float16, float32 or float64; labels (n,); and, where there are folds, the fold of each row
        (n,), from 0 to `folds` − 1, or −1 for a row that is never held out. Their sizes make no difference.
    classes : sequence
        Every label that may occur.
    folds : int
        How many folds to keep apart.
    class_weight : ndarray, shape (K,), optional
        What a row of each class (sorted) weighs, above 0; by default 1.
    weighted : bool
        Whether the last column of X is no feature, but what the row weighs, above 0. Give no class weights then.
    block_bytes : int, optional
        Size of the rows in float64 that are worked on at once; by default `BLOCK_BYTES`.

    Returns
    -------
    Statistics

    Raises
    ------
    ProbeError
        No rows, rows of different widths, values that are not finite, labels that are missing or unknown, or folds
        out of range; the message names the row.

    Notes
    -----
    Products are of float64, as are their sums: X'X has the square of X's condition number, and float32 would leave
    none of it where that is above 3,000.

    Examples
    --------
    >>> X, y = np.arange(12.0).reshape(6, 2), [0, 1, 0, 1, 0, 1]
    >>> found = gather([(X, y, [0, 0, 1, 1, -1, -1])], [0, 1], folds=2)
    >>> found.counts.tolist()
    [[1, 1], [1, 1], [1, 1]]
    >>> found.without(0).mean.tolist() == X[2:].mean(axis=0).tolist()
    True
    """
    labels = sorted_classes(classes)
    parts, known = folds + 1, len(labels)
    counts = np.zeros(parts * known, np.float64 if weighted or class_weight is not None else np.int64)
    shift: np.ndarray | None = None
    for X, cells in blocks(chunks, labels, folds, block_bytes=block_bytes):
        X, weights = weigh(X, cells % known, class_weight, weighted)
        if shift is None:
            shift = X.mean(axis=0)
            sums = np.zeros((parts * known, X.shape[1]))
            grams = np.zeros((parts, X.shape[1], X.shape[1]))
        X -= shift
        counts += np.bincount(cells, weights, len(counts))
        sums += sum_cells(X, cells, weights, len(counts))
        if weights is not None:
            X *= np.sqrt(weights)[:, None]
        for part, rows in by_fold(cells, known):
            grams[part] += X[rows].T @ X[rows]  # NumPy sees that this is symmetric, and computes one half
    if shift is None:
        raise ProbeError("there are no rows to take statistics of")
    return Statistics(labels, shift, counts.reshape(parts, known), sums.reshape(parts, known, -1), grams)


def weigh(
    X: np.ndarray, codes: np.ndarray, class_weight: np.ndarray | None, weighted: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """The features of rows, and what each row weighs (n,); None where all weigh the same.

    Parameters
    ----------
    X : ndarray, shape (n, D), or (n, D + 1) with a last column of weights
    codes : ndarray of int, shape (n,)
        Each row's class number.
    class_weight, weighted
        See `gather`.
    """
    if weighted:
        return X[:, :-1], X[:, -1]
    return X, None if class_weight is None else class_weight[codes]


def sorted_classes(classes: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Every class once, sorted; raises ProbeError for None."""
    if any(label is None for label in classes):
        raise ProbeError("None is among the classes; leave out rows that have no label")
    return np.unique(np.asarray(classes))


def sum_cells(X: np.ndarray, cells: np.ndarray, weights: np.ndarray | None, count: int) -> np.ndarray:
    """Sums of the (weighted) rows X (n, D) of each cell, (count, D)."""
    from scipy.sparse import csr_array

    weights = np.ones(len(X)) if weights is None else weights
    return csr_array((weights, cells, np.arange(len(X) + 1)), shape=(len(X), count)).T @ X


def blocks(
    chunks: Iterable[Chunk], classes: np.ndarray, folds: int, *, made: int = 0, block_bytes: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same rows, checked, in float64 and in blocks of equal size, each sorted by fold and class.

    Parameters
    ----------
    chunks, classes, folds, block_bytes
        See `gather`; the classes are sorted.
    made : int
        How many numbers the caller will make of each row, so that blocks become small enough for these too.

    Yields
    ------
    X : ndarray of float64, shape (n, D)
        The caller's own.
    cells : ndarray of int64, shape (n,)
        Number of the fold (`folds` for −1) × number of classes + number of the class, ascending.
    """
    codes = {label: code for code, label in enumerate(classes.tolist())}
    seen = filled = 0
    block: np.ndarray | None = None
    for chunk in chunks:
        X, places = _check(chunk, codes, folds, seen)
        if block is None:
            size = max(1, (block_bytes or BLOCK_BYTES) // (8 * max(X.shape[1], made)))
            block, cells = np.empty((size, X.shape[1])), np.empty(size, np.int64)
        if X.shape[1] != block.shape[1]:
            raise ProbeError(f"row {seen} has {X.shape[1]} features, those before have {block.shape[1]}")
        start = 0
        while start < len(X):
            part = X[start : start + len(block) - filled]
            _check_finite(part, seen + start)
            block[filled : filled + len(part)], cells[filled : filled + len(part)] = part, places[start:][: len(part)]
            start, filled = start + len(part), filled + len(part)
            if filled == len(block):
                yield _sorted(block, cells)
                filled = 0
        seen += len(X)
    if block is not None and filled:
        yield _sorted(block[:filled], cells[:filled])


def by_fold(cells: np.ndarray, classes: int) -> Iterator[tuple[int, slice]]:
    """The folds of sorted cells, and where each one's rows are."""
    folds = cells // classes
    bounds = np.flatnonzero(np.diff(folds, prepend=-1, append=-1))
    for start, end in pairwise(bounds):
        yield int(folds[start]), slice(start, end)


def eigenpairs(matrix: np.ndarray, floor: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (r,) and eigenvectors (D, r) of an X'X, ascending, without those that are zero up to rounding.

    Those up to `floor` are left out, too.
    """
    values, vectors = np.linalg.eigh(matrix)
    kept = values > max(values[-1] * len(values) * EPSILON, floor)
    return values[kept], vectors[:, kept]


def row_eigenpairs(rows: np.ndarray, floor: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """As `eigenpairs` of rows' X'X, by way of XX': for fewer rows (n, D) than features, which span no more than n axes.

    Axes below the rounding of float32 features are left out: enlarged small images have few others.
    """
    values, vectors = np.linalg.eigh(rows @ rows.T)  # (n,), (n, n)
    kept = values > max(values[-1] * ROUNDING**2, floor)
    return values[kept], rows.T @ (vectors[:, kept] / np.sqrt(values[kept]))  # (r,), (D, r)


def _sorted(block: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(cells, kind="stable")
    return block[order], cells[order]


def _check(chunk: Chunk, codes: dict[Any, int], folds: int, seen: int) -> tuple[np.ndarray, np.ndarray]:
    """A chunk's X (n, D) and the cell of each row (n,)."""
    X, y, *rest = chunk
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim != 2 or not X.shape[1] or X.dtype.kind not in "fiu" or y.shape != X.shape[:1]:
        raise ProbeError(
            f"rows from {seen} on: features {X.dtype} {X.shape} and labels {y.shape}; give numbers (n, width) and (n,)"
        )
    labels = np.array([codes.get(label, -1) for label in y.tolist()], np.int64)
    if (labels < 0).any():
        first = int((labels < 0).argmax())
        label = y.tolist()[first]
        what = "no label" if label is None else f"the label {label!r}, which is not among the {len(codes)} classes"
        raise ProbeError(f"row {seen + first} has {what}")
    fold = np.asarray(rest[0] if rest else np.full(len(X), -1))
    if fold.shape != y.shape or fold.dtype.kind not in "iu":
        raise ProbeError(f"rows from {seen} on: folds {fold.dtype} {fold.shape}; give whole numbers {y.shape}")
    wrong = (fold < -1) | (fold >= folds)
    if wrong.any():
        first = int(wrong.argmax())
        raise ProbeError(f"row {seen + first} is in fold {fold[first]}; there are {folds}, from 0, and -1 for none")
    return X, np.where(fold < 0, folds, fold) * len(codes) + labels


def _check_finite(X: np.ndarray, seen: int) -> None:
    finite = np.isfinite(X)
    if not finite.all():
        row, feature = (int(i) for i in np.argwhere(~finite)[0])
        raise ProbeError(
            f"row {seen + row} has {X[row, feature]} in feature {feature}; check the store with featurepipe verify"
        )
