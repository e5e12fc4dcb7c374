"""Files below a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

from featurepipe import inputs
from featurepipe.digests import sha256_file
from featurepipe.sources.source import Source, Stamp


@dataclass(frozen=True)
class Files(Source):
    """Regular files; a place is a path relative to the root, or absolute.

    Attributes
    ----------
    root : str
        A folder.

    Examples
    --------
    >>> len(Files("data/digits").read("train/0/0000.png")) > 100
    True
    """

    root: str = "."
    kind: ClassVar[str] = "files"
    alone: ClassVar[bool] = True

    def stamp(self, place: str) -> Stamp:
        """See `Source.stamp`; OSError if it is not a regular file, or too large to be read."""
        return Stamp.of(inputs.status(self._path(place), inputs.IMAGE_BYTES))

    def digest(self, place: str) -> str:
        """See `Source.digest`; the file is never in memory as a whole."""
        return sha256_file(self._path(place))

    def read(self, place: str) -> bytes:
        """See `Source.read`."""
        return inputs.content(self._path(place), inputs.IMAGE_BYTES)

    def _path(self, place: str) -> str:
        return os.path.join(self.root, place)
