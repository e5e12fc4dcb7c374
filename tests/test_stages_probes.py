"""The stage probe: splits, selection, baselines and what it writes down."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from doubles import VECTOR_KINDS
from safetensors.torch import save_file

from featurepipe import backbones, compare, evaluate, extract, matrices, models, probe, probes, report, run
from featurepipe.errors import ManifestError, ProbeError, StoreError
from featurepipe.probes import shots
from featurepipe.solvers import paths
from featurepipe.sources import Files
from featurepipe.stages import Listener, probe_layers
from featurepipe.stores import Store

TINY = {"random_weights": True, "transform": {"input_size": (3, 32, 32)}, "device": "cpu"}


@pytest.fixture
def stored(photos, tmp_path):
    """Factory of stores of raw pixels of made-up photos."""

    def make(splits=(), classes=("ant", "bee", "cat"), per_class=5, **options):
        data = photos(classes, per_class, splits, **options)
        return extract(data, tmp_path / "s.store", backbone="pixels", workers=1)["store"]

    return make


def edit(store, change):
    """Change rows of a store's manifest: `change(row)` returns the new row, or None to drop it."""
    path = Store.open(store).path / "manifest.csv"
    with open(path, newline="") as file:
        rows = [new for row in csv.DictReader(file) if (new := change(row)) is not None]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    Store.open(store).accept_edits()


def head(result):
    model = models.load(result["model"])
    return model.estimator.coef_.tolist(), model.estimator.intercept_.tolist(), model.temperature


def matrix_of(store, backbone="pixels"):
    opened = Store.open(store)
    return matrices.load(opened, opened.choose(backbone))


CROSS = "5-fold cross-validation on train"


@pytest.mark.parametrize(
    ("splits", "source", "selected_on", "reported", "sizes"),
    [
        (("train", "val", "test"), "given", "val", "test", (15, 15, 15)),
        (("train", "val"), "given", CROSS, "val", (15, 15, 0)),
        (("train", "test"), "given", CROSS, "test", (15, 0, 15)),
        ((), "made here: 60/20/20, stratified, seed 0", "val", "test", (9, 3, 3)),
        (("train",), "made here: 60/20/20, stratified, seed 0", "val", "test", (9, 3, 3)),
    ],
)
def test_splits_are_used_as_the_docstring_says(stored, splits, source, selected_on, reported, sizes):
    result = probe(stored(splits), kind="ridge", baselines="none")
    assert tuple(result["splits"].values()) == sizes
    assert (result["split_source"], result["selection"]["on"]) == (source, selected_on)
    assert result["evaluated_on"] == reported
    assert result[reported]["n"] == dict(zip(("train", "val", "test"), sizes, strict=True))[reported]
    if reported == "val":
        assert result["test"] is None
        assert "source" not in result["val"]
    else:
        assert result["val"]["source"] == selected_on
        assert result["val"]["n"] == (sizes[1] or sizes[0])


@pytest.mark.slow
def test_each_part_is_what_its_name_says(stored):
    store = stored(("train", "val", "test"))
    m = matrix_of(store)
    result = probe(store, kind="ridge", baselines="none")
    train, val, test = (m.take(m.split == split) for split in ("train", "val", "test"))
    by_hand = probes.fit("ridge", train.X, train.y, val.X, val.y)
    assert result["alpha"] == by_hand.chosen
    assert result["selection"]["path"] == by_hand.path
    assert result["val"] == {"source": "val", **by_hand.scores}
    assert result["test"] == probes.evaluate(by_hand.estimator, test.X, test.y, by_hand.temperature)
    assert head(result)[0] == by_hand.estimator.coef_.tolist()
    model = models.load(result["model"])
    for part, seen in ((train, True), (val, True), (test, False)):
        assert model.has_seen(part.digests).tolist() == [seen] * len(part)


@pytest.mark.slow
@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "test")])
def test_test_labels_change_nothing_but_the_test_figures(stored, splits):
    store = stored(splits)
    before = probe(store, shots=[2], repeats=2, baselines="simple", kind="ridge")
    old = head(before)
    shifted = {"ant": "bee", "bee": "cat", "cat": "ant"}
    edit(store, lambda row: {**row, "label": shifted[row["label"]]} if row["split"] == "test" else row)
    after = probe(store, shots=[2], repeats=2, baselines="simple", kind="ridge")
    assert head(after) == old
    assert {key for key in before if before[key] != after[key]} <= {
        "test",
        "baselines",
        "few_shot",
        "notes",  # on splits that are not alike
        "seconds",
        "created",
    }
    assert after["test"]["top1"] < before["test"]["top1"]


@pytest.mark.slow
def test_test_images_change_nothing_but_the_test_figures(stored):
    store = stored(("train", "val", "test"))
    before = head(probe(store, baselines="none", kind="ridge"))
    edit(store, lambda row: None if row["id"].endswith("1.jpg") and row["split"] == "test" else row)
    assert head(probe(store, baselines="none", kind="ridge")) == before


@pytest.mark.slow
def test_a_val_set_that_prefers_another_alpha_changes_the_choice(stored):
    store = stored(("train", "val", "test"), ("ant", "bee"), 8)
    easy = probe(store, kind="ridge", baselines="none")
    flip = {"ant": "bee", "bee": "ant"}
    edit(store, lambda row: {**row, "label": flip[row["label"]]} if row["split"] == "val" else row)
    assert probe(store, kind="ridge", baselines="none")["alpha"] != easy["alpha"]


@pytest.mark.slow
def test_made_splits_are_seeded_and_stratified(stored):
    store = stored(per_class=10)
    one, again, other = (probe(store, kind="ridge", baselines="none", seed=seed) for seed in (1, 1, 2))
    assert one["test"] == again["test"]
    assert {c: f["support"] for c, f in one["test"]["per_class"].items()} == {"ant": 2, "bee": 2, "cat": 2}
    assert (one["seed"], other["seed"]) == (1, 2)
    assert "seed 2" in other["split_source"]
    assert tuple(one["splits"].values()) == (18, 6, 6)
    seen = models.load(other["model"]).seen
    probe(store, kind="ridge", baselines="none", seed=1)
    assert models.load(one["model"]).seen.tolist() != seen.tolist()


def test_unlabelled_samples_are_left_out_with_a_note(stored):
    store = stored(("train", "test"))
    unlabelled = {"train/ant/0.jpg", "test/bee/0.jpg"}
    edit(store, lambda row: {**row, "label": ""} if row["id"] in unlabelled else row)
    result = probe(store, kind="ridge", baselines="none")
    assert tuple(result["splits"].values()) == (14, 0, 14)
    assert "2 samples without a label are left out" in result["notes"]
    assert result["data"]["samples"] == 28


@pytest.mark.parametrize(
    ("copies", "note"), [(1, "1 of 9 test samples is an exact copy"), (2, "2 of 10 test samples are exact copies")]
)
def test_copies_across_splits_are_noted(photos, tmp_path, copies, note):
    data = photos(("ant", "bee"), 4, ("train", "test"))
    for number in range(copies):
        shutil.copy(data / f"train/ant/{number}.jpg", data / f"test/ant/copy{number}.jpg")
    extract(data, tmp_path / "s", backbone="pixels")
    heard = []

    class Ears(Listener):
        def note(self, text):
            heard.append(text)

    result = probe(tmp_path / "s", kind="ridge", baselines="none", listener=Ears())
    assert any(n.startswith(note) for n in result["notes"])
    assert any(note in text for text in heard)


def test_no_copies_no_note(stored):
    assert not any("cop" in note for note in probe(stored(("train", "test")), kind="ridge", baselines="none")["notes"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda r: {**r, "label": ""}, ManifestError, "no sample has a label"),
        (lambda r: {**r, "label": "ant"}, ManifestError, "only one class"),
        (lambda r: {**r, "split": "test"}, ManifestError, "never in train"),
        (
            lambda r: {**r, "split": ""} if "ant/0" in r["id"] else r,
            ManifestError,
            "have a split and .*ant/0.jpg has none",
        ),
        (
            lambda r: {**r, "label": "emu"} if r["id"] == "test/cat/0.jpg" else r,
            ManifestError,
            "'emu' occurs in test only",
        ),
    ],
)
def test_labels_and_splits_that_cannot_be_used(stored, change, error, message):
    store = stored(("train", "test"))
    edit(store, change)
    with pytest.raises(error, match=message):
        probe(store, baselines="none")


def test_wrong_words_are_refused(stored):
    store = stored(per_class=3)
    with pytest.raises(ProbeError, match="baselines 'all' is unknown; use none, simple, full"):
        probe(store, baselines="all")
    with pytest.raises(ProbeError, match="'tree' is unknown"):
        probe(store, kind="tree", baselines="none")
    with pytest.raises(StoreError, match="no backbone resnet50 here; choose with -b from: pixels-"):
        probe(store, backbone="resnet50")


def test_classes_of_one_image_leave_nothing_to_report_on(stored):
    with pytest.raises(ManifestError, match="too small to hold any sample back"):
        probe(stored(per_class=1), baselines="none")


def test_one_training_image_per_class_works(stored):
    store = stored(("train", "test"))
    edit(store, lambda row: row if row["split"] == "test" or row["id"].endswith("/0.jpg") else None)
    result = probe(store, shots=[1], repeats=2)
    assert "one sample per class" in result["selection"]["on"]
    assert result["test"]["n"] == 15


# -- baselines ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network_store(tmp_path_factory):
    """Noisy photos with given splits, embedded by a random network; and the folder they lie in."""
    root = tmp_path_factory.mktemp("net")
    rng = np.random.default_rng(0)
    from PIL import Image

    for split, count in (("train", 8), ("test", 12)):
        for number, label in enumerate(("ant", "bee", "cat")):
            (root / "data" / split / label).mkdir(parents=True)
            for index in range(count + (label == "cat")):
                pixels = rng.integers(0, 256, (32, 32, 3)) // 2 + 15 * number
                Image.fromarray(pixels.astype(np.uint8)).save(root / "data" / split / label / f"{index}.png")
    extract(root / "data", root / "store", backbone="test_resnet", seed=7, **TINY)
    return root


def by_hand(matrix, kind="ridge"):
    train, test = matrix.take(matrix.split == "train"), matrix.take(matrix.split == "test")
    fitted = probes.fit(kind, train.X, train.y)
    return float(np.mean(fitted.estimator.predict(test.X) == test.y)), train, test


@pytest.mark.slow
def test_baselines_are_what_they_say(network_store, tmp_path):
    store = Store.open(network_store / "store")
    result = probe(store.path, tmp_path / "m.safetensors", kind="ridge", baselines="full", shots=[3], repeats=2)
    found = result["baselines"]
    assert list(found) == ["majority", "pixels", "random_backbone"]
    assert found["majority"] == 13 / 37
    top1, train, test = by_hand(matrix_of(store.path, "pixels"))
    assert found["pixels"] == top1
    options = {"shots": [3], "repeats": 2, "groups": train.digests}
    (few,) = probes.fit_few_shot("ridge", train.X, train.y, test.X, test.y, **options)
    assert result["few_shot"][0]["baselines"]["pixels"] == few["mean"]
    spec = store.choose("test_resnet (random weights, seed 7)").spec
    twin = backbones.twin(spec, "test_resnet", seed=0, device="cpu")
    assert twin.spec["weights"] != spec["weights"]
    assert {**twin.spec, "weights": 0} == {**spec, "weights": 0}
    assert found["random_backbone"] == by_hand(matrices.load(store, store.entry(twin)))[0]
    assert result["backbone"] == "test_resnet (random weights, seed 7)"
    assert result["test"]["top1"] == by_hand(matrix_of(store.path, result["backbone"]))[0]


@pytest.mark.slow
def test_simple_and_none_do_less(network_store, tmp_path):
    name = "test_resnet (random weights, seed 7)"
    run = {"backbone": name, "kind": "ridge", "value": 10.0}
    simple = probe(network_store / "store", tmp_path / "m.safetensors", **run)["baselines"]
    assert simple["pixels"] is not None
    assert simple["random_backbone"] is None
    none = probe(network_store / "store", tmp_path / "m.safetensors", baselines="none", **run)["baselines"]
    assert none == {"majority": None, "pixels": None, "random_backbone": None}


def test_pixels_are_not_compared_with_themselves(stored):
    found = probe(stored(), kind="ridge", baselines="full")["baselines"]
    assert found["majority"] is not None
    assert found["pixels"] is found["random_backbone"] is None


@pytest.mark.slow
def test_baselines_are_absent_with_a_note_when_the_images_are_gone(network_store, tmp_path):
    extract(network_store / "data", tmp_path / "fresh", backbone="test_resnet", seed=7, **TINY)
    store = Store.open(tmp_path / "fresh")
    store.write_rows(Files(str(tmp_path / "moved")), store.rows())  # the root it looks in
    result = probe(store.path, kind="ridge", baselines="simple")
    assert result["baselines"]["pixels"] is None
    assert result["baselines"]["majority"] == 13 / 37
    assert any("no figure for pixels" in note for note in result["notes"])
    assert result["test"]["n"] == 37


@pytest.mark.slow
def test_an_untrained_copy_that_needs_trust_is_absent_with_a_note_or_made_with_it(photos, tmp_path):
    data = photos(("ant", "bee"), 5, ("train", "test"))
    state = backbones.create("test_resnet", **TINY).module.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "w.safetensors")
    given = {**TINY, "random_weights": False, "weights": tmp_path / "w.safetensors"}
    extract(data, tmp_path / "s", backbone="test_resnet", arguments={"no_jit": True}, **given)
    result = probe(tmp_path / "s", kind="ridge", baselines="full")
    assert result["baselines"]["pixels"] is not None
    assert result["baselines"]["random_backbone"] is None
    assert any("argument 'no_jit'" in note and "allow it with --trust" in note for note in result["notes"])
    trusted = probe(tmp_path / "s", kind="ridge", baselines="full", trust=True, backbone="test_resnet")
    assert trusted["baselines"]["random_backbone"] is not None
    compared = {"kinds": ["ridge"], "baselines": "full", "workers": 1}
    assert any("no_jit" in note for note in compare(tmp_path / "s", **compared, seed=1)["notes"])
    assert not any("no_jit" in note for note in compare(tmp_path / "s", **compared, seed=1, trust=True)["notes"])


@pytest.mark.slow
def test_run_trusts_the_backbone_that_was_asked_for(photos, tmp_path):
    data = photos(("ant", "bee"), 5, ("train", "test"))
    options = {"backbone": "test_resnet", "arguments": {"no_jit": True}, "baselines": "full", "kind": "ridge"}
    result = run(data, tmp_path / "out", **options, **TINY)
    assert result["baselines"]["random_backbone"] is not None


@pytest.mark.slow
def test_a_rejected_image_takes_no_part(photos, tmp_path):
    data = photos(("ant", "bee"), 5, ("train", "test"))
    (data / "train/ant/bad.jpg").write_bytes(b"no image")
    extract(data, tmp_path / "s", backbone="test_resnet", **TINY)
    result = probe(tmp_path / "s", kind="ridge", baselines="simple")
    assert tuple(result["splits"].values()) == (10, 0, 10)
    assert result["baselines"]["pixels"] is not None


# -- what is written down -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parameter", "value"),
    [("logistic", "C", 0.5), ("ridge", "alpha", 0.5), ("lda", "shrinkage", 0.5), ("knn", "n_neighbors", 2)],
)
def test_the_keys_that_scripts_rely_on(stored, kind, parameter, value):
    result = probe(stored(), kind=kind, value=value, baselines="simple")
    assert {"model", "kind", parameter, "splits", "val", "test", "baselines", "seconds"} <= set(result)
    assert {"C", "alpha", "shrinkage", "n_neighbors"} & set(result) == {parameter}
    assert result[parameter] == value
    assert set(result["splits"]) == {"train", "val", "test"}
    assert set(result["baselines"]) == {"majority", "pixels", "random_backbone"}
    assert "top1" in result["val"]
    assert {"top1", "balanced_accuracy", "log_loss", "ece", "ece_uncalibrated"} <= set(result["test"])
    assert {"temperature", "ece", "ece_uncalibrated"} <= set(result["selection"])
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize(("splits", "calibrated"), [(("train", "test"), False), (("train", "val", "test"), True)])
def test_a_given_c_without_val_is_not_calibrated_and_a_note_says_so(stored, splits, calibrated):
    result = probe(stored(splits), value=0.01, baselines="none")
    temperature = models.load(result["model"]).temperature
    assert (temperature != 1) is calibrated
    assert result["selection"]["temperature"] == temperature
    assert ("top1" in result["val"]) is calibrated
    note = "the strength was given and no val split measures it, so probabilities are not calibrated"
    assert (note in result["notes"]) is not calibrated


@pytest.mark.slow
@pytest.mark.parametrize("kind", VECTOR_KINDS)
def test_every_kind_is_probed_evaluated_and_reported(stored, kind, tmp_path):
    result = probe(stored(("train", "test")), tmp_path / "m.safetensors", kind=kind, baselines="none")
    again = evaluate(tmp_path / "m.safetensors", tmp_path / "s.store")
    assert {key: again[key] for key in result["test"]} == result["test"]
    page = (tmp_path / report(tmp_path / "m.safetensors", tmp_path / "r.html")["report"]).read_text()
    parameter = probes.KINDS[kind].parameter
    assert f"{kind} probe" in page
    assert parameter is None or f"How {parameter} was chosen" in page
    assert not any("None" in note for note in result["notes"])


def test_class_weights_reach_the_probe_and_the_card(stored):
    store = stored()
    edit(store, lambda row: {**row, "label": "bee" if row["label"] == "cat" else row["label"]})
    plain = head(probe(store, kind="svm", value=0.01, baselines="none"))
    result = probe(store, kind="svm", value=0.01, baselines="none", class_weight="balanced")
    assert result["class_weight"] == "balanced"
    assert head(result)[1] != plain[1]


def devices_of_paths(monkeypatch):
    """A list to which each C path adds its device."""
    used, rotated = [], paths.Rotated
    monkeypatch.setattr(
        paths, "Rotated", lambda *a, device, **k: used.append(device) or rotated(*a, device=device, **k)
    )
    return used


@pytest.mark.parametrize("options", [{"kind": "svm"}, {"memory": 5_000}, {"multi_label": True}], ids=str)
def test_the_probe_and_its_baseline_are_fitted_on_the_device_and_the_card_says_so(stored, monkeypatch, options):
    store, used = stored(), devices_of_paths(monkeypatch)
    found = [probe(store, value=0.01, probe_device=device, **options) for device in ("cpu", "cpu:0")]
    assert used == ["cpu"] * (len(used) // 2) + ["cpu:0"] * (len(used) // 2)
    assert [models.load(one["model"]).card["probe_device"] for one in found] == ["cpu:0"] * 2  # the same file
    assert [one["probe_device"] for one in found] == ["cpu", "cpu:0"]
    assert found[0]["test"]["n"] == found[1]["test"]["n"]
    assert found[0]["baselines"] == pytest.approx(found[1]["baselines"])
    assert found[0]["out_of_core"] == found[1]["out_of_core"] == ("memory" in options)


def test_a_device_too_small_for_a_baseline_leaves_the_probe(photos, tmp_path, monkeypatch):
    data = photos(("ant", "bee", "cat"), 5)
    store = extract(data, tmp_path / "s.store", backbone="color-histogram", workers=1)["store"]
    fit = probes.fit

    def small(kind, X, *rest, **options):
        if X.shape[1] > 1000:
            raise ProbeError("device 'cuda' has too little memory")
        return fit(kind, X, *rest, **options)

    monkeypatch.setattr("featurepipe.probes.parts.fit", small)
    result = probe(store, value=0.01, baselines="simple")
    assert result["baselines"]["pixels"] is None
    assert result["notes"][-1] == "no figure for pixels: device 'cuda' has too little memory"
    assert models.load(result["model"]).card["test"] == result["test"]


def test_all_layers_are_probed_on_the_device(photos, tmp_path, monkeypatch):
    data = photos(("ant", "bee", "cat"), 5)
    options = {"layers": "stage2,penultimate", "workers": 1, **TINY}
    store = extract(data, tmp_path / "s.store", backbone="test_resnet", **options)["store"]
    used = devices_of_paths(monkeypatch)
    result = probe_layers(store, value=0.01, baselines="none", probe_device="cpu:0")
    assert set(used) == {"cpu:0"}
    assert len(used) >= 3  # two layers, and the best once more
    assert result["probe_device"] == "cpu:0"


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(tmp_path):
    for stage in (probe, probe_layers):
        with pytest.raises(ProbeError, match="device 'abacus' cannot be used here"):
            stage(tmp_path / "nowhere", probe_device="abacus")
        with pytest.raises(ProbeError, match="a ridge probe is fitted on the cpu"):
            stage(tmp_path / "nowhere", kind="ridge", probe_device="cuda")


def test_the_model_file_carries_the_same_card(stored, tmp_path):
    result = probe(stored(), tmp_path / "a" / "m.safetensors", kind="ridge")
    model = models.load(tmp_path / "a" / "m.safetensors")
    assert result["model"] == str(tmp_path / "a" / "m.safetensors")
    assert {key: result[key] for key in model.card} == model.card
    assert {"featurepipe", "torch", "timm", "scikit-learn"} <= set(model.card["versions"])


def test_by_default_the_model_lies_in_the_backbones_folder(stored):
    store = stored()
    result = probe(store, kind="ridge", baselines="none")
    assert result["model"] == str(Store.open(store).choose("pixels").folder / "model.safetensors")


def test_the_end_of_the_grid_and_no_convergence_are_noted(stored, monkeypatch):
    monkeypatch.setattr(paths, "MAX_STEPS", 0)
    monkeypatch.setitem(probes.KINDS, "logistic", replace(probes.KINDS["logistic"], grid=(10.0, 20.0)))
    notes = probe(stored(), baselines="none")["notes"]
    assert any("C=10 is the smallest value tried; a better one may lie beyond" in note for note in notes)
    assert any("the optimum was not reached at C=10, 20" in note for note in notes)


@pytest.mark.slow
def test_few_shots_are_drawn_from_what_may_be_learnt_from(stored):
    store = stored(("train", "val", "test"))
    options = {"shots": [2, 10], "repeats": 3, "semi": True, "seed": 4}
    result = probe(store, kind="ridge", baselines="none", **options)
    m = matrix_of(store)
    train, val, test = (m.take(m.split == split) for split in ("train", "val", "test"))
    X, y = np.concatenate([train.X, val.X]), np.concatenate([train.y, val.y])
    groups = np.concatenate([train.digests, val.digests])
    direct = probes.fit_few_shot("ridge", X, y, test.X, test.y, groups=groups, **options)
    assert result["few_shot"] == [{**few, "baselines": {}} for few in direct]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.slow
def test_a_copy_is_no_second_label(stored):
    store = stored(("train", "test"), ("ant", "bee"), 4)
    folder = Store.open(store).root / "train" / "ant"
    for name in ("1", "3"):
        shutil.copyfile(folder / "0.jpg", folder / f"{name}.jpg")
    extract(folder.parents[1], store, backbone="pixels", workers=1)
    m = matrix_of(store)
    train = m.take(m.split == "train")
    assert len(set(train.digests[train.y == "ant"])) == 2
    for seed in range(5):
        result = probe(store, kind="ridge", baselines="none", shots=[2], repeats=2, seed=seed)
        drawn = [shots.draw(train.y, 2, train.digests, seed=[seed, repeat]) for repeat in range(2)]
        assert all(len(set(train.digests[rows])) == 4 for rows in drawn)
        test = m.take(m.split == "test")
        by_hand = [probes.fit("ridge", train.X[rows], train.y[rows], seed=seed).estimator for rows in drawn]
        expected = [np.mean(estimator.predict(test.X) == test.y) for estimator in by_hand]
        assert result["few_shot"][0]["top1"] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": [1, 11]}, "has 10 training samples, fewer than 11 shots; ask for at most 10"),
        ({"shots": [1, 0]}, "at least 1"),
        ({"shots": [1], "repeats": 0}, "at least 1"),
        ({"semi": True}, "need a number of labels per class"),
    ],
)
def test_few_shots_that_cannot_be_are_refused_before_anything_is_fitted(stored, monkeypatch, options, message):
    store = stored(("train", "val", "test"))
    monkeypatch.setattr("featurepipe.probes.parts.fit", None)
    with pytest.raises(ProbeError, match=message):
        probe(store, kind="ridge", baselines="none", **options)


@pytest.mark.slow
def test_reported_labels_and_images_change_no_semi_supervised_guess(stored):
    store = stored(("train", "test"))
    options = {"kind": "ridge", "shots": [1, 3], "repeats": 3, "semi": True, "baselines": "none"}
    before = probe(store, **options)["few_shot"]
    shifted = {"ant": "bee", "bee": "cat", "cat": "ant"}
    sums = [np.array([line["top1"] for one in before for line in (one, *one["semi"].values())])]
    for _ in range(2):
        edit(store, lambda row: {**row, "label": shifted[row["label"]]} if row["split"] == "test" else row)
        after = probe(store, **options)["few_shot"]
        sums.append(np.array([line["top1"] for one in after for line in (one, *one["semi"].values())]))
    np.testing.assert_allclose(np.sum(sums, axis=0), 1)  # every image has the same class, whatever its label says
