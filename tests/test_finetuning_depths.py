"""Which parameters of a network train."""

import pytest
import timm

from featurepipe.errors import FinetuningError
from featurepipe.finetuning import layers_of, trainable


def network(name):
    return timm.create_model(name, num_classes=0)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "mobilenetv2_035"])
def test_layers_hold_every_parameter_once_in_order_and_end_with_a_block(name):
    module = network(name)
    layers = layers_of(module, name)
    assert sorted(one for layer in layers for one in layer) == sorted(one for one, _ in module.named_parameters())
    parameters = dict(module.named_parameters())
    assert all(any(parameters[one].ndim >= 2 for one in layer) for layer in layers)


@pytest.mark.parametrize(
    ("name", "tune", "begins"),
    [
        ("test_resnet", "last-1", {"layer4"}),
        ("test_resnet", "stage5+", {"layer4"}),
        ("test_resnet", "stage2+", {"layer1", "layer2", "layer3", "layer4"}),
        ("test_vit", "last-2", {"blocks.4", "blocks.5", "norm"}),
        ("test_vit", "stage6+", {"blocks.5", "norm"}),
        ("test_convnext", "stage4+", {"stages.3", "head.norm"}),
        ("mobilenetv2_035", "stage5+", {"blocks.5", "blocks.6", "conv_head", "bn2"}),
    ],
)
def test_a_depth_trains_the_last_layers_and_what_follows(name, tune, begins):
    module = network(name)
    wanted = {one for one, _ in module.named_parameters() if one.startswith(tuple(f"{b}." for b in begins))}
    assert trainable(module, tune, name) == wanted


@pytest.mark.parametrize("tune", ["all", "stage1+"])
def test_all_and_the_first_stage_train_everything(tune):
    module = network("test_resnet")
    assert trainable(module, tune, "x") == {name for name, _ in module.named_parameters()}
    assert trainable(module, "head", "x") == set()


@pytest.mark.parametrize(
    ("tune", "says"),
    [
        ("last-0", "unknown"),
        ("stage6+", r"has no stage6; use stage1\+ to stage5\+"),
        ("last-9", "has 5 blocks"),
        ("half", "use head, last-N"),
    ],
)
def test_depths_that_there_are_not(tune, says):
    with pytest.raises(FinetuningError, match=says):
        trainable(network("test_resnet"), tune, "test_resnet")
