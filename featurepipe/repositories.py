"""Repositories of the Hugging Face hub: files go there in one commit, and one file comes back.

`huggingface_hub` does the work, so its settings count here too: HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE, and the login of
``hf auth login``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from featurepipe.errors import RepositoryError

PREFIX = "hf:"
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
LOGIN = "log in with: hf auth login (or set HF_TOKEN)"


@dataclass(frozen=True)
class Repository:
    """A repository of models.

    Attributes
    ----------
    name : str
        ``OWNER/NAME``.
    revision : str or None
        A branch, a tag or a commit; None is the newest.
    endpoint : str or None
        The hub's address; None is huggingface.co, or what HF_ENDPOINT says.
    """

    name: str
    revision: str | None = None
    endpoint: str | None = None

    @classmethod
    def of(cls, text: str, endpoint: str | None = None) -> Self:
        """The repository that ``[hf:]OWNER/NAME[@REVISION]`` names.

        Raises
        ------
        RepositoryError
            It is no such name.

        Examples
        --------
        >>> Repository.of("hf:ann/flowers@v2")
        Repository(name='ann/flowers', revision='v2', endpoint=None)
        """
        name, at, revision = text.removeprefix(PREFIX).partition("@")
        if not NAME.fullmatch(name) or (at and not revision):
            raise RepositoryError(f"{text!r} names no repository; write OWNER/NAME, or OWNER/NAME@REVISION")
        return cls(name, revision or None, endpoint)

    def has(self, file: str) -> bool:
        """Whether the repository is there and holds a file."""
        with self._spoken():
            return self._api().file_exists(self.name, file, revision=self.revision)

    def push(self, contents: Mapping[str, Path | bytes], message: str, *, public: bool = False) -> str:
        """Send files in one commit; a repository or branch that is missing is made first.

        Parameters
        ----------
        contents : mapping
            Name in the repository → a file here, or bytes.
        message : str
            Text of the commit.
        public : bool
            Who may see a repository that is made; one that is there stays as it is.

        Returns
        -------
        str
            The commit's address.

        Raises
        ------
        RepositoryError
            The hub cannot be reached, or refuses.
        """
        from huggingface_hub import CommitOperationAdd

        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        with self._spoken():
            api = self._api()
            api.create_repo(self.name, private=not public, exist_ok=True)
            if self.revision is not None:
                api.create_branch(self.name, branch=self.revision, exist_ok=True)
            return api.create_commit(self.name, operations, commit_message=message, revision=self.revision).commit_url

    def pull(self, file: str) -> Path:
        """Fetch a file into the hub's cache, where it is found again without a connection.

        Returns
        -------
        Path
            It must not be changed.

        Raises
        ------
        RepositoryError
            The hub cannot be reached, or has no such repository, revision or file.
        """
        from huggingface_hub import hf_hub_download

        with self._spoken():
            return Path(hf_hub_download(self.name, file, revision=self.revision, endpoint=self.endpoint))

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(self.endpoint)

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """Errors of the hub in one line: which repository, why, and what to do."""
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
        )

        # the base is httpx's error of any request; what fails while a large file is sent is a RuntimeError
        failures: Any = (*HfHubHTTPError.__bases__, HFValidationError, OSError, RuntimeError)
        try:
            with _no_bars():
                yield
        except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
            why = "the hub cannot be reached, and nothing of it is in the cache here"
            raise RepositoryError(f"{self.name}: {why}; connect, or copy the file by hand") from error
        except failures as error:
            raise RepositoryError(f"{self.name}: {_why(error)}") from error


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the library's own bars, which need a stderr, and would be shown to those who want quiet."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            enable_progress_bars()


def _why(error: Exception) -> str:
    """What the hub said, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub does not let you do this; check the name, and {LOGIN}"
    if status == 404:
        return f"the hub has no such repository, revision or file, or hides it; check the name, or {LOGIN}"
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{said.rstrip('.')}; try again"
