"""MFCC: the hand-crafted descriptor of sounds, for a trained backbone to beat."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from featurepipe.backbones.descriptors import Descriptor
from featurepipe.sounds import MfccTransform
from featurepipe.surroundings import guarded

MFCC = "mfcc"


@dataclass(frozen=True)
class Mfcc(Descriptor):
    """Mean and deviation of mel-frequency cepstral coefficients over a sound: 80 numbers.

    20 coefficients of 64-ms frames, one every 10 ms, and their slopes over 9 frames; of each the mean and the standard
    deviation over all frames: see `featurepipe.sounds`, which computes them. Of a sound of more than ten minutes, ten
    evenly spaced minutes are used.

    References
    ----------
    Davis and Mermelstein 1980, "Comparison of parametric representations for monosyllabic word recognition in
    continuously spoken sentences"; Furui 1986 for slopes; Tzanetakis and Cook 2002, "Musical genre classification of
    audio signals", for means and deviations.
    """

    name: str = MFCC
    transform: MfccTransform = field(default_factory=MfccTransform)
    architecture: ClassVar[str] = MFCC
    title: ClassVar[str] = "MFCC"

    @property
    def width(self) -> int:
        """Length of one vector: means and deviations of 20 coefficients and 20 slopes."""
        return self.transform.shape[0]

    @guarded
    def embed(self, inputs: np.ndarray, /) -> np.ndarray:
        """(B, 80) float32, as the transform gives them."""
        return inputs.astype(np.float32)
