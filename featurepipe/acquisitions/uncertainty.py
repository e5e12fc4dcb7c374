"""Order with a few labels: what a probe is unsure of, spread over the embeddings."""

from __future__ import annotations

import numpy as np

from featurepipe.acquisitions.pools import Next, Pool, clusters
from featurepipe.probes import fit

KIND = "logistic"
CANDIDATES = 10  # for each one that is chosen


def unsure(pool: Pool, count: int, seed: int) -> Next:
    """Choose samples whose two likeliest classes are close, each from another cluster.

    A probe learns the known labels. The free samples with the smallest margins between the probabilities of the two
    likeliest classes, ten times as many as are wanted, are clustered by k-means, in which each weighs 1 − margin; the
    sample nearest to each centre is chosen. The least sure come first.

    Parameters
    ----------
    pool : Pool
        With two known classes at least.
    count : int
        How many, at most as many as are free.
    seed : int
        Seed of the folds and of k-means.

    References
    ----------
    Zhdanov 2019, "Diverse mini-batch Active Learning", with the margin of Scheffer, Decomain and Wrobel 2001, "Active
    Hidden Markov Models for Information Extraction".
    """
    known, free = np.flatnonzero(pool.known), np.flatnonzero(pool.free)
    learned = pool.samples.take(known)
    probe = fit(KIND, learned.X, learned.y.astype(str), groups=learned.units, seed=seed)
    probabilities = probe.predict_proba(pool.samples.X[free])  # (f, K)
    top = np.sort(probabilities, axis=1)[:, -2:]
    doubt = 1 - (top[:, 1] - top[:, 0])  # (f,)
    candidates = np.argsort(-doubt, kind="stable")[: count * CANDIDATES]
    chosen = candidates[_spread_out(pool.Z[free[candidates]], doubt[candidates], count, seed)]
    chosen = chosen[np.argsort(-doubt[chosen], kind="stable")]
    labels = probe.classes[probabilities[chosen].argmax(axis=1)]
    return Next(free[chosen], labels.tolist(), probabilities[chosen].max(axis=1).tolist())


def _spread_out(Z: np.ndarray, doubt: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows of Z (c, D), each nearest to another centre; where a cluster is empty, the next in doubt."""
    if count >= len(Z):
        return np.arange(len(Z))
    cluster, far = clusters(Z, count, seed, np.maximum(doubt, 1e-6))
    order = np.lexsort((far, cluster))
    firsts = order[np.flatnonzero(np.diff(cluster[order], prepend=-1))]
    rest = np.setdiff1d(np.argsort(-doubt, kind="stable"), firsts, assume_unique=True)
    return np.concatenate([firsts, rest[: count - len(firsts)]])
