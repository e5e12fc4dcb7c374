"""Ridge from statistics beside RidgeClassifierCV, and whether time and memory per row stay flat up to a million rows.

First, in interleaved rounds on the same synthetic features: featurepipe's k-fold ridge path, scikit-learn's
RidgeClassifierCV with the same folds, and its leave-one-out. Then stores of growing size are written, and each is
read twice by a process of its own: once for the statistics, once for the k-fold path.

    python benchmarks/ridge.py
    python benchmarks/ridge.py --alphas 12 --sizes ""
    python benchmarks/ridge.py --rounds 0 --sizes 10000,100000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rivals import machine, spread, table

from featurepipe import extraction, matrices, statistics
from featurepipe.backbones import Extractor, Pixels
from featurepipe.manifests import Sample
from featurepipe.models import digest_keys
from featurepipe.sources import Files
from featurepipe.stores import Rows, Store, Writer

FOLDS = 5
PART = 8192  # rows that are drawn at once


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="of the rounds")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--alphas", type=int, default=45, help="how many, from 1e-6 to 1e5; 12 are whole decades")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="10000,100000,1000000", help="rows of the stores; '' for none")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for every figure")
    parser.add_argument("--read", type=Path, metavar="STORE", help=argparse.SUPPRESS)  # what the children are told
    options = parser.parse_args()
    options.sizes = [int(size) for size in options.sizes.split(",") if size]
    options.alphas = np.logspace(-6, 5, options.alphas)
    return options


class Features:
    """Synthetic embeddings: a spectrum that falls as that of real ones, means of many deviations, noisy classes."""

    def __init__(self, width: int, classes: int) -> None:
        rng = np.random.default_rng(0)
        axes = np.linalg.qr(rng.normal(size=(width, width)))[0]
        self._mixing = (axes / np.sqrt(1 + np.arange(width))[:, None]).astype(np.float32)
        self._centres = rng.normal(0, 0.12, (classes, width)).astype(np.float32)
        self._mean = rng.uniform(0, 5, width).astype(np.float32)

    def draw(self, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """X (rows, width), float32, and class numbers (rows,)."""
        rng = np.random.default_rng([1, seed])
        y = rng.integers(0, len(self._centres), rows)
        noise = rng.standard_normal((rows, len(self._mean)), np.float32)
        return (noise + self._centres[y]) @ self._mixing + self._mean, y


# -- rounds


def contestants(options: argparse.Namespace) -> dict[str, Callable[[], tuple[float, float]]]:
    """What is timed: each gives the best accuracy (for leave-one-out nan) and its alpha."""
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import StratifiedKFold

    X, y = Features(options.width, options.classes).draw(options.rows, 0)
    wide = X.astype(np.float64)
    folds = np.zeros(len(y), int)
    for fold, (_, out) in enumerate(StratifiedKFold(FOLDS).split(X, y)):  # what RidgeClassifierCV does with cv=5
        folds[out] = fold

    def featurepipe() -> tuple[float, float]:
        chunks = [(X, y, folds)]
        found = statistics.gather(chunks, np.arange(options.classes), folds=FOLDS)
        scores = statistics.cross_validate_ridge(found, chunks, options.alphas)
        statistics.ridge_path(found, [scores.best_alpha])
        return float(scores.accuracy.mean(axis=0).max()), scores.best_alpha

    def scikit_learn(features: np.ndarray) -> tuple[float, float]:
        model = RidgeClassifierCV(options.alphas, cv=FOLDS).fit(features, y)
        return float(model.best_score_), float(model.alpha_)

    def leave_one_out() -> tuple[float, float]:
        return float("nan"), float(RidgeClassifierCV(options.alphas).fit(X, y).alpha_)

    return {
        "featurepipe": featurepipe,
        "RidgeClassifierCV(cv=5), float32": lambda: scikit_learn(X),
        "RidgeClassifierCV(cv=5), float64": lambda: scikit_learn(wide),
        "leave-one-out": leave_one_out,
    }


def play(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Everyone once a round, in an order that moves on; seconds, accuracy and alpha of each."""
    runs, rounds = contestants(options), []
    for number in range(options.rounds):
        names = list(runs)
        turn = number % len(names)
        played = {}
        for name in names[turn:] + names[:turn]:
            started = time.perf_counter()
            accuracy, alpha = runs[name]()
            played[name] = {"seconds": time.perf_counter() - started, "accuracy": accuracy, "alpha": alpha}
            print(f"round {number + 1}: {name:<32} {played[name]['seconds']:8.2f} s", file=sys.stderr)
        rounds.append(played)
    return rounds


def summary(rounds: list[dict[str, Any]]) -> str:
    """The table of the rounds; ratios are taken within a round."""
    rows = [["", "seconds", "featurepipe is", "best accuracy", "alpha"]]
    for name in rounds[0]:
        seconds = [played[name]["seconds"] for played in rounds]
        ratios = [played[name]["seconds"] / played["featurepipe"]["seconds"] for played in rounds]
        said = rounds[0][name]
        cells = [spread(seconds, "{:.2f}"), spread(ratios, "{:.1f}×"), f"{said['accuracy']:.5f}", f"{said['alpha']:g}"]
        rows.append([name, *cells])
    return table(rows)


# -- growth


def fill(store: Store, rows: int, features: Features, backbone: Extractor) -> None:
    """Write rows through featurepipe's own writer, part by part, as if `backbone` had made them."""
    writer = Writer(store.entry(backbone), extraction.provenance(backbone, None), extraction.ROWS_PER_SHARD)
    labels = np.zeros(rows, int)
    for start in range(0, rows, PART):
        X, y = features.draw(min(PART, rows - start), start)
        labels[start : start + len(y)] = y
        for first in range(0, len(X), extraction.ROWS_PER_SHARD):
            part = X[first : first + extraction.ROWS_PER_SHARD]
            writer.append([digest(start + first + i) for i in range(len(part))], part, {})
    writer.commit()
    samples = (Sample(f"{i:07d}.jpg", f"{i:07d}.jpg", f"{labels[i]:05d}", None) for i in range(rows))
    table = Rows.gather((sample, digest(i), None) for i, sample in enumerate(samples))
    store.write_rows(Files(str(store.path)), table)


def digest(number: int) -> str:
    """What stands for the sha256 of a file: spread evenly, so that its remainder makes folds."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:048x}"


def read(path: Path, options: argparse.Namespace) -> dict[str, float]:
    """Both passes over a store, timed; what the child prints."""

    def chunks() -> Iterator[statistics.Chunk]:
        for piece in matrices.stream(store, entry):
            yield piece.X, piece.y, (digest_keys(piece.digests) % FOLDS).astype(int)

    started = time.perf_counter()
    store = Store.open(path)
    entry = store.choose("pixels")
    opened = time.perf_counter()
    found = statistics.gather(chunks(), [f"{code:03d}" for code in range(options.classes)], folds=FOLDS)
    gathered = time.perf_counter()
    scores = statistics.cross_validate_ridge(found, chunks(), options.alphas)
    return {
        "rows": found.rows,
        "open": opened - started,
        "gather": gathered - opened,
        "cross_validate": time.perf_counter() - gathered,
        "accuracy": float(scores.accuracy.mean(axis=0).max()),
    }


def grow(rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Write a store, have a process read it, delete it."""
    with tempfile.TemporaryDirectory() as scratch:
        store = Store.create(Path(scratch) / "rows.store")
        fill(store, rows, Features(options.width, options.classes), Pixels())
        shape = ["--width", str(options.width), "--classes", str(options.classes), "--alphas", str(len(options.alphas))]
        process = subprocess.Popen([sys.executable, __file__, "--read", store.path, *shape], stdout=subprocess.PIPE)
        said = json.loads(process.stdout.read() or "{}")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or said["rows"] != rows:
        sys.exit(f"reading {rows} rows failed: {said or process.returncode}")
    return {**said, "peak_rss_mb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6}


def report(results: list[dict[str, Any]]) -> str:
    """The table of the stores."""
    rows = [["rows", "open s", "statistics s", "µs/row", "k-fold path s", "µs/row", "peak MB"]]
    for result in results:
        cells = [f"{result['rows']:,}", f"{result['open']:.1f}"]
        for seconds in (result["gather"], result["cross_validate"]):
            cells += [f"{seconds:.1f}", f"{1e6 * seconds / result['rows']:.1f}"]
        rows.append([*cells, f"{result['peak_rss_mb']:.0f}"])
    return table(rows)


def main() -> None:
    """Play the rounds, grow the stores, print the tables."""
    options = parse()
    if options.read:
        print(json.dumps(read(options.read, options)))
        return
    print(", ".join(str(value) for value in machine().values()) + " cores")
    told: dict[str, Any] = {"machine": machine()}
    if options.rounds:
        told["rounds"] = play(options)
        shape = f"{options.rows:,} × {options.width} × {options.classes} classes, {len(options.alphas)} alphas"
        print(f"\n{shape}; medians (min-max)\n\n{summary(told['rounds'])}")
    if options.sizes:
        told["growth"] = [grow(rows, options) for rows in options.sizes]
        print(f"\nwidth {options.width}, {options.classes} classes, {FOLDS} folds\n\n{report(told['growth'])}")
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
