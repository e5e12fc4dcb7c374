"""Backbones that this process has opened: the last few are kept, and of many more it is known what they are.

Making a network takes seconds: timm initialises it, the weights are read and digested, a precision is tried. Who fits
the same parameters again, as cross-validation does, gets the network of before; who needs no more than to find its
embeddings in a store gets its `Identity`, and no network is made. A name alone is never trusted: weights files count by
place and `os.stat`, and a network that somebody has changed since is not given away again.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from featurepipe.backbones.capabilities import Portable
from featurepipe.backbones.creation import create
from featurepipe.backbones.makers import MAKERS, find
from featurepipe.backbones.media import default_of
from featurepipe.backbones.specs import Described, Extractor
from featurepipe.digests import canonical_json, sha256_json
from featurepipe.images import ImageTransform

KEPT = 2  # networks: their weights fill memory, a GPU's too
KNOWN = 256  # identities, of some kilobytes
SETTLED_NS = 2_000_000_000  # a file changed again within the coarsest clock of a file system in use could look the same


@dataclass(frozen=True)
class Identity:
    """What a backbone is, without its network: enough to find its embeddings in a store.

    Attributes
    ----------
    name, spec, source, transform, width, device
        As of a `Backbone`.
    """

    name: str
    spec: dict[str, Any]
    source: dict[str, Any]
    transform: ImageTransform
    width: int
    device: str

    @classmethod
    def of(cls, extractor: Described) -> Identity:
        """The identity of a backbone."""
        return cls(*(getattr(extractor, field) for field in cls.__dataclass_fields__))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the spec."""
        return sha256_json(self.spec)


class Shelf:
    """Keeps backbones, the one used last for longest; threads may share it.

    Parameters
    ----------
    kept : int
        How many.
    make : callable
        Makes them.
    """

    def __init__(self, kept: int = KEPT, make: Callable[..., Extractor] = create) -> None:
        self._most, self._create = kept, make
        self._inherited: list[Any] = []
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()  # held while one is made: two threads at it would share torch's generator
        self._kept: OrderedDict[str, tuple[Extractor, Any]] = OrderedDict()
        self._known: OrderedDict[str, Identity] = OrderedDict()

    def fetch(self, name: Any = None, **options: Any) -> Extractor:
        """As `create`, but the same object as before where it is kept: read it, and do not change it."""
        with self._lock:
            return self._find(name, options) or self._make(name, options)

    def identify(self, name: Any = None, **options: Any) -> Extractor | Identity:
        """What `create` would make: a backbone where it is kept or has to be made, else its identity alone."""
        with self._lock:
            found: Extractor | Identity | None = self._find(name, options)
            if found is None:
                known = (self._known.get(key) for key in _keys(name, options))
                wanted = options.get("precision", "auto")
                found = next((one for one in known if one and wanted in ("auto", one.spec["precision"])), None)
            return found or self._make(name, options)

    def clear(self) -> None:
        """Forget all of them, which frees the memory of networks that nobody else holds."""
        with self._lock:
            self._kept.clear()
            self._known.clear()

    def after_fork(self) -> None:
        """In a child, start again, but keep what there was, as a child must not free a parent's GPU memory."""
        self._inherited.append(self._kept)
        self._begin()

    def _find(self, name: Any, options: Mapping[str, Any]) -> Extractor | None:
        wanted = options.get("precision", "auto")
        for key in _keys(name, options):
            made, marks = self._kept.get(key, (None, None))
            if made is None or wanted not in ("auto", made.spec["precision"]):
                continue
            if _marks(made) == marks:
                self._kept.move_to_end(key)
                return made
            del self._kept[key]
        return None

    def _make(self, name: Any, options: Mapping[str, Any]) -> Extractor:
        before = next(_keys(name, options), None)
        made = self._create(name, **options)
        key, marks = next(_keys(name, options), None), _marks(made)
        if key is not None and key == before:  # no file has changed meanwhile
            _put(self._kept, key, (made, marks), self._most)
            _put(self._known, key, Identity.of(made), KNOWN)
        return made


def _put(held: OrderedDict[str, Any], key: str, value: Any, most: int) -> None:
    held[key] = value
    held.move_to_end(key)
    while len(held) > most:
        held.popitem(last=False)


def _keys(name: Any, options: Mapping[str, Any]) -> Iterator[str]:
    """Text that says all that decides what `create` makes; then, for a precision, that of ``auto``, which may be it.

    Nothing where that cannot be said: of odd values, which `create` shall judge, of families of which more than files
    may decide what is made, or of files that are not there or have changed just now.
    """
    try:
        weights = options.get("weights")
        named = {
            **options,
            "name": os.fspath(default_of(name, options.get("medium"))),
            "weights": weights and os.fspath(weights),
        }
        maker, known = find(MAKERS, named["name"])
        found = maker.files(known, Path(named["weights"]) if named["weights"] else None)
        if found is None:
            return
        files = [_stamp(path) for path in found]
        for precision in dict.fromkeys((options.get("precision", "auto"), "auto")):
            yield canonical_json({**named, "precision": precision, "files": files})
    except (TypeError, ValueError, OSError):  # BackboneError is a ValueError
        return


def _stamp(path: Path) -> list[Any]:
    """A file's place and all that changes with its content; ValueError if that would not show yet."""
    found = os.stat(path)
    if found.st_mtime_ns > time.time_ns() - SETTLED_NS:
        raise ValueError(f"{path} is too new")
    return [os.path.abspath(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _marks(made: Extractor) -> list[tuple[int, int, float]]:
    """What changes if somebody changes a network in place; through ``.data`` it is the values alone that show it."""
    module = made.module if isinstance(made, Portable) else None
    parts = () if module is None else (*module.parameters(), *module.buffers())
    firsts = (tensor.detach()[:1] if tensor.ndim else tensor for tensor in parts)  # all values would take seconds
    return [(part.data_ptr(), part._version, float(first.sum())) for part, first in zip(parts, firsts, strict=True)]


SHELF = Shelf()  # of this process
fetch, identify, forget = SHELF.fetch, SHELF.identify, SHELF.clear
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SHELF.after_fork)
