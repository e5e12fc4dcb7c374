"""The stage `probe_layers`: the same probe on each layer of a backbone, and a model file of the best one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import matrices, models, probes
from featurepipe.errors import ProbeError
from featurepipe.listeners import BARS, Listener
from featurepipe.matrices.parts import Parts, arrange, choose_splits, cut, labelled
from featurepipe.memory import parse_size
from featurepipe.probes.notes import fit_notes
from featurepipe.probes.options import Options
from featurepipe.probes.parts import hold
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages.probes import probe
from featurepipe.statistics import wilson
from featurepipe.statistics.intervals import interval
from featurepipe.stores import Entry, Store
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import EntryOptions


@guarded
@presented
@spread(where=EntryOptions, recipe=Options)
def probe_layers(
    store: str | Path,
    output: str | Path | None = None,
    *,
    layers: str | Sequence[str] = "all",
    where: EntryOptions,
    recipe: Options,
    workers: int | None = None,
    memory: int | str | None = None,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Train the same probe on each of several layers, and write a model file for the one that validation data choose.

    All layers are probed on the same images, splits and folds. The layer is chosen on the data that choose C or alpha
    (val, or cross-validation inside train): the last one, unless another is better by more than chance explains, see
    `featurepipe.probes.choose_layer`. The reported split plays no part in it.

    Parameters
    ----------
    store : path
        Filled, for example, by ``extract(…, layers="stages")``.
    output : path, optional
        Model file; by default in the chosen layer's folder of the store.
    layers : str or sequence of str
        ``'all'`` that the store holds, or names, as a list or separated by commas.
    where
    recipe
    workers, memory, force, listener
        As for `probe`, which is run on the chosen layer.

    Returns
    -------
    dict
        `probe`'s, of the chosen layer, and ``layers``: for each ``layer, width, folder, fingerprint, C`` (or the kind's
        own strength, if it has one), ``selection`` (``on, top1, log_loss, n``; None where there was nothing to select
        on), ``n, top1, interval`` (95 %, Wilson) on the split in ``evaluated_on``, ``notes, chosen``.

    Raises
    ------
    StoreError
        The store lacks a layer, or holds only one.
    ProbeError
        As for `probe`, or sets of labels.

    Examples
    --------
    >>> from featurepipe import extract
    >>> store = extract("data/digits", "/tmp/layers.store", layers="stage2,penultimate")["store"]
    >>> result = probe_layers(store, baselines="none")
    >>> [(row["layer"], row["chosen"]) for row in result["layers"]]
    [('stage2', False), ('penultimate', True)]
    """
    started, limit = time.perf_counter(), parse_size(memory)
    if recipe.multi_label:
        raise ProbeError(
            "several layers are compared by top-1, which multi-label probes do not have; choose one with --layer"
        )
    if where.layer is not None:
        raise ProbeError("layer is for one layer and layers for several; give only one of them")
    recipe.check()
    if probes.KINDS[recipe.kind].reads != "vectors":
        raise ProbeError(f"{recipe.kind} probes read tokens, which are of the last layer only; leave out --layers")
    source = Store.open(store)
    entries = source.choose_layers(None if where.backbone is None else os.fspath(where.backbone), layers)
    read = [where.weights, *(entry.provenance["source"]["weights"] for entry in entries)]
    models.check_output(Path(output or entries[-1].folder / "model.safetensors"), read, force=force)  # not after hours
    common = _common(entries)
    listener.note(f"{recipe.kind} probe on {len(entries)} layers of {entries[0].name}")
    table, rights = [], []
    with listener.progress("probing layers", len(entries)) as advance:
        for entry in entries:
            samples, _ = labelled(matrices.outline(source, entry), common)
            samples = arrange(samples, choose_splits(samples, recipe.seed)[0])
            probes.check_enough(cut(samples).learned.y, recipe.shots)
            parts = hold(entry, samples, recipe.kind, limit, device=recipe.probe_device)
            row, right = _row(entry, parts, recipe)
            table.append(row)
            rights.append(right)
            del parts  # one layer's features at a time
            advance(1)
    best = _best(rights)
    table[best]["chosen"] = True
    result = probe(
        store,
        output,
        **{**vars(where), "backbone": entries[best].folder.name},
        **vars(recipe),
        workers=workers,
        memory=limit,
        force=force,
        among=common,
        compared=table,
        listener=listener,
    )
    return {**result, "seconds": round(time.perf_counter() - started, 3)}


def _common(entries: Sequence[Entry]) -> set[str]:
    """The contents that every layer has: one that was extracted by itself may have rejected others."""
    common = set(entries[0].places())
    for entry in entries[1:]:
        common &= entry.places().keys()
    return common


def _row(entry: Entry, parts: Parts, recipe: Options) -> tuple[dict[str, Any], np.ndarray | None]:
    """What one layer's probe chose, how good that was on the selection data, and its figure; and its `Probe.right`."""
    fitted = recipe.fit(parts)
    right = probes.predict(fitted.estimator, parts.report.X) == parts.report.y
    top1 = float(right.mean())
    on = "val" if parts.select is not None else f"{probes.FOLDS}-fold cross-validation on train"
    name = probes.KINDS[recipe.kind].parameter
    scores = {key: fitted.scores[key] for key in ("top1", "log_loss", "n")} if fitted.scores else None
    row = {
        "layer": entry.layer,
        "width": parts.train.X.shape[1],
        "folder": entry.folder.name,
        "fingerprint": entry.fingerprint,
        **({} if name is None else {name: fitted.chosen}),
        "selection": scores and {"on": on, **scores},
        "n": len(parts.report),
        "top1": top1,
        "interval": list(wilson(top1, len(parts.report))),
        **interval(parts.report, right),
        "notes": fit_notes(fitted),
        "chosen": False,
    }
    return row, fitted.right


def _best(rights: Sequence[np.ndarray | None]) -> int:
    """The layer that `probes.choose_layer` takes on the selection data; where there was none, the last."""
    known = [right for right in rights if right is not None]
    return probes.choose_layer(known) if len(known) == len(rights) else len(rights) - 1
