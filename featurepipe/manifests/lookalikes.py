"""Classes whose names look alike, and are likely to be one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def look_alike(labels: Iterable[str]) -> list[list[str]]:
    """Groups of labels that differ in case, blanks, invisible characters or the way that accents are written only.

    Examples
    --------
    >>> look_alike(["Cat", "cat", "dog", "great  dane", "great dane "])
    [['Cat', 'cat'], ['great  dane', 'great dane ']]
    """
    groups: dict[str, list[str]] = {}
    for label in sorted(set(labels)):
        groups.setdefault(_plain(label), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def name_alike(groups: list[list[str]], most: int = 5) -> str:
    """The groups as a text in which one sees the difference."""
    named = [" and ".join(_visible(label, group) for label in group) for group in groups[:most]]
    more = f"; and {len(groups) - most} more" if len(groups) > most else ""
    return "; ".join(named) + more


def _plain(label: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    seen = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return " ".join(seen.split())


def _visible(label: str, group: list[str]) -> str:
    """With escapes where the same letters are written in two ways."""
    same = [other for other in group if unicodedata.normalize("NFKC", other) == unicodedata.normalize("NFKC", label)]
    return ascii(label) if len(same) > 1 else repr(label)
