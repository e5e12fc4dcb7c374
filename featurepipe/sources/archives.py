"""What archives of files have in common: several of them under one pattern, and places in them."""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from featurepipe import inputs
from featurepipe.errors import ManifestError
from featurepipe.sources import urls
from featurepipe.sources.containers import Container
from featurepipe.sources.roots import base_of, expand, is_url
from featurepipe.sources.source import Stamp

CHANGED = "the archive has just changed; run again, and in Python read its manifest again"


@dataclass(frozen=True)
class Archives(Container):
    """Files in one archive, or in all that a pattern such as ``shards-{0000..0099}.tar`` names.

    A place is a file's name in the archive. Where the root is a pattern, the archive's path comes before it, from the
    folder that all of them lie in.

    Attributes
    ----------
    root : str
        An absolute path or pattern.
    """

    root: str

    @cached_property
    def paths(self) -> list[str]:
        """The archives, in the order of the pattern."""
        return expand(self.root)

    @cached_property
    def base(self) -> str | None:
        """The folder that places start from; None where there is one archive, which needs no name."""
        return None if self.paths == [self.root] else base_of(self.root)

    @cached_property
    def _copies(self) -> dict[str, Any]:
        return {}

    def local(self, path: str) -> str:
        """An archive as a file of this machine: one at a URL is downloaded first, once in each process.

        Raises
        ------
        ManifestError
            It cannot be downloaded, or there is no room for it.
        """
        if not is_url(path):
            return path
        if path not in self._copies:
            copy = tempfile.NamedTemporaryFile(suffix=urls.base_name(path))  # noqa: SIM115  # it is kept
            weakref.finalize(self, copy.close)
            try:
                self.stamp_of(path, 0)  # before: the bytes may be newer than their stamp, and never older
                urls.download(path, copy)
                copy.flush()
            except OSError as error:
                raise ManifestError(f"{path} cannot be downloaded: {error.strerror or error}") from error
            self._copies[path] = copy
        return str(self._copies[path].name)

    def place(self, path: str, name: str) -> str:
        """The place of a file in an archive."""
        return self._prefixes[path] + name

    def parted(self, place: str) -> tuple[str, str]:
        """The archive of a place, and what the file is called in there; FileNotFoundError where there is none."""
        if self.base is None:
            return self.root, place
        slash = place.find("/")
        while slash >= 0:
            path = self._archives.get(place[: slash + 1])
            if path is not None:
                return path, place[slash + 1 :]
            slash = place.find("/", slash + 1)
        raise FileNotFoundError(errno.ENOENT, "its archive is not there any more", place)

    @cached_property
    def _prefixes(self) -> dict[str, str]:
        """Archive → what the places in it begin with."""
        if self.base is None:
            return {self.root: ""}
        return {path: f"{os.path.relpath(path, self.base).replace(os.sep, '/')}/" for path in self.paths}

    @cached_property
    def _archives(self) -> dict[str, str]:
        return {prefix: path for path, prefix in self._prefixes.items()}

    def stamp_of(self, path: str, size: int) -> Stamp | None:
        """What an unchanged file of an archive is known by: the archive itself has not changed.

        It is asked for before an archive is opened, and again after each file that was read.

        Raises
        ------
        OSError
            The archive has changed since it was asked for first: what is known of it, and what is open, are old. A new
            mode or another hard link is no change.
        """
        if is_url(path):
            if path not in self._stamps:
                self._stamps[path] = urls.stamp_of(path)
            found = self._stamps[path]
            return None if found is None else found._replace(size=size)
        now = Stamp.of(inputs.status(path))
        first = self._stamps.setdefault(path, now) or now
        if not now.resembles(first):
            self._changed.add(path)
            raise OSError(errno.EAGAIN, CHANGED, path)
        return first._replace(size=size)  # of what is open: an archive that took its place may look just like it

    @property
    def outdated(self) -> bool:
        """See `Source.outdated`."""
        return bool(self._changed)

    @cached_property
    def _stamps(self) -> dict[str, Stamp | None]:
        return {}

    @cached_property
    def _changed(self) -> set[str]:
        return set()

    def forget(self) -> None:
        """Start anew, as before a listing: archives are looked for, looked at, downloaded and opened once more."""
        for copy in self._copies.values():
            copy.close()
        for name in ("paths", "base", "_copies", "_prefixes", "_archives", "_stamps", "_changed"):
            self.__dict__.pop(name, None)


@contextmanager
def as_os_error(place: str) -> Iterator[None]:
    """Errors that concern a whole archive as those of the place that is read, which is rejected; the run goes on."""
    try:
        yield
    except ManifestError as error:
        raise OSError(errno.EIO, str(error), place) from error


def root_of(data: object, suffixes: Iterable[str]) -> str | None:
    """The root of archives that have one of these suffixes; None where `data` names none.

    Raises
    ------
    ManifestError
        Not all of them are there.
    """
    if not isinstance(data, str | os.PathLike):
        return None
    text = os.fspath(data)
    name = urls.base_name(text) if is_url(text) else text
    if not name.lower().endswith(tuple(suffixes)) or os.path.isdir(text):
        return None
    if is_url(text):
        return text
    try:
        paths = expand(text)
    except ValueError as error:
        raise ManifestError(f"{error}; give several patterns with fewer files each") from error
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        count = f"{len(missing):,} of {len(paths):,} files do not exist, first " if len(paths) > 1 else ""
        verb = "" if count else " does not exist"
        raise ManifestError(f"{count}{missing[0]}{verb}; correct the path, or the numbers in braces")
    if not paths:
        raise ManifestError(f"{text} matches no file; correct the pattern, and quote it so that the shell leaves it")
    for path in paths:
        try:
            inputs.status(path)
        except OSError as error:
            raise ManifestError(f"{path} cannot be read: {error.strerror}; give an archive") from error
    return os.path.abspath(text)
