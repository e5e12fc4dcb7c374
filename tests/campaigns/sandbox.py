"""Child processes in which things may go wrong: functions and commands of featurepipe, run aside and looked at after.

Children are forked from a server that has loaded the libraries already, so that a command costs what it does and not
the seconds of loading torch.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LOADED = ["featurepipe.stages", "featurepipe.cli", "torch", "timm", "h5py", "sklearn.linear_model", "PIL.Image"]
LOADED += ["pyarrow.parquet", "torchvision.transforms.v2", "timm.optim", "safetensors.numpy", "PIL.PngImagePlugin"]
LOADED += ["PIL.JpegImagePlugin", "sklearn.discriminant_analysis", "scipy.optimize"]
ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, negative for a signal; what it said; what its function returned."""

    code: int
    stdout: str
    stderr: str
    value: Any
    late: bool = False


@dataclass(frozen=True)
class Said:
    """What a command gave: exit code, stdout, stderr."""

    command: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def is_refusal(self) -> bool:
        """Whether it failed as it should: with code 1, and one line of ours at the end."""
        lines = self.stderr.strip().splitlines()
        return self.code == 1 and "Traceback" not in self.stderr and lines[-1:] != [] and OURS in lines[-1]

    def __str__(self) -> str:
        told = " ".join((self.stderr or self.stdout).split())[-240:]
        return f"{' '.join(self.command)} → {self.code}: {told}"


OURS = "featurepipe: "


class Child:
    """A function at work in a process of its own.

    Parameters
    ----------
    function : callable
        Of a module, so that it can be sent.
    folder : Path
        Where it leaves what it says; made if it is missing.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.process: BaseProcess = _context().Process(target=_work, args=(function, arguments, folder))
        self.process.start()

    def end(self, limit: float, pulse: Path | None = None) -> Ended:
        """Wait for it, at most `limit` seconds without a change of the file `pulse`; then it is killed."""
        late, started = False, time.monotonic()
        while self.process.exitcode is None:
            self.process.join(0.5 if pulse else limit)
            beat = _changed(pulse, started)
            if self.process.exitcode is None and time.monotonic() - beat > limit:
                late = True
                self.kill()
        value = self._folder / "value"
        found = pickle.loads(value.read_bytes()) if value.exists() else None
        out, err = (_text(self._folder / name) for name in ("stdout", "stderr"))
        return Ended(self.process.exitcode or 0, out, err, found, late)

    def kill(self) -> None:
        """As ``kill -9`` does."""
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


def call(
    function: Callable[..., Any], *arguments: Any, folder: Path, limit: float = 120.0, pulse: Path | None = None
) -> Ended:
    """Run a function in a child, and wait for it."""
    return Child(function, *arguments, folder=folder).end(limit, pulse)


def say(*command: object, cwd: str | Path | None = None) -> Said:
    """Run one command of featurepipe in this process."""
    from featurepipe import cli

    words, code = tuple(map(str, command)), 0
    out, err = _stream(), _stream()
    with contextlib.chdir(cwd or os.getcwd()), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(list(words), prog_name="featurepipe")
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        except Exception:
            code = 1
            traceback.print_exc(file=err)
    return Said(words, code, _said(out), _said(err))


def say_all(commands: Sequence[Sequence[object]], cwd: str | Path) -> list[Said]:
    """Run commands one after another in this process."""
    return [say(*command, cwd=cwd) for command in commands]


def remove(folder: Path) -> None:
    """Remove a folder, however deep it is."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        subprocess.run(["rm", "-rf", "--", str(folder)], check=True)


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    before = {name: os.environ.get(name) for name in ALONE}
    os.environ.update(ALONE)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return context


def _work(function: Callable[..., Any], arguments: tuple[Any, ...], folder: Path) -> None:
    import torch
    import tqdm

    tqdm.tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system's, which outlives a killed process
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    torch.set_num_threads(1)
    value = function(*arguments)
    (folder / "value").write_bytes(pickle.dumps(value))
    sys.stdout.flush()


def _changed(pulse: Path | None, started: float) -> float:
    """When a file was changed last, by the monotonic clock."""
    if pulse is None or not pulse.exists():
        return started
    return time.monotonic() - (time.time() - pulse.stat().st_mtime)


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", newline="")


def _said(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode("utf-8", "replace")


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""
