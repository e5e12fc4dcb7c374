"""The lock that a store is written under."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

from featurepipe.errors import OutputError, StoreError, StoreReadOnly
from featurepipe.files import refusal

LOCK = ".lock"
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
KINDS = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def acquire(store: Path, *, wait: bool) -> Any:
    """The lock of a store, held; it goes with the process.

    A lock that only a file's existence makes would not, so none is made where the file system has no real ones.

    Raises
    ------
    StoreReadOnly
        This process may not write there.
    StoreError
        Another process holds it, the file system has no locks, or what lies in its place is not a file.
    """
    from filelock import FileLock, Timeout

    place = store / LOCK
    _check_place(place)
    try:
        return FileLock(place, timeout=-1 if wait else 0, fallback_to_soft=False).acquire()
    except Timeout as error:
        raise StoreError(f"{store} is being written by another process; wait for it, or stop it") from error
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
