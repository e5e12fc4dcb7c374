"""Contents that were read ahead, next to the source that has the others."""

from __future__ import annotations

import threading
from typing import ClassVar

from featurepipe.sources.source import Content, Source, Stamp


class Kept(Source):
    """Contents of another source that were read for their digests, and wait in memory to be decoded.

    A content goes as soon as everybody who was announced has read it. What is not here is read from the other source,
    also what has gone: so memory is only ever what is still needed, and whoever has to read again can.

    Parameters
    ----------
    source : Source
        Where the contents came from.

    Attributes
    ----------
    size : int
        Bytes that were taken in.

    Examples
    --------
    >>> from featurepipe.sources import InMemory
    >>> kept = Kept(InMemory({"a": b"there"}))
    >>> kept.add("a", b"here")
    >>> kept.read("a"), kept.read("a")
    (b'here', b'there')
    """

    kind: ClassVar[str] = "kept"

    def __init__(self, source: Source) -> None:
        self.root, self.size = source.root, 0
        self._source, self._lock = source, threading.Lock()
        self._contents: dict[str, tuple[bytes, int]] = {}  # place → content, and how often it is still to be read

    def add(self, place: str, data: bytes | None) -> None:
        """Announce one reading of a place, whose content comes along, unless it is here or is not kept."""
        with self._lock:
            held, count = self._contents.get(place, (data, 0))
            if held is not None:
                self._contents[place] = held, count + 1
                self.size += 0 if count else len(held)

    def stamp(self, place: str) -> Stamp | None:
        """See `Source.stamp`; None of what is here, so that nobody is asked for it."""
        return None if place in self._contents else self._source.stamp(place)

    def read(self, place: str) -> Content:
        """See `Source.read`."""
        with self._lock:
            data, count = self._contents.pop(place, (None, 0))
            if data is not None and count > 1:
                self._contents[place] = data, count - 1
        return self._source.read(place) if data is None else data
