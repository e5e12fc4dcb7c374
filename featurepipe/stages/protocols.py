"""The stage `probe_protocol`: cached embeddings, and what a named protocol makes of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import models, probes, protocols
from featurepipe.cards import Card, Figures, Followed, Part, Selection
from featurepipe.comparisons.notes import split_notes
from featurepipe.errors import ProbeError
from featurepipe.extraction import now, versions
from featurepipe.listeners import BARS, Listener
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import Parts, cut, with_copies
from featurepipe.matrices.scratch import check_scores, read
from featurepipe.memory import available
from featurepipe.models.candidates import divide, find
from featurepipe.probes.notes import edge_note, optimum_notes
from featurepipe.protocols import Protocol, Result
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import EntryOptions

NO_FILE = "has no linear classifier of raw embeddings, which is what a model file holds"


@guarded
@presented
@spread(where=EntryOptions)
def probe_protocol(
    store: str | Path,
    output: str | Path | None = None,
    *,
    protocol: str,
    metric: str | None = None,
    where: EntryOptions,
    seed: int = 0,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Follow a named protocol on cached embeddings; write a model file if it gives a linear classifier.

    Splits are used, or made, as in `probe`. A protocol selects on val, if val is given and is not what is reported;
    otherwise it selects inside train, by its own rule. Few-shot protocols draw from train and val. Nothing is selected
    on the reported split.

    Parameters
    ----------
    store : path
    output : path, optional
        Model file; by default ``STORE/<backbone>-<fingerprint8>/model.safetensors``.
    protocol : str
        A name in `featurepipe.protocols.PROTOCOLS`.
    metric : {'top1', 'balanced_accuracy', 'map'}, optional
        One of the protocol's metrics; by default its first.
    where
    seed : int
        Seed for splits, rows held out, folds, draws and the solver.
    force : bool
        Also replace a file that featurepipe did not write, but never one that is read here.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        What `probe` returns, if a model file is written. Otherwise ``model`` is None, and ``kind`` is the protocol's
        method. ``protocol`` holds its name, version, source, rules, metric and remarks.

    Raises
    ------
    ProbeError
        An unknown protocol or metric, a model file asked for from a protocol that has none, or too little data.

    Examples
    --------
    >>> from featurepipe import extract
    >>> from featurepipe.stages import probe_protocol
    >>> store = extract("data/digits", "/tmp/protocol.store", backbone="pixels")["store"]
    >>> result = probe_protocol(store, protocol="bigvision-fewshot")
    >>> result["model"], [one["shots"] for one in result["few_shot"]]
    (None, [1, 5, 10, 25])
    """
    started = time.perf_counter()
    chosen = protocols.named(protocol)
    metric = protocols.choose_metric(chosen, metric)
    if not chosen.linear and (output is not None or where.include_backbone):
        raise ProbeError(f"protocol {protocol} {NO_FILE}; leave out the output and the backbone's weights")
    source = find(store, output, where)
    if chosen.linear:
        source.check_output(source.path, force=force)
    ready = divide(source, seed=seed)
    ready.announce(listener, f"protocol {protocol}")
    check_scores(ready.samples, available())
    parts = cut(read(ready.single, ready.samples))
    found = _shots(chosen, parts, seed) if chosen.shots else _follow(chosen, parts, metric, seed)
    notes = ready.notes + found.notes
    card = Card(
        data=ready.data(len(np.unique(ready.samples.y))),
        splits=ready.splits,
        split_source=ready.split_source,
        evaluated_on=parts.reported,
        selection=found.selection,
        val=found.val,
        test=found.test,
        few_shot=found.few_shot,
        baselines={
            "majority": probes.majority(parts.train.y, parts.report.y),
            "pixels": None,
            "random_backbone": None,
        },
        majority_class=str(probes.commonest(parts.train.y)),
        protocol=_described(chosen, metric),
        licence=models.licence_of(ready.origin, ready.single.spec),
        seed=seed,
        notes=notes,
        versions=versions(),
        created=now(),
    )
    if chosen.linear:
        outcome = found.outcome
        assert outcome is not None  # as of few shots alone, which leave no classifier
        model = ready.model(chosen.method, outcome.estimator, outcome.temperature, card)
        models.save(ready.path, model, module=ready.module)
    for note in notes:
        listener.note(f"note: {note}")
    identity = {
        "model": str(ready.path) if chosen.linear else None,
        "backbone": ready.single.name,
        "layer": ready.single.layer,
        "kind": chosen.method,
    }
    return {
        **identity,
        chosen.parameter: card.selection.chosen,
        **card.to_json(),
        "contradictory": ready.contradictory,
        "seconds": round(time.perf_counter() - started, 3),
    }


@dataclass(frozen=True)
class _Found:
    """What following a protocol came to: the outcome (None of few shots), and what a card says of it.

    A protocol without a model file has figures of its own form, which no card is ever read with.
    """

    outcome: Result | None
    selection: Selection
    val: Any
    test: Any
    few_shot: list[Any]
    notes: list[str]


def _described(protocol: Protocol, metric: str) -> Followed:
    """The protocol as it was when it was followed."""
    return Followed(
        name=protocol.name,
        version=protocol.version,
        source=protocol.source,
        normalisation=protocol.normalisation,
        selection=protocol.selection,
        refit=protocol.refit,
        remarks=protocol.remarks,
        metric=metric,
    )


def _shots(protocol: Protocol, parts: Parts, seed: int) -> _Found:
    """Follow a protocol of few shots."""
    X, y, learned = parts.report.X, parts.report.y, parts.learned
    few = protocols.run_shots(protocol, learned.X, learned.y, X, y, groups=learned.units, seed=seed)
    left_out = [str(shots) for shots in protocol.shots if shots not in {one["shots"] for one in few}]
    notes = [f"shots left out, as some class has fewer training samples: {', '.join(left_out)}"] if left_out else []
    fixed = protocol.grid[0] if len(protocol.grid) == 1 else None  # each draw chooses its own
    on = "the shots of each draw" if fixed is None else "nothing, the protocol fixes it"
    return _Found(None, Selection.made(on, fixed, []), None, None, few, notes)


def _follow(protocol: Protocol, parts: Parts, metric: str, seed: int) -> _Found:
    """Follow any other protocol."""
    select = (None, None) if parts.select is None else (parts.select.X, parts.select.y)
    how: dict[str, Any] = {"metric": metric, "groups": parts.learned.units, "seed": seed}
    outcome = protocols.run(protocol, parts.train.X, parts.train.y, *select, **how)

    def evaluate(part: FeatureMatrix) -> dict[str, Any]:
        return protocols.evaluate(outcome, part.X, part.y)

    form = Figures if protocol.linear else Part
    figures = form.of_json(with_copies(evaluate(parts.report), parts, evaluate))
    selected = form.of_json({"source": outcome.selected_on, **outcome.scores})
    differing = split_notes(outcome.selected_on, outcome.scores, parts, figures)
    return _Found(
        outcome,
        Selection.made(outcome.selected_on, outcome.chosen, outcome.path),
        val=figures if parts.reported == "val" else selected,
        test=figures if parts.reported == "test" else None,
        few_shot=[],
        notes=outcome.notes + _path_notes(outcome) + differing,
    )


def _path_notes(outcome: Result) -> list[str]:
    """Notes on a choice at the end of the grid, and on optima that were not reached."""
    protocol = outcome.protocol
    name, notes = protocol.parameter, []
    if protocol.linear and outcome.chosen in (protocol.grid[0], protocol.grid[-1]):
        notes.append(edge_note(name, outcome.chosen, protocol.grid))
    return notes + optimum_notes(name, outcome.path, outcome.certificate)
