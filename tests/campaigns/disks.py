"""The moments at which a process changes files, counted; at one of them something happens.

Wraps what Python changes files with, in this process and below one folder: `open` for writing, every raw write, and the
functions of `os` in `CALLS`. What HDF5, safetensors and torch make, featurepipe writes through these.
"""

from __future__ import annotations

import builtins
import io
import os
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

BEFORE, HALF, AFTER = "before", "half", "after"
CALLS = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "fsync", "link", "symlink", "truncate", "ftruncate")
WRITING = os.O_WRONLY | os.O_RDWR
Action = Callable[[int, str, str], "int | None"]  # number of the moment, operation, path → what it gives instead


class Disk:
    """Counts moments, and acts at one.

    Parameters
    ----------
    below : str
        Only files in this folder count.
    phases : sequence of str
        Which moments of an operation count: ``before``, ``half`` (of a write) and ``after`` it.
    """

    def __init__(self, below: str, phases: tuple[str, ...]) -> None:
        self.below, self.phases, self.moments = os.path.realpath(below), phases, []
        self.act: Action = lambda number, operation, place: None
        self._lock = threading.Lock()

    def moment(self, phase: str, operation: str, place: object) -> int | None:
        """Count, and act; what the action gives stands for the operation's result."""
        if phase not in self.phases or not self._is_below(place):
            return None
        with self._lock:
            name = re.sub(r"\.[0-9a-f]{8}\.", ".*.", os.path.basename(self._path(place)))
            self.moments.append(f"{phase} {operation} {name}")
            number = len(self.moments) - 1
        return self.act(number, operation, self._path(place))

    def install(self) -> Disk:
        """Wrap the functions, for the rest of this process."""
        for name in CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        plain_open, plain_os_open = io.open, os.open

        def open_file(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
            if not set(mode) & set("wax+") or not self._is_below(file):
                return plain_open(file, mode, buffering, *rest, **named)
            return self._opened(file, mode, buffering, *rest, **named)

        def open_descriptor(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if not flags & WRITING:
                return plain_os_open(path, flags, *rest, **named)
            self.moment(BEFORE, "open", path)
            found = plain_os_open(path, flags, *rest, **named)
            self.moment(AFTER, "open", path)
            return found

        io.open = builtins.open = open_file
        os.open = open_descriptor
        return self

    def _wrapped(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            place = arguments[1] if name in ("replace", "rename", "link", "symlink") else arguments[0]
            self.moment(BEFORE, name, place)
            found = plain(*arguments, **named)
            self.moment(AFTER, name, place)
            return found

        return call

    def _opened(
        self, file: Any, mode: str, buffering: int, encoding: Any = None, errors: Any = None, newline: Any = None
    ) -> Any:
        self.moment(BEFORE, "open", file)
        raw = _Raw(file, mode.replace("b", "").replace("t", ""))
        raw.disk, raw.place = self, file
        self.moment(AFTER, "open", file)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def _path(self, place: object) -> str:
        if isinstance(place, int):
            return os.readlink(f"/proc/self/fd/{place}")
        return os.fsdecode(os.path.abspath(place))

    def _is_below(self, place: object) -> bool:
        return self._path(place).startswith(self.below + os.sep)


class _Raw(io.FileIO):
    """A file whose raw writes are moments."""

    disk: Disk
    place: object

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        short = self.disk.moment(BEFORE, "write", self.place)
        if short is not None:
            return super().write(view[: max(1, len(view) // 2)])
        done = super().write(view[: len(view) // 2])
        self.disk.moment(HALF, "write", self.place)
        while done < len(view):
            done += super().write(view[done:])
        self.disk.moment(AFTER, "write", self.place)
        return done


def kills(at: int) -> Action:
    """The action that ends this process at one moment, as ``kill -9`` does."""

    def act(number: int, operation: str, place: str) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def fails(at: int, code: int, operations: frozenset[str], for_good: bool, came: list[str]) -> Action:
    """The action that refuses operations: one of them, or all from it on; `came` gets what it refused."""

    def act(number: int, operation: str, place: str) -> None:
        if operation in operations and (number == at or (for_good and number > at)):
            came.append(operation)
            named = () if operation in ("write", "fsync") else (place,)  # the system names what was called by name
            raise OSError(code, os.strerror(code), *named)

    return act


def shortens(came: list[str]) -> Action:
    """The action by which every write takes half of what it is given."""

    def act(number: int, operation: str, place: str) -> int | None:
        if operation != "write":
            return None
        came.append(operation)
        return 1

    return act


def without_locks(code: int) -> None:
    """From now on this process's file systems have no locks."""
    import fcntl  # here: Windows has none, and imports this file too

    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    fcntl.flock = fcntl.lockf = flock
