"""Hostile names of files, classes and columns: they come back as they were, and a terminal or page never obeys them."""

from __future__ import annotations

import csv
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np

from . import sandbox, scenes
from .results import Escaped, Trial

ABOUT = "escape sequences, bidi, line ends, formulas and bytes in names of files, classes and columns"
CI, COUNT = 4, 500
INSIDE, BATCH = True, 100

SEEDS = (
    *(
        "\x1b]0;owned\x07",
        "\x1b[2J",
        "\x1b[31mred",
        "\x9b31m",
        "back\x08\x08",
        "line\nend",
        "car\rriage",
        "tab\tulator",
    ),
    *("\u202egnp.exe", "\u2066iso\u2069", "\ufeffbom", "zero\u200bwidth", "\x7fdel", "line\u2028sep", "\x85next"),
    *(
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        '=HYPERLINK("http://a")',
        "--help",
        "-o",
        "'quoted'",
        'double"quote',
        "a,b",
        "a;b",
    ),
    *(
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "&amp;",
        "{{7*7}}",
        "%s%n",
        "$HOME",
        "`id`",
        "a|b",
        "*",
        "?",
    ),
    *(
        "..hidden",
        "nan",
        "null",
        "0",
        " lead",
        "trail ",
        "ünïcödé",
        "é",
        "猫",
        "🐈",
        "x" * 200,
        "\udcff\udcfe",
        "con",
        "a:b",
        "#",
        "~",
    ),
)
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
PIECES = [*SEEDS, *map(chr, range(1, 47)), *map(chr, range(48, 160)), "\u202d", "\udc80", "ß"]


def prepare(folder: Path) -> None:
    """Nothing is shared."""


def name(rng: random.Random) -> str:
    """One that a file system takes, and that no walk of folders leaves out."""
    text = rng.choice(SEEDS) if rng.random() < 0.7 else "".join(rng.choices(PIECES, k=3))
    return "c" + os.fsdecode(os.fsencode(text.replace("/", "_"))[:200])


def attempt(bench: None, trial: Trial) -> None:
    """Embed, probe, predict, export and report pictures with such names, by folders or by a table."""
    rng, work = trial.rng, trial.folder
    classes = tuple(dict.fromkeys(name(rng) for _ in range(3)))
    scenes.pictures(work / "data", 4, classes if len(classes) > 1 else (*classes, "other"))
    for picture in sorted((work / "data" / "train").rglob("000.png")):
        picture.rename(picture.with_name(f"{name(rng)}.png"))
    wanted = {path.relative_to(work / "data").as_posix() for path in (work / "data").rglob("*.png")}
    data = "data" if trial.number % 2 else written(rng, work, wanted)
    said = [sandbox.say("extract", data, "-s", "store", *scenes.PIXELS, cwd=work)]
    if said[0].code:
        refused(said[0])
        return
    said.append(sandbox.say("probe", "store", "-o", "m.safetensors", *scenes.RIDGE, cwd=work))
    said += [sandbox.say(*command, cwd=work) for command in commands(data)]
    for one in said:
        refused(one)
    round_trip(work, wanted - {f"train/{classes[0]}/bad.png"})
    obeyed(work / "page.html")


def commands(data: str) -> list[tuple[str, ...]]:
    """What is run on a store and its model."""
    model = "m.safetensors"
    read = [("predict", model, data, "-o", "p.csv"), ("predict", model, data, "-o", "p.jsonl")]
    stores = [
        ("export", "store", "-o", "e.csv"),
        ("export", "store", "-o", "e.npz"),
        ("info", "store"),
        ("verify", "store"),
    ]
    return [*read, *stores, ("evaluate", model, "store"), ("report", model, "-o", "page.html"), ("info", model)]


def written(rng: random.Random, work: Path, wanted: set[str]) -> str:
    """The same pictures as a table, whose columns have such names too."""
    extra = {name(rng) for _ in range(2)} - {"path", "label", "split"}
    with open(work / "data" / "t.csv", "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", *extra])
        for path in sorted(wanted):
            split, label = path.split("/")[:2]
            writer.writerow([path, label, split, *extra])
    return "data/t.csv"


def refused(said: sandbox.Said) -> None:
    """Raise Escaped if a command fails with a foreign error, or says what a terminal would obey."""
    if said.code and not said.is_refusal:
        raise Escaped(f"{said}")
    if CONTROLS.search(said.stdout + said.stderr):
        raise Escaped(f"{said.command[0]} prints control characters of a name")


def round_trip(work: Path, wanted: set[str]) -> None:
    """Raise Escaped unless every table that was written has the names as they were."""
    for file in ("p.csv", "p.jsonl", "e.csv", "e.npz"):
        path = work / file
        if path.exists() and (found := names_in(path)) != wanted:
            odd = sorted(found ^ wanted)[0]
            raise Escaped(f"{file} has other names, such as {odd!a}")


def names_in(path: Path) -> set[str]:
    """Names of pictures in a table that featurepipe wrote."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            ids: Any = arrays["ids" if "ids" in arrays.files else "id"]
            return {os.fsdecode(one) if isinstance(one, bytes) else str(one) for one in ids}
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
        return {row["path"] if "path" in row else row["id"] for row in rows}


def obeyed(page: Path) -> None:
    """Raise Escaped if a page holds what a browser would run, or control characters."""
    text = page.read_text("utf-8", "surrogateescape") if page.exists() else ""
    if "<script>alert" in text or "<img src=x" in text:
        raise Escaped("the page holds a name as a tag")
    if CONTROLS.search(text):
        raise Escaped("the page holds control characters of a name")
