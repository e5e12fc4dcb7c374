"""The stage `probe`: cached embeddings → a model file.

What it does, since no named protocol says so: features standardised by the training data, L2, whole decades of C or
alpha, on validation data or by stratified 5-fold cross-validation the lowest log-loss among those within one standard
error of the best top-1, refitted on all that was not reported.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, matrices, models, probes
from featurepipe.backbones import Extractor
from featurepipe.errors import ProbeError, StoreError
from featurepipe.extraction import now, versions
from featurepipe.matrices import FeatureMatrix
from featurepipe.stages.extracting import fill
from featurepipe.stages.holding import hold, parse_size
from featurepipe.stages.listening import SILENT, Listener
from featurepipe.stages.preparing import Parts, Prepared, arrange, prepare, sizes
from featurepipe.stores import Entry

BASELINES = ("none", "simple", "full")


def probe(
    store: str | Path,
    output: str | Path | None = None,
    *,
    backbone: str | Extractor | None = None,
    layer: str | None = None,
    weights: str | Path | None = None,
    kind: str = "logistic",
    value: float | None = None,
    class_weight: str | None = None,
    shots: Sequence[int] = (),
    repeats: int = 10,
    baselines: str = "simple",
    include_backbone: bool = False,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    among: Collection[str] | None = None,
    compared: Sequence[Mapping[str, Any]] = (),
    memory: int | str | None = None,
    listener: Listener = SILENT,
) -> dict[str, Any]:
    """Train a classifier on cached embeddings and write it as a model file.

    Given splits are used: with train, val and test, C (or alpha) is chosen on val; without val, by 5-fold
    cross-validation inside train; without test, val is what is reported and cross-validation chooses. Without splits
    (or with train alone) samples are split 60/20/20, stratified and seeded. Nothing is selected on what is reported.

    Parameters
    ----------
    store : path
    output : path, optional
        Model file; by default ``STORE/<backbone>-<fingerprint8>/model.safetensors``.
    backbone : str, Backbone or Descriptor, optional
        Which entry of the store, if it holds several.
    layer : str, optional
        Which layer of it, if the store holds several and it is not the penultimate embedding.
    weights : path, optional
        Where the backbone's weights are now, if they have moved since the store was filled.
    kind : {'logistic', 'ridge', 'svm', 'lda', 'centroid', 'knn', 'mlp'}
        See `featurepipe.probes`.
    value : float, optional
        C, alpha, shrinkage or number of neighbours, instead of selection.
    class_weight : {None, 'balanced'}
        See `featurepipe.probes.fit`.
    shots : sequence of int
        Also report top-1 with so many labels per class, over `repeats` seeded draws.
    baselines : {'none', 'simple', 'full'}
        ``simple``: majority class and the same probe on raw pixels; ``full``: also on a randomly initialised copy
        of the backbone, which costs another extraction.
    include_backbone : bool
        Put the backbone's weights into the model file.
    seed : int
        Of splits, folds, draws and random weights.
    among : collection of str, optional
        Digests (hexadecimal sha256) of the images to use; by default all.
    compared : sequence of mapping
        What `featurepipe.stages.probe_layers` found on each layer before it chose this one; kept in the model file.
    memory : int or str, optional
        Bytes, or say ``"8GB"``; by default what the machine has available. Where the features and a working copy of
        them (both float32) take more, they are read from a scratch file in the store's folder: slower, with the same
        result to the tolerance of each fit. A knn and an mlp cannot do that.

    Returns
    -------
    dict
        ``model, backbone, layer, kind, C`` (or the kind's own strength, if it has one), ``out_of_core`` (whether the
        features did not fit into memory), ``splits, split_source, evaluated_on, selection, val, test, baselines,
        few_shot, notes, seconds``. All accuracies are fractions.

    Raises
    ------
    ProbeError
        Words that are not among the known ones, a strength or shots that cannot be, data that no probe can be fitted
        on, or features of a knn or mlp that exceed the memory.
    ManifestError, StoreError
        Labels, splits or embeddings that cannot be used.
    """
    started, limit = time.perf_counter(), parse_size(memory)
    if baselines not in BASELINES:
        raise ProbeError(f"baselines {baselines!r} is unknown; use {', '.join(BASELINES)}")
    found = prepare(
        store,
        output,
        backbone=backbone,
        layer=layer,
        weights=weights,
        include_backbone=include_backbone,
        among=among,
        seed=seed,
        device=device,
    )
    entry = found.entry
    _check_shots(found.parts, shots)
    found.announce(listener, f"{kind} probe")
    parts = hold(entry, found.samples, kind, limit)
    fitted = fit_parts(kind, parts, value, seed, class_weight)
    notes = found.notes + held_notes(parts) + fit_notes(fitted) + _layer_notes(entry, compared)
    few = _few_shot(kind, parts, shots, repeats, seed)
    others: dict[str, float | None] = {}
    budget = None if limit is None else max(limit - parts.nbytes, 0)
    for name, extractor in _baseline_extractors(entry, baselines, seed, device).items():
        try:
            same = hold(*_same_samples(found, extractor, workers, listener), kind, budget)
        except (StoreError, ProbeError) as error:  # images that are gone, or features too large for the kind
            notes.append(f"no figure for {extractor.name}: {error}")
            continue
        notes += [f"{extractor.name}: {note}" for note in held_notes(same)]
        estimator = fit_parts(kind, same, None, seed, class_weight).estimator
        others[name] = float(np.mean(probes.predict(estimator, same.report.X) == same.report.y))
        for one, other in zip(few, _few_shot(kind, same, shots, repeats, seed), strict=True):
            one["baselines"][name] = other["mean"]
    if baselines != "none":
        others["majority"] = probes.majority(parts.train.y, parts.report.y)
    card = {
        "data": {"root": str(found.store.root), "samples": len(found.samples), "classes": len(fitted.classes)},
        "splits": sizes(found.samples.split),
        "split_source": found.split_source,
        **_figures(fitted, parts),
        "baselines": {name: others.get(name) for name in ("majority", "pixels", "random_backbone")},
        "few_shot": few,
        **({"layers": list(compared)} if compared else {}),
        "protocol": None,  # no named one: see the module's docstring for what is done
        "licence": None,  # of the backbone's weights, where a later version can tell
        "seed": seed,
        "class_weight": class_weight,
        "notes": notes,
        "versions": versions(),
        "created": now(),
    }
    models.save(found.path, found.model(kind, fitted.estimator, fitted.temperature, card), module=found.module)
    for note in notes:
        listener.note(f"note: {note}")
    result = {**_identity(found, kind, fitted), **card, "out_of_core": parts.elsewhere is not None}
    return {**result, "seconds": round(time.perf_counter() - started, 3)}


def _identity(found: Prepared, kind: str, fitted: probes.Probe) -> dict[str, Any]:
    """What was fitted on what, and where it is."""
    parameter = probes.KINDS[kind][0]
    strength = {} if parameter is None else {parameter: fitted.chosen}
    return {
        "model": str(found.path),
        "backbone": found.entry.name,
        "layer": found.entry.layer,
        "kind": kind,
        **strength,
    }


def _figures(fitted: probes.Probe, parts: Parts) -> dict[str, Any]:
    """How the probe was selected, and its figures on the reported split and on the selection data."""
    reported = probes.evaluate(fitted.estimator, parts.report.X, parts.report.y, fitted.temperature)
    return {
        "evaluated_on": parts.reported,
        "selection": {
            "on": fitted.selected_on,
            "chosen": fitted.chosen,
            "path": fitted.path,
            "temperature": fitted.temperature,
            "ece": fitted.scores.get("ece"),  # None where there was nothing to select on
            "ece_uncalibrated": fitted.scores.get("ece_uncalibrated"),
        },
        "val": reported if parts.reported == "val" else {"source": fitted.selected_on, **fitted.scores},
        "test": reported if parts.reported == "test" else None,
    }


def _check_shots(parts: Parts, shots: Sequence[int]) -> None:
    """Refuse more shots than the smallest class has images, before anything is fitted."""
    classes, counts = np.unique(parts.learned.y, return_counts=True)
    if shots and max(shots) > counts.min():
        raise ProbeError(
            f"class {classes[counts.argmin()]!r} has {counts.min()} training images, fewer than {max(shots)} shots; "
            f"ask for at most {counts.min()}"
        )


def fit_parts(kind: str, parts: Parts, value: float | None, seed: int, class_weight: str | None = None) -> probes.Probe:
    """A probe that has seen all but what is reported; selected on val, or by cross-validation."""
    select = () if parts.select is None else (parts.select.X, parts.select.y)
    options = {"value": value, "seed": seed, "class_weight": class_weight, "groups": parts.train.digests}
    options["keep"] = parts.elsewhere is None
    return probes.fit(kind, parts.train.X, parts.train.y, *select, **options)


def held_notes(parts: Parts) -> list[str]:
    """A note where the features did not fit into memory."""
    return [] if parts.elsewhere is None else [parts.elsewhere]


def fit_notes(fitted: probes.Probe) -> list[str]:
    """Notes on a choice at the end of its grid, and on optima that were not reached."""
    name = probes.KINDS[fitted.kind][0]
    notes = []
    if fitted.path and fitted.selected_on != "given" and probes.at_edge(fitted.kind, fitted.chosen):
        notes.append(f"the chosen {name}={fitted.chosen:g} is the last of the grid; a better one may lie beyond")
    stalled = [f"{step[name]:g}" for step in fitted.path if not step["converged"]]
    if stalled:
        notes.append(f"the optimum was not reached at {name}={', '.join(stalled)}")
    return notes


def _layer_notes(entry: Entry, compared: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of several layers: on what this one was chosen."""
    if not compared:
        return []
    if any(row["selection"] is None for row in compared):
        return [f"nothing to select on, so {entry.layer}, the last of {len(compared)} layers, was taken"]
    on = compared[0]["selection"]["on"]
    return [f"{entry.layer} is the best of {len(compared)} layers on {on}, so its figures there flatter a little"]


def _few_shot(kind: str, parts: Parts, shots: Sequence[int], repeats: int, seed: int) -> list[dict[str, Any]]:
    X, y = parts.learned.X, parts.learned.y
    return [
        {
            **probes.fit_few_shot(kind, X, y, parts.report.X, parts.report.y, shots=n, repeats=repeats, seed=seed),
            "baselines": {},
        }
        for n in shots
    ]


def _baseline_extractors(entry: Entry, which: str, seed: int, device: str) -> dict[str, Extractor]:
    """What the probe is compared with, by its name in the result."""
    if which == "none" or entry.spec["architecture"] == backbones.PIXELS:
        return {}
    found: dict[str, Extractor] = {"pixels": backbones.Pixels()}
    if which == "full" and entry.spec["architecture"] not in backbones.DESCRIPTORS:
        name = entry.provenance["source"]["name"]
        found["random_backbone"] = backbones.twin(entry.spec, name, seed=seed, device=device)
    return found


def _same_samples(
    found: Prepared, extractor: Extractor, workers: int | None, listener: Listener
) -> tuple[Entry, FeatureMatrix]:
    """The same samples, in the same splits, of another extractor's entry; missing embeddings are computed."""
    store = found.store
    with store.lock():
        fill(store, store.root, store.rows(), {}, extractor, workers=workers, listener=listener)
    entry = store.entry(extractor)
    other = matrices.outline(store, entry)
    split_of = dict(zip(found.samples.ids, found.samples.split, strict=True))
    other = other.take(np.array([id_ in split_of for id_ in other.ids], bool))
    return entry, arrange(other, np.array([split_of[id_] for id_ in other.ids], object))
