"""Files from strangers that reach elsewhere: nothing is opened, asked over a network or run because a file says so."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import sandbox, scenes
from .results import Escaped, Trial
from .strangers import SECRET, VARIANTS

ABOUT = "model files, shards, weights and checkpoints that name other files, hosts or code"
CI, COUNT = 6, 29
INSIDE = False

BARRED = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen", "os.system", "os.exec")
BARRED += ("os.posix_spawn", "os.spawn", "os.fork", "urllib.Request", "ftplib.connect", "pty.spawn")
IN_OPEN, LIMIT, ROOM = 0x20, 30.0, 3 * 2**30
STRIDE = 7  # so that a few trials see something of everything


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
        why = f"takes more than {LIMIT:.0f} s" if ended.late else f"ends the process with code {ended.code}"
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
