"""Whether the fast path costs accuracy: probes on vectors as `auto` makes them, and on those of fp32 and Pillow.

First on the data's own split, training images against all others; then on redraws of all images, as many in all for
training as there, each class by its share of all images. Both kinds of vectors meet the same images in each, and the
difference is taken in each. Of exact copies of an image one counts.

    python benchmarks/precision.py flowers/ --backbone mobilenetv2_100 --weights mobilenetv2_100.safetensors
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rivals import machine, table
from scipy import stats
from sklearn.model_selection import StratifiedShuffleSplit

from featurepipe import FeatureExtractor, manifests, probes
from featurepipe.digests import sha256_file

WAYS = {"fast": {}, "exact": {"precision": "fp32", "image_transform": {"decoder": "pillow"}}}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder or table with a training part and another")
    parser.add_argument("--backbone", help="timm name; the bundled network without it")
    parser.add_argument("--weights", type=Path, help="safetensors file")
    parser.add_argument("--redraws", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for every figure")
    options = parser.parse_args(arguments)
    if options.redraws < 2:
        parser.error("--redraws is at least 2, as an interval is taken of them")
    return options


def interval(differences: np.ndarray, train: int, test: int) -> tuple[float, float]:
    """95 % interval of the mean difference over redraws, which share images.

    The corrected resampled t-test of Nadeau and Bengio (2003), Inference for the generalization error: the variance
    counts 1/J + test/train times instead of 1/J.
    """
    count = len(differences)
    deviation = np.sqrt((1 / count + test / train) * differences.var(ddof=1))
    reach = stats.t.ppf(0.975, count - 1) * deviation
    return float(differences.mean() - reach), float(differences.mean() + reach)


def judge(vectors: dict[str, np.ndarray], y: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """Both ways on one split: top-1 and chosen C each, and the share of test images that they do not agree on."""
    told: dict[str, Any] = {"C": {}, "top1": {}}
    guesses = {}
    for way, X in vectors.items():
        probe = probes.fit("logistic", X[train], y[train])
        guesses[way] = probe.estimator.predict(X[test])
        told["C"][way], told["top1"][way] = probe.chosen, float(np.mean(guesses[way] == y[test]))
    points = 100 * (told["top1"]["fast"] - told["top1"]["exact"])
    return {**told, "points": points, "disagree": float(np.mean(guesses["fast"] != guesses["exact"]))}


def show(name: str, one: dict[str, Any]) -> list[str]:
    """A row of the table."""
    top1 = [f"{100 * one['top1'][way]:.2f}" for way in WAYS]
    strengths = " / ".join(f"{one['C'][way]:.3g}" for way in WAYS)
    return [name, *top1, f"{one['points']:+.2f}", strengths, f"{100 * one['disagree']:.1f} %"]


def main() -> None:
    """Embed twice, fit, print."""
    options = parse()
    manifest = manifests.read(options.data)
    unique = {sha256_file(manifest.file(sample)): sample for sample in reversed(manifest.samples)}
    samples = sorted(unique.values(), key=lambda sample: sample.id)
    files = [manifest.file(sample) for sample in samples]
    y = np.array([sample.label for sample in samples])
    learned = np.array([sample.split == "train" for sample in samples])
    train, test = np.flatnonzero(learned), np.flatnonzero(~learned)
    if not len(train) or not len(test):
        sys.exit(f"{options.data} has no training part and another; name folders train and test, or give a table")
    vectors, precision = {}, {}
    for way, how in WAYS.items():
        extractor = FeatureExtractor(options.backbone, weights=options.weights, **how)
        vectors[way] = extractor.fit_transform(files)  # (n, D)
        precision[way] = extractor.precision_
    own = judge(vectors, y, train, test)
    splits = StratifiedShuffleSplit(options.redraws, train_size=len(train), test_size=len(test), random_state=0)
    redrawn = [judge(vectors, y, *split) for split in splits.split(files, y)]
    points = np.array([one["points"] for one in redrawn])
    low, high = interval(points, len(train), len(test))

    heads = ["top-1, %", *(f"{way} ({precision[way]})" for way in WAYS), "points", "C", "disagree"]
    named = [("own split", own), *((f"redraw {number}", one) for number, one in enumerate(redrawn, 1))]
    print(f"{', '.join(map(str, machine().values()))} cores")
    print(f"{options.data.resolve().name}, {options.backbone}: {len(train)} to train, {len(test)} to test\n")
    print(table([heads, *(show(name, one) for name, one in named)]))
    print(f"\nover {len(points)} redraws: {points.mean():+.3f} points, 95 % interval {low:+.2f} to {high:+.2f}")
    if options.json:
        command = {key: str(value) for key, value in vars(options).items()}
        told = {"machine": machine(), "options": command, "precision": precision, "own": own, "redrawn": redrawn}
        options.json.write_text(json.dumps({**told, "mean": points.mean(), "interval": [low, high]}, indent=1), "utf-8")


if __name__ == "__main__":
    main()
