"""Growth: four times as many files, folders, rows or classes cost about four times as much, and no more."""

from __future__ import annotations

import csv
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import sandbox, scenes
from .results import Escaped, Trial

ABOUT = "time and memory as files, folders, rows, classes, depth and links grow"
CI, COUNT = 6, 18
INSIDE = False

TIMES = 4  # how much more the second measurement is given
SLACK, SECONDS, MEMORY = 2.5, 1.0, 64 * 2**20  # beyond proportion: a factor, and what costs nothing to begin with
LIMIT = 900.0


def prepare(folder: Path) -> Path:
    """One picture of each of two classes; everything else is a copy or a link of these."""
    return scenes.pictures(folder / "few", 1)


def attempt(bench: Path, trial: Trial) -> dict[str, Any]:
    """Measure one kind of growth at one scale; every round of all kinds doubles the scale."""
    name = list(KINDS)[trial.number % len(KINDS)]
    make, size, commands = KINDS[name]
    size = size << trial.number // len(KINDS)
    costs = []
    for number in (size, TIMES * size):
        work = trial.folder / f"{name}-{number}"
        work.mkdir()
        make(work / "data", number, sorted(bench.rglob("000.png")))
        costs.append(cost(name, number, commands, work, trial.folder / f"child-{number}"))
        sandbox.remove(work)
    (few_seconds, few_bytes), (seconds, grown) = costs
    if seconds > TIMES * SLACK * few_seconds + SECONDS:
        raise Escaped(f"{name}: {size} take {few_seconds:.1f} s of CPU, {TIMES * size} take {seconds:.1f} s")
    if grown > TIMES * SLACK * few_bytes + MEMORY:
        raise Escaped(f"{name}: {size} take {few_bytes >> 20} MB, {TIMES * size} take {grown >> 20} MB")
    return {"kind": name, "size": [size, TIMES * size], "cpu_s": [round(s, 2) for s, _ in costs], "mb": grown >> 20}


def cost(name: str, number: int, commands: tuple[tuple[str, ...], ...], work: Path, folder: Path) -> tuple[float, int]:
    """CPU seconds and bytes that the commands take beyond an idle child."""
    ended = sandbox.call(measured, commands, work, folder=folder, limit=LIMIT)
    if ended.value is None:
        why = f"take more than {LIMIT:.0f} s" if ended.late else f"end the process with code {ended.code}"
        raise Escaped(f"{name}: {number} {why}: {' '.join(ended.stderr.split())[-200:]}")
    said, seconds, grown = ended.value
    for one in said:
        if one.code:
            raise Escaped(f"{name}: with {number}, {one}")
    return seconds, grown


def measured(commands: tuple[tuple[str, ...], ...], work: Path) -> tuple[list[sandbox.Said], float, int]:
    """Run commands; CPU seconds and growth of the peak."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    said = sandbox.say_all(commands, work)
    return said, time.process_time() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def files(data: Path, number: int, pictures: list[Path]) -> None:
    """One folder of many files."""
    for split in ("train", "test"):
        for place, picture in zip(("a", "b"), pictures[:2], strict=True):
            (data / split / place).mkdir(parents=True)
            for index in range(number // 4):
                (data / split / place / f"{index:06}.png").write_bytes(picture.read_bytes() + index.to_bytes(4, "big"))


def folders(data: Path, number: int, pictures: list[Path]) -> None:
    """Many folders of one file, three levels below each other."""
    for index in range(number):
        place = data / "train" / "ab"[index % 2] / f"{index % 31}" / f"{index:06}"
        place.mkdir(parents=True)
        shutil.copy(pictures[index % 2], place / "one.png")


def rows(data: Path, number: int, pictures: list[Path]) -> None:
    """A table of many rows of a few files."""
    data.mkdir()
    for name, picture in zip("ab", pictures[:2], strict=True):
        shutil.copy(picture, data / f"{name}.png")
    with open(data / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "split"])
        writer.writerows(
            (index, f"{'ab'[index % 2]}.png", "ab"[index % 2], ("train", "test")[index % 3 == 0])
            for index in range(number)
        )


def classes(data: Path, number: int, pictures: list[Path]) -> None:
    """Many classes of two files each in train, and one in test."""
    from PIL import Image

    rng = np.random.default_rng(number)
    for index in range(number):
        for split, count in (("train", 2), ("test", 1)):
            place = data / split / f"class-{index:05}"
            place.mkdir(parents=True)
            for one in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(place / f"{one}.png")


def depth(data: Path, number: int, pictures: list[Path]) -> None:
    """A file below many folders, each in the other."""
    data.mkdir()
    here = os.open(data, os.O_RDONLY)
    for _ in range(number):  # step by step, as a path may be no longer than 4,096 bytes
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    shutil.copy(pictures[0], data / "a.png")


def links(data: Path, number: int, pictures: list[Path]) -> None:
    """Folders that branch: each has two links to the next, so that there are 2ⁿ ways to the last."""
    for index in range(number):
        place = data / f"l{index}"
        place.mkdir(parents=True)
        for name in ("x", "y") if index + 1 < number else ():
            (place / name).symlink_to(data / f"l{index + 1}")
    shutil.copy(pictures[0], data / f"l{number - 1}" / "a.png")


EXTRACT = ("extract", "data", "-s", "store", "-b", "pixels")
PROBE = ("probe", "store", "-o", "m.safetensors", "--kind", "centroid", "--baselines", "none")
READ = (("info", "store"), ("verify", "store"), ("export", "store", "-o", "out.npz"))
KINDS: dict[str, tuple[Callable[[Path, int, list[Path]], None], int, tuple[tuple[str, ...], ...]]] = {
    "files": (files, 100, (EXTRACT, EXTRACT, *READ, PROBE)),
    "folders": (folders, 100, (EXTRACT, EXTRACT, ("info", "store"))),
    "rows": (rows, 2000, (("extract", "data/table.csv", *EXTRACT[2:]), ("info", "store"), ("verify", "store"))),
    "classes": (classes, 25, (EXTRACT, PROBE, ("evaluate", "m.safetensors", "store"), ("report", "m.safetensors"))),
    "depth": (depth, 250, (EXTRACT,)),
    "links": (links, 3, (EXTRACT,)),
}
