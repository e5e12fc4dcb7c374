"""What a tuned network came to, beside its probe: its model file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import extraction, finetuning, models, probes
from featurepipe.backbones import Backbone
from featurepipe.errors import FinetuningError
from featurepipe.finetuning import Promoted, Recipe, Samples
from featurepipe.listeners import Listener
from featurepipe.matrices import FeatureMatrix
from featurepipe.stages.preparing import sizes
from featurepipe.stages.starting import Start

FIGURES = ("top1", "log_loss", "n")
ADVICE = ("option", "tune", "layer", "expected_gain", "reasons")


def _pays(start: Start, made: Promoted) -> bool:
    """Whether the epoch that was kept is better than the probe."""
    epoch, curve = made.outcome.best_epoch, made.outcome.curve
    return epoch > 0 and finetuning.pays(start.figures, curve[epoch])


def _start_notes(start: Start, recipe: Recipe, first: Mapping[str, Any]) -> list[str]:
    """A note where the network has not started where the probe stopped, but for the rounding of its precision."""
    probe, count = start.first["top1"], first["n"]
    if recipe.head != finetuning.PROBE or abs(first["top1"] - probe) <= max(0.01, 1.5 / count):
        return []
    return [
        f"the network gives other embeddings now than those in the store (precision, versions?): before tuning it has "
        f"{100 * first['top1']:.1f} % of {count} validation images right, the probe on the stored ones "
        f"{100 * probe:.1f} %"
    ]


def untuned(start: Start, extractor: Backbone) -> Promoted:
    """What stands where advice is against tuning: the start, and not a step."""
    first = {key: start.figures[key] for key in FIGURES}
    curve = [{"epoch": 0, "train_loss": None, "lr": None, **first, "seconds": 0.0}]
    outcome = finetuning.Outcome(curve, 0, {}, "not begun: the advice is to keep a probe")
    parameters = sum(one.numel() for one in extractor.module.parameters())
    return Promoted(extractor, None, 1.0, outcome, 0, parameters, False)


def measure(
    made: Promoted, samples: Samples, part: FeatureMatrix, workers: int | None, listener: Listener
) -> dict[str, Any]:
    """Figures of a tuned network on rows, whose images are embedded for it as `evaluate` will."""
    memory = extraction.Memory()
    todo = list({one.digest: one for one in samples.images}.values())
    with listener.progress("measuring", len(todo)) as advance:
        outcome = extraction.fill(todo, made.backbone, memory, workers=workers, progress=advance)
    kept = [digest not in outcome.rejects for digest in part.digests]
    if not all(kept):
        why = next(iter(outcome.rejects.values()))
        if not any(kept):
            raise FinetuningError(
                f"none of the {part.split[0]} images can be read ({why}); restore the files and run again"
            )
        listener.note(
            f"note: {len(kept) - sum(kept)} images cannot be read any more and are not measured; the first: {why}"
        )
    vectors = np.stack([memory.vectors[digest] for digest in part.digests[kept]])
    return probes.evaluate(made.estimator, vectors, part.y[kept], made.temperature)


def write(
    path: Path,
    start: Start,
    recipe: Recipe,
    extractor: Backbone,
    made: Promoted,
    *,
    scratch: dict[str, Any] | None = None,
    advised: Mapping[str, Any] | None,
    workers: int | None,
    listener: Listener,
    started: float,
) -> dict[str, Any]:
    """Write the model file: the tuned network if it was kept, else the probe; and say all about it."""
    promoted, begun = _pays(start, made), advised is None or advised["tune"] is not None
    parts, found, probe = start.parts, start.found, start.probe
    of_probe = probes.evaluate(probe.estimator, parts.report.X, parts.report.y, probe.temperature)
    reported, validated, of_network = of_probe, start.figures, None
    if made.outcome.best_epoch:
        of_network = measure(made, start.samples(parts.report), parts.report, workers, listener)
    if promoted:
        reported = of_network
        validated = measure(made, start.samples(start.validation), start.validation, workers, listener)
    on = parts.reported
    card = {
        "data": {"root": str(found.store.root), "samples": len(found.samples), "classes": len(start.head.classes)},
        "splits": sizes(found.samples.split),
        "split_source": found.split_source,
        "evaluated_on": on,
        "selection": {
            "on": probe.selected_on,
            "chosen": start.head.strength if promoted else probe.chosen,
            "path": probe.path,
            "temperature": made.temperature if promoted else probe.temperature,
            "ece": validated["ece"],
            "ece_uncalibrated": validated["ece_uncalibrated"],
        },
        "val": reported if on == "val" else {"source": start.validated_on, **validated},
        "test": reported if on == "test" else None,
        "baselines": {"majority": probes.majority(parts.train.y, parts.report.y), **start.baselines},
        "majority_class": str(probes.commonest(parts.train.y)),
        "few_shot": [],
        "finetuning": {
            "promoted": promoted,
            **_told(start, recipe, made, of_probe, of_network),
            "advice": advised and {key: advised[key] for key in ADVICE},
            "scratch": scratch,
            "seconds": round(time.perf_counter() - started, 3),
        },
        "protocol": None,
        "licence": None,
        "seed": recipe.seed,
        "class_weight": recipe.class_weight,
        "notes": [*found.notes, *start.notes, *(_start_notes(start, recipe, made.outcome.curve[0]) if begun else [])],
        "versions": extraction.versions(),
        "created": extraction.now(),
    }
    backbone = made.backbone if promoted else extractor
    origin = (
        {"name": backbone.name, "weights": str(path.resolve()), "random_seed": None} if promoted else dict(found.origin)
    )
    model = models.Model(
        kind="logistic" if promoted else probe.kind,
        estimator=made.estimator if promoted else probe.estimator,
        temperature=made.temperature if promoted else probe.temperature,
        backbone={"name": backbone.name, "fingerprint": backbone.fingerprint, "spec": backbone.spec, "source": origin},
        seen=np.concatenate([start.seen, models.digest_keys(parts.learned.digests)]),
        card=card,
    )
    models.save(path, model, module=backbone.module)
    identity = {"model": str(path), "backbone": backbone.name, "fingerprint": backbone.fingerprint, "kind": model.kind}
    verdict = {"promoted": promoted, "tune": recipe.tune, "top1": reported["top1"]}
    return {**identity, **verdict, **card, "seconds": round(time.perf_counter() - started, 3)}


def _told(
    start: Start,
    recipe: Recipe,
    made: Promoted,
    of_probe: Mapping[str, Any],
    of_network: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the card says of the tuning."""
    outcome = made.outcome
    return {
        "of": start.found.entry.name,
        "start": "probe" if recipe.head == finetuning.PROBE else "random head",
        "C": start.head.strength,
        "tune": recipe.tune,
        "tuned_parameters": made.tuned,
        "parameters": made.parameters,
        "recipe": asdict(recipe)
        | {"epochs": recipe.epochs_for(len(start.train)), "patience": recipe.patience_for(len(start.train))}
        | {"lr": recipe.peak_lr, "weight_decay": recipe.decay},
        "validation": {
            "on": start.validated_on,
            "n": len(start.validation),
            "probe": start.figures["top1"],
            "probe_log_loss": start.figures["log_loss"],
        },
        "curve": outcome.curve,
        "best_epoch": outcome.best_epoch,
        "stopped": outcome.stopped,
        "probe": {"kind": start.probe.kind, **{key: of_probe[key] for key in FIGURES}},
        "network": of_network and {key: of_network[key] for key in FIGURES},
        "cached_bottom": made.cached,
    }
