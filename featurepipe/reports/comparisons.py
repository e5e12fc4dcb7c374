"""The page of a comparison: backbones, layers and probes on the same images."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from featurepipe.comparisons import is_reference, named, p_text, verdict
from featurepipe.reports.drawings import dots, scatter
from featurepipe.reports.markup import SPACE, Html, document, interval_text, join, method, percent, section, table, tag
from featurepipe.reports.sections import local

NINETY_FIVE = f"95{SPACE}%"


def comparison_page(result: Mapping[str, Any]) -> str:
    """Draw the page of what `featurepipe.stages.compare` found.

    Parameters
    ----------
    result : mapping
        What it returns; nothing is computed again.

    Returns
    -------
    str
        A whole HTML document that needs no other file.
    """
    title = f"{Path(result['root']).name or result['root']}: {len(result['rows'])} rows compared"
    notes = [tag("li", local(note)) for note in result["notes"]]
    return document(
        title,
        _headline(result, title),
        tag("div", tag("b", "Notes"), tag("ul", *notes), class_="box") if notes else "",
        _figure(result),
        _costs(result),
        _table(result),
        _imagenet(result),
        _how_made(result),
        script=True,
    )


def _headline(result: Mapping[str, Any], title: str) -> Html:
    found = [row for row in result["rows"] if is_reference(result, row)]
    if not found:
        return join(tag("h1", title), tag("p", "No data were left to select on, so no row is named the best."))
    (row,) = found
    where = tag("b", f"{result['evaluated_on']} top-1")
    interval = f" on n = {row['n']:,} samples; {NINETY_FIVE} interval {interval_text(row)} ({method(row)})."
    return join(
        tag("h1", title),
        tag("p", percent(row["top1"]), class_="top1"),
        tag("p", where, " of ", tag("b", named(row)), interval),
        tag("p", verdict(result)),
    )


def _figure(result: Mapping[str, Any]) -> Html:
    rows = []
    for row in result["rows"]:
        kind = "reference" if is_reference(result, row) else "" if row["is_baseline"] else "trained"
        low, high = row["interval"]
        rows.append((named(row), low, row["top1"], high, kind))
    legend = (
        f"{result['evaluated_on']} top-1 in %, with {NINETY_FIVE} Wilson intervals, sorted by selection data. Blue: "
        "the reference; pale: baselines. Intervals that overlap may still differ: the same samples are compared. "
        f"Always answering with the most common class gives {percent(result['majority'])}."
    )
    return section("Top-1", dots(rows), tag("small", legend))


def _costs(result: Mapping[str, Any]) -> Html:
    """Accuracy against what it costs; nothing where fewer than two rows say how long they took."""
    known = [row for row in result["rows"] if row["images_per_second"]]
    if len(known) < 2:
        return Html()
    points = []
    for row in known:
        kind = "reference" if is_reference(result, row) else "" if row["is_baseline"] else "trained"
        low, high = row["interval"]
        points.append((named(row), 1000 / row["images_per_second"], low, row["top1"], high, kind))
    devices = ", ".join(sorted({str(row["device"]) for row in known if row["device"]}))
    on = f" Measured while the store was filled, on {devices}; other work of that machine counts." if devices else ""
    return section(
        "Accuracy against cost",
        scatter(f"{result['evaluated_on']} top-1 in %, by milliseconds per image", points),
        tag("small", f"Up and left is better. Lines: {NINETY_FIVE} intervals.{on}"),
    )


def _table(result: Mapping[str, Any]) -> Html:
    head = ["backbone, layer", "probe", "selection", f"{result['evaluated_on']} top-1", f"{NINETY_FIVE} interval"]
    head += ["difference", "wins : losses", "p", "p (Holm)", "width", "samples/s", "MB"]
    marks = [is_reference(result, row) for row in result["rows"]]
    legend = (
        "Difference: percentage points from the reference. Wins, losses: samples on which only this row, or only the "
        f"reference, is right; from them p. Holm: corrected for {len(marks) - 1} comparisons. Samples/s: what the "
        "extractions that made the shards reached, on whatever device; – where they do not say."
    )
    return section(
        "Table", table(head, [_cells(row) for row in result["rows"]], marks, "sortable dense"), tag("small", legend)
    )


def _cells(row: Mapping[str, Any]) -> Sequence[object]:
    tested = row["p"] is not None
    return [
        row["label"],
        row["kind"] if row["chosen"] is None else f"{row['kind']}, {row['parameter']}={row['chosen']:g}",
        "–" if row["selection_top1"] is None else percent(row["selection_top1"]),
        percent(row["top1"]),
        interval_text(row),
        f"{100 * row['difference']:+.1f}" if tested else "–",
        f"{row['wins']:,} : {row['losses']:,}" if tested else "–",
        p_text(row["p"]),
        p_text(row["p_holm"]),
        f"{row['width']:,}",
        "–" if row["images_per_second"] is None else f"{row['images_per_second']:,.1f}",
        f"{row['bytes'] / 1e6:.1f}",
    ]


def _imagenet(result: Mapping[str, Any]) -> Html:
    if result["imagenet"] is None:
        return Html()
    rows = []
    for kind, found in result["imagenet"].items():
        figures = ["–" if found[name] is None else f"{found[name]:.2f}" for name in ("spearman", "kendall")]
        rows.append([kind, found["n"], *figures])
    what = "Rank correlation of top-1 here with top-1 on ImageNet, over the backbones whose figure is known"
    few = any(found["spearman"] is None for found in result["imagenet"].values())
    return section(
        "Does ImageNet foretell it?",
        tag("p", f"{what}; it takes at least three that differ." if few else f"{what}."),
        table(["probe", "backbones", "Spearman's ρ", "Kendall's τ"], rows),
    )


def _how_made(result: Mapping[str, Any]) -> Html:
    splits = ", ".join(f"{n:,} {name}" for name, n in result["splits"].items())
    data = PurePath(result["root"]).name or result["root"]
    facts = {
        "stores": ", ".join(PurePath(store).name for store in result["stores"]),
        "data": f"{data}: {result['samples']:,} labelled samples of {result['classes']:,} classes",
        "splits": f"{splits} ({result['split_source']})",
        "selection": "; ".join(sorted({row["selected_on"] for row in result["rows"]})),
        "seed": result["seed"],
        **{named(row): tag("span", row["fingerprint"], class_="code") for row in result["rows"]},
    }
    stores = [PurePath(store).name for store in result["stores"]]
    kinds = [word for kind in dict.fromkeys(row["kind"] for row in result["rows"]) for word in ("--kind", kind)]
    command = shlex.join(
        ["featurepipe", "compare", *stores, *kinds, "--seed", str(result["seed"]), "-o", "compare.html"]
    )
    return section(
        "How it was made",
        tag("pre", command, class_="code"),
        table([], [[tag("small", name), of] for name, of in facts.items()], class_="words"),
    )
