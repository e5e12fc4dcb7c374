"""Parameters by scikit-learn's names: the strength of a probe, the seed, and weights of samples."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.vocabulary.names import KINDS

STRENGTHS = ("C", "alpha", "shrinkage", "n_neighbors")


def strength(kind: str, given: Mapping[str, Any]) -> float | None:
    """The strength of a kind of probe, which may be given as `value` or by its own name; None where neither is.

    Parameters
    ----------
    kind : str
    given : mapping
        ``value`` and `STRENGTHS` → what was given, or None.

    Raises
    ------
    ProbeError
        Both are given, or the name is another kind's.

    Examples
    --------
    >>> strength("ridge", {"value": None, "alpha": 10.0})
    10.0
    """
    named = {name: given[name] for name in ("value", *STRENGTHS) if given.get(name) is not None}
    if wrong := named.keys() - {"value", KINDS.get(kind)}:
        own = KINDS.get(kind)
        instead = f"use {own}, or another kind" if own else "leave it out, or use another kind"
        raise ProbeError(f"a {kind} probe has no {wrong.pop()}; {instead}")
    if len(named) > 1:
        raise ProbeError(f"{' and '.join(named)} are the same of a {kind} probe; give one of them")
    return next(iter(named.values()), None)


def seed_of(seed: int, random_state: Any) -> int:
    """The seed, which scikit-learn calls `random_state`; that one counts, where it is given.

    Raises
    ------
    ValueError
        It is not a whole number: files record the seed, and a generator has none.
    """
    if random_state is None:
        return seed
    if not isinstance(random_state, Integral) or random_state < 0:
        raise ValueError(f"random_state is a whole number, which model files record; got {random_state!r}")
    return int(random_state)


def weights_of(rows: int, sample_weight: Any) -> np.ndarray | None:
    """Weights (n,) of as many rows; None if there are none.

    Raises
    ------
    ValueError
        They are not one number for each row, one is below 0, or all are 0.
    """
    if sample_weight is None:
        return None
    try:
        found = np.asarray(sample_weight, float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample_weight is numbers; {error}") from error
    if found.ndim == 0:
        found = np.full(rows, float(found))
    if found.shape != (rows,) or not np.isfinite(found).all() or (found < 0).any() or not found.any():
        raise ValueError(f"sample_weight is one number for each of {rows} rows, none below 0 and not all 0")
    return found
