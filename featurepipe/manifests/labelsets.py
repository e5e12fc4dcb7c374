"""Sets of labels as a label's text: ``cat;dog``, in any order; ``;`` alone is the empty set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from featurepipe.errors import ManifestError
from featurepipe.manifests.samples import Sample

SEPARATOR = ";"


def read_set(text: str) -> tuple[str, ...]:
    """The labels of a text, each once and sorted; blanks around them do not count.

    Raises
    ------
    ManifestError
        A blank text: it could mean the empty set, or that nothing is known.

    Examples
    --------
    >>> read_set("dog; cat;"), read_set(";")
    (('cat', 'dog'), ())
    """
    labels = {part.strip() for part in text.split(SEPARATOR)} - {""}
    if not labels and SEPARATOR not in text:
        raise ManifestError(f"the label {text!r} is blank; write {SEPARATOR!r} for no label, nothing for unlabelled")
    return tuple(sorted(labels))


def write_set(labels: Iterable[str]) -> str:
    """The text of a set of labels.

    Examples
    --------
    >>> write_set(["dog", "cat"]), write_set([])
    ('cat;dog', ';')
    """
    return SEPARATOR.join(sorted(labels)) or SEPARATOR


def check_label_sets(samples: Iterable[Sample]) -> None:
    """Check that a classifier can be trained on every label of those of these samples that have a set of labels.

    Raises
    ------
    ManifestError
        No sets, fewer than two labels, or a label that no image of ``train`` has or every one has (of all images, where
        there are no splits).
    """
    sets = [(sample, frozenset(read_set(sample.label))) for sample in samples if sample.label is not None]
    if not sets:
        raise ManifestError("no sample has labels; add a 'label' column, with semicolons between labels")
    labels = sorted(frozenset().union(*(found for _, found in sets)))
    if not labels:
        raise ManifestError(f"every set of labels is empty ({SEPARATOR!r}); a classifier needs at least two labels")
    if len(labels) == 1:
        raise ManifestError(
            f"only one label ({labels[0]!r}); multi-label needs two: without it, {labels[0]!r} and {SEPARATOR!r} are "
            "two classes"
        )
    is_split = any(sample.split is not None for sample, _ in sets)
    train = [found for sample, found in sets if not is_split or sample.split == "train"]
    counts = Counter(label for found in train for label in found)
    for label in labels:
        if 0 < counts[label] < len(train):
            continue
        owner = next(sample.id for sample, found in sets if label in found)
        which = "every image to train on" if counts[label] else f"no image to train on ({owner} has it)"
        raise ManifestError(
            f"label {label!r} is on {which}; training takes images with it and without it: give other splits or "
            "another seed, or leave the label out"
        )
