"""Writing files so that a reader sees the old content or the new, never a half."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def atomic(path: Path, verify: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path`; on leaving: sync, `verify`, rename, sync the folder.

    If the block or `verify` raises, the temporary file is removed and `path` is untouched.

    Parameters
    ----------
    path : Path
        The final name; its folder is made if it is missing.
    verify : callable, optional
        Called with the finished temporary file; what it raises stops the rename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield temporary
        _sync_file(temporary)
        if verify is not None:
            verify(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically as UTF-8; file names that are not UTF-8 keep their bytes."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def remove_partials(folder: Path, names: tuple[str, ...] = ("",)) -> int:
    """Remove what interrupted writes of files whose names begin so left in `folder`; returns how many files went."""
    found = folder.glob(f"*{PARTIAL}")
    leftovers = [path for path in found if path.name.startswith(names) and not path.is_dir()]
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)


def _sync_file(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # Windows has no handle to sync a folder by
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
