"""A system that refuses: full and read-only disks, errors of writing and syncing, no locks, input that changes."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from . import disks, kills, sandbox, scenes
from .results import Escaped, Missed, Trial

ABOUT = "full, failing and read-only disks, short writes, no locks, input that vanishes or changes"
CI, COUNT = 6, 1000
INSIDE = False

NAMING = frozenset({"open", "replace", "rename", "unlink", "mkdir", "rmdir", "link"})
FILLING = frozenset({"write", "fsync", "mkdir"})
WRITING = frozenset({"write", "fsync", "replace", "rename", "open"})
REFUSALS = {  # name → errno, operations, whether it lasts
    "full disk": (errno.ENOSPC, FILLING, True),
    "read-only disk": (errno.EROFS, NAMING | FILLING, True),
    "failing disk": (errno.EIO, WRITING, False),
    "forbidden": (errno.EACCES, NAMING, False),
    "full for a moment": (errno.ENOSPC, FILLING, False),
}
LOCKLESS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
OTHERS = ("short writes", "no locks", "vanishing input", "changing input")
NAMELESS = "the operating system:"  # of a line that does not say which file


def prepare(folder: Path) -> dict[str, Any]:
    """As for kills; only the moments before an operation count, each command's for itself."""
    bench = kills.prepare(folder)
    before: dict[str, list[str]] = {}
    for name, _, moment in bench["moments"]:
        if moment.startswith(disks.BEFORE):
            before.setdefault(name, []).append(moment.split()[1])
    return {**bench, "before": before}


def attempt(bench: dict[str, Any], trial: Trial) -> None:
    """Run a command where the system refuses something, and again where it does not."""
    name = list(kills.COMMANDS)[trial.number % len(kills.COMMANDS)]
    kind = [*REFUSALS, *OTHERS][trial.number % (len(REFUSALS) + len(OTHERS))]
    (start, command), work = kills.COMMANDS[name], bench["work"]
    scenes.copy(bench["folder"] / start, work)
    what, ended = disturb(kind, command, work, bench["before"][name], trial)
    (work / "data" / "aside").unlink(missing_ok=True)
    shutil.copytree(bench["folder"] / start / "data", work / "data", dirs_exist_ok=True)
    what = f"{name}, {what}"
    if ended.value is None:
        raise Escaped(f"{what}: ended with code {ended.code}: {' '.join(ended.stderr.split())[-200:]}")
    said, happened = ended.value
    if said.code and not said.is_refusal and name != "repair":
        raise Escaped(f"{what}: {said}")
    if NAMELESS in said.stderr:
        raise Escaped(f"{what}: the error names no file: {said}")
    if kind == "short writes" and said.code and name != "repair":
        raise Escaped(f"{what}: {said}")
    kills.check(name, command, work, trial, what, bench["wanted"][name])
    if not happened:
        raise Missed


def disturb(
    kind: str, command: tuple[str, ...], work: Path, operations: list[str], trial: Trial
) -> tuple[str, sandbox.Ended]:
    """Run a command under one kind of trouble; what it was, and how the command ended."""
    if kind in REFUSALS:
        code, refused, lasting = REFUSALS[kind]
        fitting = [number for number, operation in enumerate(operations) if operation in refused]
        at = trial.rng.choice(fitting)
        order = (at, code, refused, lasting)
        what = f"{kind} at {operations[at]} {at}"
    elif kind == "no locks":
        order = (trial.rng.choice(LOCKLESS),)
        what = f"{kind} ({errno.errorcode[order[0]]})"
    else:
        order = (trial.rng.randrange(40),)
        what = f"{kind} at read {order[0]}"
    ended = sandbox.call(troubled, kind, command, work, order, folder=trial.folder / "troubled")
    return what, ended


def troubled(kind: str, command: tuple[str, ...], work: Path, order: tuple[Any, ...]) -> tuple[sandbox.Said, bool]:
    """A command under trouble, and whether the trouble came."""
    came: list[str] = []
    if kind == "no locks":
        disks.without_locks(*order)
        came.append(kind)
    elif kind in ("vanishing input", "changing input"):
        sys.addaudithook(_meddler(kind, work / "data", order[0], came))
    else:
        disk = disks.Disk(str(work), (disks.BEFORE,))
        disk.act = disks.shortens(came) if kind == "short writes" else disks.fails(*order, came)
        disk.install()
    return sandbox.say(*command, cwd=work), bool(came)


def _meddler(kind: str, data: Path, at: int, came: list[str]) -> Any:
    """An audit hook that removes or replaces an image just before it is opened for the n-th time."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or came or not isinstance(arguments[0], str | bytes):
            return
        path = os.fsdecode(arguments[0])
        if not path.endswith(".png") or not os.path.realpath(path).startswith(os.path.realpath(data)):
            return
        seen.append(path)
        if len(seen) > at:
            came.append(path)
            os.unlink(path)
            if kind == "changing input":
                shutil.copy(sorted(data.rglob("*.png"))[0], path)

    return hook
