"""Which tensors of a file are a network's: behind any prefix, in any dictionary, under other people's names."""

import copy
import re
from functools import cache

import numpy as np
import pytest
import timm
import torch

from featurepipe import backbones, stages
from featurepipe.backbones.formats import TORCH, Content
from featurepipe.backbones.matches import find_weights
from featurepipe.digests import sha256_state_dict
from featurepipe.errors import BackboneError
from featurepipe.listeners import Listener


def network(name="test_resnet", **arguments):
    """The tensors of a network with its classifier."""
    return dict(made(name, **arguments).state_dict())


def bare(name="test_resnet", **arguments):
    """The network without classifier, with other weights."""
    module = copy.deepcopy(made(name, num_classes=0, **arguments))
    for tensor in module.state_dict().values():
        tensor.fill_(3)
    return module


@cache
def made(name, **arguments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model(name, **arguments)
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.01 * torch.randn(tensor.shape))
        return module


def digest(state, name="test_resnet", **arguments):
    """Of what a network without classifier has once it has loaded these tensors under its own names."""
    module = bare(name, **arguments)
    module.load_state_dict({key: value for key, value in state.items() if key in module.state_dict()})
    return sha256_state_dict(module.state_dict())


def content(tmp_path, values):
    return Content(tmp_path / "w.pth", TORCH, values)


def found(tmp_path, values, name="test_resnet", **arguments):
    """The digest of what is found for a network, and the note."""
    module = bare(name, **arguments)
    state, taken = find_weights(content(tmp_path, values), module, name)
    module.load_state_dict(state, strict=False)
    return sha256_state_dict(module.state_dict()), taken


def refused(tmp_path, values, name="test_resnet", **arguments):
    with pytest.raises(BackboneError) as caught:
        find_weights(content(tmp_path, values), bare(name, **arguments), name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


PREFIXES = ["module.", "model.", "_orig_mod.", "module._orig_mod.", "encoder.", "backbone.", "module.base_encoder."]
PREFIXES += ["teacher.backbone.", "net.model.", "my_own_wrapper.inner.", "_forward_module.model.vision."]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_is_taken_off(tmp_path, name, prefix):
    state = network(name)
    assert found(tmp_path, under(prefix, state), name) == (digest(state, name), None)


PLACES = ["state_dict", "model", "model_ema", "state_dict_ema", "teacher", "student", "net", "params"]
PLACES += ["model_state_dict", "encoder", "anything"]


@pytest.mark.parametrize("place", PLACES)
def test_any_dictionary_is_looked_into(tmp_path, place):
    state = network()
    optimizer = {"state": {number: {"exp_avg": torch.zeros(3)} for number in range(80)}, "param_groups": [{"lr": 1}]}
    assert found(tmp_path, {place: state, "optimizer": optimizer, "epoch": 3}) == (digest(state), None)
    assert found(tmp_path, {"outer": {place: under("module.", state)}, "extra": None}) == (digest(state), None)


OTHERS = {
    "MoCo": ("module.base_encoder.", {"module.predictor.0.weight": torch.zeros(2), "module.queue": torch.zeros(2)}),
    "Lightning": ("backbone.", {"head.weight": torch.zeros(2, 96), "criterion.weight": torch.ones(2)}),
    "CLIP": ("visual.trunk.", {"text.transformer.weight": torch.zeros(2), "logit_scale": torch.zeros(())}),
    "averaged": ("module.", {"n_averaged": torch.tensor(7)}),
    "segmentation": ("encoder.", {"decoder.blocks.0.weight": torch.zeros(2)}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_beside_the_network_in_its_wrapper_is_left_out(tmp_path, kind):
    prefix, rest = OTHERS[kind]
    state = network()
    assert found(tmp_path, {**under(prefix, state), **rest}) == (digest(state), None)


TRAINING = "mask_token decoder_blocks.0.mlp.fc1.weight decoder_pos_embed projector.0.weight predictor.weight queue"
TRAINING += " projection_head.2.bias head.mlp.0.weight dino_head.last_layer.weight queue_ptr n_averaged loss.center"
TRAINING += " prototypes.weight layer1.total_ops logit_scale AuxLogits.fc.weight fc.weight old.num_batches_tracked"


@pytest.mark.parametrize("key", TRAINING.split())
@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_only_training_needs_is_left_out(tmp_path, key, prefix):
    state = network()
    assert found(tmp_path, under(prefix, {**state, key: torch.zeros(2)})) == (digest(state), None)


@pytest.mark.parametrize(
    "key", ["extra.weight", "layer4.9.conv1.weight", "fc_norm.weight", "norm.weight", "layer1.0.gamma", "header.weight"]
)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_what_may_belong_to_another_architecture_is_refused_by_name(tmp_path, key, prefix):
    message = refused(tmp_path, under(prefix, {**network(), key: torch.zeros(2)}))
    assert f"it has unknown 1 of its tensors ({key})" in message


# Several networks in one file


def shifted(state):
    return {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        ("teacher", "student"),
        ("model_ema", "model"),
        ("state_dict_ema", "state_dict"),
        ("ema", "net"),
        ("ema_model", "model_state_dict"),
        ("encoder_q", "encoder_k"),
        ("encoder", "target_encoder"),
        ("state_dict", "ema"),  # as timm, and as featurepipe 0.1.0
        ("model", "teacher"),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_of_several_that_fit_the_usual_one_is_taken_and_said(tmp_path, wanted, other, nested):
    state = network()
    for order in ((wanted, other), (other, wanted)):
        states = {wanted: state, other: shifted(state)}
        values = {place: states[place] for place in order}
        if not nested:
            if {wanted, other} & {"state_dict", "model"}:
                return
            values = {key: value for place in order for key, value in under(f"{place}.", states[place]).items()}
        found_digest, taken = found(tmp_path, values)
        assert found_digest == digest(state)
        assert "holds 2 networks that fit" in taken
        assert f"taken: '{wanted}" in taken


def test_two_of_which_none_goes_first_are_refused_with_both_names(tmp_path):
    state = network()
    message = refused(tmp_path, {"first": state, "second": shifted(state)})
    assert "holds 2 networks that fit test_resnet and differ ('first', 'second'); save the one" in message


def test_the_same_twice_is_no_choice(tmp_path):
    state = network()
    again = {key: value.clone() for key, value in state.items()}
    assert found(tmp_path, {"first": state, "second": again}) == (digest(state), None)


def test_the_note_reaches_whoever_asks_for_the_backbone(tmp_path):
    class Heard(Listener):
        def __init__(self):
            self.notes = []

        def note(self, text):
            self.notes.append(text)

    state, heard = network(), Heard()
    torch.save({"student": shifted(state), "teacher": state}, tmp_path / "w.pth")
    options = {"weights": tmp_path / "w.pth", "device": "cpu"}
    made = backbones.create("test_resnet", **options)
    wanted = f"note: {tmp_path}/w.pth holds 2 networks that fit: 'student', 'teacher'; taken: 'teacher'"
    assert made.notes == (wanted,)
    assert made.spec["weights"] == digest(state)
    assert backbones.create_layers("test_resnet", "stage1,penultimate", **options).notes == (wanted,)
    stages.extractions.make_extractor("test_resnet", options, heard, tmp_path / "s")
    assert heard.notes == [wanted]


# timm's own conversions


@pytest.mark.parametrize("size", [None, 96])
def test_official_dinov2_files_load_at_any_size(tmp_path, size):
    state = network("test_vit")
    arguments = {} if size is None else {"img_size": size}
    plain = found(tmp_path, state, "test_vit", **arguments)
    assert found(tmp_path, {**state, "mask_token": torch.zeros(1, 64)}, "test_vit", **arguments) == plain
    assert (plain[0] == digest(state, "test_vit")) == (size is None)


def test_other_peoples_names_are_converted_behind_a_prefix_and_in_a_dictionary(tmp_path):
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = network("vit_tiny_patch16_224", depth=1, reg_tokens=2, no_embed_class=True)
    official = dict(state)  # DINOv2's with registers: the class token has a position, and registers another name
    official["register_tokens"] = official.pop("reg_token")
    official["pos_embed"] = torch.cat([torch.zeros(1, 1, 192), official["pos_embed"]], dim=1)
    official["mask_token"] = torch.zeros(1, 192)
    arguments = {"depth": 1, "reg_tokens": 2, "no_embed_class": True}
    module = bare("vit_tiny_patch16_224", **arguments)
    wanted = checkpoint_filter_fn(dict(official), module)
    for values in (official, under("module.", official), {"teacher": under("backbone.", official)}):
        name = "vit_tiny_patch16_224"
        assert found(tmp_path, values, name, **arguments) == (digest(wanted, name, **arguments), None)


def test_conversions_that_are_not_in_the_networks_own_module_are_known_too(tmp_path):
    name, arguments = "deit3_small_patch16_224", {"depth": 1}
    state = network(name, **arguments)
    official = {key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v for key, v in state.items()}
    assert official.keys() != state.keys()
    assert found(tmp_path, {"model": official}, name, **arguments) == (digest(state, name, **arguments), None)


def test_a_conversion_that_takes_the_weights_alone_is_known_too(tmp_path):
    arguments = {"growth_rate": 4, "block_config": (1, 1, 1, 1)}
    state = network("densenet121", **arguments)
    official = {re.sub(r"(denselayer1\.)(norm|conv)", r"\1\2.", key): value for key, value in state.items()}
    assert official.keys() != state.keys()
    assert found(tmp_path, official, "densenet121", **arguments)[0] == digest(state, "densenet121", **arguments)


@pytest.mark.parametrize("extra", [{}, {"mask_token": torch.zeros(1, 24)}])
def test_patches_of_another_size_are_not_resampled_by_a_conversion(tmp_path, extra):
    arguments = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    state = {**network("vit_tiny_patch16_224", **arguments), **extra}
    message = refused(tmp_path, state, "vit_tiny_patch16_224", **arguments, patch_size=32)
    assert "has other shapes for 2 of its tensors (patch_embed.proj.weight, pos_embed)" in message


def jax_names(state, depth):
    """A vision transformer's tensors as Google's own files call and turn them."""
    plain = {"cls": state["cls_token"], "embedding/bias": state["patch_embed.proj.bias"]}
    plain["embedding/kernel"] = state["patch_embed.proj.weight"].permute(2, 3, 1, 0)
    plain["Transformer/posembed_input/pos_embedding"] = state["pos_embed"]
    plain["Transformer/encoder_norm/scale"], plain["Transformer/encoder_norm/bias"] = (
        state["norm.weight"],
        state["norm.bias"],
    )
    heads, width = 3, 192
    for number in range(depth):
        ours, theirs = f"blocks.{number}.", f"Transformer/encoderblock_{number}/"
        for part, norm in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            plain[f"{theirs}{norm}/scale"], plain[f"{theirs}{norm}/bias"] = (
                state[f"{ours}{part}.{kind}"] for kind in ("weight", "bias")
            )
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        for index, part in enumerate(("query", "key", "value")):
            rows = slice(index * width, (index + 1) * width)
            plain[f"{attention}{part}/kernel"] = state[f"{ours}attn.qkv.weight"][rows].T.reshape(width, heads, -1)
            plain[f"{attention}{part}/bias"] = state[f"{ours}attn.qkv.bias"][rows].reshape(heads, -1)
        plain[f"{attention}out/kernel"] = state[f"{ours}attn.proj.weight"].T.reshape(heads, -1, width)
        plain[f"{attention}out/bias"] = state[f"{ours}attn.proj.bias"]
        for index in (0, 1):
            plain[f"{theirs}MlpBlock_3/Dense_{index}/kernel"] = state[f"{ours}mlp.fc{index + 1}.weight"].T
            plain[f"{theirs}MlpBlock_3/Dense_{index}/bias"] = state[f"{ours}mlp.fc{index + 1}.bias"]
    return {key: value.numpy() for key, value in plain.items()}


def test_jax_archives_load_as_timm_reads_them_and_lack_nothing(tmp_path):
    name, arguments = "vit_tiny_patch16_224", {"depth": 1}
    state = network(name, **arguments)
    np.savez(tmp_path / "w.npz", **jax_names(state, 1))
    made = backbones.create(name, weights=tmp_path / "w.npz", arguments=arguments, device="cpu")
    assert made.spec["weights"] == digest(state, name, **arguments)
    lacking = jax_names(state, 1)
    del lacking["Transformer/encoderblock_0/LayerNorm_2/scale"]
    np.savez(tmp_path / "w.npz", **lacking)
    with pytest.raises(BackboneError, match="lacks"):
        backbones.create(name, weights=tmp_path / "w.npz", arguments=arguments, device="cpu")


def test_archives_of_torchs_own_names_load_too(tmp_path):
    state = network()
    np.savez(tmp_path / "w.npz", **{key: value.numpy() for key, value in state.items()})
    assert backbones.create("test_resnet", weights=tmp_path / "w.npz", device="cpu").spec["weights"] == digest(state)


# What is refused


def test_a_refusal_says_what_the_file_holds_what_the_network_wants_and_what_to_do(tmp_path):
    other = network("test_vit")
    message = refused(tmp_path, {"model": other, "ema": dict(list(other.items())[:30]), "epoch": 1})
    assert message.startswith(f"{tmp_path}/w.pth does not fit test_resnet: it lacks 75 of its tensors (bn1.bias, ")
    held = (
        f"it is a PyTorch file with {len(other)} tensors in 'model', one of 2 dictionaries, first cls_token, pos_embed"
    )
    assert held in message
    assert "check the name, and --backbone-arg (arguments= in Python)" in message


@pytest.mark.parametrize("prefix", ["", "module."])
def test_one_missing_tensor_is_named_behind_any_prefix(tmp_path, prefix):
    state = {key: value for key, value in network().items() if key != "layer4.0.conv1.weight"}
    assert "it lacks 1 of its tensors (layer4.0.conv1.weight);" in refused(tmp_path, under(prefix, state))


@pytest.mark.parametrize("values", [{}, {"epoch": 3, "config": {"lr": 1}}, {1: torch.zeros(2)}])
def test_a_file_without_tensors_says_what_it_holds(tmp_path, values):
    assert f"w.pth holds no weights: it is a PyTorch file with {next(map(repr, values), 'nothing')}" in refused(
        tmp_path, values
    )


@pytest.mark.shared
def test_official_layouts_of_real_weights(shared, tmp_path):
    from safetensors.torch import load_file

    name = "vit_tiny_patch16_224"
    state = load_file(shared / "weights" / f"{name}.safetensors")
    wanted = digest(state, name)
    for values in (
        {**state, "mask_token": torch.zeros(1, 192)},
        {"teacher": under("backbone.", state), "student": under("module.backbone.", shifted(state))},
        {"state_dict": {**under("module.base_encoder.", state), **under("module.momentum_encoder.", shifted(state))}},
    ):
        assert found(tmp_path, values, name)[0] == wanted
