"""Fine-tuning at its defaults, next to a plain PyTorch loop, fastai's `fine_tune` and a loop of timm's parts.

    python benchmarks/sets.py SETS --from DATASETS
    python benchmarks/tuning.py SETS/digits --size 400 --backbone mobilenetv2_035 --weights FILE \\
        --backbone-arg pad_type=same --input-size 96 --json OUT

Everyone gets the same pretrained weights, the same training images (so many are drawn, class by class), the same number
of epochs (20, or as many as make 500 steps, but no more than 100), batches of 32, and the same test images.

last, all
    `featurepipe finetune --tune last-3` and `--tune all`; the probe where the gate kept it
probe
    `featurepipe probe`
plain
    a random linear layer, AdamW at 3e-4 for every layer, weight decay 0.05, 10 % warm-up and a cosine, random resized
    crops of at least half of the image and mirrors, batch norms in training mode, the last epoch
timm
    the parts and settings of timm's training script: its augmentation (crops of 8 % and more, mirrors, colour jitter
    0.4), label smoothing 0.1, AdamW at 5e-4, one epoch of warm-up and a cosine, batch norms in training mode, the last
    epoch
fastai
    `Learner.fine_tune` with its own head, augmentation (`aug_transforms`), base learning rate of 2e-3, one epoch of the
    head alone; needs fastai

The three learn from all training images, for nobody stops early there; their test figure is that of the last epoch.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from promotion import draw
from rivals import machine, table

from featurepipe import extract, finetune, manifests, probe
from featurepipe.advice.rules import LAST
from featurepipe.finetuning import Recipe
from featurepipe.listeners import SILENT

BATCH = 32
Files = list[tuple[Path, int]]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", default="all", help="training images")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", type=Path, required=True, help="a safetensors file")
    parser.add_argument("--backbone-arg", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--input-size", type=int, required=True, help="height and width")
    parser.add_argument("--mean-std", type=float, help="one mean and deviation of all channels, if not the backbone's")
    parser.add_argument("--who", default="probe,last,all,plain,timm,fastai")
    parser.add_argument("--recipe", default="{}", help="JSON: fields of featurepipe.finetuning.Recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


def network(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The pretrained network without classifier, and how its images are prepared."""
    import timm
    from safetensors.torch import load_file
    from timm.data import resolve_data_config
    from timm.models import clean_state_dict

    module = timm.create_model(options.backbone, num_classes=0, **arguments(options))
    state = clean_state_dict(load_file(options.weights))
    if "pos_embed" in state and state["pos_embed"].shape != module.pos_embed.shape:
        from timm.models.vision_transformer import checkpoint_filter_fn

        state = checkpoint_filter_fn(state, module)
    missing = module.load_state_dict(state, strict=False).missing_keys
    assert not missing, missing
    config = resolve_data_config({}, model=module)
    config["input_size"] = (3, options.input_size, options.input_size)
    if options.mean_std is not None:
        config["mean"] = config["std"] = (options.mean_std,) * 3
    return module, config


def arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The backbone's arguments."""
    pairs = (one.split("=", 1) for one in options.backbone_arg)
    return {key: int(value) if value.isdigit() else value for key, value in pairs}


def loop(
    options: argparse.Namespace,
    train: Files,
    test: Files,
    classes: int,
    epochs: int,
    *,
    augmentation: Callable[[dict[str, Any]], Any],
    rate: float,
    smoothing: float,
    warm: float,
) -> float:
    """A training loop as anybody would write it; top-1 on the test images after the last epoch."""
    import torch
    from PIL import Image
    from timm.data import create_transform

    torch.manual_seed(options.seed)
    random.seed(options.seed)
    module, config = network(options)
    model = torch.nn.Sequential(module, torch.nn.Linear(module.num_features, classes)).to(
        memory_format=torch.channels_last
    )
    augment, still = augmentation(config), create_transform(**config, is_training=False)
    images = [Image.open(path).convert("RGB") for path, _ in train]
    y = torch.tensor([label for _, label in train])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    steps = epochs * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda n: min((n + 1) / (warm * steps + 1), 0.5 + 0.5 * np.cos(np.pi * n / steps)),
    )
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(train)).split(BATCH):
            if len(rows) == 1:
                continue  # a batch norm has nothing to normalise
            x = torch.stack([augment(images[i]) for i in rows]).to(memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(model(x), y[rows], label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    right = 0
    with torch.inference_mode():
        for at in range(0, len(test), 64):
            some = test[at : at + 64]
            x = torch.stack([still(Image.open(path).convert("RGB")) for path, _ in some])
            right += int((model(x).argmax(1) == torch.tensor([label for _, label in some])).sum())
    return right / len(test)


def plain(options: argparse.Namespace, train: Files, test: Files, classes: int, epochs: int) -> float:
    """A plain loop."""
    from torchvision.transforms import v2

    def augmentation(config: dict[str, Any]) -> Any:
        import torch

        return v2.Compose(
            [
                v2.RandomResizedCrop(config["input_size"][1:], scale=(0.5, 1), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(config["mean"], config["std"]),
            ]
        )

    how = {"augmentation": augmentation, "rate": 3e-4, "smoothing": 0.0, "warm": 0.1}
    return loop(options, train, test, classes, epochs, **how)


def of_timm(options: argparse.Namespace, train: Files, test: Files, classes: int, epochs: int) -> float:
    """A loop of timm's parts."""
    from timm.data import create_transform

    def augmentation(config: dict[str, Any]) -> Any:
        size, mean, std = (config[key] for key in ("input_size", "mean", "std"))
        return create_transform(size, is_training=True, mean=mean, std=std, interpolation=config["interpolation"])

    how = {"augmentation": augmentation, "rate": 5e-4, "smoothing": 0.1, "warm": 1 / epochs}
    return loop(options, train, test, classes, epochs, **how)


def of_fastai(options: argparse.Namespace, train: Files, test: Files, classes: int, epochs: int) -> float:
    """What fastai does: its head, its augmentation, its two phases."""
    import pandas
    import torch
    from fastai.vision.all import (
        CategoryBlock,
        ColReader,
        ColSplitter,
        DataBlock,
        ImageBlock,
        Learner,
        Normalize,
        Resize,
        accuracy,
        aug_transforms,
        create_head,
        params,
        set_seed,
    )

    set_seed(options.seed)
    module, config = network(options)
    rows = [(str(path), f"{label:04}", False) for path, label in train]
    rows += [(str(path), f"{label:04}", True) for path, label in test]
    frame = pandas.DataFrame(rows, columns=["path", "label", "valid"])
    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_x=ColReader("path"),
        get_y=ColReader("label"),
        splitter=ColSplitter("valid"),
        item_tfms=Resize(options.input_size),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(config["mean"], config["std"])],
    )
    few = frame[: len(train) + BATCH]  # measured after every epoch; all test images once, at the end
    loaders = block.dataloaders(few, bs=BATCH, num_workers=0, device=torch.device("cpu"))
    model = torch.nn.Sequential(module, create_head(module.num_features, classes, pool=False))
    learner = Learner(loaders, model, metrics=accuracy, splitter=lambda m: [params(m[0]), params(m[1])])
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs)
        return float(learner.validate(dl=loaders.test_dl(frame[len(train) :], with_labels=True))[1])


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everyone's top-1 and seconds on one data set."""
    path = draw(options.data, options.size, options.seed, folder)
    samples = manifests.read(path).samples
    known = sorted({sample.label for sample in samples})
    reported = "test" if any(sample.split == "test" for sample in samples) else "val"
    files = {
        part: [(Path(sample.place), known.index(sample.label)) for sample in samples if sample.split == part]
        for part in ("train", reported)
    }
    recipe = Recipe(**json.loads(options.recipe))
    epochs = recipe.epochs_for(len(files["train"]))
    found: dict[str, Any] = {"data": options.data.name, "images": len(files["train"]), "backbone": options.backbone}
    found |= {"epochs": epochs, "n": len(files[reported]), "top1": {}, "seconds": {}, "finetuning": {}}
    transform: dict[str, Any] = {"input_size": (3, options.input_size, options.input_size)}
    if options.mean_std is not None:
        transform |= {"mean": (options.mean_std,) * 3, "std": (options.mean_std,) * 3}
    how = {"backbone": options.backbone, "weights": options.weights, "arguments": arguments(options)}
    store = extract(path, folder / "store", transform=transform, listener=SILENT, **how)["store"]
    more = {"seed": options.seed, "listener": SILENT, **json.loads(options.recipe)}
    others = {"plain": plain, "timm": of_timm, "fastai": of_fastai}
    for name in options.who.split(","):
        started = time.perf_counter()
        if name in others:
            top1 = others[name](options, files["train"], files[reported], len(known), epochs)
        elif name == "probe":
            top1 = probe(store, folder / "probe.safetensors", baselines="none", listener=SILENT)[reported]["top1"]
        else:
            tune = {"last": LAST}.get(name, name)
            result = finetune(store, None, folder / f"{name}.safetensors", tune=tune, **more)
            top1, found["finetuning"][name] = result[reported]["top1"], result["finetuning"]
        found["top1"][name], found["seconds"][name] = top1, round(time.perf_counter() - started, 1)
        print(f"{found['data']} {found['images']}: {name} {100 * top1:.1f}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure, print, keep."""
    options = parse()
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "result": found}, indent=1, default=str), "utf-8")
    names = list(found["top1"])
    cells = [f"{100 * found['top1'][name]:.1f} ({found['seconds'][name]:.0f} s)" for name in names]
    print(table([["data", "images", *names], [found["data"], str(found["images"]), *cells]]))


if __name__ == "__main__":
    main()
