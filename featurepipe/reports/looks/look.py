"""What is shown of a sample, and of many of them as far as a budget goes."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from featurepipe.errors import DependencyMissing, SampleError
from featurepipe.listeners import SILENT, Listener
from featurepipe.media import file_turn
from featurepipe.sources.source import Content
from featurepipe.stores import Pending

BUDGET = 10_000_000  # bytes of all looks of a page
QUALITY = 75  # of JPEGs
AT_ONCE = 64  # samples that are read before the budget is looked at again
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Look:
    """What is shown of one sample.

    Attributes
    ----------
    picture : str or None
        Base64 of a JPEG.
    sound : str or None
        Base64 of an MP3 file.
    words : str or None
        As they are: whoever puts them on a page escapes them.
    """

    picture: str | None = None
    sound: str | None = None
    words: str | None = None

    @property
    def size(self) -> int:
        """Bytes on a page."""
        return sum(len(one.encode("utf-8", "replace")) for one in (self.picture, self.sound, self.words) if one)


@dataclass(frozen=True)
class Way:
    """How samples of a medium are shown.

    Attributes
    ----------
    look : callable
        The content of a file, and the part of it that is meant, or None → `Look`. It raises SampleError where the
        content is broken, and DependencyMissing.
    most : int
        Samples of one page, however small they are: to read them takes time.
    """

    look: Callable[[Content, str | None], Look]
    most: int


def show(
    samples: Mapping[Name, Pending], way: Way, budget: int = BUDGET, listener: Listener = SILENT
) -> dict[Name, Look]:
    """Looks of samples, as far as the budget goes; one that cannot be read any more has none.

    Parameters
    ----------
    samples : mapping
        Any name → where the sample is; the most important first.
    way : Way
        How samples of their medium are shown.
    budget : int
        Bytes of all together.
    listener : Listener
        Hears progress.

    Raises
    ------
    DependencyMissing
        A package that reads this medium is not installed.
    """
    made: dict[Name, Look] = {}
    wanted = list(samples.items())[: way.most]
    with (
        listener.progress("pictures for the page", len(wanted)) as advance,
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            looks = threads.map(lambda one: _try(one[1], way), some)
            for (name, _), look in zip(some, looks, strict=True):
                if look is None:
                    continue
                budget -= look.size
                if budget < 0:
                    return made
                made[name] = look
            advance(len(some))
    return made


def _try(sample: Pending, way: Way) -> Look | None:
    try:
        with file_turn(sample.size):
            return way.look(sample.read(), sample.part)
    except DependencyMissing:
        raise
    except (OSError, SampleError):
        return None


def jpeg(pixels: np.ndarray) -> str:
    """Base64 of a picture, uint8 (h, w, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return base64.b64encode(file.getvalue()).decode()
