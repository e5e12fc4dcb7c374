"""A probe of the parts of a feature matrix: these are held, one fits it, another selects it, and none is reported."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError, StoreError
from featurepipe.files import size_text
from featurepipe.matrices import FeatureMatrix, Parts, cut
from featurepipe.matrices.scratch import check_scores, read, scratch
from featurepipe.memory import available
from featurepipe.probes.kinds import KINDS, names
from featurepipe.probes.labels import MULTI_LABEL, fit_labels
from featurepipe.probes.scorings import HELD
from featurepipe.probes.selection import Probe, fit
from featurepipe.solvers.paths import ARRAY, MANY
from featurepipe.stores import Entry, JointEntry

SCORES = 18  # float64 arrays (n, classes): of each candidate on selection data, and of the C path


def hold(
    entry: Entry | JointEntry,
    samples: FeatureMatrix,
    kind: str,
    memory: int | None,
    *,
    whole: bool = False,
    device: str = "cpu",
) -> Parts:
    """Read the embeddings of samples, and cut them into parts.

    Where the features and a working copy of them exceed the memory, they lie in a file instead: in the entry's folder,
    or in the system's folder for temporary files if that may not be written. It has no name, so that nothing is left of
    it when its last array is gone, however this process ends.

    Parameters
    ----------
    entry : Entry or JointEntry
    samples : FeatureMatrix
        Samples of `featurepipe.matrices.outline`, in the order of `featurepipe.matrices.parts.arrange`.
    kind : str
        Kind of the probe.
    memory : int or None
        Bytes; by default what is available.
    whole : bool
        Whether something else than the probe needs all features in memory (semi-supervised lines).
    device : str
        Where the probe is fitted.

    Raises
    ------
    ProbeError
        The features do not fit, and the kind has to hold them; or not even the scores of the classes do.
    StoreError
        They fit on the disk neither.
    ShardCorrupt
        A row fails its checksum.
    """
    shape = len(samples), *entry.shape
    size = prod(shape) * np.dtype(entry.dtype).itemsize
    copies = 4 if kind == MULTI_LABEL else 2
    classes = len(set(samples.y))
    by_blocks = kind != MULTI_LABEL and classes >= MANY and not KINDS[kind].holds_scores and device == "cpu"
    scores = 8 * SCORES * min(len(samples) * classes, ARRAY if by_blocks else sys.maxsize)
    limit = available() if memory is None else memory
    if kind != MULTI_LABEL:
        check_scores(samples, limit, available(), most=HELD if by_blocks else sys.maxsize)
    if limit is None or copies * size + scores <= limit:
        return cut(read(entry, samples))
    much = (
        f"the features and a working copy take {size_text(copies * size)}, class scores up to {size_text(scores)}; "
        f"that is more than the {size_text(limit)} of memory"
    )
    if whole:
        raise ProbeError(
            f"{much}, but semi-supervised probes need them in memory; leave out --semi, or give more --memory"
        )
    if kind == MULTI_LABEL:
        raise ProbeError(f"{much}, but a multi-label probe needs both in memory; give more --memory")
    if KINDS[kind].is_copied:
        others = ", ".join(names("is_copied", without=True))
        raise ProbeError(f"{much}, but a {kind} probe needs both in memory; use {others}, or more --memory")
    folder = entry.folder if os.access(entry.folder, os.W_OK) else Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StoreError(
            f"{much}, and a scratch file of {size_text(size)} is more than the {size_text(free)} left in {folder}"
        )
    X = scratch(folder, shape, entry.dtype)
    return cut(read(entry, samples, X), f"out of core: {much}, so the features were read from disk")


def fit_parts(
    kind: str,
    parts: Parts,
    *,
    value: float | None = None,
    seed: int = 0,
    class_weight: str | None = None,
    device: str = "cpu",
    multi_label: bool = False,
    measure: bool = True,
) -> Probe:
    """A probe that has seen all but what is reported; selected on val, or by cross-validation.

    Parameters
    ----------
    kind : str
    parts : Parts
    value, seed, class_weight, device, measure
        As for `featurepipe.probes.fit`.
    multi_label : bool
        Whether labels are sets of labels: `featurepipe.probes.fit_labels`.
    """
    select = () if parts.select is None else (parts.select.X, parts.select.y)
    options: dict[str, Any] = {"value": value, "seed": seed, "class_weight": class_weight}
    options |= {"groups": parts.train.units, "device": device}
    if multi_label:
        return fit_labels(parts.train.X, parts.train.y, *select, **options)
    options |= {"keep": parts.elsewhere is None, "measure": measure, "blocks": parts.train.blocks}
    return fit(kind, parts.train.X, parts.train.y, *select, **options)
