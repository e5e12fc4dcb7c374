"""The lock that a store is written under, and those of the workers that write for its holder on other machines."""

from __future__ import annotations

import errno
import os
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from featurepipe import inputs
from featurepipe.characters import shown
from featurepipe.errors import OutputError, StoreError, StoreReadOnly
from featurepipe.files import refusal

LOCK = ".lock"
HOLDER = ".lock.holder"  # who has it, for people to read; it decides nothing
MEMBER = ".lock.{}.member"  # of a worker, locked for as long as that may write
MOST_NAME = 200  # bytes of a holder's name
SETTLE = 30.0  # seconds for workers of a run that has ended to notice
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
KINDS = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


@contextmanager
def held(store: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a store, when no worker of an earlier holder can write any more; it goes with the process.

    A lock that only a file's existence makes would not, so none is made where the file system has no real ones.

    Raises
    ------
    StoreReadOnly
        This process may not write there.
    StoreError
        Another process holds it, the file system has no locks, or what lies in its place is not a file.
    """
    taken = _acquire(store, LOCK, -1 if wait else 0)
    if taken is None:
        raise StoreError(
            f"{store} is being written by another process{_named(store / HOLDER)}; wait for it, or stop it"
        )
    with taken:
        settle(store, -1 if wait else SETTLE)
        with suppress(OSError):  # it is a courtesy; that the disk is full shows elsewhere
            _sign(store / HOLDER)
        try:
            yield
        finally:
            with suppress(OSError):
                (store / HOLDER).unlink(missing_ok=True)


def settle(store: Path, seconds: float) -> None:
    """Wait until no worker of a run can write any more, and remove their locks; the caller holds the store's.

    Raises
    ------
    StoreError
        One still could after these seconds; -1 waits for ever.
    """
    for place in sorted(store.glob(MEMBER.format("*"))):
        taken = _acquire(store, place.name, seconds)
        if taken is None:
            raise StoreError(
                f"{store} may still be written by a worker of an earlier run{_named(place)}; it ends when Ray notices "
                "that its driver is gone; wait, or stop it"
            )
        with taken, suppress(OSError):
            place.unlink(missing_ok=True)


def admit(store: Path, name: str) -> None:
    """Let a worker of this name write for the holder of the store's lock, which calls this."""
    (store / MEMBER.format(name)).write_text(whoami(), "utf-8")


def join(store: Path, name: str) -> Any:
    """The lock of a worker that was admitted; it goes with the worker's process.

    Raises
    ------
    StoreError
        Nobody was admitted here under that name: this may be another folder than the holder's.
    """
    place = store / MEMBER.format(name)
    if not place.is_file():
        raise StoreError(
            f"{store} on {platform.node()} is not the folder that this run writes to; keep the store in a folder "
            "that all machines share"
        )
    with suppress(OSError):
        place.write_text(whoami(), "utf-8")
    taken = _acquire(store, place.name, 0)
    if taken is None:
        raise StoreError(f"{place} is held by another worker; run the same command again")
    return taken


def _sign(place: Path) -> None:
    """Write who this is to a file of its own; what lies there may be a stranger's link, which is not followed."""
    place.unlink(missing_ok=True)
    with open(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "w", encoding="utf-8") as file:
        file.write(whoami())


def whoami() -> str:
    """What this process is called."""
    return f"process {os.getpid()} on {platform.node()}"


def _named(place: Path) -> str:
    """A holder's name in brackets; nothing where it is not known."""
    try:
        name = inputs.content(place, MOST_NAME).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    return f" ({shown(name)})" if name else ""


def _acquire(store: Path, name: str, seconds: float) -> Any:
    """A lock, held; None if another process has it after these seconds."""
    from filelock import FileLock, Timeout

    place = store / name
    _check_place(place)
    try:  # threads may let go of it, too
        return FileLock(place, timeout=seconds, fallback_to_soft=False, thread_local=False).acquire()
    except Timeout:
        return None
    except NotImplementedError as error:
        raise StoreError(_without_locks(place, "not implemented")) from error
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in READ_ONLY:
            raise StoreReadOnly(f"{store} may be read only ({place}: {why})") from error
        if error.errno in NO_LOCKS:
            raise StoreError(_without_locks(place, why)) from error
        raise OutputError(refusal(place, error)) from error


def _check_place(place: Path) -> None:
    """Refuse anything that is not a file: a link, for one, would have another file locked."""
    try:
        mode = place.lstat().st_mode
    except OSError:  # there is none yet, or it cannot be looked at, of which locking it will say why
        return
    if not stat.S_ISREG(mode):
        kind = next((kind for test, kind in KINDS if test(mode)), "a device")
        raise StoreError(f"{place} is {kind}, not a lock file; remove it, and run the same command again")


def _without_locks(place: Path, why: str) -> str:
    return f"{place} cannot be locked ({why}): the file system has no locks; keep the store on one that has"
