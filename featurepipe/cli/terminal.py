"""What every command says and shows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tqdm import tqdm

FAILED, REJECTED, INTERRUPTED = 1, 3, 130  # exit codes


class Talk:
    """The listener that writes notes and progress bars to stderr."""

    _bar: tqdm | None = None  # the one that is being drawn

    def note(self, text: str) -> None:  # noqa: D102
        bar = self._bar
        shown = bar is not None and not bar.disable and bar.last_print_n > 0
        if shown:
            bar.clear()
        click.echo(text, err=True)
        if shown:
            bar.refresh()

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], object]]:  # noqa: D102
        from tqdm import tqdm

        # disable=None: silent where stderr is no terminal; delay: nothing shown for what is over in two seconds
        with tqdm(total=total, desc=label, unit="image", delay=2, disable=None, file=sys.stderr) as bar:
            before, self._bar = self._bar, bar
            try:
                yield bar.update
            finally:
                self._bar = before


def show(as_json: bool, result: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> None:
    """Print a result on stdout, as one JSON object or as people read it."""
    click.echo(json.dumps(result) if as_json else text(result))
