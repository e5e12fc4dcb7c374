"""Everything in one process, again and again: memory, descriptors and threads stay as they are."""

from __future__ import annotations

import gc
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from . import scenes
from .results import Escaped, Trial

ABOUT = "extract, probe, predict, evaluate, finetune, report in one process, cycle by cycle"
CI, COUNT = 3, 2000
INSIDE, BATCH = True, 0  # all in one child

WARM = 0.3  # the part of the cycles in which caches fill
GROWTH = 2 * 2**20  # bytes per 100 cycles
ENOUGH = 100  # cycles from which a slope says something

CYCLE: tuple[tuple[str, ...], ...] = (
    ("extract", "data", "-s", "store", *scenes.NETWORK),
    ("extract", "data", "-s", "store", *scenes.PIXELS),
    ("probe", "store", "-b", "pixels", "-o", "p.safetensors", "--force", *scenes.RIDGE),
    ("predict", "p.safetensors", "data", "-o", "p.csv"),
    ("evaluate", "p.safetensors", "store"),
    ("report", "p.safetensors"),
    (
        "finetune",
        "store",
        "-b",
        "test_resnet",
        "-o",
        "t.safetensors",
        "--epochs",
        "1",
        "--lr",
        "1e-4",
        "--device",
        "cpu",
    ),
    ("predict", "t.safetensors", "data", "-o", "t.csv"),
    ("export", "store", "-b", "pixels", "-o", "e.npz"),
    ("verify", "store"),
)


def prepare(folder: Path) -> Path:
    """Pictures."""
    scenes.pictures(folder / "sound" / "data", 4, wrong=3)
    return folder


def attempt(bench: Path, trial: Trial) -> None:
    """One cycle, in a folder that is new; and what the process holds after it."""
    work = scenes.copy(bench / "sound", bench / "work")
    for command in CYCLE:
        scenes.done(*command, cwd=work)
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    told = [pages * os.sysconf("SC_PAGESIZE"), len(os.listdir("/proc/self/fd")), threading.active_count()]
    with open(bench / "measures", "a") as file:
        file.write(json.dumps(told) + "\n")


def conclude(bench: Path) -> dict[str, Any]:
    """Raise Escaped if anything grew; else, or with too few cycles to say so of memory, the figures."""
    measures = (bench / "measures").read_text().splitlines()
    memory, descriptors, threads = np.array([json.loads(line) for line in measures]).T
    cycles = np.arange(len(memory))
    steady = cycles >= WARM * len(cycles)
    slope = float(np.polyfit(cycles[steady], memory[steady], 1)[0]) if steady.sum() > 1 else 0.0
    told = {
        "cycles": len(cycles),
        "kb_per_100_cycles": round(100 * slope / 1e3),
        "rss_mb": [round(value / 1e6) for value in (memory[0], memory[-1])],
        "descriptors": [int(descriptors[0]), int(descriptors[-1])],
        "threads": [int(threads[0]), int(threads[-1])],
    }
    first = int(steady.argmax())
    if descriptors[-1] > descriptors[first] or threads[-1] > threads[first]:
        raise Escaped(f"descriptors or threads grow: {told}")
    if len(cycles) >= ENOUGH and 100 * slope > GROWTH:
        raise Escaped(f"memory grows: {told}")
    return told
