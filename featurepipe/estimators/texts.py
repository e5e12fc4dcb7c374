"""Texts as a notebook has them: str, in a list, an array or a column; or files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from featurepipe.errors import TextError
from featurepipe.estimators.rows import Listing, opened
from featurepipe.sources import Content


@dataclass(frozen=True)
class Texts(Listing):
    """A row is a text itself, as str or as UTF-8 bytes, or a file, as `pathlib.Path`.

    A text has the digest of its UTF-8 bytes, as files and cells of tables have it.
    """

    medium: ClassVar[str] = "text"
    error: ClassVar[type[TextError]] = TextError
    wanted: ClassVar[str] = "a str, UTF-8 bytes, or a pathlib.Path of a file"
    example: ClassVar[str] = "*.txt"

    def content(self, item: Any) -> Path | Content:
        """See `Listing.content`."""
        item = opened(item)
        if isinstance(item, str):
            return item.encode("utf-8", "surrogatepass")
        if isinstance(item, PathLike):
            return Path(os.fsdecode(item))
        if isinstance(item, (bytes, bytearray, memoryview)):
            return bytes(item)
        raise TextError(self.refusal(item))

    def named(self, index: int, item: Any) -> str:
        """See `Listing.named`; a text is no path."""
        return super().named(index, item if isinstance(item, PathLike) else None)
