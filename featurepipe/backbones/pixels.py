"""Raw pixels as a feature extractor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.backbones.specs import DECODERS, Transform, make_spec
from featurepipe.digests import sha256_json

PIXELS = "pixels"
SQUASHED = Transform((3, 32, 32), "bilinear", (0.0,) * 3, (1.0,) * 3, 1.0, "squash", DECODERS[0])


@dataclass(frozen=True)
class Pixels:
    """Raw pixels as a feature extractor: the image squashed to 32×32, scaled to 0…1. The baseline to beat."""

    name: str = PIXELS
    device: str = "cpu"
    transform: Transform = SQUASHED

    @property
    def width(self) -> int:
        """Length of one vector: 3 × 32 × 32."""
        return int(np.prod(self.transform.input_size))

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that decides a vector."""
        return make_spec(PIXELS, {}, None, self.transform, "pixels", None, "fp32")

    @property
    def source(self) -> dict[str, Any]:
        """How to make it again."""
        return {"name": PIXELS, "weights": None, "random_seed": None}

    @property
    def fingerprint(self) -> str:
        """sha256 of the spec."""
        return sha256_json(self.spec)

    @property
    def members(self) -> tuple[Pixels]:
        """Whose vectors these are: its own."""
        return (self,)

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, C, H, W) uint8 → (B, C·H·W) float32."""
        return pixels.reshape(len(pixels), -1).astype(np.float32) / 255
