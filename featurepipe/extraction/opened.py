"""Sources that a process has open, so that the chunks which it is sent do not open their source once more each."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from featurepipe.sources import SOURCES, Source, Stamp

MOST = 4  # sources that are kept: one may have an unpacked copy, or a gigabyte of row groups


class Opened:
    """The sources that were used last, each known by its kind, its root, and what its root looks like.

    What is sent to a process is the name of a source. The process has to make its index, unpack it or download it
    before the first content can be read. Of a source that is here already, none of that is done again. One whose
    archive looks different now, or was seen to have changed, is another one, and takes the place of the one before.

    Parameters
    ----------
    most : int
        Sources that are kept.

    Examples
    --------
    >>> from featurepipe.sources import Files
    >>> opened, first = Opened(), Files("photos")
    >>> opened.one(first) is first, opened.one(Files("photos")) is first
    (True, True)
    """

    def __init__(self, most: int = MOST) -> None:
        self._most, self._lock = most, threading.Lock()
        self._held: OrderedDict[tuple[str, str], tuple[Stamp | None, Source]] = OrderedDict()

    def one(self, source: Source) -> Source:
        """The source of the same contents that is here already; else the one that is given.

        One that kind and root do not make again, such as what is in memory, is always the one that is given.
        """
        if SOURCES.get(source.kind) is not type(source):
            return source
        key, now = (source.kind, source.root), _looks(source.root)
        with self._lock:
            before, held = self._held.pop(key, (now, source))
            held = held if _alike(before, now) and not held.outdated else source
            self._held[key] = now, held
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return held


OPENED = Opened()  # of this process


def _alike(before: Stamp | None, now: Stamp | None) -> bool:
    return before is now if before is None or now is None else now.resembles(before)


def _looks(root: str) -> Stamp | None:
    """What an archive is known by; None of what is no place of the file system, and of a pattern."""
    try:
        return Stamp.of(os.stat(root))
    except (OSError, ValueError):
        return None
