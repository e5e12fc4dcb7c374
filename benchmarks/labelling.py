"""Accuracy against labels: samples chosen by `featurepipe label`, and samples drawn at random.

    featurepipe extract flowers12/ -s flowers.store -b mobilenetv2_100 --weights mobilenetv2_100.safetensors
    python benchmarks/labelling.py flowers.store --steps 1,2,3,5,8,12,20 --seeds 10

The labels of the training split are hidden. At each step so many more are asked for that there are N for each class on
average, in the order that is tried; then the default probe learns them, and is measured on the test split.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from featurepipe import matrices, probes
from featurepipe.acquisitions import Next, Pool, choose
from featurepipe.matrices import FeatureMatrix
from featurepipe.stores import Store


def at_random(pool: Pool, count: int, seed: int) -> Next:
    """What everything is compared with."""
    drawn = np.random.default_rng(seed).choice(np.flatnonzero(pool.free), count, replace=False)
    return Next(drawn, [None] * count, [None] * count)


WAYS: dict[str, Callable[[Pool, int, int], Next]] = {
    "random": at_random,
    "label": lambda pool, count, seed: choose(pool, count, seed=seed),
    "typical": lambda pool, count, seed: choose(pool, count, order="typical", seed=seed),
}


def curve(train: FeatureMatrix, test: FeatureMatrix, way: str, budgets: Sequence[int], seed: int) -> Iterator[float]:
    """Test top-1 in % at each number of labels."""
    known = np.zeros(len(train), bool)
    for step, budget in enumerate(budgets):
        pool = Pool(train, known, ~known)
        known = known.copy()
        known[WAYS[way](pool, budget - int(known.sum()), 1000 * seed + step).rows] = True
        learned = train.take(known)
        if len(set(learned.y)) < 2:
            yield 0.0
            continue
        probe = probes.fit("logistic", learned.X, learned.y.astype(str), groups=learned.units, seed=seed)
        yield 100 * float(np.mean(probes.predict(probe.estimator, test.X) == test.y.astype(str)))


def main() -> None:
    """Measure each way on one store; a line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--steps", default="1,2,5,10,20", help="labels per class on average")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--ways", default="random,label")
    given = parser.parse_args()
    store = Store.open(given.store)
    samples = matrices.load(store, store.choose())
    train, test = (samples.take(samples.split == name) for name in ("train", "test"))
    classes = len(set(train.y))
    budgets = [int(step) * classes for step in given.steps.split(",")]
    print(json.dumps({"store": given.store, "train": len(train), "test": len(test), "labels": budgets}))
    for way in given.ways.split(","):
        found = np.array([list(curve(train, test, way, budgets, seed)) for seed in range(given.seeds)])
        half = 1.96 * found.std(axis=0, ddof=1) / np.sqrt(len(found))
        print(
            json.dumps({"way": way, "top1": found.mean(axis=0).round(1).tolist(), "±": half.round(1).tolist()}),
            flush=True,
        )


if __name__ == "__main__":
    main()
