"""How texts are shown: as their first words."""

from __future__ import annotations

from featurepipe.reports.looks.look import Look, Way
from featurepipe.sources.source import Content
from featurepipe.texts import TextTransform

LENGTH = 280  # characters


def look(data: Content, part: str | None) -> Look:
    """The beginning of a text, on one line."""
    words = " ".join(TextTransform().read(data, part).split())  # type: ignore[arg-type]  # no text is an array
    return Look(words=words if len(words) <= LENGTH else f"{words[:LENGTH].rstrip()}…")


TEXTS = Way(look, 20_000)
