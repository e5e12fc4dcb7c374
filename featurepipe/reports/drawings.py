"""Drawings as SVG: mostly x in percent of the width and y in pixels, so that text keeps its size on any screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from featurepipe.reports.markup import Html, columns, percent, short, tag
from featurepipe.statistics.intervals import wilson

COUNTED = 20  # classes up to which the confusion matrix shows counts


def bars(values: Mapping[str, float], n: int | None) -> Html:
    """One bar for each fraction on a 0–100 % track, with its Wilson interval for n images, if it is one of these."""
    parts = []
    for i, (name, value) in enumerate(values.items()):
        width, colour = f"{100 * value:.2f}%", name.replace(" ", "-")
        parts += [
            tag("text", tag("tspan", percent(value)), f" {name}", x=0, y=52 * i + 18, class_="name"),
            tag("rect", x=0, y=52 * i + 25, width="100%", height=16, class_="field"),
            tag("rect", x=0, y=52 * i + 25, width=width, height=16, class_=colour),
        ]
        if n is not None:
            low, high = (f"{100 * bound:.2f}%" for bound in wilson(value, n))
            span = {"x1": low, "x2": high, "y1": 52 * i + 33, "y2": 52 * i + 33}
            parts += [tag("line", **span, class_="halo"), tag("line", **span, class_="whisker")]
    return tag("figure", tag("svg", *parts, width="100%", height=52 * len(values), role="img"))


def dots(rows: Sequence[tuple[str, float, float, float, str]]) -> Html:
    """A dot on its interval for each (name, low, value, high, class); all fractions, on one axis that fits them."""
    ticks, bottom = _ticks(np.array([row[1:4] for row in rows])), 44 * len(rows)

    def x(value: float) -> str:
        return f"{100 * (value - ticks[0]) / (ticks[-1] - ticks[0]):.2f}%"

    parts = [tag("line", x1=x(tick), x2=x(tick), y1=0, y2=bottom) for tick in ticks]
    parts += [tag("text", f"{100 * tick:g}", x=x(tick), y=bottom + 16, text_anchor="middle") for tick in ticks]
    for i, (name, low, value, high, class_) in enumerate(rows):
        y = 44 * i + 31
        parts += [
            tag("text", tag("tspan", percent(value)), f" {name}", x=0, y=y - 14, class_="name"),
            tag("line", x1=x(low), x2=x(high), y1=y, y2=y, class_="whisker"),
            tag("circle", cx=x(value), cy=y, r=5, class_=f"dot {class_}"),
        ]
    return tag("figure", tag("svg", *parts, width="100%", height=bottom + 22, role="img"))


def curves(
    title: str,
    x: Sequence[float],
    labels: Sequence[str],
    curves: Mapping[str, Sequence[tuple[float, float, float] | None]],
    scale: float,
    chosen: float | None = None,
) -> Html:
    """Curves of (low, value, high) in their bands, over a logarithmic axis, or a linear one where x begins at 0.

    The labels show values times `scale`. A curve may end before the last x, and leave some out (None).
    """
    if len(set(x)) < 2:
        return Html()
    steps = np.log10(x) if min(x) > 0 else np.asarray(x, float)
    at = [f"{place:.2f}%" for place in 14 + 82 * (steps - steps[0]) / (steps[-1] - steps[0])]
    ticks = _ticks(np.array([point for points in curves.values() for point in points if point is not None]))

    def y(value: float) -> float:
        return round(20 + 150 * (ticks[-1] - value) / (ticks[-1] - ticks[0]), 1)

    parts = []
    for tick in ticks:
        parts.append(tag("line", x1="10%", x2="100%", y1=y(tick), y2=y(tick)))
        parts.append(tag("text", f"{scale * tick:g}", x="8.5%", y=y(tick) + 4, text_anchor="end"))
    for place, value, label in zip(at, x, labels, strict=True):
        parts.append(tag("text", label, x=place, y=190, text_anchor="middle"))
        if value == chosen:
            parts.append(tag("line", x1=place, x2=place, y1=12, y2=170, class_="mark"))
            parts.append(tag("text", "chosen", x=place, y=8, text_anchor="middle"))
    for name, points in curves.items():
        drawn = [(place, point) for place, point in zip(at, points, strict=False) if point is not None]
        lines = [tag("line", x1=p, x2=q, y1=y(v[1]), y2=y(w[1])) for (p, v), (q, w) in pairwise(drawn)]
        edge = [(p, y(v[0])) for p, v in drawn] + [(p, y(v[2])) for p, v in reversed(drawn)]
        band = _area(edge) if any(low < high for _, (low, _, high) in drawn) else ""
        dots = [tag("circle", tag("title", f"{scale * v[1]:.4g}"), cx=p, cy=y(v[1]), r=3) for p, v in drawn]
        parts.append(tag("g", band, *lines, *dots, class_=f"curve {name.replace(' ', '-')}"))
    keys = [tag("span", name, class_=f"key curve {name.replace(' ', '-')}") for name in curves if name]
    caption = tag("figcaption", tag("div", title), *keys)
    return tag("figure", caption, tag("svg", *parts, width="100%", height=196, role="img"))


def _area(edge: Sequence[tuple[str, float]]) -> Html:
    """An area of `curves` by the places of its corners: a polygon takes no percentages, but an SVG in the SVG may."""
    points = " ".join(f"{place.rstrip('%')},{height}" for place, height in edge)
    return tag("svg", tag("polygon", points=points), viewBox="0 0 100 196", preserveAspectRatio="none")


def _ticks(values: np.ndarray) -> list[float]:
    """Two to six round numbers around values that are not negative."""
    high = max(float(values.max()), 0.02)
    low = min(float(values.min()), high - 0.02)
    decade = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(decade * m for m in (1, 2, 5, 10) if (high - low) / (decade * m) <= 4)
    return [round(i * step, 9) for i in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def plot(title: str, lines: Mapping[str, Sequence[tuple[float, float]]], *, diagonal: bool = False) -> Html:
    """Lines through points of fractions, on axes in percent; with `diagonal`, both axes go from 0 to 100."""
    every = np.array([point for points in lines.values() for point in points])
    if not len(every):
        return Html()
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if diagonal else _ticks(every[:, 1])

    def y(value: float) -> float:
        return round(20 + 150 * (ticks[-1] - value) / (ticks[-1] - ticks[0]), 1)

    def x(value: float) -> float:
        return round(14 + 82 * value, 2)

    parts = [tag("line", x1="14%", x2="96%", y1=y(tick), y2=y(tick)) for tick in ticks]
    parts += [tag("text", f"{100 * tick:g}", x="11%", y=y(tick) + 4, text_anchor="end") for tick in ticks]
    parts += [
        tag("text", f"{100 * at:g}", x=f"{x(at)}%", y=190, text_anchor="middle") for at in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts += [tag("line", x1=f"{x(0)}%", x2=f"{x(1)}%", y1=y(0), y2=y(1), class_="mark")] if diagonal else []
    for name, points in lines.items():
        places = [(f"{x(a)}%", y(b)) for a, b in points]
        drawn = [tag("line", x1=p, x2=q, y1=v, y2=w) for (p, v), (q, w) in pairwise(places)]
        many = len(points) > 2 * COUNTED  # then the line alone says it
        dots = [
            tag("circle", tag("title", f"{100 * a:.1f}: {100 * b:.1f}"), cx=p, cy=v, r=3)
            for (a, b), (p, v) in zip(points, places, strict=True)
        ]
        parts.append(tag("g", *drawn, *([] if many else dots), class_=f"curve {name.replace(' ', '-')}"))
    keys = [tag("span", name, class_=f"key curve {name.replace(' ', '-')}") for name in lines if len(lines) > 1]
    caption = tag("figcaption", tag("div", title), *keys)
    return tag("figure", caption, tag("svg", *parts, width="100%", height=196, role="img"))


def scatter(title: str, points: Sequence[tuple[str, float, float, float, float, str]]) -> Html:
    """A numbered dot on its interval for each (name, cost, low, value, high, class), over a logarithmic axis."""
    costs = np.log10([point[1] for point in points])
    low, high = math.floor(costs.min() - 0.1), math.ceil(costs.max() + 0.1)
    ticks = _ticks(np.array([point[2:5] for point in points]))

    def y(value: float) -> float:
        return round(20 + 260 * (ticks[-1] - value) / (ticks[-1] - ticks[0]), 1)

    def x(value: float) -> str:
        return f"{8 + 88 * (value - low) / (high - low):.2f}%"

    parts = [tag("line", x1="8%", x2="96%", y1=y(tick), y2=y(tick)) for tick in ticks]
    parts += [tag("text", f"{100 * tick:g}", x="6.5%", y=y(tick) + 4, text_anchor="end") for tick in ticks]
    parts += [
        tag("text", f"{10.0**decade:g}", x=x(decade), y=300, text_anchor="middle") for decade in range(low, high + 1)
    ]
    beside: dict[tuple[str, int], int] = {}  # dots that lie on each other have their numbers next to each other
    for number, ((name, cost, least, value, most, class_), at) in enumerate(zip(points, costs, strict=True), 1):
        place = x(at), round(y(value) / 14)
        beside[place] = beside.get(place, -1) + 1
        told = tag("title", f"{name}: {percent(value)}, {cost:.3g}")
        parts += [
            tag("line", x1=x(at), x2=x(at), y1=y(least), y2=y(most), class_="whisker"),
            tag("circle", told, cx=x(at), cy=y(value), r=6, class_=f"dot {class_}"),
            tag("text", number, x=x(at), dx=10 + 20 * beside[place], y=y(value) + 4, class_="number"),
        ]
    names = [tag("li", point[0]) for point in points]
    caption = tag("figcaption", title)
    drawn = tag("svg", *parts, width="100%", height=306, role="img")
    return tag("figure", caption, drawn, tag("ol", *names, class_="numbered"))


def matrix(counts: np.ndarray, classes: Sequence[str], cells: Sequence[int] | None = None) -> Html:
    """Heat map of counts (K, K), rows true, columns predicted. All in pixels: its cells are square.

    With `cells`, the classes' numbers in the page's data, the script shows the samples behind a cell.
    """
    K = len(classes)
    cell = max(7, min(56, 640 // K))
    names = list(map(short, classes)) if cell >= 12 else []
    left = 7.3 * max(map(columns, names), default=0) + 10  # a monospaced 12 px character is 7.2 px wide
    top = 0.71 * left + 12 if K <= COUNTED else 4  # slanted names, and the height of a letter
    parts = [tag("rect", x=left, y=top, width=K * cell, height=K * cell, class_="field")]
    for i, name in enumerate(names):
        middle, full = (i + 0.5) * cell, tag("title", classes[i])
        parts.append(tag("text", name, full, x=left - 6, y=top + middle + 4, text_anchor="end"))
        if K <= COUNTED:
            place = f"translate({left + middle:.1f} {top - 6:.1f}) rotate(-45)"
            parts.append(tag("text", name, full, transform=place))
    parts += _cells(counts, classes, cell, left, top, cells)
    width, height = round(left + K * cell + top), round(top + K * cell + 2)
    box = f"0 0 {width} {height}"
    role = "img" if cells is None else "group"
    return tag("svg", *parts, viewBox=box, width=width, height=height, role=role, class_="matrix")


def _cells(
    counts: np.ndarray, classes: Sequence[str], cell: int, left: float, top: float, numbers: Sequence[int] | None
) -> list[Html]:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(14, 1.5 * cell / len(str(counts.max())))
    parts = []
    for i, j in np.argwhere(counts):
        x, y, depth = left + j * cell, top + i * cell, math.sqrt(shares[i, j])
        title = tag("title", f"{classes[i]}: {counts[i, j]} of {counts[i].sum()} classified as {classes[j]}")
        where = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": cell - 1, "height": cell - 1}
        colour = {"class_": "right" if i == j else "wrong", "fill_opacity": f"{depth:.2f}"}
        if numbers is not None:
            colour["data_cell"] = f"{numbers[i]},{numbers[j]}"
        parts.append(tag("rect", title, **where, **colour))
        if len(classes) <= COUNTED:
            where = {"x": f"{x + cell / 2:.1f}", "y": f"{y + cell / 2 + size / 3:.1f}", "text_anchor": "middle"}
            looks = {"style": f"font-size: {size:.1f}px; pointer-events: none", "class_": "full" * (depth > 0.6)}
            parts.append(tag("text", counts[i, j], **where, **looks))
    return parts
