"""The page of a pretraining: its curves, what it was, and how the file is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featurepipe.reports.drawings import curves
from featurepipe.reports.markup import Html, document, percent, tag

PROBES = {"knn": "kNN", "linear": "linear probe"}
LABELS = 8  # epochs that are named below a curve, at most


def pretraining_page(result: Mapping[str, Any]) -> str:
    """A whole HTML page of what `featurepipe.pretrain` gave."""
    card = result["card"]
    return document(
        f"{card['objective']}: {result['name']}",
        tag("h1", result["name"]),
        tag("p", _headline(card), class_="top1" if card["probe"] else ""),
        tag("section", tag("h2", "Training loss"), _losses(result["curve"])),
        _probes(result["curve"], card),
        tag("section", tag("h2", "How it was made"), _facts(card)),
        tag(
            "section",
            tag("h2", "Use it"),
            tag("p", f"featurepipe extract DATA -b {result['backbone']}", class_="code"),
        ),
    )


def _headline(card: Mapping[str, Any]) -> str:
    if not card["probe"]:
        return f"{card['objective']}, {card['epochs']} epochs; {_why_unprobed(card)}"
    return f"{percent(card['probe']['linear'])} linear probe"


def _why_unprobed(card: Mapping[str, Any]) -> str:
    if card["options"].get("every") == 0:
        return "no probes were asked for"
    if card["data"]["held_back"]:
        return "this epoch was not probed"
    return "there were no labels to probe it with"


def _thinned(numbers: Sequence[int]) -> list[str]:
    """Labels of epochs, of which only some are written."""
    step = -(-len(numbers) // LABELS)
    return [str(number) if place % step == 0 else "" for place, number in enumerate(numbers)]


def _losses(curve: Sequence[Mapping[str, Any]]) -> Html:
    rows = [row for row in curve if row["train_loss"] is not None]
    if len(rows) < 2:
        return tag("p", "A curve needs two epochs.")
    epochs, losses = [row["epoch"] for row in rows], [row["train_loss"] for row in rows]
    lowest = min(*losses, 0.0)  # the axis begins at nothing
    points = [(loss - lowest,) * 3 for loss in losses]
    return curves("mean loss of an epoch", epochs, _thinned(epochs), {"": points}, 1.0)


def _probes(curve: Sequence[Mapping[str, Any]], card: Mapping[str, Any]) -> Html:
    rows = [row for row in curve if "knn" in row]
    if len(rows) < 2:
        return Html()
    epochs = [row["epoch"] for row in rows]
    lines = {name: [(row[key],) * 3 for row in rows] for key, name in PROBES.items()}
    note = (
        f"Top-1 on {rows[-1]['n']} labelled images that were not learned from. Epoch 0 is the network before its first "
        "step."
    )
    title = "top-1 of probes on frozen embeddings, in percent, by epoch"
    return tag(
        "section", tag("h2", "Probes"), curves(title, epochs, _thinned(epochs), lines, 100.0), tag("small", note)
    )


def _facts(card: Mapping[str, Any]) -> Html:
    data = card["data"]
    rows = {
        "objective": card["objective"],
        "architecture": card["architecture"],
        "data": f"{data['name']}: {data['images']:,} images",
        "epochs": f"{card['epochs']} of {card['images_per_epoch']:,} images each, {card['stopped']}",
        "seed": card["seed"],
        "seconds": f"{card['seconds']:.0f}",
        "licence": card["licence"],
    }
    return tag("table", *(tag("tr", tag("td", name), tag("td", value)) for name, value in rows.items()), class_="words")
