"""Which epoch is kept, and whether it pays: by validation data alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def better(curve: Sequence[Mapping[str, Any]], best: int) -> bool:
    """Whether the last epoch of a curve is to be kept instead of epoch `best`.

    It has to be within one standard error of the best top-1 so far; and of a lower log-loss, unless the one that was
    kept is not within it any more.
    """
    top = max(row["top1"] for row in curve)
    enough = top - math.sqrt(top * (1 - top) / curve[-1]["n"])
    last, kept = curve[-1], curve[best]
    return last["top1"] >= enough and (kept["top1"] < enough or last["log_loss"] < kept["log_loss"])


def pays(probe: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether an epoch's validation is better than the probe's: more images right, and better by the rule of `better`.

    With as many right the probe stands, as the simpler of the two: a log-loss alone, of few images, is no evidence.
    """
    figures = {key: probe[key] for key in ("top1", "log_loss", "n")}
    return row["top1"] > probe["top1"] and better([figures, row], 0)
