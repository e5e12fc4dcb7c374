"""Curves as a picture, where matplotlib is installed (``featurepipe[plots]``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featurepipe import __version__
from featurepipe.files import atomic
from featurepipe.pretraining.files import is_figures

MAKER = "featurepipe"


def draw(result: Mapping[str, Any], path: Path) -> str | None:
    """Write a PNG of the training loss and the probes; returns its path, or None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, probes = figure.subplots(1, 2)
    learned = [row for row in result["curve"] if row["train_loss"] is not None]
    loss.plot([row["epoch"] for row in learned], [row["train_loss"] for row in learned], marker=".")
    loss.set(xlabel="epoch", ylabel="training loss", title=result["objective"])
    measured = [row for row in result["curve"] if "knn" in row]
    for key, name in (("knn", "kNN"), ("linear", "linear probe")):
        probes.plot([row["epoch"] for row in measured], [100 * row[key] for row in measured], marker=".", label=name)
    probes.set(xlabel="epoch", ylabel="top-1 on held-back images, %")
    if measured:
        probes.legend()
    with atomic(path) as temporary, open(temporary, "wb") as file:
        figure.savefig(file, format="png", dpi=120, metadata={"Software": f"{MAKER} {__version__}"})
    return str(path)


def is_drawn(path: Path) -> bool:
    """Whether a file is such a picture: it says so in its first bytes, or is of before that was said.

    The latter is drawn by matplotlib, and has the figures of a pretraining next to it.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(1024)
    except OSError:
        return False
    if f"Software\0{MAKER} ".encode() in start:
        return True
    return b"Software\0Matplotlib " in start and is_figures(path.with_suffix(".json"))
