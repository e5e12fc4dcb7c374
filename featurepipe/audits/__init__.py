"""Audits: what is wrong with the samples themselves, found in their embeddings, pixels and labels.

A check is a function of an `Evidence` that yields findings. It is listed in `CHECKS`, and raises `Unknown` where it
needs what is not known of these samples.
"""

from featurepipe.audits.checks import CHECKS, COPIES, Check, Checked, check
from featurepipe.audits.evidence import Evidence
from featurepipe.audits.findings import Finding, Unknown, kinds
from featurepipe.audits.fixes import Fix, fix
from featurepipe.audits.leaks import Leak, leaked, measure
from featurepipe.audits.pictures import Pictures, look
from featurepipe.audits.summaries import summarise

__all__ = [
    "CHECKS",
    "COPIES",
    "Check",
    "Checked",
    "Evidence",
    "Finding",
    "Fix",
    "Leak",
    "Pictures",
    "Unknown",
    "check",
    "fix",
    "kinds",
    "leaked",
    "look",
    "measure",
    "summarise",
]
