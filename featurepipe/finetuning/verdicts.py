"""What tuning gave, compared with the probe: its model file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import extraction, finetuning, models, probes
from featurepipe.backbones import Backbone
from featurepipe.errors import FinetuningError
from featurepipe.extraction import Settings
from featurepipe.finetuning import Examples, Promoted, Recipe
from featurepipe.finetuning.starts import Start
from featurepipe.listeners import Listener, Quiet
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import sizes, with_copies
from featurepipe.statistics.intervals import interval

FIGURES = ("top1", "log_loss", "n")
ADVICE = ("option", "tune", "layer", "expected_gain", "reasons")


def _start_notes(start: Start, recipe: Recipe, first: Mapping[str, Any]) -> list[str]:
    """A note if the network did not start where the probe stopped, up to the rounding of its precision."""
    probe, count = start.first["top1"], first["n"]
    if recipe.head != finetuning.PROBE or abs(first["top1"] - probe) <= max(0.01, 1.5 / count):
        return []
    return [
        "the network now gives other embeddings than the store holds (another precision or version?): before tuning it "
        f"is right on {100 * first['top1']:.1f} % of {count} validation images, the probe on the stored embeddings on "
        f"{100 * probe:.1f} %"
    ]


def untuned(start: Start, extractor: Backbone) -> Promoted:
    """The result if advice is against tuning: the start, without a step."""
    first = {key: start.figures[key] for key in FIGURES}
    curve = [{"epoch": 0, "train_loss": None, "lr": None, **first, "seconds": 0.0}]
    outcome = finetuning.Course(curve, 0, {}, "not begun: the advice is to keep a probe")
    parameters = sum(one.numel() for one in extractor.module.parameters())
    return Promoted(extractor, None, 1.0, outcome, 0, parameters, False)


@dataclass(frozen=True)
class Measured:
    """A tuned network on rows.

    Attributes
    ----------
    figures : dict
        `featurepipe.probes.evaluate`'s.
    kept : ndarray of bool, shape (n,)
        The rows whose images could be read.
    right : ndarray of bool, shape (m,)
        On which of them it is right.
    """

    figures: dict[str, Any]
    kept: np.ndarray
    right: np.ndarray


def measure(
    made: Promoted, samples: Examples, part: FeatureMatrix, workers: int | None, listener: Listener
) -> Measured:
    """A tuned network on rows, whose images are embedded for it as `evaluate` will."""
    memory = extraction.Memory()
    todo = list({one.digest: one for one in samples.images}.values())
    settings = Settings(workers=workers)
    outcome = extraction.fill(todo, made.backbone, memory, settings, label="measuring", listener=Quiet(listener))
    kept = np.array([digest not in outcome.rejects for digest in part.digests])
    if not kept.all():
        why = next(iter(outcome.rejects.values()))
        if not kept.any():
            raise FinetuningError(
                f"none of the {part.split[0]} images can be read ({why}); restore the files and run again"
            )
        listener.note(f"note: {(~kept).sum()} images cannot be read any more and are not measured; the first: {why}")
    vectors, y = np.stack([memory.vectors[digest] for digest in part.digests[kept]]), part.y[kept]
    figures = probes.evaluate(made.estimator, vectors, y, made.temperature)
    return Measured(figures, kept, probes.predict(made.estimator, vectors) == y)


@dataclass(frozen=True)
class Verdict:
    """Whether a tuned network is kept.

    Attributes
    ----------
    promoted : bool
    figures : dict
        On validation data, of what is kept.
    answers : tuple of (ndarray, ndarray), each of bool and shape (m,), or None
        Whether the probe and the network are right on each of the validation images that can be read; None where no
        epoch was kept.
    """

    promoted: bool
    figures: dict[str, Any]
    answers: tuple[np.ndarray, np.ndarray] | None = None


def judge(start: Start, recipe: Recipe, made: Promoted, workers: int | None, listener: Listener) -> Verdict:
    """Compare a tuned network with the probe on validation data, from which neither has learned."""
    if not made.outcome.best_epoch:
        return Verdict(False, start.figures)
    network = measure(made, start.samples(start.validation), start.validation, workers, listener)
    probe = start.rival.predict(start.validation.X) == start.validation.y
    answers = probe[network.kept], network.right
    promoted = finetuning.pays(*answers, finetuning.expected_share(recipe.tune))
    return Verdict(promoted, network.figures if promoted else start.figures, answers)


def write(
    path: Path,
    start: Start,
    recipe: Recipe,
    extractor: Backbone,
    made: Promoted,
    verdict: Verdict,
    *,
    refitted: dict[str, Any] | None = None,
    scratch: dict[str, Any] | None = None,
    advised: Mapping[str, Any] | None,
    workers: int | None,
    listener: Listener,
    started: float,
) -> dict[str, Any]:
    """Write the model file: the tuned network if it was kept, else the probe; and say all about it."""
    promoted, begun = verdict.promoted, advised is None or advised["tune"] is not None
    parts, found, probe = start.parts, start.found, start.probe

    def by_probe(part: FeatureMatrix) -> dict[str, Any]:
        figures = probes.evaluate(probe.estimator, part.X, part.y, probe.temperature)
        return figures | interval(part, probes.predict(probe.estimator, part.X) == part.y)

    def by_network(part: FeatureMatrix) -> dict[str, Any]:
        found = measure(made, start.samples(part), part, workers, listener)
        return found.figures | interval(part.take(found.kept), found.right)

    of_probe = with_copies(by_probe(parts.report), parts, by_probe)
    of_network = with_copies(by_network(parts.report), parts, by_network) if made.outcome.best_epoch else None
    reported, validated = of_probe, verdict.figures
    if promoted:
        assert of_network is not None  # a network without an epoch is not promoted
        reported = of_network
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
            **_told(start, recipe, made, of_probe, of_network, verdict.answers),
            "refit": refitted,
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
    said = {"promoted": promoted, "tune": recipe.tune, "top1": reported["top1"]}
    return {**identity, **said, **card, "seconds": round(time.perf_counter() - started, 3)}


def _told(
    start: Start,
    recipe: Recipe,
    made: Promoted,
    of_probe: Mapping[str, Any],
    of_network: Mapping[str, Any] | None,
    answers: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, Any]:
    """What the card says of the tuning."""
    outcome, duel = made.outcome, answers and finetuning.duel(*answers)
    return {
        "of": start.found.entry.name,
        "start": "probe" if recipe.head == finetuning.PROBE else "random head",
        "C": start.head.strength,
        "tune": recipe.tune,
        "tuned_parameters": made.tuned,
        "parameters": made.parameters,
        "recipe": asdict(recipe)
        | {"epochs": recipe.epochs_for(len(start.train)), "lr": recipe.peak_lr, "weight_decay": recipe.decay},
        "validation": {
            "on": start.validated_on,
            "n": len(start.validation),
            "probe": start.figures["top1"],
            "probe_log_loss": start.figures["log_loss"],
            "compared": answers and len(answers[0]),  # images that can still be read
            "network_alone": duel and duel[0],  # images that it is right on, and the probe is not
            "probe_alone": duel and duel[1],
            "expected_gain": answers and finetuning.expected_gain(*answers, finetuning.expected_share(recipe.tune)),
            "behind": answers and finetuning.is_behind(*answers),
        },
        "curve": outcome.curve,
        "best_epoch": outcome.best_epoch,
        "stopped": outcome.stopped,
        "probe": {"kind": start.probe.kind, **{key: of_probe[key] for key in FIGURES}},
        "network": of_network and {key: of_network[key] for key in FIGURES},
        "cached_bottom": made.cached,
    }
