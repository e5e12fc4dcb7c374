"""What a run keeps while it trains: a checkpoint, and a record of what decides the run, which --resume compares."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurepipe.errors import OutputError, PretrainingError
from featurepipe.files import refusal, write_text
from featurepipe.finetuning import checkpoints
from featurepipe.stores.locks import NO_LOCKS

CHECKPOINT, RECORD, LOCK = "checkpoint.pt", "run.json", ".lock"
TRIES = 5  # to make a folder and its lock, while a run that ends removes them
AGAIN = "start again with --force and without --resume"


@dataclass(frozen=True)
class Run:
    """The folder of a run.

    Attributes
    ----------
    folder : Path
    """

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Its checkpoint, which is there from the end of the first epoch on, or after five minutes."""
        return self.folder / CHECKPOINT

    @property
    def begun(self) -> bool:
        """Whether there is something to resume."""
        return self.checkpoint.is_file()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within, no other run can use the folder; where the file system has no locks, nothing keeps it off.

        Raises
        ------
        PretrainingError
            Another run does.
        OutputError
            The folder cannot be made.
        """
        with self._locked():
            try:
                yield
            finally:
                with suppress(OSError):  # held elsewhere on Windows, or not empty
                    (self.folder / LOCK).unlink(missing_ok=True)
                    self.folder.rmdir()

    def _locked(self) -> AbstractContextManager[object]:
        """The lock of the folder, held; nothing where the file system has none."""
        from filelock import FileLock, Timeout

        lock = self.folder / LOCK
        for is_last in (*[False] * TRIES, True):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                return FileLock(lock, timeout=0, fallback_to_soft=False).acquire()
            except Timeout as error:
                raise PretrainingError(
                    f"another run is training in {self.folder}; wait for it, or give another output with -o"
                ) from error
            except NotImplementedError:
                break
            except OSError as error:
                if error.errno in NO_LOCKS:
                    break
                if is_last or not isinstance(error, FileNotFoundError | FileExistsError):
                    raise OutputError(refusal(lock, error)) from error  # else a run that ends removed the folder
        return nullcontext()

    def told(self) -> dict[str, Any]:
        """The record of the run that has begun: its options, and what `tell` got; empty if there is none.

        Raises
        ------
        PretrainingError
            It is damaged, or missing.
        """
        if not self.begun:
            return {}
        file = self.folder / RECORD
        try:
            found = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise PretrainingError(f"{file} is missing or damaged ({error}); {AGAIN}") from error
        if not isinstance(found, dict):
            raise PretrainingError(f"{file} is damaged; {AGAIN}")
        return found

    def tell(self, record: Mapping[str, Any]) -> None:
        """Write the record."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / RECORD, json.dumps(record) + "\n")

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise PretrainingError if the run that has begun had other options."""
        told = self.told()
        before = told.get("options", {})
        for key, value in options.items() if told else ():
            if key not in before:
                raise PretrainingError(
                    f"{self.folder} holds a run of another version of featurepipe, which did not know {key}; resume "
                    f"it with that version, or {AGAIN}"
                )
            if before[key] != value:
                raise PretrainingError(
                    f"{self.folder} holds a run with another {key} ({before[key]!r}, not {value!r}); give the same "
                    f"options to resume it, or {AGAIN}"
                )

    def check_sources(self, sources: Mapping[str, str]) -> None:
        """Raise PretrainingError if the run that has begun learned from something else.

        Parameters
        ----------
        sources : mapping of str
            What it learns from, in words, to a digest.
        """
        told = self.told()
        before = told.get("sources", {})
        for name, digest in sources.items() if told else ():
            if before.get(name) != digest:
                raise PretrainingError(
                    f"{self.folder} holds a run with other {name} than these; restore them to resume it, or {AGAIN}"
                )

    def forget(self) -> None:
        """Remove the checkpoint, so that the run starts again."""
        checkpoints.remove(self.checkpoint)

    def clear(self) -> None:
        """Remove what a finished run does not need; a teacher's store stays, and serves again.

        An empty folder goes with the lock.
        """
        self.forget()
        (self.folder / RECORD).unlink(missing_ok=True)
