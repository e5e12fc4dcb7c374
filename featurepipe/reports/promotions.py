"""The section on fine-tuning: what was tuned, whether it beat the probe, how it went, and by which recipe.

Older cards have no ``expected_gain``: there validation data chose the epoch, and then between it and the probe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from featurepipe import probes
from featurepipe.cards import AFTER_ALL, Advice, Card, Epoch, Figures, Tuning
from featurepipe.reports.drawings import bars, curves
from featurepipe.reports.markup import Html, interval_text, join, percent, section, table, tag
from featurepipe.reports.sections import NINETY_FIVE
from featurepipe.statistics.intervals import interval_of

TICKS = 10  # epochs named below a curve
EVENLY = "evenly to a tenth in the first layer"  # what a layer decay of None comes to
TUNED, PROBE, SCRATCH = "fine-tuned", "the probe", "from scratch"
STARTS = {
    "probe": "with the head of {probe}, fitted without the validation images, and the pretrained weights",
    "random head": "with a random head on the pretrained weights",
    "scratch": "from random weights, in the head and below it",
}


def finetuning(card: Card, figures: Figures) -> Html:
    """All about how a network was tuned, or tuned in vain; nothing on a mere probe.

    Parameters
    ----------
    card : Card
        Card of a model file; the section draws its part `finetuning`.
    figures : Figures
        Figures on the reported split.
    """
    tuning = card.finetuning
    if tuning is None:
        return Html()
    advice = tuning.advice
    if advice is not None and advice.tune is None:
        return section("Fine-tuning", _untuned(advice))
    return section(
        "Fine-tuning",
        tag("p", _what(tuning)),
        _advised(advice) if advice is not None else "",
        _verdict(card, tuning, figures) if tuning.promoted else _refusal(card, tuning, figures),
        _beside(card, tuning, figures),
        *_courses(tuning),
        _epochs(tuning),
        tag("h3", "Recipe"),
        _recipe(tuning.recipe),
    )


def _untuned(advice: Advice) -> Html:
    """What there is to say where advice was against tuning: nothing was tried, so nothing failed."""
    kept = "an earlier layer's probe" if advice.option == "stage" else "the probe"
    text = f" The advice was to keep {kept}"
    text += f", on {advice.layer}; the one in this file is on the last layer." if advice.option == "stage" else "."
    return tag("div", tag("b", "Nothing was tuned."), text, " The reasons:", _reasons(advice), class_="box")


def _advised(advice: Advice) -> Html:
    """Who chose the depth, and why."""
    gain = advice.expected_gain[advice.option]
    assert gain is not None  # advice never chooses what it knows nothing of
    low, mean, high = (f"{100 * one:.1f}" for one in (gain.low, gain.mean, gain.high))
    said = f"The advice chose the depth. It expected {mean} percentage points ({low} to {high}) on new images"
    return join(tag("p", f"{said} against a linear probe. Its reasons:"), _reasons(advice))


def _reasons(advice: Advice) -> Html:
    return tag("ul", *(tag("li", reason) for reason in advice.reasons))


def _what(tuning: Tuning) -> str:
    """Which part of the network, from where, for how long."""
    tuned, parameters = tuning.tuned_parameters, tuning.parameters
    share = f"{tuned:,} of the {parameters:,} parameters below the head ({percent(tuned / max(parameters, 1))})"
    parts = [
        f"{_depth(tuning.tune)}: {share if tuned else f'none of the {parameters:,} parameters below it'}.",
        f"Training started {STARTS[tuning.start].format(probe=_its_probe(tuning))}.",
        "The output of the layers below was computed once and kept." if tuning.cached_bottom else "",
        f"{_ended(tuning.stopped, tuning.curve[-1].epoch)}; in all it took {_duration(tuning.seconds)}.",
        _kept(tuning) if tuning.promoted else "",
    ]
    return " ".join(filter(None, parts))


def _is_compared(tuning: Tuning) -> bool:
    """Whether the tuned network was compared with the probe image by image."""
    return tuning.validation.expected_gain is not None


def _is_last(tuning: Tuning) -> bool:
    """Whether the last epoch was kept because it is the last, and not the best."""
    return _is_compared(tuning) and tuning.stopped == AFTER_ALL and not tuning.recipe.get("patience")


def _kept(tuning: Tuning) -> str:
    """Which epoch was kept, and what decided that the network is."""
    best = tuning.best_epoch
    how = f"Validation data ({_validation(tuning)}) chose epoch {best}."
    if _is_last(tuning):
        how = f"The last epoch was kept, {best}."
    parts = [how, _compared(tuning) if _is_compared(tuning) else ""]
    if tuning.refit and tuning.is_refitted:
        parts.append(f"Then it was trained once more in the same way, on all {tuning.refit.images:,} images.")
    return " ".join(filter(None, parts))


def _compared(tuning: Tuning) -> str:
    """The tuned network next to the probe, on the images that decided between them."""
    found = tuning.validation
    assert found.expected_gain is not None  # which `_is_compared` has found
    points = round(100 * found.expected_gain, 1) + 0.0  # which is never -0.0
    return (
        f"On validation data ({found.on}) the tuned network is right where the probe is wrong on "
        f"{found.network_alone:,} of {found.compared:,} images, the other way round on {found.probe_alone:,}. "
        "From this, and from what tuning gained on other data, the expected gain over the probe on new images is "
        f"{points:+.1f} percentage points."
    )


def _depth(tune: str) -> str:
    """How deep, in words."""
    if tune == "head":
        return "Only the head was tuned"
    if tune == "all":
        return "The whole network was tuned"
    if tune.startswith("last-"):
        count = int(tune.removeprefix("last-"))
        return "The last block was tuned" if count == 1 else f"The last {count} blocks were tuned"
    return f"The network was tuned from {tune.removesuffix('+')} on"


def _ended(stopped: str, epoch: int) -> str:
    """Why no further epoch was tried."""
    if stopped in ("interrupted", "failed"):
        how = "was interrupted" if stopped == "interrupted" else "failed"
        return f"It {how} after epoch {epoch}, and the best epoch so far was kept"
    early, colon, why = stopped.partition(": ")
    return f"It ended {early}, with epoch {epoch}" + (f" ({why})" if colon else "")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 100 * 60 else f"{seconds / 3600:.1f} hours"


def _validation(tuning: Tuning) -> str:
    return f"{tuning.validation.on}, {tuning.validation.n:,} images"


def _its_probe(tuning: Tuning) -> str:
    """The probe whose head tuning starts with; of the kinds only a logistic one has a C."""
    kind = None if tuning.probe is None else tuning.probe.kind
    has_strength = kind is None or probes.KINDS[kind].is_cross_entropy
    return f"its probe at C={tuning.C:g}" if has_strength and tuning.C is not None else "its probe"


def _origin(tuning: Tuning) -> str:
    """What epoch 0 is called."""
    return f"the start ({_its_probe(tuning)})" if tuning.start == "probe" else "the start"


class _Level(NamedTuple):
    """Figures on validation data, as far as they are known."""

    top1: float | None
    log_loss: float | None


def _to_beat(tuning: Tuning) -> _Level:
    """The probe's figures on validation data; those of epoch 0 where a card has none and tuning started from it."""
    validation = tuning.validation
    if "probe" in validation:
        return _Level(validation.probe, validation.probe_log_loss)
    zero = tuning.curve[0]
    return _Level(zero.top1, zero.log_loss) if tuning.start == "probe" else _Level(None, None)


def _pair(top1: float, loss: float | None) -> str:
    """Top-1, and the log-loss where it is known."""
    return percent(top1) + ("" if loss is None else f" (log-loss {loss:.3f})")


def _refusal(card: Card, tuning: Tuning, figures: Figures) -> Html:
    """Why the file holds the probe after all."""
    probe, network, best = _to_beat(tuning), tuning.network, tuning.best_epoch
    if _is_compared(tuning):
        text = f" {_compared(tuning)} "
        if tuning.validation.behind:
            text += "A network that is not worse would lose this clearly at most one time in ten"
        else:
            text += "A tuned network is kept only if it is expected to gain more than a point"
    else:
        text = f" On validation data ({_validation(tuning)}) "
        text += (
            f"epoch {best} was the best, but no better than the probe"
            if best
            else f"no epoch was better than {_origin(tuning)}"
        )
    text += ", so this file holds the probe on the frozen backbone. The figures on this page are the "
    text += "probe's."
    if best:
        kept = tuning.curve[best]
        text += f" There top-1 was {_pair(kept.top1, kept.log_loss)} at epoch {best}"
        text += "" if probe.top1 is None else f", and is {_pair(probe.top1, probe.log_loss)} for the probe"
        text += "."
        if not _is_compared(tuning):
            text += " Better is a lower log-loss, with a top-1 within one standard error of the best."
    else:
        text += _highest(tuning, probe)
    if network is not None:
        its = f"{_pair(network.top1, network.log_loss)}, {network.n:,} images"
        text += f" On {card.evaluated_on} the tuned network has a top-1 of {its}"
        text += f"; the probe has {_pair(figures.top1, figures.log_loss)}."
    return tag("div", tag("b", "Fine-tuning did not pay."), text, class_="box")


def _highest(tuning: Tuning, probe: _Level) -> str:
    """The best of the epochs, compared with the start that was kept instead; nothing where none was tried."""
    zero, *epochs = tuning.curve
    tried = [epoch for epoch in epochs if epoch.top1 is not None]
    if not tried:
        return ""
    best = max(tried, key=lambda epoch: (epoch.top1, -(epoch.log_loss or 0.0)))
    text = f" The highest top-1 of an epoch was {_pair(best.top1, best.log_loss)}, in epoch {best.epoch}"
    text += f"; that of {_origin(tuning)} is {_pair(zero.top1, zero.log_loss)}"
    if "probe" not in tuning.validation or probe.top1 is None:
        return f"{text}."
    return f"{text}, and that of the probe {_pair(probe.top1, probe.log_loss)}."


def _verdict(card: Card, tuning: Tuning, figures: Figures) -> Html:
    """The tuned network compared with the probe, and how sure that is."""
    where, probe, top1 = card.evaluated_on, tuning.probe, figures.top1
    if probe is None:
        return tag("p", f"The probe's figures on {where} are not known, so the gain from tuning is unknown.")
    points, low, high = 100 * (top1 - probe.top1), *interval_of(figures)
    pair = f"{percent(top1)} against {percent(probe.top1)} top-1 on {where}"
    losses = f"log-loss {figures.log_loss:.3f} against {probe.log_loss:.3f} nats"
    interval = f"the {NINETY_FIVE} interval of the tuned network, {interval_text(figures)}"
    if abs(points) < 0.05:  # which would be shown as 0.0
        said = f"On {where} the tuned network is as often right as {PROBE}"
    else:
        said = f"The tuned network is {abs(points):.1f} percentage points {'above' if points > 0 else 'below'} {PROBE}"
    text = f": {pair}; {losses}."
    if low <= probe.top1 <= high:
        text += f" The probe's figure lies inside {interval}: the difference may be chance." if points else ""
    else:
        text += f" The probe's figure lies outside {interval}."
    if points < 0:
        text += " Validation had favoured tuning, but on these images it does not pay."
    return tag("p", tag("b", said), text)


def _beside(card: Card, tuning: Tuning, figures: Figures) -> Html:
    """Bars of what was measured on the reported split."""
    values = {"this model" if tuning.promoted else "this probe": figures.top1}
    if tuning.promoted and tuning.probe is not None:
        values[PROBE] = tuning.probe.top1
    elif not tuning.promoted and tuning.network is not None:
        values[TUNED] = tuning.network.top1
    scratch, said = tuning.scratch, ""
    if scratch is not None:
        values[SCRATCH] = scratch.top1
        said = (
            " From scratch: the same architecture from random weights, by the same recipe, except for what "
            f"protects pretrained weights; epoch {scratch.best_epoch} of {scratch.curve[-1].epoch}, "
            f"{_duration(scratch.seconds)}."
        )
    if len(values) == 1:
        return Html()
    what = f"Top-1 on {card.evaluated_on}; whiskers: {NINETY_FIVE} Wilson intervals.{said}"
    return join(bars(values, None if figures.groups is not None else figures.n), tag("small", what))


def _courses(tuning: Tuning) -> list[Html]:
    """Validation figures by epoch, those from scratch among them."""
    scratch = tuning.scratch.curve if tuning.scratch else []
    said = f"On validation data: {_validation(tuning)}. Epoch 0 is {_origin(tuning)}, before any step."
    if _is_last(tuning):
        said += " The last epoch was kept, whatever these figures say."
    else:
        said += (
            " Among the epochs within one standard error of the best top-1, the one with the lowest log-loss was chosen"
        )
        said += (
            ". It was chosen on these images, so its figures here are a little optimistic."
            if tuning.best_epoch
            else "."
        )
    if _to_beat(tuning).top1 is not None:
        said += " The level line is the probe that tuning has to beat; it was fitted without these images."
    said += " Every log-loss is calibrated, by a temperature fitted on these same images."
    parts = [_charts({TUNED: tuning.curve}, tuning, ""), tag("small", said)]
    if scratch:  # far below mostly: drawn with it, what tuning gained would not be seen
        what = ", with training from scratch"
        parts.append(_charts({TUNED: tuning.curve, SCRATCH: scratch}, tuning, what))
    return parts


def _charts(courses: Mapping[str, Sequence[Epoch]], tuning: Tuning, what: str) -> Html:
    """Top-1 and log-loss of some courses, over the level of the probe."""
    epochs = sorted({step.epoch for course in courses.values() for step in course})
    every = math.ceil(len(epochs) / TICKS)
    labels = ["" if i % every else "start" if epoch == 0 else f"{epoch}" for i, epoch in enumerate(epochs)]
    charts = []
    for key, name, scale in (("top1", "top-1 in %", 100), ("log_loss", "log-loss in nats", 1)):
        lines = {course: _line(steps, key, epochs) for course, steps in courses.items()}
        level = getattr(_to_beat(tuning), key)
        if level is not None:  # from end to end, to see what is above it
            lines = {PROBE: [(level,) * 3, *[None] * (len(epochs) - 2), (level,) * 3], **lines}
        if any(point is not None for line in lines.values() for point in line):
            charts.append(curves(f"{name}, by epoch{what}", epochs, labels, lines, scale, tuning.best_epoch))
    return tag("div", *charts, class_="pair")


def _line(course: Sequence[Epoch], key: str, epochs: Sequence[int]) -> list[tuple[float, float, float] | None]:
    """A course's points at the given epochs; None where it has none."""
    values = {step.epoch: getattr(step, key) for step in course}
    return [None if values.get(epoch) is None else (values[epoch],) * 3 for epoch in epochs]


def _epochs(tuning: Tuning) -> Html:
    """The table of epochs, to be opened."""
    head = ["epoch", "train loss", "top-1", "log-loss", "learning rate", "seconds"]
    parts = [tag("summary", "Epoch by epoch"), table(head, *_rows(tuning.curve, tuning.best_epoch))]
    if tuning.scratch:
        parts += [tag("h3", "From scratch")]
        parts += [table(head, *_rows(tuning.scratch.curve, tuning.scratch.best_epoch))]
    return tag("details", *parts)


def _rows(course: Sequence[Epoch], best: int) -> tuple[list[list[str]], list[bool]]:
    rows = [
        [
            str(step.epoch),
            _loss(step.train_loss),
            "–" if step.top1 is None else percent(step.top1),
            _loss(step.log_loss),
            "–" if step.lr is None else f"{step.lr:.2g}",
            "–" if step.seconds is None else f"{step.seconds:.1f}",
        ]
        for step in course
    ]
    return rows, [step.epoch == best for step in course]


def _loss(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3f}"


def _recipe(recipe: Mapping[str, Any]) -> Html:
    """Every switch and its setting, in two tables next to each other where there is room."""
    said = {**recipe, "layer_decay": EVENLY} if recipe.get("layer_decay", EVENLY) is None else recipe
    rows = [[tag("small", name.replace("_", " ")), _setting(value)] for name, value in said.items()]
    half = math.ceil(len(rows) / 2)
    return tag("div", *(table([], part, class_="words") for part in (rows[:half], rows[half:])), class_="pair")


def _setting(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
