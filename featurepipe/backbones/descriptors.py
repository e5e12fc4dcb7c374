"""Hand-crafted descriptors: feature extractors that are not networks, for a trained backbone to beat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from featurepipe.backbones.specs import make_spec
from featurepipe.digests import sha256_json
from featurepipe.errors import DependencyMissing
from featurepipe.images import DEFAULT_DECODER, ImageTransform
from featurepipe.surroundings import guarded

if TYPE_CHECKING:
    import torch

PIXELS = "pixels"
HOG = "hog"
COLOR_HISTOGRAM = "color-histogram"


# the whole image, whatever its shape, as a square
SQUASHED = ImageTransform((3, 128, 128), "bilinear", (0.0,) * 3, (1.0,) * 3, 1.0, "squash", DEFAULT_DECODER)
THUMBNAIL = replace(SQUASHED, input_size=(3, 32, 32))


@dataclass(frozen=True)
class Descriptor(ABC):
    """What all descriptors share: architecture, parameters and transform decide their vectors.

    Attributes
    ----------
    name : str
        What to call it.
    device : str
        They run on the CPU.
    transform : ImageTransform, or one of another medium
        From bytes to pixels.
    """

    name: str
    device: str = "cpu"
    transform: Any = SQUASHED  # an ImageTransform, or of another medium
    architecture: ClassVar[str]
    title: ClassVar[str]  # in prose
    parameters: ClassVar[Mapping[str, Any]] = {}

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of one vector."""

    @property
    def module(self) -> torch.nn.Module | None:
        """What a model file has to carry of it: nothing."""
        return None

    @property
    def weights(self) -> str | None:
        """sha256 of what was learned beforehand; None where that is nothing."""
        return None

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that decides a vector."""
        return make_spec(
            self.architecture, self.parameters, self.weights, self.transform, self.architecture, None, "fp32"
        )

    @property
    def source(self) -> dict[str, Any]:
        """How to make it again."""
        return {"name": self.architecture, "weights": None, "random_seed": None}

    @property
    def fingerprint(self) -> str:
        """sha256 of the spec."""
        return sha256_json(self.spec)

    @property
    def members(self) -> tuple[Descriptor]:
        """Whose vectors `embed` gives: its own."""
        return (self,)

    @abstractmethod
    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, C, H, W) uint8 → (B, width) float32."""


@dataclass(frozen=True)
class Pixels(Descriptor):
    """Raw pixels as a feature extractor: the image squashed to 32×32, scaled to 0…1. The baseline to beat.

    Examples
    --------
    >>> Pixels().width
    3072
    """

    name: str = PIXELS
    transform: ImageTransform = THUMBNAIL
    architecture: ClassVar[str] = PIXELS
    title: ClassVar[str] = "raw pixels"

    @property
    def width(self) -> int:
        """Length of one vector: 3 × 32 × 32."""
        return int(np.prod(self.transform.input_size))

    @guarded
    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, C, H, W) uint8 → (B, C·H·W) float32."""
        return pixels.reshape(len(pixels), self.width).astype(np.float32) / 255


@dataclass(frozen=True)
class Hog(Descriptor):
    """Histograms of oriented gradients of the image squashed to 128×128, by scikit-image.

    Cells of 16×16 pixels, else as Dalal and Triggs have it: 9 unsigned orientations, blocks of 2×2 cells normalised by
    L2-Hys, square roots of the colours, and at each pixel the channel of the strongest gradient.

    Raises
    ------
    DependencyMissing
        scikit-image is not installed.

    References
    ----------
    Dalal and Triggs 2005, "Histograms of oriented gradients for human detection".
    """

    name: str = HOG
    architecture: ClassVar[str] = HOG
    title: ClassVar[str] = "HOG"
    parameters: ClassVar[Mapping[str, Any]] = {
        "orientations": 9,
        "pixels_per_cell": (16, 16),
        "cells_per_block": (2, 2),
        "block_norm": "L2-Hys",
        "transform_sqrt": True,
    }

    def __post_init__(self) -> None:
        require_skimage()

    @property
    def width(self) -> int:
        """Length of one vector: 7 × 7 blocks of 2 × 2 cells of 9 orientations."""
        cell, block = self.parameters["pixels_per_cell"], self.parameters["cells_per_block"]
        blocks = np.array(self.transform.input_size[1:]) // cell - block + 1  # down and across
        return int(blocks.prod() * np.prod(block) * self.parameters["orientations"])

    @guarded
    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, C, H, W) uint8 → (B, width) float32."""
        feature = require_skimage()
        vectors = [feature.hog(image, channel_axis=0, **self.parameters) for image in pixels]
        return np.array(vectors, np.float32).reshape(len(pixels), self.width)


@dataclass(frozen=True)
class ColorHistogram(Descriptor):
    """Joint histogram of hue, saturation and value of the image squashed to 128×128: 16 × 4 × 4 bins.

    Shares of the pixels, and of these the square roots: the inner product of two vectors is then the Bhattacharyya
    coefficient of two distributions, and a linear classifier is no longer led by one large area.

    References
    ----------
    Swain and Ballard 1991, "Color indexing"; Chapelle, Haffner and Vapnik 1999, "Support vector machines for
    histogram-based image classification", for HSV and for roots of the bins.

    Examples
    --------
    >>> ColorHistogram().embed(np.zeros((2, 3, 128, 128), np.uint8)).shape
    (2, 256)
    """

    name: str = COLOR_HISTOGRAM
    architecture: ClassVar[str] = COLOR_HISTOGRAM
    title: ClassVar[str] = "a colour histogram"
    parameters: ClassVar[Mapping[str, Any]] = {"space": "HSV", "bins": (16, 4, 4), "root": True}

    @property
    def width(self) -> int:
        """Length of one vector: 16 × 4 × 4."""
        return int(np.prod(self.parameters["bins"]))

    @guarded
    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, C, H, W) uint8 → (B, 256) float32."""
        counts = np.zeros((len(pixels), self.width), np.float32)
        for row, image in zip(counts, pixels, strict=True):
            rgb = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
            hue, saturation, value = np.asarray(rgb.convert("HSV")).reshape(-1, 3).T  # uint8 (H·W,) each
            bins = (hue >> 4 << 4) | (saturation >> 6 << 2) | (value >> 6)
            row[:] = np.bincount(bins, minlength=self.width)
        return np.sqrt(counts / np.float32(np.prod(pixels.shape[2:])))


def require_skimage() -> ModuleType:
    """The module skimage.feature.

    Raises
    ------
    DependencyMissing
        scikit-image is not installed.
    """
    try:
        import skimage.feature
    except ImportError as error:
        raise DependencyMissing("HOG needs scikit-image: pip install 'featurepipe[handcrafted]'") from error
    return skimage.feature
