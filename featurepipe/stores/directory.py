"""A store as a directory: its manifest, its entries, its lock, and their checks."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from featurepipe import shards
from featurepipe.backbones import Extractor, check_same, stage_of
from featurepipe.digests import sha256_json
from featurepipe.errors import (
    BackboneError,
    FingerprintMismatch,
    FormatTooNew,
    OutputError,
    ShardCorrupt,
    ShardUnreadable,
    StoreError,
    StoreReadOnly,
)
from featurepipe.files import atomic, refusal, remove_partials, write_text
from featurepipe.manifests import Sample
from featurepipe.stores.entries import ALL, Entry, pick, pick_layers
from featurepipe.stores.rows import BLOCK, Row, Rows, Stamp

ENCODING_TYPE = "featurepipe-store"
ENCODING_VERSION = "1.1"
MANIFEST_COLUMNS = ("id", "path", "label", "split", "digest", *Stamp._fields)
STAMP_COLUMNS = MANIFEST_COLUMNS[5:]  # since 1.1
LOCK = ".lock"
NO_LOCKS = "{} cannot be locked ({}): the file system has no locks; keep the store on one that has"
HEADER = "store.json"
INSIDE = "store"  # of a folder of results
OWN_FILES = (LOCK, ".gitignore", HEADER, "manifest.csv", "rejects.csv")  # and what starts so: *.partial


class Known(NamedTuple):
    """What the manifest says of a file whose stamp can be trusted; the digest as bytes."""

    id: str
    path: str
    digest: bytes
    stamp: Stamp


@dataclass(frozen=True)
class Store:
    """A directory of shards; see the module's docstring for the layout."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open an existing store.

        Raises
        ------
        StoreError
            There is none at `path`.
        FormatTooNew
            Made by a later featurepipe.
        """
        store = cls(cls.locate(path))
        store._header()
        return store

    @staticmethod
    def locate(path: str | Path) -> Path:
        """Where the store is that `path` stands for: there, or in the folder of results that ``run`` makes."""
        path, inside = Path(path), Path(path) / INSIDE
        return inside if (inside / HEADER).is_file() and not (path / HEADER).is_file() else path

    @classmethod
    def create(cls, path: str | Path, *, wait: bool = False) -> Store:
        """Open the store at `path`, or make an empty one there; `wait` as in `lock`.

        Raises
        ------
        StoreError
            `path` holds other things.
        """
        store = cls(cls.locate(path))
        header = store.path / HEADER
        if not header.exists():
            if store.path.exists() and not store._is_headless():
                raise StoreError(f"{path} exists and is not a featurepipe store; give the store another place")
            store.path.mkdir(parents=True, exist_ok=True)
            with store.lock(wait=wait):
                if not header.exists():  # no other process has been faster
                    write_text(store.path / ".gitignore", "*\n")
                    store._write_header(None)
        store._header()
        return store

    @staticmethod
    def is_store(path: str | Path) -> bool:
        """Whether there is a store at `path`, as `locate` understands it."""
        return (Store.locate(path) / HEADER).is_file()

    @contextmanager
    def lock(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the store for writing; the lock goes with the process, however that ends.

        Parameters
        ----------
        wait : bool
            Wait for another process to finish, instead of raising.

        Raises
        ------
        StoreReadOnly
            This process may not write here.
        StoreError
            Another process holds it, or its file system has no locks.
        """
        with self._acquired(-1 if wait else 0):
            for folder in self._folders():
                remove_partials(folder, ("shard-",))  # others may be writing model files here
            remove_partials(self.path, OWN_FILES)
            yield

    # -- manifest -----------------------------------------------------------------------------------------------

    @property
    def recorded_root(self) -> Path | None:
        """The folder that relative sample paths started from when the manifest was written; None without manifest."""
        root = self._header()["root"]
        return None if root is None else Path(root)

    @property
    def root(self) -> Path | None:
        """The folder that relative sample paths start from; None in a store without manifest.

        Where it is gone, and one lies where it lay as seen from the store, both have been moved together.
        """
        recorded, relative = self.recorded_root, self._header().get("relative")
        if recorded is None or not isinstance(relative, str) or os.path.isdir(recorded):
            return recorded
        moved = os.path.realpath(self.path / relative)
        return Path(moved) if os.path.isdir(moved) else recorded

    def rows(self) -> Rows:
        """The manifest, in order."""
        path = self._manifest
        if not path.exists():
            raise StoreError(f"{self.path} has no manifest; fill it with: featurepipe extract DATA --store {self.path}")
        try:
            return Rows.gather(
                (Sample(id_, file, label or None, split or None), digest, _stamp(cells))
                for id_, file, label, split, digest, *cells in self._cells()
            )
        except (ValueError, IndexError, TypeError, OverflowError, csv.Error) as error:
            raise StoreError(f"{path} is damaged ({error}); run featurepipe extract again") from error

    def known(self, root: Path) -> Iterator[Known]:
        """What the manifest knows of the files below `root`, in its order; nothing if it is of another folder."""
        if not self._manifest.exists() or self.root != root.resolve():
            return
        try:
            for id_, path, _, _, digest, *cells in self._cells():
                content, stamp = bytes.fromhex(digest), _stamp(cells)
                if stamp is not None and len(content) == 32:
                    yield Known(id_, path, content, stamp)
        except (StoreError, ValueError, IndexError, TypeError, csv.Error):
            return  # a damaged manifest is no reason to stop: the rest is read anew, and it is replaced

    def write_rows(self, root: Path, rows: Sequence[Row]) -> None:
        """Replace the manifest, unless it says just this already."""
        table = Rows.of(rows)
        if not _holds(self._manifest, _csv(MANIFEST_COLUMNS, table.lines())):
            with atomic(self._manifest) as temporary, open(temporary, "wb") as file:
                file.writelines(_csv(MANIFEST_COLUMNS, table.lines()))
        header, place = self._header(), str(root.resolve())
        if (header["encoding-version"], header["root"]) != (ENCODING_VERSION, place) or (
            header.get("relative") != self._relative(place)
        ):
            self._write_header(place)

    def write_rejects(self, rejects: Mapping[str, str]) -> None:
        """Replace the ledger of samples that could not be embedded (sample id → reason)."""
        with atomic(self.path / "rejects.csv") as temporary, open(temporary, "wb") as file:
            file.writelines(_csv(("id", "reason"), rejects.items()))

    # -- shards -------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Every backbone that has at least one shard here, sorted by folder."""
        found = (self._entry(folder) for folder in self._folders())
        return [entry for entry in found if entry is not None]

    def entry(self, backbone: Extractor) -> Entry:
        """The entry of a backbone, which may be empty.

        Raises
        ------
        FingerprintMismatch
            The folder holds another backbone's shards (somebody moved files).
        BackboneError
            Several layers, each of which has an entry of its own.
        """
        if not isinstance(backbone.spec["layer"], str):
            raise BackboneError(f"{backbone.name} has an entry for each of its layers; give one of its members")
        ending = backbone.fingerprint[:8]
        held = sorted(self.path.glob(f"*-{ending}"))  # the same backbone may have been called by another name
        name = ".".join(filter(None, [_slug(backbone.name), stage_of(backbone.spec)]))
        folder = held[0] if held else self.path / f"{name}-{ending}"
        found = self._entry(folder)
        if found is not None:
            self._check_moved(found.indexes[0], backbone.spec)
            return found
        provenance = {"name": backbone.name, "source": backbone.source}
        return Entry(folder, backbone.spec, provenance, ())

    def choose(self, name: str | None = None, layer: str | None = None) -> Entry:
        """The entry called `name` (backbone name, folder name, fingerprint prefix or model file), or the only real one.

        Of several layers of one backbone it is the penultimate embedding, unless `layer` names another.

        Raises
        ------
        StoreError
            None or several match; the message lists what there is.
        """
        return pick(self.path, self.entries(), name, layer)

    def choose_layers(self, name: str | None = None, layers: str | Sequence[str] = ALL) -> list[Entry]:
        """Entries that differ in nothing but the layer, in the network's order.

        Parameters
        ----------
        name : str, optional
            As for `choose`; any one of them may be named.
        layers : str or sequence of str
            ``'all'``, or names of layers, in a list or between commas.

        Raises
        ------
        StoreError
            None or several backbones match, a layer is missing, or there is but one.
        """
        return pick_layers(self.path, self.entries(), name, layers)

    def verify(self, *, repair: bool = False) -> dict[str, Any]:
        """Check every shard row against its checksum, every folder against its fingerprint, digests for repeats.

        Parameters
        ----------
        repair : bool
            Rename shards whose content is wrong to ``*.corrupt``; the next extraction computes their rows again. One
            that cannot be read now, as another program has locked it, say, stays.

        Returns
        -------
        dict
            ``ok``, ``checked`` (rows), ``problems`` (list of text), ``repaired`` (list of file names).
        """
        checked, problems, repaired = 0, [], []
        for folder in self._folders():
            seen: set[bytes] = set()
            spec = None
            for path in _shard_paths(folder):
                try:
                    shard = shards.read(path)
                    if not folder.name.endswith(f"-{shard.fingerprint[:8]}") or shard.spec != (spec or shard.spec):
                        raise ShardCorrupt(f"{path} belongs to another backbone ({shard.fingerprint[:8]})")
                    digests = {row.tobytes() for row in shard.digests}
                    if len(digests) < len(shard.digests) or digests & seen:
                        raise ShardCorrupt(f"{path} repeats digests")
                except (ShardCorrupt, ShardUnreadable, FormatTooNew) as error:
                    problems.append(str(error))
                    if repair and isinstance(error, ShardCorrupt):
                        path.rename(path.with_suffix(".corrupt"))
                        repaired.append(str(path))
                    continue
                spec = shard.spec
                seen |= digests
                checked += len(digests)
        return {"ok": not problems, "checked": checked, "problems": problems, "repaired": repaired}

    # -- inside -------------------------------------------------------------------------------------------------

    def _acquired(self, timeout: float) -> Any:
        """The lock, held."""
        from filelock import FileLock, Timeout

        place = self.path / LOCK
        try:
            return FileLock(place, timeout=timeout).acquire()
        except Timeout as error:
            raise StoreError(f"{self.path} is being written by another process; wait for it, or stop it") from error
        except NotImplementedError as error:
            raise StoreError(NO_LOCKS.format(place, "not implemented")) from error
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise StoreReadOnly(f"{self.path} may be read only ({place}: {why})") from error
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise StoreError(NO_LOCKS.format(place, why)) from error
            raise OutputError(refusal(place, error)) from error

    @property
    def _manifest(self) -> Path:
        return self.path / "manifest.csv"

    def _relative(self, root: str) -> str | None:
        """The way from the store to a folder; None where there is none, as from one drive of Windows to another."""
        try:
            return os.path.relpath(root, os.path.realpath(self.path))
        except ValueError:
            return None

    def _cells(self) -> Iterator[list[str]]:
        """The manifest's cells, line by line, in the order of MANIFEST_COLUMNS; '' for stamps that it lacks."""
        with open(self._manifest, encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if not set(MANIFEST_COLUMNS) - set(STAMP_COLUMNS) <= set(header):
                raise StoreError(f"{self._manifest} lacks columns; run featurepipe extract again")
            if tuple(header) == MANIFEST_COLUMNS:
                yield from reader
                return
            where = [header.index(name) if name in header else None for name in MANIFEST_COLUMNS]
            for line in reader:
                yield ["" if at is None else line[at] for at in where]

    def _is_headless(self) -> bool:
        """Whether this is an empty folder, or a store that lost its header or was never finished.

        It may hold a store of its own making beside its entries: of activations.
        """
        held = list(self.path.iterdir()) if self.path.is_dir() else [self.path]
        return not held or ((self.path / LOCK).exists() and all(map(_is_own, held)))

    def _folders(self) -> list[Path]:
        """Folders inside, numbers in their names as numbers: stage2 comes before stage10."""
        return sorted((path for path in self.path.iterdir() if path.is_dir()), key=lambda path: _natural(path.name))

    def _entry(self, folder: Path) -> Entry | None:
        indexes = [shards.read_index(path) for path in _shard_paths(folder)]
        if not indexes:
            return None
        rightful = (index.spec for index in indexes if folder.name.endswith(sha256_json(index.spec)[:8]))
        spec = next(rightful, indexes[0].spec)
        for index in indexes:
            self._check_moved(index, spec)
        return Entry(folder, indexes[0].spec, indexes[0].provenance, tuple(indexes))

    def _check_moved(self, index: shards.ShardIndex, spec: Mapping[str, Any]) -> None:
        try:
            check_same(index.spec, spec)
        except FingerprintMismatch as error:
            raise FingerprintMismatch(
                f"{index.path} was moved here from another folder: {error}; "
                f"set it aside with: featurepipe verify --repair {self.path}"
            ) from error

    def _header(self) -> dict[str, Any]:
        path = self.path / HEADER
        if not path.is_file():
            problem = "is not a featurepipe store" if self.path.exists() else "does not exist"
            raise StoreError(f"{self.path} {problem}; make a store with: featurepipe extract DATA")
        try:
            header = json.loads(path.read_text("utf-8", "surrogateescape"))
            kind, version, root = header["encoding-type"], str(header["encoding-version"]), header["root"]
            major = int(version.split(".")[0])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is damaged ({error}); remove it and run featurepipe extract again") from error
        if kind != ENCODING_TYPE:
            raise StoreError(f"{path} describes a {kind!r}, not a featurepipe store")
        if major > int(ENCODING_VERSION.split(".")[0]):
            raise FormatTooNew(
                f"{self.path} has store format {version}, this featurepipe reads {ENCODING_VERSION}; upgrade it"
            )
        if not isinstance(root, str | None):
            raise StoreError(f"{path} is damaged (root {root!r}); remove it and run featurepipe extract again")
        return header

    def _write_header(self, root: str | None) -> None:
        header = {"encoding-type": ENCODING_TYPE, "encoding-version": ENCODING_VERSION, "root": root}
        if root is not None:
            header["relative"] = self._relative(root)
        write_text(self.path / HEADER, json.dumps(header, indent=2, ensure_ascii=False) + "\n")


def _is_own(path: Path) -> bool:
    """Whether this is something that a store's folder holds."""
    if not path.is_dir():
        return path.name.startswith(OWN_FILES)
    return any(path.glob("shard-*")) or Store.is_store(path) or Store(path)._is_headless()


def _natural(name: str) -> list[str | int]:
    """Sorts names as people do, by their texts and numbers in turn."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder; OSError if it may not be listed: `Path.glob` would take it for an empty one."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if fnmatchcase(path.name, "shard-*.h5"))


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")


def _stamp(cells: Sequence[str]) -> Stamp | None:
    """None where one part is missing, as all are that proved nothing; a TypeError if there are too many or too few."""
    return Stamp(*map(int, cells)) if all(cells) else None


def _csv(header: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[bytes]:
    """A table in blocks of some thousand lines; file names that are not UTF-8 keep their bytes."""
    rest = chain([header], lines)
    while block := list(islice(rest, BLOCK)):
        text = io.StringIO()
        csv.writer(text).writerows(block)  # its own line end, \r\n, is what makes it quote both characters in names
        yield text.getvalue().encode("utf-8", "surrogateescape")


def _holds(path: Path, blocks: Iterable[bytes]) -> bool:
    """Whether a file consists of just these blocks."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        return all(file.read(len(block)) == block for block in blocks) and not file.read(1)
