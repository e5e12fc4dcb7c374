"""What Ray costs: `extract --crew ray` on a cluster of two nodes, against two plain processes that share the images.

Everything runs on this machine. Each node has one core, each plain process has one thread and every other image. All
whole commands are timed, from their start to their end. The cluster runs before the clock starts, as a laboratory's
would. Run it where featurepipe and Ray are installed, on a machine with two idle cores:

    python benchmarks/crews.py photos/ OUT --backbone mobilenetv2_100 --weights mobilenetv2_100.safetensors \
        --input-size 3 160 160
    python benchmarks/crews.py photos/ OUT --images 1000                            # does everything work?
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rivals import machine, table

COMMAND = (sys.executable, "-P", "-c", "from featurepipe.cli import main; main()")
CREWS = ("plain", "ray")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images, in folders or not")
    parser.add_argument("out", type=Path, help="folder for tables, stores and figures")
    parser.add_argument("--images", type=int, help="how many to use (all)")
    parser.add_argument("--backbone", default="bundled")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--input-size", nargs=3, type=int)
    parser.add_argument("--rounds", type=int, default=1, help="each runs once in a round; the order turns round")
    return parser.parse_args()


def write_tables(folder: Path, out: Path, images: int | None) -> dict[str, Path]:
    """One table with all images, and two with every other one of them."""
    suffixes = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
    found = sorted(path.resolve() for path in folder.rglob("*") if path.suffix.lower() in suffixes)[:images]
    if len(found) < 2:
        raise SystemExit(f"{folder} holds fewer than two images")
    tables = {"all": found, "even": found[::2], "odd": found[1::2]}
    for name, paths in tables.items():
        with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([["path"], *[[path] for path in paths]])
    return {name: out / f"{name}.csv" for name in tables}


@contextmanager
def cluster() -> Iterator[str]:
    """A Ray cluster of two nodes with one core each, and its address."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made.address
    finally:
        made.shutdown()


def extract(tables: Sequence[Path], out: Path, options: argparse.Namespace, *more: str, **variables: str) -> float:
    """Embed each table into a store of its own, all at the same time; seconds until the last one is done."""
    stores = [out / f"{path.stem}.store" for path in tables]
    for store in stores:
        shutil.rmtree(store, ignore_errors=True)
    how = ["-b", options.backbone, "--device", "cpu", "-j", "1", "--json", *more]
    how += ["--weights", str(options.weights)] if options.weights else []
    how += ["--input-size", *map(str, options.input_size)] if options.input_size else []
    started = time.perf_counter()
    runs = [
        subprocess.Popen(
            [*COMMAND, "extract", str(path), "-s", str(store), *how],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for path, store in zip(tables, stores, strict=True)
    ]
    said = [json.loads(run.communicate()[0]) for run in runs]
    seconds = time.perf_counter() - started
    for run, one, path in zip(runs, said, tables, strict=True):
        wanted = len(path.read_text(encoding="utf-8").splitlines()) - 1
        if run.returncode or one["computed"] + one["reused"] < wanted:
            raise SystemExit(f"{path.stem} failed: {one}")
    return seconds


def main() -> None:
    """Play the rounds, print the table."""
    options = parse()
    os.environ["OMP_NUM_THREADS"] = "1"  # for nodes and plain processes, before any of them starts
    options.out.mkdir(parents=True, exist_ok=True)
    tables = write_tables(options.folder, options.out, options.images)
    images = len(tables["all"].read_text(encoding="utf-8").splitlines()) - 1
    found: dict[str, list[float]] = {name: [] for name in CREWS}
    for number in range(options.rounds):
        for name in CREWS if number % 2 == 0 else CREWS[::-1]:
            if name == "plain":
                seconds = extract([tables["even"], tables["odd"]], options.out, options)
            else:
                with cluster() as address:
                    seconds = extract([tables["all"]], options.out, options, "--crew", "ray", RAY_ADDRESS=address)
            found[name].append(seconds)
            print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    report(images, found, options)


def report(images: int, found: dict[str, list[float]], options: argparse.Namespace) -> None:
    """Print the table, write all figures."""
    import ray

    import featurepipe

    versions = {"featurepipe": featurepipe.__version__, "ray": ray.__version__}
    figures: dict[str, Any] = {"images": images, "seconds": found, "machine": machine(), "versions": versions}
    (options.out / "crews.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    ratios = [plain / crew for plain, crew in zip(found["plain"], found["ray"], strict=True)]
    rows = [["", "seconds", "images/s"]]
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        rows.append([name, f"{middle:.1f}", f"{images / middle:.1f}"])
    print(table(rows))
    print(f"Ray has {statistics.median(ratios):.2f} of the rate of two plain processes, on {images:,} images")


if __name__ == "__main__":
    main()
