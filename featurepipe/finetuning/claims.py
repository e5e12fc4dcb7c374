"""Claims on activations: which run uses what a store of them holds, so that what nobody uses can go.

A store of activations keeps what one run uses, the last one that began. What an earlier run has made goes when another
one begins, except

- the folders that this one also uses: those of the same weights, cut and views (how many, augmentation, seed);
- those of a run that is still going on, in this process or another: it holds a lock;
- those of a run that can be taken up again: its checkpoint is still there.

A claim is a file of JSON that names the folders and the checkpoint, next to the lock of that run; ``sha256`` is that of
the canonical JSON of both. Claims of earlier versions have none.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featurepipe import jsons
from featurepipe.digests import sha256_json
from featurepipe.errors import StoreError
from featurepipe.files import write_text
from featurepipe.stores import Store
from featurepipe.stores.directory import LOCK

if TYPE_CHECKING:
    from filelock import BaseFileLock

ENDING = ".json"  # of a claim; what stands before it is its lock's name


def claim(
    store: Store, folders: Sequence[Path], checkpoint: Path | None, note: Callable[[str], object]
) -> BaseFileLock:
    """Claim folders of a store of activations, and remove those that no run has a claim to.

    Parameters
    ----------
    store : Store
        Store of activations, and nothing else.
    folders : sequence of Path
        That the run is going to use; they may still be missing.
    checkpoint : Path, optional
        Checkpoint of the run. The claim holds as long as it exists.
    note : callable
        Called with one line if something was removed.

    Returns
    -------
    FileLock
        Held; the claim holds until it is released, if there is no checkpoint then.

    Raises
    ------
    StoreError
        Another process is writing there, or a claim is damaged.
    """
    from filelock import FileLock

    with store.lock():
        kept = {folder.name for folder in folders}.union(*(_standing(path) for path in _claims(store)))
        _remove(store, kept, note)
        lock = store.path / f"{LOCK}.{secrets.token_hex(4)}"
        told = {
            "folders": sorted(folder.name for folder in folders),
            "checkpoint": None if checkpoint is None else str(checkpoint.resolve()),
        }
        told["sha256"] = sha256_json(told)
        write_text(lock.with_name(lock.name + ENDING), json.dumps(told, ensure_ascii=False) + "\n")
        held = FileLock(lock)
        held.acquire()  # nobody looks at it before, as the store is locked
    return held


def _claims(store: Store) -> list[Path]:
    return sorted(store.path.glob(f"{LOCK}.*{ENDING}"))


def _standing(path: Path) -> list[str]:
    """The folders of a claim that holds; one that does not hold is removed."""
    from filelock import FileLock, Timeout

    folders, checkpoint = _read(path)
    lock = path.with_name(path.name.removesuffix(ENDING))
    try:
        with FileLock(lock, timeout=0):
            if checkpoint is not None and os.path.isfile(checkpoint):
                return folders
            path.unlink()
    except Timeout:
        return folders
    lock.unlink(missing_ok=True)
    return []


def _read(path: Path) -> tuple[list[str], str | None]:
    """The folders and the checkpoint of a claim."""
    try:
        told = jsons.loads(path.read_text("utf-8", "surrogateescape"), "the claim")
        if not isinstance(told, dict) or told.keys() - {"sha256"} != {"folders", "checkpoint"}:
            raise ValueError("it does not name folders and a checkpoint")
        digest, folders, checkpoint = told.pop("sha256", None), told["folders"], told["checkpoint"]
        if digest is not None and digest != sha256_json(told):
            raise ValueError("it does not match its digest")
        if not isinstance(checkpoint, str | None) or not isinstance(folders, list):
            raise ValueError("it does not name folders and a checkpoint")
        if not all(isinstance(folder, str) for folder in folders):
            raise ValueError("a folder has no name")
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); remove it when no other run uses this store") from error
    return folders, checkpoint


def _remove(store: Store, kept: set[str], note: Callable[[str], object]) -> None:
    """Remove the shards of all folders but those that are kept."""
    removed, size = 0, 0
    for folder in sorted(path for path in store.path.iterdir() if path.is_dir() and path.name not in kept):
        files = list(folder.glob("shard-*"))
        size += sum(file.stat().st_size for file in files)
        for file in files:
            file.unlink()
        if files and not any(folder.iterdir()):
            folder.rmdir()
        removed += bool(files)
    if removed:
        views = "1 view" if removed == 1 else f"{removed} views"
        note(f"activations that no run uses any more removed from {store.path}: {views}, {size / 1e6:.1f} MB")
