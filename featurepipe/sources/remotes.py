"""Files at URLs and in buckets, and next to them files on this machine."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from featurepipe.digests import sha256_bytes
from featurepipe.errors import ManifestError
from featurepipe.media import count_media
from featurepipe.sources import urls
from featurepipe.sources.containers import Columns, Container, Item, Listing
from featurepipe.sources.files import Files
from featurepipe.sources.roots import is_url
from featurepipe.sources.source import Stamp
from featurepipe.tables import TABLE_SUFFIXES

REMEMBERED = 65536  # stamps, so that a server is not asked for each several times


@dataclass(frozen=True)
class Remotes(Container):
    """Files at URLs; a place is a URL, or a path relative to the root, which may be a folder here or a URL.

    A server is asked some times before a file counts as one that cannot be read; see `featurepipe.sources.urls`.

    Attributes
    ----------
    root : str
    """

    root: str = "."
    kind: ClassVar[str] = "remote"
    alone: ClassVar[bool] = True
    _stamps: OrderedDict[str, Stamp | None] = field(default_factory=OrderedDict, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root,)

    def stamp(self, place: str) -> Stamp | None:
        """See `Source.stamp`: of what the server says, its size, time and version."""
        url = self._url(place)
        if url is None:
            return Files(self.root).stamp(place)
        with self._lock:
            if url in self._stamps:
                return self._stamps[url]
        return self._remember(url, urls.stamp_of(url))

    def digest(self, place: str) -> str:
        """See `Source.digest`."""
        return sha256_bytes(self.read(place)) if self._url(place) else Files(self.root).digest(place)

    def read(self, place: str) -> bytes:
        """See `Source.read`."""
        url = self._url(place)
        if url is None:
            return Files(self.root).read(place)
        data, stamp = urls.fetch(url)
        with self._lock:
            known = self._stamps.get(url)
        if known is not None and stamp is not None and stamp[1:] != known[1:]:  # it has changed since it was asked for
            self._remember(url, stamp)
        return data

    def list_items(self, columns: Columns) -> Listing:
        """See `Container.list_items`: of a folder at a URL."""
        if columns != Columns():
            raise ManifestError(f"{self.root} has no columns; leave out --path-column, --label-column and --group")
        return Listing(self._items(), is_tree=True)

    def _items(self) -> Iterator[Item]:
        try:
            fs, top = urls.filesystem(self.root)
            found = urls.tried(self.root, lambda: fs.find(top))
        except OSError as error:
            raise ManifestError(f"{self.root} cannot be listed: {error.strerror or error}") from error
        if not found:
            raise ManifestError(f"{self.root} holds no files; correct the URL, or check that you may list it")
        for path in found:
            name = path[len(top.rstrip("/")) :].lstrip("/") if path.startswith(top.rstrip("/")) else path
            yield Item(name, name)

    def _remember(self, url: str, stamp: Stamp | None) -> Stamp | None:
        with self._lock:
            self._stamps[url] = stamp
            while len(self._stamps) > REMEMBERED:
                self._stamps.popitem(last=False)
        return stamp

    def _url(self, place: str) -> str | None:
        """The URL of a place; None where it is a file of this machine."""
        if is_url(place):
            return place
        return f"{self.root.rstrip('/')}/{place}" if is_url(self.root) else None


def open_remotes(data: object) -> Remotes | None:
    """A folder at a URL; None for what is not at a URL, and for the URL of a single file.

    Raises
    ------
    ManifestError
        It is a table, or a folder of a web server, which has no list of its files.
    """
    if not isinstance(data, str) or not is_url(data):
        return None
    suffix = os.path.splitext(urls.base_name(data))[1].lower()
    if count_media([suffix]):
        return None
    if suffix in TABLE_SUFFIXES:
        raise ManifestError(f"{data} is a table, which is read from a file; download it (its paths may be URLs)")
    if urls.is_web(data):
        raise ManifestError(
            f"{data} is no file that is read here, and web servers list no folders; give an archive, or a table of URLs"
        )
    return Remotes(data)
