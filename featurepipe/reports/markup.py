"""Words and markup: text that is escaped by construction, tags, tables, the style sheet."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from featurepipe.characters import shown
from featurepipe.statistics.intervals import interval_of, wilson

LABEL = 24  # characters of a class name next to the confusion matrix
SPACE = "\N{NO-BREAK SPACE}"
POLICY = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>"
PICTURES = POLICY.replace(
    "default-src 'none'", "default-src 'none'; img-src data:"
)  # of a page that holds its pictures
GENERATOR = '<meta name="generator" content="featurepipe"/>'
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b2129; --muted: #596472; --line: #d8dee6; --panel: #f4f6f9;
  --probe: #1d5fa6; --tint: #bdd3ea; --on: #fff; --other: #a3adb9; --wrong: #b8500f; --warn: #fff3d1; --edge: #c98a00;
  --self: #8b3fa8; --spread: #1f7a4d }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #12161c; --ink: #e5e9ee; --muted: #9ba6b4;
  --line: #2f3843; --panel: #1a2028; --probe: #72b3f5; --tint: #2b4767; --on: #0d1117; --other: #66727f;
  --wrong: #f0a066; --warn: #3a2e0c; --edge: #d9a520; --self: #d39be8; --spread: #6fcf9f } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; print-color-adjust: exact }
h1 { margin: 0; font-size: 1.15rem; font-weight: 600; color: var(--muted) }
h2 { margin: 2.5rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); font-size: 1.2rem }
h3 { margin: 1.2rem 0 0; font-size: 1rem } h2, h3, figcaption { break-after: avoid }
p { margin: .4rem 0; max-width: 46rem } small { display: block } section > small { margin: .4rem 0; max-width: 46rem }
.top1 { margin: .3rem 0 0; font-size: clamp(2.6rem, 10vw, 3.4rem); font-weight: 650; line-height: 1.15 }
small, figcaption { color: var(--muted); font-size: .875rem }
.code { font: .875rem ui-monospace, monospace }
.box { margin: 1.2rem 0; padding: .7rem 1rem; border-left: 4px solid var(--edge); background: var(--warn) }
.box ul { margin: .2rem 0; padding-left: 1.2rem }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: 0 1.5rem }
.wide { overflow-x: auto } figure { margin: .8rem 0 } figure, tr { break-inside: avoid }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0 }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top }
th { font-size: .875rem; font-weight: 600; color: var(--muted); white-space: nowrap }
:is(th, td):first-child, .words :is(th, td):nth-child(2) { text-align: left }
td:not(:first-child) { min-width: 3.5rem; white-space: nowrap } td:first-child { min-width: 7rem }
.words td:nth-child(2) { min-width: 8rem; white-space: normal }
@media screen and (max-width: 30rem) { th, td, td:not(:first-child) { white-space: normal; overflow-wrap: normal;
  padding-right: .6rem } td:first-child { min-width: 4rem } }
.chosen td { font-weight: 650; background: var(--panel) }
.bar { display: inline-block; min-width: 5.5rem; padding: 0 .3rem }
svg { display: block; overflow: visible } svg text { font-size: 12px; fill: var(--muted) }
svg .name { font-size: 15px; fill: var(--ink) } tspan { font-weight: 650 }
svg line { stroke: var(--line) } rect { fill: var(--other) } rect:is(.this-probe, .this-model) { fill: var(--probe) }
svg .halo { stroke: var(--paper); stroke-width: 5 } svg .whisker { stroke: var(--ink); stroke-width: 1.5 }
.curve { --tone: var(--probe); fill: var(--tone) } :is(.raw-pixels, .from-scratch) { --tone: var(--wrong) }
.self-training { --tone: var(--self) } .label-spreading { --tone: var(--spread) }
.majority-class, .random-backbone, .the-probe { --tone: var(--other) }
svg .curve line { stroke: var(--tone); stroke-width: 2 } .curve polygon { fill-opacity: .15 }
svg .mark { stroke: var(--ink); stroke-dasharray: 2 3 }
.dot { fill: var(--other) } .dot.trained { fill: var(--muted) } .dot.reference { fill: var(--probe) }
.key { display: inline-block; margin-right: 1.2rem; color: var(--ink) }
.key::before { content: "■ "; color: var(--tone) }
.matrix text { font: 12px ui-monospace, monospace; fill: var(--ink) } .matrix .full { fill: var(--on) }
rect.wrong { fill: var(--wrong) } rect.right { fill: var(--probe) } rect.field { fill: var(--panel) }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(14rem, 100%), 1fr)); gap: 0 1rem }
.sheet img { width: 6rem; height: 6rem; margin: 0 .25rem .25rem 0; border-radius: .25rem }
.sheet figcaption small { color: var(--ink) }
@media print { body { max-width: none; padding: 0; font-size: 11pt } .matrix { max-width: 100%; height: auto } }
"""


class Html(str):
    """Finished markup; every other string is text."""


def percent(share: float) -> str:
    """A fraction as percent with one decimal."""
    return f"{100 * share:.1f}{SPACE}%"


def wilson_text(share: float, n: int) -> str:
    """The 95 % Wilson interval of a share, in percent."""
    return _between(*wilson(share, n))


def interval_text(figures: Mapping[str, Any]) -> str:
    """The 95 % interval of figures' top-1, in percent; see `featurepipe.statistics.intervals.interval_of`."""
    return _between(*interval_of(figures))


def method(figures: Mapping[str, Any]) -> str:
    """How their interval was made."""
    return f"bootstrap over {figures['groups']:,} groups" if "groups" in figures else "Wilson"


def _between(low: float, high: float) -> str:
    return f"{100 * low:.1f}–{percent(high)}"


def columns(text: str) -> int:
    """Width in a monospaced font."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def short(name: str) -> str:
    """The name, or its two ends: long class names often differ in the last word only."""
    short, ends = name, (len(name) + 1) // 2
    while columns(short) > LABEL:
        ends -= 1
        short = f"{name[:ends]}…{name[-ends:]}"
    return short


def document(title: str, *parts: object, policy: str = POLICY) -> str:
    """A whole HTML document that needs no other file; `policy` says what it may load, which is nothing by default."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"{policy}{GENERATOR}"
        f"{tag('title', title)}<style>{STYLE}</style></head>\n<body>{tag('main', *parts)}</body></html>\n"
    )


def is_page(path: Path) -> bool:
    """Whether a file is a page of featurepipe: it says so, or is one of before that was said and has its policy."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            start = file.read(1024)
    except OSError:
        return False
    return GENERATOR in start or f'initial-scale=1"/>{POLICY}<title>' in start


def section(title: str, *parts: object) -> Html:
    """A titled section."""
    return tag("section", tag("h2", title), *parts)


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], chosen: Sequence[bool] = (), class_: str | None = None
) -> Html:
    """A table; `chosen` marks rows."""
    top = tag("thead", tag("tr", *(tag("th", name) for name in head))) if head else ""
    lines = []
    for row, mark in zip_longest(rows, chosen):
        lines.append(tag("tr", *(tag("td", cell) for cell in row), class_="chosen" if mark else None))
    return tag("div", tag("table", top, tag("tbody", *lines), class_=class_), class_="wide")


def tag(tag: str, *children: object, **attributes: object) -> Html:
    """An element; ``class_`` means class, ``text_anchor`` for text-anchor, and None for no such attribute."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = "".join(f' {key}="{text(value)}"' for key, value in given.items())
    return Html(f"<{tag}{start}>{join(*children)}</{tag}>")


def picture(address: str, name: str) -> Html:
    """A picture; `name` is what is read aloud, and shown where the pointer rests."""
    return Html(f'<img src="{text(address)}" alt="{text(name)}" title="{text(name)}"/>')


def join(*parts: object) -> Html:
    """Parts one after the other, escaped where they are not Html."""
    return Html("".join(map(text, parts)))


def text(value: object) -> str:
    """Escaped text, without characters that no page can hold or that turn what is around them."""
    return value if isinstance(value, Html) else html.escape(shown(str(value), lines=True))
