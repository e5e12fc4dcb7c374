"""The page of a segmentation: how good it is, of which classes, and on which images, with their masks."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from featurepipe.reports.drawings import curves
from featurepipe.reports.galleries.sheets import path, show_look
from featurepipe.reports.looks import Look
from featurepipe.reports.markup import SPACE, Html, document, join, percent, section, table, tag
from featurepipe.segmentation import palette

SHEET = 4  # images of each part of the contact sheet
COLOURS = {"colour": "the mean colour of each patch"}  # baselines, in words
LINES = 12  # classes in the key of colours
NAMED = 2  # pairs of classes that are said in words


def exemplars(images: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Ids of the worst, the middle and the best images by their own mIoU, each in one part only.

    Examples
    --------
    >>> images = [{"id": name, "miou": miou} for name, miou in zip("abcde", (0.9, 0.1, 0.5, None, 0.6))]
    >>> exemplars(images)
    {'worst': ['b', 'c', 'e', 'a'], 'middle': [], 'best': []}
    """
    known = sorted((one["miou"], one["id"]) for one in images if one["miou"] is not None)
    ids = [id_ for _, id_ in known]
    worst, rest = ids[:SHEET], ids[SHEET:]
    best = rest[::-1][:SHEET]
    between = rest[: len(rest) - len(best)]
    start = max(0, (len(between) - SHEET) // 2)
    return {"worst": worst, "middle": between[start : start + SHEET], "best": best}


def segmentation_page(result: Mapping[str, Any], data: str, made: Mapping[str, Any], looks: Mapping[str, Any]) -> str:
    """Draw the page of what `featurepipe.stages.segment` found.

    Parameters
    ----------
    result : mapping
        What it returns; nothing is computed again.
    data : str
        What the data set is called.
    made : mapping
        How it was made, name → text.
    looks : mapping of str to sequence of Look
        Id of an image → the image, its mask and the prediction over it; of those that `exemplars` names.

    Returns
    -------
    str
        A whole HTML document that needs no other file.
    """
    title = f"{data}: {result['kind']} segmentation"
    return document(
        title,
        _headline(result, title),
        _answer(result),
        _contact_sheet(result, looks),
        _classes(result),
        _confusions(result),
        _path(result),
        _how_made(result, made),
        script=True,
    )


def _headline(result: Mapping[str, Any], title: str) -> Html:
    where = tag("b", f"{result['evaluated_on']} mIoU")
    right = percent(result["pixel_accuracy"])
    said = f" on n = {result['n']:,} images{_interval(result)}; {right} of the pixels are right."
    what = (
        "mIoU is the mean over the classes of intersection over union: of all pixels that are of a class, or are said "
        f"to be, the share that is both. 100{SPACE}% is perfect."
    )
    return join(
        tag("h1", title),
        tag("p", percent(result["miou"]), class_="top1"),
        tag("p", where, said),
        tag("p", what),
    )


def _interval(figures: Mapping[str, Any]) -> str:
    ends = figures["miou_interval"]
    if ends is None:
        return ""
    return f"; 95{SPACE}% interval {100 * ends[0]:.1f}–{percent(ends[1])} (bootstrap over images, or groups of them)"


# -- the answer -----------------------------------------------------------------------------------------------------


def _answer(result: Mapping[str, Any]) -> Html:
    rows = {
        "Is this good?": _verdict(result),
        "What goes wrong?": _what_goes_wrong(result),
        "What now?": tag("ul", *_what_now(result)),
    }
    return tag("dl", *(join(tag("dt", asked), tag("dd", said)) for asked, said in rows.items()), class_="answer")


def _verdict(result: Mapping[str, Any]) -> str:
    """The figure next to what comes without a network."""
    name, share, flat = _commonest(result)
    said = [f"Answering “{name}” everywhere gives mIoU {percent(flat)} and {percent(share)} of the pixels."]
    for baseline, figures in result["baselines"].items():
        words = COLOURS.get(baseline, baseline)
        said.append(f"The same classifier on {words}, without a network, gives mIoU {percent(figures['miou'])}.")
        said.append(_against(result, figures))
    if not result["baselines"]:
        said.append("No baseline was measured.")
    return " ".join(said)


def _against(result: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Whether the network is better, as far as intervals tell."""
    gain = f"{abs(100 * (result['miou'] - other['miou'])):.1f} points"
    mine, theirs = result["miou_interval"], other["miou_interval"]
    if mine is None or theirs is None:
        return f"The network differs by {gain}, on too few images to say how sure that is."
    if mine[0] > theirs[1]:
        return f"The network is {gain} better, and the intervals do not overlap."
    if mine[1] < theirs[0]:
        return f"The network is {gain} worse: its tokens do not help here."
    return f"The network differs by {gain}, and the intervals overlap: it is not certain that its tokens help."


def _commonest(result: Mapping[str, Any]) -> tuple[str, float, float]:
    """The class with most pixels, its share of them, and the mIoU of answering it everywhere."""
    pixels = {name: one["pixels"] for name, one in result["per_class"].items()}
    name = max(pixels, key=pixels.__getitem__)
    share = pixels[name] / max(1, sum(pixels.values()))
    return name, share, share / max(1, sum(count > 0 for count in pixels.values()))


def _what_goes_wrong(result: Mapping[str, Any]) -> str:
    known = {name: one["iou"] for name, one in result["per_class"].items() if one["iou"] is not None}
    worst = min(known, key=known.__getitem__)
    said = [f"The class with the lowest IoU is “{worst}” ({percent(known[worst])})."]
    pairs = [
        f"{percent(one['share'])} of “{one['true']}” is taken for “{one['predicted']}”" for one in result["confused"]
    ]
    said += [f"{'; '.join(pairs[:NAMED])}."] if pairs else []
    if result["covered"] < 0.999:
        said.append(f"The network has seen {percent(result['covered'])} of the pixels; the others do not count.")
    return " ".join(said)


def _what_now(result: Mapping[str, Any]) -> list[Html]:
    """At most three things to do."""
    model = PurePath(result["model"]).name
    found = [tag("li", "Look at the worst images below: are their masks right?")]
    if result["covered"] < 0.999:
        whole = tag("code", "--crop-mode squash --crop-pct 1")
        found.append(tag("li", "Show the network whole images: run extract again with ", whole, "."))
    else:
        larger = tag("code", "--input-size")
        text = "Things thinner than a patch cannot be found. If that matters, extract with a larger "
        found.append(tag("li", text, larger, ", which makes more patches."))
    use = tag("code", f"featurepipe paint {shlex.quote(model)} PHOTOS -o masks --overlays")
    return [*found, tag("li", "Make masks of new images: ", use, ".")]


# -- images ---------------------------------------------------------------------------------------------------------


def _contact_sheet(result: Mapping[str, Any], looks: Mapping[str, Sequence[Look]]) -> Html:
    """Worst, middle and best images: each as it is, with its mask, and with the prediction."""
    mious = {one["id"]: one["miou"] for one in result["images"]}
    parts = []
    for name, ids in exemplars(result["images"]).items():
        cards = [_card(id_, mious[id_], looks[id_]) for id_ in ids if id_ in looks]
        parts += [tag("h3", name.capitalize()), tag("div", *cards, class_="sheet masks")] if cards else []
    said = "Each image, its mask, and the prediction. The figure is the image's own mIoU. White pixels do not count."
    return section("Look at these first", tag("p", said), _key(result["classes"]), *parts) if parts else Html()


def _card(id_: str, miou: float, looks: Sequence[Look]) -> Html:
    names = (id_, f"mask of {id_}", f"prediction for {id_}")
    pictures = tag("div", *(show_look(look, name) for look, name in zip(looks, names, strict=True)))
    return tag(
        "figure", pictures, tag("figcaption", tag("span", percent(miou), class_="said"), path(id_)), class_="card"
    )


def _key(classes: Sequence[str]) -> Html:
    """Which colour is which class; the first has none."""
    colours = palette(len(classes))
    keys = [
        tag("span", tag("i", style=f"background: rgb{tuple(colours[number].tolist())}"), name)
        for number, name in enumerate(classes[:LINES])
        if number
    ]
    more = f"… and {len(classes) - LINES} more" if len(classes) > LINES else ""
    return tag("div", tag("span", f"no colour: {classes[0]}"), *keys, more, class_="legend keys")


# -- figures --------------------------------------------------------------------------------------------------------


def _classes(result: Mapping[str, Any]) -> Html:
    """IoU of every class, the lowest first, next to that of each baseline."""
    baselines = result["baselines"]
    order = sorted(result["per_class"].items(), key=lambda item: (item[1]["iou"] is None, item[1]["iou"], item[0]))
    rows = []
    for name, one in order:
        others = [_share(figures["per_class"][name]["iou"]) for figures in baselines.values()]
        rows.append([name, _bar(one["iou"]), *others, f"{one['pixels']:,}"])
    head = ["class", "IoU", *(f"IoU by {COLOURS.get(name, name)}" for name in baselines), "pixels"]
    legend = "– is a class that no mask of these images has, and no prediction."
    return section("Per class", table(head, rows, class_="sortable"), tag("small", legend))


def _share(iou: float | None) -> str:
    return "–" if iou is None else percent(iou)


def _bar(iou: float | None) -> object:
    if iou is None:
        return "–"
    end = f"{100 * iou:.1f}%"
    style = f"background: linear-gradient(90deg, var(--tint) {end}, transparent {end})"
    return tag("span", percent(iou), class_="bar", style=style)


def _confusions(result: Mapping[str, Any]) -> Html:
    rows = [[one["true"], one["predicted"], percent(one["share"]), f"{one['pixels']:,}"] for one in result["confused"]]
    if not rows:
        return Html()
    head = ["true class", "taken for", "share of the class", "pixels"]
    return section("Most confused classes", table(head, rows, class_="words"))


def _path(result: Mapping[str, Any]) -> Html:
    """Every strength that was tried, and its mIoU in cross-validation."""
    known = [one for one in result["path"] if one["miou"] is not None]
    if not known:
        return Html()
    charts = []
    for kind in dict.fromkeys(one["kind"] for one in known):
        mine = [one for one in known if one["kind"] == kind]
        strengths = [one["strength"] for one in mine]
        labels = [f"{strength:g}" for strength in strengths]
        points = [(one["miou"],) * 3 for one in mine]
        chosen = result["strength"] if kind == result["kind"] else None
        charts.append(curves(f"mIoU in %, by strength of {kind}", strengths, labels, {kind: points}, 100, chosen))
    said = (
        f"{result['kind']} with strength {result['strength']:g} was chosen by {result['folds']}-fold cross-validation "
        f"on the images that are not reported; {result['evaluated_on']} was not used for it."
    )
    rows = [[one["kind"], f"{one['strength']:g}", percent(one["miou"])] for one in known]
    marks = [(one["kind"], one["strength"]) == (result["kind"], result["strength"]) for one in known]
    return section(
        "How the strength was chosen",
        tag("p", said),
        tag("div", *charts, class_="pair"),
        table(["kind", "strength", "mIoU, cross-validated"], rows, marks),
    )


def _how_made(result: Mapping[str, Any], made: Mapping[str, Any]) -> Html:
    facts = {
        "backbone": result["backbone"],
        "tokens": "×".join(map(str, result["grid"])),
        "splits": ", ".join(f"{count:,} {name}" for name, count in result["splits"].items()),
        "images without a mask": f"{result['without_mask']:,}",
        "seconds of the fit": f"{result['fit_seconds']:.1f}",
        **made,
    }
    return section(
        "How it was made", table([], [[tag("small", name), of] for name, of in facts.items()], class_="words")
    )
