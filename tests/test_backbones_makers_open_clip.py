"""Image towers of open_clip as backbones: equal to open_clip's own forward pass on its own transform."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from featurepipe import backbones, extract, predict, probe
from featurepipe.errors import BackboneError, WeightsUnavailable
from featurepipe.images import decode

open_clip = pytest.importorskip("open_clip", reason="the extra open_clip is not installed")
OPTIONS = {"precision": "fp32", "device": "cpu"}
PROJECTED = {"arguments": {"projection": True}}
TEXT = {"context_length": 8, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "tiny-vit": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
    "tiny-resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "tiny-timm": {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
    "tiny-vit-quickgelu": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8},
}


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    """open_clip knows a few small architectures."""
    factory = open_clip.factory
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    for name, tower in TOWERS.items():
        config = {"embed_dim": 24, "vision_cfg": tower, "text_cfg": TEXT, "quick_gelu": name.endswith("quickgelu")}
        factory._MODEL_CONFIGS[name] = json.loads(json.dumps(config))


@pytest.fixture
def checkpoint(tmp_path):
    """Saves a whole model as open_clip's training does, and returns it with the file."""

    def save(name, **changes):
        torch.manual_seed(1)
        model, _, transform = open_clip.create_model_and_transforms(name, **changes)
        path = tmp_path / f"{name}.pt"
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": v for key, v in model.state_dict().items()}}, path)
        return model.eval(), transform, path

    return save


@pytest.fixture
def pictures(tmp_path):
    made = []
    for n, size in enumerate([(390, 260), (240, 360)]):
        y, x = np.mgrid[: size[0], : size[1]]
        waves = [128 + 100 * np.sin(x / (20 + 9 * n + c) + y / (30 - 5 * c)) for c in range(3)]
        path = tmp_path / f"{n}.png"
        Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(path)
        made.append(path)
    return made


def embedded(made, pictures):
    return made.embed(np.stack([decode(path.read_bytes(), made.transform) for path in pictures]))


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-resnet", "tiny-timm"])
def test_projected_vectors_are_those_of_encode_image(checkpoint, pictures, name):
    model, transform, path = checkpoint(name)
    made = backbones.create(f"open_clip:{name}/{path}", transform={"decoder": "pillow"}, **PROJECTED, **OPTIONS)
    with torch.no_grad():
        wanted = model.encode_image(torch.stack([transform(Image.open(picture)) for picture in pictures])).numpy()
    found = embedded(made, pictures)
    assert found.shape == wanted.shape == (2, 24)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * float(np.abs(wanted).max()))
    assert backbones.cosines(found, wanted).min() > 0.9999


@pytest.mark.parametrize(("name", "width"), [("tiny-vit", 64), ("tiny-timm", 96)])
def test_before_the_projection_is_what_it_projects(checkpoint, pictures, name, width):
    model, _, path = checkpoint(name)
    made = backbones.create(f"open_clip:{name}", weights=path, **OPTIONS)
    projected = backbones.create(f"open_clip:{name}", weights=path, **PROJECTED, **OPTIONS)
    assert (made.width, projected.width) == (width, 24)
    assert made.fingerprint != projected.fingerprint
    x = torch.from_numpy(embedded(made, pictures))
    with torch.no_grad():
        wanted = x @ model.visual.proj if name == "tiny-vit" else model.visual.head.proj(x)
    np.testing.assert_allclose(embedded(projected, pictures), wanted, atol=1e-5)


def test_the_default_decoder_stays_near(checkpoint, pictures):
    model, transform, path = checkpoint("tiny-vit")
    made = backbones.create(f"open_clip:tiny-vit/{path}", **PROJECTED, **OPTIONS)
    with torch.no_grad():
        wanted = model.encode_image(torch.stack([transform(Image.open(picture)) for picture in pictures])).numpy()
    assert backbones.cosines(embedded(made, pictures), wanted).min() > 0.9999


def test_a_resnet_pools_and_projects_at_once(checkpoint):
    _, _, path = checkpoint("tiny-resnet")
    with pytest.raises(BackboneError, match="take the projected embedding: --backbone-arg projection=True"):
        backbones.create(f"open_clip:tiny-resnet/{path}", **OPTIONS)


def test_images_are_prepared_as_for_all_weights_of_an_architecture():
    from featurepipe.backbones.makers.open_clip_towers import _common, _transform

    siglip = _common("ViT-B-16-SigLIP")
    assert (siglip["mean"], siglip["resize_mode"]) == ((0.5, 0.5, 0.5), "squash")
    assert _transform({**siglip, "size": 224}, "it")["crop_mode"] == "squash"
    assert _common("tiny-vit") == {}
    with pytest.raises(BackboneError, match="prepares images by resize_mode 'longest'"):
        _transform({**siglip, "size": 224, "resize_mode": "longest"}, "it")


def test_weights_get_the_activation_that_they_were_trained_with():
    from featurepipe.backbones.makers import Request
    from featurepipe.backbones.makers.open_clip_towers import _with_activation

    assert _with_activation("ViT-B-32", "openai", "it", Request()) == "ViT-B-32-quickgelu"
    assert _with_activation("ViT-B-32", "laion2b_s34b_b79k", "it", Request()) == "ViT-B-32"


def test_content_decides_the_fingerprint_and_it_is_made_again(checkpoint, tmp_path):
    _, _, path = checkpoint("tiny-vit")
    made = backbones.create(f"open_clip:tiny-vit/{path}", **OPTIONS)
    other = path.rename(tmp_path / "other.pt")
    again = backbones.create("open_clip:tiny-vit", weights=other, **OPTIONS)
    assert again.fingerprint == made.fingerprint
    assert backbones.recreate(again.spec, again.source, device="cpu").fingerprint == made.fingerprint
    assert backbones.create("open_clip:tiny-vit-quickgelu", weights=other, **OPTIONS).fingerprint != made.fingerprint
    one, same, two = (backbones.twin(made.spec, "it", seed=seed, device="cpu") for seed in (1, 1, 2))
    assert one.fingerprint == same.fingerprint != two.fingerprint
    assert backbones.recreate(one.spec, one.source, device="cpu").fingerprint == one.fingerprint


def test_no_file_has_weights_fetched_without_trust(checkpoint):
    _, _, path = checkpoint("tiny-vit")
    made = backbones.create(f"open_clip:tiny-vit/{path}", **OPTIONS)
    source = {"name": "open_clip:ViT-B-32/openai", "weights": None, "random_seed": None}
    with pytest.raises(BackboneError, match="wants open_clip to fetch the weights 'openai' of ViT-B-32"):
        backbones.recreate(made.spec, source, device="cpu")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ViT-B-33", {}, "has no architecture 'ViT-B-33'; did you mean ViT-B-32"),
        ("ViT-B-32", {}, "say which weights; write open_clip:ViT-B-32/TAG with openai, laion"),
        ("ViT-B-32/nope", {}, "it has no weights 'nope'; write open_clip:ViT-B-32/TAG with openai, laion"),
        ("ViT-B-32/openai", {"random_weights": True}, "exclude each other"),
        ("ViT-B-32/openai", {"weights": "w.pt"}, "exclude each other"),
        ("tiny-vit", {"layer": "stage1", "random_weights": True}, "takes no layer or pooling"),
        ("tiny-vit", {"arguments": {"projection": 1}, "random_weights": True}, "True or False, not 1"),
        ("tiny-vit", {"arguments": {"width": 1}, "random_weights": True}, "takes the argument projection alone"),
    ],
)
def test_what_cannot_be_made_is_one_line(name, options, message):
    with pytest.raises(BackboneError, match=message) as caught:
        backbones.create(f"open_clip:{name}", device="cpu", **options)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no connection\nat all")

    monkeypatch.setattr(open_clip, "create_model", fail)
    with pytest.raises(WeightsUnavailable, match=r"cannot be made \(no connection\); weights that were downloaded"):
        backbones.create("open_clip:ViT-B-32/openai", **OPTIONS)


def test_names_are_listed():
    assert "open_clip:RN50" in backbones("open_clip:RN*")
    assert "open_clip:ViT-B-32/openai" in backbones("open_clip:ViT-B-32*", pretrained=True)


def test_from_extraction_to_a_model_file_that_carries_it(photos, checkpoint, tmp_path):
    root, store, path = photos(per_class=12), tmp_path / "st", tmp_path / "m.safetensors"
    _, _, weights = checkpoint("tiny-vit")
    name = f"open_clip:tiny-vit/{weights}"
    assert extract(root, store, backbone=name, **OPTIONS)["computed"] == 24
    assert extract(root, store, backbone=name, **OPTIONS)["computed"] == 0
    probe(store, path, backbone=name, kind="ridge", baselines="full", include_backbone=True, device="cpu")
    weights.unlink()
    assert len(predict(path, root, device="cpu")["predictions"]) == 24
