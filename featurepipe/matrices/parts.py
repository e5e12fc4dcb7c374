"""Labelled rows, how they are split, and the parts that a probe learns from, is selected on and is measured on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from featurepipe import manifests
from featurepipe.errors import ManifestError, ProbeError
from featurepipe.manifests import Sample
from featurepipe.matrices.features import FeatureMatrix
from featurepipe.stores import Entry, JointEntry

STEP = 2**22  # numbers that are checked at once


@dataclass(frozen=True)
class Parts:
    """A labelled matrix cut into training, selection and evaluation rows, each of them a slice of it.

    Attributes
    ----------
    train : FeatureMatrix
    select : FeatureMatrix or None
        Val without exact copies of training images, where test is reported; None if that leaves none.
    report : FeatureMatrix
        Without exact copies of what is learned, unless all are.
    whole : FeatureMatrix or None
        The reported rows and those copies; None where there are none, or all are.
    learned : FeatureMatrix
        All rows but those that are reported, and their copies.
    reported : str
        'test', or 'val' where there is no test.
    elsewhere : str or None
        Why the features are not in memory; None if they are.
    """

    train: FeatureMatrix
    select: FeatureMatrix | None
    report: FeatureMatrix
    whole: FeatureMatrix | None
    learned: FeatureMatrix
    reported: str
    elsewhere: str | None

    @property
    def blocks(self) -> list[Parts]:
        """The same rows with the features of one block alone, for each block; no copies."""
        ends = np.cumsum(self.train.blocks).tolist()
        columns = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        held = {name: one for name, one in vars(self).items() if isinstance(one, FeatureMatrix)}
        found = []
        for block in columns:
            mine: dict[str, Any] = {name: one.of(block) for name, one in held.items()}
            found.append(replace(self, **mine))
        return found

    @property
    def nbytes(self) -> int:
        """What the features take of the memory."""
        held_out = self.report if self.whole is None else self.whole
        return 0 if self.elsewhere else self.learned.X.nbytes + held_out.X.nbytes


def labelled(matrix: FeatureMatrix, among: Collection[str] | None = None) -> tuple[FeatureMatrix, list[str]]:
    """The rows that have a label, of some digests if they are given, and a note on rows that have none."""
    has_label = np.array([label is not None for label in matrix.y], bool)
    missing = int((~has_label).sum())
    if not has_label.any():
        raise ManifestError("no sample has a label; put samples into class folders, or add a 'label' column")
    if among is not None:
        has_label &= [digest in among for digest in matrix.digests]
    return matrix.take(has_label), [f"{missing} samples without a label are left out"] if missing else []


def check_finite(matrix: FeatureMatrix, entry: Entry | JointEntry) -> None:
    """Refuse embeddings that no classifier takes, which `extract` never writes.

    Raises
    ------
    ProbeError
        Some are not finite; the message names the first.
    """
    bad = np.zeros(len(matrix), bool)
    rows = max(1, STEP // max(1, prod(matrix.X.shape[1:])))
    for start in range(0, len(matrix), rows):
        some = matrix.X[start : start + rows]
        bad[start : start + rows] = ~np.isfinite(some.reshape(len(some), -1)).all(axis=1)
    if bad.any():
        holds = "holds a value that is" if bad.sum() == 1 else "hold values that are"
        raise ProbeError(
            f"{bad.sum()} of {len(matrix)} embeddings of {entry.title} {holds} not finite: {matrix.ids[bad][0]}; leave "
            "such samples out of the manifest, or extract them into a new store"
        )


def choose_splits(matrix: FeatureMatrix, seed: int, multi_label: bool = False) -> tuple[np.ndarray, str]:
    """Each row's split as given, or made; and which of the two.

    Sets of labels are not stratified by: most of them are too rare.
    """
    given = set(matrix.split)
    samples = samples_of(matrix)
    if None in given and len(given) > 1:
        first = next(sample.id for sample in samples if sample.split is None)
        raise ManifestError(f"some samples have a split and {first} has none; give every sample one, or none")
    check = manifests.check_label_sets if multi_label else manifests.check_labels
    check(samples)
    if is_unsplit(matrix):
        made, how = split_by_content(matrix, seed) if multi_label else _split_by_class(matrix, seed)
        check([s._replace(split=part) for s, part in zip(samples, made, strict=True)])
        return made, how
    if "train" not in given:
        raise ManifestError(f"no sample is in train (only in {', '.join(sorted(given))}); nothing to learn from")
    return matrix.split, "given"


def samples_of(matrix: FeatureMatrix) -> list[Sample]:
    """Rows as samples, without paths of their own."""
    return [Sample(*row) for row in zip(matrix.ids, matrix.ids, matrix.y, matrix.split, strict=True)]


def is_unsplit(matrix: FeatureMatrix) -> bool:
    """Whether splits have to be made: none is given, or train alone."""
    return set(matrix.split) in ({None}, {"train"})


def _split_by_class(matrix: FeatureMatrix, seed: int) -> tuple[np.ndarray, str]:
    made = manifests.assign_splits(matrix.y, matrix.units, seed=seed)
    return np.array(made, object), f"made here: 60/20/20, stratified, seed {seed}"


def split_by_content(matrix: FeatureMatrix, seed: int) -> tuple[np.ndarray, str]:
    """Each row's split, made whatever its label is; and how."""
    made = manifests.assign_splits([""] * len(matrix), matrix.units, seed=seed)
    return np.array(made, object), f"made here: 60/20/20 by content, seed {seed}"


def arrange(matrix: FeatureMatrix, split: np.ndarray) -> FeatureMatrix:
    """A matrix with the split of each row, (n,), in the order of the splits, so that each part is a slice.

    Within a split, exact copies of rows of earlier splits come last.
    """
    places = np.array([manifests.SPLITS.index(name) for name in split])
    first: dict[str, int] = {}  # digest → the earliest split that holds it
    for digest, place in zip(matrix.digests.tolist(), places.tolist(), strict=True):
        first[digest] = min(place, first.get(digest, place))
    copied = places > [first[digest] for digest in matrix.digests.tolist()]
    order = np.lexsort([copied, places])  # stable
    return replace(matrix.take(order), split=split[order])


def _are_among(digests: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which digests, (n,), are among those that are known; NumPy compares objects each with each."""
    some = set(known.tolist())
    return np.fromiter((digest in some for digest in digests.tolist()), bool, len(digests))


def cut(matrix: FeatureMatrix, elsewhere: str | None = None) -> Parts:
    """The parts of an arranged matrix: test is reported, or else val, without copies of what is learned.

    Val images that are copies of training images choose nothing: a probe knows them by heart.
    """
    train, val, test = sizes(matrix.split).values()
    if not val + test:
        many = f"{len(matrix)} samples of {len(set(map(str, matrix.y)))} classes"
        raise ManifestError(
            f"classes are too small to hold any sample back for evaluation ({many}); add samples or a test split"
        )
    learned = train + val if test else train
    copies = int(_are_among(matrix.digests[learned:], matrix.digests[:learned]).sum())
    new = learned - int(_are_among(matrix.digests[train:learned], matrix.digests[:train]).sum())
    some = 0 < copies < len(matrix) - learned
    return Parts(
        train=matrix.take(slice(train)),
        select=matrix.take(slice(train, new)) if new > train else None,
        report=matrix.take(slice(learned, len(matrix) - copies if some else None)),
        whole=matrix.take(slice(learned, None)) if some else None,
        learned=matrix.take(slice(learned)),
        reported="test" if test else "val",
        elsewhere=elsewhere,
    )


def sizes(split: np.ndarray) -> dict[str, int]:
    """Split → number of rows."""
    return {name: int((split == name).sum()) for name in manifests.SPLITS}


def copy_notes(parts: Parts) -> list[str]:
    """A note for each held-out split that holds exact copies of what is learned."""
    return _select_notes(parts) + _report_notes(parts)


def _select_notes(parts: Parts) -> list[str]:
    val = len(parts.learned) - len(parts.train)
    count = val - (0 if parts.select is None else len(parts.select))
    if not count:
        return []
    if count == val:
        return ["every val sample is an exact copy of a training sample, so no val sample is used to choose anything"]
    if count == 1:
        return [f"1 of {val} val samples is an exact copy of a training sample; it is not used to choose anything"]
    return [f"{count} of {val} val samples are exact copies of training samples; they are not used to choose anything"]


def _report_notes(parts: Parts) -> list[str]:
    on = parts.reported
    if parts.whole is None:
        if not _are_among(parts.report.digests, parts.learned.digests).any():
            return []
        return [
            f"every {on} sample is an exact copy of a training sample, so the accuracy says nothing about new samples"
        ]
    count, of = len(parts.whole) - len(parts.report), f"of {len(parts.whole)} {on} samples"
    if count == 1:
        return [f"1 {of} is an exact copy of a training sample; the figures are without it"]
    return [f"{count} {of} are exact copies of training samples; the figures are without them"]


def headline(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figure that counts and the number of images: ``n, top1``, or ``n, map`` where there is a mean average."""
    return {key: figures[key] for key in ("n", "map" if "map" in figures else "top1")}


def with_copies(
    figures: Mapping[str, Any], parts: Parts, evaluate: Callable[[FeatureMatrix], Mapping[str, Any]]
) -> dict[str, Any]:
    """Figures of the reported rows, and next to them the headline with the copies that are left out, if there are any.

    Parameters
    ----------
    figures : mapping
        What `evaluate` gives of ``parts.report``.
    parts : Parts
    evaluate : callable
        Gives the figures of rows.

    Returns
    -------
    dict
        The figures, and ``with_copies`` (`headline`'s) where there are copies.
    """
    return {**figures, **({} if parts.whole is None else {"with_copies": headline(evaluate(parts.whole))})}


def held_notes(parts: Parts) -> list[str]:
    """A note where the features did not fit into memory."""
    return [] if parts.elsewhere is None else [parts.elsewhere]
