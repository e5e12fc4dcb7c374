"""From the bytes of a sample to one input of a network: the seam that a medium plugs into."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Transform(Protocol):
    """How the bytes of a sample become one input; `featurepipe.images.ImageTransform` is the one for images."""

    @property
    def medium(self) -> str:
        """What a sample is: ``image``, ``sound`` or another word whose plural ends in s."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its numbers, as the network takes them: pixels are uint8."""
        ...

    @property
    def cost(self) -> int:
        """Work of the network for one input, in pixels of an image that takes as long: it decides on batch sizes."""
        ...

    def decode(self, data: Any, part: str | None = None, /) -> np.ndarray:
        """One input, of this shape and type, from the content of a file, or from the part of it that is named.

        Raises
        ------
        SampleError
            The content is broken, now and for ever.
        """
        ...

    def trial(self, count: int, /) -> np.ndarray:
        """Inputs to try a network on, (count, …): always the same, and much like real ones."""
        ...
