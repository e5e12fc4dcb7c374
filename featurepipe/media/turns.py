"""Turns: large things are held in memory a few at a time, whatever number of threads work on them.

What the largest leave behind is given back to the system at once: the C library would keep it for the thread that had
it, and every thread has a large one sooner or later.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

HUGE = 2**26  # of anything larger the memory is given back, which takes some hundred milliseconds
BYTES = 2**30  # at once, of large files: as many as the largest one may have
LARGE_FILE = 2**24  # bytes: files of fewer do not take turns
FREE = nullcontext()


class Turns:
    """Lets threads have a share of something as long as there is some left, in the order in which they ask.

    Parameters
    ----------
    amount : int
        Bytes or pixels that may be had at once.
    huge : int
        After a share of more than this, free memory is given back to the system.
    """

    def __init__(self, amount: int, huge: int = HUGE) -> None:
        self._amount = self._left = amount
        self._huge = huge
        self._next, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Within, this much is taken; more than exists counts as all of it."""
        amount = min(amount, self._amount)
        with self._next, self._changed:  # who comes later waits behind this one, however little it wants
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            if amount > self._huge:
                _give_back()
            with self._changed:
                self._left += amount
                self._changed.notify_all()


def _give_back() -> None:
    """Give memory that is free back to the system, of all threads, where the C library is glibc."""
    library = _libc()
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


READING = Turns(BYTES)


def _start_anew() -> None:
    """A forked child has none of the threads that hold files."""
    global READING
    READING = Turns(BYTES)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def file_turn(size: int) -> AbstractContextManager[None]:
    """A context in which a file of that size, in bytes, may be held; entering it waits, if the file is large.

    Within, a picture may wait for its turn, but not the other way round: so no two wait for each other.
    """
    return FREE if size <= LARGE_FILE else READING.taken(size)
