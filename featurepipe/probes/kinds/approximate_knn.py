"""Votes of the nearest neighbours, which are searched approximately."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.probes.kinds.knn import Knn


@dataclass(frozen=True, kw_only=True)
class ApproximateKnn(Knn):
    """As `Knn`, of very many rows: the number of neighbours is chosen, and measured, by an approximate search.

    A model file holds the rows, as that of `Knn` does. What is restored from it, or from a pickle, compares all of
    them: it needs no faiss.
    """

    name: str = "approximate-knn"
    since: str = "1.3"

    def index(self, rows: np.ndarray, seed: int) -> Any:
        """See `Knn.index`."""
        from featurepipe.statistics import ApproximateIndex

        return ApproximateIndex(rows, seed)

    def check_installed(self) -> None:
        """See `Kind.check_installed`."""
        from featurepipe.statistics import check_faiss

        check_faiss()

    def notes(self, estimator: Any) -> list[str]:
        """See `Kind.notes`."""
        index, k = estimator.searcher_.index, estimator.n_neighbors
        found, rows = index.recall(k), f"{len(index.exact.rows):,} training samples"
        if found is None:
            return [f"all {rows} were compared: the search for neighbours was exact"]
        return [
            f"neighbours are searched approximately: among {rows}, in {found.probed:,} of {found.lists:,} lists; this "
            f"finds {100 * found.share:.1f} % of the {k} nearest of {found.queries} of them. The model file itself "
            "compares all samples"
        ]
