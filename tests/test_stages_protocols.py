"""The stage probe_protocol: splits, model file, report, and what never influences a choice."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from featurepipe import evaluate, extract, matrices, models, probe, probe_protocol, probes, protocols, report, run
from featurepipe.cli.texts import probe_text
from featurepipe.errors import ProbeError
from featurepipe.protocols import PROTOCOLS
from featurepipe.solvers import paths
from featurepipe.stores import Store

ALL = list(PROTOCOLS)
LINEAR = [name for name in ALL if PROTOCOLS[name].linear]
SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """A few candidates of each grid, and few draws."""
    for name, protocol in PROTOCOLS.items():
        grid = protocol.grid[10:40:6] if len(protocol.grid) > 12 else protocol.grid[:4]
        few = {"shots": protocol.shots[:2], "repeats": 2} if protocol.shots else {}
        monkeypatch.setitem(PROTOCOLS, name, replace(protocol, grid=grid, coarse=0, **few))
    monkeypatch.setitem(probes.KINDS, "logistic", replace(probes.KINDS["logistic"], grid=(0.01, 0.1, 1.0)))


@pytest.fixture
def stored(photos, tmp_path):
    """Factory of stores of raw pixels of made-up photos."""

    def make(splits=SPLITS, per_class=5):
        data = photos(("ant", "bee", "cat"), per_class, splits)
        return extract(data, tmp_path / "s.store", backbone="pixels", workers=1)["store"]

    return make


def relabel_test(store):
    """Every test image another class."""
    path = Store.open(store).path / "manifest.csv"
    shifted = {"ant": "bee", "bee": "cat", "cat": "ant"}
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["label"] = shifted[row["label"]] if row["split"] == "test" else row["label"]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    Store.open(store).accept_edits()


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_protocol_follows_the_splits_and_ignores_test_labels(stored, name):
    store = stored()
    before = probe_protocol(store, protocol=name)
    json.dumps(before, allow_nan=False)
    assert tuple(before["splits"].values()) == (15, 15, 15)
    assert before["protocol"]["name"] == name
    assert before["protocol"]["version"] == PROTOCOLS[name].version
    assert before["evaluated_on"] == "test"
    assert (before["model"] is not None) == PROTOCOLS[name].linear
    old = models.load(before["model"]).estimator.coef_ if before["model"] else None
    relabel_test(store)
    after = probe_protocol(store, protocol=name)
    changed = {key for key in before if before[key] != after[key]}
    assert changed <= {"test", "few_shot", "baselines", "notes", "seconds", "created"}
    assert changed & {"test", "few_shot"}
    if before["model"]:
        np.testing.assert_array_equal(models.load(after["model"]).estimator.coef_, old)


@pytest.mark.slow
@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_classifier_becomes_a_model_file_that_evaluates_and_reports(stored, name, tmp_path):
    store = stored()
    result = probe_protocol(store, tmp_path / "m.safetensors", protocol=name)
    opened = Store.open(store)
    matrix = matrices.load(opened, opened.choose("pixels"))
    train, val, test = (matrix.take(matrix.split == split) for split in SPLITS)
    outcome = protocols.run(PROTOCOLS[name], train.X, train.y, val.X, val.y)
    model = models.load(result["model"])
    assert model.kind == "logistic"
    np.testing.assert_array_equal(model.estimator.coef_, outcome.estimator.coef_)
    assert result["C"] == outcome.chosen
    assert result["test"] == protocols.evaluate(outcome, test.X, test.y)
    assert model.card["protocol"]["metric"] == "top1"
    assert model.has_seen(val.digests).all()
    assert not model.has_seen(test.digests).any()
    assert evaluate(result["model"], store)["top1"] == result["test"]["top1"]
    page = (tmp_path / "m.html").read_text() if report(result["model"]) else ""
    assert f"Protocol {name}, version {PROTOCOLS[name].version}, by top1" in page
    assert PROTOCOLS[name].source.split(";")[0].split(",")[0] in page


def test_without_val_it_selects_inside_train_and_without_test_val_is_reported(stored):
    result = probe_protocol(stored(("train", "val")), protocol="clip")
    assert (result["evaluated_on"], result["test"]) == ("val", None)
    assert result["selection"]["on"] == "3 of 15 training rows held out"


@pytest.mark.slow
def test_copies_among_the_training_images_do_not_flatter_the_selection(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 6)):
        for i in range(count):
            folder = tmp_path / "noise" / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
            for copy in range(3 if split == "train" else 1):
                image.save(folder / f"{i}-{copy}.png")
    store = extract(tmp_path / "noise", tmp_path / "n.store", backbone="pixels", workers=1)["store"]
    for name in ("dinov2-knn", "kornblith", "featurepipe"):
        assert probe_protocol(store, protocol=name)["val"]["top1"] < 0.75


def test_few_shots_draw_from_train_and_val_and_name_what_is_left_out(stored, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "bigvision-fewshot", replace(PROTOCOLS["bigvision-fewshot"], shots=(1, 10, 25)))
    result = probe_protocol(stored(), protocol="bigvision-fewshot")
    assert [one["shots"] for one in result["few_shot"]] == [1, 10]
    assert "shots left out, as some class has fewer training samples: 25" in result["notes"]
    assert result["test"] is None


@pytest.mark.slow
def test_few_shots_say_what_is_fixed_and_what_each_draw_chooses(stored):
    store = stored()
    fixed = probe_protocol(store, protocol="bigvision-fewshot")
    assert (fixed["alpha"], fixed["selection"]["chosen"]) == (1024, 1024)
    assert fixed["selection"]["on"] == "nothing, the protocol fixes it"
    assert "bigvision-fewshot, version 1, on pixels: alpha=1024 (nothing, the protocol fixes it)" in probe_text(fixed)
    each = probe_protocol(store, protocol="vissl-lowshot-svm")
    assert (each["C"], each["selection"]["on"]) == (None, "the shots of each draw")
    assert "95 % of the mean" in probe_text(each)


@pytest.mark.slow
def test_the_featurepipe_protocol_is_probe_without_one(stored, tmp_path):
    store = stored()
    one = probe_protocol(store, tmp_path / "a.safetensors", protocol="featurepipe")
    other = probe(store, tmp_path / "b.safetensors", baselines="none")
    assert (one["C"], one["test"]) == (other["C"], other["test"])
    assert one["selection"].items() <= other["selection"].items()


def test_the_featurepipe_protocol_notes_the_optima_that_probe_notes(stored, tmp_path, monkeypatch):
    store = stored()
    same = replace(PROTOCOLS["featurepipe"], grid=probes.KINDS["logistic"].grid)
    monkeypatch.setitem(PROTOCOLS, "featurepipe", same)
    monkeypatch.setattr(paths, "MAX_STEPS", 1)
    one = probe_protocol(store, tmp_path / "a.safetensors", protocol="featurepipe")
    other = probe(store, tmp_path / "b.safetensors", baselines="none")
    assert one["notes"] == other["notes"]
    assert any("not reached" in note and note.endswith(" (final fit)") for note in one["notes"])


def test_what_cannot_be_followed(stored, tmp_path):
    store = stored(("train", "test"), 2)
    with pytest.raises(ProbeError, match="'clap' is unknown"):
        probe_protocol(store, protocol="clap")
    with pytest.raises(ProbeError, match="dinov2-knn has no linear classifier of raw embeddings"):
        probe_protocol(store, tmp_path / "m.safetensors", protocol="dinov2-knn")
    with pytest.raises(ProbeError, match="'ant' has 2 distinct images, fewer than the 3 folds"):
        probe_protocol(store, protocol="vissl-svm")


@pytest.mark.slow
def test_run_follows_a_protocol(photos, tmp_path):
    data = photos(("ant", "bee", "cat"), 5, SPLITS)
    linear = run(data, tmp_path / "out", backbone="pixels", protocol="lpft", workers=1)
    assert linear["top1"] == linear["test"]["top1"]
    assert linear["report"].endswith("report.html")
    other = run(data, tmp_path / "out", backbone="pixels", protocol="vissl-svm", workers=1)
    assert (other["model"], other["report"], other["evaluate"]) == (None, None, {})
    assert other["test"]["map"] > 0
    with pytest.raises(ProbeError, match="lpft has no metric 'map'"):
        run(tmp_path / "nowhere", protocol="lpft", metric="map")
    for decided in ({"value": 1.0}, {"shots": [1]}, {"class_weight": "balanced"}):
        with pytest.raises(ProbeError, match="lpft fixes them itself; leave out value, shots and class_weight"):
            run(tmp_path / "nowhere", protocol="lpft", **decided)
    with pytest.raises(ProbeError, match="lpft is followed on the cpu; leave out the probe's device"):
        run(tmp_path / "nowhere", protocol="lpft", probe_device="cpu:0")


@pytest.mark.slow
def test_a_protocol_is_for_one_layer_which_may_be_chosen(photos, tmp_path):
    from click.testing import CliRunner

    from featurepipe.cli import main

    data = photos(("ant", "bee", "cat"), 5, SPLITS)
    store = extract(
        data,
        tmp_path / "l.store",
        backbone="test_resnet",
        random_weights=True,
        transform={"input_size": (3, 32, 32)},
        device="cpu",
        layers="stage1,penultimate",
    )["store"]
    chosen = probe_protocol(store, protocol="kornblith", layer="stage1")
    assert chosen["layer"] == "stage1"
    assert models.load(chosen["model"]).backbone["spec"]["layer"] == "stage1"
    assert probe_protocol(store, protocol="kornblith")["layer"] == "penultimate"
    refused = CliRunner().invoke(main, ["probe", store, "--protocol", "kornblith", "--layers", "all"])
    assert refused.exit_code == 2
    assert "--protocol works on one layer; replace --layers by --layer" in refused.stderr
