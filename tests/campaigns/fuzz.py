"""Every reader, given files that are nearly right: it accepts them, or raises one of featurepipe's own errors."""

from __future__ import annotations

import json
import resource
from functools import cache
from pathlib import Path

import numpy as np

from . import scenes
from .readers import ORDER, READERS, ROWS, TABLE, parquet
from .results import Trial

ABOUT = "mutated tables, stores, shards, model files, cards, claims, checkpoints and weights"
CI, COUNT = 650, 200_000
INSIDE, BATCH = True, 5000

ROOM = 3 * 2**30  # bytes of address space beyond what the libraries take


def prepare(folder: Path) -> Path:
    """One sound file of each kind."""
    import torch
    from safetensors.torch import save

    from featurepipe.finetuning import checkpoints

    scenes.pictures(folder / "data", 4)
    scenes.done("extract", "data", "-s", "store", *scenes.PIXELS, cwd=folder)
    scenes.done("probe", "store", "-o", "model.safetensors", *scenes.RIDGE, cwd=folder)
    scenes.done("extract", "data", "-s", "net", *scenes.NETWORK, cwd=folder)
    scenes.done("probe", "net", "-o", "net.safetensors", *scenes.RIDGE, cwd=folder)
    scenes.done("predict", "model.safetensors", "data", "-o", "predicted.csv", cwd=folder)
    scenes.done("report", "model.safetensors", "-o", "page.html", cwd=folder)
    tensors = {"conv.weight": torch.ones(4, 3, 3, 3), "conv.bias": torch.zeros(4, dtype=torch.float16)}
    torch.save({"state_dict": tensors, "epoch": 3}, folder / "weights.pth")
    np.savez(folder / "weights.npz", **{key: value.numpy() for key, value in tensors.items()})
    (folder / "weights.safetensors").write_bytes(save(tensors, {"format": "pt", "mean": "[0.5, 0.5, 0.5]"}))
    checkpoints.save(folder / "checkpoint.pt", "this", {"epoch": 1, "step": 0, "curve": []}, {"network": tensors})
    (folder / "t.csv").write_text(TABLE)
    (folder / "t.tsv").write_text(TABLE.replace(",", "\t"))
    (folder / "imagenet.csv").write_text("model,top1\nvit,81.2\n")
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "t.parquet").write_bytes(parquet([row["path"] for row in ROWS], ["x", "y"]))
    return folder


def attempt(bench: Path, trial: Trial) -> None:
    """Change one file and read it: what is raised and is not ours escapes."""
    from featurepipe.errors import FeaturepipeError

    _limit()
    name = ORDER[trial.number % len(ORDER)]
    try:
        READERS[name](bench, trial.rng, trial.folder)
    except FeaturepipeError:
        return


@cache
def _limit() -> None:
    """Let a claim of terabytes fail at once, also where the system would promise them."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, resource.RLIM_INFINITY))
