"""Ctrl-C while threads or processes are at work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupts:
    """Hears Ctrl-C, and knows that it came even where nobody else does.

    It is raised where it comes, as ever. But in a callback of a weak reference, which every object of h5py has, Python
    prints an exception and goes on; so whoever works in a loop calls `check` in it. And where raising would do harm,
    it is `held`.

    Attributes
    ----------
    came : bool
        Whether it has come, to this process.

    Examples
    --------
    >>> interrupts = Interrupts()
    >>> with interrupts.heard():
    ...     for batch in range(3):
    ...         interrupts.check()
    >>> interrupts.came
    False
    """

    def __init__(self) -> None:
        self.came, self._held = False, False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within, `came` follows the signal.

        Threads other than the main one cannot hear. A handler that is not Python's own is left to do what it does, an
        ignored signal included.
        """
        on_main = threading.current_thread() is threading.main_thread()
        if not on_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, what is heard raises nothing."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if it has come."""
        if self.came:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: object) -> None:
        self.came = True
        if not self._held:
            raise KeyboardInterrupt
