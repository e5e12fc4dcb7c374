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
from featurepipe.stages.extracting import fill
from featurepipe.stages.listening import SILENT, Listener
from featurepipe.stages.preparing import Parts, Prepared, check_finite, cut, prepare, sizes
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
    semi: bool = False,
    baselines: str = "simple",
    include_backbone: bool = False,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    among: Collection[str] | None = None,
    compared: Sequence[Mapping[str, Any]] = (),
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
        Also report top-1 with so many labels per class, over `repeats` seeded draws: see
        `featurepipe.probes.fit_few_shot`. The strength is chosen inside each draw, whatever `value` is.
    semi : bool
        Beside each of `shots`, self-training and label spreading: there all other images that are not reported help,
        without their labels.
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

    Returns
    -------
    dict
        ``model, backbone, layer, kind, C`` (or the kind's own strength, if it has one), ``splits, split_source,
        evaluated_on, selection, val, test, baselines, few_shot, notes, seconds``. All accuracies are fractions.
        ``few_shot`` has for each of `shots` the keys ``shots, labels`` (in all classes together), ``repeats, mean, std,
        interval`` (95 % of the mean, by Student's t, over draws of labels and not over test images; None for a single
        draw), ``top1`` (a figure per draw), ``semi`` (with `semi`: ``self_training`` and ``label_spreading``, each with
        ``mean, std, interval, top1`` on the same draws) and ``baselines`` (their means on the same draws).

    Raises
    ------
    ProbeError
        An unknown kind or baseline, more shots than the smallest class has images, `semi` without `shots`, or data
        that do not suffice.
    """
    started = time.perf_counter()
    if baselines not in BASELINES:
        raise ProbeError(f"baselines {baselines!r} is unknown; use {', '.join(BASELINES)}")
    probes.check_few(shots, repeats, semi)
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
    entry, parts = found.entry, found.parts
    probes.check_enough(parts.learned.y, shots)  # before anything is fitted
    found.announce(listener, f"{kind} probe")
    fitted = fit_parts(kind, parts, value, seed, class_weight)
    notes = found.notes + fit_notes(fitted) + _layer_notes(entry, compared)
    few = _few_shot(kind, parts, shots, repeats, seed, semi)
    others: dict[str, float | None] = {}
    for name, extractor in _baseline_extractors(entry, baselines, seed, device).items():
        try:
            same = _same_samples(found, extractor, workers, listener)
        except StoreError as error:  # the images may be gone while their embeddings are still here
            notes.append(f"no figure for {extractor.name}: {error}")
            continue
        estimator = fit_parts(kind, same, None, seed, class_weight).estimator
        others[name] = float(np.mean(estimator.predict(same.report.X) == same.report.y))
        for one, other in zip(few, _few_shot(kind, same, shots, repeats, seed), strict=True):
            one["baselines"][name] = other["mean"]
    if baselines != "none":
        others["majority"] = probes.majority(parts.train.y, parts.report.y)
    card = {
        "data": {"root": str(found.store.root), "samples": len(found.matrix), "classes": len(fitted.classes)},
        "splits": sizes(found.split),
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
    parameter = probes.KINDS[kind][0]
    strength = {} if parameter is None else {parameter: fitted.chosen}
    identity = {"model": str(found.path), "backbone": entry.name, "layer": entry.layer}
    result = {**identity, "kind": kind, **strength, **card}
    return {**result, "seconds": round(time.perf_counter() - started, 3)}


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


def fit_parts(kind: str, parts: Parts, value: float | None, seed: int, class_weight: str | None = None) -> probes.Probe:
    """A probe that has seen all but what is reported; selected on val, or by cross-validation."""
    select = () if parts.select is None else (parts.select.X, parts.select.y)
    options = {"value": value, "seed": seed, "class_weight": class_weight, "groups": parts.train.digests}
    return probes.fit(kind, parts.train.X, parts.train.y, *select, **options)


def fit_notes(fitted: probes.Probe) -> list[str]:
    """Notes on a choice at the end of its grid, and on optima that were not reached."""
    name = probes.KINDS[fitted.kind][0]
    notes = []
    if fitted.path and fitted.selected_on != "given" and probes.at_edge(fitted.kind, fitted.chosen):
        notes.append(f"the chosen {name}={fitted.chosen:g} is the last of the grid; a better one may lie beyond")
    return notes + optimum_notes(name, fitted.path, fitted.certificate)


def optimum_notes(
    name: str | None, path: Sequence[Mapping[str, Any]], certificate: probes.Certificate | None
) -> list[str]:
    """A note on the fits of a path of strengths called `name`, and a final one, that did not reach their optimum."""
    stalled = [f"{step[name]:g}" for step in path if not step.get("converged", True)]
    if certificate is not None and not certificate.converged:
        stalled.append(f"{certificate.C:g} (final fit)")
    return [f"the optimum was not reached at {name}={', '.join(stalled)}"] if stalled else []


def _layer_notes(entry: Entry, compared: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of several layers: on what this one was chosen."""
    if not compared:
        return []
    if any(row["selection"] is None for row in compared):
        return [f"nothing to select on, so {entry.layer}, the last of {len(compared)} layers, was taken"]
    on = compared[0]["selection"]["on"]
    return [f"{entry.layer} was chosen from {len(compared)} layers on {on}, so its figures there flatter a little"]


def _few_shot(
    kind: str, parts: Parts, shots: Sequence[int], repeats: int, seed: int, semi: bool = False
) -> list[dict[str, Any]]:
    """The figures of few labels, drawn from all that is not reported; room for the baselines' beside them."""
    known, report = parts.learned, parts.report
    options = {"shots": shots, "repeats": repeats, "groups": known.digests, "semi": semi, "seed": seed}
    few = probes.fit_few_shot(kind, known.X, known.y, report.X, report.y, **options)
    return [{**one, "baselines": {}} for one in few]


def _baseline_extractors(entry: Entry, which: str, seed: int, device: str) -> dict[str, Extractor]:
    """What the probe is compared with, by its name in the result."""
    if which == "none" or entry.spec["architecture"] == backbones.PIXELS:
        return {}
    found: dict[str, Extractor] = {"pixels": backbones.Pixels()}
    if which == "full" and entry.spec["architecture"] not in backbones.DESCRIPTORS:
        name = entry.provenance["source"]["name"]
        found["random_backbone"] = backbones.twin(entry.spec, name, seed=seed, device=device)
    return found


def _same_samples(found: Prepared, extractor: Extractor, workers: int | None, listener: Listener) -> Parts:
    """The same samples, cut the same way, seen by another extractor; missing embeddings are computed."""
    store = found.store
    with store.lock():
        fill(store, store.root, store.rows(), {}, extractor, workers=workers, listener=listener)
    other = matrices.load(store, store.entry(extractor))
    check_finite(other, store.entry(extractor))
    split_of = dict(zip(found.matrix.ids, found.split, strict=True))
    other = other.take(np.array([id_ in split_of for id_ in other.ids], bool))
    return cut(other, np.array([split_of[id_] for id_ in other.ids], object))
