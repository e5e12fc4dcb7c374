"""What is in memory already."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from featurepipe.digests import sha256_bytes
from featurepipe.sources.source import Content, Source

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class InMemory(Source):
    """Encoded bytes and uint8 arrays of shape (H, W) or (H, W, 3); a place is the name of one.

    Attributes
    ----------
    contents : mapping
        Place → content.
    root : str
        A name for all of them.

    Examples
    --------
    >>> InMemory({"a": b"abc"}).digest("a")[:8]
    'ba7816bf'
    """

    contents: Mapping[str, Content]
    root: str = ""
    kind: ClassVar[str] = "memory"
    placed: ClassVar[bool] = False

    def digest(self, place: str) -> str:
        """See `Source.digest`; of an array, with a line in front of its bytes that says what they are."""
        return sha256_content(self.read(place))

    def read(self, place: str) -> Content:
        """See `Source.read`."""
        try:
            return self.contents[place]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place) from None

    def share(self, places: Collection[str]) -> InMemory:
        """See `Source.share`: these contents alone."""
        return InMemory({place: self.contents[place] for place in places if place in self.contents}, self.root)


def sha256_content(found: Content) -> str:
    """Hexadecimal sha256 of bytes, or of an array with its mode and size."""
    return sha256_bytes(found if isinstance(found, bytes) else _header(found) + found.tobytes())


def _header(image: np.ndarray) -> bytes:
    """Mode and size, as Pillow calls them; without them, images of different shapes could have the same bytes."""
    mode = "RGB" if image.ndim == 3 else "L"
    return f"{mode} {image.shape[1]}x{image.shape[0]}\n".encode()
