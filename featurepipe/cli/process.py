"""The process that a command runs in: its streams, and the signals that end it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from featurepipe.interrupts import Termination

INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143  # exit codes, as shells give them: 128 and the signal's number


@contextmanager
def prepared() -> Iterator[None]:
    """Within, streams take any text, and SIGTERM ends a command as Ctrl-C does, with an exit code of its own."""
    _fill_gaps()
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to fail
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    termination = Termination()
    try:
        with termination.heard():
            yield
    except SystemExit as ending:
        exec("")  # or Python ends of a SIGINT, even if one was caught, that came while an import ran text as code
        if termination.came and ending.code:
            raise SystemExit(TERMINATED) from None
        raise


def _fill_gaps() -> None:
    """Open descriptors 0, 1 and 2 where they are closed, as services may start a program.

    Else the next file to be opened gets the number, and what a C library has to say on stderr is written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def let_stdout_go() -> None:
    """Send what is left of stdout nowhere, as nobody reads it any more: Python would complain of it when it ends."""
    with suppress(OSError, ValueError, AttributeError):  # a stream without a descriptor, or none
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Talkative:
    """A stream for talk: where it is broken or closed, the talk is lost, which is no reason to end a run.

    Parameters
    ----------
    stream : text file
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:  # noqa: D102
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:  # noqa: D102
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
