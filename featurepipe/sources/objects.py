"""Items of a Python object, such as a data set of torchvision."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from featurepipe.sources.memory import sha256_content
from featurepipe.sources.source import Content, Source


@dataclass(frozen=True, eq=False)
class Objects(Source):
    """What an object gives for the numbers below its length; a place is a number.

    It is asked again whenever an item is read, and for one item at a time: a data set is written for loaders that give
    each worker a copy of it, so it may draw from the global random state, seek in its one open file or fill the same
    array again. Nothing of it is kept, so a store cannot make it again.

    Attributes
    ----------
    items : object
        An object with ``__getitem__``.
    content : callable
        Gives the content of an item. An error that it or the object raises concerns that item alone.
    root : str
        A name for all of them.
    """

    items: Any
    content: Callable[[Any], Content]
    root: str = "object"
    kind: ClassVar[str] = "object"
    placed: ClassVar[bool] = False
    numbered: ClassVar[bool] = True
    _asking: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.items, self.content, self.root)

    def digest(self, place: str) -> str:
        """See `Source.digest`; of an array, as of one in memory."""
        return sha256_content(self.read(place))

    def read(self, place: str) -> Content:
        """See `Source.read`."""
        try:
            with self._asking:  # until its pixels are taken over, as the item may share them with the next
                return self.content(self.items[int(place)])
        except MemoryError:
            raise
        except Exception as error:  # the code is the user's, and may raise anything
            why = " ".join(str(error).split()) or type(error).__name__
            raise OSError(errno.EIO, f"item {int(place)} of {self.root}: {why}") from error
