"""A listener for tests."""

from contextlib import nullcontext

from featurepipe.listeners import Listener


class Ear(Listener):
    """Passes what it hears on to functions: notes, the progress of all work, or whole bars by label and total."""

    def __init__(self, note=lambda text: None, advance=lambda done: None, progress=None):
        self.note, self._advance, self._progress = note, advance, progress

    def progress(self, label, total):
        return nullcontext(self._advance) if self._progress is None else self._progress(label, total)
