"""Frozen networks on videos: what they make of single frames, or of clips, averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.networks import make_forward
from featurepipe.backbones.specs import plain
from featurepipe.videos import VideoTransform

if TYPE_CHECKING:
    import torch

PIECE = 8 * 224 * 224  # pixels that go through a network at once on a CPU: what still fits a core's cache


@dataclass(frozen=True)
class Clips(Backbone):
    """A frozen network whose embedding of a video is the mean over its frames, or over its clips.

    Its module takes frames (B, C, H, W) as an image's does. One that sees time takes those of whole clips, one clip
    after the other, and gives fewer vectors than it was given frames, as many for each clip.

    Attributes
    ----------
    transform : VideoTransform
        From a file to frames.
    """

    transform: VideoTransform

    @classmethod
    def of(cls, backbone: Backbone, transform: VideoTransform, **spec: Any) -> Clips:
        """A network that embeds images, for videos; `spec` is what else of the description changes."""
        values = {one.name: getattr(backbone, one.name) for one in fields(Backbone)}
        changed = {"medium": transform.medium, "transform": asdict(transform), **spec}
        return cls(**{**values, "transform": transform, "spec": plain({**backbone.spec, **changed})})

    @cached_property
    def forward(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """uint8 (B, frames, C, H, W) on the device → float32 (B, width)."""
        import torch

        each = make_forward(self.module, self.transform, self.layers, self.spec["pooling"], self.spec["precision"])
        most = self._piece()

        def forward(inputs: torch.Tensor) -> torch.Tensor:
            vectors = torch.cat([each(piece) for piece in inputs.flatten(0, 1).split(most)])
            return vectors.unflatten(0, (len(inputs), -1)).mean(1)

        return forward

    def _piece(self) -> int:
        """Frames that go through the network at once: whole clips, and on a CPU few of them."""
        length, frames = self.transform.length, prod(self.transform.shape[:-3])
        if not self.device.startswith("cpu"):
            return 2**31 - 1 - (2**31 - 1) % frames
        return length * max(1, PIECE // (length * prod(self.transform.input_size[1:])))


def over_frames(backbone: Backbone, values: Mapping[str, Any]) -> Clips:
    """An image network's mean over the frames of a video; `values` are those of the transform that are chosen."""
    return Clips.of(backbone, VideoTransform.of(backbone.transform, **values))
