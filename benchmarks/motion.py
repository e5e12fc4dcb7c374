"""Which backbones see motion: clips made of photos that differ in nothing but their direction.

    python benchmarks/motion.py PHOTOS --out CLIPS -b mobilenetv2_100 --weights FILE --input-size 3 128 128

A window wanders over each photo (``pan``), or shrinks (``zoom``). The same frames backwards are the other class, so the
mean of single frames is the same for both. Photos are never divided: both directions of one are on one side of the
split. Each backbone's embeddings are probed as `featurepipe.probe` does it; chance is 50 %.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

import featurepipe

FRAMES, SIDE, RATE = 16, 128, 16
SUFFIXES = (".jpg", ".jpeg", ".png")
FORWARDS = {"pan": "left", "zoom": "in"}
BACKWARDS = {"pan": "right", "zoom": "out"}
TEST = 0.4  # of the photos


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and stores")
    parser.add_argument("-b", "--backbone", default="bundled", help="an image network of timm")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--input-size", type=int, nargs=3, default=(3, SIDE, SIDE))
    parser.add_argument("--motions", nargs="+", default=list(FORWARDS), choices=list(FORWARDS))
    return parser.parse_args()


def pan(photo: Image.Image) -> list[Image.Image]:
    """A square as high as the photo that wanders from its left end to its right end; things move to the left."""
    side = photo.height
    steps = np.linspace(0, photo.width - side, FRAMES)
    return [photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (x, 0, x + side, side)) for x in steps]


def zoom(photo: Image.Image) -> list[Image.Image]:
    """A square in the middle that shrinks to half its size."""
    full, middle = min(photo.size), np.array(photo.size) / 2
    halves = np.geomspace(full, full / 2, FRAMES) / 2
    boxes = [(*(middle - half), *(middle + half)) for half in halves]
    return [photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, tuple(box)) for box in boxes]


def write(path: Path, frames: Sequence[Image.Image]) -> None:
    """Write a clip without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "bgr0"
        stream.time_base = Fraction(1, RATE)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_image(frame).reformat(format="bgr0")
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def make(photos: Path, folder: Path, motion: str) -> Path:
    """The clips of a motion and their table."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "clips.csv"
    if not table.exists():
        rows = list(_clips(photos, folder, motion))
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label", "split", "group"))
            writer.writerows(rows)
    return table


def _clips(photos: Path, folder: Path, motion: str) -> Iterator[tuple[str, str, str, str]]:
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    in_test = np.random.default_rng(0).permutation(len(paths)) < TEST * len(paths)
    for number, path in enumerate(paths):
        with Image.open(path) as opened:
            photo = opened.convert("RGB")
        if motion == "pan" and photo.width < 1.2 * photo.height:  # too little way to go
            continue
        frames = {"pan": pan, "zoom": zoom}[motion](photo)
        for label, shown in ((FORWARDS[motion], frames), (BACKWARDS[motion], frames[::-1])):
            name = f"{path.stem}_{label}.mkv"
            write(folder / name, shown)
            yield name, label, "test" if in_test[number] else "train", path.stem


def contestants(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each is called, and how it is made."""
    weights = {} if args.weights is None else {"weights": args.weights}
    common: dict[str, Any] = {"transform": {"input_size": tuple(args.input_size), "crop_pct": 1.0}}
    averaged = {**common, "transform": {**common["transform"], "clips": FRAMES}}
    inflated = f"inflated:{args.backbone}"

    def with_time(**arguments: Any) -> dict[str, Any]:
        return {"backbone": inflated, "arguments": {"frames": FRAMES, **arguments}, **common}

    return {
        "colours and motion": {"backbone": "color-motion"},
        "frame average": {"backbone": args.backbone, **weights, **averaged},
        "inflated": {**with_time(), **weights},
        "inflated, 3 strides in time": {**with_time(strides=3), **weights},
        "inflated, 3 strides, shifted taps": {**with_time(strides=3, taps="shift"), **weights},
        "the last one, random weights": {**with_time(strides=3, taps="shift"), "random_weights": True},
    }


def main() -> None:
    """Make the clips, embed and probe them, and print a table."""
    args = parse()
    print("| motion | test clips | backbone | top-1 % | 95 % interval |\n|---|---|---|---|---|")
    for motion in args.motions:
        table = make(args.photos, args.out / motion, motion)
        for name, how in contestants(args).items():
            store = args.out / f"{motion}.store"
            made = featurepipe.extract(table, store, **how)
            found = featurepipe.probe(
                store, args.out / "probe.safetensors", backbone=made["fingerprint"], baselines="none", force=True
            )
            test = found["test"]
            low, high = (100 * bound for bound in test["interval"])
            print(f"| {motion} | {test['n']} | {name} | {100 * test['top1']:.1f} | {low:.1f}–{high:.1f} |", flush=True)


if __name__ == "__main__":
    main()
