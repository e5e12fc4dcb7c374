import dataclasses
import io
import json
import logging
import os
import pickle
import random
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config

import featurepipe
from featurepipe import backbones, images
from featurepipe.digests import sha256_state_dict
from featurepipe.errors import BackboneError, FingerprintMismatch, OutOfMemory, WeightsUnavailable
from featurepipe.images import ImageTransform

FAMILIES = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
SMALL = {"input_size": (3, 64, 64)}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def whole(name, *, seed=0, **arguments):
    """A timm model with classifier, whose every weight and running statistic matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = timm.create_model(name, **arguments).eval()
        for key, tensor in module.state_dict().items():
            if "running_var" in key:
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape) * 0.05)
    return module


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Factory of (module, safetensors file) by name."""
    made, folder = {}, tmp_path_factory.mktemp("weights")

    def make(name="test_resnet"):
        if name not in made:
            module, path = whole(name), folder / f"{name}.safetensors"
            save_file(module.state_dict(), path)
            made[name] = (module, path)
        return made[name]

    return make


def jpegs(count=5, seed=0):
    """Files of several sizes and contrasts."""
    files, rng = [], np.random.default_rng(seed)
    for n in range(count):
        height, width = rng.integers(60, 300, 2)
        ramp = np.linspace(0, 40 * n, width)[None, :, None]
        pixels = (ramp + rng.integers(0, 60 + 30 * n, (height, width, 3))) % 256
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    return files


def of_timm(module, files, **overrides):
    """Embeddings by timm alone: its float transform with normalisation, its forward pass."""
    made = create_transform(**{**resolve_model_data_config(module), **overrides}, is_training=False)
    with torch.no_grad():
        x = torch.stack([made(Image.open(io.BytesIO(data)).convert("RGB")) for data in files])
        return module.forward_head(module.forward_features(x), pre_logits=True).numpy()


def ours(backbone, files):
    return backbone.embed(np.stack([images.decode(data, backbone.transform) for data in files]))


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def assert_parity(found, wanted, *, decoder="pillow"):
    """Pillow's pixels are timm's own; torchvision's differ by a grey level here and there."""
    assert found.shape == wanted.shape
    assert cosines(found, wanted).min() >= 0.9999
    if decoder == "pillow":
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def noise(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size), dtype=np.uint8)


def random_resnet(**settings):
    return backbones.create("test_resnet", **{"random_weights": True, "transform": SMALL, **settings})


PILLOW = {"decoder": "pillow"}
DECODERS = pytest.mark.parametrize("decoder", ["pillow", "torchvision"])


# Equal to timm


@pytest.mark.parametrize("name", FAMILIES)
@DECODERS
def test_embeddings_equal_timms_own_pre_logits_on_timms_own_transform(saved, name, decoder):
    module, path = saved(name)
    backbone = backbones.create(name, weights=path, precision="fp32", transform={"decoder": decoder})
    files = jpegs()
    wanted = of_timm(module, files)
    found = ours(backbone, files)
    assert found.dtype == np.float32
    assert backbone.width == found.shape[1] == wanted.shape[1]
    assert np.abs(np.subtract.outer(wanted[:, 0], wanted[:, 0])).max() > 0  # the images do differ
    assert_parity(found, wanted, decoder=decoder)


@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_times_the_files_own_classifier_equal_the_whole_models_logits(saved, name):
    module, path = saved(name)
    files = jpegs(3)
    backbone = backbones.create(name, weights=path, precision="fp32", transform=PILLOW)
    made = create_transform(**resolve_model_data_config(module), is_training=False)
    with torch.no_grad():
        logits = module(torch.stack([made(Image.open(io.BytesIO(data))) for data in files]))
        found = module.get_classifier()(torch.from_numpy(ours(backbone, files)))
    np.testing.assert_allclose(found, logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_vector_does_not_depend_on_its_batch(name):
    backbone = backbones.create(name, random_weights=True)
    pixels = noise(6, backbone.transform.input_size)
    alone = np.concatenate([backbone.embed(pixels[n : n + 1]) for n in range(6)])
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4], [2, 2, 2, 0], [4]):
        np.testing.assert_allclose(backbone.embed(pixels[order]), alone[order], rtol=1e-4, atol=1e-5)


def test_the_network_is_frozen_even_if_someone_called_train(saved):
    backbone = backbones.create("test_resnet", weights=saved()[1])
    pixels = noise(4, backbone.transform.input_size)
    before = {key: value.clone() for key, value in backbone.module.state_dict().items()}
    vectors = backbone.embed(pixels)
    backbone.module.train()
    np.testing.assert_array_equal(backbone.embed(pixels), vectors)
    backbone.embed(pixels[:1])
    after = backbone.module.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(part.training for part in backbone.module.modules())
    assert not any(weight.requires_grad for weight in backbone.module.parameters())
    assert torch.is_grad_enabled()


def test_pixels_may_be_read_only_strided_or_none_and_are_not_changed():
    backbone = random_resnet()
    pixels = noise(4, backbone.transform.input_size)
    wanted = backbone.embed(pixels.copy())
    kept = pixels.copy()
    pixels.flags.writeable = False
    np.testing.assert_array_equal(backbone.embed(pixels), wanted)
    np.testing.assert_array_equal(backbone.embed(np.asfortranarray(pixels)), wanted)
    np.testing.assert_allclose(backbone.embed(pixels[::-1])[::-1], wanted, atol=1e-6)
    np.testing.assert_array_equal(pixels, kept)
    assert backbone.embed(pixels[:0]).shape == (0, backbone.width)


@pytest.mark.parametrize("pixels", [np.zeros((1, 3, 64, 64), np.float32), np.zeros((1, 3, 32, 32), np.uint8)])
def test_pixels_of_another_kind_or_size_are_refused(pixels):
    with pytest.raises(BackboneError, match="inputs are uint8 of shape"):
        random_resnet().embed(pixels)


@pytest.mark.parametrize("mean", [(0.5, 0.5, 0.5), (0.485, 0.456, 0.406), (0.0, 0.0, 0.0)])
@DECODERS
def test_overridden_mean_and_std_reach_the_network(saved, mean, decoder):
    module, path = saved()
    overrides = {"mean": mean, "std": (0.2, 0.3, 0.4), "interpolation": "bicubic", "crop_pct": 0.8}
    backbone = backbones.create(
        "test_resnet", weights=path, transform={**overrides, "decoder": decoder}, precision="fp32"
    )
    assert_parity(ours(backbone, jpegs(3)), of_timm(module, jpegs(3), **overrides), decoder=decoder)


# Layers and pooling


def features_only(module, name, index, **arguments):
    """timm's own features_only model with the same weights; its keys are called a little differently."""
    made = timm.create_model(name, features_only=True, out_indices=(index,), **arguments).eval()
    plain = {re.sub(r"[._]", "", key): value for key, value in module.state_dict().items()}
    made.load_state_dict({key: plain[re.sub(r"[._]", "", key.removeprefix("model."))] for key in made.state_dict()})
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_stages_equal_timms_features_only_pooled(saved, name, pooling):
    module, path = saved(name)
    pixels = noise(2, module.pretrained_cfg["input_size"])
    x = torch.from_numpy(pixels).float() / 255
    vectors = []
    for index in range(len(module.feature_info)):
        backbone = backbones.create(name, weights=path, layer=f"stage{index + 1}", pooling=pooling, precision="fp32")
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.transform.mean, backbone.transform.std))
        with torch.no_grad():
            (maps,) = features_only(module, name, index)((x - mean) / std)
        wanted = maps.amax((2, 3)) if pooling == "max" else maps.mean((2, 3))
        vectors.append(backbone.embed(pixels))
        assert backbone.width == vectors[-1].shape[1]
        np.testing.assert_allclose(vectors[-1], wanted, rtol=1e-3, atol=1e-4)
    assert len({vector.tobytes() for vector in vectors}) == len(module.feature_info)


def test_stages_of_a_network_that_keeps_channels_last():
    arguments = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2, "img_size": 64}
    name = "swin_tiny_patch4_window7_224"
    for index in range(4):
        backbone = backbones.create(
            name, arguments=arguments, random_weights=True, layer=f"stage{index + 1}", precision="fp32"
        )
        pixels = noise(2, backbone.transform.input_size)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.transform.mean, backbone.transform.std))
        made = features_only(backbone.module, name, index, **arguments)
        with torch.no_grad():
            (maps,) = made((torch.from_numpy(pixels).float() / 255 - mean) / std)  # (B, h, w, D)
        np.testing.assert_allclose(backbone.embed(pixels), maps.mean((1, 2)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layer", ["stage0", "stage6", "stage", "stage01", "stage1 ", "Stage1", "stage²", "layer4", ""])
def test_a_layer_that_is_not_there_says_which_are(layer):
    with pytest.raises(BackboneError, match="stage1 to stage5"):
        random_resnet(layer=layer)


@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax", "catavgmax"])
def test_pooling_of_a_cnn_pools_the_last_feature_map(saved, pooling):
    module, path = saved()
    backbone = backbones.create("test_resnet", weights=path, pooling=pooling, precision="fp32")
    pixels = noise(3, backbone.transform.input_size)
    with torch.no_grad():
        maps = module.forward_features((torch.from_numpy(pixels).float() / 255 - 0.5) / 0.5)
    avg, top = maps.mean((2, 3)), maps.amax((2, 3))
    wanted = {"avg": avg, "max": top, "avgmax": (avg + top) / 2, "catavgmax": torch.cat([avg, top], 1)}[pooling]
    assert backbone.width == wanted.shape[1]
    np.testing.assert_allclose(backbone.embed(pixels), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pooling", ["token", "avg", "max"])
def test_pooling_of_a_vit_takes_the_class_token_or_the_patches(saved, pooling):
    module, path = saved("test_vit")
    backbone = backbones.create("test_vit", weights=path, pooling=pooling, precision="fp32")
    pixels = noise(3, backbone.transform.input_size)
    with torch.no_grad():
        tokens = module.forward_features((torch.from_numpy(pixels).float() / 255 - 0.5) / 0.5)
    patches = tokens[:, module.num_prefix_tokens :]
    wanted = {"token": tokens[:, 0], "avg": patches.mean(1), "max": patches.amax(1)}[pooling]
    np.testing.assert_allclose(backbone.embed(pixels), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_naming_the_models_own_pooling_changes_no_vector(saved, name):
    module, path = saved(name)
    own = getattr(module, "global_pool", None)
    own = own if isinstance(own, str) else "avg"
    pixels = noise(2, module.pretrained_cfg["input_size"])
    found = [backbones.create(name, weights=path, pooling=pooling).embed(pixels) for pooling in (None, own)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("test_resnet", {"pooling": "token"}),
        ("test_resnet", {"pooling": "bogus"}),
        ("test_resnet", {"pooling": ""}),
        ("test_vit", {"pooling": "map"}),
        ("test_vit", {"pooling": "bogus"}),
        ("test_resnet", {"pooling": "token", "layer": "stage1"}),
    ],
)
def test_pooling_that_does_not_fit_is_refused(name, settings):
    with pytest.raises(BackboneError, match="pool"):
        backbones.create(name, random_weights=True, **settings)


@pytest.mark.parametrize(
    ("name", "pooling", "message"),
    [
        (
            "test_resnet",
            "",
            "with pooling '' gives a map of features for each image, not one vector; choose avg or max",
        ),
        ("test_vit", "", "with pooling '' gives a row of tokens for each image, not .*; choose avg, max or token"),
        ("test_vit", "none", "by 'none': an embedding is one vector for each image; choose avg, max or token"),
        ("test_vit", "tokens", "by 'tokens': an embedding is one vector for each image; choose avg, max or token"),
        ("test_vit", "bogus", "cannot be pooled by 'bogus': .*; choose avg, max or token"),
        ("test_resnet", "token", "cannot be pooled by 'token': .*; choose avg or max"),
        pytest.param(
            "test_mambaout",
            "flatten",
            "cannot be pooled by 'flatten': .*; choose avg or max",
            marks=pytest.mark.skipif(not hasattr(timm.models.CrossVit, "forward_intermediates"), reason="old timm"),
        ),
    ],
)
def test_a_refused_pooling_says_which_there_are_and_none_of_them_is_refused(name, pooling, message):
    with pytest.raises(BackboneError, match=f"{name} .*{message}$") as caught:
        backbones.create(name, random_weights=True, pooling=pooling, device="cpu")
    assert "none)" not in str(caught.value)
    for other in re.split(", | or ", str(caught.value).rpartition("choose ")[2]):
        backbones.create(name, random_weights=True, pooling=other, device="cpu")


# Precision and random weights


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_bf16_runs_on_cpu_drifts_a_little_and_enters_the_fingerprint(saved, name):
    full = backbones.create(name, weights=saved(name)[1], precision="fp32")
    half = backbones.create(name, weights=saved(name)[1], precision="bf16", device="cpu")
    pixels = noise(4, full.transform.input_size)
    a, b = full.embed(pixels), half.embed(pixels)
    assert b.dtype == np.float32
    assert not np.array_equal(a, b)
    assert cosines(a, b).min() > 0.99
    assert full.fingerprint != half.fingerprint
    assert (full.spec["precision"], half.spec["precision"]) == ("fp32", "bf16")


@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
def test_auto_precision_is_the_chosen_one_by_fingerprint_too(machine, chosen):
    machine(bf16=chosen == "bf16")
    assert random_resnet(precision="auto").fingerprint == random_resnet(precision=chosen).fingerprint
    assert random_resnet(precision="auto").spec["precision"] == chosen


def test_unknown_precisions_are_refused():
    with pytest.raises(BackboneError, match="'fp8' is unknown; use auto, fp32, bf16, fp16"):
        random_resnet(precision="fp8")


def test_random_weights_follow_the_seed():
    pixels = noise(2, SMALL["input_size"])
    first, again, other = random_resnet(seed=1), random_resnet(seed=1), random_resnet(seed=2)
    np.testing.assert_array_equal(first.embed(pixels), again.embed(pixels))
    assert first.fingerprint == again.fingerprint
    assert not np.array_equal(first.embed(pixels), other.embed(pixels))
    assert first.fingerprint != other.fingerprint
    assert first.name == "test_resnet (random weights, seed 1)"
    assert (first.source["random_seed"], first.source["weights"]) == (1, None)


def test_random_weights_do_not_depend_on_what_was_drawn_before():
    torch.manual_seed(5)
    first = random_resnet()
    torch.rand(3)
    assert random_resnet().fingerprint == first.fingerprint


def test_no_global_generator_is_disturbed(saved):
    def states():
        numpys = np.random.get_state()
        return torch.get_rng_state().tolist(), random.getstate(), numpys[1].tolist(), numpys[2]

    before = states()
    random_resnet(seed=3).embed(noise(1, SMALL["input_size"]))
    backbones.create("test_vit", weights=saved("test_vit")[1])
    assert states() == before


def test_gpus_are_not_reseeded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("reseeded"))
    random_resnet(seed=3)


def test_random_weights_and_a_file_exclude_each_other(saved):
    with pytest.raises(BackboneError, match="exclude each other"):
        backbones.create("test_resnet", weights=saved()[1], random_weights=True)


# Fingerprint


@pytest.mark.parametrize(
    "settings",
    [
        {"transform": {"mean": (0.5, 0.5, 0.51)}},
        {"transform": {"std": (0.5, 0.5, 0.51)}},
        {"transform": {"crop_pct": 0.9}},
        {"transform": {"interpolation": "bicubic"}},
        {"transform": {"crop_mode": "squash"}},
        {"transform": {"decoder": "pillow"}},
        {"transform": {"decoder": "draft"}},
        {"transform": {"input_size": (3, 128, 128)}},
        {"layer": "stage4"},
        {"layer": "stage4", "pooling": "max"},
        {"pooling": "max"},
        {"precision": "bf16"},
        {"arguments": {"act_layer": "silu"}},
    ],
    ids=str,
)
def test_fingerprint_changes_with_whatever_decides_a_vector(saved, settings):
    base = backbones.create("test_resnet", weights=saved()[1], precision="fp32")
    other = backbones.create("test_resnet", weights=saved()[1], **{"precision": "fp32", **settings})
    assert re.fullmatch("[0-9a-f]{64}", base.fingerprint)
    assert other.fingerprint != base.fingerprint
    assert json.loads(json.dumps(other.spec)) == other.spec


def test_fingerprint_changes_with_one_bit_of_one_weight_or_running_statistic(saved, tmp_path):
    module, path = saved()
    prints = {backbones.create("test_resnet", weights=path).fingerprint}
    for key in ("layer4.0.conv1.weight", "bn1.running_mean"):
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        state[key].view(-1)[7] = torch.nextafter(state[key].view(-1)[7], torch.tensor(9.0))
        save_file(state, tmp_path / "other.safetensors")
        prints.add(backbones.create("test_resnet", weights=tmp_path / "other.safetensors").fingerprint)
    assert len(prints) == 3


def other_classes(state):
    return {**state, "fc.weight": torch.zeros(7, state["fc.weight"].shape[1]), "fc.bias": torch.zeros(7)}


def without(state, part):
    return {key: value for key, value in state.items() if part not in key}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("copy.safetensors", lambda state: state),
        ("no-classifier.safetensors", lambda state: without(state, "fc.")),
        ("other-classes.safetensors", other_classes),
        ("no-counters.safetensors", lambda state: without(state, "num_batches_tracked")),
        ("reversed.safetensors", lambda state: dict(reversed(state.items()))),
        ("prefixed.safetensors", lambda state: {f"backbone.{key}": value for key, value in state.items()}),
        ("plain.pt", lambda state: state),
        ("plain.pth", lambda state: state),
        ("wrapped.pt", lambda state: {"state_dict": state, "epoch": 3}),
        ("model.pt", lambda state: {"model": state}),
        ("parallel.pt", lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}}),
        ("parameters.pt", lambda state: {key: torch.nn.Parameter(v, False) for key, v in state.items()}),
        ("no-classifier.bin", lambda state: without(state, "fc.")),
    ],
)
def test_fingerprint_does_not_change_with_the_files_name_or_format(saved, tmp_path, name, change):
    module, path = saved()
    base = backbones.create("test_resnet", weights=path)
    state = change(dict(module.state_dict()))
    if name.endswith(".safetensors"):
        save_file({key: value.clone() for key, value in state.items()}, tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    other = backbones.create("test_resnet.r160_in1k", weights=str(tmp_path / name))
    assert other.fingerprint == base.fingerprint
    assert other.source["weights"] == str((tmp_path / name).resolve())
    pixels = noise(2, base.transform.input_size)
    np.testing.assert_array_equal(base.embed(pixels), other.embed(pixels))


def test_weights_in_half_precision_are_loaded_as_float32(saved, tmp_path):
    state = {key: v.half() if v.is_floating_point() else v for key, v in saved()[0].state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    backbone = backbones.create("test_resnet", weights=tmp_path / "half.safetensors")
    assert {weight.dtype for weight in backbone.module.parameters()} == {torch.float32}


# What a weights file says of itself


def with_metadata(saved, tmp_path, **metadata):
    path = tmp_path / "said.safetensors"
    save_file(saved()[0].state_dict(), path, metadata=metadata)
    return path


def test_transform_values_in_the_metadata_are_respected_and_can_be_overridden(saved, tmp_path):
    path = with_metadata(
        saved,
        tmp_path,
        mean="[0.1, 0.2, 0.3]",
        std="0.25",
        interpolation="bicubic",
        crop_pct="0.75",
        crop_mode="squash",
        input_size="[3, 96, 64]",
        format="pt",
    )
    said = backbones.create("test_resnet", weights=path).transform
    expected = ImageTransform((3, 96, 64), "bicubic", (0.1, 0.2, 0.3), (0.25,) * 3, 0.75, "squash", "torchvision")
    assert said == expected
    given = {"mean": (0.5, 0.5, 0.5), "crop_pct": 1.0, "interpolation": None}
    overridden = backbones.create("test_resnet", weights=path, transform=given).transform
    assert overridden == dataclasses.replace(expected, mean=(0.5, 0.5, 0.5), crop_pct=1.0)


def test_a_file_with_featurepipes_own_header_says_its_transform(saved, tmp_path):
    config = {"architecture": "test_resnet", "arguments": {}, "transform": {"mean": [0.1] * 3, "crop_pct": 0.8}}
    path = with_metadata(saved, tmp_path, featurepipe=json.dumps(config))
    transform = backbones.create("test_resnet", weights=path).transform
    assert (transform.mean, transform.crop_pct, transform.std) == ((0.1,) * 3, 0.8, (0.5,) * 3)
    assert backbones.create("bundled", weights=path).spec["architecture"] == "test_resnet"


def test_a_model_file_that_carries_its_backbone_says_its_transform(saved, tmp_path):
    spec = backbones.create("test_resnet", weights=saved()[1], transform={"mean": 0.3, "crop_pct": 0.8}).spec
    state = {f"backbone.{key}": value for key, value in saved()[0].state_dict().items()}
    header = json.dumps({"kind": "logistic", "backbone": {"spec": spec}})
    save_file({"head.weight": torch.zeros(2, 2), **state}, tmp_path / "m.safetensors", {"featurepipe": header})
    assert backbones.create("test_resnet", weights=tmp_path / "m.safetensors").spec == spec


@pytest.mark.parametrize(
    "metadata",
    [
        {"featurepipe": "[]"},
        {"featurepipe": "not json"},
        {"featurepipe": '{"transform": 3}'},
        {"input_size": "[]"},
        {"input_size": "{}"},
        {"input_size": "[[1], [2, 3]]"},
        {"mean": "half"},
        {"mean": "null"},
        {"mean": "[0.5, 0.5]"},
        {"std": "0"},
        {"crop_pct": '"a"'},
        {"crop_pct": "0"},
        {"input_size": "3"},
        {"interpolation": "cubist"},
    ],
    ids=str,
)
def test_metadata_that_makes_no_transform_is_refused(saved, tmp_path, metadata):
    with pytest.raises(BackboneError, match=r"transform|cannot be read as weights"):
        backbones.create("test_resnet", weights=with_metadata(saved, tmp_path, **metadata))


def test_the_bundled_names_architecture_must_stand_in_the_file(saved):
    with pytest.raises(BackboneError, match="does not say its architecture"):
        backbones.create(weights=saved()[1])


# Transform


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"interpolation": "nope"}, "'nope' is unknown; use nearest, bilinear, bicubic"),
        ({"interpolation": "random"}, "'random' is unknown"),  # timm would draw one for each image
        ({"crop_mode": "nope"}, "'nope' is unknown; use center, squash, border"),
        ({"decoder": "nope"}, "'nope' is unknown; use torchvision, pillow, draft"),
        ({"crop_pct": 0}, "crop_pct"),
        ({"crop_pct": float("nan")}, "crop_pct"),
        ({"crop_pct": 1e-3}, "crop_pct is the share of the short side kept, from 0.05 to 20; got 0.001"),
        ({"crop_pct": 1e-9}, "crop_pct"),
        ({"crop_pct": 1e9}, "crop_pct"),
        ({"crop_pct": 1e-9}, "crop_pct is the share of the short side kept, from 0.05 to 20; got 1e-09"),
        ({"crop_pct": 0.04}, "crop_pct"),  # a picture of any size would be enlarged to gigabytes
        ({"crop_pct": 21}, "crop_pct"),
        ({"crop_pct": 20, "input_size": (3, 16, 16)}, "leaves nothing of images of 16×16"),
        ({"std": (0, 0, 0)}, "std not 0"),
        ({"mean": (float("nan"), 0, 0)}, "finite"),
        ({"mean": (0, 0)}, "mean needs 3 values, one per input channel; got 2"),
        ({"std": (1, 1, 1, 1)}, "std needs 3 values"),
        ({"input_size": (64, 64)}, "channels, height, width"),
        ({"input_size": (3, 0, 0)}, "channels, height, width"),
        ({"input_size": (1, 64, 64), "mean": 0.5, "std": 0.5}, "does not run on 1×64×64"),
        ({"crop": 0.9}, "a transform has no 'crop'; it has input_size"),
    ],
    ids=str,
)
def test_a_transform_that_would_reject_every_image_is_refused_at_once(transform, message):
    with pytest.raises(BackboneError, match=message):
        backbones.create("test_resnet", random_weights=True, transform=transform)


def test_transform_values_may_be_scalars_lists_or_arrays():
    given = {"mean": np.array([0.5, 0.25, 0.5]), "std": np.float64(0.5), "crop_pct": 1, "input_size": [3, 64, 64]}
    transform = random_resnet(transform=given).transform
    assert transform == ImageTransform(
        (3, 64, 64), "bilinear", (0.5, 0.25, 0.5), (0.5,) * 3, 1.0, decoder="torchvision"
    )


# Arguments


def test_a_one_channel_backbone_takes_the_mean_of_the_colours_mean_and_std():
    name = "mobilenetv3_small_050"
    colour = backbones.create(name, random_weights=True).transform
    backbone = backbones.create(name, random_weights=True, arguments={"in_chans": 1})
    assert backbone.transform.input_size == (1, 224, 224)
    assert backbone.transform.mean == pytest.approx((statistics.fmean(colour.mean),))
    assert backbone.transform.std == pytest.approx((statistics.fmean(colour.std),))
    assert ours(backbone, jpegs(2)).shape == (2, backbone.width)
    given = backbones.create(
        name, random_weights=True, arguments={"in_chans": 1}, transform={"mean": 0.1, "std": (0.2,)}
    )
    assert (given.transform.mean, given.transform.std) == ((0.1,), (0.2,))


def test_img_size_and_in_chans_shape_a_vits_input_together():
    arguments = {"img_size": 96, "in_chans": 1, "depth": 1}
    backbone = backbones.create("vit_tiny_patch16_224", random_weights=True, arguments=arguments)
    assert backbone.transform.input_size == (1, 96, 96)
    assert backbone.embed(noise(2, (1, 96, 96))).shape == (2, 192)
    assert backbone.spec["arguments"] == arguments


def test_a_vit_of_another_size_than_its_input_says_how_to_set_it():
    with pytest.raises(BackboneError, match="img_size=N"):
        backbones.create("vit_tiny_patch16_224", random_weights=True, arguments={"depth": 1}, transform=SMALL)


def test_a_weights_files_position_table_is_resampled_for_img_size_as_timm_does(saved, tmp_path):
    module, path = saved("test_vit")
    torch.save(module.state_dict(), tmp_path / "w.pt")
    overlay = {"file": str(tmp_path / "w.pt")}
    reference = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay=overlay, img_size=96).eval()
    backbone = backbones.create(
        "test_vit", weights=path, arguments={"img_size": 96}, transform=PILLOW, precision="fp32"
    )
    assert backbone.transform.input_size == (3, 96, 96)
    files = jpegs(3)
    assert_parity(ours(backbone, files), of_timm(reference, files, input_size=(3, 96, 96)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"bogus": 1},
        {"act_layer": "nope"},
        {"norm_layer": "nope"},
        {"in_chans": "x"},
        {"in_chans": 4},
        {"layers": 1},
        {"block": 3},
        {"output_stride": 7},
        {"features_only": True},
        {"act_layer": torch.nn.ReLU},
        {"drop_rate": float("nan")},
        {"num_classes": 3},
        {"pretrained": True},
        {"checkpoint_path": "x"},
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_a_backbone_error_on_one_line(arguments):
    with pytest.raises(BackboneError) as caught:
        backbones.create("test_resnet", random_weights=True, arguments=arguments)
    assert "\n" not in str(caught.value)


# Names, weights and devices that are not there


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("resnet5O", "did you mean resnet50"),
        ("ResNet50", "did you mean resnet50"),
        ("test-resnet", "did you mean test_resnet"),
        ("bundeled", "did you mean bundled"),
        ("qqqqqqqqqqqqqq", "list names with: featurepipe backbones"),
    ],
)
def test_an_unknown_name_suggests_near_ones(name, suggestion):
    with pytest.raises(BackboneError, match=f"no backbone is called '{name}'; {suggestion}"):
        backbones.create(name)


@pytest.mark.parametrize("random_weights", [True, False])
def test_an_unknown_tag_lists_the_known_ones(random_weights):
    with pytest.raises(BackboneError, match=r"'nope'; it has .*resnet50\.a1_in1k"):
        backbones.create("resnet50.nope", random_weights=random_weights)


def test_a_name_without_pretrained_weights_asks_for_a_file():
    with pytest.raises(BackboneError, match="--weights"):
        backbones.create("lcnet_035")


def test_what_a_repository_adds_to_the_architecture_is_in_the_spec_and_in_the_twin(tmp_path):
    config = {
        "architecture": "test_vit",
        "pretrained_cfg": {"input_size": [3, 160, 160], "num_classes": 10, "classifier": "head"},
        "model_args": {"depth": 2},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = backbones.create(f"local-dir:{tmp_path}", random_weights=True)
    assert made.spec["arguments"] == {"depth": 2}
    assert len(made.module.blocks) == len(backbones.twin(made.spec, "x").module.blocks) == 2


@pytest.mark.parametrize("name", ["foo:bar", "local-dir:nowhere"])
def test_an_unknown_source_is_refused(name):
    with pytest.raises(BackboneError):
        backbones.create(name)


def test_weights_that_cannot_be_downloaded_say_so_on_one_line(monkeypatch):
    def offline(*_, **__):
        logging.getLogger("huggingface_hub").warning("retrying")
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    levels = [logging.getLogger(logger).level for logger in ("huggingface_hub", "timm")]
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsUnavailable) as caught:
        backbones.create("resnet18")
    message = str(caught.value)
    assert "resnet18" in message
    assert "We couldn't connect to the hub" in message
    assert "with --weights (weights= in Python)" in message
    assert "-b bundled; 'bundled' in Python" in message
    assert "\n" not in message
    assert [logging.getLogger(logger).level for logger in ("huggingface_hub", "timm")] == levels


def test_a_weights_file_that_is_not_there_or_is_a_folder(tmp_path):
    for path in (tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(WeightsUnavailable, match=re.escape(str(path))):
            backbones.create("test_resnet", weights=path)


@pytest.mark.parametrize("weights", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_mambaout"])
def test_weights_of_another_architecture_are_refused_by_name(saved, name, weights):
    if name == weights:
        return
    with pytest.raises(BackboneError, match=rf"does not fit {name}: it (lacks|has) .*tensors \(\w+") as caught:
        backbones.create(name, weights=saved(weights)[1])
    assert str(saved(weights)[1]) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: without(state, "layer4.0.conv1"), r"lacks 1 of its tensors \(layer4\.0\.conv1\.weight"),
        (lambda state: {**state, "extra.weight": torch.zeros(2)}, r"has unknown 1 .*\(extra\.weight"),
        (lambda state: {**state, "bn1.bias": torch.zeros(3)}, r"has other shapes for 1 .*\(bn1\.bias"),
        (lambda state: {**state, "bn1.bias": torch.zeros(1)}, r"has other shapes for 1 .*\(bn1\.bias"),
    ],
)
def test_weights_that_nearly_fit_are_refused_by_tensor(saved, tmp_path, change, message):
    save_file(change(dict(saved()[0].state_dict())), tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=message):
        backbones.create("test_resnet", weights=tmp_path / "w.safetensors")


def test_patch_size_is_not_resampled_silently(tmp_path):
    arguments = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    save_file(timm.create_model("vit_tiny_patch16_224", **arguments).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match="has other shapes for"):
        backbones.create(
            "vit_tiny_patch16_224", weights=tmp_path / "w.safetensors", arguments={**arguments, "patch_size": 32}
        )


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("how", ["torch", "pickle", "old torch", "nested"])
def test_a_pickled_file_with_code_is_refused_and_not_run(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Code(), 2))
    else:
        content = {"state_dict": {"fc.weight": torch.zeros(2), "x": Code()}} if how == "nested" else Code()
        torch.save(content, path, _use_new_zipfile_serialization=how != "old torch")
    with pytest.raises(BackboneError, match="cannot be read as weights") as caught:
        backbones.create("test_resnet", weights=path)
    assert "\n" not in str(caught.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "content",
    [{}, [1, 2], torch.zeros(2), {"state_dict": None}, {1: torch.zeros(2)}, {"epoch": 3}, "text", None],
    ids=str,
)
def test_a_torch_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(BackboneError, match=r"w\.pt (holds no weights|cannot be read as weights)"):
        backbones.create("test_resnet", weights=tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_weights_files_are_refused(saved, tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(saved()[0].state_dict(), path)
        data = path.read_bytes()
    else:
        data = saved()[1].read_bytes()
    for broken in (b"", b"garbage" * 99, data[:100], data[: len(data) // 2], data[:-1000]):
        path.write_bytes(broken)
        with pytest.raises(BackboneError, match="cannot be read as weights"):
            backbones.create("test_resnet", weights=path)


def test_a_device_that_is_not_there_is_refused():
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(BackboneError, match=f"device '{device}' cannot be used here"):
            random_resnet(device=device)
    assert backbones.resolve_device("cpu") == random_resnet(device="cpu").device == "cpu"


def test_all_devices_are_every_gpu_of_this_machine(monkeypatch):
    assert backbones.resolve_devices(()) == ()
    assert backbones.resolve_devices(("cuda:1", "cpu")) == ("cuda:1", "cpu")
    with pytest.raises(BackboneError, match="devices all, cpu: all means every GPU already"):
        backbones.resolve_devices(("all", "cpu"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert backbones.resolve_devices(["all"]) == ("cuda:0", "cuda:1", "cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert backbones.resolve_devices(["all"]) == ("mps",)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(BackboneError, match="this machine has no GPU that PyTorch can use; leave out --devices"):
        backbones.resolve_devices(["all"])


# Made again


def through_json(value):
    return json.loads(json.dumps(value))


@pytest.mark.parametrize(
    "settings",
    [
        {"random_weights": True, "seed": 7},
        {"weights": True},
        {"weights": True, "layer": "stage3", "pooling": "max"},
        {"weights": True, "pooling": "avgmax", "precision": "bf16"},
        {"weights": True, "transform": {"mean": 0.3, "crop_mode": "squash", "input_size": (3, 64, 48)}},
        {"random_weights": True, "arguments": {"in_chans": 1, "layers": (1, 1, 1, 2)}},
    ],
    ids=str,
)
def test_recreate_makes_the_very_same_backbone(saved, settings):
    if "weights" in settings:
        settings = {**settings, "weights": saved()[1]}
    backbone = backbones.create("test_resnet", **settings)
    again = backbones.recreate(through_json(backbone.spec), through_json(backbone.source))
    assert again.spec == backbone.spec
    assert again.fingerprint == backbone.fingerprint
    assert (again.name, again.source, again.transform) == (backbone.name, backbone.source, backbone.transform)
    pixels = noise(2, backbone.transform.input_size)
    np.testing.assert_array_equal(again.embed(pixels), backbone.embed(pixels))


def test_recreate_takes_weights_that_have_moved(saved, tmp_path):
    backbone = backbones.create("test_resnet", weights=saved()[1], layer="stage2")
    source = {**backbone.source, "weights": str(tmp_path / "gone.safetensors")}
    with pytest.raises(WeightsUnavailable, match="gone"):
        backbones.recreate(backbone.spec, source)
    (tmp_path / "moved.safetensors").write_bytes(saved()[1].read_bytes())
    again = backbones.recreate(backbone.spec, source, weights=tmp_path / "moved.safetensors")
    assert again.fingerprint == backbone.fingerprint


def test_recreate_keeps_to_the_spec_even_if_the_file_says_another_transform_now(saved, tmp_path):
    backbone = backbones.create("test_resnet", weights=saved()[1])
    path = with_metadata(saved, tmp_path, mean="[0.1, 0.2, 0.3]", crop_pct="0.5")
    assert backbones.recreate(backbone.spec, backbone.source, weights=path).transform == backbone.transform


def test_recreate_with_other_weights_names_the_field(saved, tmp_path):
    backbone = backbones.create("test_resnet", weights=saved()[1])
    save_file(whole("test_resnet", seed=9).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(FingerprintMismatch, match=r"weights is '.*', not '.*'") as caught:
        backbones.recreate(backbone.spec, backbone.source, weights=tmp_path / "other.safetensors")
    assert "transform" not in str(caught.value)
    assert backbone.spec["weights"] in str(caught.value)


def test_a_mismatch_names_each_field_old_and_new_and_no_other(saved):
    wanted = backbones.create("test_resnet", weights=saved()[1])
    found = backbones.create("test_resnet", weights=saved()[1], layer="stage1", transform={"crop_pct": 0.5})
    backbones.check_same(found.spec, through_json(found.spec))
    with pytest.raises(FingerprintMismatch) as caught:
        backbones.check_same(found.spec, wanted.spec)
    message = str(caught.value)
    assert "layer is 'stage1', not 'penultimate'" in message
    assert "transform.crop_pct is 0.5, not 0.95" in message
    assert not any(field in message for field in ("weights", "mean", "architecture", "precision"))
    with pytest.raises(FingerprintMismatch, match="new_field"):
        backbones.check_same({**wanted.spec, "new_field": 1}, wanted.spec)


@pytest.mark.slow
def test_the_twin_differs_in_its_weights_alone(saved):
    settings = {"layer": "stage3", "pooling": "max", "transform": {"mean": 0.3}, "arguments": {"act_layer": "silu"}}
    backbone = backbones.create("test_resnet", weights=saved()[1], **settings)
    twin = backbones.twin(through_json(backbone.spec), "mine", seed=4)
    assert {**twin.spec, "weights": None} == {**backbone.spec, "weights": None}
    assert twin.spec["weights"] != backbone.spec["weights"]
    assert twin.name == "mine (random weights, seed 4)"
    assert twin.fingerprint == backbones.twin(backbone.spec, "yours", seed=4).fingerprint
    assert twin.fingerprint != backbones.twin(backbone.spec, "mine", seed=5).fingerprint
    again = backbones.recreate(through_json(twin.spec), through_json(twin.source))
    assert again.fingerprint == twin.fingerprint


def test_adapted_is_what_create_would_have_made(saved):
    backbone = backbones.create("test_resnet", weights=saved()[1], precision="fp32")
    pixels = noise(2, backbone.transform.input_size)
    for settings in ({"precision": "bf16"}, {"decoder": "pillow"}, {"precision": "bf16", "decoder": "draft"}):
        adapted = backbone.adapted(**settings)
        created = backbones.create(
            "test_resnet",
            weights=saved()[1],
            precision=settings.get("precision", "fp32"),
            transform={"decoder": settings.get("decoder")},
        )
        assert adapted.spec == created.spec
        assert adapted.fingerprint == created.fingerprint != backbone.fingerprint
        assert adapted.transform == created.transform
        np.testing.assert_array_equal(adapted.embed(pixels), created.embed(pixels))
        assert adapted.module is backbone.module
        assert adapted.adapted(precision="fp32", decoder="torchvision").fingerprint == backbone.fingerprint
    assert backbone.adapted().fingerprint == backbone.fingerprint
    assert backbone.spec["precision"] == "fp32"  # and is not changed


def test_adapted_forgets_what_was_compiled_for_the_other_precision():
    compiled = dataclasses.replace(random_resnet(), compiled=lambda _: pytest.fail("the old one"), batch_size=2)
    adapted = compiled.adapted(precision="bf16")
    assert (adapted.compiled, adapted.batch_size) == (None, None)
    assert adapted.embed(noise(2, SMALL["input_size"])).shape == (2, adapted.width)


@pytest.mark.parametrize("decoder", ["torchvision", "pillow", "draft"])
def test_pixels_of_any_decoder_are_made_again(decoder):
    pixels = backbones.Pixels(transform=dataclasses.replace(backbones.Pixels.transform, decoder=decoder))
    again = backbones.recreate(through_json(pixels.spec), through_json(pixels.source))
    assert (again.transform.decoder, again.fingerprint) == (decoder, pixels.fingerprint)


# Out of memory, and compiled


class Failing(torch.nn.Module):
    """A network whose forward pass raises."""

    def __init__(self, error):
        super().__init__()
        self.weight, self.error = torch.nn.Parameter(torch.zeros(1)), error

    def forward_features(self, x):
        raise self.error

    def forward_head(self, x, pre_logits):
        return x


def failing(error):
    return dataclasses.replace(random_resnet(device="cpu"), module=Failing(error), name="net")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("aoti_torch_cpu_mkldnn__convolution_pointwise(x, &y) API call failed at /tmp/c.main.cpp, line 7"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a memory object"),
        RuntimeError("could not create a primitive"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:60],
)
def test_whatever_says_that_memory_has_run_out_is_one_error(error):
    message = "net ran out of memory on cpu for 3 images at once; try a smaller batch size"
    with pytest.raises(OutOfMemory, match=message) as caught:
        failing(error).embed(noise(3, SMALL["input_size"]))
    assert caught.value.__cause__ is error


def test_a_kind_of_operation_that_onednn_lacks_is_no_want_of_memory():
    with pytest.raises(BackboneError, match="net failed on 2 images") as caught:
        failing(RuntimeError("could not create a primitive descriptor for a convolution")).embed(noise(2, (3, 64, 64)))
    assert not isinstance(caught.value, OutOfMemory)


def test_other_failures_of_a_network_are_no_want_of_memory():
    error = RuntimeError("operation not implemented for 'MPS'\nmore lines")
    with pytest.raises(BackboneError, match=r"net failed on 2 images on cpu: .*'MPS'.*; try device cpu") as caught:
        failing(error).embed(noise(2, SMALL["input_size"]))
    assert not isinstance(caught.value, OutOfMemory)
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError):  # a mistake in the code
        failing(TypeError("mistake")).embed(noise(2, SMALL["input_size"]))


@pytest.mark.parametrize(("count", "seen"), [(4, [4]), (3, [4]), (1, [4]), (0, [4]), (5, [])])
def test_a_compiled_network_gets_its_own_size_only_and_rests_are_filled_up(count, seen):
    eager, sizes = random_resnet(), []

    def compiled(x):
        sizes.append(len(x))
        return eager.forward(x)

    backbone = dataclasses.replace(eager, compiled=compiled, batch_size=4)
    pixels = noise(count, SMALL["input_size"])
    vectors = backbone.embed(pixels)
    assert vectors.shape == (count, backbone.width)
    np.testing.assert_allclose(vectors, eager.embed(pixels), rtol=1e-4, atol=1e-5)
    assert sizes == seen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: -x, "different vectors when compiled"),
        (lambda x: x * float("nan"), "different vectors when compiled"),
        (
            lambda x: x.bfloat16().float().mul(torch.linspace(1, 1.02, x.shape[1])),
            "different vectors when compiled",
        ),
        (lambda x: torch.cat([-x[:1], x[1:]]), "different vectors when compiled"),
    ],
    ids=["turned", "nan", "coarser than fp32", "one of four"],
)
def test_a_compiler_that_changes_the_vectors_is_not_trusted(monkeypatch, change, message):
    monkeypatch.setattr(torch, "compile", lambda forward, **_: lambda x: change(forward(x)))
    with pytest.raises(BackboneError, match=message):
        random_resnet(precision="fp32").compile(4)


def test_a_compiler_that_fails_is_one_line(monkeypatch):
    def compile_(forward, **_):
        def fail(x):
            raise AssertionError("deep inside\nwith a long story")

        return fail

    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(BackboneError, match="cannot be compiled: deep inside") as caught:
        random_resnet().compile(4)
    assert "\n" not in str(caught.value)


def test_what_is_compiled_is_the_same_backbone(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    backbone = random_resnet()
    compiled = backbone.compile(4)
    assert compiled.fingerprint == backbone.fingerprint
    assert (compiled.batch_size, backbone.compiled) == (4, None)


def test_a_compiled_network_is_frozen_even_if_someone_called_train(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    compiled = random_resnet().compile(4)
    pixels = noise(4, compiled.transform.input_size)
    vectors = compiled.embed(pixels)
    compiled.module.train()
    np.testing.assert_array_equal(compiled.embed(pixels), vectors)
    assert not any(part.training for part in compiled.module.modules())


# Names and pixels


def test_the_module_called_as_a_function_lists_names_as_the_command_does():
    found = featurepipe.backbones("test_vi*")
    assert found == backbones.names("test_vi*")
    assert "test_vit" in found
    assert featurepipe.backbones is backbones


def test_names_are_featurepipes_own_and_timms():
    everything = backbones.names()
    assert everything[:5] == ["bundled", "pixels", "hog", "color-histogram", "sift"]
    assert "bundled-1" in everything
    assert {"resnet50", "test_vit", "vit_tiny_patch16_224"} < set(everything)
    assert backbones.names("test_resn*") == ["test_resnet"]
    assert backbones.names("pix*") == ["pixels"]
    assert backbones.names("no such name") == []
    assert "resnet50.a1_in1k" in backbones.names("resnet50*", pretrained=True)


def test_pixels_are_the_squashed_image():
    pixels = backbones.create("pixels")
    batch = noise(3, pixels.transform.input_size)
    vectors = pixels.embed(batch)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, pixels.width) == (3, 3072)
    np.testing.assert_allclose(vectors, batch.reshape(3, -1) / 255, rtol=1e-6)
    again = backbones.recreate(through_json(pixels.spec), through_json(pixels.source))
    assert again.fingerprint == pixels.fingerprint
    assert ours(pixels, jpegs(2)).shape == (2, 3072)


@pytest.mark.slow
def test_the_bundled_backbone_is_the_default_and_can_be_made_again():
    bundled = backbones.create()
    assert bundled.source == {"name": "bundled", "weights": None, "random_seed": None}
    assert bundled.fingerprint == backbones.create("bundled").fingerprint
    again = backbones.recreate(through_json(bundled.spec), through_json(bundled.source))
    assert again.fingerprint == bundled.fingerprint
    twin = backbones.twin(bundled.spec, "bundled")
    untrained = backbones.create("bundled", random_weights=True)
    assert twin.fingerprint == untrained.fingerprint != bundled.fingerprint
    vectors = ours(bundled, jpegs())
    assert np.isfinite(vectors).all()
    assert np.ptp(vectors, axis=0).max() > 0


# Real weights and images


def real(shared, count=40):
    return [path.read_bytes() for path in sorted((shared / "datasets" / "imagenet_sample200").rglob("*.JPEG"))][:count]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv2_100"])
@DECODERS
def test_real_weights_on_real_photos(shared, name, decoder):
    path, transform = shared / "weights" / f"{name}.safetensors", {**REAL_TRANSFORMS[name], "decoder": decoder}
    backbone = backbones.create(name, weights=path, transform=transform, precision="fp32")
    module = timm.create_model(name).eval()
    module.load_state_dict(load_file(path))
    files = real(shared)
    assert len(files) == 40
    vectors = ours(backbone, files)
    assert_parity(vectors, of_timm(module, files, **REAL_TRANSFORMS[name]), decoder=decoder)
    with torch.no_grad():
        made = create_transform(**{**resolve_model_data_config(module), **REAL_TRANSFORMS[name]}, is_training=False)
        x = torch.stack([made(Image.open(io.BytesIO(data)).convert("RGB")) for data in files])
        predictions = torch.cat([module(part) for part in x.split(8)]).argmax(1)
        found = module.get_classifier()(torch.from_numpy(vectors)).argmax(1)
    assert found.tolist() == predictions.tolist()
    assert len(set(found.tolist())) > 30


REAL_TRANSFORMS = {
    "vit_tiny_patch16_224": {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "crop_pct": 0.9},
    "mobilenetv2_100": {"interpolation": "bilinear", "crop_pct": 0.875},
}


@pytest.mark.shared
def test_a_headless_file_loads_with_the_argument_that_shapes_its_padding(shared):
    path, transform = shared / "weights" / "mobilenetv2_035.safetensors", {"mean": 0.5, "std": 0.5}
    same = backbones.create("mobilenetv2_035", weights=path, arguments={"pad_type": "same"}, transform=transform)
    other = backbones.create("mobilenetv2_035", weights=path, transform=transform)
    assert same.width == 1280
    assert same.spec["weights"] == other.spec["weights"] == sha256_state_dict(same.module.state_dict())
    assert same.fingerprint != other.fingerprint
    files = real(shared, 4)
    assert np.abs(ours(same, files) - ours(other, files)).max() > 1e-3


def test_attention_is_fused_but_in_bf16_on_the_cpu():
    made = backbones.create("test_vit", random_weights=True, device="cpu", precision="bf16")
    pixels = np.zeros((1, *made.transform.input_size), np.uint8)
    attention = [part for part in made.module.modules() if hasattr(part, "fused_attn")]
    made.embed(pixels)
    assert [part.fused_attn for part in attention] == [False] * len(attention) != []
    made.adapted(precision="fp32").embed(pixels)
    assert all(part.fused_attn for part in attention)


@pytest.mark.parametrize("name", ["bundled", "hog", "test_resnet"])
def test_a_name_may_be_given_as_a_path(name):
    options = {"random_weights": True} if name == "test_resnet" else {}
    made, wanted = backbones.create(Path(name), **options), backbones.create(name, **options)
    assert (made.name, made.fingerprint, made.source) == (wanted.name, wanted.fingerprint, wanted.source)


def test_layers_of_a_name_given_as_a_path():
    wanted = backbones.create_layers("test_resnet", random_weights=True)
    assert backbones.create_layers(Path("test_resnet"), random_weights=True).fingerprint == wanted.fingerprint
    with pytest.raises(BackboneError, match="hog has no layers"):
        backbones.create_layers(Path("hog"), "penultimate")
