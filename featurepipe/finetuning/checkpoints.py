"""Checkpoints: what a killed run needs to go on along the same curve.

A file begins with two lines: ``featurepipe-checkpoint 2`` and the sha256 of all that follows, which is what
``torch.save`` writes. torch itself compares no checksum, so a changed bit would be learned from. What is damaged is set
aside, and the run starts again: hours are lost, but no network is.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from featurepipe.errors import FinetuningError
from featurepipe.files import atomic

START = b"featurepipe-checkpoint 2\n"
DAMAGED = ".damaged"
EARLIER = (b"PK\x03\x04", b"\x80\x02")  # format 1 was what torch.save writes, and nothing before it


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
    content = io.BytesIO()  # writing to a full disk by itself, torch.save would speak of an "unexpected pos"
    torch.save({"header": header, "tensors": dict(tensors)}, content)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(START + _line(content.getbuffer()))
        file.write(content.getbuffer())


def load(
    path: Path, identity: str, note: Callable[[str], object] = lambda text: None
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Progress and tensors of the same run's checkpoint; None where there is none that a run can go on from.

    Parameters
    ----------
    path : Path
    identity : str
        As for `save`.
    note : callable
        Called with one line where a file is damaged, and so is set aside, or has no digest.

    Raises
    ------
    FinetuningError
        The system does not give the file out.
    """
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            start, digest, content = file.readline(64), file.readline(80), file.read()
    except OSError as error:
        raise FinetuningError(
            f"{path} cannot be read ({error.strerror}); get the rights to read it, or remove it to start again"
        ) from error
    if start.startswith(EARLIER):
        note(f"note: {path} was written by an earlier featurepipe and has no digest; tuning starts again")
        return None
    found = _read(content) if start == START and digest == _line(content) else None
    if found is None:
        note(f"note: {path} is damaged{_set_aside(path)}; tuning starts again")
        return None
    header = json.loads(found["header"])
    return (header["progress"], found["tensors"]) if header["identity"] == identity else None


def _line(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def _read(content: bytes) -> dict[str, Any] | None:
    """What `save` wrote; None where this torch cannot read it."""
    import torch

    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # it has more ways to say so than there are names for; the caller tells the user
        return None


def _set_aside(path: Path) -> str:
    """Rename a damaged file, and say what it is called now."""
    aside = path.with_name(path.name + DAMAGED)
    try:
        os.replace(path, aside)
    except OSError as error:  # then the next checkpoint replaces it
        return f" and cannot be renamed ({error.strerror})"
    return f" and was renamed to {aside.name}"
