"""Scores that are made again instead of kept lead to the same probe."""

import numpy as np
import pytest

from featurepipe import probes
from featurepipe.probes import scorings, selection


def draw(rows, classes=4):
    rng = np.random.default_rng(rows)
    y = rng.integers(0, classes, rows)
    return (rng.normal(size=(rows, 6)) + np.eye(classes, 6)[y]).astype(np.float32), y


def same(one, other):
    assert one.chosen == other.chosen
    assert one.temperature == pytest.approx(other.temperature, rel=1e-4)
    assert (one.right == other.right).all()
    assert one.scores["top1"] == other.scores["top1"]
    assert one.scores["per_class"] == other.scores["per_class"]
    assert one.scores["log_loss"] == pytest.approx(other.scores["log_loss"], rel=1e-6)


@pytest.mark.parametrize("kind", ["ridge", "centroid", "knn"])
@pytest.mark.parametrize("has_val", [True, False])
def test_the_probe_is_the_same_whether_scores_are_kept_or_made_again(monkeypatch, kind, has_val):
    X, y = draw(120)
    select = draw(70) if has_val else ()
    kept = probes.fit(kind, X, y, *select)
    rows = 70 if has_val else 120
    for module in (scorings, selection):
        monkeypatch.setattr(module, "HELD", rows * 4 - 1)
    monkeypatch.setattr(scorings, "BLOCK", 4 * 32)  # of 32 rows
    monkeypatch.setattr(selection, "THINNED", 10**6)
    remade = probes.fit(kind, X, y, *select)
    same(remade, kept)
    said = f"{rows} samples of 4 classes have too many scores to keep, so the temperature was fitted on {rows} of"
    assert remade.notes == [f"{said} these samples"]
    assert not kept.notes


def test_several_candidates_that_do_not_fit_together_are_judged_one_by_one(monkeypatch):
    X, y = draw(120)
    kept = probes.fit("ridge", X, y)
    for module in (scorings, selection):
        monkeypatch.setattr(module, "HELD", 120 * 4)
    remade = probes.fit("ridge", X, y)
    same(remade, kept)
    assert not remade.notes


def test_some_rows_fit_the_temperature_where_there_are_too_many(monkeypatch):
    X, y = draw(4000)
    kept = probes.fit("ridge", X, y, *draw(3000), value=1.0)
    for module in (scorings, selection):
        monkeypatch.setattr(module, "HELD", 1000)
    monkeypatch.setattr(selection, "THINNED", 4 * 1000)
    some = probes.fit("ridge", X, y, *draw(3000), value=1.0)
    assert "fitted on 1,000 of these samples" in some.notes[0]
    assert some.temperature == pytest.approx(kept.temperature, rel=0.2)
    assert some.temperature != kept.temperature
    assert some.scores["top1"] == kept.scores["top1"]
