"""Does a million rows work, and do seconds and memory per row stay flat on the way there? One process per command.

Stores of growing size are written through featurepipe's own writer, with drawn features instead of images, and every
command that reads them runs on each. With `--pictures`, tars of tiny PNG files are made too: they are extracted, looked
at again, and answered with a model.

    python benchmarks/million.py --sizes 10000,100000,1000000 --classes 10
    python benchmarks/million.py --sizes 100000 --classes 10000 --only ridge,logistic
    python benchmarks/million.py --sizes 10000,100000 --pictures --only extract,again,predict
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rivals import machine, table

COMMAND = (sys.executable, "-P", "-c", "from featurepipe.cli import main; main()")
IN_TAR = 10_000  # pictures in a tar
SIDE = 8  # pixels of a picture
PROBES = {
    "ridge": ("--kind", "ridge"),
    "logistic": ("--kind", "logistic", "--C", "0.01"),
    "knn": ("--kind", "knn"),
    "knn20": ("--kind", "knn", "-k", "20"),
}
OF_STORES, OF_PICTURES = ("info", "verify", *PROBES), ("extract", "again", "predict")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000", help="rows")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--width", type=int, default=112, help="features of a row; pictures have those of bundled-1")
    parser.add_argument("--pictures", action="store_true", help="make tars of pictures too")
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
    folder.mkdir(parents=True)
    for start in range(0, rows, IN_TAR):
        with tarfile.open(folder / f"part-{start // IN_TAR:04d}.tar", "w") as tar:
            for name, data in pictures(start, min(start + IN_TAR, rows), classes):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def pictures(start: int, end: int, classes: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents."""
    random = np.random.default_rng(start)
    for index in range(start, end):
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        pixels[0, 0] = index // 65536, index // 256 % 256, index % 256  # no two alike
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
        yield f"{index % classes:05d}/{index:07d}.png", stream.getvalue()


def run(patience: float, *arguments: object) -> dict[str, Any]:
    """Run featurepipe: seconds and peak memory of its process, and what it said or why it failed."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([*COMMAND, *map(str, arguments), "--json"], stdout=output, stderr=errors)
        while time.perf_counter() - started < patience:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
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
    if process.returncode:
        found["error"] = said.get("error", "stopped: patience ran out" if process.returncode < 0 else "no JSON")
    if isinstance(said.get("test"), dict):
        found["top1"] = said["test"]["top1"]
    if "model" in said and Path(said["model"]).is_file():
        found["model_bytes"] = Path(said["model"]).stat().st_size
    return found


def commands(name: str, folder: Path, store: Path, options: argparse.Namespace) -> list[object]:
    """What `name` runs."""
    model = folder / f"{name}.safetensors"
    if name in PROBES:
        return ["probe", store, *PROBES[name], "--baselines", "none", "-o", model, "--force"]
    if name in ("extract", "again"):
        return ["extract", folder / "tars" / "*.tar", "-s", folder / "pictures.store"]
    if name == "predict":
        return ["predict", folder / "ridge.safetensors", folder / "tars" / "*.tar", "-o", folder / "answers.csv"]
    return [name, store]


def measure(rows: int, folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Make what is missing, and run each command."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "drawn.store"
    if not store.exists():
        # A process of its own: what this one holds would count as the peak of those that it starts.
        given = [str(store), rows, options.classes, options.width]
        subprocess.run([sys.executable, __file__, "--store", json.dumps(given)], check=True)
    if options.pictures and not (folder / "tars").exists():
        write_tars(folder / "tars", rows, options.classes)
    for name in options.only:
        if name == "predict" and not (folder / "ridge.safetensors").exists():
            run(options.patience, *commands("ridge", folder, store, options))
        found = run(options.patience, *commands(name, folder, store, options))
        yield {"command": name, "rows": rows, "classes": options.classes, **found}


def report(results: list[dict[str, Any]]) -> str:
    """The table."""
    heads = ["command", "rows", "classes", "seconds", "ms/row", "processor s", "of it ms/row", "peak MB"]
    rows = [[*heads, "model MB", "JSON kB", "top-1"]]
    for one in results:
        if one["code"]:
            rows.append([one["command"], f"{one['rows']:,}", f"{one['classes']:,}", one["error"][:90], *[""] * 7])
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
        for rows in options.sizes:
            for found in measure(rows, folder / f"{rows}-{options.classes}", options):
                results.append(found)
                print(json.dumps(found), file=sys.stderr, flush=True)
                if options.json:
                    options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))
    print(", ".join(str(value) for value in machine().values()) + " cores\n\n" + report(results))


if __name__ == "__main__":
    main()
