"""Which candidates of a grid are fitted, and which rows select among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.protocols.copies import distinct
from featurepipe.protocols.definitions import Protocol


def search(score: Callable[[int], float], count: int, coarse: int = 0) -> dict[int, float]:
    """Score candidates of a grid: every one, or by CLIP's parametric binary search.

    The search scores every `coarse`-th candidate, then both neighbours of the best at half that distance, and so on
    down to neighbours in the grid. No candidate is scored twice.

    Parameters
    ----------
    score : callable
        From a candidate's place to its score, the higher the better.
    count : int
        Candidates, in ascending order of weakness of the regularisation.
    coarse : int
        A power of 2; 0 for every candidate.

    Returns
    -------
    dict
        Place → score, in the order in which they were scored.

    Notes
    -----
    Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", A.3.

    Examples
    --------
    >>> found = search(lambda place: -abs(place - 37), 97, coarse=16)
    >>> list(found)
    [0, 16, 32, 48, 64, 80, 96, 24, 40, 36, 44, 34, 38, 35, 37]
    >>> best(found)
    37
    """
    found = {place: score(place) for place in range(0, count, coarse or 1)}
    step = coarse // 2
    while step:
        peak = best(found)
        for place in (peak - step, peak + step):
            if 0 <= place < count:
                found[place] = score(place)
        step //= 2
    return found


def best(found: dict[int, float]) -> int:
    """The place of the highest score; of equal ones the first in the grid."""
    return min(found, key=lambda place: (-found[place], place))


def hold_out(
    protocol: Protocol, y: np.ndarray, seed: int, groups: Sequence[object] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and rows to select on, where no validation data are given.

    Parameters
    ----------
    protocol : Protocol
        Its `held_out` share: of each class, rounded, or of torch's random permutation of all rows, rounded down.
        Copies count as one, and go together.
    y : ndarray, shape (n,)
    seed : int
    groups : sequence, shape (n,), optional
        Rows of the same class and group are one image; of a group that is held out no row of another class is fitted.

    Returns
    -------
    (ndarray of int, ndarray of int)

    Raises
    ------
    ProbeError
        There are too few rows to hold any out.
    """
    images = distinct(y, groups)
    labels = y[images.firsts]
    if protocol.stratified:
        generator = np.random.default_rng(seed)
        members = [generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(y)]
        held = np.sort(np.concatenate([found[: round(protocol.held_out * len(found))] for found in members]))
    else:
        held = _permutation(len(labels), seed)[: int(protocol.held_out * len(labels))]
    if not len(held):
        raise ProbeError(
            f"protocol {protocol.name} holds out {protocol.held_out:.0%} of the training samples to select on, and "
            f"of {len(labels)} that leaves none; add images or a val split"
        )
    held = images.rows(held)
    return images.without(np.setdiff1d(np.arange(len(y)), held), held), held


def _permutation(count: int, seed: int) -> np.ndarray:
    """torch's, so that the very rows are held out that DINOv2's own code holds out."""
    import torch

    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
