"""The stage finetune: from a store or a model file to a model file that carries its backbone."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from featurepipe import (
    FeatureExtractor,
    TransferClassifier,
    evaluate,
    extract,
    finetuning,
    matrices,
    models,
    predict,
    probe,
    probes,
)
from featurepipe.digests import sha256_file
from featurepipe.errors import (
    FeaturepipeError,
    FinetuningError,
    ManifestError,
    ModelFileError,
    OutOfMemory,
    OutputError,
    TrainingDiverged,
)
from featurepipe.finetuning import records, starts
from featurepipe.finetuning.objectives import Classes
from featurepipe.stages import Listener, finetune, promotions
from featurepipe.stores import Store
from featurepipe.vocabulary import EntryOptions

pytestmark = pytest.mark.slow

CLASSES = ("ant", "bee", "cat")
SPLITS = ("train", "val", "test")
QUICK = {"epochs": 2, "batch_size": 8, "lr": 3e-3, "augment": "none", "patience": 0, "device": "cpu", "workers": 1}
FIGURES = ("n", "top1", "log_loss", "per_class", "confusion", "classes")
SMALL = {"random_weights": True, "transform": {"input_size": (3, 32, 32)}, "precision": "fp32", "device": "cpu"}


class Early(Listener):
    """Fails where anything takes long."""

    def progress(self, label, total):
        pytest.fail(f"{label}: too late")


class Notes(Listener):
    """Hears notes, and may interrupt once so many images have been learned from."""

    def __init__(self, interrupt_at=None):
        self.notes, self.left = [], interrupt_at

    def note(self, text):
        self.notes.append(text)

    @contextmanager
    def progress(self, label, total):
        def advance(done):
            if self.left is not None and label.startswith("epoch"):
                self.left -= done
                if self.left <= 0:
                    self.left = None
                    raise KeyboardInterrupt

        yield advance


@pytest.fixture
def store(photos, tmp_path):
    """Factory of a store of small pictures under a small network."""

    def make(splits=SPLITS, classes=CLASSES, per_class=6, name="photos", backbone="test_vit", **options):
        data = photos(classes, per_class, splits, name=name, size=(32, 32), seed=3)
        shape = {"arguments": {"img_size": 32}} if backbone == "test_vit" else {}
        extract(data, tmp_path / f"{name}.store", backbone=backbone, workers=1, **{**SMALL, **shape, **options})
        return data, tmp_path / f"{name}.store"

    return make


PAYS = finetuning.pays


def tuned(path):
    """Where a store's tuned model goes unless another place is given."""
    return Store.open(path).choose().folder / "tuned.safetensors"


@pytest.fixture
def always(monkeypatch):
    """What was learned last is kept, so that tests do not hang on a figure."""
    monkeypatch.setattr(Classes, "better", lambda self, curve, best: True)
    monkeypatch.setattr(finetuning, "pays", lambda *_: True)


@pytest.fixture
def never(monkeypatch):
    monkeypatch.setattr(finetuning, "pays", lambda *_: False)


@pytest.fixture
def compared(monkeypatch):
    """What the probe and the tuned network are compared on: pairs of answers, right or wrong."""
    heard = []
    monkeypatch.setattr(finetuning, "pays", lambda *given: heard.append(given[:2]) or PAYS(*given))
    return heard


def curve(result):
    return [[row[key] for key in ("train_loss", "top1", "log_loss", "lr")] for row in result["finetuning"]["curve"]]


def assert_same_curve(found, wanted, tolerance=1e-6):
    found, wanted = np.array(curve(found), float), np.array(curve(wanted), float)
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def weights(path, without=("seen",)):
    return {name: value.tobytes() for name, value in load_file(path).items() if name not in without}


# -- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet"])
def test_a_promoted_probe_is_a_model_file_like_any_other(store, tmp_path, always, backbone):
    data, path = store(backbone=backbone)
    result = finetune(path, **QUICK)
    assert result["model"] == str(tuned(path))
    assert result["promoted"]
    json.dumps(result, allow_nan=False)
    told = result["finetuning"]
    assert [row["epoch"] for row in told["curve"]] == [0, 1, 2]
    assert (told["best_epoch"], told["stopped"], told["start"]) == (2, "after all epochs", "probe")
    assert told["tuned_parameters"] == told["parameters"]
    assert told["recipe"]["lr"] == 3e-3
    evaluated = evaluate(result["model"], data, device="cpu")
    assert evaluated["split"] == "test"
    assert {key: evaluated[key] for key in FIGURES if key != "log_loss"} == {
        key: result["test"][key] for key in FIGURES if key != "log_loss"
    }
    assert evaluated["log_loss"] == pytest.approx(result["test"]["log_loss"], abs=1e-5)
    assert result["top1"] == result["test"]["top1"]
    assert result["val"]["top1"] == told["curve"][2]["top1"]
    predicted = predict(result["model"], data / "test", tmp_path / "p.csv", device="cpu")
    assert predicted["predicted"] == 18


def test_its_backbone_is_the_tuned_one_with_a_fingerprint_of_its_own(store, always):
    data, path = store()
    result = finetune(path, **QUICK)
    loaded = models.load(result["model"])
    opened = models.open_backbone(loaded, result["model"], device="cpu")
    assert opened.fingerprint == result["fingerprint"] == loaded.backbone["fingerprint"]
    entry = extract(data, path, backbone=opened, workers=1)
    assert entry["fingerprint"] == result["fingerprint"]
    from featurepipe.stores import Store

    assert len({one.fingerprint for one in Store.open(path).entries()}) == 2
    probed = probe(path, backbone=opened, baselines="none")
    assert probed["test"]["n"] == 18


def test_seen_are_train_and_val_and_nothing_else(store, always):
    data, path = store()
    loaded = models.load(finetune(path, **QUICK)["model"])
    for split in SPLITS:
        digests = [sha256_file(file) for file in sorted((data / split).rglob("*.*"))]
        assert loaded.has_seen(digests).all() == (split != "test")
        assert loaded.has_seen(digests).any() == (split != "test")


def test_where_nothing_is_tuned_nothing_is_said_of_the_network_before_tuning(store, monkeypatch):
    _, path = store(per_class=8)
    gains = {option: {"low": 0.0, "mean": 0.0, "high": 0.0} for option in ("linear", "stage", "tune-last", "tune-all")}
    said = {"option": "linear", "tune": None, "layer": "penultimate", "expected_gain": gains, "reasons": ["It is."]}
    monkeypatch.setattr(promotions, "advise", lambda *_, **__: {**said, "more_labels": False})
    monkeypatch.setattr(records, "start_notes", lambda *_: ["the network now gives other embeddings"])
    result = finetune(path, **{**QUICK, "tune": "auto"})
    assert (result["promoted"], result["notes"]) == (False, [])


@pytest.mark.parametrize("kind", [None, "ridge", "svm", "lda"])
def test_where_tuning_does_not_pay_the_probe_itself_is_written(store, tmp_path, never, kind):
    data, path = store(per_class=8)
    probed = probe(path, tmp_path / "p.safetensors", kind=kind or "logistic", baselines="none")
    source = (path,) if kind is None else (probed["model"], path)
    result = finetune(*source, output=tmp_path / "m.safetensors", **QUICK)
    assert (result["promoted"], result["kind"], result["finetuning"]["best_epoch"]) == (False, kind or "logistic", 2)
    loaded, wanted = models.load(result["model"]), models.load(probed["model"])
    np.testing.assert_array_equal(loaded.estimator.coef_, wanted.estimator.coef_)
    np.testing.assert_array_equal(loaded.estimator.intercept_, wanted.estimator.intercept_)
    assert (loaded.kind, loaded.temperature) == (wanted.kind, wanted.temperature)
    assert loaded.backbone == wanted.backbone
    assert loaded.seen.tolist() == wanted.seen.tolist()
    assert {key: result["test"][key] for key in FIGURES} == {key: probed["test"][key] for key in FIGURES}
    again = evaluate(result["model"], data, device="cpu")
    assert {key: again[key] for key in FIGURES} == {key: probed["test"][key] for key in FIGURES}


@pytest.mark.parametrize("promoted", [False, True])
@pytest.mark.parametrize("head", ["probe", "random"])
def test_whatever_it_started_from_the_network_is_compared_with_the_probe_at_its_own_strength(
    photos, tmp_path, monkeypatch, head, promoted
):
    """On each validation image, from which neither has learned; the network by what its file predicts."""
    data = photos(CLASSES, 10, SPLITS, size=(32, 32), seed=3)
    for label in CLASSES:  # some images go to the other classes, so that the probe makes mistakes
        others = [one for one in CLASSES if one != label]
        for file, other in zip(sorted((data / "val" / label).glob("?.*")), 2 * others, strict=False):
            file.rename(data / "val" / other / f"{label}-{file.name}")
    path = extract(data, tmp_path / "moved.store", backbone="test_resnet", workers=1, **SMALL)["store"]
    answers = []
    monkeypatch.setattr(finetuning, "pays", lambda *given: answers.append(given[:2]) or promoted)
    result = finetune(path, head=head, refit=False, **{**QUICK, "lr": 2e-2})
    assert (result["promoted"], result["finetuning"]["best_epoch"]) == (promoted, 2)
    chosen = probe(path, tmp_path / "p.safetensors", baselines="none")["selection"]["chosen"]
    held = rows_of(path)
    alone = probes.fit("logistic", *held["train"][:2], value=chosen).estimator
    X, y, _ = held["val"]
    probe_right = alone.predict(X) == y
    ((told, network),) = answers
    assert told.tolist() == probe_right.tolist()
    if promoted:
        found = predict(result["model"], data / "val", device="cpu")["predictions"]
        predicted = {sha256_file(row["file"]): row["label"] for row in found}
        assert network.tolist() == [predicted[digest] == label for digest, label in zip(held["val"][2], y, strict=True)]
    validation = result["finetuning"]["validation"]
    assert validation["compared"] == validation["n"] == 30
    assert validation["probe"] == pytest.approx(probe_right.mean())
    assert validation["network_alone"] == np.sum(network & ~probe_right) > 0
    assert validation["probe_alone"] == np.sum(~network & probe_right) > 0
    assert validation["expected_gain"] == finetuning.expected_gain(probe_right, network)


def rows_of(path):
    """Split → embeddings, labels and digests of a store."""
    opened = Store.open(path)
    found = matrices.load(opened, opened.choose())
    return {split: (found.X[of], found.y[of], found.digests[of]) for split in SPLITS for of in [found.split == split]}


def test_images_that_cannot_be_read_any_more_are_not_compared(store, compared):
    data, path = store()
    _, y, digests = rows_of(path)["val"]
    lost = sorted((data / "val").rglob("*.*"))[::5]
    gone = {sha256_file(file) for file in lost}
    for file in lost:
        file.write_bytes(b"no image")
    heard = Notes()
    validation = finetune(path, listener=heard, **QUICK)["finetuning"]["validation"]
    assert (validation["n"], validation["compared"]) == (18, 18 - len(gone))
    ((probe_right, network),) = compared
    assert len(probe_right) == len(network) == 18 - len(gone)
    assert any(note.startswith(f"note: {len(gone)} images cannot be read any more") for note in heard.notes)
    whole = finetune(store(name="again")[1], **QUICK)  # the same images, all of them
    readable = [digest not in gone for digest in digests]
    assert compared[1][0][readable].tolist() == probe_right.tolist()
    assert whole["finetuning"]["validation"]["compared"] == len(y)


def test_where_nothing_was_tuned_nothing_was_compared(store, compared):
    _, path = store()
    result = finetune(path, listener=Notes(interrupt_at=1), **QUICK)
    assert (result["promoted"], result["finetuning"]["stopped"]) == (False, "interrupted")
    validation = result["finetuning"]["validation"]
    assert {validation[key] for key in ("compared", "network_alone", "probe_alone", "expected_gain")} == {None}
    assert compared == []


def test_with_patience_the_best_epoch_is_kept_and_without_the_last(store, tmp_path, monkeypatch):
    monkeypatch.setattr(Classes, "better", lambda self, curve, best: len(curve) == 2)  # epoch 1 is
    _, path = store()
    best, last = (
        finetune(path, output=tmp_path / f"{patience}.safetensors", **{**QUICK, "patience": patience})["finetuning"]
        for patience in (9, 0)
    )
    assert (best["best_epoch"], best["recipe"]["patience"]) == (1, 9)
    assert (last["best_epoch"], last["recipe"]["patience"]) == (2, 0)


def test_a_temperature_and_a_strength_go_with_the_tuned_head(store, tmp_path, always):
    _, path = store(per_class=8)
    ridge = probe(path, tmp_path / "r.safetensors", kind="ridge", value=100.0, baselines="none")
    result = finetune(ridge["model"], path, **QUICK)
    loaded = models.load(result["model"])
    assert (result["kind"], loaded.kind) == ("logistic", "logistic")
    assert loaded.card["selection"]["chosen"] == loaded.estimator.C == 1.0  # alpha is no C
    assert loaded.temperature == loaded.card["selection"]["temperature"] != ridge["selection"]["temperature"]
    assert str(tmp_path / "r-tuned.safetensors") == result["model"]


# -- what is validated on -----------------------------------------------------------------------------------------


def test_given_val_is_validated_on_and_step_0_is_the_probe_without_it(store, always):
    _, path = store()
    result = finetune(path, **QUICK)
    validation = result["finetuning"]["validation"]
    assert (validation["on"], validation["n"]) == ("val", 18)
    assert result["splits"] == {"train": 18, "val": 18, "test": 18}
    assert result["notes"] == []


@pytest.mark.parametrize(
    ("splits", "reported", "held", "learned"), [(("train", "test"), "test", 6, 30), (("train", "val"), "val", 6, 30)]
)
def test_without_both_a_fifth_of_train_is_held_back(store, always, splits, reported, held, learned):
    _, path = store(splits, per_class=12)
    result = finetune(path, **QUICK)
    assert result["evaluated_on"] == reported
    assert result["finetuning"]["validation"]["on"] == "a fifth of train, held back here, seed 0"
    assert result["finetuning"]["validation"]["n"] == held
    assert result[reported]["n"] == 36
    assert held + learned == 36
    assert result["top1"] == result[reported]["top1"]


def test_what_is_held_back_is_a_fifth_of_each_class_by_content(store):
    from featurepipe.models.candidates import divide, find

    _, path = store(("train", "test"), per_class=10)
    parts = divide(find(path, None, EntryOptions(device="cpu")), seed=0).parts
    held = {}
    for seed in (0, 0, 1):
        train, out, _ = starts._hold_out(parts, seed)
        assert sorted(out.y) == sorted(CLASSES * 2)
        assert sorted([*train.ids, *out.ids]) == sorted(parts.train.ids)
        assert held.setdefault(seed, out.ids.tolist()) == out.ids.tolist()
    assert held[0] != held[1]


def test_without_splits_all_of_it_is_made_here(store, always):
    data, path = store((), per_class=15)
    result = finetune(path, seed=4, **QUICK)
    assert "made here" in result["split_source"]
    assert result["splits"] == {"train": 27, "val": 9, "test": 9}
    assert evaluate(result["model"], data, device="cpu")["top1"] == result["test"]["top1"]


def test_what_is_reported_decides_nothing(store, tmp_path, compared):
    one = finetune(store()[1], output=tmp_path / "one.safetensors", **QUICK)
    data = tmp_path / "photos"
    for number, label in enumerate(CLASSES):  # other images, under other labels
        shutil.rmtree(data / "test" / label)
        (data / "test" / label).mkdir()
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(data / "test" / label / "x.png")
    shape = {"arguments": {"img_size": 32}}
    extract(data, tmp_path / "other.store", backbone="test_vit", workers=1, **SMALL, **shape)
    two = finetune(tmp_path / "other.store", output=tmp_path / "two.safetensors", **QUICK)
    assert (one["test"]["n"], two["test"]["n"]) == (18, 3)
    assert curve(one) == curve(two)
    assert weights(one["model"]) == weights(two["model"])
    assert one["promoted"] == two["promoted"]
    assert one["finetuning"]["validation"] == two["finetuning"]["validation"]
    assert [[len(right) for right in pair] for pair in compared] == [[18, 18]] * 2
    np.testing.assert_array_equal(*compared)


# -- from a model file --------------------------------------------------------------------------------------------


def test_a_model_that_has_not_seen_the_validation_images_starts_from_its_own_head(store, photos, tmp_path, always):
    _, path = store()
    probed = probe(path, tmp_path / "m.safetensors", baselines="none", include_backbone=True)
    new = photos(CLASSES, 6, SPLITS, name="new", size=(32, 32), seed=8)
    result = finetune(probed["model"], new, tmp_path / "t.safetensors", **QUICK)
    assert result["notes"] == []
    wanted = evaluate(probed["model"], new, split="val", device="cpu")
    first = result["finetuning"]["curve"][0]
    assert first["top1"] == wanted["top1"]
    seen = models.load(result["model"]).seen.tolist()
    assert set(models.load(probed["model"]).seen.tolist()) < set(seen)
    assert len(seen) == 36 + 36


def test_a_model_that_has_seen_them_starts_from_its_probe_fitted_without_them(store, tmp_path, always):
    data, path = store()
    probed = probe(path, tmp_path / "m.safetensors", baselines="none", kind="ridge")
    result = finetune(probed["model"], data, **QUICK)
    assert result["notes"] == []
    from_store = finetune(path, output=tmp_path / "s.safetensors", **QUICK)
    assert result["finetuning"]["probe"]["top1"] == probed["test"]["top1"]
    assert result["finetuning"]["curve"][0]["n"] == from_store["finetuning"]["curve"][0]["n"] == 18


def test_a_run_that_was_begun_with_a_cache_is_not_begun_anew_without(store, tmp_path, always):
    _, path = store()
    heard, output = Notes(), tmp_path / "t.safetensors"
    busy = Store.create(path / promotions.ACTIVATIONS)
    with busy.lock():
        told = finetune(path, output=output, tune="last-1", listener=heard, **QUICK)
    assert not told["finetuning"]["cached_bottom"]
    assert any(str(busy.path) in note and note.endswith("; trained without a cache") for note in heard.notes)
    begun = output.with_suffix(".tuning") / "checkpoint.pt"
    begun.parent.mkdir(exist_ok=True)
    begun.write_bytes(b"of an earlier run")
    with busy.lock(), pytest.raises(FinetuningError, match=r"; try again later, or start again .*--cache off"):
        finetune(path, output=output, tune="last-1", **QUICK)
    assert begun.read_bytes() == b"of an earlier run"


def test_baselines_of_the_same_images_are_taken_over_from_the_model(store, photos, tmp_path, always):
    _, path = store()
    probed = probe(path, tmp_path / "m.safetensors", baselines="full")
    result = finetune(probed["model"], path, **QUICK)
    assert result["baselines"] == probed["baselines"]
    assert result["baselines"]["pixels"] is not None
    other = photos(CLASSES, 6, SPLITS, name="new", size=(32, 32), seed=8)
    result = finetune(probed["model"], other, tmp_path / "t.safetensors", **QUICK)
    assert (result["baselines"]["pixels"], result["baselines"]["random_backbone"]) == (None, None)


def test_the_card_says_what_the_defaults_came_to(store, always):
    _, path = store()
    recipe = finetune(path, **QUICK)["finetuning"]["recipe"]
    assert all(recipe[name] is not None for name in ("epochs", "patience", "lr", "weight_decay"))


def test_a_model_that_has_seen_what_is_reported_says_so(store, tmp_path, always):
    _, path = store((), per_class=10)
    probed = probe(path, tmp_path / "m.safetensors", baselines="none", seed=0)
    result = finetune(probed["model"], path, seed=1, **QUICK)
    flattering = [note for note in result["notes"] if "these figures are optimistic" in note]
    assert len(flattering) == 1
    assert "the model has seen " in flattering[0]


def test_a_probe_that_is_fitted_again_has_the_class_weights_of_its_model(store, tmp_path, monkeypatch, always):
    _, path = store(per_class=8)
    probed = probe(path, tmp_path / "m.safetensors", baselines="none", class_weight="balanced")
    fit, given = probes.fit, []
    monkeypatch.setattr(
        probes, "fit", lambda *a, **options: given.append(options["class_weight"]) or fit(*a, **options)
    )
    assert finetune(probed["model"], path, **QUICK)["class_weight"] is None  # of the recipe
    assert set(given) == {"balanced"}


@pytest.mark.parametrize("pays", [True, False])
def test_classes_that_the_model_does_not_know_are_learned(store, photos, tmp_path, monkeypatch, pays):
    monkeypatch.setattr(finetuning, "pays", lambda *_: pays)
    _, path = store()
    probed = probe(path, tmp_path / "m.safetensors", baselines="none")
    more = photos((*CLASSES, "dog"), 6, SPLITS, name="more", size=(32, 32), seed=8)
    result = finetune(probed["model"], more, tmp_path / "t.safetensors", **QUICK)
    loaded = models.load(result["model"])
    assert loaded.classes.tolist() == [*CLASSES, "dog"]
    evaluated = evaluate(result["model"], more, device="cpu")
    assert evaluated["top1"] == result["test"]["top1"]
    told = result["finetuning"]
    assert told["probe"]["n"] == 24
    assert told["probe"]["top1"] <= 0.75  # it never says dog
    if not pays:
        assert evaluated["top1"] == told["probe"]["top1"]


def test_a_notebooks_model_whose_classes_are_numbers_is_promoted(photos, tmp_path, never):
    data = photos(("2", "10", "30"), 6, SPLITS, name="numbers", size=(32, 32))
    files = sorted((data / "train").rglob("*.*"))
    small = {"image_transform": {"input_size": (3, 32, 32)}, "device": "cpu"}
    classifier = TransferClassifier(FeatureExtractor("test_resnet", random_weights=True, **small))
    classifier.fit(files, [int(file.parent.name) for file in files]).save(tmp_path / "n.safetensors")
    result = finetune(tmp_path / "n.safetensors", data, tmp_path / "t.safetensors", **QUICK)
    assert models.load(result["model"]).classes.tolist() == ["10", "2", "30"]
    assert evaluate(result["model"], data, device="cpu")["top1"] == result["test"]["top1"]
    wanted = evaluate(tmp_path / "n.safetensors", data, split="val", device="cpu")
    assert result["finetuning"]["curve"][0]["top1"] == wanted["top1"]


def test_a_tuned_model_is_promoted_once_more(store, tmp_path, always):
    data, path = store()
    first = finetune(path, **QUICK)
    second = finetune(first["model"], data, tmp_path / "again.safetensors", **QUICK)
    assert second["promoted"]
    assert len({first["fingerprint"], second["fingerprint"]}) == 2
    assert evaluate(second["model"], data, device="cpu")["top1"] == second["test"]["top1"]


# -- what cannot be tuned -----------------------------------------------------------------------------------------


@pytest.fixture
def no_embedding(monkeypatch):
    """Whatever is expensive fails."""

    def refuse(*_, **__):
        raise AssertionError("too late")

    from featurepipe import finetuning, stages

    monkeypatch.setattr(stages.promotions, "extract", refuse)
    monkeypatch.setattr(finetuning, "promote", refuse)


def assert_one_line(caught, *says):
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, FeaturepipeError)
    for one in says:
        assert one in str(caught.value)


@pytest.mark.parametrize("kind", ["knn", "mlp", "centroid", "multi-label"])
def test_a_model_without_a_linear_head_is_refused(store, tmp_path, no_embedding, kind):
    data, path = store()
    options = {"multi_label": True} if kind == "multi-label" else {"kind": kind}
    probed = probe(path, tmp_path / "m.safetensors", baselines="none", **options)
    with pytest.raises(FinetuningError) as caught:
        finetune(probed["model"], data, **QUICK)
    assert_one_line(caught, f"is a model of kind {kind}", "promote one of logistic, ridge, svm, lda")


def test_descriptors_are_no_networks(photos, tmp_path, no_embedding):
    store = extract(photos(CLASSES, 4), tmp_path / "p.store", backbone="pixels", workers=1)["store"]
    with pytest.raises(FinetuningError) as caught:
        finetune(store, **QUICK)
    assert_one_line(caught, "pixels is not a network that can be tuned")


def test_an_earlier_stage_is_no_start(store, no_embedding):
    _, path = store(backbone="test_resnet", layer="stage3")
    with pytest.raises(FinetuningError) as caught:
        finetune(path, **QUICK)
    assert_one_line(caught, "not from stage3; leave out the layer")


def test_one_class_and_no_labels_are_refused_before_anything_is_embedded(store, photos, tmp_path, no_embedding):
    _, path = store()
    probed = probe(path, tmp_path / "m.safetensors", baselines="none")
    for classes, says in ((("ant",), "only one class ('ant')"), ((), "no sample has a label")):
        folder = photos(classes or ("x",), 4, name=f"few{len(classes)}")
        with pytest.raises(ManifestError) as caught:
            finetune(probed["model"], folder if classes else folder / "x", **QUICK)
        assert_one_line(caught, says)


@pytest.mark.parametrize("as_store", [True, False])
def test_a_class_of_the_model_that_the_data_lack_is_named(store, photos, tmp_path, as_store):
    _, path = store()
    probed = probe(path, tmp_path / "m.safetensors", baselines="none")
    if as_store:
        data = store(classes=("ant", "cat"), name="fewer")[1]
    else:
        data = photos(("ant", "cat"), 4, name="fewer")
    with pytest.raises(FinetuningError) as caught:
        finetune(probed["model"], data, listener=Early(), **QUICK)
    assert_one_line(caught, "no image shows 'bee', which the model knows and tuning would unlearn; add some")


def test_a_model_file_without_data_is_refused(store, tmp_path, no_embedding):
    probed = probe(store()[1], tmp_path / "m.safetensors", baselines="none")
    with pytest.raises(FinetuningError) as caught:
        finetune(probed["model"], **QUICK)
    assert_one_line(caught, "holds no images; give the folder, table or store that it is to learn from")


@pytest.mark.parametrize("splits", [(), ("train", "test")])
def test_single_images_cannot_be_held_back(store, splits):
    _, path = store(splits, per_class=1)
    with pytest.raises(FeaturepipeError) as caught:
        finetune(path, listener=Early(), **QUICK)
    assert_one_line(caught, "classes are too small" if not splits else "every class has only one training image")


def test_a_class_in_val_alone_is_named(store, tmp_path, no_embedding):
    data, path = store()
    shutil.copytree(data / "val" / "ant", data / "val" / "emu")
    for file in (data / "val" / "emu").iterdir():
        Image.fromarray(np.asarray(Image.open(file)) // 2).save(file)
    shape = {"arguments": {"img_size": 32}}
    extract(data, path, backbone="test_vit", workers=1, **SMALL, **shape)
    with pytest.raises(ManifestError) as caught:
        finetune(path, **QUICK)
    assert_one_line(caught, "class 'emu' occurs in val only")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"epochs": 0}, FinetuningError, "epochs is 0"),
        ({"cache": "maybe"}, FinetuningError, "cache 'maybe' is unknown"),
        ({"output": "model.pt"}, ModelFileError, "ends in .safetensors"),
        ({"tune": "stage9+"}, FinetuningError, "has no stage9; use stage1+ to stage6+"),
        ({"backbone": "resnet50"}, FeaturepipeError, "resnet50"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(store, options, error, says):
    _, path = store()
    with pytest.raises(error) as caught:
        finetune(path, **{**QUICK, **options})
    assert_one_line(caught, says)
    assert not tuned(path).exists()


def test_a_parameter_that_there_is_not_is_a_type_error(store):
    with pytest.raises(TypeError, match="has no parameter 'learning_rate'"):
        finetune(store()[1], learning_rate=1, **QUICK)


def test_a_source_that_there_is_not(tmp_path):
    with pytest.raises(FinetuningError, match="is neither a store nor a model file"):
        finetune(tmp_path / "nothing.safetensors", **QUICK)


def test_images_that_have_moved_are_said_to_be_gone(store):
    data, path = store()
    data.rename(data.with_name("elsewhere"))
    with pytest.raises(FinetuningError) as caught:
        finetune(path, **QUICK)
    assert_one_line(caught, "no validation image can be read any more", "restore the files")


# -- what goes wrong, and going on --------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_writes_the_best_and_then_says_so(store):
    data, path = store()
    with pytest.raises(TrainingDiverged) as caught:
        finetune(path, **{**QUICK, "lr": 1e10, "warmup": 0.0})
    model = tuned(path)
    assert_one_line(caught, "is not finite in epoch 1", f"{model} holds the best epoch so far")
    card = models.load(model).card
    assert (card["finetuning"]["promoted"], card["finetuning"]["stopped"]) == (False, "failed")
    assert evaluate(model, data, device="cpu")["top1"] == card["test"]["top1"]


def test_no_memory_writes_the_best_and_then_says_so(store, monkeypatch, always):
    _, path = store()
    from featurepipe.finetuning import Network

    logits, calls = Network.logits, []

    def failing(self, inputs):
        calls.append(1)
        if len(calls) > 3:  # all of the first epoch
            raise RuntimeError("CUDA out of memory")
        return logits(self, inputs)

    monkeypatch.setattr(Network, "logits", failing)
    with pytest.raises(OutOfMemory) as caught:
        finetune(path, **QUICK)
    assert_one_line(caught, "out of memory with a single image in training", "holds the best epoch so far")
    card = models.load(tuned(path)).card
    assert (card["finetuning"]["best_epoch"], card["finetuning"]["promoted"]) == (1, True)


def test_interrupted_it_keeps_the_best_and_the_same_call_goes_on(store, tmp_path, always):
    _, path = store()
    options = {**QUICK, "epochs": 3, "ema": 0.9, "augment": "standard"}
    whole = finetune(path, output=tmp_path / "whole.safetensors", **options)
    output = tmp_path / "m.safetensors"
    first = finetune(path, output=output, listener=Notes(interrupt_at=20), **options)
    assert first["finetuning"]["stopped"] == "interrupted"
    assert (first["finetuning"]["best_epoch"], first["promoted"]) == (1, True)
    assert models.load(output).card["finetuning"]["stopped"] == "interrupted"
    assert curve(first) == curve(whole)[:2]
    assert (tmp_path / "m.tuning" / "checkpoint.pt").exists()
    heard = Notes()
    second = finetune(path, output=output, listener=heard, **options)
    assert any(note.startswith("continuing from") for note in heard.notes)
    assert_same_curve(second, whole)
    assert weights(output) == weights(tmp_path / "whole.safetensors")
    assert not (tmp_path / "m.tuning").exists()


SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from featurepipe.finetuning import loop
from featurepipe.stages import Listener, finetune

class Loud(Listener):
    def note(self, text):
        print(text, flush=True)

if __name__ == "__main__":
    store, output, options = sys.argv[1:]
    loop.CHECKPOINT_SECONDS = 0
    step = loop._Tuning._step
    def loud(self, *arguments):
        step(self, *arguments)
        print("step", flush=True)
    loop._Tuning._step = loud
    result = finetune(store, output=output, listener=Loud(), **eval(options))
"""


@pytest.mark.processes
def test_killed_in_the_middle_of_an_epoch_it_goes_on_along_the_same_curve(store, tmp_path):
    _, path = store()
    options = {**QUICK, "epochs": 3, "ema": 0.9, "head_epochs": 1, "augment": "standard", "mixup": 0.3}
    script, output = tmp_path / "script.py", tmp_path / "m.safetensors"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(path), str(output), repr(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        steps = 0
        for line in process.stdout:
            steps += line == "step\n"
            if steps == 5:  # of three an epoch
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    heard = Notes()
    result = finetune(path, output=output, listener=heard, **options)
    assert any(note.startswith("continuing from") for note in heard.notes)
    assert_same_curve(result, finetune(path, output=tmp_path / "whole.safetensors", **options))


def test_a_broken_checkpoint_is_set_aside_with_one_line(store):
    _, path = store()
    listener = Notes()
    checkpoint = tuned(path).with_suffix(".tuning") / "checkpoint.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"half of one")
    finetune(path, **QUICK, listener=listener)
    line = f"note: {checkpoint} is damaged and was renamed to checkpoint.pt.damaged; tuning starts again"
    assert listener.notes.count(line) == 1
    assert not checkpoint.parent.exists()  # the run has succeeded


# -- once more, on all images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("splits", "images"), [(SPLITS, 36), (("train", "test"), 18)])
def test_a_network_that_is_kept_learns_from_the_held_back_images_too(store, tmp_path, always, splits, images):
    data, path = store(splits)
    judged = finetune(path, output=tmp_path / "judged.safetensors", refit=False, **QUICK)
    result = finetune(path, output=tmp_path / "m.safetensors", **QUICK)
    told = result["finetuning"]
    assert judged["finetuning"]["refit"] is None
    assert (told["refit"]["images"], told["refit"]["epochs"]) == (images, told["best_epoch"]) == (images, 2)
    assert told["refit"]["stopped"] == "after all epochs"
    assert curve(result) == curve(judged)  # and all that was judged is that of the network before
    assert told["validation"] == judged["finetuning"]["validation"]
    assert result["selection"]["temperature"] == judged["selection"]["temperature"]
    assert weights(result["model"]) != weights(judged["model"])
    assert evaluate(result["model"], data, device="cpu")["top1"] == result["test"]["top1"] == told["network"]["top1"]
    assert not (tmp_path / "m.tuning").exists()


def test_a_network_that_is_not_kept_is_not_trained_once_more(store, never):
    assert finetune(store()[1], **QUICK)["finetuning"]["refit"] is None


def test_interrupted_on_all_images_the_network_before_is_kept_and_the_same_call_goes_on(store, tmp_path, always):
    _, path = store()
    judged = finetune(path, output=tmp_path / "judged.safetensors", refit=False, **QUICK)
    whole = finetune(path, output=tmp_path / "whole.safetensors", **QUICK)
    output = tmp_path / "m.safetensors"
    first = finetune(path, output=output, listener=Notes(interrupt_at=36 + 40), **QUICK)
    assert first["finetuning"]["refit"]["stopped"] == "interrupted"
    assert weights(output) == weights(judged["model"])
    second = finetune(path, output=output, **QUICK)
    assert second["finetuning"]["refit"]["stopped"] == "after all epochs"
    assert weights(output) == weights(whole["model"])
    assert not (tmp_path / "m.tuning").exists()


# -- from scratch -------------------------------------------------------------------------------------------------


def test_the_same_network_from_scratch_stands_beside(store, always):
    _, path = store()
    result = finetune(path, from_scratch=True, tune="last-1", l2_sp=0.1, **{**QUICK, "lr": 1e-3})
    scratch = result["finetuning"]["scratch"]
    assert [row["epoch"] for row in scratch["curve"]] == [0, 1, 2]
    assert [row["lr"] for row in scratch["curve"][1:]] == [row[3] for row in curve(result)[1:]]
    assert scratch["stopped"] == "after all epochs"
    assert 0 <= scratch["top1"] <= 1
    assert scratch["curve"][0]["log_loss"] != result["finetuning"]["curve"][0]["log_loss"]
    assert not tuned(path).with_suffix(".tuning").exists()


def test_interrupted_from_scratch_it_goes_on_there(store, tmp_path, always):
    _, path = store()
    whole = finetune(path, output=tmp_path / "whole.safetensors", from_scratch=True, **QUICK)
    output = tmp_path / "m.safetensors"
    first = finetune(path, output=output, from_scratch=True, listener=Notes(interrupt_at=36 + 72 + 20), **QUICK)
    assert first["finetuning"]["stopped"] == first["finetuning"]["refit"]["stopped"] == "after all epochs"
    assert first["finetuning"]["scratch"]["stopped"] == "interrupted"
    left = {file.name for file in (tmp_path / "m.tuning").iterdir()}
    assert left == {"checkpoint.pt", "refit.pt", "scratch.pt"}
    heard = Notes()
    second = finetune(path, output=output, from_scratch=True, listener=heard, **QUICK)
    assert len([note for note in heard.notes if note.startswith("continuing from")]) == 2  # the refit is quiet
    for one, other in zip(
        second["finetuning"]["scratch"]["curve"], whole["finetuning"]["scratch"]["curve"], strict=True
    ):
        assert one["log_loss"] == other["log_loss"]
    assert not (tmp_path / "m.tuning").exists()


def test_from_scratch_may_diverge_and_the_tuned_network_stands(store, monkeypatch, always):
    promote = finetuning.promote

    def hot(*given, **options):
        *given, recipe = given
        return promote(*given, replace(recipe, lr=1e13) if recipe.head == "random" else recipe, **options)

    monkeypatch.setattr(finetuning, "promote", hot)
    _, path = store()
    heard = Notes()
    result = finetune(path, from_scratch=True, listener=heard, **QUICK)
    assert result["finetuning"]["scratch"]["stopped"] == "failed"
    assert result["promoted"]
    assert any(note.startswith("from scratch: ") and "not finite" in note for note in heard.notes)


# -- several processes --------------------------------------------------------------------------------------------

SHARED = """
import json, os, sys
import torch
torch.set_num_threads(1)
from featurepipe.stages import finetune

if __name__ == "__main__":
    store, output, told, options = sys.argv[1:]
    rank = os.environ["RANK"]
    result = finetune(store, output=f"{output}-{rank}.safetensors", **eval(options))
    with open(f"{told}-{rank}.json", "w") as file:
        json.dump(result, file)
    assert not torch.distributed.is_initialized()
"""


@pytest.mark.processes
def test_two_processes_learn_what_one_does(store, tmp_path):
    _, path = store(per_class=7)
    tricks = {"augment": "standard", "ema": 0.9, "class_weight": "balanced", "from_scratch": True}
    options = {**QUICK, "batch_size": 4, "epochs": 1, **tricks}  # of 21 images the last batch is a single one
    script = tmp_path / "script.py"
    script.write_text(SHARED)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    arguments = [str(script), str(path), str(tmp_path / "m"), str(tmp_path / "told"), repr(options)]
    run = subprocess.run([sys.executable, *launch, *arguments], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"told-{rank}.json").read_text()) for rank in (0, 1))
    assert second == {}
    assert not (tmp_path / "m-1.safetensors").exists()
    alone = finetune(path, output=tmp_path / "alone.safetensors", **options)
    assert_same_curve(first, alone, tolerance=2e-3)
    assert first["finetuning"]["best_epoch"] == alone["finetuning"]["best_epoch"]
    found, wanted = load_file(tmp_path / "m-0.safetensors"), load_file(tmp_path / "alone.safetensors")
    assert found.keys() == wanted.keys()
    scratch = [one["finetuning"]["scratch"]["curve"] for one in (first, alone)]
    for one, other in zip(*scratch, strict=True):
        assert one["log_loss"] == pytest.approx(other["log_loss"], rel=1e-2)


INTERRUPTED_SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
import torch
torch.set_num_threads(1)
from featurepipe.cli import main
from featurepipe.finetuning import loop
loop.better = lambda curve, best: True
if os.environ["RANK"] == "0":
    save = loop._Tuning._save
    loop._Tuning._save = lambda *given: (save(*given), print("epoch", flush=True))
main()
"""


@contextmanager
def two(command):
    """Two processes of one group, as torchrun starts them, which however kills what takes longer than 30 s to end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    started = []
    try:
        for rank in "01":
            environment = {**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank}
            output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
            started.append(subprocess.Popen([sys.executable, *command], **output))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.mark.processes
def test_two_processes_that_are_interrupted_leave_together_and_the_first_writes_the_best(store, tmp_path):
    _, path = store(per_class=2)
    script, output = tmp_path / "script.py", tmp_path / "m.safetensors"
    script.write_text(INTERRUPTED_SCRIPT)
    recipe = ["--epochs", "100000", "--patience", "0", "--augment", "none", "--batch-size", "4", "--device", "cpu"]
    with two([str(script), "finetune", str(path), "-o", str(output), *recipe]) as processes:
        first, second = processes
        heard = []
        for line in first.stdout:
            heard.append(line)
            if line == "epoch\n":
                break
        assert heard[-1] == "epoch\n", heard
        second.send_signal(signal.SIGINT)
        first.send_signal(signal.SIGINT)
        told = [process.communicate(timeout=300)[0] for process in processes]
        assert [process.returncode for process in processes] == [130, 130], [*heard, *told]
    assert "interrupted; the file holds the best epoch so far" in told[0]
    assert "Traceback" not in told[0] + told[1]
    card = models.load(output).card["finetuning"]
    assert card["stopped"] == "interrupted"
    assert card["best_epoch"] == len(card["curve"]) - 1 >= 1


def test_what_was_tuned_is_written_before_training_from_scratch_can_fail(store, monkeypatch, always):
    from featurepipe.stages import promotions

    _, path = store()
    monkeypatch.setattr(promotions, "_from_scratch", lambda *_: (_ for _ in ()).throw(ValueError("no batch")))
    with pytest.raises(ValueError, match="no batch"):
        finetune(path, from_scratch=True, **QUICK)
    assert models.load(tuned(path)).card["finetuning"]["promoted"]


# -- whose the files are --------------------------------------------------------------------------------------------


def test_a_store_goes_on_to_describe_its_own_images_when_others_are_learned_from(store, photos, tmp_path, always):
    data, path = store()
    other = photos(CLASSES, 6, SPLITS, name="other", size=(32, 32), seed=9)
    result = finetune(path, other, tmp_path / "t.safetensors", **QUICK)
    assert Store.open(path).root == data.resolve()
    assert result["data"]["root"] == str(other.resolve())
    assert (tmp_path / "t.tuning" / "store").is_dir()


def test_what_is_tuned_from_is_not_overwritten(store, tmp_path, always):
    data, path = store()
    model = probe(path, tmp_path / "m.safetensors", baselines="none", include_backbone=True)["model"]
    with pytest.raises(OutputError, match="is an input of this command, and the model file would replace it"):
        finetune(model, path, model, **QUICK)
    first = finetune(path, output=tmp_path / "first.safetensors", **QUICK)["model"]
    extract(data, tmp_path / "again.store", backbone=first, workers=1)
    with pytest.raises(OutputError, match="is an input of this command, and the model file would replace it"):
        finetune(tmp_path / "again.store", output=first, **QUICK)


def test_what_a_backbone_was_tuned_on_is_seen_by_all_that_is_made_with_it(store, photos, tmp_path, always):
    _, path = store()
    first = finetune(path, output=tmp_path / "first.safetensors", **QUICK)["model"]
    other = photos(CLASSES, 6, SPLITS, name="other", size=(32, 32), seed=9)
    extract(other, tmp_path / "other.store", backbone=first, workers=1)
    probed = probe(tmp_path / "other.store", tmp_path / "p.safetensors", baselines="none")["model"]
    second = finetune(tmp_path / "other.store", output=tmp_path / "second.safetensors", **QUICK)["model"]
    before = set(models.load(first).seen.tolist())
    assert before < set(models.load(probed).seen.tolist())
    assert before < set(models.load(second).seen.tolist())


def test_copies_of_training_images_do_not_validate(store, photos, tmp_path, always):
    data = photos(CLASSES, 6, SPLITS, name="photos", size=(32, 32), seed=3)
    copied = sorted((data / "train" / CLASSES[0]).iterdir())[0]
    shutil.copy(copied, data / "val" / CLASSES[0] / f"copy{copied.suffix}")
    extract(data, tmp_path / "c.store", backbone="test_resnet", workers=1, **SMALL)
    result = finetune(tmp_path / "c.store", **QUICK)
    assert result["splits"]["val"] == 19
    assert result["finetuning"]["validation"]["n"] == 18


def test_a_folder_without_a_store_says_how_to_make_one(tmp_path):
    with pytest.raises(FinetuningError, match="is neither a store nor a model file"):
        finetune(tmp_path)


def test_a_cache_that_cannot_be_written_is_done_without(store, monkeypatch, always):
    _, path = store()
    monkeypatch.setattr(finetuning, "make_cache", lambda *_, **__: (_ for _ in ()).throw(PermissionError("read-only")))
    result = finetune(path, **{**QUICK, "tune": "last-1"})
    assert result["finetuning"]["cached_bottom"] is False
    with pytest.raises(PermissionError):
        finetune(path, cache="on", **{**QUICK, "tune": "last-1"})


def test_activations_of_an_interrupted_run_stay_until_it_has_come_to_its_end(store, tmp_path, monkeypatch, always):
    _, path = store()

    def run(name, tune, **options):
        heard = Notes(options.pop("interrupt_at", None))
        output = tmp_path / f"{name}.safetensors"
        finetune(path, output=output, cache="on", listener=heard, **{**QUICK, "tune": tune})
        removed = [note for note in heard.notes if note.startswith("activations that no run uses")]
        return {one.name for one in (path / "activations").iterdir() if one.is_dir()}, removed

    first, _ = run("one", "last-1", interrupt_at=20)
    both, removed = run("two", "last-2")
    assert first < both
    assert removed == []
    with monkeypatch.context() as patch:
        patch.setattr(
            "featurepipe.finetuning.cached.activations.Bottom.embed", lambda *_: pytest.fail("computed again")
        )
        left, removed = run("one", "last-1")  # goes on, and what nobody uses goes at its start
    assert left == first
    assert len(removed) == 1
    assert run("two", "last-2")[0] == both - first


@pytest.mark.parametrize(("most", "left"), [(30_000, False), (None, True)])
def test_a_disk_that_is_full_ends_it_in_one_line_that_says_what_is_kept(
    store, tmp_path, limited_file_size, monkeypatch, most, left
):
    _, path = store()
    listener, output = Notes(), tmp_path / "out" / "m.safetensors"
    if left:  # there is room for checkpoints, but not for the model file
        monkeypatch.setattr(models, "save", refused)
    with limited_file_size(most) if most else nullcontext(), pytest.raises(OutputError) as caught:
        finetune(path, output=output, **QUICK, listener=listener)
    said = str(caught.value)
    assert said.startswith(f"{output} cannot be written: ")
    assert "make room or give another place with -o" in said
    checkpoint = tmp_path / "out" / "m.tuning" / "checkpoint.pt"
    assert checkpoint.is_file() == left
    assert (f"{checkpoint} keeps the training; run the same command again" in said) == left
    assert ("no checkpoint could be kept either" in said) != left
    told = [note for note in listener.notes if note.startswith("note: training continues without a checkpoint: ")]
    assert bool(told) != left
    assert all(str(checkpoint) in note and note.count(";") == 0 for note in told)
    assert not output.exists()


def refused(path, *_, **__):
    raise OutputError(f"{path} cannot be written: the disk is full (0 bytes left in it); make room")


def test_a_store_that_gets_another_manifest_meanwhile_costs_no_tuning(store, always):
    data, path = store()
    few = data / "few.csv"
    images = sorted(file for file in data.rglob("*") if file.suffix in (".png", ".jpg"))[:4]
    few.write_text("\n".join(["path,label", *(f"{file.relative_to(data).as_posix()},x" for file in images)]))
    heard = []

    class Busy(Listener):
        def note(self, text):
            if text.startswith("before tuning") and not heard:
                heard.append(extract(few, path, backbone="pixels", workers=1, force=True)["samples"])

    result = finetune(path, tune="last-1", listener=Busy(), **QUICK)
    assert heard == [4]
    assert models.load(result["model"]).kind == "logistic"
