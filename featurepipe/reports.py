"""Reports: one self-contained HTML page of a model file, drawn from the model's own card.

No network and no script: the style is inline and the figures are inline SVG. What comes from outside (class names,
paths, notes) cannot become markup, because `_element` escapes every string that is not already `_Html`.
"""

from __future__ import annotations

import html
import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, models, probes

BASELINES = {"majority": "majority class", "pixels": "raw pixels", "random_backbone": "random backbone"}
COUNTED = 20  # classes up to which the confusion matrix shows counts
OPEN = 30  # classes up to which the per-class table lies open
LABEL = 24  # characters of a class name beside the confusion matrix
SPACE = "\N{NO-BREAK SPACE}"

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b2129; --muted: #596472; --line: #d8dee6; --panel: #f4f6f9;
  --probe: #1d5fa6; --on: #fff; --other: #a3adb9; --wrong: #b8500f; --warn: #fff3d1; --edge: #c98a00 }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #12161c; --ink: #e5e9ee; --muted: #9ba6b4;
  --line: #2f3843; --panel: #1a2028; --probe: #72b3f5; --on: #0d1117; --other: #66727f; --wrong: #f0a066;
  --warn: #3a2e0c; --edge: #d9a520 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; print-color-adjust: exact;
  -webkit-print-color-adjust: exact }
h1 { margin: 0; font-size: 1.15rem; font-weight: 600; color: var(--muted) }
h2 { margin: 2.5rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); font-size: 1.2rem }
h1, h2, figcaption, caption { break-after: avoid }
p { margin: .4rem 0; max-width: 46rem }
.top1 { margin: .3rem 0 0; font-size: 3.4rem; font-weight: 650; line-height: 1.15 }
.muted, small, figcaption, caption { color: var(--muted); font-size: .875rem }
.box { margin: 1.2rem 0; padding: .7rem 1rem; border-left: 4px solid var(--edge); background: var(--warn) }
.box ul { margin: .2rem 0; padding-left: 1.2rem }
figure { margin: .8rem 0; break-inside: avoid }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 0 1.5rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0 }
caption { text-align: left; padding-bottom: .3rem }
tr { break-inside: avoid }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top }
th { font-size: .875rem; font-weight: 600; color: var(--muted); white-space: nowrap }
th:first-child, td:first-child, .facts td { text-align: left }
td:first-child { min-width: 7rem }
.chosen td { font-weight: 650; background: var(--panel) }
.bar { display: inline-block; min-width: 5.5rem; padding: 0 .3rem }
small { display: block }
svg { display: block; overflow: visible }
svg text { font-size: 12px; fill: var(--muted) }
svg .name { font-size: 15px; fill: var(--ink) }
svg .name tspan { font-weight: 650 }
svg line { stroke: var(--line) }
svg .whisker { stroke: var(--ink); stroke-width: 1.5 }
rect { fill: var(--other) }
rect.this-probe { fill: var(--probe) }
.curve { --tone: var(--probe) }
.raw-pixels { --tone: var(--wrong) }
.random-backbone { --tone: var(--other) }
.all-labels { --tone: var(--muted) }
svg .curve line { stroke: var(--tone); stroke-width: 2 }
svg .curve .whisker { stroke-width: 1; opacity: .7 }
.curve circle { fill: var(--tone) }
.all-labels line { stroke-dasharray: 5 4 }
.all-labels circle { display: none }
svg .mark { stroke: var(--ink); stroke-dasharray: 2 3 }
.key { margin-right: 1.2rem; color: var(--ink); white-space: nowrap }
.key::before { content: ""; display: inline-block; width: .75em; height: .75em; margin-right: .4em;
  background: var(--tone) }
.matrix text { font: 12px ui-monospace, monospace; fill: var(--ink) }
.matrix rect { fill: var(--wrong) }
.matrix .right { fill: var(--probe) }
.matrix .field { fill: var(--panel) }
.matrix .full { fill: var(--on) }
.code { font: .875rem ui-monospace, monospace }
@media (max-width: 30rem) { .top1 { font-size: 2.6rem } }
@media print { body { max-width: none; padding: 0; font-size: 11pt } .matrix { max-width: 100%; height: auto } }
"""


class _Html(str):
    """Finished markup; every other string is text."""


def page(model: models.Model) -> str:
    """Draw a model's page.

    Parameters
    ----------
    model : Model
        Only ``kind``, ``classes``, ``backbone`` and ``card`` are read.

    Returns
    -------
    str
        A whole HTML document that needs nothing beside it.
    """
    card = model.card
    title = f"{_data_name(card)}: {model.kind} probe"
    body = _join(
        _headline(model, title),
        _warnings(model),
        _baselines(card),
        _few_labels(card),
        _figures(card),
        _selection(model),
        _confusion(_reported(card)),
        _per_class(_reported(card)),
        _how_made(model),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>"
        f"{_element('title', title)}<style>{STYLE}</style></head>\n<body>{_element('main', body)}</body></html>\n"
    )


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share seen in n independent trials, by default at 95 %.

    Examples
    --------
    >>> low, high = wilson(0.9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


# -- sections ---------------------------------------------------------------------------------------------------


def _headline(model: models.Model, title: str) -> _Html:
    card, figures, where = model.card, _reported(model.card), model.card["evaluated_on"]
    fitted_on = card["splits"]["train"] + (card["splits"]["val"] if where == "test" else 0)
    on_pixels = model.backbone["spec"]["architecture"] == backbones.PIXELS
    features = ["raw pixels"] if on_pixels else ["embeddings of the frozen backbone ", _bold(model.backbone["name"])]
    return _join(
        _element("h1", title),
        _element("p", _percent(figures["top1"]), class_="top1"),
        _element(
            "p",
            _bold(f"{where} top-1"),
            f" on n = {_number(figures['n'])} images; 95{SPACE}% interval {_interval(figures['top1'], figures['n'])}"
            " (Wilson)",
            "" if where == "test" else f". There is no test split: all figures here are on {where}.",
        ),
        _element(
            "p",
            f"A {model.kind} probe ({type(model.estimator).__name__}) on ",
            *features,
            f", trained on {_number(fitted_on)} images of {_number(len(model.classes))} classes from ",
            _bold(_data_name(card)),
            ".",
        ),
    )


def _warnings(model: models.Model) -> _Html:
    seed = model.backbone["source"]["random_seed"]
    notes = [_element("li", note) for note in model.card["notes"]]
    banner = f" (seed {seed}). The network has learned nothing; only the probe on top of it was fitted."
    random = _element("p", _bold("random weights: a baseline, not a trained backbone"), banner)
    return _join(
        _element("div", random, class_="box", id="random-weights") if seed is not None else "",
        _element("div", _bold("Notes"), _element("ul", *notes), class_="box", id="notes") if notes else "",
    )


def _baselines(card: Mapping[str, Any]) -> _Html:
    figures = _reported(card)
    found = {name: card["baselines"].get(key) for key, name in BASELINES.items()}
    present = {name: value for name, value in found.items() if value is not None}
    absent = [name for name, value in found.items() if value is None]
    return _section(
        "Beside its baselines",
        _verdict(figures, present) if present else "",
        _bars({"this probe": figures["top1"], **present}, figures["n"]),
        _element("p", f"Top-1 on {card['evaluated_on']}; whiskers: 95{SPACE}% Wilson intervals.", class_="muted"),
        _element("p", f"Not computed: {', '.join(absent)}.", class_="muted") if absent else "",
    )


def _verdict(figures: Mapping[str, Any], present: Mapping[str, float]) -> _Html:
    best = max(present, key=lambda name: present[name])
    gap = 100 * (figures["top1"] - present[best])
    named = f"the best baseline, {best} ({_percent(present[best])})"
    if gap <= 0:
        return _element("p", f"The probe does not beat {named}.")
    text = f"The probe is {gap:.1f} percentage points above {named}."
    if present[best] >= wilson(figures["top1"], figures["n"])[0]:
        text += f" That is inside the probe's 95{SPACE}% interval: the difference may be chance."
    return _element("p", text)


def _few_labels(card: Mapping[str, Any]) -> _Html:
    few = sorted(card["few_shot"], key=lambda one: one["shots"])
    if not few:
        return _Html()
    keys = [key for key in BASELINES if any(key in one["baselines"] for one in few)]
    rows = [
        [
            _number(one["shots"]),
            _percent(one["mean"]) + (f" ± {100 * one['std']:.1f}" if one["std"] is not None else ""),
            *(_percent(one["baselines"].get(key)) for key in keys),
            one["repeats"],
        ]
        for one in few
    ]
    return _section(
        "With few labels",
        _element(
            "p",
            "Top-1 of probes trained on a few labelled images per class (shots), on the same "
            f"{_number(_reported(card)['n'])} {card['evaluated_on']} images: mean ± standard deviation over random"
            " draws. The regularisation is chosen by cross-validation inside each draw.",
        ),
        _few_label_curves(few, keys, _reported(card)["top1"]),
        _table(["shots", "this probe", *(BASELINES[key] for key in keys), "draws"], rows),
    )


def _few_label_curves(few: Sequence[Mapping[str, Any]], keys: Sequence[str], full: float) -> _Html:
    if len({one["shots"] for one in few}) < 2:
        return _Html()
    curves = {"all labels": [(full, 0.0)] * len(few), "this probe": [(one["mean"], one["std"] or 0.0) for one in few]}
    curves |= {BASELINES[key]: [(one["baselines"].get(key), 0.0) for one in few] for key in keys}
    shots = [one["shots"] for one in few]
    return _curves("top-1 in %, by shots", shots, list(map(_number, shots)), curves, _percent_tick)


def _figures(card: Mapping[str, Any]) -> _Html:
    reported, val = _reported(card), card["val"] or {}
    columns = {card["evaluated_on"]: reported}
    if card["evaluated_on"] != "val" and "top1" in val:  # a probe that had nothing to select on has no figures
        columns["selection data"] = val
    even = math.log(len(reported["classes"]))
    meanings = {
        "top-1": ("top1", _percent, "share of images whose most probable class is the right one"),
        "balanced accuracy": ("balanced_accuracy", _percent, "mean of the classes' recalls, each class counting alike"),
        "log-loss": ("log_loss", "{:.3f} nats".format, f"0 is perfect; guessing evenly gives {even:.3f}"),
        "ECE": ("ece", "{:.3f}".format, f"mean gap of confidence and accuracy, {probes.ECE_BINS} bins; 0 is calibrated"),
        "images": ("n", _number, ""),
    }
    rows = [
        [_join(name, _element("small", meaning)), *(show(column[key]) for column in columns.values())]
        for name, (key, show, meaning) in meanings.items()
    ]
    before = "Selection data: the chosen candidate before the final fit; picked as the best, so a little flattered."
    return _section(
        "Figures",
        _table(["", *columns], rows),
        _element("p", before, class_="muted") if len(columns) > 1 else "",
    )


def _selection(model: models.Model) -> _Html:
    selection, where = model.card["selection"], model.card["evaluated_on"]
    name = probes.KINDS[model.kind][0]
    given = selection["on"] == "given"
    chosen = f"{name} = {selection['chosen']:g}"
    used = f"{where} was not used for it."
    if selection["on"] == where:
        used = f"{where} is also the reported split, so the figures above are too good."
    return _section(
        f"How {name} was chosen",
        _element(
            "p",
            _bold(chosen),
            " was given, not selected; " if given else f" was selected on {selection['on']}; ",
            used,
            "" if given else " Of equal top-1 the lower log-loss wins.",
        ),
        _path_curves(selection, name),
        _path_table(selection, name) if selection["path"] else "",
    )


def _path_curves(selection: Mapping[str, Any], name: str) -> _Html:
    path, chosen = sorted(selection["path"], key=lambda step: step[name]), selection["chosen"]
    if len(path) < 2:
        return _Html()
    values = [step[name] for step in path]
    labels = list(map(_power, values))
    panels = (("top1", "top-1 in %", _percent_tick), ("log_loss", "log-loss in nats", "{:g}".format))
    charts = [
        _curves(f"{what}, by {name}", values, labels, {"": [(step[key], 0.0) for step in path]}, show, chosen)
        for key, what, show in panels
    ]
    return _element("div", *charts, class_="pair")


def _path_table(selection: Mapping[str, Any], name: str) -> _Html:
    path = sorted(selection["path"], key=lambda step: step[name])
    chosen = [step[name] == selection["chosen"] for step in path]
    rows = [
        [
            f"{step[name]:g}",
            _percent(step["top1"]),
            f"{step['log_loss']:.3f}",
            ", ".join(["chosen"] * mark + ["not converged"] * (not step["converged"])),
        ]
        for step, mark in zip(path, chosen, strict=True)
    ]
    return _table([name, "top-1", "log-loss", ""], rows, chosen)


def _confusion(figures: Mapping[str, Any]) -> _Html:
    if figures["confusion"] is None:
        rows = _by_recall(figures)[:10]
        listed = [
            _element("li", _bold(name), f": {_percent(one['recall'])} of {one['support']}") for name, one in rows
        ]
        return _section("Classes found least often", _element("p", "By recall."), _element("ol", *listed))
    return _section(
        "What is taken for what",
        _element("div", _matrix(np.array(figures["confusion"]), figures["classes"]), class_="wide"),
        _element(
            "p",
            "Rows: true class; columns: predicted class. Colour: square root of the share of the row; blue is right,"
            " orange wrong.",
            class_="muted",
        ),
        _confused_pairs(np.array(figures["confusion"]), figures["classes"]),
    )


def _confused_pairs(counts: np.ndarray, classes: Sequence[str]) -> _Html:
    wrong = counts - np.diag(np.diag(counts))  # (K, K)
    order = np.argsort(-wrong, axis=None, kind="stable")[:5]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    if not pairs:
        return _element("p", "No image was classified wrongly.")
    rows = [
        [classes[i], classes[j], _number(counts[i, j]), _percent(counts[i, j] / counts[i].sum())] for i, j in pairs
    ]
    return _table(["true class", "taken for", "images", "of the class"], rows, caption="Most confused pairs")


def _per_class(figures: Mapping[str, Any]) -> _Html:
    rows = []
    for name, one in _by_recall(figures):
        if not one["support"]:
            rows.append([name, "–", "–", _percent(one["precision"]), "–", 0])
            continue
        filled = f"{100 * one['recall']:.1f}%"
        tint = "color-mix(in srgb, var(--probe) 28%, transparent)"
        style = f"background: linear-gradient(90deg, {tint} {filled}, transparent {filled})"
        bar = _element("span", _percent(one["recall"]), class_="bar", style=style)
        interval = _interval(one["recall"], one["support"])
        rows.append([name, bar, interval, _percent(one["precision"]), f"{one['f1']:.3f}", _number(one["support"])])
    head = ["class", "recall", f"95{SPACE}% interval", "precision", "F1", "support"]
    table = _table(head, rows)
    if len(rows) > OPEN:
        table = _element("details", _element("summary", f"all {_number(len(rows))} classes"), table)
    return _section("Per class", _element("p", "Lowest recall first; intervals are Wilson's."), table)


def _how_made(model: models.Model) -> _Html:
    card, backbone, spec = model.card, model.backbone, model.backbone["spec"]
    source, data, splits = backbone["source"], card["data"], card["splits"]
    code = {
        "transform": ", ".join(f"{key} {json.dumps(value)}" for key, value in spec["transform"].items()),
        "weights digest": spec["weights"] or "none",
        "fingerprint": backbone["fingerprint"],
    }
    facts = {
        "backbone": backbone["name"],
        "architecture": " ".join([spec["architecture"], json.dumps(spec["arguments"]) if spec["arguments"] else ""]),
        "layer": spec["layer"],
        "pooling": spec["pooling"] or "the model's own",
        "precision": spec["precision"],
        "weights": source["weights"] or ("random" if source["random_seed"] is not None else source["name"]),
        **{key: _element("span", value, class_="code") for key, value in code.items()},
        "data": f"{data['root']} ({_number(data['samples'])} labelled images, {_number(data['classes'])} classes)",
        "splits": ", ".join(f"{_number(n)} {name}" for name, n in splits.items()) + f"; {card['split_source']}",
        "seed": card["seed"],
        "versions": ", ".join(f"{library} {version}" for library, version in card["versions"].items()),
        "created": card["created"],
    }
    table = _table([], [[_element("small", name), value] for name, value in facts.items()], class_="facts")
    return _section("How it was made", table)


# -- drawings: x in percent of the width and y in pixels, so that text keeps its size on any screen --------------


def _bars(values: Mapping[str, float], n: int) -> _Html:
    height = 52 * len(values)
    parts = []
    for tick, anchor in ((0, "start"), (25, "middle"), (50, "middle"), (75, "middle"), (100, "end")):
        parts.append(_element("line", x1=f"{tick}%", x2=f"{tick}%", y1=0, y2=height))
        parts.append(_element("text", tick, x=f"{tick}%", y=height + 16, text_anchor=anchor))
    for i, (name, value) in enumerate(values.items()):
        low, high = (f"{100 * bound:.2f}%" for bound in wilson(value, n))
        width, middle = f"{100 * value:.2f}%", 52 * i + 33
        label = _join(_element("tspan", _percent(value)), f" {name}")
        parts += [
            _element("text", label, x=0, y=52 * i + 18, class_="name"),
            _element("rect", x=0, y=52 * i + 25, width=width, height=16, class_=name.replace(" ", "-")),
            _element("line", x1=low, x2=high, y1=middle, y2=middle, class_="whisker"),
        ]
    return _element("figure", _element("svg", *parts, width="100%", height=height + 22, role="img"))


def _curves(
    title: str,
    x: Sequence[float],
    labels: Sequence[str],
    curves: Mapping[str, Sequence[tuple[float | None, float]]],
    show: Callable[[float], str],
    chosen: float | None = None,
) -> _Html:
    """Curves of (value, standard deviation) over a logarithmic axis; None leaves a gap."""
    at = _positions(x)
    found = [(value, std) for points in curves.values() for value, std in points if value is not None]
    ticks = _ticks(min(value - std for value, std in found), max(value + std for value, std in found))

    def y(value: float) -> float:
        return round(20 + 150 * (ticks[-1] - value) / (ticks[-1] - ticks[0]), 1)

    parts = []
    for tick in ticks:
        parts.append(_element("line", x1="10%", x2="100%", y1=y(tick), y2=y(tick)))
        parts.append(_element("text", show(tick), x="8.5%", y=y(tick) + 4, text_anchor="end"))
    for place, value, label in zip(at, x, labels, strict=True):
        parts.append(_element("text", label, x=place, y=190, text_anchor="middle"))
        if value == chosen:
            parts.append(_element("line", x1=place, x2=place, y1=12, y2=170, class_="mark"))
            parts.append(_element("text", "chosen", x=place, y=8, text_anchor="middle"))
    for name, points in curves.items():
        parts.append(_element("g", *_curve(at, points, y, show), class_=f"curve {name.replace(' ', '-')}"))
    keys = [_element("span", name, class_=f"key curve {name.replace(' ', '-')}") for name in curves if name]
    caption = _element("figcaption", title, *([_element("br"), *keys] if keys else []))
    return _element("figure", caption, _element("svg", *parts, width="100%", height=196, role="img"))


def _curve(
    at: Sequence[str], points: Sequence[tuple[float | None, float]], y: Callable[[float], float], show: Callable
) -> list[_Html]:
    known = [(place, value, std) for place, (value, std) in zip(at, points, strict=True) if value is not None]
    parts = [
        _element("line", x1=x1, x2=x2, y1=y(v1), y2=y(v2))
        for (x1, v1, _), (x2, v2, _) in zip(known, known[1:], strict=False)
    ]
    for place, value, std in known:
        if std:
            parts.append(_element("line", x1=place, x2=place, y1=y(value - std), y2=y(value + std), class_="whisker"))
        parts.append(_element("circle", _element("title", show(value)), cx=place, cy=y(value), r=4))
    return parts


def _matrix(counts: np.ndarray, classes: Sequence[str]) -> _Html:
    """Heat map of counts (K, K): rows true, columns predicted; pixels, since its cells must be square."""
    K = len(classes)
    cell = max(7, min(56, 640 // K))
    names = [_short(name) if cell >= 12 else "" for name in classes]
    margin = 7.3 * max(map(_width, names)) + 10  # a monospaced 12 px character is 7.2 px wide
    head = 0.71 * margin if K <= COUNTED else 4
    parts = [_element("rect", x=margin, y=head, width=K * cell, height=K * cell, class_="field")]
    for i, name in enumerate(names if cell >= 12 else []):
        middle = (i + 0.5) * cell
        full = _element("title", classes[i])
        parts.append(_element("text", name, full, x=margin - 6, y=head + middle + 4, text_anchor="end"))
        if K <= COUNTED:
            place = f"translate({margin + middle:.1f} {head - 6:.1f}) rotate(-45)"
            parts.append(_element("text", name, full, transform=place))
    parts += _cells(counts, classes, cell, margin, head)
    width, height = margin + K * cell + head, head + K * cell + 2
    box = f"0 0 {width:.0f} {height:.0f}"
    return _element("svg", *parts, viewBox=box, width=round(width), height=round(height), role="img", class_="matrix")


def _cells(counts: np.ndarray, classes: Sequence[str], cell: int, left: float, top: float) -> list[_Html]:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(14, 1.5 * cell / len(str(counts.max())))
    parts = []
    for i, j in np.argwhere(counts):
        x, y, colour = left + j * cell, top + i * cell, math.sqrt(shares[i, j])
        what = f"{classes[i]}: {counts[i, j]} of {counts[i].sum()} classified as {classes[j]}"
        shade = {"class_": "right" if i == j else "wrong", "fill_opacity": f"{colour:.2f}"}
        title = _element("title", what)
        parts.append(_element("rect", title, x=f"{x:.1f}", y=f"{y:.1f}", width=cell - 1, height=cell - 1, **shade))
        if len(classes) <= COUNTED:
            place = {"x": f"{x + cell / 2:.1f}", "y": f"{y + cell / 2 + size / 3:.1f}", "text_anchor": "middle"}
            looks = {"style": f"font-size: {size:.1f}px", "pointer_events": "none"}
            parts.append(_element("text", counts[i, j], **place, **looks, class_="full" if colour > 0.6 else None))
    return parts


def _positions(values: Sequence[float]) -> list[str]:
    logs = np.log10(values)
    return [f"{place:.2f}%" for place in 14 + 82 * (logs - logs[0]) / (logs[-1] - logs[0])]


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers around a range of values that are not negative."""
    low = max(0.0, min(low, high - 0.02))
    high = max(high, low + 0.02)
    decade = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(decade * m for m in (1, 2, 5, 10) if (high - low) / (decade * m) <= 4)
    return [i * step for i in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


# -- words and markup -------------------------------------------------------------------------------------------


def _reported(card: Mapping[str, Any]) -> Mapping[str, Any]:
    return card[card["evaluated_on"]]


def _by_recall(figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Classes by recall, lowest first; those without an image have none and come last."""
    return sorted(figures["per_class"].items(), key=lambda item: (not item[1]["support"], item[1]["recall"], item[0]))


def _data_name(card: Mapping[str, Any]) -> str:
    return Path(card["data"]["root"]).name or card["data"]["root"]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}{SPACE}%"


def _percent_tick(share: float) -> str:
    return f"{round(100 * share, 1):g}"


def _interval(share: float, n: int) -> str:
    low, high = wilson(share, n)
    return f"{100 * low:.1f}–{_percent(high)}"


def _number(n: int) -> str:
    return f"{n:,}"


def _power(value: float) -> str:
    """10⁻⁴ rather than 0.0001, which would not fit under its tick."""
    exponent = round(math.log10(value), 6)
    if not exponent.is_integer():
        return f"{value:g}"
    return "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _width(text: str) -> int:
    """Columns of a monospaced font."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _short(name: str) -> str:
    """The name, or its two ends: long class names often differ in the last word only."""
    ends = (len(name) + 1) // 2
    short = name
    while _width(short) > LABEL:
        ends -= 1
        short = f"{name[:ends]}…{name[-ends:]}"
    return short


def _section(title: str, *parts: object) -> _Html:
    return _element("section", _element("h2", title), *parts)


def _bold(text: object) -> _Html:
    return _element("strong", text)


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    chosen: Sequence[bool] = (),
    caption: str | None = None,
    class_: str | None = None,
) -> _Html:
    marks: Iterable[bool] = chosen or [False] * len(rows)
    lines = [
        _element("tr", *(_element("td", cell) for cell in row), class_="chosen" if mark else None)
        for row, mark in zip(rows, marks, strict=True)
    ]
    top = _element("thead", _element("tr", *(_element("th", name) for name in head))) if head else ""
    captioned = _element("caption", caption) if caption else ""
    table = _element("table", captioned, top, _element("tbody", *lines), class_=class_)
    return _element("div", table, class_="wide")


def _element(tag: str, *children: object, **attributes: object) -> _Html:
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = "".join(f' {key}="{_text(value)}"' for key, value in given.items())
    return _Html(f"<{tag}{start}/>" if tag == "br" else f"<{tag}{start}>{_join(*children)}</{tag}>")


def _join(*parts: object) -> _Html:
    return _Html("".join(map(_text, parts)))


def _text(value: object) -> str:
    if isinstance(value, _Html):
        return value
    # a file name that is not UTF-8 holds lone surrogates, which no page can hold
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode())
