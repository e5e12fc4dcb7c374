"""Frozen networks that turn pixels into vectors: `Backbone`, and `Layers` for several of its layers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from featurepipe.backbones.grids import TOKENS, grid_of
from featurepipe.backbones.networks import (
    Normalise,
    embed,
    frozen_compiler,
    is_out_of_memory,
    make_forward,
    make_ready,
    quiet,
)
from featurepipe.backbones.precisions import bears_compiling
from featurepipe.backbones.specs import PENULTIMATE, Extractor, plain
from featurepipe.backbones.weights import first_line
from featurepipe.digests import sha256_json
from featurepipe.errors import BackboneError, OutOfMemory
from featurepipe.images import ImageTransform, described
from featurepipe.media import plural
from featurepipe.surroundings import guarded

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Backbone:
    """A frozen network that turns pixels into embeddings.

    Made by `create`; do not build it by hand.

    Attributes
    ----------
    name : str
        What to call it: timm name, with the seed where the weights are random.
    module : torch.nn.Module
        The timm model without classifier, in eval mode, no parameter requiring grad.
    spec : dict
        Everything that decides a vector (JSON).
    source : dict
        How to make it again: ``name``, ``weights`` (path or None), ``random_seed``.
    transform : ImageTransform
        From bytes to pixels to the network's input.
    width : int
        Length of one embedding.
    device : str
        Where it runs.
    compiled : callable or None
        What `compile` made of its forward pass.
    batch_size : int or None
        The number of images that `compiled` takes.
    notes : tuple of str
        What a caller should know of how it was made, such as which of several networks in a file was taken.
    """

    name: str
    module: torch.nn.Module
    spec: dict[str, Any]
    source: dict[str, Any]
    transform: ImageTransform
    width: int
    device: str
    compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
    batch_size: int | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the spec's canonical JSON."""
        return sha256_json(self.spec)

    @property
    def layers(self) -> list[str]:
        """The layer, in a list; or `TOKENS`."""
        return [self.spec["layer"] if grid_of(self.spec) is None else TOKENS]

    @property
    def members(self) -> tuple[Backbone, ...]:
        """Whose vectors `embed` gives side by side, each with an entry of its own in a store: this one alone."""
        return (self,)

    @cached_property
    def forward(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """uint8 (B, C, H, W) on the device → float32 (B, width)."""
        pooling, precision, grid = self.spec["pooling"], self.spec["precision"], grid_of(self.spec)
        return make_forward(self.module, self.transform, self.layers, pooling, precision, grid=grid)

    def adapted(self, *, precision: str | None = None, decoder: str | None = None) -> Self:
        """The same network under another precision or decoder, and thus another fingerprint."""
        transform = replace(self.transform, decoder=decoder or self.transform.decoder)
        changed = {"transform": described(transform), "precision": precision or self.spec["precision"]}
        return replace(self, transform=transform, spec=plain({**self.spec, **changed}), compiled=None, batch_size=None)

    @guarded
    def compile(self, batch_size: int) -> Backbone:
        """The same backbone with its forward pass compiled for batches of one size, to which others are filled up.

        It takes seconds to minutes. The vectors stay the same except for rounding, which is checked here: see
        `featurepipe.backbones.precisions.bears_compiling` for how much that is.

        Raises
        ------
        BackboneError
            The compiler is missing or fails, on a CPU also with kernels that are called from Python, or gives vectors
            that are not the same.
        """
        for from_c in (True, False) if self.device.startswith("cpu") else (False,):
            try:
                few = self.transform.trial(min(batch_size, 8))
                pixels = np.resize(few, (batch_size, *few.shape[1:]))  # repeated
                made, found = self._compile(pixels, from_c=from_c)
                break
            except OutOfMemory:
                raise
            except Exception as error:  # compilers fail in more ways than there are exceptions for
                if not from_c:  # the last way
                    raise BackboneError(f"{self.name} cannot be compiled: {first_line(error)}") from error
        layers = zip(self.split(found), self.split(self.embed(pixels)), strict=True)
        if not all(bears_compiling(one, other, self.spec["precision"]) for one, other in layers):
            raise BackboneError(f"{self.name} gives different vectors when compiled")
        return made

    def _compile(self, pixels: np.ndarray, *, from_c: bool) -> tuple[Backbone, np.ndarray]:
        """The compiled backbone, and its vectors of what it was traced with; see `frozen_compiler`."""
        import torch

        # torch is quiet: it talks of a missing CUDA toolkit, say, where none is wanted
        with quiet("torch"), frozen_compiler(from_c=from_c):
            make_ready(self.module, self.spec["precision"])
            compiled = torch.compile(self.forward, dynamic=False)
            made = replace(self, compiled=compiled, batch_size=len(pixels))
            return made, made.embed(pixels)

    def split(self, vectors: np.ndarray) -> list[np.ndarray]:
        """Each member's columns of what `embed` gave."""
        return np.split(vectors, np.cumsum([member.width for member in self.members])[:-1], axis=1)

    @guarded
    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Embed a batch of images.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (B, C, H, W)
            Decoded by `featurepipe.images` with this backbone's transform.

        Returns
        -------
        ndarray of float32, shape (B, width)
        """
        with failures_named(self, pixels):
            if self.compiled is None or self.batch_size is None or len(pixels) > self.batch_size:
                return embed(self.forward, self.module, pixels, self.spec["precision"])
            missing = self.batch_size - len(pixels)  # another size would be compiled anew
            rest = np.zeros((missing, *pixels.shape[1:]), pixels.dtype)
            filled = np.concatenate([pixels, rest]) if missing else pixels
            return embed(self.compiled, self.module, filled, self.spec["precision"], ready=True)[: len(pixels)]


@contextmanager
def failures_named(extractor: Extractor, pixels: np.ndarray) -> Iterator[None]:
    """Check pixels (B, C, H, W); within, what torch says when it fails on them becomes one of the package's errors."""
    dtype, shape = extractor.transform.dtype, extractor.transform.shape
    if pixels.dtype != dtype or pixels.shape[1:] != shape:
        raise BackboneError(f"inputs are {dtype} of shape (B, {shape}); got {pixels.dtype} {pixels.shape}")
    many = f"{len(pixels)} {plural(extractor.transform.medium)}"
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"{extractor.name} ran out of memory on {extractor.device} for {many} at once; "
                "try a smaller batch size, fewer workers, or another device"
            ) from error
        raise BackboneError(  # an operation that the device lacks
            f"{extractor.name} failed on {many} on {extractor.device}: {first_line(error)}; try device cpu"
        ) from error


def embedding_forward(
    backbone: Backbone, precision: str, normalise: Normalise | None = None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A backbone's forward pass in a precision that may not be its own, through which gradients flow where they are
    wanted: pixels, uint8 or float of 0…255, (B, C, H, W) on its device → float32 (B, width).

    `normalise` is in the place of the usual normalisation; see `make_forward`.
    """
    pooling, grid = backbone.spec["pooling"], grid_of(backbone.spec)
    return make_forward(backbone.module, backbone.transform, backbone.layers, pooling, precision, normalise, grid=grid)


@dataclass(frozen=True)
class Layers(Backbone):
    """Several layers of one frozen network, all of one forward pass; `embed` gives their vectors side by side.

    Made by `create_layers`. Its spec is a backbone's, with a list of layers: no store and no model file ever holds
    it, since there each of the `members` counts by itself. With the key ``tokens``, these are the last of them.

    Attributes
    ----------
    widths : tuple of int
        Length of each layer's embedding; `width` is their sum.
    """

    widths: tuple[int, ...] = ()

    @property
    def layers(self) -> list[str]:
        """The layers, in the network's order, and `TOKENS`."""
        return [*self.spec["layer"], *([] if grid_of(self.spec) is None else [TOKENS])]

    @cached_property
    def members(self) -> tuple[Backbone, ...]:
        """The backbone of each layer, just as `create` makes it with that layer."""
        return tuple(
            Backbone(
                name=self.name,
                module=self.module,
                spec=_member_spec(self.spec, layer),
                source=self.source,
                transform=self.transform,
                width=width,
                device=self.device,
            )
            for layer, width in zip(self.layers, self.widths, strict=True)
        )


def _member_spec(spec: Mapping[str, Any], layer: str) -> dict[str, Any]:
    """The spec of one layer of several, or of their tokens."""
    if layer == TOKENS:
        return {**spec, "layer": PENULTIMATE}
    return {**{key: value for key, value in spec.items() if key != TOKENS}, "layer": layer}
