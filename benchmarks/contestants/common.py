"""What the contestants share: options, files, and the one JSON line. Standard library only; import it first."""

# ruff: noqa: E402
import time

STARTED = time.perf_counter()  # before the heavy imports of the script that imports this

import argparse
import json
import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg")


def arguments() -> argparse.ArgumentParser:
    """The options that every contestant takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="flat folder of JPEG files")
    parser.add_argument("--backbone", required=True, help="timm name")
    parser.add_argument("--weights", help="safetensors file; random weights without it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", help="fp32 keeps TF32 off; else of featurepipe and the ceilings")
    parser.add_argument("--warm-up", type=int, default=0, metavar="N", help="images embedded before the clock starts")
    return parser


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jpegs(folder: Path) -> list[Path]:
    """The JPEG files of a folder, sorted, from all levels."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def peak_mb() -> float:
    """Peak resident memory in MB of the largest process: this one, or one that it started.

    Not their sum: forked workers share most of their memory with their parent, and torch's import starts small
    programs that Linux books with the memory of the process that forked them.
    """
    unit = 1 if sys.platform == "darwin" else 1024  # macOS says bytes, Linux kilobytes
    return (
        max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * unit / 1e6
    )


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def report(name: str, images: int, seconds: float, **more: object) -> None:
    """Print the JSON line.

    Parameters
    ----------
    name : str
    images : int
        Images that came out as embeddings.
    seconds : float
        Of the extraction alone: files to array, model creation and warm-up excluded.
    **more
        Further keys, or other values for the keys set here.
    """
    line = {
        "name": name,
        "images": images,
        "seconds": seconds,
        "total_seconds": time.perf_counter() - STARTED,
        "images_per_second": images / seconds,
        "peak_rss_mb": peak_mb(),
        "versions": versions(("torch", "torchvision", "timm", "numpy", "pillow", name)),
        **more,
    }
    print(json.dumps(line), flush=True)
