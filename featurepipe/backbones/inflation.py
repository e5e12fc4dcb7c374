"""Networks of images made to see time, without training: their convolutions inflated as I3D's are.

I3D repeats a 2-D kernel along time and divides it by its length. Such a kernel is a mean over frames and then the 2-D
convolution, so that is how it is computed: exactly the same, at the cost of the 2-D network. Frames lie in the batch,
clip after clip, (B·T, C, H, W); what mixes them is a hook in front of each convolution. Everything else (norms,
activations, squeeze-and-excitation, attention) sees one frame, and so do convolutions of 1×1 and 1×N.

The first and the last frame of a clip are repeated outwards. A clip of a still picture therefore gives exactly what the
2-D network gives for the picture. Poolings and strides of the network can be taken in time, too.

A mean does not know its order: a clip backwards gives nearly the same embedding. With ``taps='shift'`` a quarter of
the channels that a convolution sees are those of the frame before, and a quarter those of the frame after, as in
temporal shift modules: such a network tells left from right.

References
----------
Carreira and Zisserman 2017, "Quo vadis, action recognition? A new model and the Kinetics dataset"; Lin, Gan and Han
2019, "TSM: temporal shift module for efficient video understanding".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from featurepipe.backbones.networks import device_of
from featurepipe.backbones.specs import TimmModule
from featurepipe.backbones.weights import first_line
from featurepipe.errors import BackboneError

TAPS = ("mean", "shift")
SHIFTED = 4  # one in this number of channels is of the frame before, and one of the frame after
LEAST = 2  # convolutions that see time


@dataclass(frozen=True)
class Mix:
    """A hook that lets a convolution or a pooling see several frames: (B·T, C, H, W) → (B·T/stride, C, H, W).

    Attributes
    ----------
    frames : int
        T.
    length : int
        Frames that each output sees.
    stride : int
        1, or 2 where time is halved.
    how : str
        ``mean``, ``shift`` or ``max``.
    """

    frames: int
    length: int
    stride: int
    how: str

    def __call__(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """What the module is called with instead."""
        x, *others = inputs
        clips = x.permute(0, 2, 3, 1).unflatten(0, (-1, self.frames))  # (B, T, H, W, C): as channels_last lies
        mixed = self._shifted(clips) if self.how == "shift" else self._pooled(clips)
        return mixed.flatten(0, 1).permute(0, 3, 1, 2), *others

    def _pooled(self, clips: torch.Tensor) -> torch.Tensor:
        first, *others = self._taps(clips, self.length)
        for tap in others:
            first = torch.maximum(first, tap) if self.how == "max" else first + tap
        return first / self.length if self.how == "mean" else first

    def _shifted(self, clips: torch.Tensor) -> torch.Tensor:
        before, now, after = self._taps(clips, 3)
        some = clips.shape[-1] // SHIFTED
        return torch.cat([before[..., :some], after[..., some : 2 * some], now[..., 2 * some :]], dim=-1)

    def _taps(self, clips: torch.Tensor, length: int) -> Sequence[torch.Tensor]:
        """What each tap of a kernel sees, (B, T/stride, H, W, C) each; beyond the ends the outermost frames."""
        left = (length - 1) // 2
        start, end = clips[:, :1], clips[:, -1:]
        padded = torch.cat([start] * left + [clips] + [end] * (length - 1 - left), dim=1) if length > 1 else clips
        return [padded[:, tap : tap + self.frames : self.stride] for tap in range(length)]


@dataclass(frozen=True)
class _Seen:
    """What a convolution or pooling was given: the height of its input; and its own least kernel and stride."""

    height: int
    kernel: int
    stride: int


def inflate(module: TimmModule, input_size: Sequence[int], frames: int, strides: int, taps: str, name: str) -> None:
    """Make an image network see time, in place; its tensors and their names stay.

    Parameters
    ----------
    module : torch.nn.Module
    input_size : sequence of int
        Channels, height, width of a frame.
    frames : int
        Frames of a clip.
    strides : int
        How many of the steps at which the network halves its pictures, counted from the last, halve time as well.
    taps : {'mean', 'shift'}
        How frames are mixed.
    name : str
        The network's, for messages.

    Raises
    ------
    BackboneError
        It is not a convolutional network, or these options do not fit it.
    """
    if taps not in TAPS:
        raise BackboneError(f"taps {taps!r} is unknown; use {' or '.join(TAPS)}")
    seen = _seen(module, input_size)
    heights = sorted({one.height for one in seen.values() if one.stride > 1})
    if not 0 <= strides <= len(heights):
        raise BackboneError(f"{name} halves its pictures {len(heights)} times; strides is at most that, not {strides}")
    if frames % 2**strides:
        raise BackboneError(
            f"{frames} frames cannot be halved {strides} times; choose frames={2**strides} times a number"
        )
    halved, mixing = heights[:strides], 0
    for part, one in seen.items():
        left = frames // 2 ** sum(height > one.height for height in halved)
        mix = _mix(part, one, left, one.height in halved and one.stride > 1, taps)
        mixing += isinstance(part, torch.nn.Conv2d) and one.kernel > 1
        if mix is not None:
            part.register_forward_pre_hook(mix)
    if mixing < LEAST:
        raise BackboneError(f"{name} has hardly any convolutions that could see time; use it without inflated:")
    _check(module, input_size, frames, strides, name)


def _mix(part: Any, seen: _Seen, frames: int, halves: bool, taps: str) -> Mix | None:
    """The hook of a convolution or pooling; None where it sees one frame and keeps all."""
    stride = 2 if halves else 1
    if isinstance(part, torch.nn.Conv2d):
        if seen.kernel == 1:
            return Mix(frames, 1, stride, "mean") if halves else None
        return Mix(frames, seen.kernel, stride, taps)
    how = "max" if isinstance(part, torch.nn.MaxPool2d) else "mean"
    return Mix(frames, max(seen.kernel, 2), stride, how) if halves else None


def _seen(module: TimmModule, input_size: Sequence[int]) -> dict[Any, _Seen]:
    """The convolutions and poolings that a forward pass calls."""
    seen: dict[Any, _Seen] = {}

    def note(part: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        seen[part] = _Seen(inputs[0].shape[2], _least(part.kernel_size), _least(part.stride))

    kinds = (torch.nn.Conv2d, torch.nn.MaxPool2d, torch.nn.AvgPool2d)
    hooks = [part.register_forward_pre_hook(note) for part in module.modules() if isinstance(part, kinds)]
    with torch.inference_mode():
        module.eval().forward_features(torch.zeros(1, *input_size, device=device_of(module)))
    for hook in hooks:
        hook.remove()
    return seen


def _least(value: Any) -> int:
    return min(value) if isinstance(value, tuple) else value


def _check(module: TimmModule, input_size: Sequence[int], frames: int, strides: int, name: str) -> None:
    """Refuse a network whose branches do not keep the same frames."""
    x = torch.zeros(frames, *input_size, device=device_of(module))
    try:
        with torch.inference_mode():
            found = len(module.forward_head(module.forward_features(x).float(), pre_logits=True))
    except Exception as error:  # whatever a network says of frames that do not fit each other
        raise BackboneError(f"{name} cannot be inflated with strides={strides}: {first_line(error)}") from error
    if found != frames // 2**strides:
        raise BackboneError(f"{name} cannot be inflated with strides={strides}: {frames} frames become {found}")
