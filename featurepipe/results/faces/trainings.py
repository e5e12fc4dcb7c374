"""Faces of trained networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featurepipe.results.faces.probes import COLUMNS, present
from featurepipe.results.tables import Face, count, number, plain, share
from featurepipe.statistics.intervals import interval_of

Said = Mapping[str, Any]


def finetune(said: Said) -> Face:
    """The tuned network next to the probe that it began from."""
    told, on = said["finetuning"], said["evaluated_on"]
    figures = said[on]
    low, high = interval_of(figures)
    keys = ("n", "top1", "balanced_accuracy", "log_loss", "ece")
    what = f"{said['tune']} tuned" if said["promoted"] else "probe, which is in the file"
    rows = [{"what": what, **{key: figures[key] for key in keys}, "low": low, "high": high}]
    if said["promoted"]:
        rows.append({"what": "the probe without tuning", **{key: told["probe"].get(key) for key in keys}})
    kept = "the tuned network was kept" if said["promoted"] else "the probe was kept"
    title = f"{said['backbone']}: {kept}; {figures['n']:,} {on} samples"
    return Face(title, rows, present(COLUMNS, rows), [f"training: {told['stopped']}", f"model: {said['model']}"])


def pretrain(said: Said) -> Face:
    """How training went, epoch by epoch."""
    columns = {
        "epoch": plain("epoch"),
        "training loss": number("train_loss"),
        "nearest neighbours": share("knn"),
        "linear probe": share("linear"),
        "measured": count("n"),
    }
    return Face(f"{said['name']} pretrained: {said['objective']} → {said['backbone']}", said["curve"], columns)
