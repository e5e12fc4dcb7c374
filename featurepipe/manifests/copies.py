"""Copies of one image under labels that contradict each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featurepipe.manifests.labelsets import SEPARATOR, read_set
from featurepipe.manifests.samples import Sample


def contradictions(digests: np.ndarray, samples: Sequence[Sample]) -> tuple[int, list[str]]:
    """How many images have an exact copy under another label, and a note that names the first two.

    Parameters
    ----------
    digests : ndarray of bytes or str, shape (n,)
        Empty where there is none.
    samples : sequence of Sample
        Of these digests.

    Returns
    -------
    count : int
    notes : list of str
        None where there are no such images.

    Examples
    --------
    >>> samples = [Sample(f"{i}.png", f"{i}.png", label, None) for i, label in enumerate(["cat", "cat", "dog"])]
    >>> contradictions(np.array(["a", "b", "a"]), samples)[0]
    2
    """
    order = np.argsort(digests, kind="stable")
    same = np.concatenate([[False], digests[order[1:]] == digests[order[:-1]], [False]])  # as the one before it
    starts, ends = np.flatnonzero(~same[:-1] & same[1:]), np.flatnonzero(same[:-1] & ~same[1:])
    count, first = 0, None  # the first pair, by their rows
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        copies = order[start : end + 1].tolist() if digests[order[start]] else []
        rows = [row for row in copies if samples[row].label is not None]
        meanings = [_meaning(samples[row].label) for row in rows]
        other = next((row for row, one in zip(rows, meanings, strict=True) if one != meanings[0]), None)
        if other is not None:
            count += len(rows)
            pair = (rows[0], other)
            first = pair if first is None else min(first, pair)
    if first is None:
        return 0, []
    named = " and ".join(f"{samples[row].id} ({samples[row].label})" for row in first)
    return count, [
        f"{count} images have an exact copy under another label, first {named}; correct the labels or remove the copies"
    ]


def _meaning(label: str) -> object:
    """A set of labels in any order is the same."""
    return read_set(label) if SEPARATOR in label else label
