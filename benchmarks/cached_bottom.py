"""Training the top from cached activations beside ordinary training with the same layers frozen: seconds, loss, memory.

Ordinary training decodes and augments each image in each epoch, runs the whole network, and the backward pass of the
top alone. Both sides see the same images in the same order, under plain SGD with batch norms in eval mode; their epochs
take turns. Then both train once without augmentation, and their losses are compared step by step. Last, processes of
their own tune everything, the top in the ordinary way, and the top from the cache, for their peak memory (Linux).

    python benchmarks/cached_bottom.py photos/ --backbone mobilenetv2_100 --tune stage5+
    python benchmarks/cached_bottom.py photos/ --backbone vit_tiny_patch16_224 --tune last-1 --weights vit.safetensors
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rivals import machine, spread, table

from featurepipe import backbones, extraction, manifests
from featurepipe.backbones import PENULTIMATE
from featurepipe.backbones.networks import autocast, make_parts
from featurepipe.finetuning import trainable
from featurepipe.finetuning.cached.activations import cache
from featurepipe.finetuning.cached.cuts import split
from featurepipe.images import ImageTransform, View
from featurepipe.stores import digest_rows

BATCH = 32
NOISE = 1e-6  # relative, about float32's rounding over a few layers
CPU = torch.device("cpu")
WAYS = {"all": "everything, ordinary", "ordinary": "the top, ordinary", "cached": "the top, cached"}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="IMAGES", help="folder of class folders")
    parser.add_argument("--backbone", default="mobilenetv2_100", help="timm name")
    parser.add_argument("--weights", type=Path, help="safetensors file; random weights without it")
    parser.add_argument("--tune", default="last-1", help="which layers train: last-N or stageK+")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or auto")
    parser.add_argument("--images", type=int, default=256, help="how many, spread over the classes")
    parser.add_argument("--views", type=int, default=4, help="augmented ones that are cached of each image")
    parser.add_argument("--rounds", type=int, default=3, help="epochs that are timed")
    parser.add_argument("--epochs", type=int, default=3, help="whose losses are compared")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for every figure")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # what the children are told
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


class Setting:
    """Images, classes, and a network of which some layers train; made again, it is the same."""

    def __init__(self, options: argparse.Namespace, *, everything: bool = False) -> None:
        manifest = manifests.read(options.folder)
        rows, _ = digest_rows(manifest, extraction.default_workers())
        chosen = np.linspace(0, len(rows) - 1, min(options.images, len(rows))).astype(int)
        self.rows, self.source = [rows[i] for i in chosen.tolist()], manifest.source
        names = sorted({row.sample.label for row in self.rows})
        self.targets = torch.tensor([names.index(row.sample.label) for row in self.rows])
        self.backbone = backbones.create(
            options.backbone,
            weights=options.weights,
            random_weights=options.weights is None,
            precision=options.precision,
            device="cpu",
        )
        module = self.backbone.module
        self.trained = trainable(module, "all" if everything else options.tune, options.backbone)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in self.trained)
        self.head = torch.nn.Linear(self.backbone.width, len(names))
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        parameters = [p for p in module.parameters() if p.requires_grad] + list(self.head.parameters())
        self.optimizer = torch.optim.SGD(parameters, lr=0.001, momentum=0.9)

    def views(self, augment: str, count: int) -> list[ImageTransform]:
        """So many augmented views; for ``none`` the plain one."""
        plain = self.backbone.transform
        return [plain] if augment == "none" else [View.of(plain, augment, 0, number) for number in range(count)]

    def epoch(self, embed: Callable[[np.ndarray], torch.Tensor], order: np.ndarray) -> list[float]:
        """Train on the images in this order; `embed` gives the embeddings (B, D) of some of them. The losses."""
        losses = []
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            loss = torch.nn.functional.cross_entropy(self.head(embed(batch)), self.targets[batch])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


class Ordinary:
    """Decode, augment, run all of the network."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.reading = setting, 0.0
        spec = setting.backbone.spec
        self.parts = make_parts(
            setting.backbone.module, setting.backbone.transform, [PENULTIMATE], spec["pooling"], spec["precision"]
        )
        self.pool = ThreadPoolExecutor(extraction.default_workers())

    def embed(self, batch: np.ndarray, view: ImageTransform) -> torch.Tensor:
        """(B,) numbers of images → (B, D)."""
        started = time.perf_counter()
        paths = [Path(self.setting.source.root, self.setting.rows[i].sample.place) for i in batch]
        pixels = np.stack(list(self.pool.map(lambda path: view.decode(path.read_bytes()), paths)))
        self.reading += time.perf_counter() - started
        return self.parts(torch.from_numpy(pixels))[0]


class Cached:
    """The top, on what the cache holds."""

    def __init__(self, setting: Setting, path: Path, views: list[ImageTransform], *, noise: float = 0.0) -> None:
        self.setting, self.reading, self.noise = setting, 0.0, noise
        self.generator = torch.Generator().manual_seed(0)
        backbone = setting.backbone
        size, name = backbone.transform.input_size, backbone.name
        self.split = split(backbone.module, setting.trained, size, name)
        started = time.perf_counter()
        self.held = cache(path, setting.rows, setting.source, backbone, self.split, views)
        self.seconds = time.perf_counter() - started

    def embed(self, batch: np.ndarray, view: int) -> torch.Tensor:
        """(B,) numbers of images → (B, D)."""
        started = time.perf_counter()
        tensors = list(map(torch.from_numpy, self.held.rows(view, [self.setting.rows[i].digest for i in batch])))
        self.reading += time.perf_counter() - started
        with autocast(CPU, self.setting.backbone.spec["precision"]):
            if self.noise:
                tensors = [t * (1 + self.noise * torch.randn(t.shape, generator=self.generator)) for t in tensors]
            return self.split.top(*tensors)


def orders(count: int) -> Iterator[np.ndarray]:
    """Shuffled orders of so many images, always the same."""
    rng = np.random.default_rng(0)
    while True:
        yield rng.permutation(count)


def time_epochs(options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Seconds of epochs with augmentation, the two sides in turn; the first of each is not counted."""
    setting, other = Setting(options), Setting(options)
    views = setting.views("standard", options.views)
    ordinary, cached = Ordinary(setting), Cached(other, path, views)
    found = {"ordinary": [], "decoding": [], "cached": [], "reading": []}
    for number, order in zip(range(options.rounds + 1), orders(len(setting.rows)), strict=False):
        for side, name, part, view in (
            (ordinary, "ordinary", "decoding", views[number % len(views)]),
            (cached, "cached", "reading", number % len(views)),
        ):
            side.reading, started = 0.0, time.perf_counter()
            side.setting.epoch(lambda batch, side=side, view=view: side.embed(batch, view), order)
            if number:
                found[name].append(time.perf_counter() - started)
                found[part].append(side.reading)
    size = 4 * sum(int(np.prod(shape)) for shape in cached.split.shapes)
    return {**found, "cut": cached.split.layer, "row_bytes": size, "caching": cached.seconds}


def compare_losses(options: argparse.Namespace, path: Path) -> list[list[float]]:
    """Losses of every step without augmentation: of both sides, and of the cached one with noise of rounding's size.

    The last says what any other rounding, of another number of threads say, makes of a training run.
    """
    losses = []
    for way, noise in (("ordinary", 0.0), ("cached", 0.0), ("cached", NOISE)):
        setting = Setting(options)
        views = setting.views("none", 1)
        side = Ordinary(setting) if way == "ordinary" else Cached(setting, path, views, noise=noise)
        view = views[0] if way == "ordinary" else 0
        found: list[float] = []
        for _, order in zip(range(options.epochs), orders(len(setting.rows)), strict=False):
            found += setting.epoch(lambda batch, side=side, view=view: side.embed(batch, view), order)
        losses.append(found)
    return losses


def measure_memory(options: argparse.Namespace) -> None:
    """Train one epoch in the way that is asked for, and say this process's peak memory in MB."""
    imported = peak()
    setting = Setting(options, everything=options.way == "all")
    views = setting.views("none", 1)
    side = Cached(setting, options.cache, views) if options.way == "cached" else Ordinary(setting)
    view = 0 if options.way == "cached" else views[0]
    setting.epoch(lambda batch: side.embed(batch, view), next(orders(len(setting.rows))))
    print(json.dumps({"imported": imported, "peak": peak()}))


def peak() -> float:
    """MB of memory that this process has had at most; `resource` would count what the parent had when it started it."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024 / 1e6


def in_process(way: str, path: Path) -> dict[str, float]:
    """What a process of its own needs."""
    command = [sys.executable, *sys.argv, "--way", way, "--cache", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main() -> None:
    """Measure, and print the tables."""
    options = parse()
    if options.way:
        measure_memory(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = time_epochs(options, Path(folder))
        losses = compare_losses(options, Path(folder))
        memory = {way: in_process(way, Path(folder)) for way in WAYS}
    ratios = [slow / fast for slow, fast in zip(found["ordinary"], found["cached"], strict=True)]
    computing = [slow - part for slow, part in zip(found["ordinary"], found["decoding"], strict=True)]
    off, noisy = (max(abs(a - b) for a, b in zip(losses[1], other, strict=True)) for other in (losses[0], losses[2]))
    if options.json:
        told = {"machine": machine(), "options": {key: str(value) for key, value in vars(options).items()}}
        options.json.write_text(json.dumps({**told, **found, "losses": losses, "memory": memory}, indent=1))
    print(", ".join(str(value) for value in machine().values()) + " cores")
    weights = options.weights.name if options.weights else "random weights"
    said = f"{options.backbone} ({weights}), {options.tune}, {options.precision}, {options.images} images"
    print(
        f"{said}, {options.rounds} epochs; medians (least-greatest)\n{found['cut']}: {found['row_bytes']} bytes each\n"
    )
    seconds = {
        "ordinary": found["ordinary"],
        "of it decoding": found["decoding"],
        "cached": found["cached"],
        "of it reading": found["reading"],
    }
    print(table([["", "s per epoch"], *([name, spread(values, "{:.2f}")] for name, values in seconds.items())]))
    print(f"\nordinary / cached: {spread(ratios, '{:.1f}×')}")
    least = [slow / fast for slow, fast in zip(computing, found["cached"], strict=True)]
    print(f"the same, without decoding: {spread(least, '{:.1f}×')}")
    gain = statistics.median(found["ordinary"]) - statistics.median(found["cached"])
    print(f"caching {options.views} views: {found['caching']:.1f} s, repaid after {found['caching'] / gain:.1f} epochs")
    print(
        f"loss over {len(losses[0])} steps: {losses[0][0]:.4f} → {losses[0][-1]:.4f}, largest difference {off:.1e}; "
        f"where the cached values get noise of {NOISE}: {noisy:.1e}\n"
    )
    rows = [[WAYS[way], f"{said['peak']:.0f}", f"{said['imported']:.0f}"] for way, said in memory.items()]
    print(table([["", "peak MB", "of it imports"], *rows]))


if __name__ == "__main__":
    main()
