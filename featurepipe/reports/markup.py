"""Words and markup: text that is escaped by construction, tags, tables, the document around them."""

from __future__ import annotations

import base64
import html
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from typing import Any

from featurepipe.characters import shown
from featurepipe.statistics.intervals import interval_of, wilson

TALL = 30  # rows from which a table scrolls by itself
LABEL = 24  # characters of a class name next to the confusion matrix
SPACE = "\N{NO-BREAK SPACE}"
POLICY = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>"
SEALED = "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; img-src data:"
GENERATOR = '<meta name="generator" content="featurepipe"/>'
ASSETS = Path(__file__).parent / "assets"


class Html(str):
    """Finished markup; every other string is text."""


def percent(share: float) -> str:
    """A fraction as percent with one decimal."""
    return f"{100 * share:.1f}{SPACE}%"


def surely(probability: float) -> str:
    """A probability as percent; one below 1 is never shown as all."""
    return f"> 99.9{SPACE}%" if 0.9995 <= probability < 1 else percent(probability)


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


def document(title: str, *parts: object, script: bool = False) -> str:
    """A whole HTML document that needs no other file and may load none; with `script`, it can be clicked.

    The only code that a browser runs is the one whose digest the page's policy names: nothing that comes from outside.
    """
    code, policy = Html(), SEALED
    if script:
        code = _script(_asset("page.js"))
        digest = base64.b64encode(sha256(code.encode()).digest()).decode()
        policy += f"; media-src data:; script-src 'sha256-{digest}'"
        code = Html(f"<script>{code}</script>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>{GENERATOR}'
        f"{tag('title', title)}<style>{_asset('page.css')}</style></head>\n"
        f"<body>{tag('main', *parts)}{code}</body></html>\n"
    )


@cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text("utf-8")


def _script(code: str) -> Html:
    """Code as the text of an element, also for readers of XML, to whom < and & would be markup."""
    return Html(f"/*<![CDATA[*/\n{code}/*]]>*/")


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
    """A table; `chosen` marks rows. With the class ``sortable`` the script sorts and filters it."""
    top = tag("thead", tag("tr", *(tag("th", name) for name in head))) if head else ""
    lines = []
    for row, mark in zip_longest(rows, chosen):
        lines.append(tag("tr", *(tag("td", cell) for cell in row), class_="chosen" if mark else None))
    whole = tag("table", top, tag("tbody", *lines), class_=class_)
    return tag("div", whole, class_="wide tall" if len(rows) > TALL else "wide")


def tag(tag: str, *children: object, **attributes: object) -> Html:
    """An element; ``class_`` means class, ``text_anchor`` for text-anchor, and None for no such attribute."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = "".join(f' {key}="{text(value)}"' for key, value in given.items())
    return Html(f"<{tag}{start}>{join(*children)}</{tag}>")


def picture(address: str, name: str) -> Html:
    """A picture; `name` is what is read aloud, and shown where the pointer rests."""
    return Html(f'<img src="{text(address)}" alt="{text(name)}" title="{text(name)}"/>')


def player(address: str, name: str) -> Html:
    """A sound that can be played."""
    return Html(f'<audio controls="" preload="none" src="{text(address)}" aria-label="{text(name)}"></audio>')


def join(*parts: object) -> Html:
    """Parts one after the other, escaped where they are not Html."""
    return Html("".join(map(text, parts)))


def text(value: object) -> str:
    """Escaped text, without characters that no page can hold or that turn what is around them."""
    return value if isinstance(value, Html) else html.escape(shown(str(value), lines=True))
