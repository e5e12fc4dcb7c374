"""The kinds of probe, one file each. A new one is a member of `KINDS`; nothing else needs to know it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes.kinds.approximate_knn import ApproximateKnn
from featurepipe.probes.kinds.attentive import Attentive
from featurepipe.probes.kinds.centroid import Centroid
from featurepipe.probes.kinds.kind import BALANCED, FOLDS, TOKENS, VECTORS, Fitted, Head, Kind, balanced, threads
from featurepipe.probes.kinds.knn import Knn
from featurepipe.probes.kinds.lda import Lda
from featurepipe.probes.kinds.logistic import C_GRID, Logistic
from featurepipe.probes.kinds.mlp import Mlp
from featurepipe.probes.kinds.quadratic import describe
from featurepipe.probes.kinds.ridge import ALPHA_GRID, Ridge
from featurepipe.probes.kinds.svm import Svm
from featurepipe.solvers import CPU, check_device

__all__ = [
    "ALPHA_GRID",
    "BALANCED",
    "CLASS_WEIGHTS",
    "C_GRID",
    "FOLDS",
    "KINDS",
    "TOKENS",
    "VECTORS",
    "Fitted",
    "Head",
    "Kind",
    "balanced",
    "candidates_of",
    "check_blocks",
    "check_kind",
    "check_weighing",
    "check_weights",
    "describe",
    "named",
    "names",
    "threads",
]

_ALL = (Logistic(), Ridge(), Svm(), Lda(), Centroid(), Knn(), ApproximateKnn(), Mlp(), Attentive())
KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}
CLASS_WEIGHTS = (None, BALANCED)


def names(trait: str, *, without: bool = False) -> tuple[str, ...]:
    """Names of the kinds that have a trait, such as ``is_linear``; or of those that lack it.

    Examples
    --------
    >>> names("is_copied")
    ('knn', 'approximate-knn', 'mlp')
    """
    return tuple(name for name, kind in KINDS.items() if getattr(kind, trait) is not without)


def named(kind: str) -> Kind:
    """The kind of that name.

    Raises
    ------
    ProbeError
        There is none.
    """
    if kind not in KINDS:
        *others, last = KINDS
        raise ProbeError(f"probe {kind!r} is unknown; use {', '.join(others)} or {last}")
    return KINDS[kind]


def candidates_of(kind: str, value: float | None, rows: int = sys.maxsize) -> tuple[float | None, ...]:
    """The strengths to try: the given one, or the kind's grid as far as this many rows allow.

    Without their number, whatever any rows could have.

    Raises
    ------
    ProbeError
        A value that the kind cannot have.
    """
    return KINDS[kind].candidates(value, rows)


def check_blocks(kind: str, blocks: Sequence[int], width: int | None = None) -> None:
    """Raise ProbeError unless a kind takes features in blocks, and these add up to the width, if it is given."""
    if len(blocks) < 2:
        return
    if not KINDS[kind].is_standardised:
        able = ", ".join(names("is_standardised"))
        raise ProbeError(
            f"a {kind} probe takes features as they are, and those of several entries differ in size and number; use "
            f"one of {able}, or a single entry"
        )
    if width not in (None, sum(blocks)):
        raise ProbeError(f"blocks of {', '.join(map(str, blocks))} features are not the {width} that there are")


def check_weights(kind: str, weights: np.ndarray, rows: int) -> None:
    """Raise ProbeError unless a kind takes these weights, one for each row."""
    check_weighing(kind)
    if weights.shape != (rows,) or not np.isfinite(weights).all() or (weights <= 0).any():
        raise ProbeError(f"sample_weight is one number above 0 for each of {rows} rows; got {weights.shape}")


def check_weighing(kind: str) -> None:
    """Raise ProbeError unless a kind takes a weight for each row."""
    if not named(kind).weighs_rows:
        able = ", ".join(names("weighs_rows"))
        raise ProbeError(f"a {kind} probe has no weights of samples; leave them out, or use one of {able}")


def check_kind(kind: str, class_weight: str | None, device: str = CPU) -> None:
    """Raise ProbeError for an unknown kind, or class weights or a device that it cannot have.

    And DependencyMissing for one that needs a library which is not installed.
    """
    found = named(kind)
    found.check_installed()
    if class_weight not in CLASS_WEIGHTS:
        raise ProbeError(f"class_weight {class_weight!r} is unknown; use None or 'balanced'")
    if class_weight is not None and not found.is_weighted:
        able = ", ".join(names("is_weighted"))
        raise ProbeError(f"a {kind} probe has no class weights; leave them out, or use one of {able}")
    if device != CPU and not found.on_devices:
        raise ProbeError(
            f"a {kind} probe is fitted on the {CPU}, not on {device}; leave the device out, or use one of "
            f"{', '.join(names('on_devices'))}"
        )
    check_device(device)
