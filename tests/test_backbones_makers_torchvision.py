"""torchvision's classifiers as backbones: equal to torchvision's own forward pass on its own transform."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from featurepipe import backbones, extract, probe
from featurepipe.errors import BackboneError, WeightsUnavailable
from featurepipe.images import ImageTransform, decode

ALL = torchvision.models.list_models(module=torchvision.models)
OPTIONS = {"random_weights": True, "precision": "fp32", "device": "cpu"}
# one of each way in which torchvision ends its networks
ENDS = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "swin_t"]


def before_the_last_linear(network, x):
    """What the last linear layer of a classifier takes."""
    linear = [part for part in network.modules() if isinstance(part, torch.nn.Linear)][-1]
    seen = []
    linear.register_forward_pre_hook(lambda part, given: seen.append(given[0]))
    with torch.no_grad():
        network.eval()(x)
    return seen[0]


def weights_of(name, tag="DEFAULT"):
    return torchvision.models.get_model_weights(name)[tag]


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for n, size in enumerate([(300, 260), (240, 320)]):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).resize((400, 380)).save(tmp_path / f"{n}.png")
    return sorted(tmp_path.glob("*.png"))


@pytest.mark.parametrize("name", ENDS)
def test_embeddings_are_what_torchvisions_own_last_layer_takes(pictures, name):
    made = backbones.create(f"torchvision:{name}", transform={"decoder": "pillow"}, **OPTIONS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None)
    own = weights_of(name).transforms()
    wanted = before_the_last_linear(network, torch.stack([own(Image.open(path)) for path in pictures]))
    found = made.embed(np.stack([decode(path.read_bytes(), made.transform) for path in pictures]))
    assert found.shape == wanted.shape == (2, made.width)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "efficientnet_b0", "swin_t"])  # four ways of resizing
def test_pixels_are_those_of_the_weights_own_transform(pictures, name, decoder):
    from featurepipe.backbones.makers.torchvision_networks import _transform

    own = weights_of(name).transforms()
    transform = ImageTransform.from_mapping({**_transform(weights_of(name), name), "decoder": decoder})
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
    for path in pictures:
        wanted = (own(Image.open(path)) * std + mean) * 255
        difference = np.abs(decode(path.read_bytes(), transform).astype(float) - wanted.numpy()).max()
        assert difference < (0.01 if decoder == "pillow" else 2.01)


@pytest.mark.parametrize("name", ALL)
def test_every_transform_resizes_to_the_size_that_it_names(name):
    from featurepipe.backbones.makers.torchvision_networks import _transform

    for one in torchvision.models.get_model_weights(name):
        transform, own = ImageTransform.from_mapping(_transform(one, name)), one.transforms()
        assert int(transform.input_size[1] / transform.crop_pct) == own.resize_size[0]


def test_googlenets_own_normalisation_is_the_one_it_makes_of_imagenets():
    from featurepipe.backbones.makers.torchvision_networks import _network, _transform

    network = torchvision.models.googlenet(weights=None, transform_input=True, init_weights=False).eval()
    own = _network("googlenet", None, 0).eval()
    own.load_state_dict({key: value for key, value in network.state_dict().items() if key in own.state_dict()})
    x = torch.rand(2, 3, 64, 64)
    values = weights_of("googlenet").transforms()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (values.mean, values.std))
    wanted = before_the_last_linear(network, (x - mean) / std)
    mine = _transform(weights_of("googlenet"), "googlenet")
    mean, std = (torch.tensor(mine[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        found = own.forward_features((x - mean) / std)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """torch's cache holds weights of resnet18, which nobody has trained."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "checkpoints" / weights_of("resnet18").url.rpartition("/")[2]
    place.parent.mkdir(parents=True)
    torch.manual_seed(3)
    torch.save(torchvision.models.resnet18().state_dict(), place)
    return place


def test_weights_of_the_cache_and_of_a_file_are_the_same_backbone(cached):
    how = {"precision": "fp32", "device": "cpu"}
    made = backbones.create("torchvision:resnet18", **how)
    assert (made.width, made.source["name"]) == (512, "torchvision:resnet18.IMAGENET1K_V1")
    assert backbones.create("torchvision:resnet18.IMAGENET1K_V1", **how).fingerprint == made.fingerprint
    assert backbones.create("torchvision:resnet18", weights=cached, **how).fingerprint == made.fingerprint
    assert backbones.recreate(made.spec, made.source, device="cpu").fingerprint == made.fingerprint


def test_no_file_has_weights_downloaded_without_trust(cached):
    made = backbones.create("torchvision:resnet18", precision="fp32", device="cpu")
    cached.unlink()
    with pytest.raises(WeightsUnavailable, match="not on this machine, and no file may fetch them from https://"):
        backbones.recreate(made.spec, made.source, device="cpu")
    spec = {**made.spec, "transform": {**made.spec["transform"], "input_size": [3, 10**5, 10**5]}}
    with pytest.raises(BackboneError, match="more than any network takes"):
        backbones.recreate(spec, made.source, device="cpu")


def test_random_weights_follow_the_seed_and_are_made_again():
    first, again, other = (
        backbones.create("torchvision:shufflenet_v2_x0_5", seed=seed, **OPTIONS) for seed in (1, 1, 2)
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.name == "torchvision:shufflenet_v2_x0_5 (random weights, seed 1)"
    assert backbones.recreate(first.spec, first.source, device="cpu").fingerprint == first.fingerprint
    assert backbones.twin(other.spec, "it", seed=1, device="cpu").fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision:resnet19", {}, "has no classifier 'resnet19'; did you mean resnet18"),
        ("torchvision:resnet50.NOPE", {}, "has no weights 'NOPE'; it has IMAGENET1K_V1, IMAGENET1K_V2"),
        ("torchvision:squeezenet1_0", {"random_weights": True}, "does not end in a linear layer"),
        ("torchvision:resnet18", {"layer": "stage1"}, "takes no arguments, layer or pooling"),
        ("torchvision:resnet18", {"random_weights": True, "weights": "w.pth"}, "exclude each other"),
    ],
)
def test_what_cannot_be_made_is_one_line(name, options, message):
    with pytest.raises(BackboneError, match=message):
        backbones.create(name, device="cpu", **options)


def test_names_are_listed():
    assert "torchvision:resnet50" in backbones("torchvision:resnet*")
    assert backbones("torchvision:resnet50*", pretrained=True) == [
        "torchvision:resnet50.IMAGENET1K_V1",
        "torchvision:resnet50.IMAGENET1K_V2",
    ]


def test_from_extraction_to_a_model_file_that_carries_it(photos, tmp_path):
    root, store, path = photos(per_class=12), tmp_path / "st", tmp_path / "m.safetensors"
    extract(root, store, backbone="torchvision:shufflenet_v2_x0_5", transform={"input_size": (3, 32, 32)}, **OPTIONS)
    name = "torchvision:shufflenet_v2_x0_5"
    probe(store, path, backbone=name, kind="ridge", baselines="none", include_backbone=True, device="cpu")
    made = backbones.create(path, precision="fp32", device="cpu")
    assert made.spec["architecture"] == name
