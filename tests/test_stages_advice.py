"""The stage advise: what it reads of a store, what it leaves alone, and what it refuses."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import featurepipe
from featurepipe import advise, extract, probe, stages
from featurepipe.errors import ProbeError
from featurepipe.probes.kinds import attentive as attentive_kind
from featurepipe.stages import advice
from featurepipe.stores import Store

pytestmark = pytest.mark.slow

NET = {"backbone": "test_resnet", "transform": {"input_size": (3, 32, 32)}, "device": "cpu", "workers": 1}
SOME = {**NET, "layers": "stage2,stage4,penultimate", "precision": "fp32"}


def draw(root, splits, *, seed, per_class=12, classes="ab"):
    """Noisy pictures; those of the classes differ in brightness."""
    rng = np.random.default_rng(seed)
    for split in splits:
        for n, label in enumerate(classes):
            for i in range(per_class):
                path = root / split / label / f"{i:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 200, (32, 32, 3)) + 25 * n
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("advising") / "data", ("train", "test"), seed=0)


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory):
    """A weights file, so that the network does not count as an untrained baseline."""
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    torch.manual_seed(7)  # not that of random weights
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    SOME["weights"] = path
    yield
    del SOME["weights"]


@pytest.fixture(scope="module")
def stored(data, tmp_path_factory):
    store = tmp_path_factory.mktemp("advised") / "s"
    extract(data, store, **SOME)
    return store


def timeless(result):
    """A result without what differs from run to run, and from store to store."""
    kept = {key: value for key, value in result.items() if key not in ("seconds", "store", "next", "cost_minutes")}
    return {**kept, "evidence": {**kept["evidence"], "seconds_per_image": None}}


def test_the_result_is_json_and_says_all_that_was_promised(stored):
    found = advise(stored)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert featurepipe.advise is stages.advise is advise
    assert [row["layer"] for row in found["evidence"]["layers"]] == ["stage2", "stage4", "penultimate"]
    assert (found["evidence"]["images"], found["evidence"]["classes"]) == (24, 2)
    assert set(found["expected_gain"]) == set(found["cost_minutes"]) == {"linear", "stage", "tune-last", "tune-all"}
    assert found["option"] in found["expected_gain"]
    assert found["evidence"]["seconds_per_image"] > 0
    assert found["splits"] == {"train": 24, "val": 0, "test": 24}
    assert found["next"] == f"featurepipe probe {stored}"
    assert timeless(found) == timeless(advise(stored))


@pytest.mark.parametrize("reported", ["test", "val"])
def test_the_reported_split_plays_no_part(data, tmp_path, reported):
    """Other images, in other number and with other labels, there: not a figure changes."""
    one, other = tmp_path / "one", tmp_path / "other"
    for root in (one, other):
        shutil.copytree(data / "train", root / "train")
    shutil.copytree(data / "test", one / reported)
    draw(other, (reported,), seed=9, per_class=5, classes="ba")
    found = []
    for root in (one, other):
        extract(root, tmp_path / f"{root.name}.store", **SOME)
        found.append(timeless(advise(tmp_path / f"{root.name}.store")))
    assert found[0].pop("splits") != found[1].pop("splits")
    assert found[0] == found[1]


def test_the_reported_rows_are_not_read(data, tmp_path, monkeypatch):
    extract(data, tmp_path / "s", **SOME)
    opened = Store.open(tmp_path / "s")
    test = {row.digest for row in opened.rows() if row.sample.split == "test"}
    rows, gather = [], advice.matrices.gather

    def watched(entry, places, X=None):
        by_place = {place: digest for digest, place in entry.places().items()}
        rows.extend(by_place[tuple(place)] for place in places)
        return gather(entry, places, X)

    monkeypatch.setattr(advice.matrices, "gather", watched)
    advise(tmp_path / "s")
    assert rows
    assert not test & set(rows)


def test_given_val_is_what_is_measured_on(tmp_path):
    extract(draw(tmp_path / "data", ("train", "val", "test"), seed=1), tmp_path / "s", **SOME)
    evidence = advise(tmp_path / "s")["evidence"]
    assert (evidence["measured_on"], evidence["measured"], evidence["images"]) == ("val", 24, 24)


def test_pixels_and_an_untrained_copy_count_where_the_store_holds_them(data, stored, tmp_path):
    store = shutil.copytree(stored, tmp_path / "s")
    assert set(advise(store)["evidence"]["baselines"]) == {"chance", "stage2"}
    extract(data, store, backbone="pixels", workers=1)
    assert set(advise(store)["evidence"]["baselines"]) == {"chance", "stage2", "raw pixels"}
    extract(data, store, **NET, precision="fp32", random_weights=True)
    found = advise(store)
    assert set(found["evidence"]["baselines"]) == {"chance", "stage2", "raw pixels", "untrained copy"}
    assert "-b" not in found["next"]
    extract(data, store, **{**NET, "backbone": "test_convnext"}, precision="fp32", weights=None, random_weights=True)
    assert set(advise(store)["evidence"]["baselines"]) == set(found["evidence"]["baselines"])  # no copy of this one


def test_the_layer_is_the_last_one_that_counts(stored):
    found = advise(stored, layer="stage4")
    assert [row["layer"] for row in found["evidence"]["layers"]] == ["stage2", "stage4"]
    assert found["layer"] in ("stage2", "stage4")
    *_, option, folder = found["next"].split()
    assert option == "-b"
    assert probe(stored, backbone=folder, baselines="none")["layer"] == found["layer"]


def test_of_many_images_a_stratified_draw_is_measured(stored, monkeypatch):
    assert advise(stored)["evidence"]["drawn"] is None
    monkeypatch.setattr(advice, "MOST", 10)
    evidence = advise(stored)["evidence"]
    assert (evidence["drawn"], evidence["measured"], evidence["images"]) == (10, 10, 24)
    assert evidence["per_class"] == {"min": 12, "median": 12.0}


def test_masking_is_read_from_the_backbones_name(stored, monkeypatch):
    plain = advise(stored)
    monkeypatch.setattr(advice.advice, "is_masked", lambda *names: "test_resnet" in " ".join(names))
    masked = advise(stored)
    assert (plain["evidence"]["masked"], masked["evidence"]["masked"]) == (False, True)
    assert any("masking" in warning for warning in masked["warnings"])


def test_an_attentive_probe_is_offered_and_its_figure_is_used_where_it_fits(data, stored, tmp_path, monkeypatch):
    plain = advise(stored)
    assert (plain["attentive"], plain["attentive_commands"]) == (None, [])
    assert plain["evidence"]["tokens"] == {"there": False, "possible": True, "attentive": None}
    monkeypatch.setattr(advice.advice, "is_masked", lambda *names: True)
    offered = advise(stored)
    assert offered["attentive"] == "try"
    get, learn = offered["attentive_commands"]
    assert get.startswith(f"featurepipe extract DATA -s {stored} -b ")
    assert learn == f"featurepipe probe {stored} -b test_resnet --kind attentive"
    store = shutil.copytree(stored, tmp_path / "s")
    assert "--precision fp32 --input-size 3 32 32" in get  # else the tokens would be of another network
    extract(data, store, **{**SOME, "layers": None}, tokens=1)
    (learn,) = advise(store)["attentive_commands"]
    *call, folder, kind, attentive = learn.split()
    assert (call, kind, attentive) == (["featurepipe", "probe", str(store), "-b"], "--kind", "attentive")
    monkeypatch.setattr(attentive_kind, "STEPS", 10)
    monkeypatch.setattr(attentive_kind, "EPOCHS", 1)
    made = probe(store, kind="attentive", backbone=folder, value=1.0, baselines="none")
    found = advise(store)
    figures = found["evidence"]["tokens"]["attentive"]
    assert (figures["model"], figures["n"]) == (made["model"], 24)
    assert found["attentive"] in ("use", "keep")
    assert advise(store, attentive=made["model"])["evidence"] == found["evidence"]
    with monkeypatch.context() as patch:  # of a draw the linear probe is measured, and of all samples the attentive one
        patch.setattr(advice, "MOST", 10)
        drawn = advise(store)
    assert drawn["evidence"]["drawn"] is not None
    assert (drawn["evidence"]["tokens"]["attentive"], drawn["attentive"]) == (None, "try")
    other = probe(stored, tmp_path / "ridge.safetensors", kind="ridge", baselines="none")
    with pytest.raises(ProbeError, match="is a ridge model, not an attentive probe; leave out --attentive"):
        advise(store, attentive=other["model"])
    fewer = shutil.copytree(data, tmp_path / "fewer")
    (fewer / "train" / "b" / "00.png").unlink()
    extract(fewer, tmp_path / "f", **SOME)
    with pytest.raises(ProbeError, match="was trained on other samples than these"):
        advise(tmp_path / "f", attentive=made["model"])
    Path(made["model"]).write_bytes(b"damaged")
    assert advise(store)["evidence"]["tokens"]["attentive"] is None


def test_what_no_head_can_be_tuned_on_is_refused(data, stored, tmp_path):
    extract(data, tmp_path / "p", backbone="pixels", workers=1)
    with pytest.raises(ProbeError, match="pixels is not a network"):
        advise(tmp_path / "p")
    store = shutil.copytree(stored, tmp_path / "sets")
    path = store / "manifest.csv"
    with open(path, newline="") as file:
        rows = [{**row, "label": row["label"] + ";c"} for row in csv.DictReader(file)]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    Store.open(store).accept_edits()
    with pytest.raises(ProbeError, match="not for sets of labels such as 'a;c'"):
        advise(store)
