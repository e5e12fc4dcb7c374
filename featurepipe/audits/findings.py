"""What a check finds, and how it says that it cannot tell."""

from __future__ import annotations

from collections import Counter
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
        The samples, as rows of `featurepipe.audits.Evidence.samples`; none where the finding is about all of them.
    reason : str
        A sentence.
    label : str or None
        The label that they may have instead.
    """

    kind: str
    score: float
    rows: tuple[int, ...]
    reason: str
    label: str | None = None


LABELS, SPLITS = " with different labels", " in different splits"


def copies_kind(word: str, samples: FeatureMatrix, rows: Iterable[int]) -> str:
    """What copies are called: the worst that is true of them is said."""
    rows = list(rows)
    if len({meaning(samples.y[row]) for row in rows if samples.y[row] is not None}) > 1:
        return f"{word}{LABELS}"
    return f"{word}{SPLITS}" if len({samples.split[row] for row in rows}) > 1 else word


def kinds(findings: Iterable[Finding]) -> dict[str, int]:
    """Kind → how many findings; copies that contradict each other come first, then those in different splits."""
    counts = Counter(finding.kind for finding in findings)
    return {kind: counts[kind] for kind in sorted(counts, key=_harmlessness)}


def _harmlessness(kind: str) -> int:
    return 0 if kind.endswith(LABELS) else 1 if kind.endswith(SPLITS) else 2
