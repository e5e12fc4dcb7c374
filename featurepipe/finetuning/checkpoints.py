"""Checkpoints: what a killed run needs to go on along the same curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurepipe.digests import sha256_json
from featurepipe.errors import FinetuningError
from featurepipe.files import atomic

if TYPE_CHECKING:
    import torch

FORMAT = 1


def save(path: Path, identity: Mapping[str, Any], progress: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Parameters
    ----------
    path : Path
    identity : mapping
        JSON of all that decides the run; another run does not go on from here.
    progress : mapping
        JSON: epoch, step, curve.
    tensors : mapping
        Nested, of tensors and numbers.
    """
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    header = json.dumps({"format": FORMAT, "identity": sha256_json(dict(identity)), "progress": dict(progress)})
    with atomic(path) as temporary:
        torch.save({"header": header, "tensors": dict(tensors)}, temporary)


def load(path: Path, identity: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
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
        header = json.loads(found["header"])
    except Exception as error:  # a file can be broken in more ways than its reader has exceptions for
        raise FinetuningError(f"{path} cannot be read as a checkpoint; remove it to start again") from error
    if header["format"] != FORMAT or header["identity"] != sha256_json(dict(identity)):
        return None
    return header["progress"], found["tensors"]
