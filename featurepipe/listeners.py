"""What hears notes and progress while a stage works."""

from __future__ import annotations

import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from featurepipe.characters import shown

DELAY = 2.0  # seconds of work before a bar is shown
PAUSE = 5.0  # seconds without a bar after which new work begins


class Listener:
    """Hears what a stage has to say; this one keeps silent."""

    def note(self, text: str) -> None:
        """One line of information."""

    def progress(self, label: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
        """Gives a function to be called with the number of items just done."""
        return nullcontext(lambda done: None)


class Bars(Listener):
    """Shows a progress bar for work of more than two seconds, and lines of information, on stderr or in a notebook.

    Parameters
    ----------
    verbose : bool, optional
        None shows bars, and the lines that begin with "note: ", if somebody watches: where stderr is a terminal, or in
        a notebook. True shows bars and every line, wherever stderr goes. False shows nothing.

    Examples
    --------
    >>> with Bars(verbose=False).progress("embedding", 3) as advance:
    ...     advance(1)
    """

    def __init__(self, verbose: bool | None = None) -> None:
        self.verbose = verbose
        self._since = self._until = float("-inf")  # when the work of now began, and when its last bar ended

    def note(self, text: str) -> None:  # noqa: D102
        if self._is_shown() and (self.verbose or text.startswith("note: ")):
            _tqdm().write(shown(text, lines=True), file=sys.stderr)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], object]]:  # noqa: D102
        if not self._is_shown():
            yield lambda done: None
            return
        now = time.monotonic()
        if now > self._until + PAUSE:  # many short epochs, one after another, are one long work
            self._since = now
        delay = max(0.0, self._since + DELAY - now)
        try:
            with _tqdm()(total=total, desc=label, unit="sample", delay=delay, leave=False, file=sys.stderr) as bar:
                yield bar.update
        finally:
            self._until = time.monotonic()

    def _is_shown(self) -> bool:
        if self.verbose is None:
            return is_watched()
        return self.verbose and _has_stderr()


def is_watched() -> bool:
    """Whether somebody is likely to see stderr: it is a terminal, or this is a notebook; not in a child process."""
    if multiprocessing.parent_process() is not None or not _has_stderr():
        return False
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return sys.stderr.isatty() or getattr(shell, "kernel", None) is not None


def _has_stderr() -> bool:
    return sys.stderr is not None and not getattr(sys.stderr, "closed", False)


def _tqdm() -> Any:
    """The bar that suits a terminal or a notebook."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a notebook without ipywidgets, where the bar is of text
        from tqdm.auto import tqdm
    return tqdm


class Once(Listener):
    """Passes on to another listener, but a note (a line that begins with "note: ") the first time only."""

    def __init__(self, listener: Listener) -> None:
        self._listener, self._said = listener, set[str]()

    def note(self, text: str) -> None:  # noqa: D102
        if text not in self._said:
            self._listener.note(text)
        if text.startswith("note: "):
            self._said.add(text)

    def progress(self, label: str, total: int) -> AbstractContextManager[Callable[[int], object]]:  # noqa: D102
        return self._listener.progress(label, total)


class Quiet(Listener):
    """Passes on to another listener progress and notes (lines that begin with "note: "), and no other line."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def note(self, text: str) -> None:  # noqa: D102
        if text.startswith("note: "):
            self._listener.note(text)

    def progress(self, label: str, total: int) -> AbstractContextManager[Callable[[int], object]]:  # noqa: D102
        return self._listener.progress(label, total)


class Within(Listener):
    """Passes on notes to another listener, and adds all progress to that of a larger work.

    Parameters
    ----------
    listener : Listener
    advance : callable
        What the progress of the larger work has given.
    """

    def __init__(self, listener: Listener, advance: Callable[[int], object]) -> None:
        self._listener, self._advance = listener, advance

    def note(self, text: str) -> None:  # noqa: D102
        self._listener.note(text)

    def progress(self, label: str, total: int) -> AbstractContextManager[Callable[[int], object]]:  # noqa: D102
        return nullcontext(self._advance)


SILENT = Listener()
BARS = Bars()  # what stages take where none is given
