"""A store's manifest as a file: its columns, how it is written, and how it is read and checked at once."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from featurepipe import inputs
from featurepipe.errors import StoreError
from featurepipe.manifests import SPLITS, Sample
from featurepipe.sources import NO_STAMP, Stamp
from featurepipe.stores.headers import HEADER
from featurepipe.stores.rows import BLOCK, Rows

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FIRST_COLUMNS = ("id", "path", "label", "split", "digest")  # since 1.0
STAMP_COLUMNS = Stamp._fields  # since 1.1
LATER_COLUMNS = ("part", "group")  # since 1.2
COLUMNS = (*FIRST_COLUMNS, *STAMP_COLUMNS, *LATER_COLUMNS)
MOST = 2**35  # bytes of a manifest: of more than a hundred million images
LONGEST = 2**21  # characters of a line: csv takes no cell of more than a sixteenth
SPLITS_OR_NONE = frozenset({*SPLITS, ""})
IS_SHA256 = re.compile(r"(?:[0-9a-fA-F]{64})?").fullmatch  # or none, of a file that could not be read
WRONG = (ValueError, IndexError, TypeError, OverflowError, csv.Error)  # what a damaged table makes of its reading


class Known(NamedTuple):
    """What the manifest says of a file; its digest as bytes, and `NO_STAMP` where no stamp could be trusted."""

    id: str
    place: str
    digest: bytes
    stamp: Stamp


class Found(NamedTuple):
    """The rows of a manifest, and the sha256 of the very bytes that they were read from."""

    rows: Rows
    digest: str


class Damaged(ValueError):
    """A manifest that cannot be read, or is not the one that its store knows; the message says why and no more."""


def read(path: Path, fits: Callable[[str], bool], *, is_earlier: bool = False, is_edited: bool = False) -> Found:
    """Read all rows.

    Parameters
    ----------
    path : Path
    fits : callable
        Called with the sha256 of the bytes that were read; says whether they are what they should be.
    is_earlier : bool
        Whether it is of a format before 1.2, which had fewer columns and no digest of it.
    is_edited : bool
        Read it as people and spreadsheets leave it: in any order and with a mark of UTF-8 in front. Stamps, which
        spreadsheets round, are not read, but ids have to be unique.

    Raises
    ------
    Damaged
        It is not a manifest, or does not fit.
    """
    problem: Exception | None = None
    with _opened(path) as raw:
        hashed = _Hashed(raw)
        lines = _checked(_cells(hashed, "utf-8-sig" if is_edited else "utf-8", is_earlier), is_edited)
        try:
            rows = Rows.gather(_in_order(lines) if is_edited else lines)
        except WRONG as error:
            problem = error
        digest = hashed.rest()
    if not fits(digest):
        raise Damaged(problem or f"it does not match the digest in {HEADER}") from problem
    if problem is not None:
        raise Damaged(problem) from problem
    return Found(rows, digest)


def known(path: Path, digest: str | None) -> Iterator[Known]:
    """The rows that could be read, in the manifest's order, and none of them held; before 1.2 those with stamps.

    Parameters
    ----------
    path : Path
    digest : str or None
        The sha256 that the manifest is known to have; None before 1.2, where reading ends at what is damaged.

    Raises
    ------
    Damaged
        It is no file, or too large.
    StoreError
        The file has changed since.
    """
    with _opened(path) as raw:
        hashed = _Hashed(raw)
        try:
            for id_, file, _, _, sha, *stamp, _, _ in _cells(hashed, "utf-8", digest is None):
                content, known_by = bytes.fromhex(sha), _stamp(stamp)
                if len(content) == 32 and (known_by is not None or digest is not None):
                    yield Known(id_, file, content, known_by or NO_STAMP)
        except WRONG:
            if digest is None:
                return
        if digest is not None and hashed.rest() != digest:
            raise StoreError(f"{path} has changed while it was read; run the same command again")


def digest(path: Path) -> str:
    """The sha256 of a manifest; raises `Damaged` if it is no file, or too large."""
    with _opened(path) as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[io.FileIO]:
    try:
        with inputs.opened(path, MOST) as raw:
            yield raw
    except OSError as error:
        if error.errno in inputs.WRONG:
            raise Damaged(error.strerror) from error
        raise


def write(path: Path, rows: Rows) -> str:
    """Write a manifest; returns its sha256."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for block in table(COLUMNS, rows.lines()):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def written(path: Path, rows: Rows) -> str | None:
    """The sha256 of a manifest that says just this already; None if it does not."""
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with suppress(Damaged), _opened(path) as raw, io.BufferedReader(raw) as file:
        for block in table(COLUMNS, rows.lines()):
            if file.read(len(block)) != block:
                return None
            digest.update(block)
        return None if file.read(1) else digest.hexdigest()
    return None


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[bytes]:
    """A table in blocks of some thousand lines; file names that are not UTF-8 keep their bytes."""
    rest = chain([header], lines)
    while block := list(islice(rest, BLOCK)):
        text = io.StringIO()
        csv.writer(text).writerows(block)  # its own line end, \r\n, is what makes it quote both characters in names
        yield text.getvalue().encode("utf-8", "surrogateescape")


class _Hashed(io.RawIOBase):
    """A file whose bytes are hashed as they are read."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw, self._digest = raw, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = self._raw.readinto(buffer)
        self._digest.update(memoryview(buffer)[:count])
        return count

    def rest(self) -> str:
        """The sha256 of the whole file, the rest of which is read."""
        while block := self._raw.read(2**20):
            self._digest.update(block)
        return self._digest.hexdigest()


def _cells(hashed: _Hashed, encoding: str, is_earlier: bool) -> Iterator[list[str]]:
    """The cells, line by line, in the order of COLUMNS; '' in the columns that the manifest lacks."""
    file = io.TextIOWrapper(io.BufferedReader(hashed), encoding=encoding, errors="surrogateescape", newline="")
    reader = csv.reader(iter(partial(file.readline, LONGEST), ""))  # of a file without lines no more is read at once
    header = next(reader, [])
    if not set(FIRST_COLUMNS) <= set(header):
        raise ValueError("it lacks columns")
    if is_earlier and not {*LATER_COLUMNS}.isdisjoint(header):
        raise ValueError(f"it has columns of format 1.2, and {HEADER} is of an earlier one, which needs no digest")
    where = [header.index(name) if name in header else None for name in COLUMNS]
    count, is_ordered = len(header), tuple(header) == COLUMNS
    for number, line in enumerate(reader, 2):
        if len(line) != count:
            raise ValueError(f"row {number} has {len(line)} cells, the header has {count}")
        yield line if is_ordered else ["" if at is None else line[at] for at in where]


def _checked(lines: Iterable[Sequence[str]], is_edited: bool) -> Iterator[tuple[Sample, str, Stamp | None]]:
    """What `Rows.gather` takes, of rows that can be used; without stamps of rows that were edited."""
    for number, (id_, file, label, split, digest, *stamp, part, group) in enumerate(lines, 2):
        if split not in SPLITS_OR_NONE or not IS_SHA256(digest) or not file or "\0" in file or "\0" in id_:
            raise ValueError(f"row {number}, {id_!r}: {_fault(split, digest)}")
        try:
            known_by = None if is_edited else _stamp(stamp)
        except (ValueError, TypeError) as error:
            raise ValueError(f"row {number}, {id_!r}: {error}") from error
        yield Sample(id_, file, label or None, split or None, group or None, part or None), digest, known_by


def _in_order(lines: Iterable[tuple[Sample, str, Stamp | None]]) -> list[tuple[Sample, str, Stamp | None]]:
    """The same, sorted by ids as a manifest is; a ValueError where one occurs twice."""
    found = sorted(lines, key=lambda line: line[0].id)
    for (one, *_), (other, *_) in pairwise(found):
        if one.id == other.id:
            raise ValueError(f"{one.id!r} has two rows; ids have to be unique")
    return found


def _fault(split: str, digest: str) -> str:
    if split not in SPLITS_OR_NONE:
        return f"split {split!r} is not one of {', '.join(SPLITS)}"
    if not IS_SHA256(digest):
        return f"{digest!r} is not a sha256"
    return "its path or id is empty or has a NUL character"


def _stamp(cells: Sequence[str]) -> Stamp | None:
    """None where one part is missing, as all are that proved nothing."""
    return Stamp(*map(int, cells)) if all(cells) else None
