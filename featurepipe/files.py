"""Writing files so that a reader sees the old content or the new, never a half."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from featurepipe.errors import FeaturepipeError, OutputError

PARTIAL = ".partial"
DAY = 86_400  # seconds after which a writer that nobody can ask for is taken for gone
FULL = (errno.ENOSPC, errno.EDQUOT)
SCARCE = (errno.EMFILE, errno.ENFILE)


@contextmanager
def atomic(path: Path, verify: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Give a temporary path next to `path`; on leaving: sync, `verify`, rename, sync the folder.

    If the block or `verify` raises, the temporary file is removed and `path` is untouched. What killed writers of the
    same file have left is removed first.

    Parameters
    ----------
    path : Path
        The final name; its folder is made if it is missing.
    verify : callable, optional
        Called with the finished temporary file; what it raises stops the rename.

    Raises
    ------
    OutputError
        The system refuses: a full disk, no permission. It says how much room is left.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, re.escape(path.name))
        yield temporary
        _sync_file(temporary)
        if verify is not None:
            verify(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # of a disk that fails altogether the first error says more
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and _is_of_writing(error, temporary):
            raise OutputError(refusal(path, error)) from error
        raise


def refusal(path: Path, error: OSError) -> str:
    """Why the system did not let `path` be written, how much room is left, and what to do."""
    if error.errno in FULL:
        why = f"the disk is full ({size_text(_room(path))} left in {path.parent})"
        return f"{path} cannot be written: {why}; what is finished is kept; make room, and run the same command again"
    why = os.strerror(error.errno) if error.errno else str(error)
    return f"{path} cannot be written: {why}; give another place, or get the rights to write there"


def check_scarce(error: OSError) -> None:
    """Raise an error of reading for which the process is to blame, not the file: it has too many files open."""
    if error.errno in SCARCE:
        why = f"{os.strerror(error.errno)}; raise the limit (ulimit -n), or use fewer --workers"
        raise OSError(error.errno, why, error.filename) from error


def size_text(size: int) -> str:
    """A size with its decimal unit."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if size >= 10**power:
            return f"{size / 10**power:.3g} {unit}"
    return f"{size} bytes"


def check_output(
    path: Path,
    what: str,
    is_ours: Callable[[Path], bool],
    inputs: Iterable[str | os.PathLike[str] | None] = (),
    *,
    force: bool = False,
) -> None:
    """Refuse, before anything is computed, a place where a result cannot or must not be written.

    Parameters
    ----------
    path : Path
        Where the result shall go.
    what : str
        What the result is, in words.
    is_ours : callable
        Whether a file is such a result of an earlier run, which may be replaced. An empty file always may.
    inputs : iterable of path or None
        What is read for it, which is never replaced. Links are followed: the same file under another name is the same
        file.
    force : bool
        Replace what is there, unless it is an input.

    Raises
    ------
    OutputError
        It is a folder, may not be written, is an input, or is somebody else's file.
    """
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is not a file; name a file for the {what} with -o")
    folder = next(place for place in path.absolute().parents if place.exists())
    if not os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise OutputError(f"{path} cannot be written: {folder} is read-only here; give another place with -o")
    if not path.exists():
        return
    mine = path.stat()
    if any(given is not None and _is_same(given, mine) for given in inputs):
        raise OutputError(
            f"{path} is an input of this command, and the {what} would replace it; give another name with -o"
        )
    if mine.st_size and not force and not is_ours(path):
        article = "an" if what[0] in "aeioAEIO" else "a"
        raise OutputError(
            f"{path} exists and is not {article} {what} of featurepipe; give another name with -o, or replace it with "
            "--force"
        )


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def append(path: Path, data: bytes) -> None:
    """Add `data` to the end of a file, synced; a file that is new is in its folder for good, too. Links are refused."""
    is_new = not path.exists()
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_BINARY", "O_NONBLOCK"):  # the last, as nobody may ever read from a pipe
        flags |= getattr(os, name, 0)
    with open(os.open(path, flags, 0o666), "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        _sync_folder(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically, where nothing is there; the folder exists.

    Raises
    ------
    FileExistsError
        Something is there, be it a link that leads nowhere. It stays as it is.
    OutputError
        The system refuses: a full disk, no permission.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    temporary = _temporary(path)
    try:
        temporary.write_bytes(data)
        _sync_file(temporary)
        _rename_new(temporary, path)
        _sync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise OutputError(refusal(path, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _rename_new(temporary: Path, path: Path) -> None:
    """Give a file its name, which nobody must have; another process may be about to take it."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.rename(temporary, path)


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


def _temporary(path: Path) -> Path:
    """A name next to `path` that says who writes there."""
    return path.with_name(f"{path.name}.{_machine()}-{os.getpid():x}-{secrets.token_hex(4)}{PARTIAL}")


def sweep(folder: Path, names: str = ".+") -> None:
    """Remove temporary files whose writer is gone; where nobody can be asked, those that are a day old.

    Parameters
    ----------
    folder : Path
    names : str
        Pattern of the names that the files were to have.
    """
    pattern = re.compile(rf"(?:{names})\.(?:([0-9a-f]{{8}})-([0-9a-f]+)-)?[0-9a-f]{{8}}{re.escape(PARTIAL)}")
    with os.scandir(folder) as entries:
        found = [(entry.path, pattern.fullmatch(entry.name)) for entry in entries if entry.name.endswith(PARTIAL)]
    for place, match in found:
        with suppress(OSError):  # another process may have been faster, and none of it is needed
            if match is not None and _is_left(place, *match.groups()):
                os.unlink(place)


def _is_left(place: str, machine: str | None, process: str | None) -> bool:
    """Whether a temporary file's writer is gone, or to be taken for that."""
    if process is not None and machine == _machine() and os.name != "nt":  # where to ask for a process would end it
        return _is_gone(process)
    return time.time() - os.stat(place).st_mtime > DAY


def _is_gone(process: str) -> bool:
    """Whether a process of this machine does not run any more."""
    try:
        os.kill(int(process, 16), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # somebody else's is alive, too
        return False
    return False


@cache
def _machine() -> str:
    """What tells the processes here from those of other machines, of before the last boot, and of other containers."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # Linux has both
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _is_same(given: str | os.PathLike[str], there: os.stat_result) -> bool:
    """Whether a path leads to the file whose status is `there`; not so one that leads nowhere."""
    try:
        return os.path.samestat(os.stat(given), there)
    except (OSError, ValueError):  # the latter of names that no file can have
        return False


def _is_of_writing(error: OSError, temporary: Path) -> bool:
    """Whether the system refused this file, and not another one that was read to fill it; nor did nobody write it."""
    if isinstance(error, (FeaturepipeError, FileNotFoundError)):
        return False
    return error.filename is None or os.fspath(error.filename) in (str(temporary), str(temporary.parent))


def _room(path: Path) -> int:
    """Bytes that are free where `path` would lie."""
    there = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    return shutil.disk_usage(there).free


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


def check_safe_csv(safe: bool, path: Path | None) -> None:
    """Refuse cells that are safe for spreadsheets in a file that is not CSV; None is an open text file."""
    if safe and path is not None and path.suffix.lower() != ".csv":
        raise OutputError(
            f"--safe-csv works only with CSV, and {path.name} is not CSV; name a .csv file, or leave out --safe-csv"
        )
