"""Trials of a campaign, one after another, and what came of them."""

from __future__ import annotations

import importlib
import random
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from . import sandbox

LIMIT = 120.0  # seconds that one trial may take
HELD, MISSED, ESCAPED = "held", "missed", "escaped"


class Escaped(Exception):
    """What is promised did not hold; the message says how."""


class Missed(Exception):
    """The trial came too late or too early to hit anything."""


@dataclass(frozen=True)
class Trial:
    """One trial: its number, its own random draws, and an empty folder."""

    number: int
    rng: random.Random
    folder: Path


@dataclass
class Result:
    """What a campaign tried, how often it hit, and what held or escaped."""

    campaign: str
    seed: int
    tried: int = 0
    hit: int = 0
    held: int = 0
    escaped: int = 0
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    escapes: list[dict[str, Any]] = field(default_factory=list)

    def add(self, number: int | None, outcome: str, told: Any) -> None:
        """Count one trial; `told` is the reason of an escape, or figures."""
        self.tried += number is not None
        self.hit += outcome != MISSED and number is not None
        self.held += outcome == HELD
        if outcome == ESCAPED:
            self.escaped += 1
            only = "" if number is None else f" --only {number}"
            again = f"python -m tests.campaigns {self.campaign} --seed {self.seed}{only}"
            self.escapes.append({"trial": number, "what": told, "again": again})
        elif told is not None:
            self.figures[str(number)] = told

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return asdict(self)

    def lines(self, most: int = 20) -> list[str]:
        """As people read it: one line of counts, then each kind of escape once."""
        counts = f"{self.tried} tried, {self.hit} hit, {self.held} held, {self.escaped} escaped"
        kinds: dict[str, dict[str, Any]] = {}
        for escape in self.escapes:
            kinds.setdefault(escape["what"], {**escape, "times": 0})["times"] += 1
        shown = [f"  {one['times']} × {one['what']}\n      {one['again']}" for one in list(kinds.values())[:most]]
        more = [f"  … and {len(kinds) - most} more kinds; --json lists them"] if len(kinds) > most else []
        figures = [f"  {number}: {told}" for number, told in self.figures.items()]
        return [f"{self.campaign}: {counts}, in {self.seconds:.0f} s", *figures, *shown, *more]


def module(name: str) -> ModuleType:
    """The module of a campaign."""
    return importlib.import_module(f"{__package__}.{name}")


def run(name: str, count: int, seed: int, folder: Path, only: int | None = None) -> Result:
    """Run trials 0 … count - 1 of a campaign, or `only` one of them, in an empty folder."""
    started, campaign, result = time.monotonic(), module(name), Result(name, seed)
    (folder / "bench").mkdir(parents=True)
    prepared = sandbox.call(campaign.prepare, folder / "bench", folder=folder / "preparing", limit=10 * LIMIT)
    if prepared.code:
        raise RuntimeError(f"{name} could not be prepared: {prepared.stderr}")
    numbers = list(range(count)) if only is None else [only]
    attempt = _inside if campaign.INSIDE else _outside
    for number, outcome, told in attempt(name, prepared.value, numbers, seed, folder):
        result.add(number, outcome, told)
    if only is None and hasattr(campaign, "conclude"):
        try:
            result.figures.update(campaign.conclude(prepared.value))
        except Escaped as error:
            result.add(None, ESCAPED, str(error))
    result.seconds = round(time.monotonic() - started, 1)
    return result


def one(name: str, bench: Any, number: int, seed: int, folder: Path) -> tuple[int, str, Any]:
    """One trial, and what came of it; an error that nobody foresaw is an escape too."""
    place = folder / f"trial-{number}"
    place.mkdir(parents=True)
    try:
        told = module(name).attempt(bench, Trial(number, random.Random(f"{name}/{seed}/{number}"), place))
        return number, HELD, told
    except Missed:
        return number, MISSED, None
    except Escaped as error:
        return number, ESCAPED, str(error)
    except Exception as error:  # the campaign's own fault, or a foreign error of the package: nobody may overlook it
        return number, ESCAPED, foreign(error)
    finally:
        sandbox.remove(place)


def foreign(error: BaseException) -> str:
    """An error that is not ours: what it is, and the line of the package that let it through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/featurepipe/" in frame.filename] or frames[-1:]
    where = f"{'/'.join(Path(ours[-1].filename).parts[-2:])}:{ours[-1].lineno}" if ours else "nowhere"
    return f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:160]}"


def _outside(name: str, bench: Any, numbers: list[int], seed: int, folder: Path) -> Iterable[tuple[int, str, Any]]:
    for number in numbers:
        yield one(name, bench, number, seed, folder)


def _inside(name: str, bench: Any, numbers: list[int], seed: int, folder: Path) -> Iterable[tuple[int, str, Any]]:
    """Trials by the batch in a child; the one that kills or hangs it is an escape, and another child goes on."""
    size = getattr(module(name), "BATCH", 1000)
    while numbers:
        place = folder / f"batch-{numbers[0]}"
        given = numbers[: size or None]
        ended = sandbox.call(_batch, name, bench, given, seed, place, folder=place, limit=LIMIT, pulse=place / "number")
        outcomes = _read(place / "outcomes")
        yield from outcomes
        numbers = numbers[len(outcomes) :]
        if len(outcomes) < len(given):
            why = f"took more than {LIMIT:.0f} s" if ended.late else f"ended the process with code {ended.code}"
            told = " ".join(ended.stderr.split())[-300:]
            yield numbers.pop(0), ESCAPED, f"{why}: {told}"
        sandbox.remove(place)


def _batch(name: str, bench: Any, numbers: list[int], seed: int, place: Path) -> None:
    with open(place / "outcomes", "w", encoding="utf-8") as file:
        for number in numbers:
            (place / "number").write_text(str(number))  # the child's pulse
            print(repr(one(name, bench, number, seed, place)), file=file, flush=True)


def _read(path: Path) -> list[tuple[int, str, Any]]:
    from ast import literal_eval

    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [literal_eval(line) for line in lines if line.endswith(")")]
