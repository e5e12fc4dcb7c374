"""Faces of what is found out about samples and backbones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featurepipe.advice import in_words
from featurepipe.results.tables import Face, number, plain, points, share

Said = Mapping[str, Any]


def advise(said: Said) -> Face:
    """What to do, and what each option is expected to gain."""
    costs = said.get("cost_minutes") or {}
    rows = [
        {"option": option, **gain, "minutes": costs.get(option), "advised": option == said["option"]}
        for option, gain in said["expected_gain"].items()
        if gain is not None
    ]
    columns = {
        "": lambda row: "→" if row["advised"] else "",
        "option": plain("option"),
        "points": points("mean"),
        "from": points("low"),
        "to": points("high"),
        "minutes": number("minutes", 1),
    }
    notes = [*said["warnings"], *([f"next: {said['next']}"] if "next" in said else [])]
    return Face(in_words(said), rows, columns, notes)


def audit(said: Said) -> Face:
    """What a person should look at."""
    rows = [
        {
            **{key: one[key] for key in ("kind", "score")},
            "samples": ", ".join(sample["id"] for sample in one["samples"]),
            "suggested_label": one["suggested_label"],
            "reason": one["reason"],
        }
        for one in said["findings"]
    ]
    found = "; ".join(said["summary"]) or "nothing to look at"
    skipped = [f"{name} skipped: {one['skipped']}" for name, one in said["checks"].items() if one["skipped"]]
    columns = {name: plain(name) for name in ("kind", "samples", "reason")}
    return Face(f"{said['samples']:,} samples of {said['store']}: {found}", rows, columns, skipped)


def search(said: Said) -> Face:
    """The neighbours of each query."""
    rows = [{"query": query["id"], **one} for query in said["queries"] for one in query["neighbours"]]
    columns = {name: plain(name) for name in ("query", "id", "label", "split")} | {"similarity": number("similarity")}
    title = (
        f"{len(said['queries']):,} queries among {said['samples']:,} samples of {said['store']}, by {said['backbone']}"
    )
    return Face(title, rows, columns)


def label(said: Said) -> Face:
    """What to label next."""
    title = f"{len(said['next']):,} of {said['unlabelled']:,} samples to label next, order {said['order']}"
    columns = {"id": plain("id"), "suggested label": plain("suggested_label"), "confidence": share("confidence")}
    return Face(title, said["next"], columns)
