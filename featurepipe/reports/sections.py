"""The sections of the page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from featurepipe import backbones, models, probes
from featurepipe.cards import Card, ClassFigures, Draws, FewShot, Figures
from featurepipe.comparisons.blocks import block_verdict
from featurepipe.reports.drawings import COUNTED, bars, curves, dots, matrix
from featurepipe.reports.galleries import Gallery
from featurepipe.reports.galleries.sheets import drawer, opener, top_confusions
from featurepipe.reports.markup import (
    SPACE,
    Html,
    interval_text,
    join,
    method,
    percent,
    section,
    table,
    tag,
    wilson_text,
)
from featurepipe.statistics.intervals import interval_of
from featurepipe.vocabulary.names import HANDMADE, SEMI, TEXT_STARTS

BASELINE_LABELS = {"majority": "majority class", **HANDMADE, "random_backbone": "random backbone"}
ABOUT_TEXT = (
    "Zero-shot uses the class names alone. Tip-Adapter, Tip-Adapter-F, LP++ and WiSE-FT start from it and learn from "
    "the same labels. None of them chooses anything on data."
)
ROOM = 1.3  # between the last number of shots and all labels, so that both can be written below a curve
OPEN = 30  # labels up to which the whole table of labels lies open
TICKS = 12  # values named below a curve
LOWEST = 10  # labels that lie open of a longer one
PAIRS, MANY_PAIRS = 8, 40  # pairs of classes that are listed: below a matrix, and where there is none
CONFUSED = ["true class", "predicted class", "how many"]
FOLDERS = re.compile(r"(?<![^\s'\"(“])/(?:[^\s/:<>]+/)+(?=[^\s/:])")  # of absolute paths
NINETY_FIVE = f"95{SPACE}%"


def headline(model: models.Model, title: str, data: str, figures: Figures) -> Html:
    """The figure that counts, how sure it is, and of what."""
    where = str(model.card.evaluated_on)
    interval = f" on n = {figures.n:,} {_things(model)}; {NINETY_FIVE} interval {interval_text(figures)}"
    return join(
        tag("h1", title),
        tag("p", percent(figures.top1), class_="top1"),
        tag("p", tag("b", f"{where} top-1"), interval, f" ({method(figures)}).", no_test(where), copies(figures)),
        what_it_is(model, data),
    )


def _things(model: models.Model) -> str:
    """What samples are called."""
    return f"{medium_of(model)}s"


def medium_of(model: models.Model) -> str:
    """What a sample is called: by its medium, if all backbones take the same."""
    media = {backbones.medium_of(one["spec"]) for one in model.backbones}
    return media.pop() if len(media) == 1 else "sample"


def local(text: str) -> str:
    """A text without the folders of absolute paths: a page may go to people who must not see them.

    Examples
    --------
    >>> local("no figure for pixels: /home/ann/secret/a.png is gone")
    'no figure for pixels: a.png is gone'
    """
    return FOLDERS.sub("", text)


def no_test(where: str) -> str:
    """Says so where there is no test split."""
    if where == "folds":
        return " No sample was answered by a probe that had learned from it; see “Fold by fold”."
    return "" if where == "test" else f" There is no test split: the figures are measured on {where}."


def copies(figures: Figures) -> str:
    """The headline with the copies of training images that it leaves out; nothing where there are none."""
    whole = figures.with_copies
    if whole is None:
        return ""
    count = whole.n - figures.n
    which = "one exact copy of a training image" if count == 1 else f"{count:,} exact copies of training images"
    share = whole["map" if "map" in whole else "top1"]
    return f" With {which}: {percent(share)} of {whole.n:,}."


def what_it_is(model: models.Model, data: str) -> Html:
    """Which probe, on what, and trained on how much; or which network was tuned."""
    card = model.card
    titles = (" ".join(filter(None, [one["name"], backbones.stage_of(one["spec"])])) for one in model.backbones)
    whole_name = " + ".join(titles)
    if tuning := card.tuned:
        validation = tuning.validation  # which was not learned from, at first
        count = card.splits.train - (0 if validation.on == "val" else validation.n)
        count = tuning.refit.images if tuning.refit and tuning.is_refitted else count
        size = f", tuned together on {count:,} {_things(model)} of {len(model.classes):,} classes from "
        return tag("p", "A linear head and its backbone ", tag("b", whole_name), size, tag("b", data), ".")
    several = len(model.backbones) > 1
    seen: str = join(f"embeddings of the frozen backbone{'s' if several else ''} ", tag("b", whole_name))
    architecture = "" if several else model.backbone["spec"]["architecture"]
    if described := backbones.DESCRIPTORS.get(architecture):
        seen = described.title
    elif architecture in HANDMADE:
        seen = HANDMADE[architecture]
    kinds = "labels" if model.is_multi_label else "classes"
    size = f", trained on {card.learned:,} {_things(model)} of {len(model.classes):,} {kinds} from "
    return tag("p", f"A {model.kind} probe on ", seen, size, tag("b", data), ".")


def warnings(model: models.Model) -> Html:
    """Notes, and a banner where the weights are random."""
    seed = next((seed for one in model.backbones if (seed := one["source"]["random_seed"]) is not None), None)
    notes = [tag("li", local(note)) for note in model.card.notes]
    random = tag("b", "random weights: a baseline, not a trained backbone")
    learned = f" (seed {seed}). The network has learned nothing; only the probe on top of it was fitted."
    return join(
        tag("div", random, learned, class_="box") if seed is not None and not model.card.tuned else "",
        tag("div", tag("b", "Notes"), tag("ul", *notes), class_="box") if notes else "",
    )


def compared(card: Card, labels: Mapping[str, str]) -> dict[str, str]:
    """The names of baselines, without the hand-made ones of other media; of several backbones only what is there."""
    usual = set(labels) - set(HANDMADE) if card.blocks is None else set()
    return {key: name for key, name in labels.items() if key in usual or key in card.baselines}


def verdict(card: Card, figures: Figures) -> str:
    """Whether the figure is above those of the baselines, in a sentence; nothing where there are none.

    Of several backbones also whether they are better together.
    """
    present = _present(card)
    said = [_verdict("model" if card.tuned else "probe", figures, present)] if present else []
    return " ".join([*said, block_verdict(card.blocks)] if card.blocks else said)


def _present(card: Card) -> dict[str, float]:
    """The baselines that were measured."""
    found = {name: card.baselines.get(key) for key, name in compared(card, BASELINE_LABELS).items()}
    return {name: value for name, value in found.items() if value is not None}


def baselines(card: Card, figures: Figures) -> Html:
    """The probe next to what it has to beat."""
    measured = _present(card)
    absent = ", ".join(name for name in compared(card, BASELINE_LABELS).values() if name not in measured)
    present = measured | {f"{one.name} alone": one.top1 for one in (card.blocks.alone if card.blocks else [])}
    what, commonest = "model" if card.tuned else "probe", card.majority_class  # which files of before lack
    return section(
        "Compared with baselines",
        tag("p", _verdict(what, figures, measured)) if measured else "",
        bars({f"this {what}": figures.top1, **present}, None if figures.groups is not None else figures.n),
        tag("small", f"Top-1 on {card.evaluated_on}; whiskers: {NINETY_FIVE} Wilson intervals."),
        tag("small", f"Majority class: always answering “{commonest}”, the most common class in train.")
        if commonest
        else "",
        tag("small", f"Not computed: {absent}.") if absent else "",
    )


def blocks(card: Card, figures: Figures) -> Html:
    """Of several backbones each one alone, and whether they are better together; nothing of one backbone."""
    found = card.blocks
    if found is None:
        return Html()
    rows = [[one.name, f"{one.width:,}", percent(one.top1), interval_text(one)] for one in found.alone]
    together = ["together", f"{sum(one.width for one in found.alone):,}", percent(figures.top1), interval_text(figures)]
    what = f"The same kind of probe on each backbone alone, on the same {figures.n:,} {card.evaluated_on} images."
    return section(
        "Each backbone alone",
        tag("p", block_verdict(found)),
        table(["backbone", "features", "top-1", f"{NINETY_FIVE} interval"], [*rows, together]),
        tag("small", what),
    )


def _verdict(what: str, figures: Figures, present: Mapping[str, float]) -> str:
    best = max(present, key=lambda name: present[name])
    named = f"the best baseline, {best} ({percent(present[best])})"
    if figures.top1 <= present[best]:
        return f"The {what} does not beat {named}."
    text = f"The {what} is {100 * (figures.top1 - present[best]):.1f} percentage points above {named}."
    if present[best] >= interval_of(figures)[0]:
        text += f" That is inside the {what}'s {NINETY_FIVE} interval, so the difference may be chance."
    return text


def few_labels(card: Card, figures: Figures) -> Html:
    """Top-1 by shots, up to all labels; nothing where none were asked for."""
    few = sorted(card.few_shot, key=lambda one: one.shots)
    if not few:
        return Html()
    where, classes, whole = card.evaluated_on, len(figures.classes), card.learned
    mine, top1 = "this probe", figures.top1 if card.tuned is None else None
    if card.tuned:  # few labels are the probe's, whatever became of it
        mine, top1 = "probe", None if card.tuned.probe is None else card.tuned.probe.top1
    lines = {mine: [_span(one) for one in few]}
    for more, names in (([one.semi or {} for one in few], SEMI), ([one.text or {} for one in few], TEXT_STARTS)):
        for key, name in names.items():
            if all(key in one for one in more):
                lines[name] = [_span(one[key]) for one in more]
    for key, name in BASELINE_LABELS.items():
        means = [mean for one in few if (mean := one.baselines.get(key)) is not None]
        if len(means) == len(few):
            lines[name] = [(mean,) * 3 for mean in means]
    rows = [
        [f"{one.shots:,}", f"{one.shots * classes:,}", *map(_span_text, spans)]
        for one, *spans in zip(few, *lines.values(), strict=True)
    ]
    end = {mine: top1, **{name: card.baselines.get(key) for key, name in compared(card, BASELINE_LABELS).items()}}
    ends = [end.get(name) for name in lines]
    rows.append(["all", f"{whole:,}", *("" if top1 is None else percent(top1) for top1 in ends)])
    what = (
        f"Top-1 of probes trained on a few labelled images per class, on the same {figures.n:,} {where} images: mean"
        f" over {few[0].repeats:,} random draws of labels, with its {NINETY_FIVE} interval (Student's t; over draws,"
        " not over test images). The strength is chosen by cross-validation inside each draw."
    )
    x: list[float] = [one.shots for one in few]
    labels = [f"{count:,}" for count in x]
    if whole / classes > x[-1]:  # else the last draws are of all labels
        for name, top1 in zip(lines, ends, strict=True):
            lines[name] += [] if top1 is None else [(top1,) * 3]
        x.append(whole / classes)
        labels.append("all" if x[-1] > ROOM * x[-2] else "")
    return section(
        "With few labels",
        tag("p", what),
        tag("p", _verdict_on_semi(few)) if any(one.semi for one in few) else "",
        tag("p", ABOUT_TEXT) if any(one.text for one in few) else "",
        curves("top-1 in %, by labelled images per class", x, labels, lines, 100),
        table(["per class", "labels", *lines], rows),
    )


def _span(one: Draws) -> tuple[float, float, float]:
    """The mean over draws between the ends of its interval."""
    low, high = probes.mean_interval(one.top1) or (one.mean, one.mean)
    return low, one.mean, high


def _span_text(span: tuple[float, float, float]) -> str:
    low, mean, high = span
    return percent(mean) if low == high else f"{percent(mean)} ({100 * low:.1f}–{100 * high:.1f})"


def _verdict_on_semi(few: Sequence[FewShot]) -> str:
    """What the lines know, and where that is of no use."""
    text = (
        "Self-training and label spreading use the same labels, and all other training images without labels. They"
        " never see the reported images."
    )
    for key, name in SEMI.items():
        vain = [f"{one.shots:,}" for one in few if (one.semi or {})[key].mean <= one.mean]
        text += f" With {', '.join(vain)} per class, {name} is no better than the probe alone." if vain else ""
    return text


def figures(card: Card, figures: Figures) -> Html:
    """The figures on the reported split and on the selection data."""
    columns = {str(card.evaluated_on): figures}
    if card.evaluated_on != "val" and card.val and "top1" in card.val:  # there may have been nothing to select on
        columns["selection data"] = card.val
    even, bins = math.log(len(figures.classes)), probes.ECE_BINS
    rows = [
        [join(name, tag("small", meaning)), *(form(column[key]) for column in columns.values())]
        for name, key, form, meaning in (
            ("top-1", "top1", percent, "share of images whose most probable class is the right one"),
            ("balanced accuracy", "balanced_accuracy", percent, "mean of the classes' recalls"),
            ("log-loss", "log_loss", "{:.3f} nats".format, f"0 is perfect; guessing evenly gives {even:.3f}"),
            ("ECE", "ece", "{:.3f}".format, f"mean gap between confidence and accuracy, {bins} bins"),
            ("images", "n", "{:,}".format, ""),
        )
    ]
    before = "Selection data: the chosen candidate, before the final fit"
    if tuning := card.tuned:
        before = f"Selection data: {tuning.validation.on}; the choice was made there, so a little optimistic"
        before += ", before it learned from these images too" if tuning.is_refitted else ""
    elif len(card.selection.path) > 1:
        before += "; picked as the best, so a little optimistic"
    return section("Figures", table(["", *columns], rows), tag("small", f"{before}.") if len(columns) > 1 else "")


def selection(model: models.Model) -> Html:
    """How the strength was chosen; nothing where there is none."""
    card = model.card
    selection, where = card.selection, card.evaluated_on
    name, path, chosen = probes.KINDS[_probe_kind(model)].parameter, selection.path, selection.chosen
    if name is None:
        return Html()
    assert not isinstance(chosen, dict)  # which is of sets of labels
    how = "given, not selected" if selection.on == "given" else f"selected on {selection.on}"
    used = f"{where} was not used for it."
    if selection.on == where:
        used = f"{where} is also the split that is reported, so the figures above are too optimistic."
    values = [step[name] for step in path]
    labels = [f"{value:g}" for value in values]
    if name in ("C", "alpha"):  # decades
        labels = [f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") for value in values]  # short: for a phone
    every = math.ceil(len(labels) / TICKS)
    labels = [label if i % every == 0 else "" for i, label in enumerate(labels)]
    charts, rows = [], []
    for key, what, scale in (("top1", "top-1 in %", 100), ("log_loss", "log-loss in nats", 1)):
        curve = [(step[key],) * 3 for step in path]
        charts.append(curves(f"{what}, by {name}", values, labels, {"": curve}, scale, chosen))
    for step in path:
        said = ", ".join(["chosen"] * (step[name] == chosen) + ["not converged"] * (not step.converged))
        rows.append([f"{step[name]:g}", percent(step.top1), f"{step.log_loss:.3f}", said])
    whose = ""
    if tuning := card.tuned:
        whose = " It belongs to the probe that tuning started from, and is at most that of the probe to beat; the"
        if tuning.start != "probe":
            whose = " Tuning began with another head, so it describes the probe only; the"
        whose += " tuned head has none of its own."
    return section(
        f"How {name} {'of the probe ' if whose else ''}was chosen",
        tag("p", tag("b", f"{name} = {chosen:g}"), f" was {how}; {used}{whose}"),
        tag("small", _rule(card)) if len(path) > 1 else "",
        tag("div", *charts, class_="pair"),
        table([name, "top-1", "log-loss", ""], rows, [value == chosen for value in values]) if path else "",
    )


def layers(card: Card) -> Html:
    """The figures of all layers among which one was chosen; nothing where there was no choice."""
    if not card.layers:
        return Html()
    rows = [_layer(row) for row in card.layers]
    on = card.layers[0]["selection"]["on"] if card.layers[0]["selection"] else "nothing"
    legend = f"{card.evaluated_on} top-1 in %, with {NINETY_FIVE} intervals. Blue: the layer that was chosen, on {on}."
    return section("Layers", dots(rows), tag("small", legend))


def _layer(row: Mapping[str, Any]) -> tuple[str, float, float, float, str]:
    low, high = row["interval"]
    return row["layer"], low, row["top1"], high, "reference" if row["chosen"] else "trained"


def _probe_kind(model: models.Model) -> str:
    """The kind of the probe; a tuned head is logistic, whatever the probe was."""
    tuning = model.card.finetuning
    probe = None if tuning is None else tuning.get("probe")  # a tuner's card says none
    return model.kind if probe is None else probe.get("kind", model.kind)


def _rule(card: Card) -> str:
    """By which rule the candidate was chosen."""
    protocol = card.protocol
    among = "those that cannot be told apart from the best (paired comparison on the same images)"
    if not any("tied" in step for step in card.selection.path):  # a file from before they were compared in pairs
        among = "those within one standard error of the best top-1"
    if card.tuned:
        return f"The probe to beat has the lowest log-loss of {among}."
    if protocol is None:
        return f"Of {among}, the lowest log-loss wins."
    by = f"Protocol {protocol.name}, version {protocol.version}, by {protocol.metric}"
    return f"{by}: {protocol.selection}."


def confusion(figures: Figures, gallery: Gallery | None = None) -> Html:
    """The confusion matrix and the pairs most often confused, with the samples behind them where there is a gallery.

    Of more than 100 classes there is no matrix, and the pairs are those of the gallery; nothing without both.
    """
    if figures.confusion is None:
        return Html() if gallery is None else _many_confusions(gallery)
    counts, classes = np.array(figures.confusion), figures.classes
    numbers = _numbers(classes, gallery)
    wrong = counts - np.diag(np.diag(counts))  # (K, K)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    rows = [
        [
            classes[i],
            classes[j],
            f"{counts[i, j]:,}" if numbers is None else opener(numbers[i], numbers[j], int(counts[i, j])),
            percent(counts[i, j] / counts[i].sum()),
        ]
        for i, j in pairs
    ]
    more = int((wrong > 0).sum()) - len(pairs)
    legend = "Rows: true class; columns: predicted class. Blue is right, orange wrong; darker: larger share of the row."
    return section(
        "Confusion matrix",
        tag("p", "Click a cell to see what is behind it. Arrow keys go from cell to cell, Enter opens one.")
        if numbers
        else "",
        tag(
            "div",
            tag("div", matrix(counts, classes, numbers), class_="wide"),
            drawer() if numbers else "",
            class_="behind",
        ),
        tag("small", legend, "" if len(classes) <= COUNTED else " Point at a cell to see its classes."),
        tag("h3", "Most confused pairs"),
        table([*CONFUSED, "share of the class"], rows, class_="words")
        if rows
        else tag("p", "Nothing was classified wrongly."),
        tag("small", f"And {more:,} more." if more == 1 else f"And {more:,} more pairs.") if more > 0 else "",
    )


def _numbers(classes: Sequence[str], gallery: Gallery | None) -> list[int] | None:
    """The classes' numbers in a gallery; None where it does not know them all."""
    known = {} if gallery is None else {label: number for number, label in enumerate(gallery.labels)}
    return [known[name] for name in classes] if all(name in known for name in classes) else None


def _many_confusions(gallery: Gallery) -> Html:
    rows = top_confusions(gallery, MANY_PAIRS)
    wrong, shown = len(gallery.mistakes), sum(count for *_, count in gallery.confusions(MANY_PAIRS))
    said = f"There are too many classes for a matrix. These pairs are {shown:,} of {wrong:,} mistakes."
    return section(
        "Most confused pairs",
        tag("p", said) if rows else tag("p", "Nothing was classified wrongly."),
        table(CONFUSED, rows, class_="words sortable") if rows else "",
        drawer() if rows else "",
    )


def per_class(figures: Figures) -> Html:
    """Precision, recall, F1 and support of every class, lowest recall first."""
    head = ["class", "recall", f"{NINETY_FIVE} interval", "precision", "F1", "support"]
    known = figures.per_class.items()
    order = sorted(known, key=lambda item: (not item[1].support, item[1].recall, item[0]))
    rows = [_class_row(name, one) for name, one in order]
    return section(
        "Per class",
        tag("p", f"{len(rows):,} classes, lowest recall first."),
        table(head, rows, class_="sortable"),
    )


def _class_row(name: str, one: ClassFigures) -> list[object]:
    if not one.support:
        return [name, "–", "–", percent(one.precision), "–", 0]
    end = f"{100 * one.recall:.1f}%"
    style = f"background: linear-gradient(90deg, var(--tint) {end}, transparent {end})"
    bar = tag("span", percent(one.recall), class_="bar", style=style)
    interval = wilson_text(one.recall, one.support)
    return [name, bar, interval, percent(one.precision), f"{one.f1:.3f}", f"{one.support:,}"]


def how_made(model: models.Model) -> Html:
    """Everything needed to make it again."""
    card, data = model.card, model.card.data
    root = PurePath(data.root).name or data.root
    facts = {
        "data": f"{root}: {data.samples:,} labelled {_things(model)} of {data.classes:,} classes"
        + ("" if data.task is None else f"; labels {data.task} of {PurePath(data.labels or '').name}"),
        "splits": ", ".join(f"{n:,} {name}" for name, n in card.splits.items()) + f" ({card.split_source})",
        "seed": card.seed,
        "versions": ", ".join(f"{library} {version}" for library, version in card.versions.items()),
        "created": card.created,
    }
    if protocol := card.protocol:
        facts["protocol"] = f"{protocol.name}, version {protocol.version}: {protocol.source}"
    made = [fact for backbone in model.backbones for fact in _backbone_facts(backbone).items()]
    rows = [[tag("small", name), value] for name, value in [*made, *facts.items()]]
    return section("How it was made", table([], rows, class_="words"))


def _backbone_facts(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is needed to make a backbone again."""
    spec, source = backbone["spec"], backbone["source"]
    random = "random" if source["random_seed"] is not None else source["name"]
    return {
        "backbone": backbone["name"],
        "architecture": spec["architecture"] + (f" {json.dumps(spec['arguments'])}" if spec["arguments"] else ""),
        "layer": spec["layer"],
        "pooling": spec["pooling"] or "the model's own",
        "precision": spec["precision"],
        "transform": ", ".join(f"{key} {json.dumps(value)}" for key, value in spec["transform"].items()),
        "weights": PurePath(source["weights"]).name if source["weights"] else random,
        "weights digest": tag("span", spec["weights"] or "none", class_="code"),
        "fingerprint": tag("span", backbone["fingerprint"], class_="code"),
    }
