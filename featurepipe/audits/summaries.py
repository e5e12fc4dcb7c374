"""An audit in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from featurepipe.audits.findings import kinds
from featurepipe.audits.leaks import Leak

if TYPE_CHECKING:
    from featurepipe.audits.checks import Checked


def summarise(found: Mapping[str, Checked], leak: Leak | None) -> list[str]:
    """What was found, in sentences and counts: the leak first, then each kind of finding.

    Examples
    --------
    >>> summarise({}, Leak("test", 240, 12, 0.982, 0.979))[0]
    '12 of 240 test images are copies of images that a probe learns from; its accuracy is 98.2 %, without them 97.9 %'
    """
    counts = {kind: count for one in found.values() for kind, count in kinds(one.findings).items()}
    lines = [] if leak is None or not leak.copies else [_told(leak)]
    return [*lines, *(f"{kind}: {count}" for kind, count in counts.items())] or ["nothing was found"]


def _told(leak: Leak) -> str:
    which = f"1 of {leak.n} {leak.split} images is a copy of an image"
    if leak.copies > 1:
        which = f"{leak.copies} of {leak.n} {leak.split} images are copies of images"
    without = "and no image is left without them" if leak.without is None else f"without them {_percent(leak.without)}"
    return f"{which} that a probe learns from; its accuracy is {_percent(leak.top1)}, {without}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
