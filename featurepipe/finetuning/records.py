"""What the card of a promotion says: how it was tuned, and what the file holds in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featurepipe import finetuning, models, probes
from featurepipe.cards import (
    Advice,
    Card,
    Epoch,
    Figures,
    RatedNetwork,
    RatedProbe,
    Refit,
    Scratch,
    Selection,
    Tuning,
    Validation,
)
from featurepipe.extraction import now, versions
from featurepipe.finetuning import Promoted, Recipe
from featurepipe.finetuning.starts import Start
from featurepipe.finetuning.verdicts import Rating, Verdict

ADVICE = ("option", "tune", "layer", "expected_gain", "reasons")


@dataclass(frozen=True)
class Later:
    """What came after the verdict, and before it was known that the file is whole.

    Attributes
    ----------
    refit : Refit or None
    scratch : Scratch or None
    """

    refit: Refit | None = None
    scratch: Scratch | None = None


def card(
    start: Start,
    recipe: Recipe,
    made: Promoted,
    verdict: Verdict,
    rating: Rating,
    later: Later,
    *,
    advised: Mapping[str, Any] | None,
    seconds: float,
) -> Card:
    """The card of a model file that holds the tuned network if it was kept, else the probe."""
    parts, found, probe, promoted = start.parts, start.found, start.probe, verdict.promoted
    reported = kept(verdict, rating)
    validated = Figures.of_json({"source": start.validated_on, **verdict.figures})
    begun = advised is None or advised["tune"] is not None
    return Card(
        data=found.data(len(start.head.classes)),
        splits=found.splits,
        split_source=found.split_source,
        evaluated_on=parts.reported,
        selection=Selection.made(
            probe.selected_on,
            start.head.strength if promoted else probe.chosen,
            probe.path,
            temperature=made.temperature if promoted else probe.temperature,
            ece=validated.ece,
            ece_uncalibrated=validated.ece_uncalibrated,
            coverage=verdict.coverage,
        ),
        val=reported if parts.reported == "val" else validated,
        test=reported if parts.reported == "test" else None,
        baselines={"majority": probes.majority(parts.train.y, parts.report.y), **start.baselines},
        majority_class=str(probes.commonest(parts.train.y)),
        few_shot=[],
        finetuning=_tuning(start, recipe, made, verdict, rating, later, advised, seconds),
        protocol=None,
        licence=models.licence_of(found.origin, found.single.spec),  # of the weights that tuning began from
        seed=recipe.seed,
        class_weight=recipe.class_weight,
        notes=[*found.notes, *start.notes, *(start_notes(start, recipe, made) if begun else [])],
        versions=versions(),
        created=now(),
    )


def kept(verdict: Verdict, rating: Rating) -> Figures:
    """The figures on the reported split of what the file holds."""
    if not verdict.promoted:
        return rating.probe
    assert rating.network is not None  # a network without an epoch is not promoted
    return rating.network


def start_notes(start: Start, recipe: Recipe, made: Promoted) -> list[str]:
    """A note if the network did not start where the probe stopped, up to the rounding of its precision."""
    first = Epoch.of_json(made.outcome.curve[0])
    probe, count = start.first["top1"], first.n
    if recipe.head != finetuning.PROBE or abs(first.top1 - probe) <= max(0.01, 1.5 / count):
        return []
    return [
        "the network now gives other embeddings than the store holds (another precision or version?): before tuning it "
        f"is right on {100 * first.top1:.1f} % of {count} validation images, the probe on the stored embeddings on "
        f"{100 * probe:.1f} %"
    ]


def _tuning(
    start: Start,
    recipe: Recipe,
    made: Promoted,
    verdict: Verdict,
    rating: Rating,
    later: Later,
    advised: Mapping[str, Any] | None,
    seconds: float,
) -> Tuning:
    """What the card says of the tuning."""
    outcome, probe, network = made.outcome, rating.probe, rating.network
    came_to = {"epochs": recipe.epochs_for(len(start.train)), "lr": recipe.peak_lr, "weight_decay": recipe.decay}
    return Tuning(
        promoted=verdict.promoted,
        of=start.found.entry.name,
        start="probe" if recipe.head == finetuning.PROBE else "random head",
        C=start.head.strength,
        tune=recipe.tune,
        tuned_parameters=made.tuned,
        parameters=made.parameters,
        recipe=asdict(recipe) | came_to,
        validation=_validation(start, recipe, verdict),
        curve=[Epoch.of_json(one) for one in outcome.curve],
        best_epoch=outcome.best_epoch,
        stopped=outcome.stopped,
        probe=RatedProbe(kind=start.probe.kind, top1=probe.top1, log_loss=probe.log_loss, n=probe.n),
        network=None if network is None else RatedNetwork(top1=network.top1, log_loss=network.log_loss, n=network.n),
        cached_bottom=made.cached,
        refit=later.refit,
        advice=None if advised is None else Advice.of_json({key: advised[key] for key in ADVICE}),
        scratch=later.scratch,
        seconds=seconds,
    )


def _validation(start: Start, recipe: Recipe, verdict: Verdict) -> Validation:
    """What the verdict rests on."""
    answers = verdict.answers
    duel = answers and finetuning.duel(*answers)
    return Validation(
        on=start.validated_on,
        n=len(start.validation),
        probe=start.figures["top1"],
        probe_log_loss=start.figures["log_loss"],
        compared=answers and len(answers[0]),
        network_alone=duel and duel[0],
        probe_alone=duel and duel[1],
        expected_gain=answers and finetuning.expected_gain(*answers, finetuning.expected_share(recipe.tune)),
        behind=answers and finetuning.is_behind(*answers),
    )
