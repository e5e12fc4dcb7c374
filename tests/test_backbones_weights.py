"""A model file as a backbone: the network that it carries, as it is described there."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from featurepipe import FeatureExtractor, backbones, models
from featurepipe.cards import Card, Selection
from featurepipe.digests import sha256_json, sha256_state_dict
from featurepipe.errors import BackboneError, FingerprintMismatch, FormatTooNew, WeightsUnavailable

TRANSFORM = {"input_size": (3, 32, 32), "mean": 0.3, "crop_pct": 0.8, "decoder": "pillow"}
NAME = "test_resnet tuned on ants"


def tuned(name="test_resnet", **settings):
    """A backbone whose weights are not those that it started from any more."""
    settings = {"transform": TRANSFORM, "device": "cpu", **settings}
    made = backbones.create(name, random_weights=True, **settings)
    with torch.no_grad():
        for number, weight in enumerate(made.module.parameters()):
            weight.add_(0.01 * (1 + number % 3))
    return made


def described(made, **changes):
    """What a model file says of it."""
    spec = {**made.spec, "weights": sha256_state_dict(made.module.state_dict())}
    source = {"name": made.source["name"], "weights": None, "random_seed": None}
    return {"name": NAME, "fingerprint": sha256_json(spec), "spec": spec, "source": source, **changes}


def write(path, made, *, module=None, **changes):
    """Write a model with a small head."""
    X = np.eye(made.width, dtype=np.float32)[:4]
    head = LogisticRegression().fit(X, ["a", "b", "a", "b"])
    card = Card(selection=Selection.made("given", 1.0, []))
    model = models.Model("logistic", head, 1.0, described(made, **changes), np.empty(0, np.uint64), card)
    models.save(path, model, module=module or made.module)
    return model


@pytest.fixture
def file(tmp_path):
    write(tmp_path / "tuned.safetensors", tuned())
    return tmp_path / "tuned.safetensors"


def pixels(made, count=3):
    return np.random.default_rng(0).integers(0, 256, (count, *made.transform.input_size), np.uint8)


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["text", "path"])
def test_its_name_makes_the_network_that_the_file_describes(file, kind):
    model = models.load(file)
    made = backbones.create(kind(file), device="cpu")
    assert (made.name, made.fingerprint, made.spec) == (NAME, model.backbone["fingerprint"], model.backbone["spec"])
    wanted = tuned()
    np.testing.assert_array_equal(made.embed(pixels(made)), wanted.forward(torch.from_numpy(pixels(made))).numpy())
    assert made.source == {"name": NAME, "weights": str(file.resolve()), "random_seed": None}


@pytest.mark.slow
def test_it_can_be_made_again_from_what_a_store_keeps_and_has_a_twin(file, tmp_path):
    made = backbones.create(str(file), device="cpu")
    spec, source = json.loads(json.dumps([made.spec, made.source]))
    again = backbones.recreate(spec, source, device="cpu")
    np.testing.assert_array_equal(again.embed(pixels(made)), made.embed(pixels(made)))
    moved = file.rename(tmp_path / "moved.safetensors")
    with pytest.raises(WeightsUnavailable, match=r"tuned\.safetensors does not exist"):
        backbones.recreate(spec, source, device="cpu")
    assert backbones.recreate(spec, source, weights=moved, device="cpu").fingerprint == made.fingerprint
    twin = backbones.twin(spec, made.source["name"], device="cpu")
    assert {**twin.spec, "weights": None} == {**made.spec, "weights": None}
    assert twin.name == f"{NAME} (random weights, seed 0)"


def test_what_is_given_beside_it_goes_before_what_it_says(file):
    said = backbones.create(str(file), device="cpu")
    given = {"crop_pct": 1.0, "decoder": "torchvision", "std": None}
    made = backbones.create(str(file), layer="stage2", pooling="max", transform=given, precision="bf16", device="cpu")
    assert (made.spec["layer"], made.spec["pooling"], made.spec["precision"]) == ("stage2", "max", "bf16")
    assert made.spec["transform"] == {**said.spec["transform"], "crop_pct": 1.0, "decoder": "torchvision"}
    assert made.spec["weights"] == said.spec["weights"]


def test_a_file_of_a_stage_gives_the_penultimate_embedding_unless_asked(tmp_path):
    write(tmp_path / "m.safetensors", tuned(layer="stage3", pooling="max"))
    made = backbones.create(tmp_path / "m.safetensors", device="cpu")
    assert (made.spec["layer"], made.spec["pooling"]) == ("penultimate", "max")
    same = backbones.create(tmp_path / "m.safetensors", layer="stage3", device="cpu")
    assert same.fingerprint == models.load(tmp_path / "m.safetensors").backbone["fingerprint"]


@pytest.mark.slow
def test_layers_of_it_are_its_own(file):
    several = backbones.create_layers(str(file), "stage2,penultimate", device="cpu")
    assert several.name == NAME
    alone = [backbones.create(str(file), layer=layer, device="cpu") for layer in ("stage2", "penultimate")]
    assert [one.fingerprint for one in several.members] == [one.fingerprint for one in alone]


@pytest.mark.parametrize("layer", ["penultimate", "stage3"])
def test_layers_keep_to_the_pooling_of_the_file(tmp_path, layer):
    larger = {**TRANSFORM, "input_size": (3, 96, 96)}  # whose last feature map is more than one place
    write(tmp_path / "m.safetensors", tuned(pooling="max", layer=layer, transform=larger))
    several = backbones.create_layers(tmp_path / "m.safetensors", "stage2,penultimate", device="cpu")
    assert [one.spec["pooling"] for one in several.members] == ["max", "max"]
    np.testing.assert_array_equal(
        several.split(several.embed(pixels(several)))[1],
        backbones.create(tmp_path / "m.safetensors", device="cpu").embed(pixels(several)),
    )


def test_arguments_and_img_size_of_a_vit_are_kept_and_may_be_changed(tmp_path):
    transform = {**TRANSFORM, "input_size": (3, 64, 64)}
    model = write(tmp_path / "v.safetensors", tuned("test_vit", arguments={"img_size": 64}, transform=transform))
    made = backbones.create(tmp_path / "v.safetensors", device="cpu")
    assert made.fingerprint == model.backbone["fingerprint"]
    larger = backbones.create(tmp_path / "v.safetensors", arguments={"img_size": 96}, device="cpu")
    assert larger.transform.input_size == (3, 96, 96)
    assert larger.transform.mean == made.transform.mean


def test_pooling_that_takes_weights_out_of_a_network_can_be_loaded_again(tmp_path):
    made = tuned("test_vit3", pooling="avg", transform={"decoder": "pillow"})
    assert not any("attn_pool" in key for key in made.module.state_dict())
    model = write(tmp_path / "v.safetensors", made)
    assert models.open_backbone(model, tmp_path / "v.safetensors", device="cpu").spec == model.backbone["spec"]
    assert backbones.create(tmp_path / "v.safetensors", device="cpu").spec == model.backbone["spec"]


def test_an_untrained_network_stays_a_baseline(tmp_path):
    made = backbones.create("test_resnet", random_weights=True, seed=3, transform=TRANSFORM, device="cpu")
    write(tmp_path / "m.safetensors", made, name=made.name, source=made.source)
    again = backbones.create(tmp_path / "m.safetensors", device="cpu")
    assert (again.name, again.fingerprint) == (made.name, made.fingerprint)
    assert again.source == {**made.source, "weights": str(tmp_path / "m.safetensors")}


@pytest.mark.parametrize("change", ["half", "bfloat16", "strided", "wants gradients"])
def test_weights_of_any_kind_come_back_as_they_were(tmp_path, change):
    made = tuned()
    module = copy.deepcopy(made.module)
    if change in ("half", "bfloat16"):
        module = module.to(getattr(torch, change))
    elif change == "strided":
        module = module.to(memory_format=torch.channels_last)
        assert any(not weight.is_contiguous() for weight in module.parameters())
    else:
        module.requires_grad_(True)
    made.module.load_state_dict(module.state_dict())  # rounded, if it was
    model = write(tmp_path / "m.safetensors", made, module=module)
    back = models.open_backbone(models.load(tmp_path / "m.safetensors"), tmp_path / "m.safetensors", device="cpu")
    np.testing.assert_array_equal(back.embed(pixels(back)), made.embed(pixels(back)))
    assert back.fingerprint == model.backbone["fingerprint"]
    with safe_open(tmp_path / "m.safetensors", "np") as saved:
        assert {saved.get_tensor(key).dtype for key in saved.keys() if key.endswith("weight")} <= {  # noqa: SIM118
            np.dtype("float32"),
            np.dtype("float64"),  # of the head
        }


def test_the_notebooks_extractor_takes_it(file):
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    extractor = FeatureExtractor(str(file), device="cpu").fit([image])
    assert extractor.fingerprint_ == models.load(file).backbone["fingerprint"]
    assert extractor.transform([image]).shape == (1, tuned().width)


# -- what cannot be used ------------------------------------------------------------------------------------------


def header_of(path):
    with safe_open(path, "pt") as saved:
        return json.loads(saved.metadata()["featurepipe"]), {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118


def rewrite(path, header, state):
    arrays = {name: tensor.numpy() for name, tensor in state.items()}  # of which some are uint64
    save_arrays(arrays, path, {"featurepipe": json.dumps(header)})


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(WeightsUnavailable, match=r"^model file gone\.safetensors does not exist; give its place"):
        backbones.create("gone.safetensors")


def test_a_model_without_its_backbone_says_which_it_belongs_to(file):
    header, state = header_of(file)
    rewrite(file, header, {key: value for key, value in state.items() if not key.startswith("backbone.")})
    with pytest.raises(BackboneError, match=rf"holds no backbone, only a head for {NAME}.*--include-backbone"):
        backbones.create(str(file))


@pytest.mark.parametrize("metadata", [None, {"featurepipe": '{"architecture": "test_resnet"}'}], ids=["bare", "ours"])
def test_mere_weights_are_told_from_a_model(tmp_path, metadata):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", metadata)
    with pytest.raises(BackboneError, match=r"w\.safetensors is not a featurepipe model file.*-b NAME --weights FILE"):
        backbones.create(str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 something else entirely"])
def test_something_else_is_refused_on_one_line(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(BackboneError, match="cannot be read as a model file") as caught:
        backbones.create(str(tmp_path / "x.safetensors"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [{"backbone": "text"}, {"backbone": {"name": "a", "spec": {}}}], ids=str)
def test_a_damaged_description_is_refused(file, damage):
    header, state = header_of(file)
    rewrite(file, {**header, **damage}, state)
    with pytest.raises(BackboneError, match="cannot be read as a model file"):
        backbones.create(str(file))


def test_a_description_of_a_later_version_is_refused(file):
    header, state = header_of(file)
    header["backbone"]["spec"]["format"] = 2
    rewrite(file, header, state)
    with pytest.raises(FormatTooNew, match="backbone of format 2; upgrade featurepipe"):
        backbones.create(str(file))


def test_one_changed_weight_is_noticed(file):
    header, state = header_of(file)
    key = next(key for key in state if key.endswith("conv1.weight"))
    state[key].view(-1)[0] += 1e-3
    rewrite(file, header, state)
    with pytest.raises(BackboneError, match=r"tuned\.safetensors is damaged: its backbone does not match its digest"):
        backbones.create(str(file))
    header.pop("backbone-sha256")  # as before 1.2
    rewrite(file, header, state)
    with pytest.raises(FingerprintMismatch, match=r"tuned\.safetensors: the weights of its backbone do not match"):
        backbones.create(str(file))


@pytest.mark.parametrize("other", [{"random_weights": True}, {"weights": "w.safetensors"}], ids=str)
def test_other_weights_beside_it_are_refused(file, other):
    with pytest.raises(BackboneError, match="has its own weights"):
        backbones.create(str(file), **other)


# -- weights and networks that give no numbers ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["layer1.0.conv1.weight", "layer2.0.bn1.running_var"])
def test_weights_that_are_no_numbers_are_refused_by_tensor_and_count(tmp_path, key, value):
    state = {
        key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tuned().module.state_dict().items()
    }
    state[key].view(-1)[:5] = value
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(BackboneError) as caught:
        backbones.create("test_resnet", weights=tmp_path / "w.safetensors", device="cpu")
    wanted = (
        rf"w\.safetensors holds NaN or infinite weights in 1 of \d+ tensors \({key}: 5 values\); .*earlier checkpoint"
    )
    assert re.search(wanted, str(caught.value))


def overflowing(tmp_path):
    """A file of weights that are numbers, but too large for half precision to compute with."""
    state = {
        key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tuned().module.state_dict().items()
    }
    state["layer4.0.conv1.weight"] *= 1e7
    save_file(state, tmp_path / "w.safetensors")
    return {"weights": tmp_path / "w.safetensors", "device": "cpu", "transform": TRANSFORM}


def test_a_network_that_gives_no_numbers_at_all_says_so_before_any_image_is_read(tmp_path):
    options = overflowing(tmp_path)
    assert np.isfinite(backbones.create("test_resnet", **options, precision="fp32").embed(pixels(tuned()))).all()
    message = r"test_resnet gives NaN or infinite values in fp16 for all trial images \(layer penultimate\);.*fp32"
    with pytest.raises(BackboneError, match=message):
        backbones.create("test_resnet", **options, precision="fp16")
    backbones.create("test_resnet", **options, precision="fp16", layer="stage1")  # before it overflows
    with pytest.raises(BackboneError, match="layer stage5"):
        backbones.create_layers("test_resnet", "stage1,stage5", **options, precision="fp16")


def test_a_network_that_fails_on_black_alone_is_made(small, monkeypatch):
    from featurepipe.backbones import networks

    made = small()

    def forward(module, x, layers):
        return [torch.full((len(x), 4, 1, 1), torch.nan if len(x) == 1 else 1.0)]

    monkeypatch.setattr(networks, "_features", forward)
    monkeypatch.setattr(networks, "_pooled", lambda module, maps, layer, pooling: maps.flatten(1))
    widths = networks.probe_widths(made.module, made.transform, ["penultimate"], None, "fp32", "it")
    assert widths == (4,)


# -- what is given in place of a name or a file --------------------------------------------------------------------


def test_tensors_in_place_of_a_file_say_how_they_are_used():
    module = tuned().module
    advice = r"torch\.save\(network\.state_dict\(\), 'weights\.pth'\)"
    with pytest.raises(BackboneError, match="given by its name or as a torch module, not as a list"):
        backbones.create(["test_resnet"])
    with pytest.raises(BackboneError, match=f"weights are the path of a file, not a OrderedDict; .*{advice}"):
        backbones.create("test_resnet", weights=module.state_dict())


def test_a_model_file_is_known_by_an_upper_case_suffix_too(file):
    other = file.rename(file.with_name("TUNED.SAFETENSORS"))
    assert backbones.create(str(other), device="cpu").name == NAME


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer.*git lfs pull"),
        (b"<html>", "a web page"),
        (b"\x80\x02}q\x00.", "a PyTorch file; name the architecture and give it with --weights"),
    ],
)
def test_what_is_no_model_file_is_called_by_what_it_is(tmp_path, data, what):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(BackboneError, match=rf"x\.safetensors cannot be read as a model file: it is {what}"):
        backbones.create(str(tmp_path / "x.safetensors"))


def test_a_folder_of_weights_is_told_from_a_file(tmp_path):
    with pytest.raises(WeightsUnavailable, match=r"is a folder; give the weights file inside it with --weights"):
        backbones.create("test_resnet", weights=tmp_path)
