"""Plots for notebooks: each function draws into matplotlib Axes and returns them (extra ``plots``).

Names of classes and backbones are shown as text, never as formulas.

Examples
--------
>>> import featurepipe
>>> from featurepipe.plots import plot_confusion
>>> store = featurepipe.extract("data/digits", "/tmp/plotted.store", backbone="pixels")["store"]
>>> result = featurepipe.probe(store, kind="ridge", baselines="none")
>>> axes = plot_confusion(result)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featurepipe import probes
from featurepipe.characters import shown
from featurepipe.comparisons import is_reference, named
from featurepipe.errors import DependencyMissing, ProbeError
from featurepipe.statistics.intervals import interval_of, wilson
from featurepipe.surroundings import guarded

NUMBERED = 15  # classes up to which the cells of a confusion matrix hold their counts
NAMED = 40  # classes up to which its rows have names
LONG = 24  # characters of a name
FEWEST = 5  # samples of a bin that is drawn
MEASURES = {"top1": "accuracy", "log_loss": "log-loss"}


@guarded
def plot_confusion(result: Mapping[str, Any], ax: Any = None) -> Any:
    """Draw a confusion matrix: rows are true classes, darker is a larger share of the row.

    Parameters
    ----------
    result : mapping
        What `featurepipe.probe`, `evaluate` or `run` returns, or figures with ``confusion`` and ``classes``.
    ax : matplotlib.axes.Axes, optional
        By default new ones.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ProbeError
        There are more than 100 classes, of which figures keep no matrix, but the pairs under ``confused``.
    DependencyMissing
        matplotlib is not installed.
    """
    figures = _figures(result)
    if figures.get("confusion") is None:
        raise ProbeError("these figures have no confusion matrix; of more than 100 classes see the pairs in 'confused'")
    counts, ax = np.array(figures["confusion"]), _axes(ax)  # (K, K)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.where(totals > 0, totals, 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = len(counts)
    if size <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                ax.text(column, row, f"{count}", ha="center", va="center", color=colour)
    ticks = range(size) if size <= NAMED else []
    names = [_text(name) for name in figures["classes"]] if size <= NAMED else []
    ax.set_xticks(ticks, names, rotation=90 if max(map(len, names), default=0) > 2 else 0)
    ax.set_yticks(ticks, names)
    ax.set(xlabel="predicted class", ylabel="true class")
    return ax


@guarded
def plot_reliability(classifier: Any, X: Any, y: Sequence[Any], ax: Any = None, *, bins: int = probes.ECE_BINS) -> Any:
    """Draw accuracy by confidence, with 95 % Wilson intervals; on the diagonal, confidence is as high as accuracy.

    Bins have equal width (Guo et al. 2017, "On Calibration of Modern Neural Networks"); those of fewer than five
    samples are left out.

    Parameters
    ----------
    classifier : estimator
        Fitted, with ``predict_proba`` and ``classes_``.
    X : samples of the classifier, shape (n,)
        None that it has learned from.
    y : sequence, shape (n,)
        Their classes.
    ax : matplotlib.axes.Axes, optional
        By default new ones.
    bins : int

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ProbeError
        A class that the classifier does not know.
    DependencyMissing
        matplotlib is not installed.
    """
    ax, truth, classes = _axes(ax), np.asarray(y), np.asarray(classifier.classes_)
    probes.check_known(truth, classes)
    proba = classifier.predict_proba(X)  # (n, K)
    sure, right = proba.max(axis=1), classes[proba.argmax(axis=1)] == truth
    place = np.minimum((sure * bins).astype(int), bins - 1)
    within = [one for number in range(bins) if (one := place == number).sum() >= FEWEST]
    ax.plot([0, 1], [0, 1], linestyle="--", color="grey")
    ax.plot([sure[one].mean() for one in within], [right[one].mean() for one in within], marker="o")
    for one in within:
        ax.plot([sure[one].mean()] * 2, wilson(float(right[one].mean()), int(one.sum())), color="C0", alpha=0.4)
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    return ax


@guarded
def plot_path(source: Any, ax: Any = None, *, measure: str = "top1") -> Any:
    """Draw how good each strength was on the selection data; a line marks the chosen one.

    Parameters
    ----------
    source : mapping or TransferClassifier
        A result of `featurepipe.probe`, or a fitted estimator.
    ax : matplotlib.axes.Axes, optional
        By default new ones.
    measure : {'top1', 'log_loss'}

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ProbeError
        No strength was chosen: it was given, or the kind has none.
    DependencyMissing
        matplotlib is not installed.
    """
    if measure not in MEASURES:
        raise ProbeError(f"measure {measure!r} is unknown; use {', '.join(MEASURES)}")
    chosen, path, kind = _selection(source)
    name = probes.KINDS[kind].parameter if kind in probes.KINDS else None
    if name is None or not path:
        raise ProbeError(f"no strength of this {kind} probe was chosen, so there is no path to draw")
    ax = _axes(ax)
    ax.plot([one[name] for one in path], [one[measure] for one in path], marker="o")
    ax.axvline(chosen, linestyle="--", color="grey")
    ax.set_xscale("log" if path[0][name] > 0 else "linear")
    ax.set(xlabel=f"{name} (chosen: {chosen:g})", ylabel=f"{MEASURES[measure]} on selection data")
    return ax


@guarded
def plot_few_labels(result: Mapping[str, Any], ax: Any = None) -> Any:
    """Draw accuracy by the number of labels per class, with the 95 % interval of the mean over draws.

    Parameters
    ----------
    result : mapping
        What `featurepipe.probe` or `run` returns with `shots`.
    ax : matplotlib.axes.Axes, optional
        By default new ones.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ProbeError
        The result has no figures of few labels.
    DependencyMissing
        matplotlib is not installed.
    """
    few = sorted(result.get("few_shot") or (), key=lambda one: one["shots"])
    if not few:
        raise ProbeError("this result has no figures of few labels; ask for them with shots=(1, 5, 10)")
    ax, shots = _axes(ax), [one["shots"] for one in few]
    lines = {f"{result['kind']} probe": few}
    for more in ("semi", "text"):  # methods that use unlabelled samples, or class names
        lines |= {key.replace("_", " "): [one[more][key] for one in few] for key in few[0].get(more) or ()}
    for name, draws in lines.items():
        ax.plot(shots, [one["mean"] for one in draws], marker="o", label=_text(name))
        ends = [one.get("interval") or (one["mean"], one["mean"]) for one in draws]
        ax.fill_between(shots, [low for low, _ in ends], [high for _, high in ends], alpha=0.2)
    for key in few[0].get("baselines") or ():
        ax.plot(shots, [one["baselines"][key] for one in few], marker=".", linestyle=":", label=key.replace("_", " "))
    figures = result.get(str(result.get("evaluated_on")))
    if figures and "top1" in figures:
        ax.axhline(figures["top1"], linestyle="--", color="grey", label="all labels")
    ax.set_xscale("log")
    ax.set_xticks(shots, [f"{one:,}" for one in shots])
    ax.minorticks_off()
    ax.set(xlabel="labels per class", ylabel="accuracy")
    ax.legend()
    return ax


@guarded
def plot_comparison(result: Mapping[str, Any], ax: Any = None) -> Any:
    """Draw the accuracy of each row of a comparison with its 95 % interval, the best on top; the reference is filled.

    Parameters
    ----------
    result : mapping
        What `featurepipe.compare` returns.
    ax : matplotlib.axes.Axes, optional
        By default new ones.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DependencyMissing
        matplotlib is not installed.
    """
    rows, ax = result["rows"], _axes(ax)
    for place, row in enumerate(rows):
        low, high = interval_of(row)
        ax.plot([low, high], [place, place], color="C0")
        face = "C0" if is_reference(result, row) else "white"
        ax.plot([row["top1"]], [place], marker="o", color="C0", markerfacecolor=face)
    ax.set_yticks(range(len(rows)), [_text(named(row)) for row in rows])
    ax.invert_yaxis()
    ax.set(xlabel=f"accuracy on {result['evaluated_on']}")
    return ax


def _axes(ax: Any) -> Any:
    """The given axes, or new ones."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise DependencyMissing("plots need matplotlib: pip install 'featurepipe[plots]'") from error
    return pyplot.subplots(layout="constrained")[1]


def _figures(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures that count, of a result; or what is given, which are figures."""
    found: Mapping[str, Any] = result.get(str(result.get("evaluated_on")), result)
    return found


def _selection(source: Any) -> tuple[Any, Sequence[Mapping[str, Any]], str]:
    """The chosen strength, the path, and the kind of probe."""
    if isinstance(source, Mapping):
        return source["selection"]["chosen"], source["selection"]["path"], source["kind"]
    return source.probe_.chosen, source.probe_.path, source.probe_.kind


def _text(name: str) -> str:
    """A name that is short, and no formula to matplotlib."""
    short = name if len(name) <= LONG else f"{name[: LONG // 2]}…{name[-LONG // 2 :]}"
    return shown(short).replace("$", r"\$")
