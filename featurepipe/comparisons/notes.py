"""A note where two splits are not alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featurepipe import probes
from featurepipe.comparisons.significance import BEYOND_CHANCE, fisher
from featurepipe.matrices.parts import Parts


def split_notes(selected_on: str, scores: Mapping[str, Any], parts: Parts, figures: Mapping[str, Any]) -> list[str]:
    """A note where top-1 is higher on the selection data than on what is reported, by more than chance explains."""
    if "top1" not in scores or "top1" not in figures:
        return []
    pairs = [(round(one["top1"] * one["n"]), one["n"]) for one in (scores, figures)]
    if fisher(*pairs[0], *pairs[1]) > BEYOND_CHANCE:
        return []
    if selected_on == "given":
        selected_on = "val" if parts.select is not None else f"{probes.FOLDS}-fold cross-validation on train"
    return [
        f"top-1 is {100 * scores['top1']:.1f} % on selection data ({selected_on}) and {100 * figures['top1']:.1f} % on "
        f"{parts.reported}, more than chance explains: the splits are not alike; {parts.reported} may come from "
        "elsewhere, or the selection data may show the same patients, places or videos as the training samples"
    ]
