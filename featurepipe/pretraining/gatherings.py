"""Gathering what a run learns from: which samples, their pixels, and what an objective needs besides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featurepipe import manifests
from featurepipe.backbones import Backbone
from featurepipe.errors import PretrainingError
from featurepipe.extraction import default_workers
from featurepipe.listeners import Listener
from featurepipe.manifests import Manifest
from featurepipe.media import IMAGE, MEDIA
from featurepipe.pretraining.objectives.pretext import Need, Pretext
from featurepipe.pretraining.pictures import Pictures, check_enough, decode, held_transform
from featurepipe.stores import Pending, Row, digest_rows
from featurepipe.vocabulary import PretrainOptions

FITTED, MEASURED = 5000, 2000  # pictures that a probe is fitted and measured on, at most
LEARNED = (None, "train")  # splits that may be learned from: val serves probes, and test nothing at all


@dataclass(frozen=True)
class Gathered:
    """All that is learned from.

    Attributes
    ----------
    pictures : Pictures
    pretext : Pretext
    left_out : dict
        Sample id → reason, of what cannot be read.
    """

    pictures: Pictures
    pretext: Pretext
    left_out: dict[str, str]


def gather(
    kind: type[Pretext],
    how: PretrainOptions,
    manifest: Manifest,
    table: tuple[Path, str],
    backbone: Backbone,
    folder: Path,
    *,
    limit: int | None,
    workers: int | None,
    listener: Listener,
) -> Gathered:
    """Read and decode what an objective learns from.

    Parameters
    ----------
    kind : type of Pretext
    how : PretrainOptions
    manifest : Manifest
    table : tuple of Path and str
        What it was read from, and its column of files, if it is a table.
    backbone : Backbone
        That is trained.
    folder : Path
        For what serves again, such as a teacher's store, and for what does not fit into memory.
    limit : int or None
        Bytes of memory for pictures.
    workers : int, optional
    listener : Listener

    Raises
    ------
    PretrainingError
        Nothing to learn from, or not what the objective needs.
    """
    _check_medium(kind, manifest, how.objective)
    kind.check(how, manifest)
    rows, left_out = _readable(manifest, workers, listener)
    check_enough(len(rows), left_out, "images")
    pending = [Pending.of(row, manifest.source) for row in rows]
    need = Need(how, manifest, *table, backbone, folder, workers, listener)
    transform, views = kind.transform(need, held_transform(pending, backbone.transform, listener))
    pixels, lost = decode(pending, transform, views, folder, limit=limit, workers=workers, listener=listener)
    usable = np.array([one.digest not in lost for one in pending])
    left_out |= {row.sample.id: lost[row.digest] for row in rows if row.digest in lost}
    if left_out:
        reason = next(iter(left_out.values()))
        listener.note(f"note: {len(left_out)} images cannot be read and are left out; the first: {reason}")
    pictures = _divided(rows, pixels, usable, how)
    check_enough(len(pictures.learned), left_out, "images")
    extra, learned = kind.extras(need, pending, pictures.learned)
    pictures = replace(pictures, learned=learned)
    check_enough(len(learned), left_out, "images")
    return Gathered(pictures, kind(how, backbone.transform.input_size[1:], pictures, extra), left_out)


def _check_medium(kind: type[Pretext], manifest: Manifest, objective: str) -> None:
    medium = manifest.medium or IMAGE
    if medium not in kind.media:
        raise PretrainingError(
            f"{manifest.root} holds {MEDIA[medium].plural}, and the objective {objective} learns from "
            f"{' or '.join(MEDIA[one].plural for one in kind.media)}; give these"
        )


def _readable(manifest: Manifest, workers: int | None, listener: Listener) -> tuple[list[Row], dict[str, str]]:
    """Rows of distinct contents that may be learned from or probed, and why others cannot be read."""
    with listener.progress("checking files", len(manifest.samples)) as advance:
        rows, unreadable = digest_rows(manifest, workers or default_workers(), advance)
    tested = {row.digest for row in rows if row.digest and row.sample.split == "test"}
    usable = [row for row in rows if row.digest and row.sample.split in (*LEARNED, "val")]
    kept = [row for row in usable if row.digest not in tested]
    if len(kept) < len(usable):
        listener.note(f"note: {len(usable) - len(kept)} images are exact copies of test images and are left out")
    order = sorted(kept, key=lambda row: row.sample.split == "val")  # what is in both is learned from
    distinct = {row.digest: row.sample.id for row in reversed(order)}
    ours = {one.id for one in manifest.samples if one.split in (*LEARNED, "val")}
    return [row for row in kept if distinct[row.digest] == row.sample.id], {
        name: why for name, why in unreadable.items() if name in ours
    }


def _divided(rows: Sequence[Row], pixels: object, usable: np.ndarray, how: PretrainOptions) -> Pictures:
    """Pictures with who learns from which of them, and which serve probes."""
    labels = [row.sample.label for row in rows]
    names = sorted({label for label, fits in zip(labels, usable, strict=True) if label is not None and fits})
    numbers = {name: number for number, name in enumerate(names)}
    classes = np.array([-1 if label is None else numbers.get(label, -1) for label in labels], np.int64)
    is_val = np.array([row.sample.split == "val" for row in rows])
    learned = np.flatnonzero(usable & ~is_val)
    pictures = Pictures(pixels, [row.digest for row in rows], classes, names, learned)  # type: ignore[arg-type]
    if not how.every or len(names) < 2:
        return pictures
    return _held_back(rows, pictures, np.flatnonzero(usable & is_val & (classes >= 0)), how.seed)


def _some(rows: np.ndarray, units: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, set[str]]:
    """Rows to measure probes on, in whole units, and these units; what is more than enough is learned from after all.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
    units : ndarray of object (str), shape (n,)
        What must stay together; see `featurepipe.manifests.units`.
    rng : Generator
    """
    sizes = Counter(units.tolist())
    if len(rows) <= MEASURED:
        return rows, set(sizes)
    if len(sizes) == len(rows):
        chosen = np.sort(rng.permutation(len(rows))[:MEASURED])
        return rows[chosen], set(units[chosen].tolist())
    held: set[str] = set()
    count = 0
    for unit in rng.permutation(sorted(sizes)).tolist():
        if count >= MEASURED:
            break
        held.add(unit)
        count += sizes[unit]
    return rows[[unit in held for unit in units]], held


def _held_back(rows: Sequence[Row], pictures: Pictures, val: np.ndarray, seed: int) -> Pictures:
    """The same with pictures for probes: val, or up to a fifth of those that would be learned from."""
    rng, learned = np.random.default_rng(seed), pictures.learned
    measured = val
    if not len(val):
        contents = [rows[i].content or rows[i].digest for i in learned]
        of_unit = manifests.units(contents, [rows[i].sample.group for i in learned])  # of all, labelled or not
        has_label = pictures.classes[learned] >= 0
        labels = [pictures.names[pictures.classes[i]] for i in learned[has_label]]
        out = np.array(manifests.hold_out(labels, of_unit[has_label].tolist(), seed=seed))
        measured, held = _some(learned[has_label][out], of_unit[has_label][out], rng)
        learned = learned[[unit not in held for unit in of_unit]]
    measured = np.sort(rng.permutation(measured)[:MEASURED])
    labelled = learned[pictures.classes[learned] >= 0]
    fitted = np.sort(rng.permutation(labelled)[:FITTED])
    common = np.isin(pictures.classes[measured], pictures.classes[fitted])
    if len(set(pictures.classes[fitted])) < 2 or not common.any():  # too few labels for a probe
        return pictures
    return replace(pictures, learned=learned, fitted=fitted, measured=measured[common])
