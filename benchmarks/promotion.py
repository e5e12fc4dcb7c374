"""Probe, promoted probe (LP-FT), plain fine-tuning and training from scratch, on the same labels; and the advice.

    python benchmarks/promotion.py cifar10/ --backbone mobilenetv2_035 --weights FILE --backbone-arg pad_type=same \\
        --input-size 96 --sizes 100,1000,5000 --json OUT

For each size so many training images are drawn, class by class (`--sizes all` takes those there are), and a fifth of
each class of them is held back for validation where the data have no val split. What is compared:

probe
    `featurepipe probe` on the penultimate embedding, which learns from the validation images too
stage
    the same on the layer that `probe --layers all` keeps
last, all
    `featurepipe finetune --tune last-3` and `--tune all`: the probe where tuning was not better on validation images
plain
    `--head random`: the same recipe from a random head; what it came to, even where it is worse than the probe
scratch
    `--from-scratch`: random weights, batch norms that learn, as many epochs as `all`

Then what `featurepipe advise` said, before any of it, and its regret: the best of probe, stage, last and all, less what
was advised. Every figure is top-1 on the test split; seconds include the validation after each epoch.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from rivals import machine, table

from featurepipe import advise, extract, finetune, manifests, probe, probe_layers
from featurepipe.advice import OPTIONS
from featurepipe.advice.rules import LAST
from featurepipe.stages import Listener

NAMES = {"linear": "probe", "stage": "stage", "tune-last": "last", "tune-all": "all"}  # of the advice's options


class Talk(Listener):
    """Notes to stderr."""

    def note(self, text: str) -> None:  # noqa: D102
        print(f"    {text}", file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--backbone-arg", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--input-size", type=int, help="height and width")
    parser.add_argument("--mean-std", type=float, help="one mean and deviation of all channels, if not the backbone's")
    parser.add_argument("--sizes", default="all")
    parser.add_argument("--options", default="probe,stage,last,all,plain,scratch")
    parser.add_argument("--recipe", default="{}", help="JSON: fields of featurepipe.finetuning.Recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


def draw(data: Path, size: str, seed: int, folder: Path) -> Path:
    """A table of the data with so many training images, equally many of each class; everything else as it is."""
    manifest = manifests.read(data)
    rows = [sample for sample in manifest.samples if sample.split != "train"]
    train = defaultdict(list)
    for sample in manifest.samples:
        if sample.split == "train":
            train[sample.label].append(sample)
    rng = np.random.default_rng(seed)
    for members in train.values():
        count = len(members) if size == "all" else int(size) // len(train)
        rows += [members[i] for i in rng.permutation(len(members))[:count]]
    path = folder / f"{data.resolve().name}-{size}.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "split"])
        writer.writerows([s.id, manifest.file(s).resolve(), s.label, s.split] for s in rows)
    return path


def measure(data: Path, size: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All that is compared, on one number of images."""
    wanted, recipe = options.options.split(","), json.loads(options.recipe)
    talk = Talk()
    backbone = {"backbone": options.backbone, "seed": options.seed}
    if options.weights:
        backbone["weights"] = options.weights
    if options.backbone_arg:
        pairs = (one.split("=", 1) for one in options.backbone_arg)
        backbone["arguments"] = {key: int(value) if value.isdigit() else value for key, value in pairs}
    if options.input_size:
        backbone["transform"] = {"input_size": (3, options.input_size, options.input_size)}
    if options.mean_std is not None:
        backbone["transform"] |= {"mean": (options.mean_std,) * 3, "std": (options.mean_std,) * 3}
    path = draw(data, size, options.seed, folder)
    store = extract(path, folder / f"{path.stem}.store", layers="stages", listener=talk, **backbone)["store"]
    found: dict[str, Any] = {"data": data.resolve().name, "size": size, "backbone": options.backbone}
    found |= {"top1": {}, "seconds": {}}

    def timed(name: str, run: Any) -> dict[str, Any]:
        print(f"  {size}: {name}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        result = run()
        found["seconds"][name] = round(time.perf_counter() - started, 1)
        found["top1"][name] = result[result["evaluated_on"]]["top1"]
        found["n"] = result[result["evaluated_on"]]["n"]
        return result

    timed("probe", lambda: probe(store, folder / "probe.safetensors", seed=options.seed))  # leaves pixels in the store
    found["advice"] = advise(store, seed=options.seed)
    if "stage" in wanted:
        timed("stage", lambda: probe_layers(store, folder / "stage.safetensors", baselines="none", seed=options.seed))
    for name, tune, head in (("last", LAST, "probe"), ("all", "all", "probe"), ("plain", "all", "random")):
        if name not in wanted:
            continue
        more = {"from_scratch": name == "all" and "scratch" in wanted, "seed": options.seed, "listener": talk}
        output = folder / f"{name}-{size}.safetensors"
        told = timed(name, lambda: finetune(store, None, output, tune=tune, head=head, **more, **recipe))["finetuning"]  # noqa: B023
        found[name] = told
        if told["scratch"]:
            found["top1"]["scratch"], found["seconds"]["scratch"] = told["scratch"]["top1"], told["scratch"]["seconds"]
            found["seconds"][name] -= told["scratch"]["seconds"]
        if name == "plain" and told["network"]:
            found["top1"][name] = told["network"]["top1"]
    tried = {option: found["top1"][NAMES[option]] for option in OPTIONS if NAMES[option] in found["top1"]}
    if found["advice"]["option"] in tried:
        found["regret"] = max(tried.values()) - tried[found["advice"]["option"]]
    return found


def main() -> None:
    """Measure, print, keep."""
    options = parse()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes.split(","):
            results.append(measure(options.data, size, options, Path(folder)))
            if options.json:
                options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1), "utf-8")
    names = [name for name in ("probe", "stage", "last", "all", "plain", "scratch") if name in results[0]["top1"]]
    head = ["images", *names, "advice", "regret"]
    rows = [
        [
            one["size"],
            *(f"{100 * one['top1'][name]:.1f} ({one['seconds'][name]:.0f} s)" for name in names),
            one["advice"]["option"],
            f"{100 * one['regret']:.1f}" if "regret" in one else "–",
        ]
        for one in results
    ]
    print(table([head, *rows]))


if __name__ == "__main__":
    main()
