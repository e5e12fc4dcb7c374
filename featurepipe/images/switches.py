"""Switches of the whole process that other libraries and notebooks turn, and that must not decide what an image is.

``PIL.ImageFile.LOAD_TRUNCATED_IMAGES``
    Truncated images are refused whatever it says, in the threads that decode here; in others it stays as it was.
``PIL.Image.MAX_IMAGE_PIXELS``
    Whoever raises it may have larger images; a lower one refuses none that Pillow takes by default.
Warnings as errors
    A warning of Pillow's is no reason to refuse an image.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from PIL import Image, ImageFile

from featurepipe.errors import ImageError

PIXELS = 89_478_485  # of which Pillow by default warns; it refuses twice as many
Given = TypeVar("Given")
P = ParamSpec("P")
R = TypeVar("R")


class _Lenient(threading.local):
    """Stands in for a switch that is on, while somebody decodes here: on for all threads but theirs."""

    strict = False

    def __bool__(self) -> bool:
        return not self.strict


_LENIENT: Any = _Lenient()  # as good as a bool to whoever asks whether it is true
_INSTALLING, _DEFAULTS = threading.Lock(), threading.Lock()
_strict_threads, _theirs = 0, False  # the latter: what was there before `_LENIENT`

for _lock in (_INSTALLING, _DEFAULTS):  # a forked child must not find them taken
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def unswayed(function: Callable[Concatenate[Given, P], R]) -> Callable[Concatenate[Given, P], R]:
    """Make a function of an image, or of its bytes, that gives the same whatever those switches say."""

    @wraps(function)
    def decide(image: Given, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if not ImageFile.LOAD_TRUNCATED_IMAGES:
            result = _by_default(function, image, *args, **kwargs)
            if not ImageFile.LOAD_TRUNCATED_IMAGES:  # nobody has turned it on meanwhile
                return result
        with _refusing_truncated():
            return _by_default(function, image, *args, **kwargs)

    return decide


def _by_default(function: Callable[..., R], image: Any, *args: Any, **kwargs: Any) -> R:
    """Call a function; if a warning or a limit was raised, again under Pillow's defaults."""
    if not (isinstance(image, Image.Image) and image.format and _warnings_are_errors()):  # those are not tried twice
        try:
            return function(image, *args, **kwargs)
        except (Warning, Image.DecompressionBombError):
            pass
    with _DEFAULTS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Image.MAX_IMAGE_PIXELS
        if theirs is not None and theirs < PIXELS:
            Image.MAX_IMAGE_PIXELS = PIXELS
        try:
            return function(image, *args, **kwargs)
        except Image.DecompressionBombError as error:
            raise ImageError(f"too large: {str(error).rstrip('.')}") from error
        finally:
            if theirs is not None and theirs < PIXELS:
                Image.MAX_IMAGE_PIXELS = theirs


def _warnings_are_errors() -> bool:
    return any(entry[0] == "error" for entry in warnings.filters)


@contextmanager
def _refusing_truncated() -> Iterator[None]:
    global _strict_threads, _theirs
    with _INSTALLING:
        if ImageFile.LOAD_TRUNCATED_IMAGES is not _LENIENT:
            _theirs = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = _LENIENT
        _strict_threads += 1
    _LENIENT.strict = True
    try:
        yield
    finally:
        _LENIENT.strict = False
        with _INSTALLING:
            _strict_threads -= 1
            if not _strict_threads and ImageFile.LOAD_TRUNCATED_IMAGES is _LENIENT:
                ImageFile.LOAD_TRUNCATED_IMAGES = _theirs
