"""A store's header: the format's version, and which manifest the store has and of which folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from featurepipe import inputs, jsons
from featurepipe.digests import sha256_json
from featurepipe.errors import FormatTooNew, StoreError
from featurepipe.files import write_text
from featurepipe.sources import Files

ENCODING_TYPE = "featurepipe-store"
ENCODING_VERSION = "1.2"
SEALED = (1, 2)  # the first version whose header has digests
HEADER = "store.json"
MOST = 2**20  # bytes of one; it takes less than a thousandth, unless a path is very long
PATH = jsons.Type("a path", lambda value: isinstance(value, str) and "\0" not in value)
STATE = {"root": (PATH, None), "relative?": (PATH, None), "manifest?": (jsons.TEXT, None), "source?": jsons.TEXT}
KIND = {"encoding-type": jsons.TEXT, "encoding-version": jsons.TEXT}


class Damaged(StoreError):
    """A header that is damaged beyond reading; nothing in it is needed to make it anew."""


@dataclass(frozen=True)
class State:
    """A manifest and the source of its samples.

    Attributes
    ----------
    root : str or None
        The source's root, such as the folder that paths start from; None in a store without manifest.
    relative : str or None
        The way from the store to that folder.
    manifest : str or None
        The sha256 of ``manifest.csv``; None where there is none yet, and before 1.2.
    source : str
        The kind of the source. The header does not mention files.
    """

    root: str | None = None
    relative: str | None = None
    manifest: str | None = None
    source: str = Files.kind

    @classmethod
    def of(cls, keys: Mapping[str, Any]) -> State:
        """From a header's keys, which have been checked."""
        return cls(keys["root"], keys.get("relative"), keys.get("manifest"), keys.get("source", Files.kind))

    def to_json(self) -> dict[str, str | None]:
        """The header's keys."""
        return {key: value for key, value in asdict(self).items() if (key, value) != ("source", Files.kind)}


@dataclass(frozen=True)
class Header:
    """The content of ``store.json``.

    Attributes
    ----------
    version : str
    state : State
    next : State or None
        What is true as soon as the manifest is the one that it names: while a manifest is being replaced, the header
        describes both, so that a process that is killed in between leaves a store that is whole.
    fits : bool
        Whether the header fits its own digest. Before 1.2 it has none, and fits.
    """

    version: str
    state: State
    next: State | None = None
    fits: bool = True

    @property
    def digests(self) -> tuple[str, ...] | None:
        """What the manifest's sha256 may be; None where nothing is known of it, as before 1.2."""
        if jsons.version(self.version) < SEALED:
            return None
        return tuple(one.manifest for one in (self.state, self.next) if one is not None and one.manifest is not None)

    def settled(self, manifest: str | None) -> Header:
        """The header without `next`, when the manifest's sha256 is this."""
        state = self.next if self.next is not None and self.next.manifest == manifest else self.state
        return replace(self, state=state, next=None)

    def write(self, store: Path) -> None:
        """Write it, with the digest that fits it."""
        keys: dict[str, Any] = {
            "encoding-type": ENCODING_TYPE,
            "encoding-version": self.version,
            **self.state.to_json(),
        }
        if self.next is not None:
            keys["next"] = self.next.to_json()
        keys["digest"] = sha256_json(keys)
        write_text(store / HEADER, json.dumps(keys, indent=2, ensure_ascii=False) + "\n")


def read(store: Path) -> Header:
    """Read a store's header; whether it fits its digest is for the caller to ask.

    Raises
    ------
    StoreError
        There is none, it is not one of a store, or, as `Damaged`, it is damaged beyond reading.
    FormatTooNew
        Made by a later featurepipe.
    """
    path = store / HEADER
    if not path.is_file():
        problem = "is not a featurepipe store" if store.exists() else "does not exist"
        raise StoreError(f"{store} {problem}; make a store with: featurepipe extract DATA")
    try:
        keys = jsons.loads(_content(path).decode("utf-8", "surrogateescape"), "it")
        jsons.check(keys, KIND, "it")
        kind, version = keys["encoding-type"], keys["encoding-version"]
        if kind != ENCODING_TYPE:
            raise StoreError(f"{path} describes a {kind!r}, not a featurepipe store")
        if jsons.version(version)[0] > jsons.version(ENCODING_VERSION)[0]:
            raise FormatTooNew(
                f"{store} has store format {version}, this featurepipe reads {ENCODING_VERSION}; upgrade it"
            )
        jsons.check(keys, {**STATE, "next?": (STATE, None)}, "it")
    except FormatTooNew:  # a ValueError, too
        raise
    except ValueError as error:
        raise Damaged(f"{path} is damaged ({error}); make it anew with: featurepipe extract DATA -s {store}") from error
    named, coming = keys.pop("digest", None), keys.get("next")
    fits = named == sha256_json(keys) if named is not None else jsons.version(version) < SEALED
    return Header(version, State.of(keys), None if coming is None else State.of(coming), fits)


def _content(path: Path) -> bytes:
    """A header's bytes; a ValueError if it is no file, or one that is too large."""
    try:
        return inputs.content(path, MOST)
    except OSError as error:
        if error.errno in inputs.WRONG:
            raise ValueError(error.strerror) from error
        raise
