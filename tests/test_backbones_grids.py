"""Tokens are what timm's forward_features gives for the patches, of the same pass as the vector."""

import numpy as np
import pytest
import torch

from featurepipe import backbones
from featurepipe.backbones import grids
from featurepipe.errors import BackboneError, FingerprintMismatch

RANDOM = {"random_weights": True}


def maps_of(backbone, pixels):
    """The last map (B, D, h, w) of a ViT with one class token, or of a ResNet, straight from timm."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (backbone.transform.mean, backbone.transform.std))
    with torch.inference_mode():
        last = backbone.module.forward_features((torch.from_numpy(pixels) / 255 - mean) / std)
    if last.ndim == 4:
        return last
    side = int((last.shape[1] - 1) ** 0.5)
    return last[:, 1:].reshape(len(last), side, side, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("grid", [True, 3, (2, 1)])
def test_tokens_are_those_of_timm_and_vectors_stay_as_they_are(name, grid):
    both = backbones.create_layers(name, "penultimate", tokens=grid, **RANDOM)
    pixels = np.ascontiguousarray(both.transform.trial(3))
    vectors, tokens = both.split(both.embed(pixels))
    wanted = maps_of(both, pixels)
    if grid is not True:
        wanted = torch.nn.functional.adaptive_avg_pool2d(wanted, grid)
    shape = wanted.shape[2:]
    assert backbones.grid_of(both.members[1].spec) == tuple(shape)
    found = backbones.as_rows(both.members[1].spec, tokens)
    assert found.dtype == np.float16
    assert np.allclose(found, wanted.permute(0, 2, 3, 1), rtol=2e-3, atol=2e-4)
    alone = backbones.create(name, **RANDOM)
    assert both.members[0].fingerprint == alone.fingerprint
    assert "tokens" not in alone.spec
    assert np.allclose(vectors, alone.embed(pixels), atol=1e-6)


def test_tokens_alone_and_all_layers_are_made_again_from_their_specs():
    alone = backbones.create("test_vit", tokens=2, **RANDOM)
    several = backbones.create_layers("test_vit", "stage1,penultimate", tokens=2, **RANDOM)
    assert several.members[-1].fingerprint == alone.fingerprint
    pixels = alone.transform.trial(2)
    assert np.allclose(several.split(several.embed(pixels))[-1], alone.embed(pixels), rtol=1e-3, atol=1e-3)
    for one in (alone, several):
        made = backbones.recreate(one.spec, one.source)
        assert [member.fingerprint for member in made.members] == [member.fingerprint for member in one.members]
    with pytest.raises(FingerprintMismatch, match="tokens"):
        backbones.specs.check_same(alone.spec, several.members[1].spec)


def test_an_own_grid_and_its_number_are_the_same_backbone():
    made = [backbones.create("test_resnet", tokens=grid, **RANDOM).fingerprint for grid in (True, 5, [5, 5], 4)]
    assert made[0] == made[1] == made[2] != made[3]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("pixels", {"tokens": 7}, "pixels gives one vector and no tokens"),
        ("test_resnet", {"tokens": 6, **RANDOM}, "has a grid of 5×5 tokens, which cannot become 6×6"),
        ("test_resnet", {"tokens": (2,), **RANDOM}, "a whole number from 1"),
        ("test_resnet", {"tokens": -1, **RANDOM}, "a whole number from 1"),
        ("test_resnet", {"tokens": 2, "layer": "stage2", **RANDOM}, "of the last layer, not of stage2"),
        ("test_resnet", {"tokens": 2, "medium": "sound", **RANDOM}, "these are sounds"),
    ],
)
def test_what_has_no_such_tokens_is_refused(name, options, says):
    with pytest.raises(BackboneError, match=says):
        backbones.create(name, **options)


@pytest.mark.parametrize(
    ("last", "says"),
    [
        ([torch.zeros(1, 5, 8), torch.zeros(1, 2, 8)], "no map of features"),
        (torch.zeros(1, 8), "no map of features"),
        (torch.zeros(1, 17, 8), "17 tokens, which form no grid"),
        (torch.zeros(1, 1, 8), "1 tokens, which form no grid"),
    ],
)
def test_outputs_that_are_no_grid_are_refused(last, says):
    with pytest.raises(BackboneError, match=says):
        grids.token_map(torch.nn.Identity(), last, (64, 64), "net")


def test_a_map_may_have_its_channels_last_and_tokens_the_proportions_of_the_input():
    module = torch.nn.Identity()
    module.output_fmt = "NHWC"
    maps = torch.arange(24.0).reshape(1, 2, 3, 4)  # (B, h, w, D)
    assert torch.equal(grids.token_map(module, maps, (64, 96), "net"), maps.permute(0, 3, 1, 2))
    found = grids.token_map(torch.nn.Identity(), maps.reshape(1, 6, 4), (64, 96), "net")
    assert torch.equal(found, maps.permute(0, 3, 1, 2))


def test_what_float16_cannot_hold_is_infinite_and_thus_rejected():
    assert not grids.flat_tokens(torch.full((1, 2, 2, 2), 1e6), (1, 1)).isfinite().any()
