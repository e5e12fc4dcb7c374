"""sha256 of bytes, files, canonical JSON and network weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from featurepipe.inputs import opened

if TYPE_CHECKING:
    import numpy as np
    import torch


def sha256_bytes(data: bytes | bytearray) -> str:
    """Hexadecimal sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | PathLike[str]) -> str:
    """Hexadecimal sha256 of a file's content, read in blocks; OSError if it is not a regular file."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_part(content: bytes, part: str) -> str:
    """Hexadecimal sha256 of a part of a content: of the content's own 32 bytes, and the part as UTF-8.

    Examples
    --------
    >>> sha256_part(bytes(32), "12.0-16.0") == sha256_bytes(bytes(32) + b"12.0-16.0")
    True
    """
    return sha256_bytes(content + part.encode("utf-8", "surrogateescape"))


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, ASCII, no NaN.

    Examples
    --------
    >>> canonical_json({"b": 1, "a": [1.5, None]})
    '{"a":[1.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def sha256_json(value: Any) -> str:
    """Hexadecimal sha256 of `value`'s canonical JSON."""
    return sha256_bytes(canonical_json(value).encode("ascii"))


def sha256_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Hexadecimal sha256 of arrays: every name, dtype, shape and byte, in name order; nothing is left out."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode("utf-8", "surrogatepass"))
        digest.update(array.tobytes())
    return digest.hexdigest()


def sha256_state_dict(state: Mapping[str, torch.Tensor]) -> str:
    """Hexadecimal sha256 of a state dict: every name, dtype, shape and byte, in name order.

    BatchNorm's ``num_batches_tracked`` is left out: it decides no vector, and files differ in carrying it. Floats of
    half precision count as the float32 that they are read as.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):
            continue
        tensor = state[name].detach().cpu().contiguous()
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
