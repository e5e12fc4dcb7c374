"""Whether what a network knows lies in its tokens: by its pretraining, and by the gap between two probes.

A linear probe reads one vector of an image. Networks that were pretrained to rebuild what was masked keep much of what
they know in the tokens of the patches, where an attentive probe finds it: on ImageNet MAE ViT-B goes from 67.8 % to
75.5 %, SimMIM from 47.2 % to 64.9 %, and DINOv2 by half a point only (Psomas et al., "Attention, Please! Revisiting
Attentive Probing Through the Lens of Efficiency", ICLR 2026).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

TRY, USE, KEEP = "try", "use", "keep"  # what is said about an attentive probe


def verdict(evidence: Mapping[str, Any], worth: float) -> str | None:
    """What is to be done about an attentive probe: ``try``, ``use``, ``keep`` (the linear one), or None: nothing.

    Parameters
    ----------
    evidence : mapping
        Its ``tokens`` has ``possible`` (whether the network has tokens), and ``attentive``: None, or ``top1, n`` of an
        attentive probe on the same selection data.
    worth : float
        The least gain that counts. It also has to be more than one standard error of the difference.

    Examples
    --------
    >>> known = {"top1": 0.70, "measured": 1000, "masked": False}
    >>> verdict({**known, "tokens": {"possible": True, "attentive": {"top1": 0.76, "n": 1000}}}, 0.01)
    'use'
    >>> verdict({**known, "masked": True, "tokens": {"possible": True, "attentive": None}}, 0.01)
    'try'
    """
    tokens = evidence.get("tokens") or {"possible": False, "attentive": None}
    if tokens["attentive"] is not None:
        gain, error = gap(evidence)
        return USE if gain >= worth and gain > error else KEEP
    return TRY if evidence.get("masked") and tokens["possible"] else None


def gap(evidence: Mapping[str, Any]) -> tuple[float, float]:
    """By how much the attentive probe is better than the linear one, and the standard error of that.

    The samples are the same, so the true error is smaller.
    """
    found = evidence["tokens"]["attentive"]
    errors = (error_of(found["top1"], found["n"]), error_of(evidence["top1"], evidence["measured"]))
    return found["top1"] - evidence["top1"], math.hypot(*errors)


def error_of(top1: float, n: int) -> float:
    """The standard error of a top-1 on n samples; without a mistake, that of one mistake."""
    error = max(1 - top1, 1 / n)
    return math.sqrt(error * (1 - error) / n)


def reasons(evidence: Mapping[str, Any], worth: float) -> list[str]:
    """What the gaps between neighbours, the linear and the attentive probe say; nothing without the latter."""
    said = verdict(evidence, worth)
    if said not in (USE, KEEP):
        return []
    found, (gain, error) = evidence["tokens"]["attentive"], gap(evidence)
    figures = (
        f"On selection data neighbours are right on {_percent(evidence['knn'])}, the linear probe on "
        f"{_percent(evidence['top1'])}, and the attentive probe on the tokens on {_percent(found['top1'])}"
    )
    if said == USE:
        return [f"{figures}: the tokens know more than the vector."]
    if gain > 0:
        return [f"{figures}: chance explains a gap of {100 * gain:.1f} ± {100 * error:.1f} points."]
    return [f"{figures}: the tokens know no more than the vector."]


def warnings(evidence: Mapping[str, Any]) -> list[str]:
    """That linear probes mislead here, where the network's name says that it was pretrained by masking."""
    if not evidence.get("masked"):
        return []
    return [
        "A linear probe is misleading for backbones pretrained by masking. For a MAE ViT-B on ImageNet, lightly's "
        "benchmarks report 11.2 % for neighbours, 46.0 % for the probe and 81.3 % for the tuned network.",
        "An attentive probe reads the tokens instead, and is fairer to such backbones: on ImageNet it takes MAE ViT-B "
        "from 67.8 % to 75.5 % and SimMIM from 47.2 % to 64.9 % (Psomas et al., Efficient probing, ICLR 2026).",
    ]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"
