"""What takes part in a comparison: entries, samples that all hold, and stores that disagree."""

import csv
import shutil

import numpy as np
import pytest

from featurepipe import backbones, extract, matrices
from featurepipe.comparisons.contenders import gather
from featurepipe.errors import ComparisonError, ManifestError, StoreError
from featurepipe.listeners import SILENT
from featurepipe.stages.extractions import complete
from featurepipe.stores import Store

NETWORK = {
    "backbone": "test_resnet",
    "random_weights": True,
    "transform": {"input_size": (3, 32, 32)},
    "device": "cpu",
    "precision": "fp32",
    "workers": 1,
}


def stored(data, path, *names):
    for backbone in names or ("pixels", "color-histogram"):
        extract(data, path, backbone=backbone, workers=1)
    return Store.open(path)


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


def test_every_entry_takes_part_with_its_own_vectors_in_one_order(photos, tmp_path):
    store = stored(photos(), tmp_path / "s")
    contenders, samples, notes = gather([store])
    assert notes == []
    assert [contender.label for contender in contenders] == ["color-histogram", "pixels"]
    assert samples.ids.tolist() == [row.sample.id for row in store.rows()]
    assert samples.y.tolist() == ["ant"] * 3 + ["bee"] * 3
    for contender in contenders:
        mine, whole = contender.matrix(samples.take([4, 0])), matrices.load(store, contender.entry)
        assert (whole.X[[4, 0]] == mine.X).all()
        assert mine.ids.tolist() == whole.ids[[4, 0]].tolist()


@pytest.mark.slow
def test_layers_are_told_from_each_other(photos, tmp_path):
    data = photos()
    for layer in ("stage1", "stage2", "penultimate"):
        extract(data, tmp_path / "s", layer=layer, **NETWORK)
    extract(data, tmp_path / "s", layer="stage1", pooling="max", **NETWORK)
    contenders, *_ = gather([Store.open(tmp_path / "s")])
    name = "test_resnet (random weights, seed 0)"
    labels = sorted(contender.label for contender in contenders)
    assert labels[0] == name
    assert labels[3] == f"{name} stage2"
    assert all(label.startswith(f"{name} stage1 (") for label in labels[1:3])  # by their fingerprints
    assert len({*labels}) == 4
    chosen = [contender for contender in contenders if contender.is_called(name)]
    assert len(chosen) == 4
    assert [c.label for c in contenders if c.is_called(f"{name} stage2")] == [f"{name} stage2"]
    one = contenders[0]
    assert one.is_called(one.entry.folder.name)
    assert one.is_called(one.entry.fingerprint[:12])


@pytest.mark.slow
def test_layers_of_one_pass_are_the_entries_of_as_many_passes(photos, tmp_path):
    data = photos()
    layers = ["stage1", "stage2", "penultimate"]
    extract(data, tmp_path / "one", layers=layers, **NETWORK)
    for layer in layers:
        extract(data, tmp_path / "many", layer=layer, **NETWORK)
    one, many = (gather([Store.open(tmp_path / name)])[0] for name in ("one", "many"))
    assert [contender.label for contender in one] == [contender.label for contender in many]
    assert {contender.entry.layer for contender in one} == {*layers}
    both, _, notes = gather([Store.open(tmp_path / name) for name in ("one", "many")])
    assert [contender.label for contender in both] == [contender.label for contender in one]
    assert len([note for note in notes if note.endswith("are the same: one row")]) == 3


def test_of_several_stores_the_samples_count_that_all_hold(photos, tmp_path):
    data = photos()
    one = stored(data, tmp_path / "one", "pixels")
    (data / "ant" / "0.jpg").unlink()
    shutil.copy(data / "bee" / "1.jpg", data / "bee" / "9.jpg")
    two = stored(data, tmp_path / "two", "color-histogram")
    contenders, samples, notes = gather([one, two])
    assert [(c.label, c.store) for c in contenders] == [("pixels", one), ("color-histogram", two)]
    assert samples.ids.tolist() == ["ant/1.jpg", "ant/2.png", "bee/0.jpg", "bee/1.jpg", "bee/2.png"]
    assert notes == [
        f"1 of 6 samples of {one.path} are not in every row",
        f"1 of 6 samples of {two.path} are not in every row",
    ]


def test_a_sample_whose_content_differs_is_not_the_same_sample(photos, tmp_path):
    data = photos()
    one = stored(data, tmp_path / "one", "pixels")
    shutil.copy(data / "bee" / "1.jpg", data / "bee" / "0.jpg")
    two = stored(data, tmp_path / "two", "color-histogram")
    _, samples, _ = gather([one, two])
    assert "bee/0.jpg" not in samples.ids.tolist()
    assert len(samples) == 5


def test_what_one_entry_rejects_no_other_is_measured_on(photos, tmp_path):
    class HalfBlind(backbones.ColorHistogram):
        def embed(self, pixels):
            vectors = super().embed(pixels)
            vectors[vectors.argmax(axis=1) == vectors.argmax(axis=1)[0]] = np.nan
            return vectors

    store = stored(photos(), tmp_path / "s", "pixels")
    complete(store, HalfBlind(), workers=1, listener=SILENT)
    lost = sum(len(entry.rejects()) for entry in store.entries())
    assert 0 < lost < 6
    contenders, samples, notes = gather([store])
    assert len(contenders) == 2
    assert len(samples) == 6 - lost
    assert notes == [f"{lost} of 6 samples of {store.path} are not in every row"]


def test_an_unfinished_entry_is_left_out_with_a_note(photos, tmp_path):
    data = photos()
    stored(data, tmp_path / "s")
    shutil.copy(data / "bee" / "1.jpg", data / "bee" / "8.jpg")  # a copy is no new content
    (data / "bee" / "9.jpg").write_bytes((data / "bee" / "1.jpg").read_bytes() + b"\0")
    store = stored(data, tmp_path / "s", "pixels")
    contenders, samples, notes = gather([store])
    assert [contender.label for contender in contenders] == ["pixels"]
    assert len(samples) == 8
    assert len(notes) == 1
    assert notes[0].startswith(f"left out: {store.path}")
    assert notes[0].endswith("lacks 1 of 8 samples; run featurepipe extract again to finish")


@pytest.mark.parametrize("swapped", [False, True])
def test_two_data_sets_are_refused_in_either_order_though_their_backbone_is_the_same(photos, tmp_path, swapped):
    few = stored(photos(per_class=2, name="few"), tmp_path / "few.store", "pixels")
    many = stored(photos(per_class=5, name="many", seed=1), tmp_path / "many.store", "pixels")
    with pytest.raises(ComparisonError, match="share no sample of the same id and content"):
        gather([many, few] if swapped else [few, many])


@pytest.mark.parametrize("swapped", [False, True])
def test_what_is_missing_is_counted_sample_by_sample(photos, tmp_path, swapped):
    data = photos()
    one = stored(data, tmp_path / "one", "pixels")
    (data / "ant" / "0.jpg").unlink()
    for number in range(4):
        shutil.copy(data / "bee" / "1.jpg", data / "bee" / f"copy{number}.jpg")
    two = stored(data, tmp_path / "two", "pixels")
    contenders, samples, notes = gather([two, one] if swapped else [one, two])
    assert (len(contenders), len(samples)) == (1, 5)
    assert f"1 of 6 samples of {one.path} are not in every row" in notes
    assert f"4 of 9 samples of {two.path} are not in every row" in notes
    assert notes[-1].endswith("are the same: one row")


def test_stages_stand_in_the_order_of_their_numbers(photos, tmp_path):
    store = stored(photos(), tmp_path / "s", "pixels", "color-histogram")
    for folder, number in zip(sorted(store.path.glob("*-*")), (10, 9), strict=True):
        folder.rename(folder.with_name(f"net.stage{number}-{folder.name[-8:]}"))
    assert [contender.entry.folder.name.split("-")[0] for contender in gather([store])[0]] == [
        "net.stage9",
        "net.stage10",
    ]


def test_the_same_fingerprint_in_two_stores_is_one_row(photos, tmp_path):
    data = photos()
    one, two = stored(data, tmp_path / "one"), stored(data, tmp_path / "two", "pixels", "color-histogram")
    contenders, _, notes = gather([one, two])
    assert [contender.store for contender in contenders] == [one, one]
    assert len(notes) == 2
    assert all(note.endswith("are the same: one row") for note in notes)


def test_unlabelled_samples_are_left_out_with_a_note(photos, tmp_path):
    store = stored(photos(), tmp_path / "s")
    edit(store, lambda row: {**row, "label": ""} if row["id"] == "ant/0.jpg" else row)
    _, samples, notes = gather([store])
    assert len(samples) == 5
    assert notes == ["1 samples without a label are left out"]
    edit(store, lambda row: {**row, "label": ""})
    with pytest.raises(ManifestError, match="no sample has a label"):
        gather([store])


@pytest.mark.parametrize(
    ("what", "value", "says"),
    [
        ("label", "wasp", r"train/bee/0\.jpg has label bee in .*one and wasp in .*two; correct one of them"),
        ("label", "", r"train/bee/0\.jpg has label bee in .*one and none in .*two"),
        ("split", "test", r"train/bee/0\.jpg has split train in .*one and test in .*two"),
        ("split", "", r"train/bee/0\.jpg has split train in .*one and none in .*two"),
    ],
)
def test_stores_that_disagree_are_refused(photos, tmp_path, what, value, says):
    data = photos(splits=("train", "test"))
    one, two = stored(data, tmp_path / "one", "pixels"), stored(data, tmp_path / "two", "color-histogram")
    edit(two, lambda row: {**row, what: value} if row["id"] == "train/bee/0.jpg" else row)
    with pytest.raises(ComparisonError, match=says):
        gather([one, two])


def test_stores_of_other_images_share_nothing(photos, tmp_path):
    one = stored(photos(name="a", seed=1), tmp_path / "one", "pixels")
    two = stored(photos(name="b", seed=2), tmp_path / "two", "color-histogram")
    with pytest.raises(
        ComparisonError, match=r"one, .*two share no sample of the same id and content; extract the same"
    ):
        gather([one, two])


def test_a_store_without_embeddings_says_how_to_fill_it(photos, tmp_path):
    store = stored(photos(), tmp_path / "s")
    for entry in store.entries():
        shutil.rmtree(entry.folder)
    with pytest.raises(ComparisonError, match="no backbone to compare; fill it with: featurepipe extract DATA --store"):
        gather([store])


def test_a_store_of_unfinished_entries_says_so(photos, tmp_path):
    data = photos()
    stored(data, tmp_path / "s", "pixels")
    (data / "bee" / "9.jpg").write_bytes((data / "bee" / "1.jpg").read_bytes() + b"\0")
    store = stored(data, tmp_path / "s", "color-histogram")
    shutil.rmtree(store.choose("color-histogram").folder)
    with pytest.raises(ComparisonError, match=r"no backbone to compare; left out: .*lacks 1 of 7 samples"):
        gather([store])


def test_a_notebooks_store_has_no_manifest(tmp_path):
    store = Store.create(tmp_path / "s")
    with pytest.raises(StoreError, match="has no manifest"):
        gather([store])
