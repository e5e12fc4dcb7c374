"""Ctrl-C during an extraction."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def heard() -> Iterator[Callable[[], None]]:
    """Within, Ctrl-C is raised where it comes, and by the function this gives, or on leaving, if it got lost there.

    In a callback of a weak reference, which every object of h5py has, Python prints an exception and goes on. Other
    threads than the main one hear nothing, and another handler than Python's own is left to do what it does.
    """
    came = False

    def hear(number: int, frame: object) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    on_main = threading.current_thread() is threading.main_thread()
    if not on_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, hear)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    check()
