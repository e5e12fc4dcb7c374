"""A network with its head: what it says at first, what trains, in which mode, at which rate."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from timm.models import group_parameters

from featurepipe import probes
from featurepipe.errors import FinetuningError, OutOfMemory
from featurepipe.extraction import read_batch
from featurepipe.finetuning import LINEAR, Network, Recipe, linear_head, random_head, trainable


@pytest.fixture
def network(small):
    """Factory of networks under a random head of three classes."""

    def make(name="test_resnet", classes=3, arguments=None, **recipe):
        backbone = small(name, **(arguments or {}))
        return Network(backbone, *random_head(classes, backbone.width, 0), Recipe(**recipe))

    return make


def pictures(count=4, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), np.uint8))


def training(network):
    return {name for name, module in network.module.named_modules() if module.training}


# -- the start ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 12])
@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_before_any_step_a_network_classifies_as_the_probe(small, tinted, name, kind, classes):
    backbone, samples = small(name), tinted(96, classes)
    pixels = read_batch(samples.images, backbone.transform).inputs
    X, y = backbone.embed(pixels), np.array([f"c{target:02}" for target in samples.targets], object)
    probe = probes.fit(kind, X[:60], y[:60], X[60:], y[60:])
    head = linear_head(kind, probe.estimator, probe.temperature)
    network = Network(backbone, *head, Recipe())
    found = network.predict(torch.from_numpy(pixels)).numpy()
    assert found.dtype == np.float32
    wanted = probe.predict_proba(X)
    np.testing.assert_allclose(softmax(found, axis=1), wanted, atol=1e-4)
    if kind == "logistic":
        scores = probe.estimator.decision_function(X) / probe.temperature
        scores = np.stack([-scores / 2, scores / 2], axis=1) if classes == 2 else scores
        np.testing.assert_allclose(found, scores, atol=1e-4)
    assert np.mean(found.argmax(axis=1) == wanted.argmax(axis=1)) == 1


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_in_training_too_a_frozen_or_dropout_free_network_says_the_same(network, name):
    made = network(name)
    found = made.logits((pictures(),))
    torch.testing.assert_close(found, made.predict(pictures()), atol=1e-5, rtol=1e-5)
    assert found.requires_grad


def test_a_head_of_another_width_is_refused_in_one_line(small):
    with pytest.raises(FinetuningError) as caught:
        Network(small(), *random_head(3, 12, 0), Recipe())
    assert str(caught.value).startswith("the head takes 12 features and test_resnet (random weights, seed 0) gives 96;")


@pytest.mark.parametrize("tune", ["stage9+", "last-40"])
def test_a_depth_that_the_network_has_not_is_refused(network, tune):
    with pytest.raises(FinetuningError, match="test_resnet"):
        network(tune=tune)


# -- what trains --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "tune"), [("test_resnet", "last-1"), ("test_vit", "stage5+"), ("test_resnet", "all")])
def test_gradients_reach_what_trains_and_nothing_else(network, name, tune):
    made = network(name, tune=tune)
    made.logits((pictures(),)).sum().backward()
    wanted = trainable(made.module, tune, name)
    assert {key for key, value in made.module.named_parameters() if value.grad is not None} == wanted
    assert made.names == wanted
    assert made.head.weight.grad is not None


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_of_a_head_alone_no_gradient_reaches_the_network(network, name):
    made = network(name, tune="all")
    made.set_trained(head_alone=True)
    made.logits((pictures(),)).sum().backward()
    assert all(value.grad is None for value in made.module.parameters())
    assert not training(made)
    made.set_trained(head_alone=False)
    made.logits((pictures(),)).sum().backward()
    assert all(value.grad is not None for value in made.module.parameters())


def test_batch_norms_keep_their_statistics_unless_they_may_not(network):
    for batch_norm, moves in (("eval", False), ("train", True)):
        made = network(batch_norm=batch_norm)
        before = {key: value.clone() for key, value in made.module.named_buffers() if value.is_floating_point()}
        assert before
        for seed in range(3):
            made.logits((pictures(seed=seed),))
        changed = {key for key, value in made.module.named_buffers() if key in before and (value != before[key]).any()}
        assert changed == (set(before) if moves else set())


def test_batch_norms_in_training_move_in_what_trains_alone(network):
    made = network(tune="last-1", batch_norm="train")
    before = {key: value.clone() for key, value in made.module.named_buffers() if value.is_floating_point()}
    made.logits((pictures(),))
    changed = {key for key, value in made.module.named_buffers() if key in before and (value != before[key]).any()}
    assert changed == {key for key in before if key.startswith("layer4.")}


def test_validation_moves_no_statistics_and_leaves_no_mode_behind(network):
    made = network(batch_norm="train")
    made.logits((pictures(),))
    before = made.state()
    made.predict(pictures())
    assert not training(made)
    assert all(torch.equal(value, before[key]) for key, value in made.state().items())


@pytest.mark.parametrize(
    ("tune", "block"), [("last-2", "blocks.4"), ("stage5+", "blocks.4"), ("last-1", "blocks.5"), ("all", "blocks.0")]
)
def test_dropout_and_drop_path_act_in_trained_blocks_only(network, tune, block):
    made = network("test_vit", tune=tune, arguments={"proj_drop_rate": 0.5, "drop_path_rate": 0.5})
    made.logits((pictures(),))
    first = int(block.removeprefix("blocks."))
    blocks = {f"blocks.{number}" for number in range(first, 6)}
    active = {name for name in training(made) if name.startswith("blocks.")}
    assert {".".join(name.split(".")[:2]) for name in active} == blocks
    assert f"blocks.{first}.mlp.drop1" in active
    assert ("" in training(made)) == (tune == "all")


def test_dropout_of_a_frozen_network_does_nothing(network):
    arguments = {"proj_drop_rate": 0.5, "drop_path_rate": 0.5}
    made = network("test_vit", tune="head", arguments=arguments)
    torch.testing.assert_close(made.logits((pictures(),)), made.predict(pictures()))
    made = network("test_vit", tune="last-1", arguments=arguments)
    assert not torch.allclose(made.logits((pictures(),)), made.predict(pictures()), atol=1e-3)


def test_rates_fall_layer_by_layer_and_biases_and_norms_do_not_decay(network):
    made, recipe = network("test_vit"), Recipe(layer_decay=0.5, weight_decay=0.1)
    places = {id(value): key for key, value in [*made.module.named_parameters(), *prefixed(made.head)]}
    scales, decays = {}, {}
    for group in made.groups(recipe):
        for parameter in group["params"]:
            key = places.pop(id(parameter))
            scales[key], decays[key] = group["lr_scale"], group["weight_decay"]
    assert not places
    assert (scales["head.weight"], scales["head.bias"], scales["norm.weight"]) == (1, 1, 1)
    rates = [scales[f"blocks.{number}.attn.qkv.weight"] for number in range(6)]
    assert rates == [0.5 ** (5 - number) for number in range(6)]
    assert scales["patch_embed.proj.weight"] == 0.5**6
    undecayed = {key for key, decay in decays.items() if decay == 0}
    assert undecayed == {key for key in decays if key.endswith(".bias") or "norm" in key} | {"cls_token", "pos_embed"}
    assert set(decays.values()) == {0, 0.1}


@pytest.mark.parametrize(("name", "tune"), [("test_vit", "all"), ("test_vit", "last-2"), ("test_resnet", "stage3+")])
def test_by_default_rates_fall_evenly_to_a_tenth_in_the_first_layer_whether_it_trains_or_not(network, name, tune):
    made = network(name, tune=tune)
    places = dict(made.module.named_parameters())
    layers = group_parameters(made.module, made.module.group_matcher(coarse=False))  # layer → names, from the stem up
    last = max(layers)
    found = {id(one): group["lr_scale"] for group in made.groups(Recipe()) for one in group["params"]}
    assert found.pop(id(made.head.weight)) == found.pop(id(made.head.bias)) == 1
    wanted = {id(places[n]): 0.1 ** ((last - i) / last) for i, names in layers.items() for n in names}
    assert len(found) == sum(one.requires_grad for one in places.values()) > 0
    for key, scale in found.items():
        assert scale == pytest.approx(wanted[key])


def prefixed(head):
    return [(f"head.{key}", value) for key, value in head.named_parameters()]


def test_groups_hold_what_trains_alone(network):
    made = network(tune="last-1")
    grouped = {id(parameter) for group in made.groups(Recipe()) for parameter in group["params"]}
    assert grouped == {id(p) for p in [*made.module.layer4.parameters(), *made.head.parameters()]}
    made.set_trained(head_alone=True)
    assert sum(len(group["params"]) for group in made.groups(Recipe())) == 2


# -- states -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_a_state_is_put_back_bit_by_bit(network, batch_norm):
    made = network(tune="last-1", batch_norm=batch_norm)
    before, whole = made.state(), {key: value.clone() for key, value in made.module.state_dict().items()}
    assert all(key.startswith(("layer4.", "head.")) for key in before) == (batch_norm == "eval")
    with torch.no_grad():
        made.head.weight.add_(1)
        for value in made.module.layer4.parameters():
            value.mul_(2)
    made.logits((pictures(),))
    assert not all(torch.equal(value, before[key]) for key, value in made.state().items())
    made.load(before)
    assert all(torch.equal(value, before[key]) for key, value in made.state().items())
    found = made.module.state_dict()
    counted = [key for key in whole if key.endswith("num_batches_tracked")]
    assert all(torch.equal(found[key], whole[key]) for key in whole if key not in counted)


def test_other_values_are_held_for_a_while_even_if_that_fails(network):
    made = network()
    before = made.state()
    other = {key: value + 1 for key, value in before.items()}

    def fail():
        with made.holding(other):
            assert torch.equal(made.state()["head.weight"], other["head.weight"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(torch.equal(value, before[key]) for key, value in made.state().items())


# -- memory -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cramped(network):
    """Factory of a network whose forward pass has no memory for more than so many images."""

    def make(most):
        made, seen = network(), []
        forward = made.evaluated

        def limited(pixels):
            seen.append(len(pixels))
            if len(pixels) > most:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: out of memory")
            return forward(pixels)

        made.evaluated = limited
        return made, seen

    return make


def test_validation_goes_on_in_pieces_where_memory_runs_out(cramped, network):
    made, seen = cramped(3)
    torch.testing.assert_close(made.predict(pictures(10)), network().predict(pictures(10)), atol=1e-5, rtol=1e-5)
    assert seen == [10, 5, 2, 2, 2, 2, 2]
    made.predict(pictures(4))
    assert seen[7:] == [2, 2]  # it has learned


def test_no_memory_for_a_single_image_is_said_in_one_line(cramped):
    made, _ = cramped(0)
    with pytest.raises(OutOfMemory, match=r"test_resnet .* ran out of memory on cpu for a single image; try another"):
        made.predict(pictures(2))


def test_another_error_is_not_taken_for_want_of_memory(network):
    made = network()
    made.evaluated = lambda pixels: torch.zeros(2, 3) @ torch.zeros(2, 3)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        made.predict(pictures(2))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_checkpointing_computes_the_same_gradients(network, name):
    gradients = []
    for checkpointing in (False, True):
        made = network(name, checkpointing=checkpointing)
        made.logits((pictures(),)).square().sum().backward()
        gradients.append({key: value.grad for key, value in made.module.named_parameters()})
        assert any(getattr(part, "grad_checkpointing", False) for part in made.module.modules()) == checkpointing
    for key, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][key])


def test_a_network_that_cannot_checkpoint_says_so(small):
    backbone = small()

    def refuse(enable):
        assert not enable, "gradient checkpointing not supported"  # as timm does

    backbone.module.set_grad_checkpointing = refuse
    with pytest.raises(FinetuningError, match="cannot compute activations again; leave out checkpointing"):
        Network(backbone, *random_head(3, backbone.width, 0), Recipe(checkpointing=True))


def test_validation_in_fp32_does_not_round_to_tf32(network):
    made, seen = network(), []
    forward = made.evaluated
    made.evaluated = lambda pixels: seen.append(torch.backends.cudnn.allow_tf32) or forward(pixels)
    before = torch.backends.cudnn.allow_tf32
    made.predict(pictures())
    assert (seen, torch.backends.cudnn.allow_tf32) == ([False], before)
