"""The media that there are, and the suffixes of their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Medium:
    """What samples are made of.

    Attributes
    ----------
    name : str
        A word whose plural ends in s.
    suffixes : frozenset of str
        Files that are taken for this medium.
    also : frozenset of str
        Files that hold it among other things: taken only where the medium is asked for by its name.
    aside : bool
        Such files also lie next to those of other media, as a README does: by themselves they are taken only where
        there are no others.
    task : str, optional
        What the Hugging Face hub calls its classification; none, if the hub has no word for it.
    """

    name: str
    suffixes: frozenset[str]
    also: frozenset[str] = frozenset()
    aside: bool = False
    task: str | None = None

    @property
    def plural(self) -> str:
        """Several of them."""
        return plural(self.name)


def plural(medium: str) -> str:
    """Several of a medium: one that is listed, or any other word whose plural ends in s.

    Examples
    --------
    >>> plural("sound")
    'sounds'
    """
    return f"{medium}s"


def _suffixes(text: str) -> frozenset[str]:
    return frozenset(f".{suffix}" for suffix in text.split())


MEDIA = {
    medium.name: medium
    for medium in (
        Medium(
            "image",
            _suffixes(
                "jpg jpeg jpe jfif png webp bmp tif tiff gif ppm pgm pbm jp2 avif tga ico heic heif hif dcm dicom"
            ),
            task="image-classification",
        ),
        Medium(
            "sound",
            _suffixes("wav flac ogg mp3 m4a opus"),
            _suffixes("mp4 mkv webm mov avi m4v mpeg mpg aac aiff aif wma"),
            task="audio-classification",
        ),
        Medium("text", _suffixes("txt"), aside=True, task="text-classification"),
        Medium(
            "video",
            _suffixes("mp4 mkv avi webm mov m4v mpeg mpg"),
            _suffixes("gif"),
            task="video-classification",
        ),
    )
}
IMAGE = "image"  # what files of unknown suffix are taken for


def count_media(suffixes: Iterable[str]) -> Counter[str]:
    """How many files there are of each medium, by their suffixes in lower case; other files do not count.

    Examples
    --------
    >>> count_media([".png", ".jpg", ".wav", ".md"])
    Counter({'image': 2, 'sound': 1})
    """
    of = {suffix: medium.name for medium in MEDIA.values() for suffix in medium.suffixes}
    return Counter(of[suffix] for suffix in suffixes if suffix in of)
