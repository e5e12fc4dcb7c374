"""Several layers of one forward pass: each is what the backbone of that layer alone gives."""

import dataclasses

import numpy as np
import pytest
import timm
import torch
import torch._inductor.config as inductor

from featurepipe import backbones
from featurepipe.backbones import Backbone, Layers, create_layers
from featurepipe.backbones.makers import timm_networks
from featurepipe.errors import BackboneError, OutOfMemory
from featurepipe.images import ImageTransform

FAMILIES = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
RANDOM = {"random_weights": True, "device": "cpu"}
SWIN = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2, "img_size": 64}


def noise(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size), dtype=np.uint8)


def layers_of(name="test_resnet", layers="stages", **settings):
    return create_layers(name, layers, **{**RANDOM, "precision": "fp32", **settings})


def names(several):
    return [member.spec["layer"] for member in several.members]


def parts(several, vectors):
    return np.split(vectors, np.cumsum(several.widths)[:-1], axis=1)


def assert_members_are_the_single_backbones(several, name, **settings):
    pixels = noise(3, several.transform.input_size)
    vectors = several.embed(pixels)
    assert (vectors.dtype, vectors.shape) == (np.float32, (3, several.width))
    assert several.width == sum(several.widths)
    for member, part in zip(several.members, parts(several, vectors), strict=True):
        single = backbones.create(name, **RANDOM, layer=member.spec["layer"], **settings)
        assert type(member) is Backbone
        assert (member.spec, member.fingerprint, member.width) == (single.spec, single.fingerprint, single.width)
        assert (member.name, member.source, member.transform) == (single.name, single.source, single.transform)
        wanted = single.embed(pixels)
        assert np.ptp(wanted, axis=0).max() > 0  # the images do differ
        np.testing.assert_allclose(part, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
        np.testing.assert_array_equal(member.embed(pixels), wanted)


# -- the right vectors


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_each_layer_is_what_the_backbone_of_that_layer_gives(name, pooling):
    several = layers_of(name, pooling=pooling)
    module = timm.create_model(name)
    assert names(several) == [*(f"stage{n + 1}" for n in range(len(module.feature_info))), "penultimate"]
    assert_members_are_the_single_backbones(several, name, pooling=pooling, precision="fp32")


def test_layers_of_a_network_that_keeps_channels_last():
    name = "swin_tiny_patch4_window7_224"
    assert_members_are_the_single_backbones(layers_of(name, arguments=SWIN), name, arguments=SWIN, precision="fp32")


@pytest.mark.skipif(
    not hasattr(timm.models.CrossVit, "forward_intermediates"), reason="this timm gives no stages of such networks"
)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("crossvit_tiny_240", {"embed_dim": [16, 32], "num_heads": [2, 2], "depth": [[1, 1, 0]]}),
        ("coat_tiny", {"embed_dims": [16, 16, 16, 16], "serial_depths": [1, 1, 1, 1], "parallel_depth": 1}),
    ],
)
def test_layers_of_a_network_that_ends_in_several_scales(name, arguments):
    several = layers_of(name, arguments=arguments)
    assert_members_are_the_single_backbones(several, name, arguments=arguments, precision="fp32")


@pytest.mark.slow
def test_layers_in_bf16_too():
    several = layers_of("test_vit", precision="bf16")
    assert_members_are_the_single_backbones(several, "test_vit", precision="bf16")


def test_the_network_runs_once_for_all_of_them():
    several, calls = layers_of("test_vit"), []
    several.module.blocks[0].register_forward_hook(lambda *_: calls.append("first"))
    several.module.blocks[-1].register_forward_hook(lambda *_: calls.append("last"))
    several.embed(noise(2, several.transform.input_size))
    assert calls == ["first", "last"]


@pytest.mark.slow
def test_some_layers_with_and_without_the_penultimate():
    for layers in (["stage2"], ["stage2", "stage4"], ["stage4", "penultimate"], ["penultimate"]):
        several = layers_of(layers=layers)
        assert names(several) == layers
        assert_members_are_the_single_backbones(several, "test_resnet", precision="fp32")


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        ("penultimate, stage4,stage2", ["stage2", "stage4", "penultimate"]),
        (["stage3", "stage3"], ["stage3"]),
        (["stage1", "stages"], ["stage1", "stage2", "stage3", "stage4", "stage5", "penultimate"]),
    ],
)
def test_layers_come_in_the_networks_order_each_once(layers, wanted):
    assert names(layers_of(layers=layers)) == wanted


def test_stages_above_nine_are_in_order_too():
    arguments = {"depth": 11}
    assert names(layers_of("test_vit", arguments=arguments)) == [*(f"stage{n}" for n in range(1, 12)), "penultimate"]


def test_the_penultimate_may_be_pooled_as_a_stage_cannot():
    several = layers_of("test_vit", "penultimate", pooling="token")
    assert_members_are_the_single_backbones(several, "test_vit", pooling="token", precision="fp32")


# -- refused


@pytest.mark.parametrize(
    "layers", ["stage6", "stage0", "stage2,stagex", "stages,stage6", "", ["Stage1", "penultimate"]]
)
def test_a_layer_that_is_not_there_says_which_are(layers):
    with pytest.raises(BackboneError, match=r"has no layer .*; use penultimate, or stage1 to stage5"):
        layers_of(layers=layers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": []}, "name at least one layer"),
        ({"layer": "stage1"}, "give only one of them"),
        ({"pooling": "token"}, "a stage is pooled by avg or max, not 'token'"),
        ({"precision": "fp64"}, "precision 'fp64' is unknown"),
    ],
)
def test_what_cannot_be_is_one_line(settings, message):
    with pytest.raises(BackboneError, match=message):
        layers_of(**settings)


@pytest.mark.parametrize("name", backbones.DESCRIPTORS)
def test_descriptors_have_no_layers(name):
    with pytest.raises(BackboneError, match=f"^{name} has no layers$"):
        create_layers(name)


@pytest.fixture
def made(monkeypatch):
    """Lets a test change each network that timm makes."""

    def change_with(change):
        real = timm_networks.make_network

        def make_network(*args, **kwargs):
            module = real(*args, **kwargs)
            change(module)
            return module

        monkeypatch.setattr(timm_networks, "make_network", make_network)

    return change_with


@pytest.mark.parametrize("lacks", ["feature_info", "forward_intermediates"])
def test_a_network_whose_stages_timm_cannot_return_is_one_line(made, monkeypatch, lacks):
    if lacks == "feature_info":
        made(lambda module: delattr(module, lacks))
    else:
        monkeypatch.delattr(timm.models.resnet.ResNet, lacks)
    message = "timm cannot return the stages of test_resnet.*; leave out --layer and --layers"
    with pytest.raises(BackboneError, match=message):
        layers_of()
    with pytest.raises(BackboneError, match=message):
        backbones.create("test_resnet", **RANDOM, layer="stage1")
    assert layers_of(layers="penultimate").width == backbones.create("test_resnet", **RANDOM).width


def test_a_pass_that_ends_in_another_embedding_is_not_trusted(made):
    def forgets_the_last_norm(module):
        real = module.forward_intermediates
        module.norm.weight.data[::2] = -1.0  # or it would hardly matter

        def forward_intermediates(x, **kwargs):
            found = real(x, **kwargs)
            return found if kwargs.get("intermediates_only") else (found[0] / module.norm.weight, found[1])

        module.forward_intermediates = forward_intermediates

    made(forgets_the_last_norm)
    with pytest.raises(BackboneError, match=r"test_vit .* gives a different final embedding than its forward_features"):
        layers_of("test_vit")
    assert names(layers_of("test_vit", "stage1,stage2")) == ["stage1", "stage2"]


def test_a_pooling_that_changes_the_weights_is_one_line(made):
    def with_pooling_weights(module):
        module.attn_pool = torch.nn.Linear(2, 2)
        real = module.reset_classifier

        def reset_classifier(*args):
            module.attn_pool = None
            real(*args)

        module.reset_classifier = reset_classifier

    made(with_pooling_weights)
    with pytest.raises(BackboneError, match=r"pooling by 'avg' takes weights out of test_vit .*in separate runs"):
        layers_of("test_vit", pooling="avg")
    assert len(layers_of("test_vit", "stage1,stage2", pooling="avg").members) == 2


# -- a backbone like any other


def test_it_can_be_made_again_and_its_members_too():
    several = layers_of("test_convnext", "stage2,penultimate", pooling="max")
    again = backbones.recreate(several.spec, several.source, device="cpu")
    assert isinstance(again, Layers)
    assert (again.spec, again.widths) == (several.spec, several.widths)
    pixels = noise(2, several.transform.input_size)
    np.testing.assert_array_equal(again.embed(pixels), several.embed(pixels))
    for member in several.members:
        single = backbones.recreate(member.spec, member.source, device="cpu")
        assert (type(single), single.fingerprint) == (Backbone, member.fingerprint)


def test_adapted_adapts_every_member():
    adapted = layers_of().adapted(precision="bf16", decoder="pillow")
    assert isinstance(adapted, Layers)
    assert {(m.spec["precision"], m.transform.decoder) for m in adapted.members} == {("bf16", "pillow")}
    single = backbones.create(
        "test_resnet", **RANDOM, layer="stage2", precision="bf16", transform={"decoder": "pillow"}
    )
    assert adapted.members[1].fingerprint == single.fingerprint


def test_a_single_backbone_is_its_own_member():
    single = backbones.create("test_resnet", **RANDOM, layer="stage2")
    assert single.members == (single,)
    assert single.layers == ["stage2"]
    assert backbones.Pixels().members == (backbones.Pixels(),)


def test_without_memory_it_says_so_as_every_backbone_does(monkeypatch):
    several = layers_of()

    def full(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(several.module, "forward_intermediates", full)
    with pytest.raises(OutOfMemory, match="ran out of memory on cpu for 2 images at once"):
        several.embed(noise(2, several.transform.input_size))


def test_compiled_it_fills_batches_up_and_gives_the_same_columns():
    several, seen = layers_of(), []
    compiled = dataclasses.replace(
        several, compiled=lambda x: (seen.append(len(x)), several.forward(x))[1], batch_size=4
    )
    pixels = noise(3, several.transform.input_size)
    np.testing.assert_allclose(compiled.embed(pixels), several.embed(pixels), rtol=1e-5, atol=1e-6)
    assert seen == [4]
    assert [member.fingerprint for member in compiled.members] == [member.fingerprint for member in several.members]


def test_a_compiler_that_changes_one_small_layer_is_not_trusted(monkeypatch):
    """The cosine of all columns together would not show it, where another layer's vectors are long."""
    several = layers_of("test_vit", "stage1,penultimate")
    several.module.norm.weight.data *= 1e4

    def compile_(forward, **_):
        def changed(x):
            found = forward(x).clone()
            found[:, : several.widths[0]] *= -1
            return found

        return changed

    pixels = noise(4, several.transform.input_size)
    one, other = parts(several, several.embed(pixels))
    assert np.linalg.norm(one) < 0.01 * np.linalg.norm(other)
    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(BackboneError, match="gives different vectors when compiled"):
        several.compile(4)


def test_what_cannot_be_called_from_c_is_compiled_to_be_called_from_python(monkeypatch):
    single, ways = layers_of("test_resnet", "penultimate"), []

    def compile_(forward, **_):
        ways.append(inductor.cpp_wrapper)
        if inductor.cpp_wrapper:
            raise NotImplementedError("an operation without a C name")
        return forward

    monkeypatch.setattr(torch, "compile", compile_)
    made = single.compile(3)
    assert (ways, made.batch_size) == ([True, False], 3)


def test_compiling_for_many_images_takes_the_memory_of_their_pixels_and_no_more(monkeypatch):
    single, asked = layers_of("test_resnet", "penultimate"), []

    class Asked(ImageTransform):
        def trial(self, count):
            asked.append(count)
            return super().trial(count)

    single = dataclasses.replace(single, transform=Asked(**dataclasses.asdict(single.transform)))
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    assert single.compile(20).batch_size == 20
    assert asked == [8]
