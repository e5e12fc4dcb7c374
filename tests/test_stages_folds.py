"""`probe --folds`: the figures of k-fold cross-validation, and a model file of all samples."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from featurepipe import cli, extract, models, probe, probes, report
from featurepipe.errors import ProbeError
from featurepipe.matrices import load
from featurepipe.stores import Store

PLAIN = {"backbone": "pixels", "kind": "ridge", "value": 1.0, "baselines": "none"}


@pytest.fixture
def store(photos, tmp_path):
    data = photos(("ant", "bee"), 8, ("train", "test"))
    return extract(data, tmp_path / "s.store", backbone="pixels", workers=1)["store"]


def test_all_samples_are_measured_and_learned_whatever_split_they_have(store, tmp_path):
    result = probe(store, tmp_path / "m.safetensors", folds=4, **PLAIN)
    figures = result["folds"]
    assert (result["evaluated_on"], result["test"], result["splits"]) == (
        "folds",
        None,
        {"train": 32, "val": 0, "test": 0},
    )
    assert figures["n"] == 32
    assert [one["n"] for one in figures["per_fold"]] == [8, 8, 8, 8]
    assert result["split_source"] == "4-fold cross-validation, stratified, seed 0"
    opened = Store.open(store)
    matrix = load(opened, opened.choose("pixels"))
    want = probes.cross_validate("ridge", matrix.X, matrix.y, folds=4, units=matrix.units, value=1.0, measure=False)
    assert figures["top1"] == pytest.approx(want.figures["top1"], abs=0.1)  # other order of rows, other folds
    model = models.load(result["model"])
    assert model.has_seen_rows(matrix).all()
    whole = probes.fit("ridge", matrix.X, matrix.y, value=1.0).estimator
    np.testing.assert_allclose(model.estimator.coef_, whole.coef_, rtol=1e-5, atol=1e-7)
    assert model.card.figures.per_fold[0].n == 8
    assert json.loads(json.dumps(result)) == result
    assert "mean of 4 folds" in repr(result)


def test_the_page_says_how_it_was_measured(store, tmp_path):
    made = probe(store, folds=3, **{**PLAIN, "baselines": "simple"})
    drawn = report(made["model"], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "Fold by fold" in page
    assert "folds top-1" in page
    assert "3-fold cross-validation" in page
    assert "--folds 3" in page
    assert drawn["missing"].startswith("the probe has learned from every sample")


def test_groups_stay_together(photos, tmp_path):
    data = photos(("ant", "bee"), 8)
    files = sorted(os.path.relpath(path, data) for path in data.rglob("*.*") if path.is_file())
    rows = [f"{path},{os.path.dirname(path)},p{number % 8 // 2}\n" for number, path in enumerate(files)]
    (data / "t.csv").write_text("path,label,group\n" + "".join(rows), "utf-8")
    grouped = extract(data / "t.csv", tmp_path / "g.store", backbone="pixels", workers=1)["store"]
    figures = probe(grouped, folds=2, **PLAIN)["folds"]
    assert figures["groups"] == 4
    assert figures["method"] == "bootstrap over 4 groups"


@pytest.mark.parametrize("options", [{"shots": [1]}, {"multi_label": True, "kind": "logistic", "value": None}])
def test_what_does_not_go_with_folds_is_refused_first(store, options):
    with pytest.raises(ProbeError, match="--folds does not work with"):
        probe(store, folds=3, **{**PLAIN, **options})
    with pytest.raises(ProbeError, match="give more --memory"):
        probe(store, folds=3, memory=1000, **PLAIN)


def test_the_command_line_shows_each_fold(store):
    arguments = ["probe", store, "-b", "pixels", "--kind", "ridge", "--folds", "3"]
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 0, done.output
    assert "mean of 3 folds" in done.stdout
    assert "95 % interval" in done.stdout
    assert "raw pixels" not in done.stdout.partition("baselines")[0]
    for more in (["--layers", "all"], ["--protocol", "clip"]):
        wrong = CliRunner().invoke(cli.main, ["probe", store, "--folds", "3", *more])
        assert (wrong.exit_code, "cannot be combined" in wrong.output or "fixes" in wrong.output) == (2, True)
    assert CliRunner().invoke(cli.main, ["probe", store, "--folds", "1"]).exit_code == 2
