"""Commands that are killed: at every moment at which they change a file, and at any instant."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from . import disks, sandbox, scenes
from .results import Escaped, Missed, Trial

ABOUT = "kill -9 before, in and after every change of a file, and at random instants"
CI, COUNT = 8, 1000
INSIDE = False
RANDOM = 5  # every fifth kill is at a random instant

EXTRACT = ("extract", "data", "-s", "store", *scenes.PIXELS)
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {  # name → what it starts from, and the command
    "extract": ("data", EXTRACT),
    "extract-again": ("grown", EXTRACT),
    "repair": ("broken", ("verify", "store", "--repair")),
    "probe": ("store", ("probe", "store", "-o", "out.safetensors", *scenes.RIDGE)),
    "export-csv": ("store", ("export", "store", "-o", "out.csv")),
    "export-npz": ("store", ("export", "store", "-o", "out.npz")),
    "audit": ("store", ("audit", "store", "-o", "out.html", "--fix", "out.csv")),
    "predict": ("store", ("predict", "model.safetensors", "data", "-o", "out.csv")),
    "report": ("store", ("report", "model.safetensors", "-o", "out.html")),
    "finetune": ("network", ("finetune", "net", "-o", "out.safetensors", "--tune", "all", *scenes.TUNE)),
    "finetune-cached": (
        "network",
        ("finetune", "net", "-o", "out.safetensors", "--tune", "last-1", "--cache", "on", "--views", "1", *scenes.TUNE),
    ),
    "run": ("data", ("run", "data", "-o", "out", "-b", "pixels", *scenes.RIDGE)),
}


def prepare(folder: Path) -> dict[str, Any]:
    """What commands start from, what they end with, and all their moments, in an order of chance."""
    work, wanted, moments, seconds = folder / "work", {}, [], {}
    make_scenes(folder, work)
    for name, (start, command) in COMMANDS.items():
        scenes.copy(folder / start, work)
        began = time.monotonic()
        found = sandbox.call(counted, command, work, folder=folder / f"counting-{name}").value
        seconds[name], code = time.monotonic() - began, found[0].code
        if code != (name == "repair"):
            raise RuntimeError(f"{found[0]}")
        moments += [(name, number, moment) for number, moment in enumerate(found[1])]
        wanted[name] = finished(name, command, work)
    return {"folder": folder, "work": work, "wanted": wanted, "moments": moments, "seconds": seconds}


def make_scenes(folder: Path, work: Path) -> None:
    """The folders that commands start from; all are made where they will be used, as a store knows its place."""
    scenes.pictures(work / "data", wrong=3)
    scenes.copy(work, folder / "data")
    scenes.done(*EXTRACT, cwd=work)
    scenes.done("probe", "store", "-o", "model.safetensors", *scenes.RIDGE, cwd=work)
    scenes.copy(work, folder / "store")
    scenes.pictures(work / "data" / "train" / "c", 2, ("more",), seed=9).joinpath("train/more/bad.png").unlink()
    for path in list((work / "data/train/c").rglob("*.png")):
        path.rename(work / "data/train/a" / f"more-{path.parent.parent.name}-{path.name}")
    sandbox.remove(work / "data/train/c")
    scenes.copy(work, folder / "grown")
    scenes.copy(folder / "store", work)
    shard = sorted(work.glob("store/*/shard-*.h5"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    scenes.copy(work, folder / "broken")
    scenes.copy(folder / "data", work)
    scenes.done("extract", "data", "-s", "net", *scenes.NETWORK, cwd=work)
    scenes.copy(work, folder / "network")


def attempt(bench: dict[str, Any], trial: Trial) -> None:
    """Kill one command, look at what is there, run it again, and compare."""
    moments, work = bench["moments"], bench["work"]
    if trial.number % RANDOM == RANDOM - 1:
        name, moment = trial.rng.choice(list(COMMANDS)), "at a random instant"
        start, command = COMMANDS[name]
        scenes.copy(bench["folder"] / start, work)
        child = sandbox.Child(sandbox.say_all, [command], work, folder=trial.folder / "killed")
        time.sleep(trial.rng.uniform(0, bench["seconds"][name]))
        child.kill()
        ended = child.end(60)
    else:
        at = (trial.number * step(len(moments)) + step(len(moments)) // 2) % len(moments)
        name, number, moment = moments[at]
        start, command = COMMANDS[name]
        scenes.copy(bench["folder"] / start, work)
        ended = sandbox.call(killed, command, work, number, folder=trial.folder / "killed")
    check(name, command, work, trial, f"{name} killed {moment}", bench["wanted"][name])
    if ended.code != -9:
        raise Missed


def step(length: int) -> int:
    """A stride that visits all of `length` things, far apart at first."""
    from math import gcd

    return next(stride for stride in range(max(1, int(length * 0.382)), length + 2) if gcd(stride, length) == 1)


def check(name: str, command: tuple[str, ...], work: Path, trial: Trial, what: str, wanted: Any) -> None:
    """Raise Escaped unless what a kill left is sound, and the same command ends as if nothing had been."""
    made = [path.parent.relative_to(work) for path in work.rglob("store.json")]
    verified = [("verify", place) for place in made if name != "repair" and (work / place / "manifest.csv").exists()]
    looked = sandbox.call(sandbox.say_all, [*verified, command], work, folder=trial.folder / "after")
    for said in looked.value or [sandbox.Said((), looked.code, "", looked.stderr)]:
        if said.code and not (name == "repair" and said.is_refusal | (said.code == 1)):
            raise Escaped(f"{what}: {said}")
    after = sandbox.call(finished, name, command, work, folder=trial.folder / "reading")
    if after.code:
        raise Escaped(f"{what}: {after.stderr.strip().splitlines()[-1]}")
    if told := scenes.differences(after.value, wanted):
        raise Escaped(f"{what}: run again, {told}")


def finished(name: str, command: tuple[str, ...], work: Path) -> dict[str, Any]:
    """What there is at the end; a repaired store is filled again first, and what was set aside is meant to stay."""
    if name == "repair":
        scenes.done(*EXTRACT, cwd=work)
    rest = [path for path in scenes.leftovers(work) if not path.endswith(".corrupt")]
    return {**scenes.contents(work), "leftovers": dict.fromkeys(rest)}


def counted(command: tuple[str, ...], work: Path) -> tuple[sandbox.Said, list[str]]:
    """A command, and the moments that it has."""
    disk = disks.Disk(str(work), (disks.BEFORE, disks.HALF, disks.AFTER)).install()
    return sandbox.say(*command, cwd=work), disk.moments


def killed(command: tuple[str, ...], work: Path, at: int) -> None:
    """A command that does not live to see its moment after this one."""
    disk = disks.Disk(str(work), (disks.BEFORE, disks.HALF, disks.AFTER))
    disk.act = disks.kills(at)
    disk.install()
    sandbox.say(*command, cwd=work)
