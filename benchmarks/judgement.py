"""How good is what is chosen from training images alone: the strength, the probabilities, the layer.

    featurepipe extract flowers/ -b vit_tiny_patch16_224 --weights FILE --layers stages -s flowers.store
    python benchmarks/judgement.py flowers.store … --sizes 100,400,all --seeds 10 --json OUT

For each store, number of training images and seed, so many images are drawn of train, class by class, and every kind of
probe is fitted as `featurepipe probe` does it (5-fold cross-validation on those images). On the test images (val, where
there are no others) it then measures top-1, log-loss and the expected calibration error (ECE); and, for comparison, the
ECE at the temperature that suits the test images best, which nobody can know. With `--layers` it also probes every
layer, and measures the regret of the one that is taken: the best test top-1 of any layer, less that of the chosen one.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from rivals import machine, table

from featurepipe import matrices, probes
from featurepipe.backbones import PENULTIMATE
from featurepipe.stores import Store
from featurepipe.stores.entries import in_order


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--sizes", default="all", help="training images, between commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", default="logistic,ridge,svm,lda,centroid,knn,mlp")
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


def draw(y: np.ndarray, size: str, seed: int) -> np.ndarray:
    """Rows of a stratified draw; of all rows a new order only."""
    rng = np.random.default_rng(seed)
    share = 1.0 if size == "all" else int(size) / len(y)
    rows = [rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y)]
    return np.sort(np.concatenate([some[: max(2, round(share * len(some)))] for some in rows]))


def measure(kind: str, X: np.ndarray, y: np.ndarray, X_test: np.ndarray, y_test: np.ndarray, seed: int) -> dict:
    """One probe's figures on the test images, and its answers on the rows that it was selected on."""
    fitted = probes.fit(kind, X, y, seed=seed)
    scores = probes.decision_scores(fitted.estimator, X_test)
    best = probes.fit_temperature(scores, y_test, fitted.classes)
    found = probes.evaluate(fitted.estimator, X_test, y_test, fitted.temperature)
    return {
        "fitted": fitted,
        "chosen": fitted.chosen,
        **{key: found[key] for key in ("top1", "log_loss", "ece")},
        "best_ece": probes.evaluate(fitted.estimator, X_test, y_test, best)["ece"],
    }


def parts(store: Store, entry: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features and labels to learn from, and to measure on."""
    matrix = matrices.load(store, entry)
    test = matrix.split == ("test" if (matrix.split == "test").any() else "val")
    train = matrix.split == "train"
    return matrix.X[train], matrix.y[train].astype(str), matrix.X[test], matrix.y[test].astype(str)


def main() -> None:
    """Measure, print, keep."""
    options = parse()
    rows, layers = [], []
    for path in options.stores:
        store = Store.open(path)
        entries = in_order([one for one in store.entries() if not one.is_baseline])
        held = {entry.layer: parts(store, entry) for entry in entries if options.layers or entry.layer == PENULTIMATE}
        for size in options.sizes.split(","):
            for seed in range(options.seeds):
                y = held[PENULTIMATE][1]
                if size != "all" and int(size) >= len(y):
                    continue
                drawn = draw(y, size, seed)
                name = {"store": str(path), "size": len(drawn), "seed": seed}
                X, y, *test = held[PENULTIMATE]
                for kind in options.kinds.split(","):
                    found = measure(kind, X[drawn], y[drawn], *test, seed)
                    rows.append({**name, "kind": kind, **{key: found[key] for key in found if key != "fitted"}})
                if options.layers:
                    of = {n: measure("logistic", X[drawn], y[drawn], *test, seed) for n, (X, y, *test) in held.items()}
                    names = list(of)
                    taken = names[probes.choose_layer([one["fitted"].right for one in of.values()])]
                    best = max(of, key=lambda one: of[one]["top1"])
                    layers.append({**name, "taken": taken, "best": best, "regret": of[best]["top1"] - of[taken]["top1"],
                                   "of_last": of[best]["top1"] - of[PENULTIMATE]["top1"]})  # fmt: skip
        if options.json:
            found = {"machine": machine(), "probes": rows, "layers": layers}
            options.json.write_text(json.dumps(found, indent=1), "utf-8")
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        groups[row["kind"], row["store"], row["size"]].append(row)
    head = ["kind", "store", "images", "top-1", "log-loss", "ECE", "worst ECE", "ECE at the best temperature"]
    lines = []
    for (kind, store_name, size), some in groups.items():
        mean = {key: np.mean([one[key] for one in some]) for key in ("top1", "log_loss", "ece", "best_ece")}
        worst = max(one["ece"] for one in some)
        lines.append([kind, Path(store_name).name, str(size), f"{100 * mean['top1']:.2f}", f"{mean['log_loss']:.4f}",
                      f"{mean['ece']:.3f}", f"{worst:.3f}", f"{mean['best_ece']:.3f}"])  # fmt: skip
    print(table([head, *lines]))
    for row in layers:
        print(f"{row['store']}, {row['size']} images, seed {row['seed']}: {row['taken']} taken, {row['best']} best, "
              f"regret {100 * row['regret']:.1f} (of the last layer {100 * row['of_last']:.1f})")  # fmt: skip
    if layers:
        print(f"regret of the layer: mean {100 * np.mean([r['regret'] for r in layers]):.2f}, worst "
              f"{100 * max(r['regret'] for r in layers):.1f}, of always the last "
              f"{100 * np.mean([r['of_last'] for r in layers]):.2f} and "
              f"{100 * max(r['of_last'] for r in layers):.1f}, {len(layers)} cases")  # fmt: skip


if __name__ == "__main__":
    main()
