"""Files that a disk has damaged: whoever reads them says the same as before, or refuses. Nothing else is right."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import kills, mutators, sandbox, scenes
from .results import Escaped, Trial

ABOUT = "bits, blocks, truncation, exchanged rows and files, in every kind of file"
CI, COUNT = 16, 3000
INSIDE, BATCH = True, 200

READERS: dict[str, tuple[tuple[str, ...], ...]] = {  # kind of file → the commands that read it
    "store": (
        ("verify", "store", "--json"),
        ("info", "store", "--json"),
        ("export", "store", "-o", "out.csv", "--force"),
        ("evaluate", "model.safetensors", "store", "--json"),
        ("probe", "store", "-o", "out.safetensors", "--force", *scenes.RIDGE),
    ),
    "model": (
        ("info", "model.safetensors", "--json"),
        ("predict", "model.safetensors", "data", "-o", "out.csv", "--probabilities", "--force"),
        ("evaluate", "model.safetensors", "data", "--json"),
        ("report", "model.safetensors", "-o", "out.html", "--force"),
    ),
    "carrying": (
        ("info", "carrying.safetensors", "--json"),
        ("predict", "carrying.safetensors", "data", "-o", "out.csv", "--probabilities", "--force"),
        ("report", "carrying.safetensors", "-o", "out.html", "--force"),
    ),
    "checkpoint": (kills.COMMANDS["finetune"][1],),
    "activations": (kills.COMMANDS["finetune-cached"][1],),
}
EXPORT = [command[0] for command in READERS["store"]].index("export")
FILES = {  # kind of damaged file → whose readers look, and where it is
    "store.json": ("store", "store/store.json"),
    "manifest.csv": ("store", "store/manifest.csv"),
    "shard": ("store", "store/*/shard-*.h5"),
    "model": ("model", "model.safetensors"),
    "carrying": ("carrying", "carrying.safetensors"),
    "checkpoint": ("checkpoint", "out.tuning/checkpoint.pt"),
    "activations": ("activations", "net/activations/*/shard-*.h5"),
    "claim": ("activations", "net/activations/.lock.*.json"),
}
SHARDS = ("shard", "activations")


def prepare(folder: Path) -> dict[str, Any]:
    """Sound folders, one for each set of readers, and what the readers say of them."""
    work = folder / "work"
    kills.make_scenes(folder, work)
    scenes.copy(folder / "store", work)
    scenes.done(*kills.EXTRACT, cwd=work)  # from now on the pictures stay, and the store knows them by their stamps
    scenes.copy(work, folder / "store")
    scenes.copy(folder / "network", work, keep="data")
    scenes.done("probe", "net", "-o", "carrying.safetensors", *scenes.RIDGE, "--include-backbone", cwd=work)
    shutil.copy(work / "carrying.safetensors", folder / "store")
    shutil.copytree(work / "net", folder / "store" / "net")
    templates = dict.fromkeys(READERS, str(folder / "store"))
    templates["checkpoint"] = str(_interrupted(folder, work, "finetune", "after replace checkpoint.pt"))
    templates["activations"] = str(_interrupted(folder, work, "finetune-cached", "after replace shard-"))
    said = {kind: _listen(kind, work, Path(templates[kind])) for kind in READERS}
    return {"work": work, "templates": templates, "said": said}


def attempt(bench: dict[str, Any], trial: Trial) -> None:
    """Damage one file, read it by every command that does, and compare with what they said before."""
    kind = list(FILES)[trial.number % len(FILES)]
    readers, pattern = FILES[kind]
    work = scenes.copy(Path(bench["templates"][readers]), bench["work"], keep="data")
    path = trial.rng.choice(sorted(work.glob(pattern)))
    what = damage(trial.rng, kind, path, trial.number // len(FILES))
    for command, wanted in zip(READERS[readers], bench["said"][readers], strict=True):
        if (what, command[0]) == ("swapped", "info"):
            continue  # one shard in place of another is as if one were missing, and info says what there is
        compare(f"{kind}, {what}", command, sandbox.say(*command, cwd=work), work, wanted)
    if readers == "store":
        heals(f"{kind}, {what}", work, bench["said"]["store"])


def heals(what: str, work: Path, said: list[Any]) -> None:
    """Raise Escaped unless an extraction refuses a damaged store, or what is exported after it is right or refused."""
    extracted, command = sandbox.say(*kills.EXTRACT, cwd=work), READERS["store"][EXPORT]
    if extracted.code and not extracted.is_refusal:
        raise Escaped(f"{what}: {extracted}")
    if not extracted.code:
        compare(f"{what}, extracted again", command, sandbox.say(*command, cwd=work), work, said[EXPORT])


def compare(what: str, command: tuple[str, ...], said: sandbox.Said, work: Path, wanted: Any) -> None:
    """Raise Escaped if a command neither refuses nor says what it said of the sound file."""
    if said.code and (said.is_refusal or command[0] == "verify") and "Traceback" not in said.stderr:
        return
    if said.code:
        raise Escaped(f"{what}: {said}")
    if content(command, said, work) != wanted:
        raise Escaped(f"{what}: {command[0]} ends well, and gives other content")


def content(command: tuple[str, ...], said: sandbox.Said, work: Path) -> Any:
    """What a command said or wrote, but for times."""
    if "-o" not in command:
        return scenes.lasting(json.loads(said.stdout))
    path = work / command[command.index("-o") + 1]
    return scenes.model(path) if path.suffix == ".safetensors" else path.read_bytes()


def _listen(kind: str, work: Path, template: Path | None = None) -> list[Any]:
    """What the readers of a kind say of a folder as it is, or of a fresh copy of a sound one."""
    if template is not None:
        scenes.copy(template, work, keep="data")
    return [content(command, scenes.done(*command, cwd=work), work) for command in READERS[kind]]


def _interrupted(folder: Path, work: Path, name: str, last: str) -> Path:
    """A tuning that was killed when it had much to go on from: after the last moment but one of a kind."""
    start, command = kills.COMMANDS[name]
    scenes.copy(folder / start, work, keep="data")
    moments = sandbox.call(kills.counted, command, work, folder=folder / f"counting-{name}").value[1]
    *_, at, _ = (number for number, moment in enumerate(moments) if moment.startswith(last))
    scenes.copy(folder / start, work, keep="data")
    sandbox.call(kills.killed, command, work, at + 1, folder=folder / f"killing-{name}")
    return scenes.copy(work, folder / name)


def damage(rng: random.Random, kind: str, path: Path, number: int) -> str:
    """Change a file in place; how, in words."""
    names = [name for name in mutators.DAMAGES if name != "bit"]
    names += list(ROWS) if kind == "manifest.csv" else ["swapped"] if kind in SHARDS else []
    name = names[number // 2 % len(names)] if number % 2 else "bit"  # bits are what disks turn most
    before, others = path.read_bytes(), [other for other in path.parent.glob("shard-*.h5") if other != path]
    if name == "swapped":
        path.write_bytes(others[0].read_bytes() if others else before[::-1])
    elif name in ROWS:
        path.write_bytes(_rewritten(before, ROWS[name], rng))
    else:
        changed = before
        while changed == before:
            changed = mutators.DAMAGES[name](rng, before)
        path.write_bytes(changed)
    return name


def _rewritten(before: bytes, change: Callable[[list[list[str]], random.Random], None], rng: random.Random) -> bytes:
    header, *rows = csv.reader(io.StringIO(before.decode()))
    change(rows, rng)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def _exchange(rows: list[list[str]], rng: random.Random) -> None:
    one, other = rng.sample(range(len(rows)), 2)
    rows[one][4], rows[other][4] = rows[other][4], rows[one][4]


def _relabel(rows: list[list[str]], rng: random.Random) -> None:
    rng.choice(rows)[2] = "b"


ROWS: dict[str, Callable[[list[list[str]], random.Random], None]] = {
    "rows reversed": lambda rows, rng: rows.reverse(),
    "row doubled": lambda rows, rng: rows.insert(0, rows[0]),
    "row deleted": lambda rows, rng: rows.pop(rng.randrange(len(rows))) and None,
    "end cut at a line": lambda rows, rng: rows.__delitem__(slice(rng.randrange(1, len(rows)), None)),
    "digests exchanged": _exchange,
    "label changed": _relabel,
}
