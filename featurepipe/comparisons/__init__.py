"""Comparisons: what takes part, on which samples, and whether a difference between classifiers is more than chance."""

from featurepipe.comparisons.contenders import Contender
from featurepipe.comparisons.notes import split_notes
from featurepipe.comparisons.significance import (
    BEYOND_CHANCE,
    SIGNIFICANT,
    fisher,
    holm,
    is_reference,
    mcnemar,
    named,
    p_text,
    permutation,
    rank_correlations,
    read_imagenet,
    verdict,
)

__all__ = [
    "BEYOND_CHANCE",
    "SIGNIFICANT",
    "Contender",
    "fisher",
    "holm",
    "is_reference",
    "mcnemar",
    "named",
    "p_text",
    "permutation",
    "rank_correlations",
    "read_imagenet",
    "split_notes",
    "verdict",
]
