"""The stages evaluate and predict: a model file on images it knows and images it does not."""

import csv
import dataclasses
import json
import re
import shutil
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from featurepipe import TransferClassifier, backbones, evaluate, extract, manifests, models, predict, probe
from featurepipe.cards import Card
from featurepipe.cli import texts
from featurepipe.digests import sha256_json, sha256_state_dict
from featurepipe.errors import FingerprintMismatch, ManifestError, ModelFileError, OutputError, ProbeError, StoreError
from featurepipe.models import answers
from featurepipe.stages import Listener, compare, export, info, run, streams
from featurepipe.stores import Store

FIGURES = ("n", "top1", "balanced_accuracy", "log_loss", "ece", "per_class", "confusion", "classes")


@pytest.fixture
def trained(photos, tmp_path):
    """Factory: photos, their store and a model of raw pixels."""

    def make(splits=(), classes=("ant", "bee", "cat"), per_class=6, **options):
        data = photos(classes, per_class, splits)
        store = extract(data, tmp_path / "s.store", backbone="pixels", workers=1)["store"]
        options = {"kind": "ridge", "baselines": "none", **options}
        return data, store, probe(store, tmp_path / "m.safetensors", **options)

    return make


def rows_of(path):
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [json.loads(line) for line in file] if path.suffix == ".jsonl" else list(csv.DictReader(file))


# -- evaluate -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["logistic", "ridge"])
@pytest.mark.parametrize(
    ("splits", "taken"),
    [
        (("train", "val", "test"), "test"),
        (("train", "val"), "val"),
        (("train", "test"), "test"),
        ((), "unseen"),
        (("train",), "unseen"),
    ],
)
def test_evaluate_gives_the_figures_that_probe_reported(trained, kind, splits, taken):
    data, store, probed = trained(splits, kind=kind, value=0.1)
    for source in (store, data):
        result = evaluate(probed["model"], source, device="cpu")
        assert result["split"] == taken
        assert {key: result[key] for key in FIGURES} == {key: probed[probed["evaluated_on"]][key] for key in FIGURES}
        assert result["seen_in_training"] == 0


def test_what_is_left_out_is_told(trained):
    data, store, probed = trained()
    result, everything = evaluate(probed["model"], data, device="cpu"), evaluate(probed["model"], store, split="all")
    assert result["left_out"] == everything["with_seen"]["n"] - result["n"] > 0
    assert f"left out       {result['left_out']} samples" in texts.evaluate_text(result)
    assert everything["left_out"] == 0
    assert "left out" not in texts.evaluate_text(everything)


def test_a_split_may_be_asked_for(trained):
    _, store, probed = trained(("train", "val", "test"))
    assert evaluate(probed["model"], store, split="train")["seen_in_training"] == 18
    assert evaluate(probed["model"], store, split="val")["n"] == 18
    everything = evaluate(probed["model"], store, split="all")
    assert (everything["n"], everything["seen_in_training"], everything["split"]) == (18, 36, "all")
    assert everything["with_seen"]["n"] == 54


def test_a_split_that_is_not_there_is_refused(trained):
    _, store, probed = trained()
    with pytest.raises(ProbeError, match="no labelled sample is in val"):
        evaluate(probed["model"], store, split="val")


def test_training_images_are_never_evaluated_silently(trained, tmp_path):
    data, _, probed = trained()
    model = models.load(probed["model"])
    seen_only = tmp_path / "seen"
    manifest = manifests.read(data)
    for sample in manifest.samples:
        from featurepipe.digests import sha256_file

        if model.has_seen([sha256_file(manifest.file(sample))])[0]:
            (seen_only / sample.label).mkdir(parents=True, exist_ok=True)
            shutil.copy(manifest.file(sample), seen_only / sample.label / f"renamed{sample.id.replace('/', '')}")
    with pytest.raises(ProbeError, match="trained on every one of these samples"):
        evaluate(probed["model"], seen_only)
    assert evaluate(probed["model"], seen_only, split="all")["seen_in_training"] == 15


def test_a_class_that_the_model_does_not_know_is_named(trained, photos):
    _, _, probed = trained()
    with pytest.raises(ProbeError, match="class 'emu' is unknown to the model; it knows ant, bee, cat"):
        evaluate(probed["model"], photos(("bee", "emu"), name="new", seed=1))


def test_images_without_labels_are_refused(trained, photos):
    data, _, probed = trained()
    with pytest.raises(ManifestError, match="no sample has a label"):
        evaluate(probed["model"], data / "ant")


def test_a_store_without_the_models_backbone_is_refused(trained, photos, tmp_path):
    data, _, probed = trained()
    small = {"transform": {"input_size": (3, 32, 32)}, "device": "cpu"}
    extract(data, tmp_path / "other", backbone="test_resnet", random_weights=True, **small)
    with pytest.raises(StoreError, match="holds no embeddings of the model's backbone pixels"):
        evaluate(probed["model"], tmp_path / "other")


def test_rejects_are_counted(trained, photos):
    _, _, probed = trained()
    new = photos(name="new", seed=1)
    (new / "ant" / "bad.png").write_bytes(b"")
    result = evaluate(probed["model"], new)
    assert (result["n"], result["rejected"]) == (6, 1)
    assert result["rejects"] == {"ant/bad.png": "empty file (0 bytes)"}


def test_a_notebooks_numbers_meet_the_folders_names(photos, tmp_path):
    data, new = photos(("0", "1"), 5), photos(("0", "1"), 4, name="new", seed=1)
    paths = sorted(data.rglob("*.*"))
    model = TransferClassifier("pixels", kind="ridge").fit(paths, [int(path.parent.name) for path in paths])
    model.save(tmp_path / "m.safetensors")
    result = evaluate(tmp_path / "m.safetensors", new)
    new_paths = sorted(new.rglob("*.*"))
    assert result["top1"] == model.score(new_paths, [int(path.parent.name) for path in new_paths])
    with pytest.raises(ProbeError, match="trained on every one"):
        evaluate(tmp_path / "m.safetensors", data)


# -- predict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".CSV"])
@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_predictions_are_written_in_manifest_order(trained, photos, tmp_path, suffix, kind):
    _, _, probed = trained(kind=kind, value=1.0)
    new = photos(("ant", "cat"), 4, name="new", seed=1)
    (new / "ant" / "bad.jpg").write_bytes(b"no image")
    shutil.copy(new / "ant/0.jpg", new / "cat/twin.jpg")
    path = tmp_path / "deep" / f"p{suffix}"
    result = predict(probed["model"], new, path, probabilities=True)
    rows = rows_of(path.rename(path.with_suffix(suffix.lower())))
    assert [row["path"] for row in rows] == [f"ant/{i}" for i in ("0.jpg", "1.jpg", "2.png", "3.jpg")] + [
        f"cat/{i}" for i in ("0.jpg", "1.jpg", "2.png", "3.jpg", "twin.jpg")
    ]
    assert list(rows[0]) == ["path", "label", "confidence", "p:ant", "p:bee", "p:cat", "true_label", "file"]
    assert [row["true_label"] for row in rows] == ["ant"] * 4 + ["cat"] * 5
    assert [row["file"] for row in rows] == [str(new / row["path"]) for row in rows]
    assert (result["labelled"], result["right"]) == (9, sum(row["label"] == row["true_label"] for row in rows))
    proba = np.array([[float(row[f"p:{c}"]) for c in ("ant", "bee", "cat")] for row in rows])
    np.testing.assert_allclose(proba.sum(1), 1, atol=2e-6)
    np.testing.assert_allclose([float(row["confidence"]) for row in rows], proba.max(1))
    assert [row["label"] for row in rows] == [("ant", "bee", "cat")[i] for i in proba.argmax(1)]
    np.testing.assert_allclose(proba[0], proba[-1], rtol=1e-9)  # the same content under another name
    assert (result["predicted"], result["rejected"]) == (9, 1)
    assert result["rejects"] == {"ant/bad.jpg": "not an image that Pillow can read"}
    assert sum(result["labels"].values()) == 9


@pytest.mark.slow
def test_predictions_are_those_of_the_probe_on_its_store(trained, tmp_path):
    data, _, probed = trained(("train", "test"))
    predict(probed["model"], data / "test", tmp_path / "p.csv", probabilities=True)
    rows = rows_of(tmp_path / "p.csv")
    right = np.mean([row["label"] == row["path"].split("/")[0] for row in rows])
    assert right == probed["test"]["top1"]
    assert list(rows[0])[:3] == ["path", "label", "confidence"]
    predict(probed["model"], data / "test", tmp_path / "q.csv")
    assert [list(row.values()) for row in rows_of(tmp_path / "q.csv")] == [
        [*list(row.values())[:3], *list(row.values())[-2:]] for row in rows
    ]


def test_without_an_output_the_predictions_are_in_the_result(trained, photos, tmp_path):
    _, _, probed = trained()
    new = photos(("ant", "cat"), 4, name="new", seed=1)
    result = predict(probed["model"], new, probabilities=True)
    predict(probed["model"], new, tmp_path / "p.jsonl", probabilities=True)
    assert result["predictions"] == rows_of(tmp_path / "p.jsonl")
    assert result["output"] is None
    assert "predictions" not in predict(probed["model"], new, tmp_path / "p.jsonl")


def test_images_are_predicted_by_name(trained, photos, tmp_path, monkeypatch):
    _, _, probed = trained()
    new = photos(("ant", "cat"), 2, name="new", seed=1)
    whole = {row["file"]: row for row in predict(probed["model"], new)["predictions"]}
    monkeypatch.chdir(tmp_path)
    named = ["new/cat/1.jpg", str(new / "ant" / "0.jpg"), "new/cat/1.jpg"]
    found = predict(probed["model"], named)["predictions"]
    assert [row["path"] for row in found] == [row["file"] for row in found] == sorted(set(named))
    for row in found:
        like = whole[str(new / row["file"].removeprefix("new/")) if row["file"].startswith("new") else row["file"]]
        assert row["label"] == like["label"]
        assert row["confidence"] == pytest.approx(like["confidence"])
        assert "true_label" not in row  # an image alone has none
    (one,) = predict(probed["model"], "new/cat/1.jpg")["predictions"]
    assert one["file"] == "new/cat/1.jpg"


def test_folders_that_are_no_classes_of_the_models_are_no_true_labels(trained, photos):
    _, _, probed = trained()
    found = predict(probed["model"], photos(("monday", "tuesday"), 2, name="new", seed=1))
    assert "true_label" not in found["predictions"][0]
    assert (found["labelled"], found["right"]) == (0, 0)


def test_images_that_cannot_be_read_are_named_with_the_reason(trained, tmp_path):
    _, _, probed = trained()
    for name in ("a.psd", "b.txt"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ManifestError, match=r"a\.psd cannot be read: not an image that Pillow can read"):
        predict(probed["model"], tmp_path / "a.psd")
    with pytest.raises(
        ManifestError, match=r"no image of these images can be read; first reason: not an image .*a\.psd"
    ):
        predict(probed["model"], [tmp_path / "a.psd", tmp_path / "b.txt"])


def test_labels_may_be_anything(tmp_path, photos):
    names = ["a,b", 'say "x"', "<b>&", "ünï 🐝", "%s", "-"]
    data = photos(names, 3)
    store = extract(data, tmp_path / "s", backbone="pixels")["store"]
    model = probe(store, tmp_path / "m.safetensors", kind="ridge", baselines="none")["model"]
    for suffix in (".csv", ".jsonl", ".parquet"):
        predict(model, data, tmp_path / f"p{suffix}", probabilities=True)
        rows = rows_of(tmp_path / f"p{suffix}")
        assert [row["path"].split("/")[0] for row in rows] == sorted(names * 3)
        assert {row["label"] for row in rows} <= set(names)
        assert set(rows[0]) == {"path", "label", "confidence", "true_label", "file", *(f"p:{name}" for name in names)}


def test_file_names_that_are_not_utf8_survive(trained, tmp_path):
    _, _, probed = trained()
    folder = tmp_path / "odd"
    folder.mkdir()
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    try:
        shutil.copy(tmp_path / "plain.png", folder / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for suffix in (".csv", ".jsonl"):
        predict(probed["model"], folder, tmp_path / f"p{suffix}")
        assert [row["path"] for row in rows_of(tmp_path / f"p{suffix}")] == [name]


def test_an_unknown_suffix_is_refused_before_any_work(trained, tmp_path):
    heard = []

    class Ears(Listener):
        def note(self, text):
            heard.append(text)

    data, _, probed = trained()
    with pytest.raises(ModelFileError, match=r"p\.xlsx; use one of \.csv, \.jsonl, \.parquet"):
        predict(probed["model"], data, tmp_path / "p.xlsx", listener=Ears())
    assert not heard
    assert not (tmp_path / "p.xlsx").exists()


def test_nothing_readable_is_an_error_and_leaves_the_old_file(trained, tmp_path):
    _, _, probed = trained()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"")
    (tmp_path / "p.csv").write_text("path,label,confidence\nold.png,ant,1\n")
    with pytest.raises(ManifestError, match=r"x\.png cannot be read: empty file"):
        predict(probed["model"], tmp_path / "bad", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == "path,label,confidence\nold.png,ant,1\n"


# -- the model file alone -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_with_its_backbone_inside_outlives_the_weights(photos, tmp_path):
    data = photos(("ant", "bee"), 5)
    options = {"transform": {"input_size": (3, 32, 32)}, "device": "cpu"}
    network = backbones.create("test_resnet", random_weights=True, seed=3, **options).module
    weights = tmp_path / "w.safetensors"
    save_file({key: value.numpy() for key, value in network.state_dict().items()}, weights)
    store = extract(data, tmp_path / "s", backbone="test_resnet", weights=weights, **options)["store"]
    common = {"kind": "ridge", "baselines": "none", "device": "cpu"}
    whole = probe(store, tmp_path / "whole.safetensors", include_backbone=True, **common)
    slim = probe(store, tmp_path / "slim.safetensors", **common)
    assert (tmp_path / "slim.safetensors").stat().st_size < 50_000 < (tmp_path / "whole.safetensors").stat().st_size
    moved = weights.rename(tmp_path / "moved.safetensors")
    predict(whole["model"], data, tmp_path / "whole.csv", device="cpu")
    with pytest.raises(OSError, match=r"w\.safetensors does not exist; give its place with --weights"):
        predict(slim["model"], data, tmp_path / "slim.csv", device="cpu")
    predict(slim["model"], data, tmp_path / "slim.csv", weights=moved, device="cpu")
    assert (tmp_path / "slim.csv").read_text() == (tmp_path / "whole.csv").read_text()
    assert evaluate(whole["model"], data, device="cpu")["top1"] == whole["test"]["top1"]
    other = backbones.create("test_resnet", random_weights=True, seed=4, **options).module
    save_file({key: value.numpy() for key, value in other.state_dict().items()}, tmp_path / "other.safetensors")
    with pytest.raises(FingerprintMismatch, match="weights is"):
        predict(slim["model"], data, tmp_path / "p.csv", weights=tmp_path / "other.safetensors", device="cpu")


@pytest.fixture
def tuned(photos, tmp_path):
    """Factory: photos, their store with a network and a probe on it, and a model file with that network, changed."""

    def make(splits=("train", "test"), per_class=5):
        data, network = photos(("ant", "bee"), per_class, splits), "test_resnet"
        options = {"transform": {"input_size": (3, 32, 32)}, "device": "cpu"}
        module = backbones.create(network, random_weights=True, seed=3, **options).module
        save_file({key: value.numpy() for key, value in module.state_dict().items()}, tmp_path / "w.safetensors")
        options["weights"] = tmp_path / "w.safetensors"
        store = extract(data, tmp_path / "s", backbone=network, **options)["store"]
        probed = models.load(probe(store, tmp_path / "m.safetensors", baselines="none", device="cpu")["model"])
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(0.01)
        spec = {**probed.backbone["spec"], "weights": sha256_state_dict(module.state_dict())}
        source = {"name": network, "weights": None, "random_seed": None}
        backbone = {"name": "tuned", "fingerprint": sha256_json(spec), "spec": spec, "source": source}
        tuning = {"promoted": True, "start": "probe", "tune": "all", "tuned_parameters": 1, "parameters": 1}
        tuning |= {"curve": [], "best_epoch": 0, "stopped": "after all epochs"}
        card = Card.of_json({**probed.card, "finetuning": tuning})
        path = tmp_path / "tuned.safetensors"
        models.save(path, dataclasses.replace(probed, backbone=backbone, card=card), module=module)
        return data, store, path

    return make


@pytest.mark.slow
def test_a_model_that_carries_its_backbone_is_one_beside_others(tuned, machine):
    machine(bf16=False)
    data, store, model = tuned()
    with pytest.raises(
        StoreError, match=r"holds no embeddings of the model's backbone tuned \(.*, penultimate, fp32\)"
    ):
        evaluate(model, store)
    made = extract(data, store, backbone=model, device="cpu")
    assert (made["backbone"], made["computed"]) == ("tuned", 20)
    assert made["fingerprint"] == models.load(model).backbone["fingerprint"]
    again = extract(data, store, backbone=str(model), device="cpu")
    assert (again["fingerprint"], again["computed"]) == (made["fingerprint"], 0)
    by_store, by_images = evaluate(model, store), evaluate(model, data, device="cpu")
    assert by_store["log_loss"] == pytest.approx(by_images["log_loss"], rel=1e-4)
    assert {one["name"] for one in info(store)["backbones"]} == {"test_resnet", "tuned"}
    held = Store.open(store)
    assert held.choose("tuned").fingerprint == held.choose(str(model)).fingerprint == made["fingerprint"]
    assert held.choose("test_resnet").name == "test_resnet"
    compared = compare([store], baselines="none")
    assert {row["label"] for row in compared["rows"]} == {"test_resnet", "tuned"}
    probed = probe(store, model.with_name("p.safetensors"), backbone=model, baselines="full", device="cpu")
    assert probed["backbone"] == "tuned"
    assert probed["baselines"]["random_backbone"] is not None


@pytest.mark.slow
def test_run_takes_a_model_as_a_backbone(tuned, tmp_path):
    data, _, model = tuned()
    result = run(data, tmp_path / "r", backbone=str(model), baselines="none", device="cpu")
    assert result["backbone"] == "tuned"
    assert result["fingerprint"] == models.load(model).backbone["fingerprint"]
    assert models.load(result["model"]).backbone["source"]["weights"] == str(model)


@pytest.mark.slow
def test_images_that_a_network_was_tuned_on_are_never_reported(tuned, tmp_path):
    data, store, model = tuned((), 20)
    extract(data, store, backbone=model, device="cpu")
    options = {"baselines": "none", "backbone": "tuned"}
    assert probe(store, tmp_path / "p.safetensors", **options)["test"]["n"] == 8
    with pytest.raises(
        ProbeError, match=r"tuned was tuned on \d of the 8 samples that would be reported; use the seed"
    ):
        probe(store, tmp_path / "p.safetensors", seed=1, **options)
    probe(store, tmp_path / "q.safetensors", seed=1, baselines="none", backbone="test_resnet")
    assert len(compare([store], baselines="simple")["rows"]) == 3
    others = compare([store], baselines="simple", seed=1)
    assert {row["label"] for row in others["rows"]} == {"test_resnet", "pixels"}
    assert any(re.search(r"left out: .*tuned-\w{8} was tuned on \d of the samples", note) for note in others["notes"])


@pytest.mark.slow
def test_a_probe_that_carries_its_backbone_has_not_shaped_it(tuned, tmp_path):
    data, store, _ = tuned((), 20)
    whole = probe(store, tmp_path / "whole.safetensors", include_backbone=True, baselines="none", device="cpu")["model"]
    other = extract(data, tmp_path / "other", backbone=whole, device="cpu")["store"]
    assert probe(other, tmp_path / "p.safetensors", seed=1, baselines="none")["test"]["n"] == 8


# -- many classes, and cells for spreadsheets


def many_classes(tmp_path, monkeypatch, count=40, block=100):
    """A model of pixels with a class for each of some pictures, which answers a few rows at a time."""
    monkeypatch.setattr(answers, "BLOCK", block)
    for number in range(count):
        for copy in range(2):
            folder = tmp_path / "data" / f"class {number:03}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 200, (32, 32, 3), np.uint8) + copy
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{copy}.png")
    store = extract(tmp_path / "data", tmp_path / "s", backbone="pixels", workers=1)["store"]
    return probe(store, tmp_path / "m.safetensors", kind="centroid", baselines="none")["model"]


@pytest.mark.slow
def test_blocks_give_what_one_gives(tmp_path, monkeypatch):
    model = many_classes(tmp_path, monkeypatch)
    found = {}
    for block in (100, 10**6):
        monkeypatch.setattr(answers, "BLOCK", block)
        found[block] = predict(model, tmp_path / "data", probabilities=True)
        found[block].pop("seconds")
        for suffix in (".csv", ".jsonl", ".parquet"):
            predict(model, tmp_path / "data", tmp_path / f"{block}{suffix}", probabilities=True)
    one, other = found.values()
    for mine, its in zip(one.pop("predictions"), other.pop("predictions"), strict=True):
        assert mine == {key: pytest.approx(its[key]) if isinstance(its[key], float) else its[key] for key in its}
    assert one == other
    assert one["right"] == 80
    for suffix in (".csv", ".jsonl", ".parquet"):
        few, whole = rows_of(tmp_path / f"100{suffix}"), rows_of(tmp_path / f"1000000{suffix}")
        assert [row["file"] for row in few] == [row["file"] for row in whole]
        assert len(few) == 80
        assert list(few[0]) == list(whole[0])


def test_small_blocks_of_samples_give_the_same_file_to_the_byte(trained, photos, tmp_path, monkeypatch):
    _, _, probed = trained()
    new = photos(("ant", "cat"), 4, name="new", seed=1)
    (new / "ant" / "bad.jpg").write_bytes(b"no image")
    shutil.copy(new / "ant/0.jpg", new / "cat/twin.jpg")
    how = {"probabilities": True, "threshold": 0.5}
    whole = predict(probed["model"], new, tmp_path / "a.csv", copy_to=tmp_path / "sorted a", **how)
    once = streams.Once
    monkeypatch.setattr(streams, "Once", lambda rows, source: once(rows, source, 3))
    blocks = predict(probed["model"], new, tmp_path / "b.csv", copy_to=tmp_path / "sorted b", **how)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    places = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in tmp_path.glob("sorted *")]
    assert places[0] == places[1]
    for result in (whole, blocks):
        for own in ("seconds", "output"):
            result.pop(own)
        result["copied"].pop("folder")
    assert whole == blocks


def test_csv_has_six_decimals_and_the_other_formats_all(trained, tmp_path):
    data, _, probed = trained()
    exact = predict(probed["model"], data, probabilities=True)["predictions"]
    for suffix in (".csv", ".jsonl", ".parquet"):
        predict(probed["model"], data, tmp_path / f"p{suffix}", probabilities=True)
        for row, right in zip(rows_of(tmp_path / f"p{suffix}"), exact, strict=True):
            numbers = ("confidence", "p:ant", "p:bee", "p:cat")
            tolerance = 5.1e-7 if suffix == ".csv" else 0
            for name in numbers:
                assert float(row[name]) == pytest.approx(right[name], rel=0, abs=tolerance)
            assert suffix != ".csv" or all(len(row[name]) <= 8 for name in numbers)


@pytest.mark.slow
def test_memory_does_not_grow_with_images_times_classes(tmp_path, monkeypatch):
    classes = np.array([f"c{number}" for number in range(2000)], object)
    rows, scored = 3000, []

    def predict_proba(X):
        scored.append(len(X))
        return np.full((len(X), len(classes)), 1 / len(classes))

    many = SimpleNamespace(classes=classes, is_multi_label=False, predict_proba=predict_proba)
    samples = [manifests.Sample(str(number), str(number), None, None) for number in range(rows)]
    monkeypatch.setattr(answers, "BLOCK", 10**5)
    given, X, count = answers.Answers(many, True), np.zeros((rows, 1)), answers.Count()
    with open(tmp_path / "p.csv", "w", newline="") as file:
        tracemalloc.start()
        answers.answer(given, X, samples, [""] * rows, count, answers.csv_writer(file, given, safe=False))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert set(scored) == {50}
    assert peak < 3e7  # all of them would be 48 MB, and their texts several times that
    assert len(rows_of(tmp_path / "p.csv")) == rows


@pytest.mark.slow
def test_cells_that_are_formulas_are_made_safe_if_asked(photos, tmp_path):
    data = photos(("=1+1", "-5", "@x", "plain"), 3)
    store = extract(data, tmp_path / "s", backbone="pixels", workers=1)["store"]
    model = probe(store, tmp_path / "m.safetensors", kind="ridge", baselines="none")["model"]
    predict(model, data, tmp_path / "p.csv", safe_csv=True, probabilities=True)
    rows = rows_of(tmp_path / "p.csv")
    assert {row["true_label"] for row in rows} == {"'=1+1", "-5", "'@x", "plain"}
    assert {row["path"][:3] for row in rows} == {"'=1", "'-5", "'@x", "pla"}
    predict(model, data, tmp_path / "p.csv")
    assert {row["true_label"] for row in rows_of(tmp_path / "p.csv")} == {"=1+1", "-5", "@x", "plain"}
    export(store, tmp_path / "e.csv", safe_csv=True)
    assert {row["label"] for row in rows_of(tmp_path / "e.csv")} == {"'=1+1", "-5", "'@x", "plain"}
    assert {row["id"][:2] for row in rows_of(tmp_path / "e.csv")} == {"'=", "'-", "'@", "pl"}
    compare(store, tmp_path / "c.csv", kinds=["ridge", "centroid"], baselines="none", safe_csv=True)
    assert {row["label"] for row in rows_of(tmp_path / "c.csv")} == {"pixels"}
    for command in (lambda to: predict(model, data, to, safe_csv=True), lambda to: export(store, to, safe_csv=True)):
        with pytest.raises(OutputError, match=r"--safe-csv works only with CSV, and x\.parquet is not CSV"):
            command(tmp_path / "x.parquet")


# -- thresholds and sorted copies ---------------------------------------------------------------------------------


def test_below_the_threshold_the_label_is_empty_and_the_guess_is_told(trained, tmp_path):
    data, _, probed = trained(per_class=8)
    everything = predict(probed["model"], data)
    least = float(np.median([one["confidence"] for one in everything["predictions"]]))
    found = predict(probed["model"], data, threshold=least)
    assert "guess" not in everything["predictions"][0]
    for one, other in zip(found["predictions"], everything["predictions"], strict=True):
        assert one["guess"] == other["label"]
        assert one["label"] == (other["label"] if other["confidence"] >= least else None)
    abstained = sum(one["label"] is None for one in found["predictions"])
    assert 0 < abstained == found["abstention"]["abstained"]
    assert sum(found["labels"].values()) == found["predicted"] - abstained
    assert found["right"] == everything["right"]
    assert found["abstention"]["labelled"] == found["predicted"] - abstained
    assert f"no answer below a confidence of {100 * least:.1f} %: {abstained} of 24" in texts.predict_text(found)
    for suffix in (".csv", ".jsonl", ".parquet"):
        path = tmp_path / f"p{suffix}"
        predict(probed["model"], data, path, threshold=least)
        rows = rows_of(path)
        assert [row["label"] or None for row in rows] == [one["label"] for one in found["predictions"]]
        assert list(rows[0])[:4] == ["path", "label", "confidence", "guess"]
        predict(probed["model"], data, path, threshold=least)  # it is known as a table of predictions
    csv_table = tmp_path / "photos" / "p.csv"  # as a table of data, what has no answer has no label
    csv_table.write_bytes((tmp_path / "p.csv").read_bytes())
    read = manifests.read(csv_table)
    assert sum(sample.label is None for sample in read.samples) == abstained


def test_auto_takes_the_lowest_confidence_of_the_curve_in_the_file(trained, tmp_path):
    data, _, probed = trained(per_class=8)
    model = models.load(probed["model"])
    said = model.card.to_json()
    curve = [(0.9, 5, 5), (0.7, 10, 9), (0.4, 20, 18), (0.2, 24, 18)]
    said["selection"]["coverage"] = [dict(zip(("confidence", "kept", "right"), one, strict=True)) for one in curve]
    path = tmp_path / "curve.safetensors"
    models.save(path, dataclasses.replace(model, card=Card.from_json(said)))
    found = predict(path, data, threshold="auto", target_accuracy=0.9)["abstention"]
    assert (found["threshold"], found["target_accuracy"]) == (0.4, 0.9)
    assert found["validation"] == {
        "on": model.card.selection.on,
        "samples": 24,
        "coverage": 20 / 24,
        "accuracy": 0.9,
    }
    assert predict(path, data, threshold="auto")["abstention"]["threshold"] == 0.9
    del said["selection"]["coverage"]
    models.save(path, dataclasses.replace(model, card=Card.from_json(said)))
    with pytest.raises(ModelFileError, match=r"give a number such as --threshold 0\.9"):
        predict(path, data, threshold="auto")
    for bad, other in ((1.5, None), ("much", None), (float("nan"), None), (0.5, 0.9), (None, 0.9), ("auto", 0)):
        with pytest.raises(ProbeError, match=r"threshold|accuracy"):
            predict(path, data, threshold=bad, target_accuracy=other)


def test_where_no_confidence_is_accurate_enough_the_best_is_named(trained, tmp_path):
    data, _, probed = trained(per_class=8)
    model = models.load(probed["model"])
    said = model.card.to_json()
    said["selection"]["coverage"] = [
        {"confidence": 0.75, "kept": 4, "right": 3},
        {"confidence": 0, "kept": 0, "right": 0},
    ]
    models.save(tmp_path / "c.safetensors", dataclasses.replace(model, card=Card.from_json(said)))
    with pytest.raises(ModelFileError, match=r"the best is 0\.750 from 0\.75 on"):
        predict(tmp_path / "c.safetensors", data, threshold="auto")


def test_the_curve_in_the_file_ends_at_the_accuracy_on_the_selection_data(trained):
    _, _, probed = trained(per_class=8)
    selection = models.load(probed["model"]).card.selection
    (chosen,) = [one for one in selection.path if one.alpha == selection.chosen]
    last = selection.coverage[-1]
    assert last.right / last.kept == pytest.approx(chosen.top1)


def test_files_are_sorted_by_their_answers(trained, tmp_path):
    data, _, probed = trained(per_class=4)
    found = predict(probed["model"], data, tmp_path / "p.csv", copy_to=tmp_path / "sorted")
    assert found["copied"]["written"] == 12
    for row in rows_of(tmp_path / "p.csv"):
        name = row["path"].rpartition("/")[2]
        same = [one for one in (tmp_path / "sorted" / row["label"]).iterdir() if one.name.startswith(name[0])]
        assert any(one.read_bytes() == (data / row["path"]).read_bytes() for one in same)
    again = predict(probed["model"], data, threshold=1, copy_to=tmp_path / "sorted")
    assert again["copied"]["written"] == again["abstention"]["abstained"] == 12
    assert len(list((tmp_path / "sorted/_unsure").iterdir())) == 12
    assert "12 files copied" in texts.predict_text(again)


def test_sets_of_labels_have_neither_thresholds_nor_folders(trained, tmp_path):
    data, _, probed = trained(kind="logistic", multi_label=True)
    with pytest.raises(ModelFileError, match="gives sets of labels"):
        predict(probed["model"], data, threshold=0.5)
    with pytest.raises(ModelFileError, match="gives sets of labels"):
        predict(probed["model"], data, copy_to=tmp_path / "sorted")
