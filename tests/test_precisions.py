"""Precisions: bf16 where it is fast and gives the same vectors."""

import dataclasses

import numpy as np
import pytest
import torch

from featurepipe import backbones, images
from featurepipe.backbones import precisions
from featurepipe.backbones.precisions import (
    agreement,
    bears_compiling,
    choose_precision,
    cosines,
    drifting,
    has_bf16,
)

NATIVE = ({"avx512_bf16": True}, {"amx_bf16": True}, {"avx2": True, "amx_bf16": True, "avx512_bf16": False})
LACKING = ({}, {"avx2": True}, {"avx512_bf16": False, "amx_bf16": False})


@pytest.fixture
def native(monkeypatch):
    """A machine with bf16."""
    monkeypatch.setattr(precisions, "has_bf16", lambda device: True)


@pytest.fixture(scope="module")
def net():
    transform = {"input_size": (3, 64, 64)}
    return backbones.create("test_resnet", random_weights=True, transform=transform, precision="fp32", device="cpu")


def choose(module, transform):
    spec = {"layer": "penultimate", "pooling": None, "precision": "fp32", "transform": dataclasses.asdict(transform)}
    return choose_precision(backbones.Backbone("stub", module, spec, {}, transform, 8, "cpu"))


@pytest.mark.parametrize("found", NATIVE, ids=str)
def test_a_cpu_with_the_instructions_has_bf16(monkeypatch, found):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert has_bf16(torch.device("cpu"))


@pytest.mark.parametrize("found", LACKING, ids=str)
def test_a_cpu_without_them_has_not(monkeypatch, net, found):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert not has_bf16(torch.device("cpu"))
    assert choose(net.module, net.transform) == "fp32"


def test_a_torch_that_cannot_tell_has_not(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_bf16(torch.device("cpu"))


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_has_it_from_ampere_on(monkeypatch, capability, has):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bf16(torch.device("cuda")) is has


def test_other_devices_have_not():
    assert not has_bf16(torch.device("mps"))


def test_a_network_whose_vectors_stay_the_same_runs_in_bf16(native, net):
    assert choose(net.module, net.transform) == "bf16"


class Stub(torch.nn.Module):
    """A network of one linear layer whose outputs, of every `dtype` but float32, `change` spoils."""

    def __init__(self, change):
        super().__init__()
        self.layer, self.change = torch.nn.Linear(3, 8), change

    def forward_features(self, x):
        x = self.layer(x.mean((2, 3)))
        return x if x.dtype == torch.float32 else self.change(x)

    def forward_head(self, x, pre_logits):
        return x


@pytest.mark.parametrize(
    ("change", "chosen"),
    [
        (lambda x: x, "bf16"),
        (lambda x: x * float("inf"), "fp32"),
        (lambda x: x * float("nan"), "fp32"),
        (lambda x: -x, "fp32"),
        (lambda x: x + x.abs().max(), "fp32"),
        (torch.zeros_like, "fp32"),
    ],
    ids=["same", "overflow", "nan", "turned", "shifted", "nothing"],
)
def test_a_network_that_does_not_bear_bf16_runs_in_fp32(native, net, change, chosen):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert choose(Stub(change).eval(), net.transform) == chosen


def test_the_choice_is_the_same_every_time_and_draws_nothing(native, net):
    before = torch.get_rng_state()
    assert len({choose(net.module, net.transform) for _ in range(3)}) == 1
    assert torch.equal(torch.get_rng_state(), before)


def several(change, layer="stage2"):
    """Layers of a network, one of which `change` spoils in every precision but fp32."""
    made = backbones.create_layers("test_resnet", random_weights=True, precision="fp32", device="cpu")
    intermediates = made.module.forward_intermediates

    def spoilt(x, indices, intermediates_only=False):
        final, maps = intermediates(x, indices=indices)
        if torch.is_autocast_enabled("cpu") and (at := int(layer[5:]) - 1) in indices:
            maps[indices.index(at)] = change(maps[indices.index(at)])
        return maps if intermediates_only else (final, maps)

    made.module.forward_intermediates = spoilt
    return made


@pytest.mark.slow
def test_one_layer_that_does_not_bear_bf16_keeps_all_in_fp32(native):
    assert choose_precision(several(lambda maps: maps)) == "bf16"
    assert choose_precision(several(torch.neg)) == "fp32"
    assert drifting(several(torch.neg).adapted(precision="bf16")) == ["stage2"]
    assert drifting(several(torch.neg)) == []


def test_cosines_are_of_rows():
    a = np.array([[1, 0], [1, 1], [2, 0], [0, 3]], np.float32)
    b = np.array([[2, 0], [1, 0], [-1, 0], [4, 0]], np.float32)
    np.testing.assert_allclose(cosines(a, b), [1, 2**-0.5, -1, 0], atol=1e-12)


def test_rows_of_zeros_agree_with_themselves_alone():
    zero, one = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert (cosines(zero, zero), cosines(zero, one), cosines(one, zero)) == (1, 0, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_agree_with_nothing(bad):
    spoilt = np.array([[1, bad, 0]], np.float32)
    good = np.array([[1, 2, 0]], np.float32)
    assert (cosines(spoilt, good), cosines(good, spoilt)) == (0, 0)
    assert cosines(np.array([[np.nan]]), np.array([[np.nan]])) == 0


def test_agreement_is_the_median():
    wanted = np.eye(5, dtype=np.float32)
    found = wanted.copy()
    found[:2] = -found[:2]
    assert agreement(found, wanted) == 1
    found[2] = np.nan
    assert agreement(found, wanted) == 0


@pytest.mark.parametrize(
    ("precision", "angle", "bears"),
    [("fp32", 0.001, True), ("fp32", 0.01, False), ("bf16", 0.04, True), ("bf16", 0.05, False), ("fp16", 0.05, False)],
)
def test_in_fp32_a_compiled_network_may_differ_by_much_less(precision, angle, bears):
    wanted = np.tile(np.array([[1, 0]], np.float32), (5, 1))
    found = np.tile(np.array([[np.cos(angle), np.sin(angle)]], np.float32), (5, 1))
    assert bears_compiling(found, wanted, precision) is bears


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_single_vector_that_compiling_spoils_is_enough(precision):
    wanted = np.eye(9, dtype=np.float32)
    found = wanted.copy()
    found[4] = np.roll(found[4], 1) + 2 * found[4]  # a cosine of 0.89
    assert agreement(found, wanted) == 1
    assert bears_compiling(wanted, wanted, precision)
    assert not bears_compiling(found, wanted, precision)


def test_very_large_rows_do_not_overflow():
    large = np.full((1, 4), 3e38, np.float32)
    assert cosines(large, large / 2) == pytest.approx(1)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv2_100"])
@pytest.mark.parametrize("data", ["flowers12", "hymenoptera"])
def test_on_real_photos_the_fast_vectors_are_those_of_fp32_and_pillow(shared, name, data):
    """What `auto` may choose beside the slowest and most exact."""
    weights = shared / "weights" / f"{name}.safetensors"
    paths = sorted((shared / "datasets" / data).rglob("*.jpg"))
    files = [path.read_bytes() for path in paths[:: len(paths) // 60][:60]]
    assert len(files) == 60
    vectors, pixels = [], []
    for precision, decoder in (("fp32", "pillow"), ("bf16", "torchvision")):
        settings = {"precision": precision, "transform": {"decoder": decoder}, "device": "cpu"}
        made = backbones.create(name, weights=weights, **settings)
        pixels.append(np.stack([images.decode(content, made.transform) for content in files]))
        vectors.append(np.concatenate([made.embed(pixels[-1][i : i + 8]) for i in range(0, 60, 8)]))
    if data == "hymenoptera":  # the flowers are stored at 224 already, where bilinear pixels are the same
        assert (pixels[0] != pixels[1]).any(axis=(1, 2, 3)).sum() > 50
    found = cosines(*vectors)
    assert np.median(found) >= 0.999
    assert found.min() >= 0.99
