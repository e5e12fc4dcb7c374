"""Plots: what they draw is what the figures say, and what strangers name stays text."""

import sys

import numpy as np
import pytest

from featurepipe import plots, probes
from featurepipe.errors import DependencyMissing, ProbeError
from featurepipe.results import StageResult

FIGURES = {"n": 12, "top1": 0.75, "classes": ["a", "$x^{$", "<b>"], "confusion": [[4, 0, 0], [1, 3, 0], [0, 2, 2]]}
FEW = [
    {"shots": 5, "mean": 0.7, "interval": [0.6, 0.8], "semi": {}, "baselines": {"pixels": 0.5}},
    {"shots": 1, "mean": 0.5, "interval": None, "semi": {}, "baselines": {"pixels": 0.3}},
]
PATH = [{"C": 0.1, "top1": 0.7, "log_loss": 0.9}, {"C": 1.0, "top1": 0.8, "log_loss": 0.5}]
PROBE = {
    **{"kind": "logistic", "evaluated_on": "test", "test": FIGURES, "few_shot": FEW},
    "selection": {"chosen": 1.0, "path": PATH},
}
ROW = {"label": "vit$", "backbone": "vit", "layer": "penultimate", "kind": "ridge", "n": 40, "is_baseline": False}
COMPARISON = {
    "rows": [
        {**ROW, "top1": 0.9, "interval": [0.8, 0.95]},
        {**ROW, "label": "b", "top1": 0.8, "interval": [0.7, 0.9]},
    ],
    "reference": {"label": "vit$", "kind": "ridge"},
    "evaluated_on": "test",
}


@pytest.fixture(autouse=True)
def pyplot(request):
    if "without" in request.node.name:
        yield None
        return
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def texts(axes):
    axes.figure.canvas.draw()  # formulas that are none would raise here
    return [one.get_text() for one in axes.texts]


def test_a_confusion_matrix_has_its_counts_and_the_names_as_text():
    axes = plots.plot_confusion(StageResult(PROBE, "probe"))
    assert texts(axes) == ["4", "1", "3", "2", "2"]
    assert [one.get_text() for one in axes.get_yticklabels()] == ["a", r"\$x^{\$", "<b>"]
    np.testing.assert_allclose(axes.images[0].get_array()[1], [0.25, 0.75, 0])
    assert plots.plot_confusion(FIGURES, axes) is axes
    many = {"classes": [str(i) for i in range(50)], "confusion": np.eye(50, dtype=int).tolist()}
    assert texts(plots.plot_confusion(many)) == []
    with pytest.raises(ProbeError, match="more than 100 classes see the pairs"):
        plots.plot_confusion({**FIGURES, "confusion": None})


class Certain:
    """Says how sure it is, row by row."""

    classes_ = np.array(["no", "yes"])

    def predict_proba(self, X):
        return np.stack([1 - np.array(X), np.array(X)], axis=1)


def test_reliability_is_the_accuracy_of_each_bin():
    sure = np.repeat([0.55, 0.95], 10)
    truth = np.array(["yes"] * 5 + ["no"] * 5 + ["yes"] * 10)
    axes = plots.plot_reliability(Certain(), sure, truth)
    line = axes.lines[1]
    np.testing.assert_allclose(line.get_xydata(), [[0.55, 0.5], [0.95, 1.0]])
    with pytest.raises(ProbeError, match="'maybe' is unknown"):
        plots.plot_reliability(Certain(), sure, ["maybe"] * 20)


def test_the_path_marks_the_chosen_strength():
    axes = plots.plot_path(PROBE)
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0.1, 0.7], [1, 0.8]])
    assert axes.lines[1].get_xdata()[0] == 1.0
    assert axes.get_xscale() == "log"
    X, y = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 2
    fitted = type("Fitted", (), {"probe_": probes.fit("lda", X, y)})()
    axes = plots.plot_path(fitted, measure="log_loss")
    assert (axes.get_xscale(), axes.get_ylabel()) == ("linear", "log-loss on selection data")
    for source, measure, message in (
        ({**PROBE, "kind": "centroid"}, "top1", "no strength"),
        ({**PROBE, "selection": {"chosen": 1.0, "path": []}}, "top1", "no strength"),
        (PROBE, "recall", "measure 'recall' is unknown"),
    ):
        with pytest.raises(ProbeError, match=message):
            plots.plot_path(source, measure=measure)


def test_few_labels_come_in_order_with_their_intervals():
    axes = plots.plot_few_labels(PROBE)
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 0.5], [5, 0.7]])
    assert [one.get_text() for one in axes.get_legend().get_texts()] == ["logistic probe", "pixels", "all labels"]
    draws = {"mean": 0.6, "interval": [0.5, 0.7]}
    few = [{**one, "semi": {"self_training": draws}, "text": {"tip_adapter": draws}} for one in PROBE["few_shot"]]
    names = [one.get_text() for one in plots.plot_few_labels({**PROBE, "few_shot": few}).get_legend().get_texts()]
    assert names[:3] == ["logistic probe", "self training", "tip adapter"]
    with pytest.raises(ProbeError, match="ask for them with shots"):
        plots.plot_few_labels({**PROBE, "few_shot": []})


def test_a_comparison_has_a_row_for_each_with_the_best_on_top():
    axes = plots.plot_comparison(COMPARISON)
    axes.figure.canvas.draw()
    assert [one.get_text() for one in axes.get_yticklabels()] == [r"vit\$, ridge", "b, ridge"]
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert axes.lines[1].get_markerfacecolor() != axes.lines[3].get_markerfacecolor()


def test_without_matplotlib_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyMissing, match=r"pip install 'featurepipe\[plots\]'"):
        plots.plot_confusion(FIGURES)
