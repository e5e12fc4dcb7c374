"""What archives of files have in common: several of them under one pattern, and places in them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from featurepipe import inputs
from featurepipe.errors import ManifestError
from featurepipe.sources.containers import Container
from featurepipe.sources.roots import base_of, expand, is_url
from featurepipe.sources.source import Stamp


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

    def place(self, path: str, name: str) -> str:
        """The place of a file in an archive."""
        return name if self.base is None else f"{os.path.relpath(path, self.base).replace(os.sep, '/')}/{name}"

    def stamp_of(self, path: str, size: int) -> Stamp:
        """What an unchanged file of an archive is known by: the archive itself has not changed."""
        return Stamp.of(inputs.status(path))._replace(size=size)


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
    if is_url(text) or not text.lower().endswith(tuple(suffixes)) or os.path.isdir(text):
        return None
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
