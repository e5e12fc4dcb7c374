"""The stage `probe`: cached embeddings → a model file.

What it does, since no named protocol says so: features standardised by the rows of the fit (each by its own deviation,
but by no less than a fifth of the common one; of fewer than ten rows all by their root mean square), L2, whole decades
of C or alpha. Validation data choose, or stratified 5-fold cross-validation: of those that cannot be told apart from
the best (paired comparison on the same images), the lowest log-loss. The same data fit the temperature of the
probabilities.
Then the probe is fitted again on all that is not reported. Of sets of labels `featurepipe.probes.labels` says how each
label's C is chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, matrices, models, probes
from featurepipe.backbones import Extractor
from featurepipe.cards import Blocks, Card, FewShot, Figures
from featurepipe.comparisons.blocks import measure_blocks
from featurepipe.comparisons.notes import split_notes
from featurepipe.errors import BackboneError, ProbeError, StoreError
from featurepipe.extraction import now, versions
from featurepipe.listeners import BARS, Listener
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import Parts, held_notes, with_copies
from featurepipe.memory import parse_size
from featurepipe.models.candidates import Candidate, Prepared, divide, find_joint, keep_whole
from featurepipe.probes.notes import fit_notes
from featurepipe.probes.options import Options
from featurepipe.probes.parts import hold
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages.extractions import complete
from featurepipe.stages.folds import Others, check_folded, probe_folded, same_samples, selection_of
from featurepipe.statistics.intervals import interval
from featurepipe.stores import Entry, JointEntry
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import EntryOptions, FoldOptions, JoinOptions, OriginOptions
from featurepipe.vocabulary.names import HANDMADE

BASELINE_NAMES = {**HANDMADE, "random_backbone": "the same network untrained"}


@guarded
@presented
@spread(where=EntryOptions, joined=JoinOptions, recipe=Options, measured=FoldOptions)
def probe(
    store: str | Path,
    output: str | Path | None = None,
    *,
    where: EntryOptions,
    joined: JoinOptions,
    recipe: Options,
    measured: FoldOptions,
    workers: int | None = None,
    among: Collection[str] | None = None,
    compared: Sequence[Mapping[str, Any]] = (),
    memory: int | str | None = None,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Train a classifier on cached embeddings and write it as a model file.

    Given splits are used: with train, val and test, C (or alpha) is chosen on val; without val, by 5-fold
    cross-validation inside train; without test, val is what is reported and cross-validation chooses. Without splits
    (or with train alone) samples are split 60/20/20, stratified and seeded. Nothing is selected on the reported split.

    Parameters
    ----------
    store : path
    output : path, optional
        Model file; by default ``STORE/<backbone>-<fingerprint8>/model.safetensors``, or, of several backbones,
        ``joint-<fingerprint8>.safetensors`` in the folder of the first.
    where
    joined
    recipe
    measured
    workers : int, optional
        Threads that compute the baselines' embeddings; one per core by default.
    among : collection of str, optional
        Digests (hexadecimal sha256) of the images to use; by default all. Of several backbones those of any of them.
    compared : sequence of mapping
        What `featurepipe.stages.probe_layers` found on each layer before it chose this one; kept in the model file.
    memory : int or str, optional
        Memory for the features: bytes, or text such as ``"8GB"``; by default what the machine has available. If the
        features and a working copy of them (both float32) take more, they are read from a scratch file in the store's
        folder. That is slower, with the same result to the tolerance of each fit. It does not work for knn,
        approximate-knn, mlp and multi-label probes.
    force : bool
        Also replace a file that featurepipe did not write, but never one that is read here.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``model, backbone, layer, kind, C`` (or the kind's own strength, if it has one), ``out_of_core`` (whether the
        features did not fit into memory), ``splits, split_source, evaluated_on, selection, val, test, baselines,
        majority_class, few_shot, contradictory, notes, seconds``. All accuracies are fractions. Figures of the reported
        split leave out exact copies of training images. If there are any, ``with_copies`` next to
        them has ``n`` and ``top1`` (or ``map``) of all images. If all are copies, all are reported, with a note.
        ``contradictory`` is as for `extract`, of the images that are used. Of sets of labels
        ``kind`` is ``multi-label``, ``C`` maps labels to numbers, ``val`` and ``test`` are those of
        `featurepipe.probes.label_figures`, and ``baselines`` are mean average precisions, with ``chance`` (the mean
        share of images that have a label) instead of ``majority``.
        ``few_shot`` has for each of `shots` the keys ``shots, labels`` (in all classes together), ``repeats, mean, std,
        interval`` (95 % of the mean, by Student's t, over draws of labels and not over test images; None for a single
        draw), ``top1`` (a figure per draw), ``semi`` (with `semi`: ``self_training`` and ``label_spreading``, each with
        ``mean, std, interval, top1`` on the same draws), ``text`` (with `text`: the same of ``zero_shot, tip_adapter,
        tip_adapter_f, lp_plus_plus, wise_ft``) and ``baselines`` (their means on the same draws).
        With `folds`, ``evaluated_on`` is ``folds``, and so is the key of the figures: those of all held-out samples
        pooled, ``mean`` and ``per_fold`` of the folds' accuracies, ``interval`` and the ``method`` it was made by.
        Of several backbones each one alone is a baseline: ``blocks`` is what
        `featurepipe.comparisons.blocks.measure_blocks` returns, and ``lacking`` has for each of them the ids of the
        samples that it lacks, which are left out.

    Raises
    ------
    ManifestError
        The labels or splits cannot be learned from.
    ProbeError
        The probe is unknown, or does not work with these labels or on that device; there are more shots than the
        smallest class has images; `semi` is given without `shots`; or embeddings are not finite. Of several backbones:
        the kind does not standardise features, or labels are sets.
    StoreError
        The store has no embeddings of that backbone and layer, or not all of them; or a backbone is named twice.

    Examples
    --------
    >>> from featurepipe import extract
    >>> store = extract("data/digits", "/tmp/probed.store")["store"]
    >>> probe(store, kind="ridge", baselines="none")["test"]["top1"] > 0.95
    True
    >>> result = probe(store, multi_label=True, baselines="none")  # every set has one label here
    >>> result["kind"], result["test"]["map"] > 0.97
    ('multi-label', True)
    """
    started, limit = time.perf_counter(), parse_size(memory)
    recipe.check()
    check_folded(measured.folds, recipe)
    source = find_joint(store, output, where, joined, reads=probes.KINDS[recipe.kind].reads)
    check_joint(source.entry, recipe)
    source.check_output(source.path, force=force)
    if measured.folds is not None:
        found = keep_whole(source, measured.folds, seed=recipe.seed, among=among)
        others = lambda: load_baselines(found, recipe, where, workers, listener)  # noqa: E731
        result = probe_folded(found, recipe, measured.folds, others, limit=limit, listener=listener)
    else:
        found = divide(source, seed=recipe.seed, among=among, multi_label=recipe.multi_label)
        others = lambda: load_baselines(found, recipe, where, workers, listener)  # noqa: E731
        result = probe_prepared(found, recipe, others, compared=compared, limit=limit, listener=listener)
    return {**result, "seconds": round(time.perf_counter() - started, 3)}


def probe_prepared(
    found: Prepared,
    recipe: Options,
    others: Others,
    *,
    about: Mapping[str, str] | None = None,
    compared: Sequence[Mapping[str, Any]] = (),
    limit: int | None = None,
    listener: Listener,
) -> dict[str, Any]:
    """Fit a probe, measure it next to its baselines, and write the model file; as `probe`, without ``seconds``.

    Parameters
    ----------
    found : Prepared
    recipe : Options
    others : callable
        Gives what `load_baselines` returns, when the probe is fitted.
    about : mapping, optional
        What else the card says of the data.
    compared : sequence of mapping
        As for `probe`.
    limit : int, optional
        Bytes of memory; by default what is available.
    """
    probes.check_enough(found.parts.learned.y, recipe.shots)  # before anything is fitted
    start = _text_start(recipe.text, found.entry)
    kind = probes.MULTI_LABEL if recipe.multi_label else recipe.kind
    found.announce(listener, f"{kind} probe" + ("" if recipe.probe_device == "cpu" else f" by {recipe.probe_device}"))
    parts = hold(found.entry, found.samples, kind, limit, whole=recipe.semi, device=recipe.probe_device)
    fitted = recipe.fit(parts, measure=False)  # nothing is chosen by the figures of a given strength
    few = _few_shot(recipe, parts, listener, start)
    means_beside: list[dict[str, float]] = [{} for _ in few]
    beside = {} if recipe.baselines == "none" else _trivial(parts, recipe.multi_label)
    figures = _figures(fitted, parts)
    on_val = Figures.of_json({"source": fitted.selected_on, **fitted.scores})
    notes = [*found.notes, *held_notes(parts), *fit_notes(fitted), *_layer_notes(found.entry, compared)]
    notes += split_notes(fitted.selected_on, fitted.scores, parts, figures)
    held, absent = others()
    budget = None if limit is None else max(limit - parts.nbytes, 0)
    for name, (entry, rows) in held.items():
        try:
            same = hold(entry, same_samples(found, rows), kind, budget, device=recipe.probe_device)
            top1 = _score(replace(recipe, value=None).fit(same), same.report)
        except (ProbeError, StoreError) as error:  # too large for kind, device or disk, or broken: the probe stands
            absent = [*absent, f"no figure for {entry.name}: {error}"]
            continue
        notes += [f"{entry.name}: {note}" for note in held_notes(same)]
        beside[name] = top1
        alone = replace(recipe, semi=False, text=None)
        for means, other in zip(means_beside, _few_shot(alone, same, listener), strict=True):
            means[name] = other["mean"]
    notes += absent
    names = ("chance" if recipe.multi_label else "majority", *_baselines_of(found.entry))
    told: dict[str, Any] = {"layers": list(compared)} if compared else {}
    if isinstance(found.entry, JointEntry):
        told["blocks"] = Blocks.of_json(measure_blocks(found.entry, recipe, fitted, parts, listener))
    card = Card(
        data=found.data(len(fitted.classes), **(about or {})),
        splits=found.splits,
        split_source=found.split_source,
        evaluated_on=parts.reported,
        selection=selection_of(fitted),
        val=figures if parts.reported == "val" else on_val,
        test=figures if parts.reported == "test" else None,
        baselines={name: beside.get(name) for name in names},
        majority_class=None if recipe.multi_label else str(probes.commonest(parts.train.y)),
        few_shot=[FewShot.of_json({**one, "baselines": means}) for one, means in zip(few, means_beside, strict=True)],
        **told,
        protocol=None,  # no named one: see the module's docstring for what is done
        licence=found.licence,
        seed=recipe.seed,
        probe_device=recipe.probe_device,
        class_weight=recipe.class_weight,
        notes=notes,
        versions=versions(),
        created=now(),
    )
    models.save(found.path, found.model(fitted.kind, fitted.estimator, fitted.temperature, card), module=found.module)
    for note in notes:
        listener.note(f"note: {note}")
    parameter = probes.KINDS[recipe.kind].parameter
    strength = {} if parameter is None else {parameter: fitted.chosen}
    identity = {"model": str(found.path), "backbone": found.entry.name, "layer": found.entry.layer}
    beyond: dict[str, Any] = {"contradictory": found.contradictory, "out_of_core": parts.elsewhere is not None}
    beyond |= {"lacking": dict(found.lacking)} if found.lacking else {}
    return {**identity, "kind": fitted.kind, **strength, **card.to_json(), **beyond}


def check_joint(entry: Entry | JointEntry, recipe: Options) -> None:
    """Raise ProbeError for what a probe of several backbones cannot do, before anything is read."""
    probes.check_blocks(recipe.kind, [member.width for member in entry.members])
    if len(entry.members) > 1 and (recipe.multi_label or recipe.semi):
        what, option = ("sets of labels", "--multi-label") if recipe.multi_label else ("unlabelled images", "--semi")
        raise ProbeError(f"a joint probe does not work with {what} yet; leave out {option}, or --with")


def _baselines_of(entry: Entry | JointEntry) -> list[str]:
    """Names of the baselines that are extracted: of several backbones none, as each alone is one."""
    if isinstance(entry, JointEntry):
        return []
    return [*_simple(entry), "random_backbone"]


def _simple(entry: Entry) -> dict[str, Callable[[], Extractor]]:
    """The hand-made baselines that a probe of an entry can read: none of them has tokens."""
    return {} if entry.grid else backbones.SIMPLE[backbones.medium_of(entry.spec)]


def _figures(fitted: probes.Probe, parts: Parts) -> Figures:
    """The probe's figures on the reported split."""

    def evaluate(part: FeatureMatrix) -> dict[str, Any]:
        return probes.evaluate(fitted.estimator, part.X, part.y, fitted.temperature)

    reported = with_copies(evaluate(parts.report), parts, evaluate)
    if fitted.kind != probes.MULTI_LABEL:
        right = probes.predict(fitted.estimator, parts.report.X) == parts.report.y
        reported |= interval(parts.report, right)
    return Figures.of_json(reported)


def _score(fitted: probes.Probe, part: FeatureMatrix) -> float:
    """Top-1; of sets of labels, mean average precision."""
    if fitted.kind == probes.MULTI_LABEL:
        return probes.evaluate(fitted.estimator, part.X, part.y)["map"]
    return float(np.mean(probes.predict(fitted.estimator, part.X) == part.y))


def _trivial(parts: Parts, multi_label: bool) -> dict[str, float]:
    """Figures of trivial predictors, which have learned nothing from the images."""
    if multi_label:
        return {"chance": probes.chance(parts.report.y)}
    return {"majority": probes.majority(parts.train.y, parts.report.y)}


def _layer_notes(entry: Entry | JointEntry, compared: Sequence[Mapping[str, Any]]) -> list[str]:
    """If there are several layers: on what this one was chosen."""
    if not compared:
        return []
    if any(row["selection"] is None for row in compared):
        return [f"no data were left to select on, so {entry.layer}, the last of {len(compared)} layers, was taken"]
    on = compared[0]["selection"]["on"]
    return [
        f"{entry.layer} was chosen from {len(compared)} layers on {on}, so its figures there are a little optimistic"
    ]


def _text_start(path: str | PathLike[str] | None, entry: Entry | JointEntry) -> probes.TextStart | None:
    """What the methods start from that use class names."""
    if path is None:
        return None
    model = models.load(path)
    if model.kind != probes.ZERO_SHOT:
        raise ProbeError(f"{path} is a {model.kind} model; make one of class names with: featurepipe zeroshot")
    if model.backbone["fingerprint"] != entry.fingerprint:
        raise ProbeError(
            f"{path} belongs to {model.backbone['name']} ({model.backbone['fingerprint'][:8]}), and the embeddings "
            f"are of {entry.name} ({entry.fingerprint[:8]}); extract with the backbone of the zero-shot model "
            "(of open_clip with --backbone-arg projection=True)"
        )
    return probes.TextStart(model.classes, model.estimator.vectors_, model.estimator.scale)


def _few_shot(
    recipe: Options, parts: Parts, listener: Listener, start: probes.TextStart | None = None
) -> list[dict[str, Any]]:
    """The figures of few labels, drawn from all that is not reported."""
    if not recipe.shots:
        return []
    known, report = parts.learned, parts.report
    options: dict[str, Any] = {
        "shots": recipe.shots,
        "repeats": recipe.repeats,
        "semi": recipe.semi,
        "text": start,
        "seed": recipe.seed,
        "blocks": known.blocks,
    }
    with listener.progress("few labels", len(recipe.shots) * recipe.repeats) as options["progress"]:
        return probes.fit_few_shot(recipe.kind, known.X, known.y, report.X, report.y, groups=known.units, **options)


def load_baselines(
    source: Candidate, recipe: Options, where: OriginOptions, workers: int | None, listener: Listener
) -> tuple[dict[str, tuple[Entry, FeatureMatrix]], list[str]]:
    """The baselines' entries and rows, by their names in the result; and why some are absent.

    Embeddings that the store does not hold yet are computed.
    """
    store, held, absent = source.store, {}, []
    for name, make in _baseline_extractors(source.entry, recipe, where).items():
        try:
            extractor = make()
            said = f"baseline: {BASELINE_NAMES[name]}"
            entry = complete(store, extractor, workers=workers, said=said, listener=listener)
            held[name] = entry, matrices.outline(store, entry)
        except (BackboneError, StoreError) as error:  # what nobody trusts; or the images are gone
            absent.append(f"no figure for {name.replace('_', ' ')}: {error}")
    return held, absent


def _baseline_extractors(
    entry: Entry | JointEntry, recipe: Options, where: OriginOptions
) -> dict[str, Callable[[], Extractor]]:
    """What the probe is compared with, by its name in the result, each to be made when its turn comes."""
    if isinstance(entry, JointEntry):  # each of its backbones alone is a baseline
        return {}
    simple = _simple(entry)
    if recipe.baselines == "none" or entry.spec["architecture"] in simple:
        return {}
    found = dict(simple)
    if recipe.baselines == "full" and not entry.is_handmade:
        name = entry.provenance["source"]["name"]
        how: dict[str, Any] = {"seed": recipe.seed, "device": where.device, "trust": where.trust}
        found["random_backbone"] = partial(backbones.twin, entry.spec, name, **how)
    return found
