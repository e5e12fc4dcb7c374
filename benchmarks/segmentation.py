"""Segmentation by closed forms and by gradient descent, on tokens of several backbones: mIoU, and seconds of the fit.

    python benchmarks/segmentation.py horses.csv membranes.csv --weights WEIGHTS --threads 1

Each table has the columns path, mask and split. WEIGHTS is a folder with vit_tiny_patch16_224.safetensors and
mobilenetv2_100.safetensors. Stores are made next to each other in --out, and are not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rivals import machine, table

from featurepipe import extract, segment
from featurepipe.listeners import SILENT

BACKBONES = ("vit_tiny_patch16_224", "mobilenetv2_100")
WHOLE = {"crop_mode": "squash", "crop_pct": 1.0}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("segmentation.out"))
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def measured(data: Path, name: str, weights: Path | None, out: Path) -> dict[str, Any]:
    """One backbone on one set, by both ways."""
    place = out / f"{data.stem}-{name}{'' if weights else '-random'}.json"
    if place.exists():
        return json.loads(place.read_text("utf-8"))
    store = place.with_suffix(".store")
    how: dict[str, Any] = {"weights": weights} if weights else {"random_weights": True}
    extract(data, store, backbone=name, tokens=True, transform=WHOLE, listener=SILENT, **how)
    found = {}
    for kind in ("auto", "logistic"):
        model = place.with_suffix(f".{kind}.safetensors")
        found[kind] = segment(store, data, model, kind=kind, baselines=kind == "auto", force=True, listener=SILENT)
        print(f"{place.stem} {kind}: {100 * found[kind]['miou']:.1f}", file=sys.stderr, flush=True)
    place.write_text(json.dumps({**found, "machine": machine()}, indent=1, default=str), "utf-8")
    return found


def main() -> None:
    """Measure what is missing, and print the table."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    rows = [["data", "backbone", "closed form", "seconds", "logistic", "seconds", "colour of patches"]]
    for data in options.tables:
        for name in BACKBONES:
            for weights in (options.weights / f"{name}.safetensors", None):
                found = measured(data, name, weights, options.out)
                both = [found["auto"], found["logistic"]]
                figures = [cell for one in both for cell in (f"{100 * one['miou']:.1f}", f"{one['fit_seconds']:.1f}")]
                colour = f"{100 * found['auto']['baselines']['colour']['miou']:.1f}"
                rows.append([data.stem, name if weights else f"{name}, random", *figures, colour])
    print(table(rows))


if __name__ == "__main__":
    main()
