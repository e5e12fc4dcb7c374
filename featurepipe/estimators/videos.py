"""Videos as a notebook has them: files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from featurepipe.errors import VideoError
from featurepipe.estimators.rows import Listing
from featurepipe.sources import Content


@dataclass(frozen=True)
class Videos(Listing):
    """A row is a file."""

    medium: ClassVar[str] = "video"
    error: ClassVar[type[VideoError]] = VideoError
    wanted: ClassVar[str] = "a path, or encoded bytes"
    example: ClassVar[str] = "*.mp4"

    def content(self, item: Any) -> Path | Content:
        """See `Listing.content`."""
        if (file := self.file_of(item)) is None:
            raise VideoError(self.refusal(item))
        return file
