"""What hears notes and progress while a stage works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Listener:
    """Hears what a stage has to say; this one keeps silent."""

    def note(self, text: str) -> None:
        """One line of information."""

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], object]]:
        """Gives a function to be called with the number of items just done."""
        yield lambda done: None


SILENT = Listener()
