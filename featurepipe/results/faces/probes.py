"""Faces of figures: of probes, evaluations and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featurepipe.comparisons import is_reference, named, p_text, verdict
from featurepipe.results.tables import (
    Column,
    Face,
    between,
    count,
    number,
    percent,
    plain,
    points,
    share,
)
from featurepipe.statistics.intervals import interval_of
from featurepipe.vocabulary.names import HANDMADE, KINDS

Said = Mapping[str, Any]
BASELINES = {**HANDMADE, "random_backbone": "the same network untrained", "chance": "chance"}
MAP = "map"  # the figure of sets of labels
PAIRS = 3  # confusions that are said
COLUMNS = {
    "": plain("what"),
    "accuracy": share("top1"),
    "95 % interval": between(),
    "top-5": share("top5"),
    "balanced": share("balanced_accuracy"),
    "log-loss": number("log_loss"),
    "ECE": number("ece"),
}
OF_SETS = {"": plain("what"), "mAP": share(MAP), "micro F1": share("micro_f1"), "macro F1": share("macro_f1")}


def probe(said: Said) -> Face:
    """The probe next to its baselines, and with few labels."""
    on, figures = said["evaluated_on"], said[said["evaluated_on"]]
    key = MAP if figures and MAP in figures and "subset_accuracy" in figures else "top1"
    mine = {"what": f"{said['kind']} probe", **_row(figures)} if figures else None
    baselines = [
        {"what": _baseline(said, name), key: one} for name, one in said["baselines"].items() if one is not None
    ]
    rows = [*([mine] if mine else []), *_alone(said), *baselines, *_few(said)]
    asked = f", {figures['n']:,} {'held-out' if on == 'folds' else on} samples" if figures else ""
    title = f"{said['kind']} probe on {_backbone(said)}{_strength(said)}{asked}"
    return Face(
        title,
        rows,
        OF_SETS if key == MAP else present(COLUMNS, rows),
        [*_folds(figures), *_confused(figures), *_notes(said)],
    )


def run(said: Said) -> Face:
    """What the probe's face is, and where the page lies."""
    face = probe(said)
    page = [f"report: {said['report']}"] if said["report"] else []
    return Face(face.title, face.rows, face.columns, [*face.notes, *page])


def probe_layers(said: Said) -> Face:
    """Each layer, and which was chosen."""
    rows = [
        {
            **{key: one[key] for key in ("layer", "width", "n", "top1")},
            "selection_top1": one["selection"]["top1"] if one["selection"] else None,
            **dict(zip(("low", "high"), one["interval"], strict=True)),
            "chosen": one["chosen"],
        }
        for one in said["layers"]
    ]
    columns: dict[str, Column] = {
        "layer": plain("layer"),
        "width": count("width"),
        "selection": share("selection_top1"),
        f"{said['evaluated_on']} accuracy": share("top1"),
        "95 % interval": between(),
        "": lambda row: "← chosen" if row["chosen"] else "",
    }
    return Face(f"{said['kind']} probe on {len(rows)} layers of {said['backbone']}", rows, columns, _notes(said))


def probe_tasks(said: Said) -> Face:
    """The figures of each task."""
    rows = [{"what": name, **_row(one[one["evaluated_on"]])} for name, one in said["tasks"].items()]
    sets = any(MAP in row for row in rows)
    return Face(
        f"{len(rows)} tasks of {said['labels']}", rows, OF_SETS if sets else present(COLUMNS, rows), said["notes"]
    )


def evaluate(said: Said) -> Face:
    """The headline, and each class, lowest recall first."""
    classes = [{"class": name, **one} for name, one in said["per_class"].items()]
    columns: dict[str, Column] = {"class": plain("class")}
    if MAP in said:
        title = f"mean average precision {percent(said[MAP])} on {said['n']:,} {said['split']} samples"
        columns["average precision"] = share("average_precision")
    else:
        low, high = interval_of(said)
        title = (
            f"{percent(said['top1'])} of {said['n']:,} {said['split']} samples right "
            f"(95 %: {100 * low:.1f}–{percent(high)}); log-loss {said['log_loss']:.3f}, ECE {said['ece']:.3f}"
        )
    columns |= {
        "recall": share("recall"),
        "precision": share("precision"),
        "F1": number("f1"),
        "support": count("support"),
    }
    order = sorted(classes, key=lambda one: (not one["support"], one["recall"] or 0.0))
    return Face(title, order, columns, _confused(said))


def _confused(figures: Said | None) -> list[str]:
    """Of many classes: the pairs that are most often confused."""
    found = (figures or {}).get("confused")
    if not found or not found["pairs"]:
        return []
    pairs = found["pairs"][:PAIRS]
    more = len(found["pairs"]) - len(pairs) + found["more"]
    said = ", ".join(f"{one['true']} taken for {one['predicted']} ({one['count']}×)" for one in pairs)
    return [f"most confused: {said}" + (f", and {more} more pairs" if more else "")]


def compare(said: Said) -> Face:
    """The rows of a comparison, best first."""
    rows = [{**one, "name": named(one), "low": one["interval"][0], "high": one["interval"][1]} for one in said["rows"]]
    columns: dict[str, Column] = {
        "": lambda row: "*" if is_reference(said, row) else "",
        "backbone, layer, probe": plain("name"),
        "selection": share("selection_top1"),
        "accuracy": share("top1"),
        "95 % interval": between(),
        "difference": points("difference"),
        "p (Holm)": lambda row: p_text(row["p_holm"]),
    }
    title = (
        f"{len(rows)} rows on the same {rows[0]['n']:,} {said['evaluated_on']} samples of {said['classes']:,} classes"
    )
    notes = [f"* {verdict(said)}"] if said["reference"] else []
    return Face(title, rows, columns, [*notes, *_notes(said)])


def _row(figures: Said) -> dict[str, Any]:
    """The figures that count, with the interval of the accuracy."""
    keys = ("n", "top1", MAP, "micro_f1", "macro_f1", "balanced_accuracy", "top5", "log_loss", "ece")
    found = {key: figures[key] for key in keys if key in figures}
    if "top1" in figures and MAP not in figures:
        found |= dict(zip(("low", "high"), interval_of(figures), strict=True))
    return found


def _few(said: Said) -> list[dict[str, Any]]:
    """The means with few labels."""
    found = []
    for one in said["few_shot"]:
        plural = "label" if one["shots"] == 1 else "labels"
        what, key = f"with {one['shots']} {plural} per class", one.get("metric", "top1")
        others = {**(one.get("semi") or {}), **(one.get("text") or {})}
        methods = {what: one} | {f"{what}, {name.replace('_', ' ')}": draws for name, draws in others.items()}
        for name, draws in methods.items():
            low, high = draws["interval"] or (None, None)
            shots = {"shots": one["shots"], "repeats": one["repeats"]}
            found.append({"what": name, key: draws["mean"], "low": low, "high": high, **shots})
    return found


def _folds(figures: Said | None) -> list[str]:
    """The mean of the folds, where there are folds."""
    if not figures or "per_fold" not in figures:
        return []
    each = ", ".join(f"{100 * one['top1']:.1f}" for one in figures["per_fold"])
    return [f"mean of {len(figures['per_fold'])} folds: {percent(figures['mean'])} ({each}); {figures['method']}"]


def _alone(said: Said) -> list[dict[str, Any]]:
    """Of several backbones, each alone."""
    alone = said["blocks"]["alone"] if "blocks" in said else ()
    return [
        {"what": f"{one['name']} alone", "top1": one["top1"], "low": one["interval"][0], "high": one["interval"][1]}
        for one in alone
    ]


def _baseline(said: Said, name: str) -> str:
    return f'always answering "{said["majority_class"]}"' if name == "majority" else BASELINES.get(name, name)


def _backbone(said: Said) -> str:
    return said["backbone"] if said["layer"] == "penultimate" else f"{said['backbone']} {said['layer']}"


def _strength(said: Said) -> str:
    name = KINDS.get(said["kind"])
    return f", {name}={said[name]:g}" if name and name in said else ""


def present(columns: Mapping[str, Column], rows: Sequence[Said]) -> dict[str, Column]:
    """The columns that show anything."""
    return {name: column for name, column in columns.items() if any(column(row) for row in rows)}


def _notes(said: Said) -> list[str]:
    return [f"note: {note}" for note in said["notes"]]


def segment(said: Said) -> Face:
    """Mean intersection over union, and that of each class."""
    rows = [{"class": name, **one} for name, one in said["per_class"].items()]
    title = (
        f"{said['kind']} segmentation on {said['backbone']}: mIoU {percent(said['miou'])}, pixels right "
        f"{percent(said['pixel_accuracy'])}, of {said['n']:,} {said['evaluated_on']} images"
    )
    return Face(title, rows, {"class": plain("class"), "iou": share("iou"), "pixels": count("pixels")})
