"""What `probe` does with ``folds``: a probe of all samples, measured by k-fold cross-validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from featurepipe import models, probes
from featurepipe.cards import Card, Figures, Selection
from featurepipe.errors import ProbeError, StoreError
from featurepipe.extraction import now, versions
from featurepipe.files import size_text
from featurepipe.listeners import Listener
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import arrange
from featurepipe.matrices.scratch import read
from featurepipe.memory import available
from featurepipe.models.candidates import Prepared
from featurepipe.probes.notes import fit_notes
from featurepipe.probes.options import Options
from featurepipe.stores import Entry, JointEntry

# The baselines' entries and all of their rows, before the embeddings are read; and why some are absent
Others = Callable[[], tuple[dict[str, tuple[Entry, FeatureMatrix]], list[str]]]
COPIES = 3  # of the features: the rows, a training part, and a working copy of that


def check_folded(folds: int | None, recipe: Options) -> None:
    """Raise ProbeError for what does not go with folds, before anything is read."""
    if folds is None:
        return
    probes.check_folds(folds)
    for given, what in ((recipe.shots, "--shots"), (recipe.multi_label, "--multi-label")):
        if given:
            raise ProbeError(f"--folds does not work with {what}; leave out one of them")


def probe_folded(
    found: Prepared, recipe: Options, folds: int, others: Others, *, limit: int | None, listener: Listener
) -> dict[str, Any]:
    """Measure a kind of probe by k-fold cross-validation, fit it to all samples, and write the model file.

    Parameters
    ----------
    found : Prepared
        What `featurepipe.models.candidates.keep_whole` gives.
    recipe : Options
    folds : int
    others : callable
        Gives the baselines, when the probe is fitted.
    limit : int or None
        Bytes of memory; by default what is available.

    Returns
    -------
    dict
        As `featurepipe.stages.probe`'s, without ``seconds``.
    """
    found.announce(listener, f"{recipe.kind} probe, {folds} folds,")
    samples = _read(found.entry, found.samples, limit)
    folded = _measure(samples, recipe, folds, listener)
    how: dict[str, Any] = {"value": recipe.value, "class_weight": recipe.class_weight, "measure": False}
    how |= {"seed": recipe.seed, "device": recipe.probe_device, "blocks": samples.blocks}
    fitted = probes.fit(recipe.kind, samples.X, samples.y, groups=samples.units, **how)
    notes = [*found.notes, *_never(folded.never), *fit_notes(fitted)]
    beside: dict[str, float | None] = {}
    absent: list[str] = []
    if recipe.baselines != "none":
        beside["majority"] = folded.majority
        held, absent = others()
        for name, (entry, rows) in held.items():
            try:
                same = _read(entry, same_samples(found, rows), limit)
                beside[name] = _measure(same, replace(recipe, value=None), folds, listener).figures["top1"]
            except (ProbeError, StoreError) as error:  # too large, or broken: the probe stays
                absent = [*absent, f"no figure for {entry.name}: {error}"]
    notes += absent
    card = Card(
        data=found.data(len(fitted.classes)),
        splits=found.splits,
        split_source=found.split_source,
        evaluated_on="folds",
        selection=selection_of(fitted),
        val=Figures.of_json({"source": fitted.selected_on, **fitted.scores}),
        test=None,
        folds=Figures.of_json(folded.figures),
        baselines=beside,
        majority_class=str(probes.commonest(samples.y)),
        few_shot=[],
        protocol=None,
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
    beyond: dict[str, Any] = {"contradictory": found.contradictory, "out_of_core": False}
    beyond |= {"lacking": dict(found.lacking)} if found.lacking else {}
    return {**identity, "kind": fitted.kind, **strength, **card.to_json(), **beyond}


def selection_of(fitted: probes.Probe) -> Selection:
    """How a probe was selected, for its card."""
    return Selection.made(
        fitted.selected_on,
        fitted.chosen,
        fitted.path,
        temperature=fitted.temperature,
        ece=fitted.scores.get("ece"),  # None where there was nothing to select on
        ece_uncalibrated=fitted.scores.get("ece_uncalibrated"),
        coverage=fitted.coverage,
    )


def same_samples(found: Prepared, other: FeatureMatrix) -> FeatureMatrix:
    """The same samples with the same labels and splits, of another entry's rows."""
    mine = found.samples
    known = {id_: (label, part) for id_, label, part in zip(mine.ids, mine.y, mine.split, strict=True)}
    other = other.take(np.array([id_ in known for id_ in other.ids], bool))
    labels, split = (np.array([known[id_][column] for id_ in other.ids], object) for column in (0, 1))
    return arrange(replace(other, y=labels), split)


def _measure(samples: FeatureMatrix, recipe: Options, folds: int, listener: Listener) -> probes.Folded:
    """The figures of k-fold cross-validation."""
    how: dict[str, Any] = {"value": recipe.value, "class_weight": recipe.class_weight, "seed": recipe.seed}
    how |= {"device": recipe.probe_device, "blocks": samples.blocks, "groups": probes.folded_groups(samples)}
    how["measure"] = False  # as for the probe of all samples
    with listener.progress("folds", folds) as advance:
        return probes.cross_validate(
            recipe.kind, samples.X, samples.y, folds=folds, units=samples.units, advance=advance, **how
        )


def _read(entry: Entry | JointEntry, samples: FeatureMatrix, limit: int | None) -> FeatureMatrix:
    """The embeddings of samples; ProbeError where they do not fit into memory."""
    room, size = available() if limit is None else limit, COPIES * 4 * len(samples) * prod(entry.shape)
    if room is not None and size > room:
        raise ProbeError(
            f"folds need the features in memory three times, {size_text(size)}, and it is {size_text(room)}; leave out "
            "--folds, or give more --memory"
        )
    return read(entry, samples)


def _never(count: int) -> list[str]:
    """A note on samples that no fold holds out."""
    if not count:
        return []
    which = "1 sample is the only one of its class, so no fold holds it out"
    many = f"{count} samples are in classes of one sample or group, so no fold holds them out"
    return [which if count == 1 else many]
