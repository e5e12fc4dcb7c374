"""Several processes at one store: writers refuse each other in one line, and readers never see half a thing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from . import sandbox, scenes
from .results import Escaped, Trial

ABOUT = "two and four writers, readers next to a writer, killed holders of the lock"
CI, COUNT = 2, 200
INSIDE = False

SLOW = ("--batch-size", "1", "--rows-per-shard", "2", "--workers", "1")
FIRST = ("extract", "data", "-s", "store", "-b", "pixels", *SLOW)
SECOND = ("extract", "data", "-s", "store", "-b", "color-histogram", *SLOW)
OTHER = ("extract", "more", "-s", "store", "-b", "pixels", *SLOW)
READING = (
    ("info", "store", "--json"),
    ("verify", "store"),
    ("export", "store", "-b", "pixels", "-o", "{number}.csv"),
    ("probe", "store", "-b", "pixels", "-o", "{number}.safetensors", *scenes.RIDGE),
)
KINDS: dict[str, tuple[tuple[str, ...], ...]] = {  # name → writers that start together
    "two writers of the same": (FIRST, FIRST),
    "readers next to a writer": (FIRST,),
    "two backbones": (FIRST, SECOND),
    "a killed holder": (FIRST, FIRST),
    "four writers": (FIRST, FIRST, SECOND, SECOND),
    "two data sets": (FIRST, OTHER),
}
NOT_YET = ("does not exist", "has no manifest", "no embeddings", "is not extracted yet")


def prepare(folder: Path) -> dict[str, Any]:
    """Pictures, and what stores of them hold when one process fills them."""
    work = folder / "work"
    scenes.pictures(work / "data", 12)
    scenes.pictures(work / "more", 6, seed=1)
    scenes.copy(work, folder / "sound")
    wanted, exports = {}, {}
    for name, writers in KINDS.items():
        scenes.copy(folder / "sound", work)
        for command in (*dict.fromkeys(writers), writers[0]):
            scenes.done(*command, "--force", cwd=work)
        wanted[name] = scenes.store(work / "store")
        scenes.done("export", "store", "-b", "pixels", "-o", "sound.csv", cwd=work)
        exports[name] = (work / "sound.csv").read_bytes()
    return {"work": work, "sound": folder / "sound", "wanted": wanted, "exports": exports}


def attempt(bench: dict[str, Any], trial: Trial) -> None:
    """Start them all, wait, and look at what came of it."""
    name, work, rng = list(KINDS)[trial.number % len(KINDS)], scenes.copy(bench["sound"], bench["work"]), trial.rng
    children = []
    for number, command in enumerate(KINDS[name]):
        children.append((command, sandbox.Child(sandbox.say_all, [command], work, folder=trial.folder / f"w{number}")))
        time.sleep(rng.uniform(0, 0.05))
    if name == "a killed holder":
        time.sleep(rng.uniform(0, 0.3))
        children.pop(0)[1].kill()
        again = sandbox.call(sandbox.say_all, [FIRST], work, folder=trial.folder / "again")
        finished(name, again, FIRST)
    if name.startswith("readers"):
        for number in range(6):
            command = tuple(word.format(number=number) for word in READING[number % len(READING)])
            children.append(
                (command, sandbox.Child(sandbox.say_all, [command], work, folder=trial.folder / f"r{number}"))
            )
            time.sleep(rng.uniform(0, 0.08))
    for command, child in children:
        finished(name, child.end(120), command)
    for path in work.glob("[0-9].csv"):
        if path.read_bytes() != bench["exports"][name]:
            raise Escaped(f"{name}: a reader exported other content")
    whole(name, bench, work, trial)


def finished(name: str, ended: sandbox.Ended, command: tuple[str, ...]) -> None:
    """Raise Escaped unless a process has done its work, or refused in one line for a reason that is true here."""
    if not ended.value:
        raise Escaped(f"{name}: {command[0]} ended with code {ended.code}: {' '.join(ended.stderr.split())[-200:]}")
    (said,) = ended.value
    if said.code and not (said.is_refusal or (command[0] == "verify" and "Traceback" not in said.stderr)):
        raise Escaped(f"{name}: {said}")
    if command[0] == "verify" and said.code and not any(text in said.stdout + said.stderr for text in NOT_YET):
        raise Escaped(f"{name}: verify next to a writer finds damage: {said}")


def whole(name: str, bench: dict[str, Any], work: Path, trial: Trial) -> None:
    """Raise Escaped unless each writer, run alone afterwards, makes the store what it has to be."""
    writers = KINDS[name]
    commands = [*((*command, "--force") for command in (*dict.fromkeys(writers), writers[0])), ("verify", "store")]
    ended = sandbox.call(sandbox.say_all, commands, work, folder=trial.folder / "alone")
    for said in ended.value or [sandbox.Said((), ended.code, "", ended.stderr)]:
        if said.code:
            raise Escaped(f"{name}: afterwards {said}")
    found = sandbox.call(scenes.store, work / "store", folder=trial.folder / "reading")
    if told := scenes.differences(found.value or {}, bench["wanted"][name]):
        raise Escaped(f"{name}: afterwards {told}")
    if rest := scenes.leftovers(work):
        raise Escaped(f"{name}: afterwards there is {rest[0]}")
