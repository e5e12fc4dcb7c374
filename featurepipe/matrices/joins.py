"""Feature matrices of the same samples, side by side: each is a block of the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from featurepipe.digests import sha256_bytes
from featurepipe.errors import ManifestError
from featurepipe.manifests import units
from featurepipe.matrices.features import FeatureMatrix

SHOWN = 5  # samples that a note names


def join(matrices: Mapping[str, FeatureMatrix]) -> tuple[FeatureMatrix, dict[str, list[str]]]:
    """The samples that all of several matrices have, with all of their features.

    Samples are the same if their ids are. Where their contents differ, as those of a picture and its text do, a sample
    is a copy of another one if all of its contents are, and samples that share any content stay together.

    Parameters
    ----------
    matrices : mapping
        Matrices, or outlines of `featurepipe.matrices.outline`, by the names of what they are of.

    Returns
    -------
    FeatureMatrix
        In the order of the first one; X has the columns of the first one, then those of the second, and so on.
    dict
        For each name the ids of samples that it lacks and another one has.

    Raises
    ------
    ManifestError
        They share no sample, or disagree on the label, the split or the group of one.

    Examples
    --------
    >>> from featurepipe.matrices import from_rows
    >>> from featurepipe.manifests import Sample
    >>> from featurepipe.stores import Row
    >>> rows = [Row(Sample(name, name, "cat", None), "0" * 63 + name) for name in "abc"]
    >>> left, right = from_rows(rows, np.ones((3, 2))), from_rows(rows[1:], np.ones((2, 1)))
    >>> joined, lacking = join({"left": left, "right": right})
    >>> joined.ids.tolist(), joined.X.shape, lacking
    (['b', 'c'], (2, 3), {'left': [], 'right': ['a']})
    """
    places = {name: {id_: row for row, id_ in enumerate(one.ids.tolist())} for name, one in matrices.items()}
    known = list(dict.fromkeys(id_ for mine in places.values() for id_ in mine))
    common = [id_ for id_ in known if all(id_ in mine for mine in places.values())]
    if not common:
        raise ManifestError(
            f"{' and '.join(matrices)} share no sample; their samples are matched by id, so use one table of all of "
            "them that has a column id"
        )
    taken = {name: one.take(np.array([places[name][id_] for id_ in common])) for name, one in matrices.items()}
    for pair in pairwise(taken.items()):
        _check_agreement(*pair)
    lacking = {name: sorted(set(known) - mine.keys()) for name, mine in places.items()}
    return _beside(list(taken.values())), lacking


def _beside(taken: Sequence[FeatureMatrix]) -> FeatureMatrix:
    """Matrices of the same samples as one."""
    first = replace(taken[0], X=np.concatenate([one.X for one in taken], axis=1))
    if all(np.array_equal(one.digests, first.digests) for one in taken):
        return first
    digests = np.array(
        [sha256_bytes("".join(row).encode()) for row in zip(*(one.digests for one in taken), strict=True)], object
    )
    linked = taken[0].units
    for one in taken[1:]:
        linked = units(one.files, linked)
    is_linked = first.has_units or len(np.unique(linked)) < len(np.unique(digests))
    return replace(first, digests=digests, groups=linked if is_linked else None, contents=None)


def _check_agreement(one: tuple[str, FeatureMatrix], other: tuple[str, FeatureMatrix]) -> None:
    (name, mine), (another, its) = one, other
    for what, a, b in (
        ("label", mine.y, its.y),
        ("split", mine.split, its.split),
        ("group", _groups(mine), _groups(its)),
    ):
        if (differs := a != b).any():
            row = int(differs.argmax())
            raise ManifestError(
                f"{mine.ids[row]} has {what} {a[row] or 'none'} for {name} and {b[row] or 'none'} for {another}; "
                "correct one of them, and run featurepipe extract again"
            )


def _groups(matrix: FeatureMatrix) -> np.ndarray:
    return np.full(len(matrix), None) if matrix.groups is None else matrix.groups


def lacking_notes(lacking: Mapping[str, Sequence[str]]) -> list[str]:
    """A note for each block that some samples lack, which names them."""
    notes = []
    for name, ids in lacking.items():
        if ids:
            shown = ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
            notes.append(f"left out, as {name} has nothing of {'it' if len(ids) == 1 else 'them'}: {shown}")
    return notes
