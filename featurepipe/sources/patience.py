"""Patience with servers: whom to wait for, how long, and when nobody expects an answer any more."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

FILES = 16  # of a server in a row that did not come, after which the others wait
REST = 30.0  # seconds after which such a server is asked for one of them, to see whether it is back
PROBES = 2  # such files that did not come either, after which the others do not wait any more
GLANCE = 1.0  # seconds after which those who wait look whether it is back
_HEARD = threading.local()


@contextmanager
def heard(stopped: threading.Event) -> Iterator[None]:
    """Within, the pauses of this thread end when an event is set."""
    before = getattr(_HEARD, "stopped", None)
    _HEARD.stopped = stopped
    try:
        yield
    finally:
        _HEARD.stopped = before


def listen(stopped: threading.Event) -> None:
    """From now on, the pauses of this thread end when an event is set."""
    _HEARD.stopped = stopped


def is_stopped() -> bool:
    """Whether somebody wants this thread to end."""
    stopped: threading.Event | None = getattr(_HEARD, "stopped", None)
    return stopped is not None and stopped.is_set()


def pause(seconds: float) -> bool:
    """Wait; says whether somebody wants this thread to end, which is then at once.

    Examples
    --------
    >>> stopped = threading.Event()
    >>> stopped.set()
    >>> with heard(stopped):
    ...     pause(3600)
    True
    """
    stopped: threading.Event | None = getattr(_HEARD, "stopped", None)
    if stopped is not None:
        return stopped.wait(seconds)
    time.sleep(seconds)
    return False


class _Loss(NamedTuple):
    """Of a server: how many files in a row did not come, when it may be asked again, and how often it was in vain."""

    files: int = 0
    again: float = 0.0
    probes: int = 0


class Patience:
    """Which servers do not answer; shared by threads.

    After `FILES` files in a row that did not come from a server, the others wait. After each rest one of them asks, as
    a probe. If `PROBES` of these fail, the others are rejected without being asked for, and the probes go on. Whatever
    comes makes all of it forgotten.

    Parameters
    ----------
    rest : float
        Seconds from one probe to the next.
    clock : callable
        Gives seconds.
    wait : callable
        As `pause`.
    """

    def __init__(
        self,
        rest: float = REST,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] = pause,
    ) -> None:
        self._rest, self._clock, self._wait = rest, clock, wait
        self._lock, self._lost = threading.Lock(), dict[tuple[str, str], _Loss]()

    def check(self, server: str, method: str, url: str) -> bool:
        """Return when a server may be asked for a file; says whether that is a probe, to be noted as one.

        A server may well answer one method (``HEAD``) and not another (``GET``), so each is counted by itself.

        Raises
        ------
        OSError
            It gave nothing for so long that it is not asked, or whoever waits should end.
        """
        while True:
            with self._lock:
                loss, now = self._lost.get((server, method), _Loss()), self._clock()
                if loss.files < FILES:
                    return False
                if now >= loss.again:
                    is_new_run = now > loss.again + self._rest  # nobody asked for a while: the others wait anew
                    probes = 0 if is_new_run else loss.probes
                    self._lost[server, method] = _Loss(loss.files, now + self._rest, probes)
                    return True
            why = f"{server} gave none of {FILES} files in a row, so it is not asked for this one"
            if loss.probes >= PROBES or self._wait(min(GLANCE, loss.again - now)):
                raise OSError(errno.EHOSTUNREACH, f"{why}; run the same command again when it answers", url)

    def note(self, server: str, method: str, *, came: bool, is_probe: bool = False) -> None:
        """Say whether a file came, or anything else from which it follows that the server is there."""
        with self._lock:
            loss = self._lost.pop((server, method), _Loss())
            if not came:
                files, again = loss.files + 1, self._clock() + self._rest
                begins = is_probe or files <= FILES  # those who were at it before say nothing new
                self._lost[server, method] = _Loss(files, again if begins else loss.again, loss.probes + is_probe)

    def is_given_up(self, server: str, method: str) -> bool:
        """Whether nobody expects an answer."""
        return self._lost.get((server, method), _Loss()).probes >= PROBES
