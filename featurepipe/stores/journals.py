"""A store's journal: digests of files that were read for a manifest that could not be written yet.

A manifest is written whole, when all digests are known. A run that is killed before that leaves what it has found here,
line by line, so that the next one does not read the same files again.
"""

from __future__ import annotations

import heapq
import io
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from featurepipe import inputs, jsons
from featurepipe.digests import sha256_bytes
from featurepipe.errors import OutputError
from featurepipe.files import append, refusal
from featurepipe.sources import Source, Stamp, lasting_root
from featurepipe.stores.manifest import MOST, Known

JOURNAL = "manifest.csv.journal"  # begins as the manifest does: earlier versions take it for a store's own, too
ROWS = 1024  # of a line
SECONDS = 30.0  # after which a line is written, however short it is: some files take seconds each
LONGEST = 2**26  # bytes of a line
SEAL = 16  # hexadecimal digits of a line's sha256, in front of it
LINE = {"source": jsons.TEXT, "root": jsons.TEXT, "rows": [[jsons.ANYTHING]]}


class Journal:
    """The digests of files of one source, in a file that only grows, until a manifest has them.

    As a context it is written when that is left.

    Each line is the beginning of the sha256 of the JSON behind it, which has the source's kind and root, and rows of
    id, place, digest and stamp, sorted by id. A line that is torn or damaged does not fit its sha256, and is ignored.

    Parameters
    ----------
    store : Path
    source : Source
    """

    def __init__(self, store: Path, source: Source) -> None:
        self._path = store / JOURNAL
        self._of = {"source": source.kind, "root": lasting_root(source)}
        self._rows: list[tuple[Any, ...]] = []
        self._written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with suppress(OutputError) if error is not None else nullcontext():  # it would hide why all this ends
            self.write()

    def add(self, id_: str, place: str, content: bytes, stamp: Stamp) -> None:
        """Take a file's digest, whose stamp can be trusted; in ascending order of ids."""
        self._rows.append((id_, place, content.hex(), *stamp))
        if len(self._rows) >= ROWS or time.monotonic() - self._written > SECONDS:
            self.write()

    def write(self) -> None:
        """Make what was taken permanent.

        Raises
        ------
        OutputError
            The system refuses.
        """
        if not self._rows:
            return
        text = json.dumps({**self._of, "rows": self._rows}, separators=(",", ":")).encode()
        self._rows, self._written = [], time.monotonic()
        try:
            append(self._path, b"\n%s %s\n" % (_seal(text), text))  # what is torn before it is a line of its own
        except OSError as error:
            raise OutputError(refusal(self._path, error)) from error

    def known(self) -> Iterator[Known]:
        """All that is in it of this source, sorted by id; of one id, what came last comes first.

        Killed runs leave sorted lines one after another. Of each run one line is in memory at a time.
        """
        runs: list[list[int]] = []
        last = ""
        for start, rows in self._lines():
            if not runs or rows[0].id <= last:
                runs.append([])
            runs[-1].append(start)
            last = rows[-1].id
        return heapq.merge(*(self._run(starts) for starts in reversed(runs)), key=lambda one: one.id)

    def _run(self, starts: Sequence[int]) -> Iterator[Known]:
        for start in starts:
            with (
                inputs.opened(self._path, MOST) as raw,
                io.BufferedReader(raw) as file,
            ):  # not open for each run at once
                file.seek(start)
                line = file.readline(LONGEST)
            yield from self._parsed(line) or ()

    def _lines(self) -> Iterator[tuple[int, list[Known]]]:
        """Where each line of this source begins, and what it says."""
        for start, line in _lines(self._path):
            if rows := self._parsed(line):
                yield start, rows

    def _parsed(self, line: bytes) -> list[Known] | None:
        found = _content(line)
        if found is None or {key: found[key] for key in self._of} != self._of:
            return None
        return _known(found)


def begun(store: Path) -> str | None:
    """The root of the source that a store's journal is of; None where there is no journal. The last line counts."""
    root = None
    for _, line in _lines(store / JOURNAL):
        found = _content(line)
        root = root if found is None else found["root"]
    return root


def contents(store: Path) -> np.ndarray:
    """The digests of all files in a store's journal, uint8 (n, 32)."""
    found = (_content(line) for _, line in _lines(store / JOURNAL))
    some = [row.digest for one in found if one is not None for row in _known(one) or ()]
    return np.frombuffer(b"".join(some), np.uint8).reshape(-1, 32)


def remove(store: Path) -> None:
    """Remove a store's journal, when a manifest has taken its place.

    Raises
    ------
    OutputError
        The system refuses.
    """
    try:
        (store / JOURNAL).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(refusal(store / JOURNAL, error)) from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line that is not empty, and where it begins; nothing of what is no file."""
    try:
        with inputs.opened(path, MOST) as raw, io.BufferedReader(raw) as file:
            start = 0
            while line := file.readline(LONGEST):
                if line.strip():
                    yield start, line
                start += len(line)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in inputs.WRONG:
            raise


def _content(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is damaged."""
    seal, _, text = line.rstrip(b"\n").partition(b" ")
    if seal != _seal(text):
        return None
    try:
        found = jsons.loads(text.decode("ascii"), "it")
        jsons.check(found, LINE, "it")
    except ValueError:
        return None
    return dict(found)


def _known(found: dict[str, Any]) -> list[Known] | None:
    """The rows of a line; None where they are not what is written."""
    try:
        rows = [Known(id_, place, bytes.fromhex(digest), Stamp(*stamp)) for id_, place, digest, *stamp in found["rows"]]
    except (ValueError, TypeError):
        return None
    return rows if all(map(_is_sound, rows)) and all(a.id < b.id for a, b in pairwise(rows)) else None


def _is_sound(row: Known) -> bool:
    texts = isinstance(row.id, str) and isinstance(row.place, str) and len(row.digest) == 32
    return texts and all(type(value) is int for value in row.stamp)


def _seal(text: bytes) -> bytes:
    return sha256_bytes(text)[:SEAL].encode()
