"""kNN with an approximate search: what it finds, what it says of that, and what its model file needs."""

import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from test_models_files import trained

from featurepipe import cli, models, probes
from featurepipe.cards import Card, Selection
from featurepipe.errors import DependencyMissing
from featurepipe.probes.notes import fit_notes
from featurepipe.stages import compare
from featurepipe.statistics import Index, approximations


def clusters(count=1500, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    return (np.random.default_rng(9).normal(size=(3, 16))[y] + rng.normal(size=(count, 16))).astype(np.float32), y


def test_without_faiss_nothing_is_begun(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faiss", None)
    X, y = clusters(30)
    with pytest.raises(DependencyMissing, match=r"pip install 'featurepipe\[faiss\]'"):
        probes.fit("approximate-knn", X, y)
    with pytest.raises(DependencyMissing):  # and does not look for the store first
        compare(tmp_path / "none.store", kinds=["ridge", "approximate-knn"])
    done = CliRunner().invoke(cli.main, ["probe", str(tmp_path / "none.store"), "--kind", "approximate-knn", "--json"])
    assert done.exit_code == 1
    assert "pip install 'featurepipe[faiss]'" in json.loads(done.stdout)["error"]


def test_few_rows_are_compared_as_by_knn_and_a_note_says_so():
    pytest.importorskip("faiss")
    X, y = clusters(60)
    found, exact = probes.fit("approximate-knn", X, y), probes.fit("knn", X, y)
    assert found.path == exact.path
    np.testing.assert_array_equal(found.predict_proba(X), exact.predict_proba(X))
    assert "all 60 training samples were compared: the search for neighbours was exact" in fit_notes(found)


def test_many_rows_are_searched_and_the_model_file_compares_them_all(monkeypatch, tmp_path):
    pytest.importorskip("faiss")
    monkeypatch.setattr(approximations, "FEWEST", 1000)
    X, y = clusters()
    found, exact = probes.fit("approximate-knn", X, y, value=7, seed=3), probes.fit("knn", X, y, value=7)
    assert found.scores["top1"] == pytest.approx(exact.scores["top1"], abs=0.01)
    (note,) = fit_notes(found)
    recall = found.estimator.searcher_.index.recall(7)
    assert f"this finds {100 * recall.share:.1f} % of the 7 nearest of 512 of them" in note

    pickled, T = pickle.dumps(found.estimator), clusters(40, 1)[0]
    names = np.array(["ant", "bee", "cat"])
    found.estimator.classes_ = names
    path, card = tmp_path / "m.safetensors", Card(selection=Selection.made("given", 7, []))
    models.save(path, replace(trained()[0], kind="approximate-knn", estimator=found.estimator, card=card))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with safe_open(path, "np") as file:
        header = json.loads(file.metadata()["featurepipe"])
    assert (header["kind"], header["encoding-version"]) == ("approximate-knn", "1.3")
    back = models.load(path)
    for restored in back.estimator, pickle.loads(pickled):
        np.testing.assert_array_equal(restored.predict_proba(T), exact.estimator.predict_proba(T))
        assert type(restored.searcher_.index) is Index
