"""The page of an audit: what was found in the samples, with small pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featurepipe.reports.galleries.sheets import show_look
from featurepipe.reports.looks import Look
from featurepipe.reports.markup import Html, document, join, section, tag

FINDINGS = 24  # of each kind that are shown
SAMPLES = 4  # of each finding


def audit_page(result: Mapping[str, Any], pictures: Mapping[str, Look]) -> str:
    """Draw the page of what `featurepipe.stages.audit` found.

    Parameters
    ----------
    result : mapping
        What it returns; nothing is computed again.
    pictures : mapping of str to Look
        Id of a sample → how it is shown; of `pictured`'s, as many as there are.

    Returns
    -------
    str
        A whole HTML document that needs no other file.
    """
    title = f"{Path(result['root']).name or result['root']}: audit of {result['samples']:,} images"
    parts = [_check(name, one, _of(result, name), pictures) for name, one in result["checks"].items()]
    lines = tag("ul", *(tag("li", line) for line in result["summary"]))
    return document(title, tag("h1", title), tag("div", lines, class_="box"), *parts, _how_made(result), script=True)


def pictured(result: Mapping[str, Any]) -> list[str]:
    """Ids of the samples that the page shows, the first findings of each kind first."""
    shown = [_first(_of(result, name), kind) for name, one in result["checks"].items() for kind in one["kinds"]]
    by_rank = [findings[rank] for rank in range(FINDINGS) for findings in shown if rank < len(findings)]
    return list(dict.fromkeys(one["id"] for finding in by_rank for one in finding["samples"][:SAMPLES]))


def _of(result: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [finding for finding in result["findings"] if finding["check"] == name]


def _check(
    name: str, told: Mapping[str, Any], findings: Sequence[Mapping[str, Any]], pictures: Mapping[str, Look]
) -> Html:
    title = name.replace("-", " ").capitalize()
    if told["skipped"] is not None:
        return section(title, tag("p", f"Not checked: {told['skipped']}."))
    if not findings:
        return section(title, tag("p", "Nothing was found."))
    return section(title, *(_kind(kind, count, findings, pictures) for kind, count in told["kinds"].items()))


def _kind(kind: str, count: int, findings: Sequence[Mapping[str, Any]], pictures: Mapping[str, Look]) -> Html:
    """The surest findings of a kind."""
    mine = _first(findings, kind)
    more = f" (the first {FINDINGS} are shown)" if count > FINDINGS else ""
    cards = [_card(finding, pictures) for finding in mine]
    return join(tag("h3", f"{kind.capitalize()}: {count:,}{more}"), tag("div", *cards, class_="sheet findings"))


def _first(findings: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    return [finding for finding in findings if finding["kind"] == kind][:FINDINGS]


def _card(finding: Mapping[str, Any], pictures: Mapping[str, Look]) -> Html:
    """A finding: its pictures, what they are called, and why."""
    samples = finding["samples"][:SAMPLES]
    images = [show_look(pictures[one["id"]], one["id"]) for one in samples if one["id"] in pictures]
    names = [tag("small", _name(one)) for one in samples]
    more = len(finding["samples"]) - len(samples)
    rest = tag("small", f"and {more} more") if more else ""
    caption = tag("figcaption", finding["reason"], *names, rest)
    return tag("figure", tag("div", *images), caption)


def _name(sample: Mapping[str, Any]) -> Html:
    known = " · ".join(part for part in (sample["label"], sample["split"]) if part)
    return join(sample["id"], f" ({known})" if known else "")


def _how_made(result: Mapping[str, Any]) -> Html:
    return section(
        "How it was made",
        tag("p", f"Embeddings of {result['backbone']}, {result['layer']}; seed {result['seed']}."),
        tag("p", f"featurepipe audit {Path(result['store']).name} -o audit.html", class_="code"),
    )
