"""Inception I3D: its size and padding, and weights files of both of its ports."""

import numpy as np
import pytest
import torch

from featurepipe import backbones
from featurepipe.backbones.i3d import Inception, checkpoint_filter_fn, padded
from featurepipe.errors import BackboneError, WeightsUnavailable

pytest.importorskip("av", reason="needs featurepipe[video]")
SMALL = {"clips": 1, "length": 8, "input_size": (3, 32, 32), "resize": (32,)}
OPTIONS = {"precision": "fp32", "device": "cpu", "transform": SMALL}
# What piergiaj/pytorch-i3d calls the parts of a block → what hassony2/kinetics_i3d_pytorch does.
BRANCHES = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1", "b2a": "branch_2.0", "b2b": "branch_2.1"} | {
    "b3b": "branch_3.1"
}


def of_piergiaj():
    """A state dict as in its ``rgb_imagenet.pt``, of random weights."""
    generator = torch.Generator().manual_seed(0)
    shapes = {key: value.shape for key, value in Inception().state_dict().items()}
    shapes |= {"logits.conv3d.weight": (400, 1024, 1, 1, 1), "logits.conv3d.bias": (400,)}
    scales = {shape: 0.5 * (np.prod(shape[1:]) or 1) ** -0.5 for shape in shapes.values()}
    made = {key: scales[shape] * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return made | {key: value.abs() + 0.5 for key, value in made.items() if key.endswith("running_var")}


def of_hassony(state):
    """The same under the names of ``model_rgb.pth``; that has no counters of batches."""
    made = {}
    for key, value in state.items():
        top, *rest = key.split(".")
        if top == "logits":
            top = "conv3d_0c_1x1"
        branch = [BRANCHES[rest.pop(0)]] if rest[0] in BRANCHES else []
        rest = ["batch3d" if part == "bn" else part for part in rest]
        if rest[-1] != "num_batches_tracked":
            made[".".join([top.lower(), *branch, *rest])] = value
    return made


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    folder, state = tmp_path_factory.mktemp("ports"), of_piergiaj()
    torch.save(state, folder / "piergiaj.pt")
    torch.save({"state_dict": {f"module.{key}": value for key, value in of_hassony(state).items()}}, folder / "has.pth")
    return folder / "piergiaj.pt", folder / "has.pth"


def test_its_size_is_the_published_one():
    names = dict(Inception().named_parameters())
    assert sum(value.numel() for value in names.values()) == 12_287_264  # of the paper's 25 M for colours and flow
    assert names["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert names["Mixed_3b.b1b.conv3d.weight"].shape == (128, 96, 3, 3, 3)
    assert names["Mixed_5c.b0.conv3d.weight"].shape == (384, 832, 1, 1, 1)


def test_names_of_the_other_port_become_these():
    names = list(of_hassony(Inception().state_dict()))
    assert {"conv3d_1a_7x7.conv3d.weight", "mixed_3b.branch_1.0.batch3d.running_mean"} < {*names}
    wanted = {key for key in Inception().state_dict() if not key.endswith("num_batches_tracked")}
    assert {*checkpoint_filter_fn(dict.fromkeys(names))} == wanted


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [(224, 7, 2, 2, 3), (225, 7, 2, 3, 3), (112, 3, 2, 0, 1), (7, 3, 1, 1, 1), (14, 2, 2, 0, 0), (7, 2, 2, 0, 1)],
)
def test_padding_is_tensorflows(size, kernel, stride, before, after):
    x = torch.ones(1, 1, 1, 1, size)
    found = padded(x, (1, 1, kernel), (1, 1, stride))[0, 0, 0, 0]
    assert found.tolist() == [0] * before + [1] * size + [0] * after


def test_a_classifier_of_the_embedding_is_the_mean_of_the_networks_answers():
    network, x = Inception().eval(), torch.rand(1, 3, 32, 32, 32)
    head = torch.nn.Linear(1024, 5)
    with torch.no_grad():
        maps = []
        network.Mixed_5c.register_forward_hook(lambda part, given, found: maps.append(found))
        found = head(network(x))
        pooled = torch.nn.functional.avg_pool3d(maps[0], (2, 1, 1), 1).flatten(2)  # (1, 1024, T')
        wanted = head(pooled.transpose(1, 2)).mean(1)
    assert maps[0].shape == (1, 1024, 4, 1, 1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.slow
def test_both_ports_give_the_same_vectors(ports):
    one, other = (backbones.create("i3d", weights=path, **OPTIONS) for path in ports)
    x = one.transform.trial(2)
    assert one.fingerprint == other.fingerprint
    assert one.embed(x).shape == (2, 1024)
    assert one.embed(x).std() > 0
    np.testing.assert_array_equal(one.embed(x), other.embed(x))
    again = backbones.recreate(one.spec, one.source, device="cpu")
    assert (again.fingerprint, again.transform) == (one.fingerprint, one.transform)


def test_the_transform_is_that_of_its_training():
    from featurepipe.backbones.makers.i3d_networks import KINETICS
    from featurepipe.videos import VideoTransform

    transform = VideoTransform.from_mapping(KINETICS)
    assert transform.shape == (4 * 64, 3, 224, 224)
    np.testing.assert_allclose(np.diff(transform.moments(0, 10.24)[:64]), 0.04)


@pytest.mark.slow
def test_what_does_not_fit_is_one_line_with_a_name(ports, tmp_path):
    state = torch.load(ports[0], weights_only=True)
    for name, change in (("Mixed_4f.b2b.conv3d.weight", "lacks"), ("Mixed_3b.b0.bn.bias", "has other shapes")):
        broken = dict(state)
        if change == "lacks":
            del broken[name]
        else:
            broken[name] = torch.zeros(3)
        torch.save(broken, tmp_path / "broken.pt")
        with pytest.raises(BackboneError, match=rf"does not fit i3d:rgb: it {change}.*{name}") as caught:
            backbones.create("i3d:rgb", weights=tmp_path / "broken.pt", **OPTIONS)
        assert "\n" not in str(caught.value)
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(BackboneError, match=r"does not fit i3d:rgb: .*Conv3d_1a_7x7\.bn\.bias"):
        backbones.create("i3d", weights=tmp_path / "other.pt", **OPTIONS)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("i3d", {}, "comes without weights; give a file with --weights"),
        ("i3d", {"random_weights": True, "weights": "w.pt"}, "exclude each other"),
        ("i3d:flow", {"random_weights": True}, "no I3D is called 'flow'; there is i3d:rgb"),
        ("i3d", {"weights": "w.pt", "layer": "stage1"}, "takes no arguments, layer or pooling"),
        ("i3d", {"weights": "nowhere.pt"}, "nowhere.pt does not exist"),
    ],
)
def test_what_cannot_be_made_is_one_line(name, options, says):
    error = BackboneError if "flow" in name or "layer" in options else WeightsUnavailable
    with pytest.raises(error, match=says):
        backbones.create(name, **options)


def test_it_is_listed():
    assert backbones("i3d*") == ["i3d:rgb"]
    assert backbones("i3d*", pretrained=True) == []
