"""The stage `evaluate`: a model file on images whose labels are known."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import manifests, matrices, models, probes
from featurepipe.errors import ManifestError, ProbeError, StoreError
from featurepipe.listeners import BARS, Listener
from featurepipe.manifests import Manifest
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import check_finite, headline, labelled
from featurepipe.matrices.scratch import read
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages import clips
from featurepipe.stages.extractions import rejected_samples
from featurepipe.stages.predictions import media_of
from featurepipe.stages.streams import embed
from featurepipe.stores import Entry, JointEntry, Store
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import ColumnOptions, ComputeOptions, OriginOptions

UNSEEN = "unseen"


@guarded
@presented
@spread(columns=ColumnOptions, origin=OriginOptions, compute=ComputeOptions)
def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "auto",
    columns: ColumnOptions,
    origin: OriginOptions,
    compute: ComputeOptions,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Measure a model file on labelled images.

    Parameters
    ----------
    model : path
    data : path
        Folder, table, or a store that holds the model's backbone.
    split : {'auto', 'train', 'val', 'test', 'all'}
        ``auto``: test, else val, else the images that the model has not been trained or selected on.
    columns
    origin
    compute
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        `featurepipe.probes.evaluate`'s figures, and ``model, split, seen_in_training, left_out, rejected, rejects,
        seconds``, and ``found``, as in `extract`, unless `data` is a store. ``seen_in_training`` is how many of the
        split's images the model was trained or selected on. If these are some but not all, the figures leave them
        out, and ``with_seen`` has ``n`` and ``top1`` (or ``map``) of all. ``left_out`` images are not measured at all:
        if neither test nor val can be measured, those that the model has seen.

    Raises
    ------
    ProbeError
        There is nothing to evaluate on.
    FingerprintMismatch
        The weights that were found are not the model's.
    """
    started = time.perf_counter()
    model = models.locate(model)
    loaded = models.load_of_samples(model)
    found = {}
    if Store.is_store(data):
        store = Store.open(data)
        matrix, rejects = _load(store, loaded)
        models.check_width(loaded, matrix.X.shape[-1], model)
    else:
        data_of = clips.read_each(data, columns, listener, media_of(loaded))
        for medium, manifest in data_of.items():
            clips.check_medium(medium, manifest, str(model))
            _check_labels(manifest, loaded)
        found = {"found": manifests.summarise(next(iter(data_of.values())))}
        extractors = models.open_backbones(loaded, model, **vars(origin), note=listener.note)
        matrix, rejects = embed(data_of, extractors, compute, listener)
    matrix, notes = labelled(matrix)
    if "task" in (of := loaded.card.get("data", {})):
        notes.append(f"the model learned column {of['task']} of {of['labels']}, but these are the data's own labels")
    for note in notes:
        listener.note(f"note: {note}")
    which, mask = _evaluated(matrix, loaded, split)
    part = matrix.take(mask)
    seen = loaded.has_seen_rows(part)
    if seen.any() and not seen.all():
        figures = _figures(loaded, part.take(~seen)) | {"with_seen": headline(_figures(loaded, part))}
    else:
        figures = _figures(loaded, part)
    return {
        "model": str(model),
        "split": which,
        **figures,
        "seen_in_training": int(seen.sum()),
        "left_out": int((~mask).sum()) if which == UNSEEN else 0,
        "rejected": len(rejects),
        "rejects": rejects,
        **found,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _figures(model: models.Model, part: FeatureMatrix) -> dict[str, Any]:
    return probes.evaluate(model.estimator, part.X, _truth(part, model), model.temperature)


def _load(store: Store, model: models.Model) -> tuple[FeatureMatrix, dict[str, str]]:
    """The embeddings that a store holds of the model's own backbones, and sample id → reason of the rejects."""
    entries = [_entry(store, one) for one in model.backbones]
    rejects = {id_: why for entry in entries for id_, why in _known_rejects(store, entry).items()}
    if len(entries) == 1:
        matrix = matrices.load(store, entries[0])
        check_finite(matrix, entries[0])
        return matrix, rejects
    joint = JointEntry(tuple(entries))
    outlines = {title: matrices.outline(store, entry) for title, entry in zip(joint.titles, entries, strict=True)}
    return read(joint, matrices.join(outlines)[0]), rejects


def _entry(store: Store, backbone: Mapping[str, Any]) -> Entry:
    """A backbone of the model in a store."""
    fingerprint = backbone["fingerprint"]
    for entry in store.entries():
        if entry.fingerprint == fingerprint:
            return entry
    raise StoreError(
        f"{store.path} holds no embeddings of the model's backbone {backbone['name']} ({fingerprint[:8]}, "
        f"{backbone['spec']['layer']}, {backbone['spec']['precision']}); "
        "give the samples instead, or extract them with that backbone"
    )


def _check_labels(manifest: Manifest, model: models.Model) -> None:
    """Refuse data that cannot be evaluated, before anything is embedded."""
    labels = {sample.label for sample in manifest.samples if sample.label is not None}
    if not labels:
        raise ManifestError("no sample has a label; put samples into class folders, or add a 'label' column")
    if model.is_multi_label:
        labels = set(probes.labels_of(labels).tolist())
    probes.check_known(np.array(sorted(labels), object), np.array(list(map(str, model.classes.tolist())), object))


def _known_rejects(store: Store, entry: Entry) -> dict[str, str]:
    """Sample id → reason, of the samples of a store that have no embedding."""
    rows, held = store.rows(), entry.places()
    unreadable = {row.sample.id: "could not be read" for row in rows if not row.digest}
    return rejected_samples(rows, unreadable, {d: why for d, why in entry.rejects().items() if d not in held})


def _truth(matrix: FeatureMatrix, model: models.Model) -> np.ndarray:
    """The labels as the model's own classes: a manifest's are text, those of a notebook's model may be numbers."""
    if model.is_multi_label:
        return matrix.y
    own = {str(label): label for label in model.classes.tolist()}
    return np.array([own.get(label, label) for label in matrix.y], object)


def _evaluated(matrix: FeatureMatrix, model: models.Model, split: str) -> tuple[str, np.ndarray]:
    """The split's name and a mask of its rows."""
    if split == "all":
        return split, np.ones(len(matrix), bool)
    wanted = ("test", "val") if split == "auto" else (split,)
    for name in wanted:
        mask = matrix.split == name
        if mask.any():
            return name, mask
    if split != "auto":
        raise ProbeError(f"no labelled sample is in {split}; use --split all, or another split")
    mask = ~model.has_seen_rows(matrix)
    if not mask.any():
        raise ProbeError("the model was trained on every one of these samples; use --split all to evaluate anyway")
    return UNSEEN, mask
