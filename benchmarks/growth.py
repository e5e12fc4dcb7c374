"""Does time per image, or memory, grow with the number of images? One extraction per size, then the same again.

Small synthetic JPEGs go through the bundled backbone. The second, warm extraction finds nothing to compute and shows
what it costs to look.

    python benchmarks/growth.py --sizes 1000,10000,100000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rivals import machine, table

COMMAND = (sys.executable, "-P", "-c", "from featurepipe.cli import main; main()", "extract")
CLASSES = 100


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000", help="numbers of images")
    parser.add_argument("--backbone", help="timm name, with random weights  [default: the bundled one]")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for every figure")
    options = parser.parse_args()
    options.sizes = sorted(int(size) for size in options.sizes.split(","))
    return options


def draw(index: int) -> Image.Image:
    """Noise over a gradient, 64 to 96 pixels a side, different for every index."""
    random = np.random.default_rng(index)
    height, width = random.integers(64, 97, 2)
    slope = np.linspace(0, 191, width, dtype=np.uint8)[None, :, None]
    return Image.fromarray(slope + random.integers(0, 64, (height, width, 3), dtype=np.uint8))


def grow(folder: Path, have: int, want: int) -> None:
    """Add images to a folder of class folders that holds the first `have` already."""
    for name in range(CLASSES):
        (folder / f"{name:02d}").mkdir(exist_ok=True)
    for index in range(have, want):
        draw(index).save(folder / f"{index % CLASSES:02d}" / f"{index:07d}.jpg", quality=85)


def extract(folder: Path, store: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run `featurepipe extract`; what it says, with the wall time and peak memory of its process."""
    backbone = ["-b", options.backbone, "--random-weights"] if options.backbone else []
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*COMMAND, folder, "-s", store, *backbone, "--device", options.device, "--json"], stdout=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        output.seek(0)
        said = json.loads(output.read() or "{}")
    if process.returncode:
        sys.exit(f"featurepipe extract failed: {said.get('error', process.returncode)}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    kept = ("samples", "computed", "reused", "seconds", "images_per_second", "stages", "efficiency", "limited_by")
    return {**{key: said.get(key) for key in kept}, "wall_seconds": wall, "peak_rss_mb": peak}


def report(results: list[dict[str, Any]]) -> str:
    """The table, and how memory compares between sizes."""
    heads = ["images", "seconds", "ms/image", "images/s", "peak MB", "warm s", "of it looking", "warm peak MB"]
    rows = [heads]
    for result in results:
        images, first, again = result["images"], result["cold"], result["warm"]
        rows.append(
            [
                f"{images:,}",
                f"{first['seconds']:.1f}",
                f"{1e3 * first['seconds'] / images:.2f}",
                f"{first['images_per_second']:.1f}",
                f"{first['peak_rss_mb']:.0f}",
                f"{again['seconds']:.2f}",
                f"{again['stages']['check']:.2f}",
                f"{again['peak_rss_mb']:.0f}",
            ]
        )
    lines = [table(rows), ""]
    for less, more in pairwise(results):
        for kind in ("cold", "warm"):
            low, high = less[kind]["peak_rss_mb"], more[kind]["peak_rss_mb"]
            each = 1e6 * (high - low) / (more["images"] - less["images"])
            sizes = f"{less['images']:,} to {more['images']:,} images"
            lines.append(f"peak memory, {kind}, {sizes}: {high / low:.2f}×, {each:+.0f} bytes per image more")
    return "\n".join(lines)


def main() -> None:
    """Grow, extract, extract again, print."""
    options = parse()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        have = 0
        for size in options.sizes:
            grow(folder, have, size)
            have = size
            store = Path(scratch) / f"{size}.store"
            cold, warm = (extract(folder, store, options) for _ in range(2))
            if (cold["computed"], warm["computed"]) != (size, 0):
                sys.exit(f"{size} images: {cold['computed']} computed, then {warm['computed']}")
            results.append({"images": size, "cold": cold, "warm": warm})
            if options.json:
                options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1))
    print(", ".join(str(value) for value in machine().values()) + " cores\n\n" + report(results))


if __name__ == "__main__":
    main()
