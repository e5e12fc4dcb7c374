"""Multi-label probes through the stages: probe, evaluate, predict, report, run."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from featurepipe import evaluate, extract, matrices, models, predict, probe, probe_layers, probes, report, run, tables
from featurepipe.errors import ManifestError, ProbeError
from featurepipe.manifests import read_set
from featurepipe.stages import Listener
from featurepipe.stores import Store

NAMES = ("blue", "green", "red")


def paint(folder, count, seed=0, *, noise=150):
    """Pictures with patches of colours, and their sets of labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, found = np.random.default_rng(seed), {}
    for i in range(count):
        labels = [name for name, share in zip(NAMES, (0.3, 0.5, 0.5), strict=True) if rng.random() < share]
        pixels = rng.integers(0, noise, (16, 16, 3))
        for channel, name in enumerate(("red", "green", "blue")):
            pixels[:, :, channel] += 60 * (name in labels)
        Image.fromarray(np.minimum(pixels, 255).astype(np.uint8)).save(folder / f"{i:03}.png")
        found[f"{i:03}.png"] = ";".join(labels) or ";"
    return found


def write(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def table(tmp_path):
    """Factory of tables of pictures; `change(i, row)` returns another row."""

    def make(count=60, splits=(), change=lambda i, row: row):
        labels = paint(tmp_path, count)
        rows = [{"path": name, "label": text} for name, text in labels.items()]
        if splits:
            rows = [{**row, "split": splits[i % len(splits)]} for i, row in enumerate(rows)]
        return write(tmp_path / "t.csv", [change(i, row) for i, row in enumerate(rows)])

    return make


@pytest.fixture
def stored(table, tmp_path):
    def make(*arguments, **options):
        return extract(table(*arguments, **options), tmp_path / "s", backbone="color-histogram", workers=1)["store"]

    return make


THREE = ("train", "val", "test", "train")


def matrix_of(store, backbone="color-histogram"):
    opened = Store.open(store)
    return matrices.load(opened, opened.choose(backbone))


def head(result):
    estimator = models.load(result["model"]).estimator
    return [(one.coef_.tolist(), one.intercept_.tolist(), one.C) for one in estimator.estimators_]


@pytest.mark.slow
def test_it_is_the_probe_of_the_same_rows(stored):
    store = stored(splits=THREE)
    m = matrix_of(store)
    result = probe(store, multi_label=True, baselines="none", class_weight="balanced")
    train, val, test = (m.take(m.split == split) for split in ("train", "val", "test"))
    by_hand = probes.fit_labels(train.X, train.y, val.X, val.y, groups=train.digests, class_weight="balanced")
    assert (result["kind"], result["C"], result["split_source"]) == ("multi-label", by_hand.chosen, "given")
    assert result["selection"]["path"] == by_hand.path
    assert result["val"] == {"source": "val", **by_hand.scores}
    assert result["test"] == probes.evaluate(by_hand.estimator, test.X, test.y)
    model = models.load(result["model"])
    np.testing.assert_array_equal(model.predict_proba(test.X), by_hand.estimator.predict_proba(test.X))
    for part, seen in ((train, True), (val, True), (test, False)):
        assert model.has_seen(part.digests).tolist() == [seen] * len(part)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert {key: result[key] for key in model.card} == model.card


@pytest.mark.slow
@pytest.mark.parametrize("splits", [THREE, ("train", "test", "train")])
def test_test_labels_change_nothing_but_the_test_figures(table, tmp_path, splits):
    def change(i, row):
        return {**row, "label": "green;red" if row["label"] == ";" else ";"} if row["split"] == "test" else row

    results = []
    for number, edit in enumerate((lambda i, row: row, change)):
        store = extract(table(splits=splits, change=edit), tmp_path / f"s{number}", backbone="color-histogram")["store"]
        results.append(probe(store, multi_label=True))
    before, after = results
    assert head(before) == head(after)
    same = {"data", "model", "test", "baselines", "seconds", "created"}
    assert {key for key in before if before[key] != after[key]} <= same
    assert after["test"]["map"] != before["test"]["map"]


@pytest.mark.slow
def test_splits_are_made_by_content_and_seed(stored):
    store = stored(count=100)
    one, again, other = (probe(store, multi_label=True, baselines="none", seed=seed) for seed in (1, 1, 2))
    assert one["test"] == again["test"] != other["test"]
    assert one["split_source"] == "made here: 60/20/20 by content, seed 1"
    assert tuple(one["splits"].values()) == (60, 20, 20)


def test_unlabelled_samples_are_left_out_and_empty_sets_are_not(stored):
    store = stored(splits=THREE, change=lambda i, row: {**row, "label": "" if i < 4 else row["label"]})
    result = probe(store, multi_label=True, baselines="none")
    assert sum(result["splits"].values()) == 56
    assert "4 samples without a label are left out" in result["notes"]
    assert (matrix_of(store).y == ";").any()


@pytest.mark.slow
def test_baselines_are_chance_and_the_same_probe_on_pixels(stored):
    store = stored(splits=THREE)
    found = probe(store, multi_label=True)["baselines"]
    m = matrix_of(store, "pixels")
    train, val, test = (m.take(m.split == split) for split in ("train", "val", "test"))
    fitted = probes.fit_labels(train.X, train.y, val.X, val.y, groups=train.digests)
    assert list(found) == ["chance", "pixels", "random_backbone"]
    assert found["pixels"] == probes.evaluate(fitted.estimator, test.X, test.y)["map"]
    shares = np.array([[name in read_set(text) for name in NAMES] for text in test.y]).mean(axis=0)
    assert found["chance"] == pytest.approx(shares.mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, row: {**row, "label": "red" if i % 2 else ";"}, "only one label"),
        (lambda i, row: {**row, "label": ";"}, "every set of labels is empty"),
        (lambda i, row: {**row, "label": ""}, "no sample has a label"),
        (lambda i, row: {**row, "label": "emu" if i == 2 else row["label"]}, r"'emu' is on no image .*002.png has it"),
        (lambda i, row: {**row, "label": f"all;{row['label']}"}, "label 'all' is on every image to train on"),
        (lambda i, row: {**row, "split": "" if i == 0 else row["split"]}, "give every sample one, or none"),
        (lambda i, row: {**row, "split": "test"}, "to train on"),
    ],
)
def test_labels_that_cannot_be_used(stored, change, message):
    with pytest.raises(ManifestError, match=message):
        probe(stored(splits=THREE, change=change), multi_label=True, baselines="none")


def test_what_has_no_meaning_for_sets_is_refused_before_anything_is_read(tmp_path):
    nowhere = tmp_path / "no.store"
    with pytest.raises(ProbeError, match="a multi-label probe is logistic, not ridge"):
        probe(nowhere, multi_label=True, kind="ridge")
    with pytest.raises(ProbeError, match="few-shot evaluation needs one class per sample"):
        probe(nowhere, multi_label=True, shots=[1])
    with pytest.raises(ProbeError, match="several layers are compared by top-1"):
        probe_layers(nowhere, multi_label=True)
    with pytest.raises(ProbeError, match="protocol clip is for one class per sample"):
        run(nowhere, multi_label=True, protocol="clip")
    with pytest.raises(ProbeError, match="a multi-label probe is logistic, not svm"):
        run(nowhere, multi_label=True, kind="svm")


def test_run_refuses_labels_before_it_embeds(table, tmp_path):
    heard = []

    class Ears(Listener):
        def note(self, text):
            heard.append(text)

    with pytest.raises(ManifestError, match="only one label"):
        run(
            table(change=lambda i, row: {**row, "label": "red" if i else ";"}),
            tmp_path / "r",
            backbone="pixels",
            multi_label=True,
            listener=Ears(),
        )
    assert not [line for line in heard if " on " in line]


# -- the model file at work ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_gives_what_probe_reported(table, tmp_path):
    source = table()
    done = run(source, tmp_path / "r", backbone="color-histogram", multi_label=True, baselines="none")
    figures = done["probe"]["test"]
    for data in (source, tmp_path / "r" / "store"):
        found = evaluate(done["model"], data)
        assert (found["split"], found["seen_in_training"]) == ("unseen", 0)
        assert {key: found[key] for key in figures} == figures
    assert done["map"] == figures["map"]


def test_labels_unknown_to_the_model_are_named_before_anything_is_embedded(table, tmp_path):
    model = run(table(), tmp_path / "r", backbone="color-histogram", multi_label=True, baselines="none")["model"]
    with pytest.raises(ProbeError, match="class 'emu' is unknown to the model; it knows blue, green, red"):
        evaluate(model, table(change=lambda i, row: {**row, "label": "red; emu"}))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_predictions_are_sets_that_can_be_read_again(table, tmp_path, suffix):
    from featurepipe import manifests

    source = table()
    done = run(source, tmp_path / "r", backbone="color-histogram", multi_label=True, baselines="none")
    result = predict(done["model"], source, tmp_path / f"p{suffix}")
    columns = ["label", *(f"p:{name}" for name in NAMES)]
    rows = [row for _, row in tables.Table(tmp_path / f"p{suffix}", ["path"], columns)]
    assert list(rows[0]) == ["path", "label", "p:blue", "p:green", "p:red"]
    proba = np.array([[float(row[f"p:{name}"]) for name in NAMES] for row in rows])
    sets = [";".join(name for name, p in zip(NAMES, line, strict=True) if p > 0.5) or ";" for line in proba]
    assert [row["label"] for row in rows] == sets
    assert ";" in sets
    assert result["labels"] == dict(zip(NAMES, (proba > 0.5).sum(axis=0).tolist(), strict=True))
    m = matrix_of(tmp_path / "r" / "store")
    exact = {"rtol": 0, "atol": 5.1e-7} if suffix == ".csv" else {"rtol": 1e-6}  # CSV has six decimals
    np.testing.assert_allclose(proba, models.load(done["model"]).predict_proba(m.X), **exact)
    again = manifests.read(tmp_path / f"p{suffix}")  # as a manifest
    assert [sample.label for sample in again.samples] == sets


@pytest.mark.slow
def test_the_page_shows_map_and_every_label_but_no_confusion(table, tmp_path):
    done = run(table(), tmp_path / "r", backbone="color-histogram", multi_label=True)
    page = (tmp_path / report(done["model"], tmp_path / "p.html")["report"]).read_text("utf-8")
    figures = done["probe"]["test"]
    assert f"{100 * figures['map']:.1f}\N{NO-BREAK SPACE}%" in page
    assert "test mAP" in page
    assert "Per label" in page
    assert "confused" not in page.lower()
    for name in NAMES:
        assert f"<td>{name}</td><td>{100 * figures['per_class'][name]['average_precision']:.1f}" in page
    assert "chance" in page
