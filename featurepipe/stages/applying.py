"""The stages `evaluate` and `predict`: a model file on images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from featurepipe import extraction, manifests, matrices, models, probes
from featurepipe.backbones import Extractor
from featurepipe.errors import ManifestError, ModelFileError, ProbeError, StoreError
from featurepipe.extraction import Settings
from featurepipe.files import atomic, check_output
from featurepipe.listeners import BARS, Listener
from featurepipe.manifests import Manifest, Sample
from featurepipe.matrices import FeatureMatrix
from featurepipe.stages.answering import Answers, answer, collector, csv_writer, table
from featurepipe.stages.extracting import digest, first_line, rejected_samples
from featurepipe.stages.preparing import check_finite, headline, labelled
from featurepipe.stages.reading import check_safe_csv, read
from featurepipe.stores import Entry, Pending, Store
from featurepipe.surroundings import guarded

PREDICTION_SUFFIXES = (".csv", ".jsonl", ".parquet")
UNSEEN = "unseen"


@guarded
def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "auto",
    path_column: str | None = None,
    label_column: str | None = None,
    weights: str | Path | None = None,
    trust: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    compile: str = "auto",
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
    path_column, label_column : str, optional
        As for `extract`.
    weights : path, optional
        Path of the backbone's weights, if they have moved.
    trust : bool
        Trust what the model file says about its backbone. It may then ask for a hub's repository, unusual arguments or
        more memory. Without this, only what is safe is done; see `featurepipe.backbones.trust`.
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
    loaded = models.load(model)
    found = {}
    if Store.is_store(data):
        store = Store.open(data)
        entry = _entry(store, loaded)
        matrix, rejects = matrices.load(store, entry), _known_rejects(store, entry)
        check_finite(matrix, entry)
        models.check_width(loaded, matrix.X.shape[1], model)
    else:
        manifest = read(data, listener, path_column=path_column, label_column=label_column)
        found = {"found": manifests.summarise(manifest)}
        _check_labels(manifest, loaded)
        options: dict[str, Any] = {"weights": weights, "trust": trust, "device": device, "note": listener.note}
        extractor = models.open_backbone(loaded, model, **options)
        models.check_width(loaded, extractor.width, model)
        matrix, _, rejects = _embed(manifest, extractor, batch_size, workers, compile, listener)
    matrix, notes = labelled(matrix)
    if "task" in loaded.card.get("data", {}):
        of = loaded.card["data"]
        notes.append(f"the model learned column {of['task']} of {of['labels']}, but these are the data's own labels")
    for note in notes:
        listener.note(f"note: {note}")
    which, mask = _evaluated(matrix, loaded, split)
    part = matrix.take(mask)
    seen = loaded.has_seen(part.digests)
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


def _entry(store: Store, model: models.Model) -> Entry:
    """The model's own backbone in a store."""
    fingerprint = model.backbone["fingerprint"]
    for entry in store.entries():
        if entry.fingerprint == fingerprint:
            return entry
    raise StoreError(
        f"{store.path} holds no embeddings of the model's backbone {model.backbone['name']} ({fingerprint[:8]}, "
        f"{model.backbone['spec']['layer']}, {model.backbone['spec']['precision']}); "
        "give the images instead, or extract them with that backbone"
    )


def _check_labels(manifest: Manifest, model: models.Model) -> None:
    """Refuse data that cannot be evaluated, before anything is embedded."""
    labels = {sample.label for sample in manifest.samples if sample.label is not None}
    if not labels:
        raise ManifestError("no sample has a label; put images into class folders, or add a 'label' column")
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
    mask = ~model.has_seen(matrix.digests)
    if not mask.any():
        raise ProbeError("the model was trained on every one of these images; use --split all to evaluate anyway")
    return UNSEEN, mask


@guarded
def predict(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    output: str | Path | TextIO | None = None,
    *,
    probabilities: bool = False,
    safe_csv: bool = False,
    path_column: str | None = None,
    label_column: str | None = None,
    weights: str | Path | None = None,
    trust: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    compile: str = "auto",
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Classify images with a model file, and write ``path, label, confidence`` as CSV, JSONL or Parquet, or return it.

    A multi-label model's ``label`` is the set of labels whose probability is above 0.5, as in a manifest (``cat;dog``,
    ``;`` for none), and instead of one confidence there is a column ``p:LABEL`` for each.

    Probabilities in CSV have six decimals; in the other formats they are complete. Rows are computed and written block
    by block, so memory does not grow with their number.

    Images that cannot be read have no row; they are in the result's ``rejects``.

    Parameters
    ----------
    model : path
    data : path, or sequence of path
        Images, folders or tables.
    output : path or text file, optional
        File to write; an open text file gets CSV.
    probabilities : bool
        Also one column per class, named ``p:CLASS``; of a multi-label model they are always there.
    safe_csv : bool
        In CSV, put an apostrophe before cells that a spreadsheet would run as a formula: those that begin with =, +, -,
        @, a tab or a line break and are not a number. Other readers of the table have to remove it.
    path_column, label_column : str, optional
        As for `extract`.
    weights : path, optional
        Path of the backbone's weights, if they have moved.
    trust : bool
        Trust what the model file says about its backbone. It may then ask for a hub's repository, unusual arguments or
        more memory. Without this, only what is safe is done; see `featurepipe.backbones.trust`.
    force : bool
        Also replace a file that featurepipe did not write, but never one that is read here.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``model, output, predicted, labels`` (class → count of images), ``labelled, right`` (of the images that have a
        true label: how many there are, and on how many of them the model is right), ``seen_in_training, rejected,
        rejects, found, seconds``; and ``predictions`` where there is no output: a dict for each image. Its keys are the
        columns: ``path, label, confidence``, one per class, ``true_label`` where the data have labels of the model's,
        and ``file``. ``path`` is as the data have it, below their folder; ``file`` leads to it from here.

    Examples
    --------
    >>> from featurepipe import run
    >>> made = run("data/digits", "/tmp/predicted.featurepipe", baselines="none")
    >>> found = predict(made["model"], "data/digits/test")
    >>> found["predicted"], found["predictions"][0]["label"], found["predictions"][0]["true_label"]
    (600, '0', '0')
    """
    started = time.perf_counter()
    path = Path(output) if isinstance(output, str | PathLike) else None
    if path is not None and path.suffix.lower() not in PREDICTION_SUFFIXES:
        raise ModelFileError(f"cannot write predictions to {path.name}; use one of {', '.join(PREDICTION_SUFFIXES)}")
    if path is not None and path.suffix.lower() == ".parquet":
        manifests.require_pyarrow()
    check_safe_csv(safe_csv, path)
    model = models.locate(model)
    loaded = models.load(model)
    places = [data] if isinstance(data, str | PathLike) else list(data)
    if path is not None:
        inputs = [model, *places, weights, loaded.backbone["source"]["weights"]]
        check_output(path, "table of predictions", is_prediction, inputs, force=force)
    manifest = manifests.gather(places, path_column=path_column, label_column=label_column)
    if path is not None and path.exists():
        images = map(manifest.file, manifest.samples)
        check_output(path, "table of predictions", is_prediction, images, force=force)
    for note in manifest.left_out.lines():
        listener.note(f"note: {note}")
    options: dict[str, Any] = {"weights": weights, "trust": trust, "device": device, "note": listener.note}
    extractor = models.open_backbone(loaded, model, **options)
    models.check_width(loaded, extractor.width, model)
    matrix, samples, rejects = _embed(manifest, extractor, batch_size, workers, compile, listener)
    answers = Answers(
        loaded,
        matrix,
        samples,
        [str(manifest.file(sample)) for sample in samples],
        probabilities or loaded.is_multi_label,
    )
    predictions: list[dict[str, Any]] = []
    if path is not None:
        with atomic(path) as temporary, table(temporary, path, answers, safe=safe_csv) as take:
            count = answer(answers, take)
    elif output is not None:
        assert not isinstance(output, str | Path)  # of which `path` is made
        count = answer(answers, csv_writer(output, answers, safe=safe_csv))
    else:
        count = answer(answers, collector(answers, predictions))
    return {
        "model": str(model),
        "output": None if path is None else str(path),
        "predicted": len(matrix),
        "labels": dict(count.labels),
        "labelled": count.labelled,
        "right": count.right,
        "seen_in_training": int(loaded.has_seen(matrix.digests).sum()),
        **({} if output is not None else {"predictions": predictions}),
        "rejected": len(rejects),
        "rejects": rejects,
        "found": manifests.summarise(manifest),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _embed(
    manifest: Manifest,
    extractor: Extractor,
    batch_size: int | None,
    workers: int | None,
    compile: str,
    listener: Listener,
) -> tuple[FeatureMatrix, list[Sample], dict[str, str]]:
    """Embed a data set without a store; also the sample of each row, and sample id → reason of the rejects."""
    rows, unreadable = digest(manifest, workers, listener)
    todo = list({row.digest: Pending(row.digest, manifest.file(row.sample)) for row in rows if row.digest}.values())
    listener.note(first_line(extractor, len(rows)))
    memory = extraction.Memory()
    settings = Settings(batch_size, workers, compile)
    outcome = extraction.fill(todo, extractor, memory, settings, listener=listener)
    rejects = rejected_samples(rows, unreadable, outcome.rejects)
    held = [row for row in rows if row.digest in memory.vectors]
    if not held:
        id_, reason = next(iter(rejects.items()))
        if len(rows) == 1:
            raise ManifestError(f"{manifest.file(rows[0].sample)} cannot be read: {reason}")
        where = "these images" if manifest.root == Path() else manifest.root
        raise ManifestError(f"no image of {where} can be read; first reason: {reason} ({id_})")
    matrix = matrices.from_rows(held, np.stack([memory.vectors[row.digest] for row in held]))
    return matrix, [row.sample for row in held], rejects


def is_prediction(path: Path) -> bool:
    """Whether a file holds what `predict` writes."""
    path_, label, *others = [*manifests.header(path), "", ""]
    return (path_, label) == ("path", "label") and any(name == "confidence" or name.startswith("p:") for name in others)
