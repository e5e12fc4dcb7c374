"""Order without labels: typical samples of clusters in which no label is known yet."""

from __future__ import annotations

import numpy as np

from featurepipe.acquisitions.pools import Next, Pool, clusters

NEIGHBOURS = 20
BLOCK = 2048  # rows of a cluster whose distances are in memory at once


def typical(pool: Pool, count: int, seed: int) -> Next:
    """Choose samples that lie where others are, each from another cluster.

    All samples are clustered by k-means, into one cluster for each known and each wanted label. The next sample comes
    from the largest of the clusters with the fewest labels: the one that is nearest to its 20 nearest neighbours there.

    Parameters
    ----------
    pool : Pool
    count : int
        How many, at most as many as are free.
    seed : int
        Seed of k-means.

    References
    ----------
    TypiClust: Hacohen, Dekel and Weinshall 2022, "Active Learning on a Budget: Opposite Strategies Suit High and Low
    Budgets".

    Examples
    --------
    >>> from featurepipe.matrices import FeatureMatrix
    >>> X = np.array([[1.0, 0], [1, 0.1], [1, -0.1], [0, 1], [0.1, 1], [-0.1, 1]])
    >>> names = np.array(list("abcdef"), object)
    >>> samples = FeatureMatrix(names, X, np.full(6, None), np.full(6, None), names)
    >>> found = typical(Pool(samples, np.zeros(6, bool), np.ones(6, bool)), 2, seed=0)
    >>> sorted(samples.ids[found.rows].tolist())
    ['a', 'd']
    """
    held = pool.known | pool.free
    Z, known, free = pool.Z[held], pool.known[held], pool.free[held]
    number = min(int(known.sum()) + count, len(Z))
    cluster, _ = clusters(Z, number, seed)
    sizes, labelled = np.bincount(cluster, minlength=number), np.bincount(cluster[known], minlength=number)
    ranked: dict[int, list[int]] = {}  # the free rows of each cluster, the most typical last
    chosen: list[int] = []
    for _ in range(count):
        left = np.bincount(cluster[free], minlength=number) > 0
        place = min(np.flatnonzero(left).tolist(), key=lambda one: (labelled[one], -sizes[one]))
        if place not in ranked:
            members = np.flatnonzero(cluster == place)
            order = np.argsort(-_spread(Z[members]), kind="stable")
            ranked[place] = [row for row in members[order].tolist() if free[row]]
        row = ranked[place].pop()
        free[row], labelled[place] = False, labelled[place] + 1
        chosen.append(row)
    rows = np.flatnonzero(held)[chosen]
    return Next(rows, [None] * count, [None] * count)


def _spread(Z: np.ndarray) -> np.ndarray:
    """Mean distance of each row of Z (n, D) from its nearest others, (n,); 0 for a single row."""
    k = min(NEIGHBOURS, len(Z) - 1)
    if not k:
        return np.zeros(len(Z))
    pieces = []
    for start in range(0, len(Z), BLOCK):
        far = np.maximum(2 - 2 * Z[start : start + BLOCK] @ Z.T, 0)  # (B, n)
        near = np.partition(far, k, axis=1)[:, : k + 1]  # itself too, at 0
        pieces.append(np.sqrt(near).sum(axis=1) / k)
    return np.concatenate(pieces)
