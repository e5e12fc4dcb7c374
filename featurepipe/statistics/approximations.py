"""Approximate nearest neighbours among very many rows: candidates from codes of 4 bits, compared exactly."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.errors import DependencyMissing
from featurepipe.statistics.indexes import ROWS, Index
from featurepipe.statistics.neighbours import directions

FEWEST = 2**15  # rows; among fewer, comparing all is quick
PER_LIST = 128  # rows that each list is trained on, of which there are √n
BITS = 4  # of each number's code
GOAL = 0.99  # share of the neighbours that must be found, less two standard errors
DRAWN = 2**9  # rows that are asked about to choose how much is searched, and others to measure it
FACTORS = (4, 16)  # candidates, for each neighbour
SAME = 1e-12  # of distances: what rounding may make of equal ones
PAIRS = 2**20  # of queries and candidates that are compared at once
TURN = threading.RLock()  # how many lists are looked into is a setting of faiss's index, not of a search


@dataclass(frozen=True)
class Recall:
    """How much is searched for k neighbours, and how many of them that finds.

    Attributes
    ----------
    k : int
    share : float
        How many of the true neighbours of rows that chose nothing are found, from 0 to 1.
    queries : int
        How many such rows.
    lists, probed : int
        How many lists there are, and in how many of them each query looks.
    factor : int
        How many candidates there are for each neighbour.
    """

    k: int
    share: float
    queries: int
    lists: int
    probed: int
    factor: int


class ApproximateIndex:
    """Rows to find neighbours among, by cosine, of which most queries see a few only.

    Rows of length 1, less their mean, are put into √n lists by k-means, and each of their numbers becomes a code of 4
    bits. A query looks into the nearest lists only, and compares codes. The best of what it finds there are compared
    with the rows themselves in float64, so distances are exact, and only a neighbour may be missed. How many lists are
    looked into is chosen for each number of neighbours, so that 99 % of those of some rows are found, and measured on
    other rows. Threads take turns.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, D)
        Not copied; the codes take D / 2 bytes for each.
    seed : int
        Seed for the rows that train the lists and codes, and for those that are asked about.

    Raises
    ------
    DependencyMissing
        faiss is not installed.

    Notes
    -----
    Equal inputs give equal answers on one machine. Of fewer than 32,768 rows, or where the goal is missed with all
    lists, all pairs are compared, as `Index` does.

    References
    ----------
    Jégou et al. 2011, "Product Quantization for Nearest Neighbor Search"; the scan of 4-bit codes in registers is that
    of André et al. 2015, "Cache Locality is not Enough", as faiss has it (Douze et al. 2024, "The Faiss Library").
    """

    def __init__(self, rows: np.ndarray, seed: int = 0) -> None:
        check_faiss()
        self.exact = Index(rows)
        self._seed = int(seed)  # faiss takes no number of NumPy
        self._found: dict[int, Recall | None] = {}
        self._codes: Any = None
        if len(rows) >= FEWEST:
            self._centre = self._mean()  # (D,)
            self._codes = self._encoded()

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search`."""
        k, how = int(k), self.recall(k)
        return self.exact.search(queries, k) if how is None else self._search(queries, k, how.probed, k * how.factor)

    def recall(self, k: int) -> Recall | None:
        """How k neighbours are searched; None where all pairs are compared."""
        if self._codes is None or (k + 1) * FACTORS[-1] > len(self.exact.rows):
            return None
        with TURN:
            if k not in self._found:
                self._found[k] = self._measured(int(k))
        return self._found[k]

    def _mean(self) -> np.ndarray:
        total = np.zeros(self.exact.rows.shape[1])
        for start in range(0, len(self.exact.rows), ROWS):
            total += self.exact.directions(slice(start, start + ROWS)).sum(axis=0, dtype=np.float64)
        return (total / len(self.exact.rows)).astype(np.float32)

    def _encoded(self) -> Any:
        """The index of faiss, of all rows."""
        import faiss

        rows, width = self.exact.rows.shape
        lists = round(rows**0.5)
        codes = faiss.IndexIVFPQFastScan(faiss.IndexFlatL2(width), width, lists, width, BITS, faiss.METRIC_L2)
        codes.cp.seed = codes.pq.cp.seed = self._seed % 2**31
        codes.cp.max_points_per_centroid = PER_LIST
        some = np.sort(np.random.default_rng(self._seed).permutation(rows)[: lists * PER_LIST])
        codes.train(self.exact.directions(some) - self._centre)
        for start in range(0, rows, ROWS):
            codes.add(self.exact.directions(slice(start, start + ROWS)) - self._centre)
        return codes

    def _search(self, queries: np.ndarray, k: int, probed: int, candidates: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of that many candidates; of all rows where the lists hold fewer than k."""
        distances, rows = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
        step = max(1, PAIRS // candidates)
        for start in range(0, len(queries), step):
            at = slice(start, start + step)
            centred = directions(queries[at]) - self._centre
            with TURN:
                self._codes.nprobe = probed
                _, found = self._codes.search(centred, candidates)  # (q, candidates); -1 where there are no more
            distances[at], rows[at] = self.exact.nearest_of(queries[at], found, k)
        few = np.isinf(distances[:, -1])
        if few.any():
            distances[few], rows[few] = self.exact.search(queries[few], k)
        return distances, rows

    def _measured(self, k: int) -> Recall | None:
        """The least search that reaches the goal on some rows, and what it finds of the neighbours of others."""
        drawn = np.random.default_rng([self._seed, k]).permutation(len(self.exact.rows))[: 2 * DRAWN]
        choosing, measuring = self.exact.rows[drawn[:DRAWN]], self.exact.rows[drawn[DRAWN:]]
        farthest = self.exact.search(choosing, k + 1)[0][:, -1]  # (q,), of the neighbours; the nearest is itself
        lists = self._codes.nlist
        for factor in FACTORS:
            for probed in _doubled(lists):
                shares = self._shares(choosing, farthest, k, probed, factor)
                if shares.mean() - 2 * shares.std() / len(shares) ** 0.5 >= GOAL:
                    farthest = self.exact.search(measuring, k + 1)[0][:, -1]
                    share = float(self._shares(measuring, farthest, k, probed, factor).mean())
                    return Recall(k, share, DRAWN, lists, probed, factor)
        return None

    def _shares(self, queries: np.ndarray, farthest: np.ndarray, k: int, probed: int, factor: int) -> np.ndarray:
        """Share (q,) of the k true neighbours of rows that are found; equally near ones may stand for them."""
        distances, _ = self._search(queries, k + 1, probed, k * factor + 1)  # one of them is the row itself
        return np.clip((distances <= farthest[:, None] + SAME).sum(axis=1) - 1, 0, k) / k


def check_faiss() -> None:
    """Raise DependencyMissing unless faiss is installed."""
    try:
        import faiss  # noqa: F401
    except ImportError as error:
        raise DependencyMissing(
            "approximate neighbours need faiss: pip install 'featurepipe[faiss]'; or compare all rows, with kind knn"
        ) from error


def _doubled(lists: int) -> list[int]:
    """Numbers of lists to look into: a 64th of them, then always twice as many, and all."""
    first = max(1, lists // 64)
    return sorted({min(first * 2**i, lists) for i in range(8)})
