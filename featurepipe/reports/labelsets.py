"""The sections of the page of a multi-label model that are not those of other models."""

from __future__ import annotations

from featurepipe import models
from featurepipe.cards import Card, ClassFigures, Figures
from featurepipe.reports.drawings import bars, curves
from featurepipe.reports.markup import Html, join, percent, section, table, tag
from featurepipe.reports.sections import LOWEST, OPEN, compared, copies, no_test, what_it_is
from featurepipe.vocabulary.names import HANDMADE

FOR_SETS = {"chance": "chance", **HANDMADE, "random_backbone": "random backbone"}


def headline(model: models.Model, title: str, data: str, figures: Figures) -> Html:
    """The figure that counts, and of what."""
    where, of = str(model.card.evaluated_on), figures.per_class.values()
    known = sum(one.support > 0 for one in of)
    over = f": mean average precision over the {known:,} of {len(of):,} labels on any of n = {figures.n:,} images."
    return join(
        tag("h1", title),
        tag("p", percent(figures.map), class_="top1"),
        tag("p", tag("b", f"{where} mAP"), over, no_test(where), copies(figures)),
        what_it_is(model, data),
    )


def baselines(card: Card, figures: Figures) -> Html:
    """The probe next to what it has to beat."""
    found = {name: card.baselines[key] for key, name in compared(card, FOR_SETS).items()}
    present = {name: value for name, value in found.items() if value is not None}
    absent = ", ".join(name for name in found if name not in present)
    what = f"mAP on {card.evaluated_on}. Chance is the mean share of images that have a label."
    return section(
        "Compared with baselines",
        bars({"this probe": figures.map, **present}, None),
        tag("small", what),
        tag("small", f"Not computed: {absent}.") if absent else "",
    )


def figures(card: Card, figures: Figures) -> Html:
    """The figures on the reported split and on the selection data."""
    columns = {str(card.evaluated_on): figures}
    if card.evaluated_on != "val" and card.val:
        columns["selection data"] = card.val
    rows = [
        [
            join(name, tag("small", meaning)),
            *("–" if one[key] is None else form(one[key]) for one in columns.values()),
        ]
        for name, key, form, meaning in (
            ("mAP", "map", percent, "mean of the labels' average precisions (Pascal VOC 2010)"),
            ("micro F1", "micro_f1", "{:.3f}".format, "of all decisions at probability 0.5"),
            ("macro F1", "macro_f1", "{:.3f}".format, "mean over the labels"),
            ("right sets", "subset_accuracy", percent, "share of images with every label right"),
            ("wrong decisions", "hamming", percent, "share of all images and labels"),
            ("log-loss", "log_loss", "{:.3f} nats".format, "mean over images and labels"),
            ("images", "n", "{:,}".format, ""),
        )
    ]
    return section("Figures", table(["", *columns], rows))


def selection(model: models.Model) -> Html:
    """How the labels' C were chosen."""
    selection, where = model.card.selection, model.card.evaluated_on
    given = selection.on == "given"
    how = "was given" if given else f"was selected on {selection.on}, by the lowest log-loss of that label"
    values, chosen = [step["C"] for step in selection.path], _strengths(model)
    labels = [f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") for value in values]  # short: for a phone
    curve = [(step.log_loss,) * 3 for step in selection.path]
    rows = []
    for step in selection.path:
        takers = sum(step.C == C for C in chosen.values())
        said = "" if step.converged else "not converged"
        rows.append([f"{step.C:g}", f"{step.log_loss:.3f}", takers, said])
    return section(
        "How C was chosen",
        tag("p", f"The C of each label {how}; {where} was not used for it."),
        curves("mean log-loss of the labels in nats, by C", values, labels, {"": curve}, 1),
        table(["C", "mean log-loss", "labels", ""], rows),
    )


def _strengths(model: models.Model) -> dict[str, float]:
    """The C of each label."""
    chosen = model.card.selection.chosen
    assert isinstance(chosen, dict)  # as a file's is, which is checked when it is read
    return chosen


def per_label(model: models.Model, figures: Figures) -> Html:
    """Average precision, C and the decisions of every label, lowest average precision first."""
    head = ["label", "average precision", "precision", "recall", "F1", "images", "C"]
    chosen = _strengths(model)
    known = figures.per_class.items()
    order = sorted(known, key=lambda item: (not item[1].support, item[1].average_precision or 0.0, item[0]))
    rows = [_row(label, one, chosen[label]) for label, one in order]
    first = len(rows) if len(rows) <= OPEN else LOWEST
    rest = [tag("summary", f"the other {len(rows) - first:,} labels"), table(head, rows[first:])]
    return section(
        "Per label",
        tag("p", "Lowest average precision first; decisions at probability 0.5."),
        table(head, rows[:first]),
        tag("details", *rest) if rows[first:] else "",
    )


def _row(label: str, one: ClassFigures, C: float) -> list[object]:
    if not one.support:
        return [label, "–", "–", "–", "–", 0, f"{C:g}"]
    shares = [percent(one[key]) for key in ("average_precision", "precision", "recall")]
    return [label, *shares, f"{one.f1:.3f}", f"{one.support:,}", f"{C:g}"]
