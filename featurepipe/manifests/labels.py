"""Which labels can be learned from, and how samples are split."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from featurepipe.errors import ManifestError
from featurepipe.manifests.leftovers import shortened
from featurepipe.manifests.samples import Sample

VAL_SHARE = TEST_SHARE = 0.2


def check_labels(samples: Collection[Sample]) -> None:
    """Check that a classifier can be trained on those of these samples that have a label.

    Raises
    ------
    ManifestError
        No labels at all, a single class, a class that occurs outside ``train`` only, or numbers instead of classes.
    """
    first: dict[tuple[str, str | None], str] = {}  # of each class in each split, in order
    for sample in samples:
        if sample.label is not None:
            first.setdefault((sample.label, sample.split), sample.id)
    labels = {label for label, _ in first}
    if not labels:
        raise ManifestError("no sample has a label; put images into class folders, or add a 'label' column")
    if len(labels) == 1:
        label = labels.pop()
        raise ManifestError(f"only one class ({label!r}); a classifier needs at least two{_nested(label, samples)}")
    _check_numbers(samples)
    if all(split is None for _, split in first):
        return
    trained = {label for label, split in first if split == "train"}
    for (label, split), id_ in first.items():
        if label not in trained:
            raise ManifestError(f"class {label!r} occurs in {split} only, never in train ({id_})")


def _check_numbers(samples: Collection[Sample]) -> None:
    """Refuse measurements: numbers with a decimal point, most of which occur once."""
    counts = Counter(sample.label for sample in samples if sample.label is not None)
    single = sum(count == 1 for count in counts.values())
    decimal = next((label for label in counts if "." in label), None)
    if decimal is None or 2 * single <= len(counts) or not all(map(_is_number, counts)):
        return
    raise ManifestError(
        f"the labels are numbers such as {decimal}, and most occur once; a classifier needs classes. To predict "
        "numbers, put featurepipe.FeatureExtractor and a regressor of scikit-learn into a pipeline, or name ranges as "
        "classes"
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _nested(label: str, samples: Collection[Sample]) -> str:
    """A hint where the folder of the only class holds folders that may be the classes."""
    folders, parent = set[str](), ""
    for sample in samples:
        above = 0 if sample.split is None else 1  # folders above that of the class
        parts = sample.id.split("/")
        if len(parts) > above + 2 and parts[above] == label:
            folders.add(parts[above + 1])
            parent = "/".join([*parts[: above + 1], ""])
    if len(folders) < 2:
        return ""
    what = f"give that folder ({parent})" if parent == f"{label}/" else f"move them up, out of {parent}"
    return f"; it holds the folders {shortened(sorted(folders))}: if these are the classes, {what}"


def assign_splits(
    labels: Sequence[str] | np.ndarray, digests: Sequence[str] | np.ndarray, *, seed: int = 0
) -> list[str]:
    """Split labelled samples 60/20/20 into train, val and test, class by class.

    The order inside a class is the sha256 of seed and content digest, so the split depends on nothing but
    content, label and seed; exact copies always land in the same split.

    Parameters
    ----------
    labels, digests : sequence of str
        Class and content digest of each sample; instead of the digest `featurepipe.manifests.units`, where there are
        groups: what has the same one lands in the same split.
    seed : int
        Another seed gives another split.

    Returns
    -------
    list of str
        ``'train'``, ``'val'`` or ``'test'`` for each sample.

    Notes
    -----
    A class with fewer than three distinct images gives none to val, one with a single image none to test.
    """
    chosen: dict[str, str] = {}  # by digest alone: a copy under another label must not cross splits
    drawn = _drawn(labels, digests, seed)
    for order in drawn:
        test = max(1, round(TEST_SHARE * len(order))) if len(order) > 1 else 0
        val = max(1, round(VAL_SHARE * len(order))) if len(order) > 2 else 0
        for rank, digest in enumerate(order):
            chosen.setdefault(digest, "test" if rank < test else "val" if rank < test + val else "train")
    for order in drawn:  # what other classes share with this one may have taken all of it
        if all(chosen[digest] != "train" for digest in order):
            chosen[order[-1]] = "train"
    return [chosen[digest] for digest in digests]


def hold_out(labels: Sequence[str], digests: Sequence[str], *, seed: int = 0) -> list[bool]:
    """Choose a fifth of each class for validation, in the way of `assign_splits`.

    Returns
    -------
    list of bool
        Whether each sample is held out. A class with a single distinct image gives none.
    """
    chosen: dict[str, bool] = {}
    drawn = _drawn(labels, digests, seed)
    for order in drawn:
        count = max(1, round(VAL_SHARE * len(order))) if len(order) > 1 else 0
        for rank, digest in enumerate(order):
            chosen.setdefault(digest, rank < count)
    for order in drawn:  # as above
        if all(chosen[digest] for digest in order):
            chosen[order[-1]] = False
    return [chosen[digest] for digest in digests]


def _drawn(labels: Sequence[str] | np.ndarray, digests: Sequence[str] | np.ndarray, seed: int) -> list[list[str]]:
    """The distinct contents of each class, in an order that seed and content decide."""
    members: dict[str, list[str]] = {}
    for label, digest in sorted(set(zip(labels, digests, strict=True))):
        members.setdefault(label, []).append(digest)
    return [
        sorted(of_class, key=lambda digest: hashlib.sha256(f"{seed}:{digest}".encode()).digest())
        for of_class in members.values()
    ]
