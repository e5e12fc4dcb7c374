"""All checks, and doing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from featurepipe.audits.balance import small_classes
from featurepipe.audits.evidence import Evidence
from featurepipe.audits.exact import exact_copies
from featurepipe.audits.findings import Finding, Unknown
from featurepipe.audits.labels import suspicious_labels
from featurepipe.audits.near import near_copies
from featurepipe.audits.oddities import odd_images
from featurepipe.audits.outliers import outliers
from featurepipe.audits.shortcuts import shortcuts
from featurepipe.listeners import SILENT, Listener

Check = Callable[[Evidence], Iterable[Finding]]
COPIES = ("exact-copies", "near-copies")  # the checks that leaks are found by
CHECKS: dict[str, Check] = {
    COPIES[0]: exact_copies,
    COPIES[1]: near_copies,
    "labels": suspicious_labels,
    "outliers": outliers,
    "odd-images": odd_images,
    "small-classes": small_classes,
    "shortcuts": shortcuts,
}


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes
    ----------
    findings : list of Finding
        The surest, or gravest, first.
    skipped : str or None
        Why it could not tell.
    """

    findings: list[Finding]
    skipped: str | None = None


def check(
    evidence: Evidence, checks: Mapping[str, Check] = CHECKS, *, listener: Listener = SILENT
) -> dict[str, Checked]:
    """Do all checks.

    Parameters
    ----------
    evidence : Evidence
    checks : mapping of str to callable
    listener : Listener

    Returns
    -------
    dict of str to Checked
    """
    found = {}
    with listener.progress("checking", len(checks)) as advance:
        for name, one in checks.items():
            try:
                found[name] = Checked(sorted(one(evidence), key=lambda finding: -finding.score))
            except Unknown as why:
                found[name] = Checked([], str(why))
            advance(1)
    return found
