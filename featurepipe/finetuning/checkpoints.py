"""Checkpoints: what a killed run needs to go on along the same curve.

A file begins with two lines: ``featurepipe-checkpoint 2`` and the sha256 of all that follows, which is what
``torch.save`` writes. torch itself compares no checksum, so a changed bit would be learned from. What is damaged is set
aside, and the run starts again: hours are lost, but no network is. Format 1 is the latter alone: an archive with a CRC
of each part, which is gone on from where these are right.

Neither writing nor reading holds a file's bytes next to its tensors.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from featurepipe import jsons
from featurepipe.errors import FinetuningError
from featurepipe.files import atomic

START = b"featurepipe-checkpoint 2\n"
DAMAGED = ".damaged"
EARLIER = b"PK\x03\x04"  # what format 1 begins with
HEADER = {"identity": jsons.TEXT, "progress": jsons.Each(jsons.ANYTHING)}


def save(path: Path, identity: str, progress: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Parameters
    ----------
    path : Path
    identity : str
        Digest of all that decides the run; another run does not go on from here.
    progress : mapping
        JSON: epoch, step, curve.
    tensors : mapping
        Nested, of tensors and numbers.

    Raises
    ------
    OutputError
        The disk is full, or may not be written.
    """
    import torch

    header = json.dumps({"identity": identity, "progress": dict(progress)})
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(START + _line(hashlib.sha256()))  # its place
        content = _Hashing(file)
        torch.save({"header": header, "tensors": dict(tensors)}, cast(BinaryIO, content))
        content.finish()
        file.seek(len(START))
        file.write(_line(content.sha256))


class _Hashing:
    """What `torch.save` writes to: its bytes go to a file and into a digest.

    On a full disk it goes on taking bytes, and raises at the end: torch would make "unexpected pos" of the error.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.sha256, self._file = hashlib.sha256(), file
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes."""
        self.sha256.update(data)
        try:
            if self._error is None:
                self._file.write(data)
        except OSError as error:
            self._error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: all is flushed when the file is closed."""

    def finish(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error


def load(
    path: Path, identity: str, note: Callable[[str], object] = lambda text: None, *, strict: bool = False
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Progress and tensors of the same run's checkpoint; None where there is none that a run can go on from.

    Parameters
    ----------
    path : Path
    identity : str
        As for `save`.
    note : callable
        Called with one line where a file is damaged, and so is set aside, or is another run's, and will be replaced.
    strict : bool
        Whether another run's checkpoint is an error.

    Raises
    ------
    FinetuningError
        The system does not give the file out, or it is another run's.
    """
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            found = _read(file) if _is_whole(file) else None
    except OSError as error:
        raise FinetuningError(
            f"{path} cannot be read ({error.strerror}); get the rights to read it, or remove it to start again"
        ) from error
    if found is None:
        note(f"note: {path} is damaged{_set_aside(path)}; tuning starts again")
        return None
    header, tensors = found
    if header["identity"] == identity:
        return header["progress"], tensors
    other = f"{path} belongs to a run with other data, options or precision, or to another version of featurepipe"
    if strict:
        raise FinetuningError(f"{other}; give the options of that run, or remove the file to start again")
    note(f"note: {other}; it is replaced")
    return None


def _line(sha256: Any) -> bytes:
    return sha256.hexdigest().encode() + b"\n"


def _is_whole(file: BinaryIO) -> bool:
    """Whether a file's content is as it was written; it is then read up to where that begins."""
    if file.read(len(EARLIER)) == EARLIER:
        try:
            with zipfile.ZipFile(file) as archive:
                whole = archive.testzip() is None
        except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, zlib.error):
            return False
        file.seek(0)
        return whole
    file.seek(0)
    if file.readline(64) != START:
        return False
    digest, place = file.readline(80), file.tell()
    is_same = digest == _line(hashlib.file_digest(cast(io.BufferedReader, file), "sha256"))
    file.seek(place)
    return is_same


def _read(file: BinaryIO) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The header and the tensors that `save` wrote; None where it is something else, or torch cannot read it."""
    import torch

    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        header, tensors = jsons.loads(found["header"], "its header"), found["tensors"]
        jsons.check(header, HEADER, "its header")
        jsons.check(tensors, jsons.Each(jsons.ANYTHING), "its tensors")
    except Exception:  # it has more ways to say so than there are names for; the caller tells the user
        return None
    return header, tensors


def remove(path: Path) -> None:
    """Remove a checkpoint, and one that was set aside, when the run needs neither."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + DAMAGED).unlink(missing_ok=True)


def _set_aside(path: Path) -> str:
    """Rename a damaged file, and say what it is called now."""
    aside = path.with_name(path.name + DAMAGED)
    try:
        os.replace(path, aside)
    except OSError as error:  # then the next checkpoint replaces it
        return f" and cannot be renamed ({error.strerror})"
    return f" and was renamed to {aside.name}"
