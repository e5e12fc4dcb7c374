"""What was found: how many images, which classes, which splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featurepipe.listeners import Listener
from featurepipe.manifests.groups import count_groups
from featurepipe.manifests.labelsets import SEPARATOR, read_set
from featurepipe.manifests.leftovers import shortened
from featurepipe.manifests.lookalikes import look_alike, name_alike
from featurepipe.manifests.manifest import Manifest, read
from featurepipe.manifests.splits import SPLITS
from featurepipe.media import IMAGE

NAMED = 8  # classes that a line names


def summarise(manifest: Manifest) -> dict[str, Any]:
    """What a manifest holds and what was left out of it, as plain values.

    Returns
    -------
    dict
        ``images``, ``classes`` (label → number of images; of sets of labels each label by itself), ``is_sets``,
        ``unlabelled``, ``splits``, ``groups`` (how many), ``look_alike`` (classes whose names look alike) and
        ``left_out`` (the attributes of `featurepipe.manifests.LeftOut`, and ``pictures``).
    """
    found = Counter((sample.label, sample.split) for sample in manifest.samples)
    labels, splits = Counter[str](), Counter[str]()
    for (label, split), count in found.items():
        labels.update({label: count} if label is not None else {})
        splits.update({split: count} if split is not None else {})
    is_sets = any(SEPARATOR in label for label in labels)
    classes = Counter[str]()
    for label, count in labels.items():
        classes.update(dict.fromkeys(read_set(label), count) if is_sets and label.strip() else {label: count})
    return {
        "images": len(manifest),
        "classes": {label: classes[label] for label in sorted(classes)},
        "is_sets": is_sets,
        "unlabelled": len(manifest) - labels.total(),
        "splits": {split: splits[split] for split in SPLITS if split in splits},
        "groups": count_groups(manifest.samples),
        "look_alike": look_alike(classes),
        "left_out": manifest.left_out.to_json(),
    }


def describe(manifest: Manifest) -> list[str]:
    """What a manifest holds, in a line, and notes on what was left out and what looks like a mistake.

    Examples
    --------
    >>> from featurepipe.manifests import read
    >>> describe(read("data/digits/test"))[0].partition(":")[0]
    'found 600 images of 10 classes'
    """
    found = summarise(manifest)
    notes = manifest.left_out.lines()
    if found["look_alike"]:
        notes.append(
            f"classes that look alike: {name_alike(found['look_alike'])}; write them in one way if they are one"
        )
    return [_found(found, manifest.medium or IMAGE), *(f"note: {note}" for note in notes)]


def _found(found: dict[str, Any], medium: str) -> str:
    classes, images = found["classes"], found["images"]
    parts = [f"found {images:,} {medium}{'s' * (images != 1)}"]
    if classes:
        one, several = ("label", "labels") if found["is_sets"] else ("class", "classes")
        named = shortened([f"{label} ({count:,})" for label, count in classes.items()], NAMED)
        parts[0] += (
            f" {'with' if found['is_sets'] else 'of'} {len(classes):,} {one if len(classes) == 1 else several}: {named}"
        )
    if found["unlabelled"]:
        parts.append(f"{found['unlabelled']:,} without a label" if classes else "without labels")
    if found["splits"]:
        parts.append(", ".join(f"{count:,} {split}" for split, count in found["splits"].items()))
    if found["groups"]:
        parts.append(f"{found['groups']:,} group{'s' * (found['groups'] != 1)}")
    return "; ".join(parts)


def read_aloud(data: str | Path, listener: Listener, own: Sequence[str] = (), **columns: str | None) -> Manifest:
    """`featurepipe.manifests.read`; the listener hears what was found and what was left out.

    Columns that the caller reads itself, `own`, are not left out.
    """
    manifest = read(data, **columns)
    manifest.left_out.columns = [name for name in manifest.left_out.columns if name not in own]
    for line in describe(manifest):
        listener.note(line)
    return manifest
