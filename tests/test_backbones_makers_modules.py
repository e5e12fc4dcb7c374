"""Any torch module as a backbone."""

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from featurepipe import backbones, extract, models, predict, probe, stages
from featurepipe.backbones.makers.modules import IMAGENET
from featurepipe.errors import BackboneError, FinetuningError
from featurepipe.estimators import FeatureExtractor, TransferClassifier

SMALL = {"input_size": (3, 16, 16)}
OPTIONS = {"transform": SMALL, "precision": "fp32", "device": "cpu"}


class Net(torch.nn.Module):
    """A convolution; a map of features, or what a function makes of it."""

    def __init__(self, finish=lambda x: x, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = torch.nn.Conv2d(3, 5, 3, stride=2), torch.nn.BatchNorm2d(5)
        self.drop, self.finish = torch.nn.Dropout(0.5), finish

    def forward(self, x):
        return self.finish(self.drop(self.norm(self.conv(x)).relu()))


def vectors(x):
    return x.amax((2, 3))


def pixels(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, *SMALL["input_size"]), np.uint8)


def wanted(net, transform=IMAGENET):
    """What a module itself gives of `pixels`."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
    with torch.no_grad():
        return copy.deepcopy(net).eval()((torch.from_numpy(pixels()) / 255 - mean) / std)


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Writes a module of functions that make networks into the current folder, which no other test imports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/")  # whatever is put before it is taken away again

    def write(text, name="mynets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(f"import torch\n{text}")

    yield write
    sys.modules.pop("mynets", None)


MAKES = """
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3)
    def forward(self, x):
        return self.conv(x).amax((2, 3))
def make():
    return Net()
def full():
    return Net(), {"input_size": (3, 16, 16), "interpolation": "bilinear"}
"""


def test_vectors_are_the_modules_own(recwarn):
    net = Net(vectors)
    made = backbones.create(net, **OPTIONS)
    np.testing.assert_allclose(made.embed(pixels()), wanted(net), rtol=1e-4, atol=1e-5)
    assert (made.width, made.name) == (5, f"module:{Net.__module__}.Net")
    assert made.transform == replace(IMAGENET, **SMALL)


def test_a_map_of_features_is_averaged_and_that_is_said():
    net = Net()
    made = backbones.create(net, **OPTIONS)
    np.testing.assert_allclose(made.embed(pixels()), wanted(net).mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert any("gives a map of features; the embedding is its mean" in note for note in made.notes)


def test_the_module_is_copied_and_frozen_and_the_callers_stays_as_it_was():
    net = Net(vectors)
    made = backbones.create(net, **OPTIONS)
    before = made.embed(pixels())
    with torch.no_grad():
        net.conv.weight.mul_(2)
    assert net.training
    assert net.conv.weight.requires_grad
    np.testing.assert_array_equal(made.embed(pixels()), before)
    assert not any(parameter.requires_grad for parameter in made.module.parameters())


def test_weights_structure_and_transform_decide_the_fingerprint():
    base = backbones.create(Net(vectors), **OPTIONS)
    assert backbones.create(Net(vectors), **OPTIONS).fingerprint == base.fingerprint
    other = Net(vectors)
    other.drop.p = 0.25  # which only its repr shows
    changed = [
        backbones.create(Net(vectors, seed=1), **OPTIONS),
        backbones.create(other, **OPTIONS),
        backbones.create(Net(vectors), **{**OPTIONS, "transform": {**SMALL, "crop_pct": 1.0}}),
    ]
    assert len({base.fingerprint, *(one.fingerprint for one in changed)}) == 4
    assert base.spec["arguments"]["code"] is not None
    assert backbones.create(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3)), **OPTIONS).spec["arguments"]["code"] is None


def test_what_is_taken_for_granted_is_said():
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 7))
    notes = " ".join(backbones.create(net, device="cpu").notes)
    assert "comes without a transform; it gets ImageNet's: 224×224, bicubic" in notes
    assert "ends in a linear layer of 7 outputs; if that is its classifier" in notes


def test_a_module_without_parameters_runs():
    made = backbones.create(torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten()), **OPTIONS)
    assert made.embed(pixels()).shape == (3, 12)


@pytest.mark.parametrize(
    ("finish", "message"),
    [
        (lambda x: (x, x), "gives a tuple, not a tensor of shape"),
        (lambda x: x.flatten(1)[:, :, None], r"gives torch.float32 of shape \(2, 245, 1\) for 2 images"),
        (lambda x: x.flatten(), r"of shape \(490,\) for 2 images"),
        (lambda x: x.mean((0, 2, 3))[None], r"of shape \(1, 5\) for 2 images"),
        (lambda x: x.amax((2, 3)).long(), "torch.int64"),
        (lambda x: x @ torch.zeros(3, 3), "does not run on 3×16×16 input"),
        (lambda x: torch.rand(len(x), 5), "gives different vectors for the same images, even in evaluation mode"),
    ],
    ids=["tuple", "rows", "flat", "no batch", "integers", "failing", "random"],
)
def test_what_is_no_embedding_is_refused(finish, message):
    with pytest.raises(BackboneError, match=message):
        backbones.create(Net(finish), **OPTIONS)


@pytest.mark.parametrize(
    "options", [{"layer": "stage1"}, {"pooling": "max"}, {"random_weights": True}, {"arguments": {"a": 1}}]
)
def test_options_of_timm_are_refused(options):
    with pytest.raises(BackboneError, match="takes no arguments, random weights, layer or pooling"):
        backbones.create(Net(vectors), **OPTIONS, **options)


def test_from_extraction_to_probe_and_estimators(photos, tmp_path):
    root, store, path = photos(per_class=12), tmp_path / "st", tmp_path / "m.safetensors"
    net = Net(vectors)
    assert extract(root, store, backbone=net, **OPTIONS)["computed"] == 24
    made = backbones.create(net, **OPTIONS)
    assert extract(root, store, backbone=made)["computed"] == 0
    probed = probe(store, path, backbone=made, kind="ridge", baselines="none")
    assert stages.evaluate(path, store)["top1"] == probed["test"]["top1"]
    with pytest.raises(BackboneError, match="which no file can hold; give the module itself again"):
        predict(path, root, trust=True)
    with pytest.raises(FinetuningError, match="is not a network that can be tuned"):
        stages.finetune(store)
    files = sorted(root.rglob("*.*"))
    extractor = FeatureExtractor(net, image_transform=SMALL, precision="fp32", device="cpu")
    assert extractor.fit_transform(files).shape == (24, 5)
    assert extractor.fingerprint_ == made.fingerprint
    fitted = TransferClassifier(extractor, kind="ridge").fit(files, [path.parent.name for path in files])
    assert fitted.predict(files).shape == (24,)


def test_a_function_of_a_file_makes_it(code):
    code(MAKES)
    made = backbones.create("module:mynets:make", **OPTIONS)
    assert (made.name, made.spec["architecture"]) == ("module:mynets:make", "module:mynets.Net")
    full = backbones.create("module:mynets:full", precision="fp32", device="cpu")
    assert (full.transform.input_size, full.transform.interpolation) == ((3, 16, 16), "bilinear")
    assert not full.notes
    assert sys.path[0] != str(code)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("module:mynets", "does not say which function"),
        ("module:nowhere:make", "ModuleNotFoundError: No module named 'nowhere'; write module:PACKAGE.FILE:FUNCTION"),
        ("module:mynets:nothing", "AttributeError"),
        ("module:mynets:number", "gives a int, not a torch module"),
        ("module:mynets:odd", "gives a str for its transform; give a dict"),
    ],
)
def test_a_function_that_makes_none_is_one_line(code, name, message):
    code("def number(): return 1\ndef odd(): return torch.nn.Flatten(), 'x'")
    with pytest.raises(BackboneError, match=message):
        backbones.create(name)


def test_a_file_may_import_code_only_with_trust(code, photos, tmp_path):
    code(MAKES)
    root, store, path = photos(per_class=12), tmp_path / "st", tmp_path / "m.safetensors"
    extract(root, store, backbone="module:mynets:full", device="cpu", precision="fp32")
    probe(store, path, kind="ridge", baselines="none")
    with pytest.raises(BackboneError, match=r"m\.safetensors wants to import 'mynets:full', which runs the code in it"):
        predict(path, root)
    assert predict(path, root, trust=True)["predicted"] == 24
    probe(store, path, kind="ridge", baselines="none", include_backbone=True, trust=True, force=True)
    with pytest.raises(BackboneError, match="wants to import"):
        backbones.create(path, device="cpu")
    made = backbones.create(path, trust=True, precision="fp32", device="cpu")
    assert made.fingerprint == models.load(path).backbone["fingerprint"]


def test_its_weights_may_be_in_a_file(code, tmp_path):
    code(MAKES)
    state = {"model": {"conv.weight": torch.ones(4, 3, 3, 3), "conv.bias": torch.zeros(4)}}
    torch.save(state, tmp_path / "w.pth")
    made = backbones.create("module:mynets:make", weights=tmp_path / "w.pth", **OPTIONS)
    assert made.embed(pixels()).std(axis=1).max() < 1e-4  # of equal filters
    assert made.source["weights"] == str(tmp_path / "w.pth")
