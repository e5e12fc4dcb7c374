"""Check: classes with few images, which a probe hears little of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from featurepipe.audits.evidence import Evidence
from featurepipe.audits.findings import Finding

FEW = 0.1  # of the images of the largest class


def small_classes(evidence: Evidence) -> Iterator[Finding]:
    """Classes with less than a tenth of the images of the largest one."""
    counts = Counter(evidence.samples.y[evidence.labelled])
    largest, most = counts.most_common(1)[0]
    for label, count in counts.items():
        if count < FEW * most:
            rows = evidence.labelled[evidence.samples.y[evidence.labelled] == label]
            reason = f"{label} has {count} image{'s' * (count > 1)}, {largest} has {most}"
            yield Finding("small classes", 1 - count / most, tuple(rows.tolist()), reason)
