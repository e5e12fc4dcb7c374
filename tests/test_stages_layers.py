"""Several layers: extracted in one pass, through real crashes, and probed side by side."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurepipe import backbones, extraction, matrices, models, probes, stages
from featurepipe.backbones import create_layers, creation
from featurepipe.backbones.makers import timm_networks
from featurepipe.errors import BackboneError, ProbeError, StoreError
from featurepipe.stages import Listener, extract, layers, probe_layers
from featurepipe.statistics import wilson
from featurepipe.stores import Store

NET = {"random_weights": True, "transform": {"input_size": (3, 32, 32)}, "device": "cpu"}
TINY = {"backbone": "test_resnet", "workers": 2, **NET}
SMALL = {"batch_size": 4, "rows_per_shard": 8, "workers": 1}
SOME = "stage2,stage4,penultimate"
EVERY = [*(f"stage{n}" for n in range(1, 6)), "penultimate"]


@pytest.fixture(scope="module")
def net():
    return create_layers("test_resnet", SOME, precision="fp32", **NET)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty-six noisy pictures in two classes under train and test, and two that are broken."""
    root, rng = tmp_path_factory.mktemp("layers") / "data", np.random.default_rng(0)
    for n in range(26):
        path = root / ("train" if n < 16 else "test") / "ab"[n % 2] / f"{n:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (32, 32, 3)) // 2 + 60 * (n % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    for n, content in ((3, b""), (9, b"no image")):
        (root / "train" / "a" / f"{n:02}.png").write_bytes(content)
    return root


class Ears(Listener):
    def __init__(self):
        self.heard = []

    def note(self, text):
        self.heard.append(text)


class Hooked:
    """Layers that first call a function with the number of the batch."""

    def __init__(self, inner, hook):
        self.inner, self.hook, self.batches = inner, hook, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def embed(self, pixels):
        self.batches += 1
        self.hook(self.batches)
        return self.inner.embed(pixels)


def counts(result):
    return result["computed"], result["reused"], result["rejected"]


def matrix(store, member):
    opened = Store.open(store)
    return matrices.load(opened, opened.entry(member))


def shard_files(store):
    return {path: (path.stat().st_ino, path.read_bytes()) for path in sorted(store.glob("*/shard-*.h5"))}


def assert_same(store, whole, members):
    """The same vectors by a bit, in the same shards, each once."""
    for member in members:
        found, wanted = matrix(store, member), matrix(whole, member)
        assert found.X.tobytes() == wanted.X.tobytes()
        assert found.ids.tolist() == wanted.ids.tolist()
        sizes = [[len(i.digests) for i in Store.open(s).entry(member).indexes] for s in (store, whole)]
        assert sizes[0] == sizes[1]
    assert stages.verify(store)["ok"]


# -- extraction


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_one_extraction_gives_what_one_for_each_layer_gives(data, tmp_path, name):
    options = {**TINY, "backbone": name, "arguments": {"img_size": 32} if name == "test_vit" else {}}
    result = extract(data, tmp_path / "s", layers="stages", **options)
    assert counts(result) == (26, 0, 2)
    assert (result["fingerprint"], result["width"]) == (None, sum(one["width"] for one in result["layers"]))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    several = Store.open(tmp_path / "s")
    assert {one["folder"] for one in result["layers"]} == {entry.folder.name for entry in several.entries()}
    for one in result["layers"]:
        single = extract(data, tmp_path / "t", layer=one["layer"], **options)
        assert (single["fingerprint"], single["width"]) == (one["fingerprint"], one["width"])
        assert counts(extract(data, tmp_path / "s", layer=one["layer"], **options)) == (0, 26, 2)
        wanted = matrices.load(Store.open(tmp_path / "t"), Store.open(tmp_path / "t").choose(single["fingerprint"]))
        found = matrices.load(several, several.choose(one["fingerprint"]))
        assert found.ids.tolist() == wanted.ids.tolist()
        np.testing.assert_allclose(found.X, wanted.X, rtol=1e-4, atol=1e-5 * np.abs(wanted.X).max())
        assert several.choose(one["fingerprint"]).rejects().keys() == several.choose().rejects().keys()
    assert [one["layer"] for one in result["layers"]] == list(dict.fromkeys(one["layer"] for one in result["layers"]))


def test_a_second_extraction_computes_nothing_and_touches_no_shard(data, tmp_path, net):
    extract(data, tmp_path / "s", backbone=net, **SMALL)
    before = shard_files(tmp_path / "s")
    again = extract(data, tmp_path / "s", backbone=net, **SMALL)
    assert counts(again) == (0, 26, 2)
    assert shard_files(tmp_path / "s") == before
    assert again["layers"][0]["folder"] in {path.parent.name for path in before}


def test_layers_that_are_there_already_are_not_written_again(data, tmp_path, net):
    extract(data, tmp_path / "s", backbone=net.members[-1], **SMALL)
    before = shard_files(tmp_path / "s")
    assert counts(extract(data, tmp_path / "s", backbone=net, **SMALL)) == (26, 0, 2)
    assert before.items() <= shard_files(tmp_path / "s").items()
    assert len(shard_files(tmp_path / "s")) == 3 * len(before)
    extract(data, tmp_path / "whole", backbone=net, **SMALL)
    assert_same(tmp_path / "s", tmp_path / "whole", net.members)


def test_a_growing_data_set_costs_what_is_new(photos, tmp_path, net):
    folder = photos(per_class=4)
    assert counts(extract(folder, tmp_path / "s", backbone=net)) == (8, 0, 0)
    photos(classes=("cat",), per_class=3, seed=5)
    assert counts(extract(folder, tmp_path / "s", backbone=net)) == (3, 8, 0)
    assert all(len(matrix(tmp_path / "s", member)) == 11 for member in net.members)


def test_the_line_of_the_backbone_says_how_many_layers(data, tmp_path, net):
    ears = Ears()
    extract(data, tmp_path / "s", backbone=net, listener=ears)
    assert ears.heard[1] == "28 images · test_resnet (random weights, seed 0), 3 layers on cpu · none in the store yet"
    extract(data, tmp_path / "s", backbone=net.members[0], listener=ears)
    assert ears.heard[-1] == "28 images · test_resnet (random weights, seed 0) stage2 on cpu · 26 in the store already"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({**TINY, "layers": "stages", "layer": "stage1"}, BackboneError, "give only one of them"),
        ({**TINY, "layers": "stage9"}, BackboneError, "has no layer 'stage9'; use penultimate, or stage1 to stage5"),
        ({"backbone": "pixels", "layers": "stages"}, BackboneError, "pixels has no layers"),
        (
            {"backbone": backbones.Pixels(), "layers": "stages"},
            TypeError,
            "options work only with a backbone's name",
        ),
        ({"backbon": "pixels"}, TypeError, "has no parameter 'backbon'; did you mean 'backbone'"),
        ({**TINY, "layers": "stages", "layr": "stage1"}, TypeError, "has no parameter 'layr'; did you mean 'layer'"),
    ],
)
def test_what_cannot_be_makes_no_store(data, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        extract(data, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_several_devices_fill_several_layers(data, tmp_path, net):
    extract(data, tmp_path / "whole", backbone=net, **SMALL)
    result = extract(data, tmp_path / "s", backbone=net, devices=["cpu", "cpu"], **SMALL)
    assert counts(result) == (26, 0, 2)
    assert_same(tmp_path / "s", tmp_path / "whole", net.members)


def test_run_refuses_several_layers_before_anything_is_embedded(data, tmp_path, net):
    with pytest.raises(BackboneError, match="run takes one layer; for several use extract and probe"):
        stages.run(data, tmp_path / "out", backbone=net)
    with pytest.raises(TypeError, match=r"run\(\) has no parameter 'layers'; did you mean 'layer'\?"):
        stages.run(data, tmp_path / "out", **TINY, layers="stages")
    assert not (tmp_path / "out").exists()


# -- what the store holds decides


def test_layers_keep_to_the_precision_and_decoder_of_the_layer_that_is_there(data, tmp_path, machine):
    machine(bf16=False)
    bf16 = {**TINY, "precision": "bf16", "transform": {"input_size": (3, 32, 32), "decoder": "pillow"}}
    extract(data, tmp_path / "s", **bf16)
    result = extract(data, tmp_path / "s", layers=SOME, **TINY)
    assert (result["precision"], result["decoder"]) == ("bf16", "pillow")
    assert len(Store.open(tmp_path / "s").entries()) == 3
    single = extract(data, tmp_path / "s", layer="stage1", **TINY)
    assert (single["precision"], single["decoder"], single["computed"]) == ("bf16", "pillow", 26)
    asked = extract(data, tmp_path / "s", layers=SOME, precision="fp32", **TINY)
    assert (asked["precision"], asked["decoder"]) == ("fp32", "torchvision")


def test_the_same_layer_comes_before_another_ones_precision(data, tmp_path, machine):
    machine(bf16=False)
    extract(data, tmp_path / "s", layer="stage1", precision="fp32", **TINY)
    extract(data, tmp_path / "s", precision="bf16", **TINY)
    assert counts(extract(data, tmp_path / "s", **TINY)) == (0, 26, 2)


def test_a_layer_that_drifts_in_the_stores_precision_is_named(data, tmp_path, machine, monkeypatch):
    machine(bf16=False)
    extract(data, tmp_path / "s", precision="bf16", **TINY)
    monkeypatch.setattr(backbones, "drifting", lambda backbone: ["stage2"])
    ears = Ears()
    extract(data, tmp_path / "s", layers=SOME, listener=ears, **TINY)
    assert any(text.startswith("note: this store is in bf16, in which stage2 drifts") for text in ears.heard)
    ears = Ears()
    extract(data, tmp_path / "t", layers=SOME, precision="bf16", listener=ears, **TINY)
    assert not any("drift" in text for text in ears.heard)


# -- interrupted

CRASH = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from featurepipe import backbones, shards, stages
import timm.data

data, base, moments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
net = backbones.create_layers(
    "test_resnet", "stage2,stage4,penultimate", random_weights=True, transform={"input_size": (3, 32, 32)},
    precision="fp32", device="cpu",
)
real, calls = shards.write, []


def write(path, shard):
    if len(calls) == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, shard)
    calls.append(path)


shards.write = write
endings = []
for moment in moments:
    child = os.fork()
    if not child:
        stages.extract(data, f"{base}/{moment}", backbone=net, batch_size=4, rows_per_shard=8, workers=1)
        os._exit(0)
    endings.append(os.waitpid(child, 0)[1])
print(json.dumps(endings))
"""
MOMENTS = [0, 1, 2, 3, 5, 10, 11]  # shards that are there when it is killed, of twelve


@pytest.fixture(scope="module")
def crashed(tmp_path_factory, data, net):
    base = tmp_path_factory.mktemp("crashes")
    extract(data, base / "whole", backbone=net, **SMALL)
    assert len(shard_files(base / "whole")) == 12
    arguments = [str(data), str(base), json.dumps(MOMENTS)]
    done = subprocess.run([sys.executable, "-c", CRASH, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [signal.SIGKILL] * len(MOMENTS), done.stderr
    return base


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("moment", MOMENTS)
def test_after_kill_9_between_layers_the_next_run_ends_as_if_nothing_had_been(crashed, data, net, moment):
    store, whole = crashed / str(moment), crashed / "whole"
    before = shard_files(store)
    assert len(before) == moment
    kept = [len(Store.open(store).entry(member).places()) for member in net.members]
    assert sorted(kept, reverse=True) == kept
    result = extract(data, store, backbone=net, **SMALL)
    assert counts(result) == (26 - kept[-1], kept[-1], 2)
    assert before.items() <= shard_files(store).items()
    assert_same(store, whole, net.members)
    assert counts(extract(data, store, backbone=net, **SMALL)) == (0, 26, 2)


@pytest.mark.processes
def test_another_run_of_one_layer_in_between_is_no_trouble(crashed, data, net, tmp_path):
    def interrupt(number):
        if number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(data, tmp_path / "s", backbone=Hooked(net, interrupt), **SMALL)
    extract(data, tmp_path / "s", backbone=net.members[1], **SMALL)
    result = extract(data, tmp_path / "s", backbone=net, **SMALL)
    assert counts(result)[0] + counts(result)[1] == 26
    for member in net.members:
        found, wanted = matrix(tmp_path / "s", member), matrix(crashed / "whole", member)
        assert found.ids.tolist() == wanted.ids.tolist()
        np.testing.assert_allclose(found.X, wanted.X, rtol=1e-4, atol=1e-5 * np.abs(wanted.X).max())
    assert stages.verify(tmp_path / "s")["ok"]


# -- what is said of a layer


@pytest.fixture(scope="module")
def filled(tmp_path_factory, data):
    """A store of all layers; not to be changed."""
    store = tmp_path_factory.mktemp("filled") / "s"
    extract(data, store, layers="stages", precision="fp32", **TINY)
    return store


def test_info_export_and_drift_say_which_layer(filled, tmp_path):
    assert sorted(one["layer"] for one in stages.info(filled)["backbones"]) == sorted(EVERY)
    assert stages.export(filled, tmp_path / "x.npz")["layer"] == "penultimate"
    exported = stages.export(filled, tmp_path / "x.npz", layer="stage2")
    assert (exported["layer"], exported["width"]) == ("stage2", 32)
    with np.load(tmp_path / "x.npz") as file:
        wanted = Store.open(filled).choose(layer="stage2")
        np.testing.assert_array_equal(file["X"], matrices.load(Store.open(filled), wanted).X)
    ears = Ears()
    drift = stages.verify(filled, drift=True, images=3, device="cpu", listener=ears)["drift"]
    assert sorted(one["layer"] for one in drift) == sorted(EVERY)
    assert min(one["cosine_min"] for one in drift) > 0.99


def test_drift_builds_a_network_once_for_all_its_layers(filled, data, tmp_path, monkeypatch):
    import shutil

    store = shutil.copytree(filled, tmp_path / "s")
    extract(data, store, precision="fp32", layer="stage2", pooling="max", **TINY)  # pooled otherwise: by itself
    built, passes = [], []
    make, run = timm_networks.make_network, extraction.fill
    monkeypatch.setattr(timm_networks, "make_network", lambda *a, **k: built.append(a) or make(*a, **k))
    monkeypatch.setattr(extraction, "fill", lambda *a, **k: passes.append(a) or run(*a, **k))
    drift = stages.verify(store, drift=True, images=3, device="cpu")["drift"]
    assert (len(built), len(passes)) == (2, 2)
    assert [one["folder"] for one in drift] == [entry.folder.name for entry in Store.open(store).entries()]
    assert {one["images"] for one in drift} == {3}
    assert min(one["cosine_min"] for one in drift) > 0.99

    def refuse(*_, **__):
        raise BackboneError("extract its stages and its penultimate embedding in separate runs")

    monkeypatch.setattr(creation, "create_layers", refuse)
    assert stages.verify(store, drift=True, images=3, device="cpu")["drift"] == drift
    assert len(built) == 2 + 7


def test_probe_takes_the_penultimate_unless_told_otherwise(filled, tmp_path):
    for layer, wanted in ((None, "penultimate"), ("stage3", "stage3")):
        ears = Ears()
        result = stages.probe(
            filled, tmp_path / "m.safetensors", layer=layer, kind="ridge", baselines="none", listener=ears
        )
        assert result["layer"] == models.load(tmp_path / "m.safetensors").backbone["spec"]["layer"] == wanted
        assert ("stage3" in ears.heard[0]) == (wanted == "stage3")
        assert "layers" not in result
    with pytest.raises(TypeError, match="layer works only with a backbone's name"):
        stages.probe(filled, backbone=backbones.Pixels(), layer="stage3")


def test_the_twin_of_a_stage_is_of_that_stage(data, tmp_path):
    extract(data, tmp_path / "s", backbone="bundled", layers="stage2,penultimate", device="cpu", workers=1)
    result = stages.probe(tmp_path / "s", layer="stage2", kind="ridge", baselines="full", device="cpu")
    assert result["baselines"]["random_backbone"] is not None
    (random,) = [entry for entry in Store.open(tmp_path / "s").entries() if "random" in entry.name]
    assert random.layer == "stage2"


# -- probes on all layers


def by_hand(store, layer, kind="ridge"):
    opened = Store.open(store)
    m = matrices.load(opened, opened.choose(layer=layer))
    train, test = m.take(m.split == "train"), m.take(m.split == "test")
    fitted = probes.fit(kind, train.X, train.y)
    return fitted, probes.evaluate(fitted.estimator, test.X, test.y, fitted.temperature)


def test_each_row_is_the_probe_of_that_layer(filled, tmp_path):
    result = probe_layers(filled, tmp_path / "m.safetensors", kind="ridge", baselines="simple", shots=[2], repeats=2)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert [row["layer"] for row in result["layers"]] == EVERY
    for row in result["layers"]:
        fitted, figures = by_hand(filled, row["layer"])
        assert row["alpha"] == fitted.chosen
        assert row["selection"] == {
            "on": "5-fold cross-validation on train",
            "top1": fitted.scores["top1"],
            "log_loss": fitted.scores["log_loss"],
            "n": 16,
        }
        assert (row["n"], row["top1"]) == (figures["n"], figures["top1"])
        assert row["interval"] == list(wilson(row["top1"], row["n"]))
        assert row["folder"] == Store.open(filled).choose(layer=row["layer"]).folder.name
    (chosen,) = [row for row in result["layers"] if row["chosen"]]
    assert chosen == result["layers"][probes.choose_layer([by_hand(filled, layer)[0].right for layer in EVERY])]
    assert (result["layer"], result["alpha"], result["test"]["top1"]) == (
        chosen["layer"], chosen["alpha"], chosen["top1"],
    )  # fmt: skip
    assert f"{chosen['layer']} was chosen from 6 layers on 5-fold cross-validation on train" in " ".join(
        result["notes"]
    )


@pytest.mark.parametrize(("behind", "chosen"), [(0, 2), (2, 2), (3, 1), (50, 1)])
def test_the_last_layer_is_kept_unless_another_is_better_by_more_than_chance(behind, chosen):
    right = np.ones((3, 100), bool)
    right[0, :10] = right[1, :1] = right[2, : 1 + behind] = False
    assert layers._best(list(right)) == probes.choose_layer(right) == chosen
    assert layers._best([right[0], right[1], None]) == 2  # nothing to select on


def test_an_earlier_layer_that_is_better_is_kept(filled, tmp_path, monkeypatch):
    """The same store, with stage 3 right everywhere and the others, the last too, wrong on three images."""
    fit = probes.fit

    def judged(kind, X, *rest, **options):
        fitted = fit(kind, X, *rest, **options)
        right = np.arange(16) >= (0 if X.shape[1] == width else 3)
        return replace(fitted, right=right)

    opened = Store.open(filled)
    width = matrices.load(opened, opened.choose(layer="stage3")).X.shape[1]
    monkeypatch.setattr("featurepipe.probes.parts.fit", judged)
    result = probe_layers(filled, tmp_path / "m.safetensors", layers="stage1,stage3,penultimate", kind="ridge")
    assert [row["layer"] for row in result["layers"] if row["chosen"]] == [result["layer"]] == ["stage3"]
    assert "stage3 was chosen from 3 layers" in " ".join(result["notes"])


def test_the_layer_is_never_chosen_by_test(filled, data, tmp_path):
    """Test labels turned round change every test figure, and nothing that is chosen."""
    import shutil

    store = shutil.copytree(filled, tmp_path / "s")
    before = probe_layers(store, tmp_path / "m.safetensors", kind="ridge", baselines="none")
    table = (store / "manifest.csv").read_text()
    lines = [
        line.replace(",a,test,", ",x,test,").replace(",b,test,", ",a,test,").replace(",x,test,", ",b,test,")
        for line in table.splitlines(keepends=True)
    ]
    (store / "manifest.csv").write_text("".join(lines))
    Store.open(store).accept_edits()
    after = probe_layers(store, tmp_path / "n.safetensors", kind="ridge", baselines="none")
    assert [row["top1"] for row in after["layers"]] == [pytest.approx(1 - row["top1"]) for row in before["layers"]]
    assert (after["layer"], after["alpha"]) == (before["layer"], before["alpha"])
    one, other = (models.load(result["model"]).estimator.coef_ for result in (before, after))
    np.testing.assert_array_equal(one, other)


def test_the_model_file_is_of_the_chosen_layer_and_predicts(filled, data, tmp_path):
    chosen = probe_layers(filled, layers="stage1,stage2", kind="ridge", baselines="none")
    assert chosen["layer"] in ("stage1", "stage2")
    assert chosen["model"] == str(Store.open(filled).choose(layer=chosen["layer"]).folder / "model.safetensors")
    model = models.load(chosen["model"])
    assert model.backbone["spec"]["layer"] == chosen["layer"]
    assert [row["layer"] for row in model.card["layers"]] == ["stage1", "stage2"]
    stages.predict(chosen["model"], data / "test", tmp_path / "p.csv", device="cpu", workers=1)
    stages.evaluate(chosen["model"], filled)
    evaluated = stages.evaluate(chosen["model"], data, device="cpu", workers=1)
    assert evaluated["top1"] == chosen["test"]["top1"]
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 11
    page = stages.report(chosen["model"], tmp_path / "r.html")["report"]
    assert f"test_resnet (random weights, seed 0) {chosen['layer']}" in Path(page).read_text("utf-8")


@pytest.mark.parametrize("baselines", ["none", "simple"])
def test_given_values_and_other_options_are_those_of_probe(filled, tmp_path, baselines):
    options = {"kind": "logistic", "value": 0.5, "seed": 3, "baselines": baselines}
    result = probe_layers(filled, tmp_path / "m.safetensors", layers=["stage5", "penultimate"], **options)
    assert {row["C"] for row in result["layers"]} == {0.5}
    assert {row["selection"]["on"] for row in result["layers"]} == {"5-fold cross-validation on train"}
    assert (result["C"], result["seed"]) == (0.5, 3)
    assert (result["baselines"]["majority"] is None) == (baselines == "none")


def test_with_nothing_to_select_on_the_last_layer_is_taken_and_that_is_said(photos, tmp_path, net):
    root = photos(classes=("ant", "bee"), per_class=1, splits=("train",))
    photos(classes=("ant", "bee"), per_class=3, splits=("test",), seed=4)
    extract(root, tmp_path / "s", backbone=net)
    result = probe_layers(tmp_path / "s", kind="ridge", baselines="none")
    assert result["layer"] == "penultimate"
    assert {row["selection"] for row in result["layers"]} == {None}
    assert "no data were left to select on, so penultimate, the last of 3 layers, was taken" in result["notes"]


def test_layers_that_rejected_other_images_are_probed_on_what_all_have(data, tmp_path, net):
    class Blind(Hooked):
        """Gives no finite vector for the first image of a batch."""

        def embed(self, pixels):
            vectors = self.inner.embed(pixels)
            vectors[0] = np.nan
            return vectors

    extract(data, tmp_path / "s", backbone=Blind(net.members[0], None), batch_size=5, workers=1)
    for member in net.members[1:]:
        extract(data, tmp_path / "s", backbone=member)
    held = [len(matrix(tmp_path / "s", member)) for member in net.members]
    assert held[0] < held[1] == held[2]
    result = probe_layers(tmp_path / "s", kind="ridge", baselines="none")
    first = matrix(tmp_path / "s", net.members[0])
    assert {row["n"] for row in result["layers"]} == {int((first.split == "test").sum())}
    (chosen,) = (row for row in result["layers"] if row["chosen"])
    assert (result["test"]["n"], result["test"]["top1"]) == (chosen["n"], chosen["top1"])
    assert result["data"]["samples"] == held[0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": "stage1,stage7"}, StoreError, "no layer stage7 of test_resnet"),
        ({"backbone": "resnet50"}, StoreError, "no backbone resnet50 here"),
        ({"kind": "tree"}, ProbeError, "'tree' is unknown"),
    ],
)
def test_what_cannot_be_probed_is_one_line(filled, options, error, message):
    with pytest.raises(error, match=message):
        probe_layers(filled, **options)
