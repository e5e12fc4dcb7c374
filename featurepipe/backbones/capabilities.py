"""What an extractor may be able to do besides embedding: it can if it has the members, whatever class it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import numpy as np

from featurepipe.backbones.specs import Embedder, Extractor

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Compilable(Embedder, Protocol):
    """Can be compiled for batches of one size."""

    @property
    def module(self) -> torch.nn.Module:
        """Its network."""
        ...

    def compile(self, batch_size: int) -> Embedder:
        """The same vectors, except for rounding, sooner."""
        ...


@runtime_checkable
class Adaptable(Extractor, Protocol):
    """Can compute in other precisions, and take the pixels of other decoders."""

    @property
    def layers(self) -> list[str]:
        """Its layers."""
        ...

    def adapted(self, *, precision: str | None = None, decoder: str | None = None) -> Self:
        """The same network in another precision or with another decoder, and thus with another fingerprint."""
        ...

    def split(self, vectors: np.ndarray) -> Iterable[np.ndarray]:
        """The vectors of each layer."""
        ...


@runtime_checkable
class Portable(Extractor, Protocol):
    """Can be stored in a model file, so that the file needs no other."""

    @property
    def module(self) -> torch.nn.Module | None:
        """What the file carries of it; None where its name is enough."""
        ...
