"""featurepipe beside a plain DataLoader loop, embetter and thingsvision: same files, same network, same machine.

Every contestant is a process of its own, with its own interpreter if need be. In each round every contestant runs
once, in an order that moves on from round to round, and the ceilings of the machine are measured among them.

    python benchmarks/rivals.py photos/ --backbone mobilenetv2_100 --rival embetter=envs/embetter/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SCRIPTS = {
    "featurepipe": ["featurepipe_cli.py"],
    "dataloader": ["dataloader.py"],
    "dataloader-0": ["dataloader.py", "--workers", "0"],
    "embetter": ["embetter_pipeline.py"],
    "thingsvision": ["thingsvision_extractor.py"],
    "ceilings": ["ceilings.py"],
}
ALWAYS = ("featurepipe", "dataloader", "dataloader-0", "ceilings")
FASTEST_OF = ("dataloader", "dataloader-0", "embetter")
WARM_UP = 32  # images that the rivals embed before their clock starts: one batch
HERE = Path(__file__).resolve().parent

Round = dict[str, dict[str, Any]]  # contestant -> what its JSON line said


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="IMAGES", help="folder of JPEG files, with or without classes")
    parser.add_argument("--backbone", default="mobilenetv2_100", help="timm name")
    parser.add_argument("--weights", type=Path, help="safetensors file; everyone has random weights without it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=200, help="how many of the files, in sorted order")
    parser.add_argument(
        "--repeat", type=int, default=1, help="featurepipe, and on a GPU everyone, gets each file N times"
    )
    parser.add_argument("--rival-repeat", type=int, default=5, help="on a CPU the others get each file N times")
    parser.add_argument(
        "--rival",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help=f"interpreter of one of {', '.join(SCRIPTS)}",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="fp32", help="of featurepipe and the ceilings; the others are fp32")
    parser.add_argument("--cold", action="store_true", help="100 images, whole processes, no ceilings")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds per ceiling")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for every figure of every round")
    options = parser.parse_args(arguments)
    options.pythons = dict.fromkeys(ALWAYS, sys.executable)
    for rival in options.rival:
        name, equals, python = rival.partition("=")
        if name not in SCRIPTS or not equals:
            parser.error(f"--rival {rival}: NAME=PYTHON, where NAME is one of {', '.join(SCRIPTS)}")
        options.pythons[name] = python
    if options.cold:
        options.images, options.repeat, options.rival_repeat = 100, 1, 1
        options.pythons.pop("ceilings")
    if options.device != "cpu" and options.pythons.pop("embetter", None):
        print("embetter runs on the CPU only and is left out", file=sys.stderr)
    return options


def copy_images(source: Path, target: Path, images: int, repeat: int) -> int:
    """Fill a flat folder with the first `images` files, `repeat` times, and return the number of copies.

    Each copy ends in its own eight bytes, behind the end-of-image marker where decoders stop reading, so that no two
    have the same content: featurepipe embeds one content once.
    """
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:images]
    if not found:
        sys.exit(f"{source}: no .jpg or .jpeg files")
    for index, path in enumerate(found):
        data = path.read_bytes()
        for copy in range(repeat):
            number = copy * len(found) + index
            (target / f"{number:08d}.jpg").write_bytes(data + number.to_bytes(8, "big"))
    return len(found) * repeat


def run(name: str, folder: Path, options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Run one contestant and return its JSON line, with the wall time of its process."""
    script, *more = SCRIPTS[name]
    if name == "ceilings":
        more = ["--budget", str(options.budget)]
    elif options.weights:
        more = [*more, "--weights", str(options.weights.resolve())]
    if name not in ("featurepipe", "ceilings") and not options.cold:
        more = [*more, "--warm-up", str(WARM_UP)]
    choices = ["--backbone", options.backbone, "--device", options.device, "--precision", precision, *more]
    started = time.perf_counter()
    done = subprocess.run(
        [options.pythons[name], HERE / "contestants" / script, folder, *choices], capture_output=True, text=True
    )
    wall = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-4000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "name": name, "wall_seconds": wall}


def play(number: int, folders: dict[str, Path], options: argparse.Namespace) -> Round:
    """One round: everyone once. In the first, featurepipe starts, so the ceilings know what its precision is."""
    names = list(options.pythons)
    turn = number % len(names)
    played: Round = {}
    for name in names[turn:] + names[:turn]:
        precision = options.found_precision if name == "ceilings" else options.precision
        played[name] = run(name, folders[name], options, precision)
        if name == "featurepipe":
            options.found_precision = played[name]["precision"]
        rate = speed(played[name], options.cold)
        print(f"round {number + 1}: {name:<13} {rate:8.1f} images/s", file=sys.stderr)
    return played


def speed(said: dict[str, Any], cold: bool) -> float:
    """Images per second: of the extraction, or for `cold` of the whole process, imports included."""
    return said["images"] / said["wall_seconds"] if cold else said["images_per_second"]


def spread(values: Iterable[float], form: str = "{:.1f}") -> str:
    """Median (least-greatest)."""
    values = list(values)
    middle, low, high = (form.format(f(values)) for f in (statistics.median, min, max))
    return f"{middle} ({low}-{high})"


def table(rows: list[list[str]]) -> str:
    """Rows under a first row of headings, aligned; the first column to the left."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ([cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join([row[0].ljust(widths[0]), *line[1:]]) for row, line in zip(rows, lines, strict=True))


def summary(rounds: list[Round], cold: bool) -> str:
    """What is printed at the end."""
    contestants = [name for name in rounds[0] if name != "ceilings"]
    contestants.sort(key=list(SCRIPTS).index)
    speeds = {name: [speed(played[name], cold) for played in rounds] for name in contestants}
    rows = [["", "whole process images/s" if cold else "images/s", "featurepipe is", "process s", "peak MB"]]
    for name in contestants:
        ratios = [own / other for own, other in zip(speeds["featurepipe"], speeds[name], strict=True)]
        walls = [played[name]["wall_seconds"] for played in rounds]
        peak = max(played[name]["peak_rss_mb"] for played in rounds)
        rows.append([name, spread(speeds[name]), spread(ratios, "{:.2f}×"), spread(walls), f"{peak:.0f}"])
    lines = [table(rows), ""]

    rivals = [name for name in FASTEST_OF if name in contestants]
    best = [
        played / max(others)
        for played, *others in zip(speeds["featurepipe"], *(speeds[name] for name in rivals), strict=True)
    ]
    lines.append(f"featurepipe / fastest of {', '.join(rivals)}, per round: {spread(best, '{:.2f}×')}")
    own = [played["featurepipe"] for played in rounds]
    lines.append(f"featurepipe's own seconds: {spread((said['own_seconds'] for said in own), '{:.2f}')}")
    limits = sorted({said["limited_by"] for said in own if said["limited_by"]})
    shares = [said["efficiency"] for said in own if said["efficiency"] is not None]
    if limits:
        says = f"{spread(shares, '{:.3f}')} of its own ceiling" if shares else "too few images to know its own ceiling"
        lines.append(f"featurepipe says: limited by {', '.join(limits)}; {says}")
    if "ceilings" in rounds[0]:
        lines += ["", *ceilings(rounds)]
    return "\n".join(lines)


def ceilings(rounds: list[Round]) -> list[str]:
    """The ceilings of each round, and what share of them featurepipe reached."""
    rows = [["round", "decode", "forward", "serial", "featurepipe", "efficiency", "best way forward"]]
    shares = []
    for number, played in enumerate(rounds, 1):
        top, own = played["ceilings"], played["featurepipe"]["images_per_second"]
        shares.append(own / top["serial"])
        rates = [f"{rate:.1f}" for rate in (top["decode"], top["forward"], top["serial"], own)]
        rows.append([str(number), *rates, f"{shares[-1]:.3f}", f"{top['best_forward']} {top['precision']}"])
    lines = ["ceilings, images/s", table(rows), f"efficiency: {spread(shares, '{:.3f}')}"]
    if "plain_serial" in rounds[0]["ceilings"]:
        plain = [played["ceilings"]["plain_serial"] for played in rounds]
        shares = [played["featurepipe"]["images_per_second"] / top for played, top in zip(rounds, plain, strict=True)]
        lines.append(
            f"over the ceiling without kept memory and calls from C++, {spread(plain)}: {spread(shares, '{:.3f}')}"
        )
    return lines


def machine() -> dict[str, Any]:
    """Where this was measured."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return {
        "system": platform.platform(),
        "processor": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def main() -> None:
    """Play the rounds, print the tables."""
    options = parse()
    options.found_precision = options.precision
    rounds: list[Round] = []
    # The others are as fast on a thousand images as on many; featurepipe, which may compile, is not. On a GPU a
    # thousand are over before the others' workers have started.
    repeats = dict.fromkeys(options.pythons, options.rival_repeat if options.device == "cpu" else options.repeat)
    repeats["featurepipe"] = options.repeat
    with tempfile.TemporaryDirectory() as scratch:
        counts = {}
        for repeat in set(repeats.values()):
            (Path(scratch) / str(repeat)).mkdir()
            counts[repeat] = copy_images(options.folder, Path(scratch) / str(repeat), options.images, repeat)
        folders = {name: Path(scratch) / str(repeat) for name, repeat in repeats.items()}
        expected = {name: counts[repeat] for name, repeat in repeats.items()}
        for number in range(options.rounds):
            rounds.append(play(number, folders, options))
            for name, count in expected.items():
                if name != "ceilings" and rounds[-1][name]["images"] != count:
                    sys.exit(f"{name} embedded {rounds[-1][name]['images']} of {count} images")
            if options.json:  # after each round, for long runs are interrupted
                command = {key: str(value) for key, value in vars(options).items() if key != "pythons"}
                told = {"machine": machine(), "options": command, "images": expected, "rounds": rounds}
                options.json.write_text(json.dumps(told, indent=1))
    print(", ".join(str(value) for value in machine().values()) + " cores")
    for name, said in sorted(rounds[0].items(), key=lambda item: list(SCRIPTS).index(item[0])):
        print(f"  {name:<13}" + ", ".join(f"{package} {version}" for package, version in said["versions"].items()))
    weights = options.weights.name if options.weights else "random weights"
    said = f"{options.device} {options.found_precision}, {options.backbone} ({weights}), {options.images} images, "
    said += f"{options.repeat} times for featurepipe, {repeats['dataloader']} times for the others"
    said += "" if options.cold else f", rivals warmed up on {WARM_UP}"
    print(f"{said}, rounds: {len(rounds)}; medians (min-max)\n\n{summary(rounds, options.cold)}")


if __name__ == "__main__":
    main()
