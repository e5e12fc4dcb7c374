"""Checkpoints: what a killed run needs to go on along the same curve."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featurepipe.errors import FinetuningError
from featurepipe.files import atomic

FORMAT = 1


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

    header = json.dumps({"format": FORMAT, "identity": identity, "progress": dict(progress)})
    content = io.BytesIO()  # writing to a full disk by itself, torch.save would speak of an "unexpected pos"
    torch.save({"header": header, "tensors": dict(tensors)}, content)
    with atomic(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load(path: Path, identity: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Progress and tensors of the same run's checkpoint; None where there is none, or another run's.

    Raises
    ------
    FinetuningError
        A file that cannot be read.
    """
    import torch

    if not path.is_file():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        header, tensors = json.loads(found["header"]), found["tensors"]
        same, progress = (header["format"], header["identity"]) == (FORMAT, identity), header["progress"]
    except Exception as error:  # a file can be broken in more ways than its reader has exceptions for
        raise FinetuningError(f"{path} cannot be read as a checkpoint; remove it to start again") from error
    return (progress, tensors) if same else None
