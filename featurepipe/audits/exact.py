"""Check: contents that are there several times."""

from __future__ import annotations

from collections.abc import Iterator

from featurepipe.audits.evidence import Evidence
from featurepipe.audits.findings import Finding, copies_kind


def exact_copies(evidence: Evidence) -> Iterator[Finding]:
    """Samples of the very same bytes, which may be in different splits or have different labels."""
    for rows in evidence.copies:
        if len(rows) > 1:
            kind = copies_kind("exact copies", evidence.samples, rows)
            yield Finding(kind, 1.0, tuple(rows.tolist()), f"{len(rows)} samples have the same bytes")
