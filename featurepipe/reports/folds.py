"""The figures of k-fold cross-validation, fold by fold."""

from __future__ import annotations

from featurepipe.cards import Card
from featurepipe.reports.markup import Html, interval_text, percent, section, table, tag


def folds(card: Card) -> Html:
    """Each fold's accuracy and strength; nothing where the figures are of a split."""
    figures = card.folds
    if figures is None or figures.per_fold is None or figures.mean is None:
        return Html()
    count = len(figures.per_fold)
    said = (
        f"The accuracy is that of {count}-fold cross-validation: the {figures.n:,} samples are held out in turn, and "
        "each is answered by a probe that has seen nothing of its fold. Its strength and temperature were chosen "
        "inside the other folds. The probe in the file learned from all samples, and no figure here is of that probe."
    )
    mean = (
        f"Mean of the folds: {percent(figures.mean)}. 95 % interval: {interval_text(figures)} ({figures.method}). "
        "Folds share most of what they learn from, so the true interval is somewhat wider."
    )
    rows = [
        [number, f"{one.n:,}", percent(one.top1), "" if one.chosen is None else f"{one.chosen:g}"]
        for number, one in enumerate(figures.per_fold, 1)
    ]
    return section(
        "Fold by fold", tag("p", said), tag("p", mean), table(["fold", "samples", "accuracy", "strength"], rows)
    )
