"""What copies across splits do to the accuracy: that of a probe with and without them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from featurepipe.audits.findings import Finding
from featurepipe.manifests.labelsets import SEPARATOR
from featurepipe.matrices import FeatureMatrix, arrange, cut
from featurepipe.probes import predict
from featurepipe.probes.parts import fit_parts

KIND = "logistic"
HELD_OUT = {"val": ("train",), "test": ("train", "val")}  # split → those that are learned from before it is reported


@dataclass(frozen=True)
class Leak:
    """The accuracy of a logistic probe on the reported split, with and without copies of what it has learned.

    Attributes
    ----------
    split : str
        ``test``, or ``val`` where there is no test.
    n, copies : int
        How many images it has, and how many of them are copies, exact or near.
    top1 : float
        Accuracy on all of them.
    without : float or None
        Accuracy on those that are no copies; None where all are.
    """

    split: str
    n: int
    copies: int
    top1: float
    without: float | None


def leaked(samples: FeatureMatrix, copies: Iterable[Finding]) -> np.ndarray:
    """Which rows, (n,), are held out and have a copy in a split that is learned from."""
    mask = np.zeros(len(samples), bool)
    for finding in copies:
        splits = {samples.split[row] for row in finding.rows}
        for row in finding.rows:
            mask[row] |= not splits.isdisjoint(HELD_OUT.get(samples.split[row], ()))
    return mask


def measure(samples: FeatureMatrix, mask: np.ndarray, seed: int) -> Leak | None:
    """Fit the probe, and measure it with and without what `leaked` marks.

    Returns
    -------
    Leak or None
        None where splits are not given, labels are sets, or nothing can be learned or reported.
    """
    rows = np.flatnonzero([label is not None and SEPARATOR not in label for label in samples.y])
    known, copied = samples.take(rows), mask[rows]
    given = set(known.split)
    if not given <= {"train", "val", "test"} or not {"val", "test"} & given:
        return None
    if len(set(known.y[known.split == "train"])) < 2:
        return None
    names = set(known.ids[copied])
    parts = cut(arrange(known, known.split))
    fitted = fit_parts(KIND, parts, seed=seed)
    reported = parts.report if parts.whole is None else parts.whole
    right = predict(fitted.estimator, reported.X) == reported.y
    own = np.array([id_ not in names for id_ in reported.ids], bool)
    without = float(right[own].mean()) if own.any() else None
    return Leak(parts.reported, len(right), int((~own).sum()), float(right.mean()), without)
