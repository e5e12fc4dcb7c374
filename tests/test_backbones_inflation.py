"""Inflated networks: on a still clip what the flat network gives; and what I3D's convolutions give."""

import numpy as np
import pytest
import timm
import torch

from featurepipe.backbones.inflation import Mix, inflate
from featurepipe.errors import BackboneError

SIZE = (3, 64, 64)


def flat(name):
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0).eval()
    for part in module.modules():  # networks begin with branches of weight 0, which would hide what they do
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1)
    return module


def run(module, clips):
    """(B, T, C, H, W) → (B, T', D)."""
    with torch.inference_mode():
        found = module.forward_head(module.forward_features(clips.flatten(0, 1)), pre_logits=True)
    return found.unflatten(0, (len(clips), -1))


@pytest.mark.parametrize("name", ["resnet18", "resnet26d", "efficientnet_lite0", "mobilenetv2_050", "seresnet18"])
@pytest.mark.parametrize("taps", ["mean", "shift"])
@pytest.mark.parametrize("strides", [0, 3])
def test_a_still_clip_gives_what_the_photo_gives(name, taps, strides):
    module, photos = flat(name), torch.rand(2, *SIZE)
    wanted = run(module, photos[:, None])
    inflate(module, SIZE, 8, strides, taps, name)
    found = run(module, photos[:, None].repeat(1, 8, 1, 1, 1))
    assert found.shape[1] == 8 // 2**strides
    torch.testing.assert_close(found, wanted.expand_as(found), rtol=1e-4, atol=1e-4)


def test_a_convolution_is_the_3d_one_with_its_kernel_repeated_and_divided():
    conv = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1)
    volume = torch.nn.Conv3d(4, 6, 3, stride=2, padding=(0, 1, 1))
    volume.weight.data = conv.weight.data[:, :, None].repeat(1, 1, 3, 1, 1) / 3
    volume.bias.data = conv.bias.data
    clip = torch.rand(2, 4, 8, 10, 10)  # (B, C, T, H, W)
    ends = torch.cat([clip[:, :, :1], clip, clip[:, :, -1:]], dim=2)  # outermost frames repeated
    wanted = volume(ends)[:, :, :4]
    conv.register_forward_pre_hook(Mix(8, 3, 2, "mean"))
    found = conv(clip.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, -1)).transpose(1, 2)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_pooling_takes_the_largest_of_its_frames():
    clip = torch.rand(1, 8, 3, 6, 6)
    pool = torch.nn.MaxPool2d(2, 2)
    pool.register_forward_pre_hook(Mix(8, 2, 2, "max"))
    wanted = torch.nn.functional.max_pool3d(clip.transpose(1, 2), 2, 2).transpose(1, 2)[0]
    torch.testing.assert_close(pool(clip[0]), wanted)


def test_a_mean_is_blind_to_direction_and_shifted_taps_are_not():
    clips = torch.rand(2, 8, *SIZE).cumsum(1) / 4

    def change(taps):
        module = flat("resnet26d")
        inflate(module, SIZE, 8, 0, taps, "resnet26d")
        one, other = (run(module, x).mean(1) for x in (clips, clips.flip(1)))
        return float((one - other).norm() / one.norm())

    assert change("mean") < 1e-5
    assert change("shift") > 0.01


@pytest.mark.parametrize(
    ("name", "frames", "strides", "taps", "why"),
    [
        ("vit_tiny_patch16_224", 8, 0, "mean", "hardly any convolutions"),
        ("resnet18", 8, 9, "mean", "halves its pictures 5 times; strides is at most that"),
        ("resnet18", 6, 2, "mean", "6 frames cannot be halved 2 times; choose frames=4 times"),
        ("resnet18", 8, 0, "median", "taps 'median' is unknown; use mean or shift"),
    ],
)
def test_what_cannot_be_inflated_is_refused(name, frames, strides, taps, why):
    module = timm.create_model(name, num_classes=0)
    size = (3, 224, 224) if name.startswith("vit") else SIZE
    with pytest.raises(BackboneError, match=why):
        inflate(module, size, frames, strides, taps, name)


def test_tensors_keep_their_names():
    module = flat("resnet18")
    names = list(module.state_dict())
    inflate(module, SIZE, 4, 1, "mean", "resnet18")
    assert list(module.state_dict()) == names
    assert np.isfinite(run(module, torch.rand(1, 4, *SIZE)).numpy()).all()
