"""How long an exact and an approximate search for neighbours take, and how many the approximate one finds.

Random features stand in for embeddings: they have few clusters, and all directions are much alike, which is hard on
such a search. Both searches are asked about the same new rows. Needs the extra `faiss`.

    OMP_NUM_THREADS=1 python benchmarks/neighbours.py --sizes 100000,1000000 --neighbours 20,200
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from ridge import Features
from rivals import machine, table

from featurepipe.statistics import ApproximateIndex, directions


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100000,1000000", help="rows to search in")
    parser.add_argument("--width", type=int, default=112)
    parser.add_argument("--neighbours", default="20,200", help="how many are asked for")
    parser.add_argument("--queries", type=int, default=1000)
    options = parser.parse_args()
    options.sizes = [int(size) for size in options.sizes.split(",")]
    options.neighbours = [int(k) for k in options.neighbours.split(",")]
    return options


def measure(rows: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Processor seconds of each step, for each number of neighbours."""
    features = Features(options.width, 10)
    X, queries = directions(features.draw(rows, 0)[0]), directions(features.draw(options.queries, 1)[0]).astype(float)
    started = time.process_time()
    index = ApproximateIndex(X)
    built = time.process_time() - started
    for k in options.neighbours:
        times = [time.process_time()]
        recall = index.recall(k)
        times.append(time.process_time())
        _, found = index.search(queries, k)
        times.append(time.process_time())
        _, true = index.exact.search(queries, k)
        times.append(time.process_time())
        chosen, approximate, exact = np.diff(times)
        shares = [np.isin(*pair).mean() for pair in zip(true, found, strict=True)]
        yield {
            "rows": rows,
            "k": k,
            "build_s": built,
            "choice_s": chosen,
            "approximate_ms": 1e3 * approximate / len(queries),
            "exact_ms": 1e3 * exact / len(queries),
            "lists": "all" if recall is None else f"{recall.probed} of {recall.lists}",
            "said": 1.0 if recall is None else recall.share,
            "found": float(np.mean(shares)),
        }


def main() -> None:
    """Measure, print."""
    options = parse()
    results = []
    for rows in options.sizes:
        for one in measure(rows, options):
            results.append(one)
            print(json.dumps(one), file=sys.stderr, flush=True)
    cells = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in one.values()] for one in results]
    print(", ".join(str(value) for value in machine().values()) + " cores\n\n" + table([list(results[0]), *cells]))


if __name__ == "__main__":
    main()
