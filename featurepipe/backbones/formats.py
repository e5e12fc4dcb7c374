"""What a weights file is, told by its bytes and not by its name, and its content, read without running code."""

from __future__ import annotations

import argparse
import contextlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import jsons
from featurepipe.errors import BackboneError

SAFETENSORS, TORCH, NUMPY = "a safetensors file", "a PyTorch file", "a NumPy archive"
LONGEST_HEADER = 10**8  # bytes, of safetensors; no text begins with so small a number
TIMES, ROOM = 20, 2**26  # that a file's tensors may take: so often its size, and 64 MiB; a packed zero takes a thousand
AGAIN = "download or copy it again"
CONVERT = "convert it to a PyTorch state dict or to safetensors first"
RESAVE = "where it was made, save only the weights: torch.save(model.state_dict(), 'weights.pth')"
# How files that are often taken for weights begin, what they are, and what to do.
FOREIGN = (
    (rb"version https://git-lfs", "a Git LFS pointer, a few lines in place of the weights", "run: git lfs pull"),
    (rb"\s*<(!doctype|html|head|\?xml|!--)", "a web page", "download the file behind the page's download link"),
    (rb"\s*[{\[]", "a JSON text", "give the file of the weights themselves"),
    (rb"\x89HDF\r\n", "an HDF5 file, as Keras writes it", CONVERT),
    (rb"\x08[\s\S]{0,64}(pytorch|onnx|tf2onnx)", "an ONNX model", CONVERT),
    (rb"GGUF", "a GGUF file", CONVERT),
    (rb"[\s\S]{4}TFL3", "a TensorFlow Lite model", CONVERT),
    (rb"\x1f\x8b", "compressed with gzip", "unpack it first: gunzip"),
    (rb"BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "a compressed archive", "unpack it first"),
    (rb"\x93NUMPY", "one NumPy array without a name", "give an .npz archive, or a state dict"),
)
# By suffix, where the content says nothing.
SUFFIXES = {
    ".onnx": "an ONNX model",
    ".pb": "a TensorFlow graph",
    ".index": "a part of a TensorFlow checkpoint",
    ".ckpt-index": "a part of a TensorFlow checkpoint",
    ".data-00000-of-00001": "a part of a TensorFlow checkpoint",
    ".msgpack": "a Flax checkpoint",
    ".caffemodel": "a Caffe model",
}


class Unfit(BackboneError):
    """A file whose content is not weights for the wanted network."""


class Unreadable(ValueError):
    """Why a file cannot be read as weights, and what to do: the second half of a sentence."""


@dataclass(frozen=True)
class Content:
    """What a weights file holds.

    Attributes
    ----------
    path : Path
    format : str
        What it is, in words.
    values : dict
        Tensors, and dictionaries of them, by name.
    metadata : dict of str
        What a safetensors file says of itself.
    """

    path: Path
    format: str
    values: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)


def read_content(path: Path) -> Content:
    """Read a weights file of any format that needs no code to be run.

    Raises
    ------
    Unreadable
        What the file is instead, and what to do.
    """
    found = recognise(path)
    try:
        if found == SAFETENSORS:
            return _read_safetensors(path)
        return _read_numpy(path) if found == NUMPY else _read_torch(path)
    except Unreadable:
        raise
    except Exception as error:  # a file can be broken in more ways than its readers have exceptions for
        raise Unreadable(f"it is {found} that is damaged ({first_line(error)}); {AGAIN}") from error


def recognise(path: Path) -> str:
    """The format of a weights file by its first bytes, whatever its suffix says.

    Raises
    ------
    Unreadable
        It is not a file that can be read here, or it is cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise Unreadable(f"it is empty; {AGAIN}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < LONGEST_HEADER:
        _check_length(path, size)
        return SAFETENSORS
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _recognise_archive(path)
    for start, kind, advice in FOREIGN:
        if re.match(start, head, re.IGNORECASE):
            raise Unreadable(f"it is {kind}; {advice}")
    if head[:1] == b"\x80" or head[257:262] == b"ustar":  # a pickle, a tar: both ways in which torch once saved
        return TORCH
    if what := SUFFIXES.get(path.suffix.lower()):
        raise Unreadable(f"it is {what}; {CONVERT}")
    raise Unreadable(
        f"it is not a safetensors, PyTorch or NumPy file (it begins with {head[:12]!r}); "
        f"{AGAIN}, or give a state dict saved as .safetensors"
    )


def _check_length(path: Path, size: int) -> None:
    """Refuse a safetensors file that is shorter than its header says."""
    with path.open("rb") as file:
        end = 8 + int.from_bytes(file.read(8), "little")
        try:
            header = jsons.loads(file.read(end - 8).decode(), "its header") if end <= size else {}
            end += max((v["data_offsets"][1] for key, v in header.items() if key != "__metadata__"), default=0)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Unreadable(f"it is {SAFETENSORS} with a damaged header; {AGAIN}") from error
    if end > size:
        raise Unreadable(f"it is {SAFETENSORS} that is cut short ({size} of at least {end} bytes); {AGAIN}")


def _recognise_archive(path: Path) -> str:
    """What a zip archive is: torch and NumPy both write such."""
    try:
        with zipfile.ZipFile(path) as archive:
            names, unpacked = archive.namelist(), sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:  # the last: a version not known
        raise Unreadable(f"it is a zip archive, as PyTorch writes, that is cut short or damaged; {AGAIN}") from error
    _check_bytes(path, unpacked)
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        raise Unreadable(
            "it is a TorchScript archive, which is a program; "
            "save only its weights: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    if "data.pkl" in inner:
        return TORCH
    if names and all(name.endswith(".npy") for name in names):
        return NUMPY
    if any(name.endswith(".h5") for name in names):
        raise Unreadable(f"it is a Keras model; {CONVERT}")
    raise Unreadable(f"it is a zip archive without weights (it holds {', '.join(names[:3])}); unpack it first")


def _check_bytes(path: Path, taken: int) -> None:
    """Refuse what takes far more memory than its file: zeros that are packed, or one number that is a whole tensor."""
    most = TIMES * path.stat().st_size + ROOM
    if taken > most:
        raise Unreadable(
            f"its tensors take {taken} bytes, more than {TIMES} times its size and 64 MiB; save them unpacked"
        )


def _bytes_of(values: Any) -> int:
    """Bytes of the tensors in dictionaries, as many as they say that they have."""
    import torch

    found, seen, todo = 0, set(), [values]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            found += one.numel() * one.element_size()
        elif isinstance(one, Mapping):
            todo.extend(one.values())
    return found


def _read_safetensors(path: Path) -> Content:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
        return Content(path, SAFETENSORS, tensors, file.metadata() or {})


def _read_numpy(path: Path) -> Content:
    import torch

    tensors = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            with contextlib.suppress(TypeError):  # texts, and bfloat16, which NumPy has not
                tensors[name] = torch.from_numpy(archive[name])
    return Content(path, NUMPY, tensors)


def _read_torch(path: Path) -> Content:
    """A file of torch.save; of what is not a tensor, only harmless objects are made."""
    import torch

    # Settings of a training script and scores in NumPy's scalars, next to the weights in many checkpoints.
    kinds = [getattr(np.dtypes, name) for name in np.dtypes.__all__ if name != "ObjectDType"]
    scalar = np.float64(0).__reduce__()[0]
    before = (scalar, "numpy.core.multiarray.scalar")  # as NumPy before 2 called it
    harmless = [argparse.Namespace, np.dtype, scalar, before, *kinds]
    # Given the path, torch would go by the suffix.
    with torch.serialization.safe_globals(harmless), path.open("rb") as file:
        try:
            values = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            if wanted := _wanted_classes(path, str(error)):
                raise Unreadable(
                    f"it holds Python objects ({wanted}) next to the weights, and reading them could run any code; "
                    f"{RESAVE}"
                ) from error
            raise
    if not isinstance(values, dict):
        raise Unreadable(f"it holds a {type(values).__name__}, not a state dict; {RESAVE}")
    _check_bytes(path, _bytes_of(values))
    return Content(path, TORCH, values)


def _wanted_classes(path: Path, message: str) -> str:
    """The classes that a pickle wants and that are not known to be harmless; empty where that is not what failed."""
    import torch

    found = re.findall(r"GLOBAL (\S+)", message)
    with contextlib.suppress(Exception):  # it reads the newer kind of files only
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path) or found
    return ", ".join(sorted({*found})[:3])


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
