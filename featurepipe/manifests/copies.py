"""Copies of one image under labels that contradict each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from featurepipe.manifests.labelsets import SEPARATOR, read_set
from featurepipe.manifests.samples import Sample

NAMED = 5  # groups that a note names, and labels of each


def contradictions(digests: np.ndarray, samples: Sequence[Sample]) -> list[list[dict[str, str]]]:
    """Images with an exact copy under another label, each with its copies.

    Parameters
    ----------
    digests : ndarray of bytes or str, shape (n,)
        Empty where there is none.
    samples : sequence of Sample
        Samples with these digests.

    Returns
    -------
    list of list of dict
        For each such content ``id`` and ``label`` of every sample that has a label; all in the order of the samples.

    Examples
    --------
    >>> samples = [Sample(f"{i}.png", f"{i}.png", label, None) for i, label in enumerate(["cat", "cat", "dog"])]
    >>> contradictions(np.array(["a", "b", "a"]), samples)
    [[{'id': '0.png', 'label': 'cat'}, {'id': '2.png', 'label': 'dog'}]]
    """
    order = np.argsort(digests, kind="stable")
    same = np.concatenate([[False], digests[order[1:]] == digests[order[:-1]], [False]])  # as the one before it
    starts, ends = np.flatnonzero(~same[:-1] & same[1:]), np.flatnonzero(same[:-1] & ~same[1:])
    groups = []  # of rows
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        copies = order[start : end + 1].tolist() if digests[order[start]] else []
        rows = [row for row in copies if samples[row].label is not None]
        if len({meaning(samples[row].label) for row in rows}) > 1:
            groups.append(rows)
    return [[{"id": samples[row].id, "label": samples[row].label} for row in rows] for rows in sorted(groups)]


def contradiction_notes(groups: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
    """A note that names the first of the groups that `contradictions` finds; none where there are none.

    Examples
    --------
    >>> contradiction_notes([[{"id": "a.png", "label": "cat"}, {"id": "b.png", "label": "dog"}]])[0].partition(": ")[2]
    'a.png (cat) = b.png (dog); correct the labels or remove the copies'
    """
    if not groups:
        return []
    named = "; ".join(map(_named, groups[:NAMED]))
    more = f"; and {len(groups) - NAMED} more" if len(groups) > NAMED else ""
    return [
        f"{sum(map(len, groups))} images have an exact copy under another label: {named}{more}; correct the labels or "
        "remove the copies"
    ]


def _named(group: Sequence[Mapping[str, str]]) -> str:
    """The first copy of each label, of `NAMED` labels at most."""
    firsts: dict[object, Mapping[str, str]] = {}
    for one in group:
        firsts.setdefault(meaning(one["label"]), one)
    shown = list(firsts.values())[:NAMED]
    more = len(group) - len(shown)
    said = "" if not more else " and 1 more copy" if more == 1 else f" and {more} more copies"
    return " = ".join(f"{one['id']} ({one['label']})" for one in shown) + said


def meaning(label: str) -> object:
    """What two labels have in common if they say the same: a set of labels may be in any order.

    Examples
    --------
    >>> meaning("cat;dog") == meaning("dog;cat")
    True
    """
    return read_set(label) if SEPARATOR in label else label
