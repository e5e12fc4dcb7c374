"""What each pretext is worth: one architecture, one budget, CIFAR-10 images; then probes on frozen embeddings.

    python benchmarks/pretexts.py cifar10/ OUT/ --minutes 10 --objectives contrastive --seeds 0,1,2 \\
        --also flowers12/ --also hymenoptera/ --also data/digits
    python benchmarks/pretexts.py cifar10/ OUT/ --minutes 10 --objectives distill --teacher mobilenetv2_100 \\
        --teacher-weights FILE --also …
    python benchmarks/pretexts.py cifar10/ OUT/ --minutes 10 --labels 1,5,10,25,100 --seeds 0,1,2
    python benchmarks/pretexts.py cifar10/ OUT/ --table

The first line is one row of the table; without --objectives it is all of them, `random` (no training) among them.
Every cell is a file of JSON in OUT, and what is there is not made again; a run that was interrupted is resumed. --table
prints what is there. Pretraining sees cifar10/train without labels, except `supervised`; its probes are off, so that it
sees all of it. Its minutes are those of training steps: reading files and a teacher's embeddings come on top, and the
cell has them.

Probes are featurepipe's: logistic regression and kNN (defaults, chosen inside the training images), on CIFAR-10 with a
tenth of the labels (500 of each class, drawn by the seed) and all test images, and on each set of --also with its own
split. --labels draws N labels of each class of CIFAR-10: a logistic probe on the contrastive network's embeddings,
against the same network trained from scratch on these labels alone and then probed on them.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from rivals import machine, table

from featurepipe import backbones, extract, manifests, pretrain, probe
from featurepipe.finetuning.loop import EVERY_EPOCH
from featurepipe.pretraining import plans
from featurepipe.stages import Listener

RANDOM = "random"
OBJECTIVES = (RANDOM, "supervised", "contrastive", "vicreg", "autoencoder", "colorize", "distill")
TENTH = 500  # labels of each class
SCRATCH = 100_000  # images that a network from scratch sees, however few there are
CENTRE = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0, "interpolation": "bilinear"}


class Talk(Listener):
    """Notes to stderr."""

    def note(self, text: str) -> None:  # noqa: D102
        print(f"    {text}", file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("out", type=Path)
    parser.add_argument("--objectives", default=",".join(OBJECTIVES))
    parser.add_argument("--also", type=Path, action="append", default=[], help="another data set to probe on")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--images", type=int, help="images to see in training, instead of minutes")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--backbone", default="bundled-1", help="architecture")
    parser.add_argument("--side", type=int, default=32, help="height and width of the input")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--teacher")
    parser.add_argument("--teacher-weights", type=Path)
    parser.add_argument("--teacher-size", type=int)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument(
        "--options",
        type=json.loads,
        default={},
        help="JSON: more keywords of featurepipe.pretrain, which every objective asked for must use",
    )
    parser.add_argument("--labels", help="labels of each class, such as 1,5,10,25,100")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    return parser.parse_args()


def subset(cifar: Path, count: int, seed: int, path: Path, *, test: bool = True) -> Path:
    """A table of `count` training images of each class, and all test images."""
    if path.exists():
        return path
    by_class = defaultdict(list)
    rows = []
    for sample in manifests.read(cifar).samples:
        if sample.split == "train":
            by_class[sample.label].append(sample)
        elif test:
            rows.append(sample)
    rng = np.random.default_rng([seed, count])
    for members in by_class.values():
        rows += [members[i] for i in rng.permutation(len(members))[:count]]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "split"])
        writer.writerows([row.id, (cifar / row.place).resolve(), row.label, row.split] for row in sorted(rows))
    partial.replace(path)
    return path


def budget(options: argparse.Namespace, images: int) -> dict[str, Any]:
    """How long to train."""
    if options.images is not None:
        return {"epochs": max(1, round(options.images / images))}
    return {"minutes": options.minutes} if options.minutes else {}


def pretrained(options: argparse.Namespace, objective: str, seed: int) -> tuple[Any, dict[str, Any]]:
    """A backbone, and what its training was."""
    size = (3, options.side, options.side)
    if objective == RANDOM:
        values = {"random_weights": True, "seed": seed, "transform": {"input_size": size, **CENTRE}}
        return backbones.create(options.backbone, **values), {}
    path = options.out / f"{objective}-{seed}.safetensors"
    if not is_whole(path):
        more: dict[str, Any] = {**budget(options, 50_000), **options.options}
        if objective == "distill":
            more |= {"teacher": options.teacher, "teacher_weights": options.teacher_weights, "views": options.views}
            more |= {"teacher_size": options.teacher_size}
        more |= {"backbone": options.backbone, "input_size": size, "batch_size": options.batch_size}
        train(options.cifar, path, objective=objective, seed=seed, **more)
    told = json.loads(path.with_suffix(".json").read_text("utf-8"))
    keys = ("images_per_second", "seconds", "stopped", "curve")
    return path, {**{key: told[key] for key in keys}, "epochs": told["card"]["epochs"], "card": told["card"]}


def train(data: Path, path: Path, **how: Any) -> None:
    """Pretrain to the end, or leave: what was interrupted is not measured."""
    result = pretrain(data, path, every=0, resume=True, listener=Talk(), **how)
    if result["stopped"] != EVERY_EPOCH:
        sys.exit(f"{path.stem} ended early ({result['stopped']}); run the same command again")


def is_whole(path: Path) -> bool:
    """Whether a backbone file is there, and its training came to its end."""
    figures = path.with_suffix(".json")
    return path.exists() and figures.exists() and json.loads(figures.read_text("utf-8"))["stopped"] == EVERY_EPOCH


def keep(place: Path, told: dict[str, Any]) -> None:
    """Write a cell, whole or not at all."""
    partial = place.with_suffix(".partial")
    partial.write_text(json.dumps(told, indent=1, default=str), "utf-8")
    partial.replace(place)


def probed(data: Path, backbone: Any, store: Path) -> dict[str, float]:
    """Top-1 of a logistic and of a kNN probe on the reported split."""
    extract(data, store, backbone=backbone, listener=Talk())
    found = {}
    for kind in ("logistic", "knn"):
        result = probe(store, store.parent / f"{store.stem}-{kind}.safetensors", kind=kind, baselines="none")
        found[kind] = result[result["evaluated_on"]]["top1"]
    return found


def cell(options: argparse.Namespace, objective: str, seed: int) -> None:
    """One objective under one seed, on all sets."""
    place = options.out / f"{objective}-{seed}.cell.json"
    if place.exists():
        return
    started = time.perf_counter()
    backbone, training = pretrained(options, objective, seed)
    tenth = subset(options.cifar, TENTH, seed, options.out / "tables" / f"tenth-{seed}.csv")
    stores = options.out / "stores" / f"{objective}-{seed}"
    top1 = {"cifar10": probed(tenth, backbone, stores / "cifar10.store")}
    for data in options.also:
        top1[data.name] = probed(data, backbone, stores / f"{data.name}.store")
    told = {"objective": objective, "seed": seed, "top1": top1, "training": training, "machine": machine()}
    told |= {"backbone": options.backbone, "side": options.side, "seconds": round(time.perf_counter() - started, 1)}
    keep(place, told)
    print(f"{objective} {seed}: {top1}", file=sys.stderr, flush=True)


def few(options: argparse.Namespace, count: int, seed: int) -> None:
    """Contrastive against from scratch, with a few labels of each class."""
    place = options.out / f"labels-{count}-{seed}.cell.json"
    if place.exists():
        return
    tables = options.out / "tables"
    labelled = subset(options.cifar, count, seed, tables / f"labels-{count}-{seed}.csv")
    alone = subset(options.cifar, count, seed, tables / f"alone-{count}-{seed}.csv", test=False)
    contrastive, _ = pretrained(options, "contrastive", seed)
    scratch = options.out / f"scratch-{count}-{seed}.safetensors"
    batch_size = min(options.batch_size, 10 * count)
    how = {"backbone": options.backbone, "input_size": (3, options.side, options.side), "batch_size": batch_size}
    epochs = round(SCRATCH / plans.whole_batches(10 * count, batch_size))
    train(alone, scratch, objective="supervised", epochs=epochs, seed=seed, **how)
    stores = options.out / "stores" / f"labels-{count}-{seed}"
    top1 = {
        name: probed(labelled, network, stores / f"{name}.store")
        for name, network in (("contrastive", contrastive), ("scratch", scratch))
    }
    keep(place, {"labels": count, "seed": seed, "top1": top1, "machine": machine()})
    print(f"{count} labels, {seed}: {top1}", file=sys.stderr, flush=True)


def mean_text(values: list[float]) -> str:
    """The mean in percent, and from three values on Student's 95 % interval."""
    from scipy.stats import t

    text = f"{100 * np.mean(values):.1f}"
    if len(values) < 3:
        return text
    reach = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{text} ± {100 * reach:.1f}"


def show(out: Path) -> None:
    """Print the tables of all cells that are there."""
    cells = [json.loads(path.read_text("utf-8")) for path in sorted(out.glob("*.cell.json"))]
    main = [one for one in cells if "objective" in one]
    sets = list(dict.fromkeys(name for one in main for name in one["top1"]))
    rows = [["objective", "seeds", *(f"{name} {kind}" for name in sets for kind in ("linear", "kNN"))]]
    for objective in OBJECTIVES:
        own = [one for one in main if one["objective"] == objective]
        if own:
            kinds = [(name, kind) for name in sets for kind in ("logistic", "knn")]
            tops = [[one["top1"][name][kind] for one in own if name in one["top1"]] for name, kind in kinds]
            rows.append([objective, str(len(own)), *(mean_text(values) if values else "-" for values in tops)])
    if len(rows) > 1:
        print(table(rows))
    shots = sorted({one["labels"] for one in cells if "labels" in one})
    rows = [["labels per class", "seeds", "contrastive, linear", "from scratch, linear"]]
    for count in shots:
        own = [one["top1"] for one in cells if one.get("labels") == count]
        both = [[one[name]["logistic"] for one in own] for name in ("contrastive", "scratch")]
        rows.append([str(count), str(len(own)), *map(mean_text, both)])
    if shots:
        print(table(rows))


def main() -> None:
    """Make the cells that are missing, print the tables."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if not options.table:
        for seed in seeds:
            for count in map(int, options.labels.split(",")) if options.labels else ():
                few(options, count, seed)
            for objective in () if options.labels else options.objectives.split(","):
                cell(options, objective, seed)
    show(options.out)


if __name__ == "__main__":
    main()
