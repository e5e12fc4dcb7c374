"""How far a model's confidence can be trusted: calibration, and what is gained where the least certain are left out."""

from __future__ import annotations

import numpy as np

from featurepipe.probes import ECE_BINS
from featurepipe.reports.drawings import plot
from featurepipe.reports.galleries.gallery import Gallery
from featurepipe.reports.markup import Html, percent, section, surely, table, tag

SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)  # of the samples that the model answers
STEPS = 100  # points of a curve
FEWEST = 5  # samples of a bin that is drawn


def trust(gallery: Gallery, where: str) -> Html:
    """Both, on the reported samples."""
    if not gallery.reported:
        return Html()
    sure, right = gallery.confidence[: gallery.reported].astype(float), gallery.right
    before = {} if gallery.raw is None else {"before calibration": _reliability(gallery.raw.astype(float), right)}
    curves = {**before, "after calibration" if before else "this model": _reliability(sure, right)}
    note = f"{ECE_BINS} bins of equal width; those of fewer than {FEWEST} {gallery.medium}s are not drawn."
    order = np.argsort(-sure, kind="stable")
    kept = np.cumsum(right[order]) / np.arange(1, len(order) + 1)  # accuracy of the k most certain
    places = np.unique(np.ceil(np.linspace(1 / STEPS, 1, STEPS) * len(order)).astype(int)) - 1
    line = [((place + 1) / len(order), float(kept[place])) for place in places if place + 1 >= min(20, len(order))]
    return section(
        "Can the confidence be trusted?",
        tag("p", _sentence(sure, right, order, where, gallery.medium)),
        tag(
            "div",
            plot("accuracy in %, by confidence in %", curves, diagonal=True),
            plot(f"accuracy in %, by share of {gallery.medium}s that the model answers, in %", {"this model": line}),
            class_="pair",
        ),
        tag("small", "Left: on the dashed line, confidence is as high as accuracy. ", note),
        table(["answered by the model", "confidence at least", "accuracy", "wrong"], _rows(sure, right, order)),
    )


def _reliability(sure: np.ndarray, right: np.ndarray) -> list[tuple[float, float]]:
    """Mean confidence and accuracy of each bin."""
    bins = np.minimum((sure * ECE_BINS).astype(int), ECE_BINS - 1)
    within = [bins == number for number in range(ECE_BINS)]
    return [(float(sure[one].mean()), float(right[one].mean())) for one in within if one.sum() >= FEWEST]


def _answered(share: float, count: int) -> int:
    return max(1, round(share * count))


def _rows(sure: np.ndarray, right: np.ndarray, order: np.ndarray) -> list[list[object]]:
    rows: list[list[object]] = []
    for share in SHARES:
        mine = order[: _answered(share, len(order))]
        wrong = int((~right[mine]).sum())
        rows.append([f"{100 * share:.0f} %", surely(float(sure[mine].min())), percent(1 - wrong / len(mine)), wrong])
    return rows


def _sentence(sure: np.ndarray, right: np.ndarray, order: np.ndarray, where: str, medium: str) -> str:
    mine = order[: _answered(0.9, len(order))]
    least = float(sure[mine].min())
    return (
        f"If a person looks at the least certain tenth of the {where} {medium}s, those below a confidence of "
        f"{surely(least)}, the model is right on {percent(float(right[mine].mean()))} of the others, instead of "
        f"{percent(float(right.mean()))} of all."
    )
