"""Whether sound teaches sight: images of digits paired with recordings of spoken digits, **by class**.

    python benchmarks/sound_pretext.py data/digits spoken_digits/ OUT/ --epochs 100 --seeds 0,1,2

No label is given to pretraining, but pairs are made by class: an image of a 3 is paired with recordings of "three".
So the sounds carry the class, as the sound of a scene carries what is in it; only real videos are free of that. Files
of sounds are called DIGIT_SPEAKER_INDEX.wav; indexes from 5 on are used.

Compared are the same network with random weights, as an autoencoder, and with sound (clusters, and bits), each
pretrained on the training images of the digits, by featurepipe's logistic and kNN probes on their test images, with all
labels and with --shots of each class. A cell of JSON for each is kept in OUT, and is not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pretexts import CENTRE, RANDOM, Talk, keep, mean_text, train
from rivals import machine, table

from featurepipe import backbones, extract, manifests, probe

KINDS: dict[str, dict[str, Any]] = {
    RANDOM: {},
    "autoencoder": {"objective": "autoencoder"},
    "sound, clusters": {"objective": "sound", "sound_target": "clusters"},
    "sound, bits": {"objective": "sound", "sound_target": "bits"},
}
FIRST = 5  # index of the first recording that is used


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("digits", type=Path)
    parser.add_argument("sounds", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--pairs", type=int, default=5, help="recordings of each image")
    parser.add_argument("--shots", default="1,5,10")
    parser.add_argument("--side", type=int, default=32)
    return parser.parse_args()


def pair(digits: Path, sounds: Path, pairs: int, seed: int, path: Path) -> Path:
    """A table of training images, each in several rows with a recording of its class; it has no labels."""
    by_class: dict[str, list[Path]] = {}
    for file in sorted(sounds.rglob("*.wav")):
        digit, _, index = file.stem.split("_")
        if int(index) >= FIRST:
            by_class.setdefault(digit, []).append(file.resolve())
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "sound"])
        for sample in manifests.read(digits).samples:
            if sample.split == "train":
                own = by_class[sample.label]
                chosen = rng.permutation(len(own))[:pairs]
                writer.writerows([(digits / sample.place).resolve(), own[i]] for i in chosen)
    return path


def cell(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """One way of pretraining under one seed."""
    called = name.replace(", ", "-")
    place = options.out / f"{called}-{seed}.cell.json"
    if place.exists():
        return json.loads(place.read_text("utf-8"))
    started, size = time.perf_counter(), (3, options.side, options.side)
    backbone: Any = options.out / f"{called}-{seed}.safetensors"
    if name == RANDOM:
        values = {"random_weights": True, "seed": seed, "transform": {"input_size": size, **CENTRE}}
        backbone = backbones.create("bundled-1", **values)
    else:
        pairs = pair(options.digits, options.sounds, options.pairs, seed, options.out / "tables" / f"pairs-{seed}.csv")
        how = {
            "backbone": "bundled-1",
            "input_size": size,
            "augment": "crop",
            "crop": 0.5,
            "epochs": options.epochs,
            "seed": seed,
        }
        train(pairs, backbone, **how, **KINDS[name])
    store = options.out / "stores" / f"{called}-{seed}.store"
    extract(options.digits, store, backbone=backbone, listener=Talk())
    shots = tuple(map(int, options.shots.split(",")))
    top1, few = {}, {}
    for kind in ("logistic", "knn"):
        more = {"shots": shots} if kind == "logistic" else {}
        result = probe(store, store.with_suffix(f".{kind}.safetensors"), kind=kind, baselines="none", **more)
        top1[kind], few[kind] = result["test"]["top1"], result.get("shots")
    told = {"name": name, "seed": seed, "top1": top1, "shots": few["logistic"], "machine": machine()}
    told["seconds"] = round(time.perf_counter() - started, 1)
    keep(place, told)
    print(f"{name} {seed}: {top1}", file=sys.stderr, flush=True)
    return told


def main() -> None:
    """Make the cells that are missing, print the table."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    rows = [["pretraining", "seeds", "linear", "kNN"]]
    for name in KINDS:
        cells = [cell(options, name, seed) for seed in seeds]
        tops = [mean_text([one["top1"][kind] for one in cells]) for kind in ("logistic", "knn")]
        rows.append([name, str(len(cells)), *tops])
    print(table(rows))


if __name__ == "__main__":
    main()
