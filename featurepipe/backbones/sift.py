"""A bag of visual words: how often each word of a codebook of SIFT descriptors occurs in an image.

The codebook is learned from images, and so is to this descriptor what weights are to a network: a file, whose sha256
is part of the spec. Whoever learns it must keep to training images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featurepipe.backbones.descriptors import Descriptor
from featurepipe.backbones.formats import Unfit
from featurepipe.backbones.weights import OPTION, read_weights
from featurepipe.digests import sha256_state_dict
from featurepipe.errors import DependencyMissing, WeightsUnavailable
from featurepipe.files import atomic
from featurepipe.surroundings import guarded

if TYPE_CHECKING:
    import torch

SIFT = "sift"
PATCHES = "sift-patches"  # no backbone: no name that `create` takes
WORDS = 256
SIFT_LENGTH = 128
PATCH, STEP = 16, 4  # pixels
SAMPLED = 8  # a codebook is learned from every eighth descriptor of an image
LEARN = "featurepipe compare STORE --baselines full learns one from the training images"


@dataclass(frozen=True)
class Patches(Descriptor):
    """Local descriptors of the image squashed to 128×128, side by side: what a codebook is learned from.

    RootSIFT of patches of 16×16 pixels, upright, of every eighth place of the grid.
    """

    name: str = PATCHES
    architecture: ClassVar[str] = PATCHES
    title: ClassVar[str] = "SIFT descriptors"

    def __post_init__(self) -> None:
        require_cv2()

    @property
    def width(self) -> int:
        """Length of one vector: places × 128."""
        return len(_grid(self.transform.input_size[1:])[::SAMPLED]) * SIFT_LENGTH

    @guarded
    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) uint8 → (B, places · 128) float32."""
        return np.array([_describe(image)[::SAMPLED] for image in pixels]).reshape(len(pixels), self.width)


@dataclass(frozen=True, kw_only=True)
class Sift(Descriptor):
    """Bag of visual words of the image squashed to 128×128: RootSIFT on a dense grid, by OpenCV.

    Patches of 16×16 pixels every 4 pixels, upright; each counts for the nearest word of the codebook. The square roots
    of the shares are taken, as in `ColorHistogram`.

    Attributes
    ----------
    codebook : ndarray of float32, shape (words, 128)
    path : Path
        Its file.

    Raises
    ------
    DependencyMissing
        OpenCV is not installed.

    References
    ----------
    Csurka et al. 2004, "Visual categorization with bags of keypoints"; Nowak et al. 2006, "Sampling strategies for
    bag-of-features image classification", for dense grids; Arandjelović and Zisserman 2012, "Three things everyone
    should know to improve object retrieval", for RootSIFT.
    """

    codebook: np.ndarray = field(compare=False, repr=False)
    path: Path
    name: str = SIFT
    architecture: ClassVar[str] = SIFT
    title: ClassVar[str] = "a bag of SIFT words"
    parameters: ClassVar[Mapping[str, Any]] = {"patch": PATCH, "step": STEP, "root": True}

    def __post_init__(self) -> None:
        require_cv2()

    @classmethod
    def load(cls, path: str | PathLike[str] | None) -> Sift:
        """With the codebook of a file, which may be a model file that carries it.

        Raises
        ------
        WeightsUnavailable
            No file.
        BackboneError
            A file without codebook.
        """
        if path is None:
            raise WeightsUnavailable(f"{SIFT} needs a codebook; {LEARN}, and give its file {OPTION}")
        require_cv2()
        found: Any = read_weights(Path(path))[0].values.get("codebook")
        if getattr(found, "ndim", None) != 2 or found.shape[1] != SIFT_LENGTH or not found.isfinite().all():
            raise Unfit(f"{path} holds no codebook of SIFT words; {LEARN}")
        return cls(codebook=found.float().numpy(), path=Path(path).resolve())

    @property
    def width(self) -> int:
        """Length of one vector: words of the codebook."""
        return len(self.codebook)

    @property
    def weights(self) -> str:
        """sha256 of the codebook."""
        return self._digest

    @property
    def source(self) -> dict[str, Any]:
        """How to make it again."""
        return {"name": self.architecture, "weights": str(self.path), "random_seed": None}

    @property
    def module(self) -> torch.nn.Module:
        """The codebook as a network's weights are held, for a model file to carry."""
        import torch

        module = torch.nn.Module()
        module.register_buffer("codebook", torch.from_numpy(self.codebook))
        return module

    @cached_property
    def _digest(self) -> str:
        return sha256_state_dict(self.module.state_dict())

    @guarded
    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 3, H, W) uint8 → (B, words) float32."""
        half_squares = (self.codebook**2).sum(axis=1) / 2  # (words,)
        shares = np.zeros((len(pixels), self.width), np.float32)
        for row, image in zip(shares, pixels, strict=True):  # one by one: rounding must not depend on the batch
            nearest = (_describe(image) @ self.codebook.T - half_squares).argmax(axis=1)  # (places,)
            row[:] = np.bincount(nearest, minlength=self.width) / len(nearest)
        return np.sqrt(shares)


@guarded
def learn_codebook(descriptors: np.ndarray, seed: int) -> np.ndarray:
    """Cluster local descriptors (n, 128) into words by mini-batch k-means; float32 (at most 256, 128).

    Where there are no more distinct descriptors than words, they are the words.
    """
    from sklearn.cluster import MiniBatchKMeans

    distinct = np.unique(descriptors, axis=0)
    if len(distinct) <= WORDS:
        return distinct
    fitted = MiniBatchKMeans(WORDS, batch_size=4096, n_init=1, random_state=seed).fit(descriptors)
    return fitted.cluster_centers_.astype(np.float32)


@guarded
def save_codebook(path: Path, codebook: np.ndarray, learned_from: Mapping[str, Any]) -> None:
    """Write a codebook as a weights file, with what it was learned from in its header."""
    from safetensors.numpy import save

    with atomic(path) as temporary:
        temporary.write_bytes(save({"codebook": codebook}, {"featurepipe": json.dumps({"learned_from": learned_from})}))


def learned_from(path: Path) -> Mapping[str, Any] | None:
    """What the codebook of a weights file was learned from; None where it does not say.

    Raises
    ------
    BackboneError
        The file cannot be read.
    """
    return read_weights(path)[1].get("learned_from")


def require_cv2() -> ModuleType:
    """The module cv2.

    Raises
    ------
    DependencyMissing
        OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise DependencyMissing("SIFT needs OpenCV: pip install 'featurepipe[handcrafted]'") from error
    return cv2


def _grid(size: tuple[int, int]) -> list[tuple[float, float]]:
    """Centres (x, y) of all patches that lie inside an image of (height, width), row by row."""
    rows, columns = ([start + (PATCH - 1) / 2 for start in range(0, side - PATCH + 1, STEP)] for side in size)
    return [(x, y) for y in rows for x in columns]


def _describe(image: np.ndarray) -> np.ndarray:
    """RootSIFT descriptors (places, 128) of an image (3, H, W); zeros where nothing is to be seen."""
    cv2 = require_cv2()
    grey = cv2.cvtColor(np.ascontiguousarray(image.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)  # (H, W)
    size = PATCH / 6  # OpenCV lays 4 bins of one and a half sizes each over a keypoint
    keypoints = [cv2.KeyPoint(x, y, size, 0) for x, y in _grid(grey.shape)]
    _, found = cv2.SIFT_create().compute(grey, keypoints)  # (places, 128)
    return np.sqrt(found / np.maximum(found.sum(axis=1, keepdims=True), 1e-9))
