"""Certified solvers: logistic regression and linear SVMs along a whole path of strengths. Knows no probe.

`featurepipe.solvers.paths` says how the path is fitted and what its certificates prove.
"""

from featurepipe.solvers.arrays import CPU, check_device
from featurepipe.solvers.paths import TOLERANCE, Certificate, Fit, LogisticPath, SvmPath
from featurepipe.solvers.stacks import Matrix, Stack, blocks_of, chunks, stacked, weighted_moments

__all__ = [
    "CPU",
    "TOLERANCE",
    "Certificate",
    "Fit",
    "LogisticPath",
    "Matrix",
    "Stack",
    "SvmPath",
    "blocks_of",
    "check_device",
    "chunks",
    "stacked",
    "weighted_moments",
]
