"""Encoders: whatever a library makes of texts, or of waves, behind what extraction asks of a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from featurepipe.backbones.extractors import failures_named
from featurepipe.digests import sha256_json
from featurepipe.media import Transform
from featurepipe.surroundings import guarded
from featurepipe.texts import TextTransform


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder.

    Attributes
    ----------
    name : str
        What to call it.
    spec : dict
        Everything that decides a vector.
    source : dict
        How to make it again.
    width : int
        Length of one vector.
    encode : callable
        What `transform` gives for some samples, in a list → their vectors (n, width). Threads call it at the same time.
    transform : Transform
        From bytes to texts, unless it is another's.
    device : str
        Where it runs.
    notes : tuple of str
        What a user should hear.
    """

    name: str
    spec: dict[str, Any]
    source: dict[str, Any]
    width: int
    encode: Callable[[Sequence[Any]], np.ndarray] = field(repr=False, compare=False)
    transform: Transform = field(default_factory=TextTransform, repr=False)
    device: str = "cpu"
    notes: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the spec."""
        return sha256_json(self.spec)

    @property
    def members(self) -> tuple[Encoder]:
        """Whose vectors `embed` gives: its own."""
        return (self,)

    @guarded
    def embed(self, inputs: np.ndarray) -> np.ndarray:
        """Samples (B, …), as the transform decodes them → float32 (B, width)."""
        with failures_named(self, inputs):
            if not len(inputs):
                return np.empty((0, self.width), np.float32)
            return np.asarray(self.encode(list(inputs)), np.float32)


def by_length(texts: Sequence[str], most: int) -> list[list[int]]:
    """Numbers of texts of about one length in each portion, the longest first; `most` characters in a portion.

    Texts that are embedded together are filled up to the longest of them. A text counts as its own length, however
    little of it an encoder takes.

    Examples
    --------
    >>> by_length(["a", "bbbb", "cc", "ddddd"], most=10)
    [[3, 1], [2, 0]]
    """
    portions: list[list[int]] = []
    room = 0
    for number in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        if room < 1:
            portions.append([])
            room = max(1, most // max(1, len(texts[number])))
        portions[-1].append(number)
        room -= 1
    return portions
