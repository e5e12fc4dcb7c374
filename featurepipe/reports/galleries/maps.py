"""The map of the embeddings, and the samples as data that the page's script draws from."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from featurepipe.manifests import SPLITS
from featurepipe.reports.galleries.gallery import Gallery
from featurepipe.reports.galleries.sheets import sheets
from featurepipe.reports.markup import Html, section, tag

TOP = 2**16 - 1  # of what is written in two bytes; of a label or split that is not known


def embedding_map(gallery: Gallery) -> Html:
    """Where the script draws the map."""
    left_out = gallery.whole - len(gallery)
    out = f" {left_out:,} of {gallery.whole:,} are left out." if left_out > 0 else ""
    what = f"Each dot is one {gallery.medium}. Near means similar to the network; a dot among dots of another colour "
    return section(
        "Map of the embeddings",
        tag("p", what, "may have a wrong label. Point at a dot to see it; draw around dots to list them."),
        tag("div", tag("p", "The map is drawn by a script, which this viewer does not run."), id="map"),
        tag("small", f"{gallery.projection}. {len(gallery):,} {gallery.medium}s.{out}"),
    )


def data_of(gallery: Gallery) -> Html:
    """All that the script knows, as JSON in a script element that is never run.

    Numbers are little-endian, two bytes each, in base64. A name is how many UTF-16 units it shares with the one before,
    and the rest of it. What is in the contact sheet already is not said again.
    """
    static = {row for rows in sheets(gallery).values() for row in rows}
    looks = {row: look for row, look in sorted(gallery.looks.items()) if row not in static}
    shared, rest = _front_coded(gallery.ids)
    low, high = gallery.points.min(axis=0, initial=0), gallery.points.max(axis=0, initial=0)
    places = (gallery.points - low) / np.maximum(high - low, 1e-12).max()  # both axes on one scale
    said: dict[str, Any] = {
        "medium": gallery.medium,
        "reported": gallery.reported,
        "labels": gallery.labels,
        "splits": list(SPLITS),
        "shared": _packed(shared),
        "rest": rest,
        "x": _packed(np.round(TOP * places[:, 0])),
        "y": _packed(np.round(TOP * places[:, 1])),
        "truth": _packed(np.where(gallery.truth < 0, TOP, gallery.truth)),
        "guess": _packed(np.where(gallery.guess < 0, TOP, gallery.guess)),
        "sure": _packed(np.floor(TOP * gallery.confidence.astype(float))),  # below 1 stays below
        "split": _packed(np.where(gallery.split < 0, TOP, gallery.split)),
        "alike": {
            row: [value for one in found for value in (one.row, round(one.cosine, 2))]
            for row, found in gallery.alike.items()
        },
        "pictures": {row: look.picture for row, look in looks.items() if look.picture},
        "sounds": {row: look.sound for row, look in looks.items() if look.sound},
        "words": {row: look.words for row, look in looks.items() if look.words},
    }
    text = json.dumps(said, separators=(",", ":"))
    for character in "<>&":  # so that nothing in it ends the element, in HTML or XML
        text = text.replace(character, f"\\u{ord(character):04x}")
    return tag("script", Html(text), type="application/json", id="data")


def _packed(values: np.ndarray | Sequence[int]) -> str:
    return base64.b64encode(np.asarray(values).astype("<u2").tobytes()).decode()


def _front_coded(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """How much of each name is as in the one before, and the rest."""
    shared, rest, before = [], [], ""
    for name in names:
        length = next((n for n, (a, b) in enumerate(zip(before, name, strict=False)) if a != b), None)
        same = name[: min(len(before), len(name), TOP // 2) if length is None else min(length, TOP // 2)]
        shared.append(len(same.encode("utf-16-le", "surrogatepass")) // 2)
        rest.append(name[len(same) :])
        before = name
    return shared, rest
