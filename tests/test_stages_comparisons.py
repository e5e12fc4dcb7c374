"""The stage compare: the table, its significance, its baselines, and what it writes."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from featurepipe import backbones, compare, comparisons, extract, manifests, matrices, probe, probes, reports, shards
from featurepipe.errors import ComparisonError, ManifestError, ProbeError, StoreError
from featurepipe.extraction import codebooks
from featurepipe.sources import Files
from featurepipe.stages import Listener, probe_layers, probe_protocol
from featurepipe.stages import comparisons as stage
from featurepipe.statistics import wilson
from featurepipe.stores import Store

pytestmark = pytest.mark.slow

try:
    import cv2
except ImportError:
    cv2 = None
needs_cv2 = pytest.mark.skipif(cv2 is None, reason="needs OpenCV")
KEYS = {
    "label", "backbone", "layer", "is_baseline", "kind", "parameter", "chosen", "selected_on", "selection_top1",
    "selection_log_loss", "selection_n", "n", "top1", "interval", "difference", "wins", "losses", "p", "p_holm",
    "width", "images_per_second", "device", "bytes", "imagenet_top1", "store", "folder", "fingerprint",
}  # fmt: skip
TINY = {"random_weights": True, "transform": {"input_size": (3, 32, 32)}, "device": "cpu", "precision": "fp32"}


def noisy(root, splits=(("train", 10), ("test", 14)), classes=("ant", "bee", "cat")):
    """A folder of 24×24 pictures whose classes differ a little in colour."""
    rng = np.random.default_rng(0)
    for split, count in splits:
        for number, label in enumerate(classes):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (24, 24, 3)) * 3 // 4
                pixels[:, :, number] += 3 + index % 3
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / label / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data, and a store of raw pixels and colour histograms of it."""
    root = tmp_path_factory.mktemp("compared")
    data = noisy(root / "data")
    for name in ("pixels", "color-histogram"):
        extract(data, root / "store", backbone=name, workers=1)
    return root


@pytest.fixture
def store(made, tmp_path):
    """A copy of that store, to be changed."""
    return Store.open(shutil.copytree(made / "store", tmp_path / "store"))


def edit(store, change):
    """Change rows of a store's manifest: `change(row)` returns the new row, or None to drop it."""
    path = store.path / "manifest.csv"
    with open(path, newline="") as file:
        rows = [new for row in csv.DictReader(file) if (new := change(row)) is not None]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    store.accept_edits()


def plainly(store, **options):
    return compare(store.path, **{"kinds": ["ridge"], "baselines": "none", "workers": 1, **options})


def row_of(result, label, kind="ridge"):
    (row,) = (row for row in result["rows"] if (row["label"], row["kind"]) == (label, kind))
    return row


def by_hand(store, label=None, kind="ridge", layer=None):
    """The fitted probe of an entry, and on which test images it is right."""
    matrix = matrices.load(store, store.choose(label, layer))
    train, test = matrix.take(matrix.split == "train"), matrix.take(matrix.split == "test")
    fitted = probes.fit(kind, train.X, train.y)
    return fitted, fitted.estimator.predict(test.X) == test.y


# -- the table ----------------------------------------------------------------------------------------------------


def test_every_row_is_what_probe_measures(store):
    result = plainly(store, kinds=["ridge", "logistic"])
    assert len(result["rows"]) == 4
    for row in result["rows"]:
        assert set(row) == KEYS
        alone = probe(store.path, backbone=row["backbone"], kind=row["kind"], baselines="none")
        assert (row["top1"], row["n"]) == (alone["test"]["top1"], alone["test"]["n"])
        assert row["chosen"] == alone["selection"]["chosen"] == alone[row["parameter"]]
        assert (row["selection_top1"], row["selected_on"]) == (alone["val"]["top1"], alone["selection"]["on"])
        assert row["interval"] == list(wilson(row["top1"], row["n"]))
    assert (result["samples"], result["classes"], result["evaluated_on"]) == (72, 3, "test")
    assert result["splits"] == {"train": 30, "val": 0, "test": 42}
    assert result["majority"] == pytest.approx(1 / 3)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_what_is_known_of_an_entry(store):
    row = row_of(plainly(store), "color-histogram")
    entry = store.choose("color-histogram")
    assert (row["width"], row["device"], row["layer"], row["is_baseline"]) == (256, "cpu", "color-histogram", True)
    assert (row["store"], row["folder"], row["fingerprint"]) == (str(store.path), entry.folder.name, entry.fingerprint)
    assert row["bytes"] == sum(path.stat().st_size for path in entry.folder.glob("*.h5"))
    seconds = entry.provenance["seconds"]
    assert row["images_per_second"] == pytest.approx(72 / seconds, rel=1e-3)


def test_throughput_is_summed_over_shards_and_none_where_they_do_not_say(made, store, tmp_path, monkeypatch):
    extract(made / "data", tmp_path / "many", backbone="pixels", rows_per_shard=30, workers=1, batch_size=10)
    rows = compare(tmp_path / "many", kinds=["ridge", "logistic"], baselines="none")["rows"]
    indexes = Store.open(tmp_path / "many").choose("pixels").indexes
    assert len(indexes) == 3
    total = sum(index.provenance["seconds"] for index in indexes)
    assert rows[0]["images_per_second"] == pytest.approx(72 / total, rel=1e-3)
    monkeypatch.setattr("featurepipe.shards.json.loads", forgetful(json.loads))
    assert [row["images_per_second"] for row in plainly(store)["rows"]] == [None, None]


def forgetful(loads):
    """json.loads of a shard written before throughput was recorded."""

    def load(text, **how):
        value = loads(text, **how)
        return {key: of for key, of in value.items() if key != "seconds"} if isinstance(value, dict) else value

    return load


def test_given_val_data_select_and_made_splits_are_the_same_for_every_row(tmp_path):
    data = noisy(tmp_path / "data", (("train", 8), ("val", 5), ("test", 9)))
    for name in ("pixels", "color-histogram"):
        extract(data, tmp_path / "s", backbone=name, workers=1)
    store = Store.open(tmp_path / "s")
    given = plainly(store)
    assert {row["selected_on"] for row in given["rows"]} == {"val"}
    assert given["split_source"] == "given"
    edit(store, lambda row: {**row, "split": ""})
    one, again, other = (plainly(store, seed=seed) for seed in (0, 0, 1))
    assert one["split_source"] == "made here: 60/20/20, stratified, seed 0"
    assert one["rows"] == again["rows"] != other["rows"]
    for row in one["rows"]:
        alone = probe(store.path, backbone=row["backbone"], kind="ridge", baselines="none", seed=0)
        assert row["top1"] == alone["test"]["top1"]


# -- the reference and significance -------------------------------------------------------------------------------


def test_p_values_are_of_the_same_images_against_the_row_of_best_selection(store):
    result = plainly(store, kinds=["ridge", "logistic"])
    found = {(row["label"], row["kind"]): row for row in result["rows"]}
    fitted = {key: by_hand(store, *key) for key in found}
    best = min(fitted, key=lambda key: (-fitted[key][0].scores["top1"], fitted[key][0].scores["log_loss"]))
    assert result["reference"] == {"label": best[0], "kind": best[1], "given": False}
    assert (result["rows"][0]["label"], result["rows"][0]["kind"]) == best
    assert {found[best][key] for key in ("difference", "wins", "losses", "p", "p_holm")} == {None}
    others = [key for key in found if key != best]
    p_values = [comparisons.mcnemar(fitted[key][1], fitted[best][1]) for key in others]
    for key, p, corrected in zip(others, p_values, comparisons.holm(p_values), strict=True):
        row, right, reference = found[key], fitted[key][1], fitted[best][1]
        assert (row["p"], row["p_holm"]) == (p, corrected)
        assert row["wins"] == (right & ~reference).sum()
        assert row["losses"] == (~right & reference).sum()
        assert row["difference"] == pytest.approx((row["wins"] - row["losses"]) / 42)


def test_test_labels_change_no_choice_and_no_order(store):
    before = plainly(store)
    shifted = {"ant": "bee", "bee": "cat", "cat": "ant"}
    edit(store, lambda row: {**row, "label": shifted[row["label"]]} if row["split"] == "test" else row)
    after = plainly(store)
    assert after["reference"] == before["reference"]
    for one, other in zip(before["rows"], after["rows"], strict=True):
        for key in ("label", "chosen", "selection_top1", "selection_log_loss"):
            assert one[key] == other[key]
    assert [row["top1"] for row in after["rows"]] != [row["top1"] for row in before["rows"]]


def test_the_winner_on_test_is_not_the_reference_unless_selection_says_so(store):
    best, other = plainly(store)["rows"]
    right = {label: by_hand(store, label)[1] for label in (best["label"], other["label"])}
    matrix = matrices.load(store, store.choose("pixels"))
    ids = matrix.ids[matrix.split == "test"]
    kept = {*ids[right[other["label"]] & ~right[best["label"]]]}  # only images that the other row alone gets right
    kept |= {*ids[right[other["label"]] & right[best["label"]]][:3]}
    assert len(kept) > 3
    edit(store, lambda row: row if row["split"] == "train" or row["id"] in kept else None)
    result = plainly(store)
    assert row_of(result, other["label"])["top1"] == 1.0 > row_of(result, best["label"])["top1"]
    assert result["reference"]["label"] == best["label"]


@pytest.mark.parametrize("by", ["label", "folder", "fingerprint"])
def test_the_reference_may_be_given(store, by):
    second = plainly(store)["rows"][1]
    result = plainly(store, kinds=["ridge", "logistic"], reference=second[by])
    assert result["reference"]["label"] == second["label"]
    assert result["reference"]["given"] is True
    mine = [row for row in result["rows"] if row["label"] == second["label"]]
    assert result["reference"]["kind"] == mine[0]["kind"]  # the better of the two on selection data
    assert [row["p"] is None for row in mine] == [True, False]


def test_without_anything_to_select_on_no_row_is_the_best(store):
    edit(store, lambda row: row if row["split"] == "test" or row["id"].endswith("/0.png") else None)
    result = plainly(store)
    assert result["reference"] is None
    assert {row["selection_top1"] for row in result["rows"]} == {row["p"] for row in result["rows"]} == {None}
    assert all("one sample per class" in row["selected_on"] for row in result["rows"])
    given = plainly(store, reference="pixels")
    assert given["reference"] == {"label": "pixels", "kind": "ridge", "given": True}
    assert row_of(given, "color-histogram")["p"] is not None


def test_rows_without_selection_come_last_and_are_tested_all_the_same(store, monkeypatch):
    real = probes.fit

    def fit(kind, X, *rest, **options):
        fitted = real(kind, X, *rest, **options)
        return replace(fitted, scores={}, right=None) if X.shape[1] == 3072 else fitted

    monkeypatch.setattr("featurepipe.probes.parts.fit", fit)
    rows = plainly(store)["rows"]
    assert [row["label"] for row in rows] == ["color-histogram", "pixels"]
    assert rows[1]["selection_top1"] is None
    assert 0 <= rows[1]["p"] <= 1


# -- several stores -----------------------------------------------------------------------------------------------


def test_two_stores_make_one_table(made, tmp_path):
    data = made / "data"
    for name in ("pixels", "color-histogram"):
        extract(data, tmp_path / name, backbone=name, workers=1)
    apart = compare([tmp_path / "pixels", tmp_path / "color-histogram"], kinds=["ridge"], baselines="none")
    together = compare(made / "store", kinds=["ridge"], baselines="none")
    for one, other in zip(apart["rows"], together["rows"], strict=True):
        differ = {key for key in KEYS if one[key] != other[key]}
        assert differ <= {"store", "images_per_second", "bytes"}
    assert apart["stores"] == [str(tmp_path / "pixels"), str(tmp_path / "color-histogram")]
    twice = compare([tmp_path / "pixels", tmp_path / "pixels"], kinds=["ridge", "logistic"], baselines="none")
    assert twice["stores"] == [str(tmp_path / "pixels")]


def test_what_only_one_store_holds_counts_for_none(made, tmp_path):
    data = shutil.copytree(made / "data", tmp_path / "data")
    extract(data, tmp_path / "a", backbone="pixels", workers=1)
    for number in range(5):
        (data / "test" / "ant" / f"{number}.png").unlink()
    extract(data, tmp_path / "b", backbone="color-histogram", workers=1)
    result = compare([tmp_path / "a", tmp_path / "b"], kinds=["ridge"], baselines="none")
    assert {row["n"] for row in result["rows"]} == {37}
    assert f"5 of 72 samples of {tmp_path / 'a'} are not in every row" in result["notes"]


def test_layers_of_one_pass_are_rows_and_each_is_what_probe_measures(made, tmp_path):
    extract(made / "data", tmp_path / "s", backbone="test_resnet", layers="stages", workers=1, **TINY)
    store = Store.open(tmp_path / "s")
    result = plainly(store)
    layers = probe_layers(store.path, kind="ridge", baselines="none")["layers"]
    name = "test_resnet (random weights, seed 0)"
    assert [layer["layer"] for layer in layers] == [*(f"stage{number}" for number in range(1, 6)), "penultimate"]
    assert len(result["rows"]) == len(layers)
    found = []
    for layer in layers:
        label = name if layer["layer"] == "penultimate" else f"{name} {layer['layer']}"
        row = row_of(result, label)
        assert (row["backbone"], row["layer"]) == (name, layer["layer"])
        assert [row[key] for key in ("width", "n", "top1")] == [layer[key] for key in ("width", "n", "top1")]
        assert row["selection_top1"] == layer["selection"]["top1"]
        assert row["images_per_second"] > 0
        found.append((label, by_hand(store, layer=layer["layer"])[0]))
    fitted = [one for _, one in found]
    best = probes.choose([one.right for one in fitted], [one.scores["log_loss"] for one in fitted])
    assert result["reference"]["label"] == found[best][0]
    kept = probes.choose_layer([one.right for one in fitted])
    assert [layer["chosen"] for layer in layers] == [place == kept for place in range(len(layers))]
    assert plainly(store, reference=f"{name} stage2")["reference"]["label"] == f"{name} stage2"


# -- baselines ----------------------------------------------------------------------------------------------------


@pytest.fixture
def network_store(made, tmp_path):
    """A trained network, as far as a store can tell: its weights come from a file."""
    module = backbones.create("test_resnet", **TINY).module
    save_file({key: of.contiguous() for key, of in module.state_dict().items()}, tmp_path / "w.safetensors")
    options = {**TINY, "random_weights": False, "weights": tmp_path / "w.safetensors"}
    extract(made / "data", tmp_path / "net", backbone="test_resnet", workers=1, **options)
    extract(made / "data", tmp_path / "net", backbone="test_resnet", layer="stage2", workers=1, **options)
    return Store.open(tmp_path / "net")


def test_simple_baselines_are_raw_pixels_and_are_kept(network_store):
    result = plainly(network_store, baselines="simple")
    assert {row["label"] for row in result["rows"]} == {"test_resnet", "test_resnet stage2", "pixels"}
    files = sorted(network_store.path.rglob("*.h5"))
    assert plainly(network_store, baselines="simple")["rows"] == result["rows"]
    assert sorted(network_store.path.rglob("*.h5")) == files
    assert result["rows"] == plainly(network_store)["rows"]


def test_full_baselines_are_all_that_the_libraries_allow(network_store, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.delitem(sys.modules, "skimage.feature", raising=False)
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = plainly(network_store, baselines="full", seed=3)
    twin = "test_resnet (random weights, seed 3)"
    labels = {"test_resnet", "test_resnet stage2", "pixels", "color-histogram", twin}
    assert {row["label"] for row in result["rows"]} == labels
    assert row_of(result, twin)["is_baseline"] is True
    assert row_of(result, "test_resnet")["is_baseline"] is False
    assert "no row for hog: HOG needs scikit-image: pip install 'featurepipe[handcrafted]'" in result["notes"]
    assert "no row for sift: SIFT needs OpenCV: pip install 'featurepipe[handcrafted]'" in result["notes"]


def test_with_the_libraries_there_are_hog_and_sift(store):
    pytest.importorskip("skimage")
    pytest.importorskip("cv2")
    result = plainly(store, baselines="full")
    assert {row["label"] for row in result["rows"]} == {"pixels", "color-histogram", "hog", "sift"}
    assert not [note for note in result["notes"] if "no row" in note]


def test_baselines_are_absent_with_a_note_when_the_images_are_gone(network_store, tmp_path):
    network_store.write_rows(Files(str(tmp_path / "moved")), network_store.rows())
    result = plainly(network_store, baselines="simple")
    assert len(result["rows"]) == 2
    assert (
        "no row for pixels: none of the samples can be read any more; restore the files and run again"
        in result["notes"]
    )


def test_baselines_are_absent_with_a_note_while_another_process_writes(network_store, monkeypatch):
    def busy(*_, **__):
        raise StoreError("the store is being written by another process")

    monkeypatch.setattr(Store, "lock", busy)
    notes = [note for note in plainly(network_store, baselines="simple")["notes"] if "row" in note]
    assert notes == ["no row for pixels: the store is being written by another process"]


def test_an_image_that_a_baseline_cannot_take_counts_for_none(network_store, monkeypatch):
    real = backbones.Pixels.embed

    def half_blind(self, pixels):
        vectors = real(self, pixels)
        vectors[(1000 * vectors.sum(axis=1)).astype(int) % 4 == 0] = np.nan
        return vectors

    monkeypatch.setattr(backbones.Pixels, "embed", half_blind)
    result = plainly(network_store, baselines="simple")
    lost = len(network_store.choose("pixels").rejects())
    assert 0 < lost < 30
    assert result["samples"] == 72 - lost
    assert len({row["n"] for row in result["rows"]}) == 1


# -- the codebook of SIFT words -----------------------------------------------------------------------------------


def sample(store, seed):
    """The store's samples in the splits that a seed makes, and the training ones."""
    matrix = matrices.load(store, store.choose("pixels"))
    split = np.array(manifests.assign_splits(matrix.y, matrix.digests, seed=seed), object)
    return matrix.take(split == "train"), matrix.take(split != "train")


@needs_cv2
def test_a_codebook_is_learned_from_training_images_only_and_once(store, monkeypatch):
    asked, real = [], codebooks.extraction.fill
    monkeypatch.setattr(
        codebooks.extraction, "fill", lambda plan, *a, **k: (asked.append(plan), real(plan, *a, **k))[1]
    )
    matrix = matrices.load(store, store.choose("pixels"))
    train = matrix.take(matrix.split == "train")
    made = codebooks.learn_sift(store, train, 0, 1, Listener())
    (plan,) = asked
    assert {pending.digest for pending in plan} == {*train.digests}
    assert made.path == store.path.resolve() / f"sift-{made.fingerprint[:8]}" / "codebook.safetensors"
    assert made.codebook.shape == (256, 128)
    again = codebooks.learn_sift(store, train, 0, 1, Listener())
    assert again.fingerprint == made.fingerprint
    assert len(asked) == 1
    other = codebooks.learn_sift(store, train, 1, 1, Listener())
    assert other.fingerprint != made.fingerprint
    assert backbones.recreate(made.spec, made.source).fingerprint == made.fingerprint


@needs_cv2
def test_a_codebook_is_learned_from_so_many_images_at_most(store, monkeypatch):
    monkeypatch.setattr(codebooks, "IMAGES", 7)
    train, _ = sample(store, 0)
    made = codebooks.learn_sift(store, train, 0, 1, Listener())
    images = backbones.learned_from(made.path)["images"]
    assert len(images) == 7
    assert {*images} < {*train.digests}


@needs_cv2
def test_words_that_have_seen_what_is_held_out_are_left_out(store):
    edit(store, lambda row: {**row, "split": ""})
    first = plainly(store, baselines="full", seed=0)
    assert row_of(first, "sift")
    second = plainly(store, baselines="full", seed=1)
    assert len([row for row in second["rows"] if row["backbone"] == "sift"]) == 1
    old = row_of(first, "sift")["folder"]
    assert row_of(second, next(r["label"] for r in second["rows"] if r["backbone"] == "sift"))["folder"] != old
    assert f"left out: the codebook of {store.path / old} was learned from images now held out" in second["notes"]
    assert probe(store.path, backbone=old, seed=0, kind="ridge", baselines="none")["backbone"] == "sift"
    for ask, options in ((probe, {"kind": "ridge"}), (probe_protocol, {"protocol": "kornblith"})):
        with pytest.raises(ProbeError, match="learned from images that are held out now"):
            ask(store.path, backbone=old, seed=1, **options)


@needs_cv2
def test_words_from_elsewhere_are_taken_as_weights_are(store, tmp_path):
    backbones.save_codebook(tmp_path / "c.safetensors", np.eye(9, 128, dtype=np.float32), {"by": "somebody"})
    made = backbones.create("sift", weights=tmp_path / "c.safetensors")
    extract(store.root, store.path, backbone=made, workers=1)
    assert row_of(plainly(store), "sift")["width"] == 9
    (tmp_path / "c.safetensors").unlink()
    assert row_of(plainly(store), "sift")


@needs_cv2
def test_no_training_image_to_learn_words_from(store, tmp_path):
    train, _ = sample(store, 0)
    store.write_rows(Files(str(tmp_path / "moved")), store.rows())
    with pytest.raises(StoreError, match="none of the training images can be read"):
        codebooks.learn_sift(store, train, 0, 1, Listener())


# -- ImageNet -----------------------------------------------------------------------------------------------------


def pretend(store, names):
    """Rename the store's entries, as if they were trained networks of those names."""
    for entry, (name, weights) in zip(store.entries(), names, strict=True):
        for index in entry.indexes:
            held = shards.read(index.path)
            spec = {**held.spec, "architecture": name.partition(".")[0], "layer": "penultimate"}
            source = {"name": name, "weights": weights, "random_seed": None}
            path = store.path / name / index.path.name
            shard = shards.Shard(
                spec, {**held.provenance, "name": name, "source": source}, held.embeddings, held.digests, {}
            )
            path.parent.mkdir()
            shards.write(path, shard)
            path.parent.rename(store.path / f"{name}-{shard.fingerprint[:8]}")
        shutil.rmtree(entry.folder)


def table(path, **figures):
    path.write_text("model,top1\n" + "".join(f"{name.replace('__', '.')},{value}\n" for name, value in figures.items()))
    return path


def test_imagenet_top1_is_found_by_the_name_and_the_tag_that_it_stands_for(store, tmp_path):
    pretend(store, [("resnet50", None), ("resnet18.a1_in1k", None)])
    path = table(tmp_path / "t.csv", resnet50__a1_in1k=80.2, resnet50__tv_in1k=76.1, resnet18__a1_in1k=71.5)
    result = plainly(store, imagenet=path)
    assert row_of(result, "resnet50")["imagenet_top1"] == 0.802
    assert row_of(result, "resnet18.a1_in1k")["imagenet_top1"] == 0.715
    assert result["imagenet"] == {"ridge": {"n": 2, "spearman": None, "kendall": None}}


def test_of_weights_from_a_file_only_their_own_name_is_looked_up(store, tmp_path):
    pretend(store, [("resnet50", "/w.pt"), ("mine.v1", "/w.pt")])
    path = table(tmp_path / "t.csv", resnet50__a1_in1k=80.2, mine__v1=60)
    result = plainly(store, imagenet=path)
    assert row_of(result, "resnet50")["imagenet_top1"] is None
    assert row_of(result, "mine.v1")["imagenet_top1"] == 0.6


def test_the_rank_correlation_is_of_the_rows_that_are_known(made, tmp_path, monkeypatch):
    data, store = made / "data", tmp_path / "s"
    for name in ("pixels", "color-histogram"):
        extract(data, store, backbone=name, workers=1)
    pretend(Store.open(store), [("a.x", None), ("b.x", None)])
    extract(data, store, backbone="pixels", workers=1)
    opened = Store.open(store)
    pretend_one = [entry for entry in opened.entries() if entry.name == "pixels"]
    monkeypatch.setattr(Store, "entries", lambda self: pretend_one)
    pretend(opened, [("c.x", None)])
    monkeypatch.undo()
    extract(data, store, backbone="color-histogram", workers=1)
    result = compare(
        store, kinds=["ridge"], imagenet=table(tmp_path / "t.csv", a__x=70, b__x=80, c__x=75), baselines="none"
    )
    known = [row for row in result["rows"] if row["imagenet_top1"] is not None]
    assert len(known) == 3
    assert row_of(result, "color-histogram")["imagenet_top1"] is None
    pairs = [(row["imagenet_top1"], row["top1"]) for row in known]
    found = comparisons.rank_correlations(*zip(*pairs, strict=True))
    assert found is not None
    assert result["imagenet"] == {"ridge": {"n": 3, "spearman": found[0], "kendall": found[1]}}


def test_without_a_table_there_is_no_correlation(store):
    result = plainly(store)
    assert result["imagenet"] is None
    assert {row["imagenet_top1"] for row in result["rows"]} == {None}


# -- files --------------------------------------------------------------------------------------------------------


def test_the_csv_holds_the_rows(store, tmp_path):
    result = plainly(store, output=tmp_path / "out" / "c.csv")
    assert result["output"] == str(tmp_path / "out" / "c.csv")
    with open(tmp_path / "out" / "c.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert set(lines[0]) == KEYS - {"interval"} | {"low", "high"}
    for line, row in zip(lines, result["rows"], strict=True):
        assert (line["label"], float(line["top1"]), float(line["low"])) == (
            row["label"],
            row["top1"],
            row["interval"][0],
        )
        assert line["p"] == ("" if row["p"] is None else str(row["p"]))


def test_the_page_is_the_reports(store, tmp_path):
    result = plainly(store, output=tmp_path / "c.html")
    del result["seconds"]
    page = (tmp_path / "c.html").read_text("utf-8")
    assert page == reports.comparison_page(result)
    assert ElementTree.fromstring(page).tag == "html"


# -- what fails ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kinds": ["ridge", "oracle"]}, "probe 'oracle' is unknown; use .*ridge"),
        ({"kinds": []}, "no probe is named"),
        ({"kinds": ["ridge", "ridge"]}, "named twice in ridge, ridge"),
        ({"baselines": "all"}, "baselines 'all' is unknown; use none, simple, full"),
        ({"reference": "nobody"}, "no row is called 'nobody'; choose the reference from: color-histogram, pixels"),
        ({"output": "c.pdf"}, r"cannot write a comparison to c\.pdf; use one of \.html, \.csv"),
        ({"imagenet": "gone.csv"}, r"gone\.csv cannot be read"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(store, options, says):
    with pytest.raises(ComparisonError, match=says):
        plainly(store, **options)


def test_nothing_is_fitted_before_the_arguments_are_checked(store, monkeypatch):
    monkeypatch.setattr("featurepipe.probes.parts.fit", None)
    for options in ({"reference": "nobody"}, {"output": "c.pdf"}):
        with pytest.raises(ComparisonError):
            plainly(store, **options)


def test_no_store(tmp_path):
    with pytest.raises(ComparisonError, match="no store is named"):
        compare([])
    with pytest.raises(StoreError, match="make a store with: featurepipe extract DATA"):
        compare(tmp_path / "nowhere")


def test_one_row_is_nothing_to_compare(store):
    shutil.rmtree(store.choose("pixels").folder)
    says = "only a ridge probe on color-histogram is here, and nothing to compare it with; extract another backbone"
    with pytest.raises(ComparisonError, match=says):
        plainly(store)
    assert len(plainly(store, kinds=["ridge", "logistic"])["rows"]) == 2
    assert len(plainly(store, baselines="simple")["rows"]) == 2


def test_the_advice_fits_what_was_asked(store, network_store, tmp_path):
    shutil.rmtree(next(entry.folder for entry in network_store.entries() if entry.layer == "stage2"))
    network_store.write_rows(Files(str(tmp_path / "moved")), network_store.rows())
    with pytest.raises(ComparisonError, match="nothing to compare it with") as raised:
        compare(network_store.path, kinds=["ridge"], baselines="simple")
    said = str(raised.value)
    assert "--baselines" not in said
    assert "no row for pixels: none of the samples can be read any more; restore the files and run again" in said
    assert said.endswith("name another --kind, or extract another backbone where the samples are")
    shutil.rmtree(next(entry.folder for entry in store.entries() if entry.name != "pixels"))
    with pytest.raises(ComparisonError, match=r"or add --baselines full$"):
        compare(store.path, kinds=["ridge"], baselines="simple")
    with pytest.raises(ComparisonError, match=r"or add --baselines full$"):
        compare(store.path, kinds=["ridge"], baselines="none")


@pytest.mark.parametrize(("behind", "chosen"), [(2, 0), (3, 1)])
def test_the_reference_is_chosen_as_the_strength_is(behind, chosen):
    right, loss = np.ones((3, 100), bool), (0.3, 0.4, 0.1)
    right[0, :behind] = right[2, :50] = False
    rows = [{"selection_top1": one.mean(), "selection_log_loss": x} for one, x in zip(right, loss, strict=True)]
    assert stage._reference(rows, list(right), [True] * 3) == probes.choose(right, loss) == chosen
    assert stage._reference(rows, list(right), [False, True, True]) == 1
    assert stage._reference(rows, [None, right[1], right[2]], [True] * 3) == 1
    assert stage._reference(rows, [None] * 3, [True] * 3) is None
    assert stage._reference(rows, [None] * 3, [False, False, True]) == 2


def test_no_images_to_report_on(store):
    edit(store, lambda row: row if row["id"].endswith("/0.png") and row["split"] == "train" else None)
    with pytest.raises(ManifestError, match="too small to hold any sample back"):
        plainly(store)


def test_a_class_in_test_only(store):
    edit(store, lambda row: {**row, "label": "dog"} if row["id"] == "test/cat/0.png" else row)
    with pytest.raises(ManifestError, match="class 'dog' occurs in test only"):
        plainly(store)


def test_copies_across_splits_and_grid_ends_are_noted(made, tmp_path, monkeypatch):
    data = shutil.copytree(made / "data", tmp_path / "data")
    shutil.copy(data / "train" / "ant" / "0.png", data / "test" / "ant" / "copy.png")
    for name in ("pixels", "color-histogram"):
        extract(data, tmp_path / "s", backbone=name, workers=1)
    monkeypatch.setitem(probes.KINDS, "ridge", replace(probes.KINDS["ridge"], grid=(1.0, 2.0)))
    heard = []
    listener = Listener()
    listener.note = heard.append
    notes = compare(tmp_path / "s", kinds=["ridge"], baselines="none", listener=listener)["notes"]
    assert any("test samples is an exact copy of a training sample; the figures are without it" in n for n in notes)
    assert any(note.startswith("ridge probe on pixels: alpha=") and "value tried" in note for note in notes)
    assert [f"note: {note}" for note in notes] == heard[-len(notes) :]
    assert "ridge probe on pixels" in heard
