"""Texts as a notebook has them: a list, an array or a column of str."""

from __future__ import annotations

from typing import Any

from featurepipe.errors import TextError
from featurepipe.estimators.images import check_images
from featurepipe.sources import Content, InMemory
from featurepipe.stores import Pending


def listed_texts(X: Any, transform: Any = None) -> list[Pending]:
    """Each text of X with the digest of its UTF-8 bytes, as files and tables have it, so that stores agree.

    Raises
    ------
    ValueError
        X is no list, array or column.
    TextError
        One of them is not a str.
    """
    contents: dict[str, Content] = {}
    for index, item in enumerate(check_images(X)):
        if not isinstance(item, str):
            raise TextError(
                f"text {index} is a {type(item).__name__}, not a str; leave it out of X and y, or convert it"
            )
        contents[str(index)] = item.encode("utf-8", "surrogatepass")
    memory = InMemory(contents)
    return [Pending(memory.digest(place), memory, place) for place in contents]
