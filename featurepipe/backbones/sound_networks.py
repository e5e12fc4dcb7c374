"""Networks of images that are shown sounds: windows of a log-mel spectrogram, whose embeddings are averaged.

Networks trained on ImageNet are known to be strong starting points for sounds that are drawn in this way.

References
----------
Palanisamy, Singhania and Yao 2020, "Rethinking CNN models for audio classification".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from featurepipe.backbones.extractors import Backbone, failures_named
from featurepipe.backbones.networks import embed, make_forward
from featurepipe.backbones.specs import plain
from featurepipe.digests import sha256_json
from featurepipe.sounds import SoundTransform
from featurepipe.surroundings import guarded

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SoundNetwork:
    """A frozen network of images, made for sounds by `hear`; the embedding is the mean over a sound's windows.

    Attributes
    ----------
    name : str
    network : Backbone
        It is given each window in all of its channels, instead of what its own mean and deviation make of pixels.
    transform : SoundTransform
        Its pictures have the size that the network's own transform has.
    """

    name: str
    network: Backbone
    transform: SoundTransform

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The network's, and how sounds become windows."""
        return {**self.network.spec, "medium": self.transform.medium, "windows": plain(asdict(self.transform))}

    @property
    def source(self) -> dict[str, Any]:
        """How to make the network again."""
        return self.network.source

    @property
    def width(self) -> int:
        """Length of one embedding."""
        return self.network.width

    @property
    def device(self) -> str:
        """Where it runs."""
        return self.network.device

    @property
    def notes(self) -> tuple[str, ...]:
        """What a caller should know."""
        return self.network.notes

    @property
    def layers(self) -> list[str]:
        """The network's layers."""
        return self.network.layers

    @property
    def module(self) -> torch.nn.Module:
        """The network itself."""
        return self.network.module

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the spec's canonical JSON."""
        return sha256_json(self.spec)

    @property
    def members(self) -> tuple[SoundNetwork, ...]:
        """Itself, or that of each layer."""
        several = self.network.members
        return (self,) if len(several) == 1 else tuple(replace(self, network=one) for one in several)

    @cached_property
    def forward(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """float32 (windows, C, H, W) of mean 0 and deviation 1 on the device → float32 (windows, width)."""
        channels, network = self.network.transform.input_size[0], self.network
        as_given = replace(network.transform, mean=(0.0,) * channels, std=(1 / 255,) * channels)
        return make_forward(
            network.module, as_given, network.layers, network.spec["pooling"], network.spec["precision"]
        )

    def adapted(self, *, precision: str | None = None, decoder: str | None = None) -> Self:
        """The same in another precision; there are no decoders to choose from."""
        return replace(self, network=self.network.adapted(precision=precision))

    def split(self, vectors: np.ndarray) -> list[np.ndarray]:
        """Each member's columns of what `embed` gave."""
        return self.network.split(vectors)

    @guarded
    def embed(self, inputs: np.ndarray, /) -> np.ndarray:
        """(B, windows, H, W) float32, NaN where there is no window → (B, width) float32."""
        with failures_named(self, inputs):
            there = ~np.isnan(inputs[:, :, 0, 0])  # (B, windows)
            pictures = inputs[there][..., None]  # (n, H, W, 1)
            pictures = np.repeat(pictures, self.network.transform.input_size[0], axis=3).transpose(0, 3, 1, 2)
            found = embed(self.forward, self.module, pictures, self.network.spec["precision"])  # (n, width)
        counts = there.sum(axis=1)
        return np.add.reduceat(found, np.cumsum(counts) - counts) / counts[:, None].astype(np.float32)


def hear(network: Backbone, chosen: Mapping[str, Any]) -> SoundNetwork:
    """A network of images, for sounds."""
    _, height, width = network.transform.input_size
    return SoundNetwork(network.name, network, SoundTransform((height, width)))
