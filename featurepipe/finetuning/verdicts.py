"""What tuning gave, compared with the probe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featurepipe import extraction, finetuning, probes
from featurepipe.backbones import Backbone
from featurepipe.cards import Figures
from featurepipe.errors import FinetuningError
from featurepipe.extraction import Settings
from featurepipe.finetuning import Examples, Promoted, Recipe
from featurepipe.finetuning.starts import Start
from featurepipe.listeners import Listener, Quiet
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import with_copies
from featurepipe.statistics import Kept, coverage
from featurepipe.statistics.intervals import interval

FIGURES = ("top1", "log_loss", "n")


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
    confidence : ndarray of float, shape (m,)
        How sure it is of each answer.
    """

    figures: dict[str, Any]
    kept: np.ndarray
    right: np.ndarray
    confidence: np.ndarray


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
    sure = probes.probabilities(made.estimator, vectors, made.temperature).max(axis=1)
    return Measured(figures, kept, probes.predict(made.estimator, vectors) == y, sure)


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
    coverage : list of Kept
        How often what is kept is right there where it is sure enough.
    """

    promoted: bool
    figures: dict[str, Any]
    answers: tuple[np.ndarray, np.ndarray] | None = None
    coverage: list[Kept] = field(default_factory=list)


def judge(start: Start, recipe: Recipe, made: Promoted, workers: int | None, listener: Listener) -> Verdict:
    """Compare a tuned network with the probe on validation data, from which neither has learned."""
    if not made.outcome.best_epoch:
        return Verdict(False, start.figures, coverage=start.probe.coverage)
    network = measure(made, start.samples(start.validation), start.validation, workers, listener)
    probe = start.rival.predict(start.validation.X) == start.validation.y
    answers = probe[network.kept], network.right
    promoted = finetuning.pays(*answers, finetuning.expected_share(recipe.tune))
    sure = coverage(network.confidence, network.right) if promoted else start.probe.coverage
    return Verdict(promoted, network.figures if promoted else start.figures, answers, sure)


@dataclass(frozen=True)
class Rating:
    """The probe and the tuned network on the reported split.

    Attributes
    ----------
    probe : Figures
    network : Figures or None
        None where no epoch was kept.
    """

    probe: Figures
    network: Figures | None


def rate(start: Start, made: Promoted, workers: int | None, listener: Listener) -> Rating:
    """Measure the probe and the tuned network on the reported split."""
    parts, probe = start.parts, start.probe

    def by_probe(part: FeatureMatrix) -> dict[str, Any]:
        figures = probes.evaluate(probe.estimator, part.X, part.y, probe.temperature)
        return figures | interval(part, probes.predict(probe.estimator, part.X) == part.y)

    def by_network(part: FeatureMatrix) -> dict[str, Any]:
        found = measure(made, start.samples(part), part, workers, listener)
        return found.figures | interval(part.take(found.kept), found.right)

    of_probe = Figures.of_json(with_copies(by_probe(parts.report), parts, by_probe))
    if not made.outcome.best_epoch:
        return Rating(of_probe, None)
    return Rating(of_probe, Figures.of_json(with_copies(by_network(parts.report), parts, by_network)))
