"""Does a million rows work, and do seconds and memory per row stay flat on the way there? One process per command.

Stores of growing size are written through featurepipe's own writer, with drawn features instead of images, and every
command that reads them runs on each. With `--pictures`, tiny PNG files are made too: they are extracted, looked at
again, and answered with a model. `killed` kills an extraction as soon as half of the rows are written (SIGKILL), and
runs the same command again; `planned` is how long that took until it knew what was left to do.

    python benchmarks/million.py --sizes 10000,100000,1000000 --classes 10
    python benchmarks/million.py --sizes 100000 --classes 10000 --only ridge,logistic
    python benchmarks/million.py --sizes 10000,100000 --pictures --only extract,again,predict
    python benchmarks/million.py --sizes 1000000 --pictures --backbone pixels --only killed,again,check
    python benchmarks/million.py --sizes 100000 --pictures folder --backbone pixels --only extract,again,contents
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rivals import machine, table

COMMAND = (sys.executable, "-P", "-c", "from featurepipe.cli import main; main()")
IN_TAR = 10_000  # pictures in a tar
IN_FOLDER = 10  # of the layout "folders"
IN_SHARD = 1024  # rows, at most
PLANNED = (b" in the store ", b" to be read first")  # in what `extract` says once it knows what is left to do
SIDE = 8  # pixels of a picture
PROBES = {
    "ridge": ("--kind", "ridge"),
    "logistic": ("--kind", "logistic", "--C", "0.01"),
    "knn": ("--kind", "knn"),
    "knn20": ("--kind", "knn", "-k", "20"),
    "approximate20": ("--kind", "approximate-knn", "-k", "20"),
}
OF_STORES, OF_PICTURES = ("info", "verify", *PROBES), ("extract", "killed", "again", "contents", "check", "predict")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000", help="rows")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--width", type=int, default=112, help="features of a row; pictures have those of bundled-1")
    parser.add_argument(
        "--pictures", nargs="?", const="tars", choices=LAYOUTS, help="make pictures too, by default in tars"
    )
    parser.add_argument("--backbone", default="bundled-1", help="what the pictures are embedded with")
    parser.add_argument("--only", default="info,verify,ridge,logistic,knn", help="what to run, with commas between")
    parser.add_argument("--folder", type=Path, help="where to work; the data stay there, and are used again")
    parser.add_argument("--patience", type=float, default=3600, help="seconds after which a command is stopped")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for every figure")
    parser.add_argument("--store", type=json.loads, help=argparse.SUPPRESS)  # what the child is told
    options = parser.parse_args()
    options.sizes, options.only = [int(size) for size in options.sizes.split(",")], options.only.split(",")
    if unknown := set(options.only) - {*OF_STORES, *OF_PICTURES}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join((*OF_STORES, *OF_PICTURES))}")
    if not options.pictures and not {*OF_PICTURES}.isdisjoint(options.only):
        parser.error(f"{', '.join(OF_PICTURES)} need --pictures")
    return options


def write_store(path: Path, rows: int, classes: int, width: int) -> None:
    """A store of drawn features, as `extract` would have made it."""
    from ridge import Features, fill

    from featurepipe import backbones
    from featurepipe.stores import Store

    backbone = backbones.create("bundled-1", device="cpu")
    if width != backbone.width:
        sys.exit(f"the embeddings of bundled-1 have {backbone.width} features, not {width}")
    fill(Store.create(path), rows, Features(width, classes), backbone)


def write_tars(folder: Path, rows: int, classes: int) -> None:
    """Tars of pictures that all differ, in folders of their classes."""
    for start in range(0, rows, IN_TAR):
        with tarfile.open(folder / f"part-{start // IN_TAR:04d}.tar", "w") as tar:
            for index, data in pictures(start, min(start + IN_TAR, rows)):
                member = tarfile.TarInfo(f"{index % classes:05d}/{index:07d}.png")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_folder(folder: Path, rows: int, classes: int) -> None:
    """All pictures in one folder, without classes."""
    del classes
    for index, data in pictures(0, rows):
        (folder / f"{index:07d}.png").write_bytes(data)


def write_folders(folder: Path, rows: int, classes: int) -> None:
    """A folder, which is a class, for every ten pictures."""
    del classes
    for index, data in pictures(0, rows):
        inner = folder / f"{index // IN_FOLDER:06d}"
        inner.mkdir(exist_ok=True)
        (inner / f"{index:07d}.png").write_bytes(data)


# how pictures lie → what writes them, and what of their folder the commands are given
LAYOUTS = {"tars": (write_tars, "*.tar"), "folder": (write_folder, ""), "folders": (write_folders, "")}


def pictures(start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Numbers and contents."""
    random = np.random.default_rng(start)
    for index in range(start, end):
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        pixels[0, 0] = index // 65536, index // 256 % 256, index % 256  # no two alike
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
        yield index, stream.getvalue()


def run(patience: float, *arguments: object, until: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Run featurepipe: seconds and peak memory of its process, and what it said or why it failed.

    It is killed when patience runs out, or as soon as `until` says so.
    """
    started, planned = time.perf_counter(), {}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([*COMMAND, *map(str, arguments), "--json"], stdout=output, stderr=errors)
        while time.perf_counter() - started < patience and not until():
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if not planned and any(words in os.pread(errors.fileno(), 2**16, 0) for words in PLANNED):
                planned = {"planned": time.perf_counter() - started, "planned_processor": processor_of(process.pid)}
            time.sleep(0.02)
        else:
            process.kill()
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        output.seek(0)
        text = output.read()
    said = json.loads(text) if text else {}
    found = {"seconds": wall, "peak_mb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6}
    found |= {"processor": usage.ru_utime + usage.ru_stime, "json_bytes": len(text), "code": process.returncode}
    found |= planned | {key: said[key] for key in ("computed", "reused") if key in said}
    if process.returncode:
        found["error"] = said.get("error", "stopped: patience ran out" if process.returncode < 0 else "no JSON")
    if isinstance(said.get("test"), dict):
        found["top1"] = said["test"]["top1"]
    if kept := [note for note in said.get("notes", []) if "neighbours" in note]:
        found["neighbours"] = kept
    if "model" in said and Path(said["model"]).is_file():
        found["model_bytes"] = Path(said["model"]).stat().st_size
    return found


def processor_of(pid: int) -> float | None:
    """Processor seconds of a process that runs, where the system says so."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def commands(name: str, folder: Path, options: argparse.Namespace) -> list[object]:
    """What `name` runs."""
    if name in PROBES:
        model = folder / f"{name}.safetensors"
        return ["probe", folder / "drawn.store", *PROBES[name], "--baselines", "none", "-o", model, "--force"]
    if name in ("info", "verify"):
        return [name, folder / "drawn.store"]
    store, where = folder / "pictures.store", folder / options.pictures / LAYOUTS[options.pictures][1]
    if name == "contents":
        return ["info", store]
    if name == "check":
        return ["verify", store]
    if name == "model":
        return ["probe", store, "--kind", "ridge", "--baselines", "none", "-o", options.model]
    if name == "predict":
        return ["predict", options.model, where, "-o", folder / "answers.csv", "--force"]
    return ["extract", where, "-s", store, "-b", options.backbone]


def measure(rows: int, folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Make what is missing, and run each command."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "drawn.store"
    if not store.exists() and not {*OF_STORES}.isdisjoint(options.only):
        # A process of its own: what this one holds would count as the peak of those that it starts.
        given = [str(store), rows, options.classes, options.width]
        subprocess.run([sys.executable, __file__, "--store", json.dumps(given)], check=True)
    if options.pictures and not (folder / options.pictures).exists():
        (folder / options.pictures).mkdir()
        LAYOUTS[options.pictures][0](folder / options.pictures, rows, options.classes)
    for name in options.only:
        if name == "predict" and not options.model.exists():  # of the first size, which is quick
            run(options.patience, *commands("model", folder, options))
        asked = commands(name, folder, options)
        if name == "killed":
            half = partial(holds, folder, rows // 2 // IN_SHARD)
            yield {
                "command": name,
                "rows": rows,
                "classes": options.classes,
                **run(options.patience, *asked, until=half),
            }
        yield {"command": name, "rows": rows, "classes": options.classes, **run(options.patience, *asked)}


def holds(folder: Path, shards: int) -> bool:
    """Whether that many shards of the pictures are finished."""
    return len(list((folder / "pictures.store").glob("*/shard-*.h5"))) >= shards


def report(results: list[dict[str, Any]]) -> str:
    """The table."""
    heads = ["command", "rows", "classes", "seconds", "ms/row", "processor s", "of it ms/row", "peak MB"]
    rows = [[*heads, "planned s", "model MB", "JSON kB", "top-1"]]
    for one in results:
        if one["code"]:
            rows.append([one["command"], f"{one['rows']:,}", f"{one['classes']:,}", one["error"][:90], *[""] * 8])
            continue
        rows.append(
            [
                one["command"],
                f"{one['rows']:,}",
                f"{one['classes']:,}",
                f"{one['seconds']:.1f}",
                f"{1e3 * one['seconds'] / one['rows']:.3f}",
                f"{one['processor']:.1f}",
                f"{1e3 * one['processor'] / one['rows']:.3f}",
                f"{one['peak_mb']:.0f}",
                f"{one['planned']:.1f}" if "planned" in one else "",
                f"{one['model_bytes'] / 1e6:.1f}" if "model_bytes" in one else "",
                f"{one['json_bytes'] / 1e3:.0f}",
                f"{one['top1']:.3f}" if "top1" in one else "",
            ]
        )
    return table(rows)


def main() -> None:
    """Write, run, print."""
    options = parse()
    if options.store:
        write_store(Path(options.store[0]), *options.store[1:])
        return
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if options.folder is None else options.folder
        options.model = folder / "pictures.safetensors"
        for rows in options.sizes:
            for found in measure(rows, folder / f"{rows}-{options.classes}", options):
                results.append(found)
                print(json.dumps(found), file=sys.stderr, flush=True)
                if options.json:
                    options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))
    print(", ".join(str(value) for value in machine().values()) + " cores\n\n" + report(results))


if __name__ == "__main__":
    main()
