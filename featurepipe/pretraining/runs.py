"""What a run keeps while it trains: a checkpoint, and a record of what decides the run, which --resume compares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurepipe.errors import PretrainingError
from featurepipe.files import write_text
from featurepipe.finetuning import checkpoints

CHECKPOINT, RECORD = "checkpoint.pt", "run.json"
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
        """Remove what a finished run does not need; a teacher's store stays, and serves again."""
        self.forget()
        (self.folder / RECORD).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()
