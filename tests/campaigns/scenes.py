"""Small data sets, stores and model files to do things to, and what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from . import sandbox
from .results import Escaped

PIXELS = ("-b", "pixels", "--rows-per-shard", "8", "--batch-size", "4", "--workers", "1")
NETWORK = ("-b", "test_resnet", "--random-weights", "--input-size", "3", "32", "32", "--device", "cpu")
NETWORK += ("--rows-per-shard", "8", "--batch-size", "8", "--compile", "off", "--workers", "1")
RIDGE = ("--kind", "ridge", "--baselines", "none")
TUNE = ("--epochs", "2", "--lr", "1e-4", "--no-refit", "--device", "cpu")  # so little that the network is kept
LONG_AGO = 1_600_000_000
REST = (".partial", ".damaged", ".corrupt", ".tuning")  # what no command that has finished leaves
VOLATILE = {"seconds", "created", "versions", "written", "time", "images_per_second", "ceiling", "efficiency", "stages"}
VOLATILE |= {"profile", "limited_by", "computed", "reused", "output", "device", "peak", "memory", "engine"}
VOLATILE |= {"resumed_from", "resumed", "bytes", "lanes", "cpu", "timing", "speed"}


def pictures(
    folder: Path, per_class: int = 8, classes: tuple[str, ...] = ("a", "b"), seed: int = 0, wrong: int = 0
) -> Path:
    """Noise with a tint for each class, in ``train/`` and half as many in ``test/``; and one file that is no image.

    Every `wrong`-th picture has the tint of the next class: no probe gets it right, and tuning has something to mend.
    """
    from PIL import Image

    rng = np.random.default_rng(seed)
    for split, count in (("train", per_class), ("test", per_class // 2)):
        for number, name in enumerate(classes):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                tint = (number + (wrong > 0 and index % wrong == 0)) % len(classes)
                pixels = rng.integers(0, 120, (16, 16, 3)) + 130 * tint // max(1, len(classes) - 1)
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index:03}.png")
                os.utime(place / f"{index:03}.png", (LONG_AGO, LONG_AGO))  # else a store would not go by it
    (folder / "train" / classes[0] / "bad.png").write_bytes(b"no image at all")
    return folder


def done(*command: object, cwd: Path) -> sandbox.Said:
    """Run a command that has to succeed."""
    said = sandbox.say(*command, cwd=cwd)
    if said.code:
        raise Escaped(f"a command failed that must not: {said}")
    return said


def copy(template: Path, work: Path, keep: str | None = None) -> Path:
    """`work` as `template` is, and nothing else there; one folder of it may be kept as it is, times and inodes too."""
    for path in work.iterdir() if work.exists() else ():
        if path.name != keep:
            path.unlink() if path.is_file() or path.is_symlink() else sandbox.remove(path)
    shutil.copytree(template, work, dirs_exist_ok=True, ignore=lambda folder, names: [keep] if keep in names else [])
    return work


def contents(work: Path) -> dict[str, Any]:
    """What everything below a folder says, however it is laid out on disk: equal contents, equal value."""
    found: dict[str, Any] = {}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        if path.name == "store.json":
            found[name] = store(path.parent)
        elif path.suffix == ".safetensors":
            found[name] = model(path)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays.files}
        elif path.suffix in (".csv", ".jsonl") and not (path.parent / "store.json").exists():
            found[name] = path.read_bytes()
    return found


def store(path: Path) -> dict[str, Any]:
    """A store's rows by digest, its rejects, and its manifest without the stamps of files."""
    from featurepipe import shards
    from featurepipe.stores import Store

    opened = Store.open(path)
    rows: dict[str, dict[str, bytes]] = {}
    for shard in sorted(path.glob("*/shard-*.h5")):
        read, held = shards.read(shard), rows.setdefault(shard.parent.name, {})
        held |= {
            digest.tobytes().hex(): row.tobytes() for digest, row in zip(read.digests, read.embeddings, strict=True)
        }
        held |= {digest: reason.encode() for digest, reason in read.rejects.items()}
    manifest = [] if opened.root is None else [(str(row.sample), row.digest) for row in opened.rows()]
    return {"rows": rows, "manifest": manifest}


def model(path: Path) -> dict[str, Any]:
    """A model file's tensors, and its header but for times and machines."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        header = json.loads(file.metadata()["featurepipe"])
        tensors = {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118
    for key in [key for key in header if key.endswith("sha256") or "digest" in key]:
        del header[key]  # they cover times
    return {"header": lasting(header), "tensors": tensors}


def lasting(value: Any) -> Any:
    """JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {key: lasting(inner) for key, inner in value.items() if key not in VOLATILE}
    return [lasting(inner) for inner in value] if isinstance(value, list) else value


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Where two contents differ, in a few words; '' where they do not."""
    for key in sorted({*found, *wanted}, key=str):
        if key not in found or key not in wanted:
            return f"{key} is {'missing' if key in wanted else 'too much'}"
        one, other = found[key], wanted[key]
        if one != other:
            inner = differences(one, other) if isinstance(one, dict) and isinstance(other, dict) else ""
            return f"{key}: {inner}" if inner else f"{key} differs"
    return ""


def leftovers(work: Path) -> list[str]:
    """What below a folder only a run in progress may have; random parts of names are left out."""
    found = [path for path in work.rglob("*") if path.name.endswith(REST)]
    inside = [path for folder in found if folder.is_dir() for path in folder.rglob("*")]
    names = [path.relative_to(work).as_posix() for path in (*found, *inside)]
    return [re.sub(r"\.[0-9a-f]{8}\.", ".*.", name) for name in names]
