"""What every command says and shows."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from textwrap import wrap
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO

import click

from featurepipe.characters import shown, shown_all
from featurepipe.cli.process import Talkative
from featurepipe.interrupts import Interrupts

if TYPE_CHECKING:
    from tqdm import tqdm

FAILED, REJECTED = 1, 3  # exit codes
POINT = "\n  - "  # between the parts of a note that has several
LABEL = 24  # columns of a bar's label


class Talk:
    """The listener that writes notes and progress bars to stderr, where there is one.

    Parameters
    ----------
    quiet : bool
        Write neither.
    """

    _bar: tqdm | None = None  # the one that is being drawn

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet

    def note(self, text: str) -> None:  # noqa: D102
        if self._quiet:
            return
        bar = self._bar
        drawn = bar if bar is not None and not bar.disable and bar.last_print_n > 0 else None
        if drawn is not None:
            drawn.clear()
        text = POINT.join(map(shown, text.split(POINT)))  # a name does not begin a line of its own
        say(fitted(text, width) if (width := _width()) else text)
        if drawn is not None:
            drawn.refresh()

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], object]]:  # noqa: D102
        from tqdm import tqdm

        if sys.stderr is None:
            yield lambda done: None
            return
        # disable=None: silent where stderr is no terminal; delay: nothing shown for what is over in two seconds
        options: dict[str, Any] = {
            "unit": "",
            "delay": 2,
            "disable": self._quiet or None,
            "file": Talkative(sys.stderr),
        }
        with tqdm(total=total, desc=shortened(label), **options) as bar:
            before, self._bar = self._bar, bar
            try:
                yield bar.update
            finally:
                self._bar = before


class Legible:
    """A terminal to which tables are written: what would steer it is written out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @classmethod
    def where_seen(cls, stream: TextIO) -> Legible | TextIO:
        """Around a stream that is a terminal; any other as it is, for programs to read."""
        return cls(stream) if stream.isatty() else stream

    def write(self, text: str) -> int:  # noqa: D102
        return self._stream.write(shown(text.replace("\r\n", "\n"), lines=True))


def say(text: str, *, nl: bool = True, fg: str | None = None) -> None:
    """Write a line to stderr, where there is one."""
    text = shown(text, lines=True)
    if sys.stderr is not None:
        stream: Any = Talkative(sys.stderr)  # no text file to the type checker, but as good as one to click
        click.echo(click.style(text, fg=fg) if fg else text, file=stream, nl=nl)


def _width() -> int:
    """Columns of the terminal that stderr is; 0 where it is none, so that scripts find each note on one line."""
    if sys.stderr is None or not sys.stderr.isatty():
        return 0
    return shutil.get_terminal_size().columns


def fitted(text: str, width: int) -> str:
    """A note in lines that fit a terminal, so that it cuts no word in two; a path that is wider stays whole."""
    lines = (
        wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )
    return "\n".join("\n".join(line) for line in lines)


def shortened(label: str) -> str:
    """A label that leaves room for the bar and its figures on a terminal of 80 columns."""
    label = shown(label)
    return label if len(label) <= LABEL else f"{label[: LABEL - 1].rstrip()}…"


def load_stages(quiet: bool = False) -> ModuleType:
    """`featurepipe.stages`; on a terminal a line says that loading it takes its time, and goes when that is over."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    said = "loading torch …" if terminal and not quiet and "torch" not in sys.modules else ""
    _draw(said)
    interrupts = Interrupts()
    try:
        with interrupts.heard(), interrupts.held():  # half loaded, libraries fail with errors of their own
            from featurepipe import stages  # here: it loads torch, which --help does without
        interrupts.check()
    finally:
        _draw("\r" + " " * len(said) + "\r" if said else "")
    return stages


def _draw(text: str) -> None:
    """Write to stderr, where there is one, what may move the cursor."""
    if text and sys.stderr is not None:
        stream: Any = Talkative(sys.stderr)
        click.echo(text, file=stream, nl=False)


def exit_strict(strict: bool, result: dict[str, Any]) -> None:
    """End with an exit code of its own where images were rejected, or pictures or links left out, if that is asked."""
    found = result["found"]["left_out"] if "found" in result else {}  # nothing is of a store
    pictures, links = found.get("pictures", 0), found.get("loops", 0)
    if strict and (result["rejected"] or pictures or links):
        left_out = f"{pictures} pictures" + (f" and {links} link{'s' * (links > 1)}" if links else "")
        say(f"featurepipe: {result['rejected']} samples rejected, {left_out} left out; --strict allows none", fg="red")
        raise click.exceptions.Exit(REJECTED)


def show(as_json: bool, result: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> None:
    """Print a result on stdout, as one JSON object or as people read it; the latter without what steers a terminal."""
    click.echo(json.dumps(result) if as_json else text(shown_all(result)))
