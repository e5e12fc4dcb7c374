"""What a check finds, and how it says that it cannot tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from featurepipe.manifests import meaning
from featurepipe.matrices import FeatureMatrix


class Unknown(Exception):
    """A check needs what is not known of these samples; the message says what."""


@dataclass(frozen=True)
class Finding:
    """Something about some samples that a person should look at.

    Attributes
    ----------
    kind : str
        What they are, in the plural: ``exact copies in two splits``.
    score : float
        How sure, or how grave, from 0 to 1; comparable within a check only.
    rows : tuple of int
        The samples, as rows of `featurepipe.audits.Evidence.samples`; none where the finding is about all of a class.
    reason : str
        A sentence.
    label : str or None
        The label that they may have instead, or the class that the finding is about.
    """

    kind: str
    score: float
    rows: tuple[int, ...]
    reason: str
    label: str | None = None


def copies_kind(word: str, samples: FeatureMatrix, rows: Iterable[int]) -> str:
    """What copies are called: the worst that is true of them comes last."""
    rows = list(rows)
    if len({meaning(samples.y[row]) for row in rows if samples.y[row] is not None}) > 1:
        return f"{word} with different labels"
    return f"{word} in different splits" if len({samples.split[row] for row in rows}) > 1 else word
