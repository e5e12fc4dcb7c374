"""Frozen networks on videos: what they make of single frames, or of clips, averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from featurepipe.backbones.extractors import Backbone
from featurepipe.backbones.networks import make_forward
from featurepipe.backbones.specs import plain
from featurepipe.errors import BackboneError
from featurepipe.images import described
from featurepipe.videos import VideoTransform, require_av

if TYPE_CHECKING:
    import torch

# Pixels that go through a network at once: on a CPU what still fits a core's cache, elsewhere what keeps it busy.
PIECE, PIECE_OF_DEVICE = 8 * 224 * 224, 256 * 224 * 224


@dataclass(frozen=True)
class Clips(Backbone):
    """A frozen network whose embedding of a video is the mean over its frames, or over its clips.

    Its module takes frames (B, C, H, W) as an image's does. One that sees time takes those of whole clips, one clip
    after the other, and gives fewer vectors than it was given frames, as many for each clip.

    Attributes
    ----------
    transform : VideoTransform
        From a file to frames.
    widths : tuple of int
        Length of each layer's embedding, where there are several layers.
    """

    transform: VideoTransform
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require_av()

    @classmethod
    def of(cls, backbone: Backbone, transform: VideoTransform, **spec: Any) -> Self:
        """A network that embeds images, for videos; `spec` is what else of the description changes."""
        values = {one.name: getattr(backbone, one.name) for one in fields(backbone)}
        changed = {"medium": transform.medium, "transform": described(transform), **spec}
        return cls(**{**values, "transform": transform, "spec": plain({**backbone.spec, **changed})})

    @property
    def layers(self) -> list[str]:
        """The layers, in the network's order."""
        return self.spec["layer"] if self.widths else [self.spec["layer"]]

    @cached_property
    def members(self) -> tuple[Clips, ...]:
        """Itself alone, or the same with each of several layers."""
        each = zip(self.layers, self.widths, strict=bool(self.widths))
        several = (replace(self, spec={**self.spec, "layer": one}, width=width, widths=()) for one, width in each)
        return tuple(several) or (self,)

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
        length, (_, height, width) = self.transform.length, self.transform.input_size
        most = PIECE if self.device.startswith("cpu") else PIECE_OF_DEVICE
        return length * max(1, most // (length * height * width))


def over_frames(backbone: Backbone, chosen: Mapping[str, Any]) -> Clips:
    """An image network's mean over the frames of a video; `chosen` are the values of the transform that the caller set.

    Raises
    ------
    BackboneError
        A rate of frames, where a clip is a single one.
    """
    values = {key: chosen[key] for key in ("clips", "length", "fps") if key in chosen}
    if "fps" in values and values.get("length", 1) == 1:
        raise BackboneError(
            f"{backbone.name} sees single frames, which have no rate; leave out --fps, and say how many frames with "
            "--clips"
        )
    return Clips.of(backbone, VideoTransform.of(backbone.transform, **values))
