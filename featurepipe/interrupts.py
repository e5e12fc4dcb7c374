"""Ctrl-C, and SIGTERM as batch systems and containers send it, while threads or processes are at work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

Handler: TypeAlias = "Callable[[int, FrameType | None], Any] | int"  # the latter of the system's own


class Termination:
    """Lets SIGTERM end a program as Ctrl-C does; for whoever owns the process, as the command line does.

    Attributes
    ----------
    came : bool
        Whether it has come.
    """

    def __init__(self) -> None:
        self.came = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within, SIGTERM raises KeyboardInterrupt, unless a handler that is not the system's own hears it."""
        if not _on_main() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            yield
            return
        signal.signal(signal.SIGTERM, self)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __call__(self, number: int, frame: object) -> None:
        """Hear the signal."""
        self.came = True
        raise KeyboardInterrupt


class Interrupts:
    """Hears Ctrl-C and SIGTERM, and knows that one came even where nobody else does.

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
        self.came, self._terminated, self._held = False, False, False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Within, `came` follows the signals; a process that SIGTERM would have ended ends of it when this is left.

        Threads other than the main one cannot hear. A handler that is not Python's own is left to do what it does, an
        ignored signal included.
        """
        before = _own_handlers() if _on_main() else {}
        try:
            for number in before:
                signal.signal(number, self._hear)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._terminated:
                _pass_on(before[signal.SIGTERM])

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
        self._terminated |= number == signal.SIGTERM
        if not self._held:
            raise KeyboardInterrupt


def _on_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _own_handlers() -> dict[int, Handler]:
    """Those of the two signals that nobody else handles, and what they do now."""
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own = (signal.default_int_handler, signal.SIG_DFL)
    return {number: hears for number, hears in found.items() if hears in own or isinstance(hears, Termination)}


def _pass_on(handler: Handler) -> None:
    """Say SIGTERM to whoever would have heard it."""
    if isinstance(handler, Termination):
        handler.came = True
    else:
        signal.raise_signal(signal.SIGTERM)
