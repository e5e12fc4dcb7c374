"""A store as a directory: its manifest, its entries, its lock, and their checks."""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import shards
from featurepipe.backbones import Described, check_same, output_of
from featurepipe.digests import sha256_json
from featurepipe.errors import (
    BackboneError,
    FingerprintMismatch,
    FormatTooNew,
    ShardCorrupt,
    ShardUnreadable,
    StoreError,
)
from featurepipe.files import atomic, remove_partials, write_text
from featurepipe.sources import SOURCES, Source, is_there, lasting_root
from featurepipe.stores import headers, journals, locks, manifest
from featurepipe.stores.entries import ALL, Entry, check_described, pick, pick_layers, pick_tokens
from featurepipe.stores.headers import HEADER, Header, State
from featurepipe.stores.journals import JOURNAL, Journal
from featurepipe.stores.locks import LOCK
from featurepipe.stores.manifest import Known
from featurepipe.stores.plans import Pending
from featurepipe.stores.rows import Row, Rows, keys

INSIDE = "store"  # of a folder of results
OWN_FILES = (LOCK, ".gitignore", HEADER, "manifest.csv", "rejects.csv")  # and what starts so: *.partial
ENTRY = re.compile(r".+-[0-9a-f]{8}", re.DOTALL)  # a folder's name
LINKED = "{}; it lies behind a link, so nothing is set aside there"


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
        """Where the store is that `path` means: there, or in the folder of results that ``run`` makes."""
        path, inside = Path(path), Path(path) / INSIDE
        return inside if (inside / HEADER).is_file() and not (path / HEADER).is_file() else path

    @classmethod
    def create(cls, path: str | Path, *, wait: bool = False) -> Store:
        """Open the store at `path`, or make an empty one there; `wait` as in `lock`.

        A header that is damaged beyond reading is made anew.

        Raises
        ------
        StoreError
            `path` holds other things.
        FormatTooNew
            Made by a later featurepipe.
        """
        store = cls(cls.locate(path))
        if not store._has_header():
            if store.path.exists() and not store._is_headless():
                raise StoreError(f"{path} exists and is not a featurepipe store; give the store another place")
            store.path.mkdir(parents=True, exist_ok=True)
            with store.lock(wait=wait):
                if not store._has_header():  # no other process has been faster
                    if not (store.path / ".gitignore").exists():
                        write_text(store.path / ".gitignore", "*\n")
                    Header(headers.ENCODING_VERSION, State()).write(store.path)
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
        with locks.held(self.path, wait=wait):
            for folder in self._folders():
                if not folder.is_symlink():  # what lies behind a link may be anybody's
                    remove_partials(folder, ("shard-",))  # others may be writing model files here
            remove_partials(self.path, OWN_FILES)
            yield

    # -- manifest -----------------------------------------------------------------------------------------------

    @property
    def recorded_root(self) -> Path | None:
        """The folder that relative sample paths started from when the manifest was written; None without manifest.

        Also where the header was edited or damaged, as far as it can be read.
        """
        root = self._state(self._header()).root
        return None if root is None else Path(root)

    @property
    def root(self) -> Path | None:
        """The source's root, such as the folder that relative paths start from; None in a store without manifest.

        Where it is gone, and one lies where it lay as seen from the store, both have been moved together.

        Raises
        ------
        StoreError
            The header was edited or damaged.
        """
        root = self._place(self._state(self._trusted()))
        return None if root is None else Path(root)

    @property
    def begun_root(self) -> Path | None:
        """The root of the source of which a run has begun to read files, and has written no manifest yet."""
        root = journals.begun(self.path)
        return None if root is None else Path(root)

    @property
    def begun_contents(self) -> np.ndarray:
        """The digests in that run's journal, uint8 (n, 32)."""
        return journals.contents(self.path)

    @property
    def source_root(self) -> str | None:
        """The source's root as text, which may be a URL; else as `root`."""
        return self._place(self._state(self._trusted()))

    def rows(self, *, checked: bool = True) -> Rows:
        """The manifest, in order.

        Parameters
        ----------
        checked : bool
            Refuse a manifest or header that was edited or damaged since it was written. Without it, refuse only what
            is not a manifest.

        Raises
        ------
        StoreError
            There is no manifest, or it is refused; the message says how to accept an edit, and how to make it again.
        """
        path, failed = self._manifest, None
        while True:
            header = self._trusted() if checked else self._header()
            if not path.is_file():
                raise StoreError(self._without_manifest())
            fits, is_earlier = (_judge(header), header.digests is None) if checked else (_anything, False)
            try:
                return manifest.read(path, fits, is_earlier=is_earlier).rows
            except manifest.Damaged as error:
                if header == failed:  # twice the same; else another process may have replaced both in between
                    raise StoreError(self._edited(path, str(error))) from error
                failed = header

    @property
    def source(self) -> Source:
        """Where the samples' bytes are.

        Raises
        ------
        StoreError
            There is no manifest, the header was edited or damaged, or the source cannot be made from what it says.
        """
        state = self._state(self._trusted())
        root = self._place(state)
        if root is None:
            raise StoreError(self._without_manifest())
        if state.source not in SOURCES:
            raise StoreError(
                f"{self.path} describes samples of a {state.source!r} source, which cannot be opened from here (only "
                f"{', '.join(SOURCES)} can); do without what reads them again, such as baselines"
            )
        return SOURCES[state.source](root)

    def pending(self, digests: Iterable[str]) -> list[Pending]:
        """Contents of the manifest, each with a place that holds it.

        Raises
        ------
        StoreError
            The manifest does not have one; and as for `rows` and `source`.
        """
        rows, source, wanted = self.rows(), self.source, list(digests)
        numbers = np.flatnonzero(rows.readable)
        held, sought = rows.keys[numbers], keys(shards.digest_array(wanted))
        order = np.argsort(held, kind="stable")  # of copies, the first comes first
        at = np.searchsorted(held, sought, sorter=order)
        known = np.isin(sought, held)
        if not known.all():
            raise StoreError(f"{self._manifest} has no sample of the content {wanted[int(known.argmin())]}")
        return [Pending.of(rows[row], source) for row in numbers[order[at]].tolist()]

    def known(self, source: Source, note: Callable[[str], object] = lambda text: None) -> Iterator[Known]:
        """What the manifest and the journal know of the files of `source`, sorted by id; nothing of another one's.

        Nothing, either, if the manifest or the header was edited or damaged, of which `note` hears.

        Raises
        ------
        StoreError
            The manifest changed while it was read.
        """
        written = Journal(self.path, source).known() if (self.path / JOURNAL).exists() else iter(())
        if not self._manifest.is_file():
            yield from written
            return
        header, digest = self._header(), self._digest()
        if not header.fits or digest is None or not _judge(header)(digest):
            place = self._manifest if header.fits else self.path / HEADER
            note(f"note: {place} was edited or damaged; every file is read again, and it is written again")
        elif self.is_of(source):
            held = manifest.known(self._manifest, None if header.digests is None else digest)
            yield from heapq.merge(written, held, key=lambda one: one.id) if (self.path / JOURNAL).exists() else held
        else:
            yield from written

    def is_of(self, source: Source) -> bool:
        """Whether the manifest describes samples of a source; an existing folder is the same by any of its names."""
        state = self._state(self._trusted())
        return (state.source, self._place(state)) == (source.kind, lasting_root(source))

    def write_rows(self, source: Source, rows: Sequence[Row]) -> None:
        """Replace the manifest, unless it says just this already; then the journal has served its purpose.

        The header describes the old and the new manifest while one takes the other's place.
        """
        self._write_rows(lasting_root(source), source.kind, rows)

    def _write_rows(self, root: str, kind: str, rows: Sequence[Row]) -> None:
        table, header = Rows.of(rows), self._header()
        state = State(root, self._relative(root), manifest.written(self._manifest, table), kind)
        after = Header(headers.ENCODING_VERSION, state)
        if after.state.manifest is None:
            coming: list[State] = []

            def announce(_: Path) -> None:
                replace(self._before(header), next=coming[0]).write(self.path)

            with atomic(self._manifest, verify=announce) as temporary:
                coming.append(replace(after.state, manifest=manifest.write(temporary, table)))
            after = replace(after, state=coming[0])
        if header != after:
            after.write(self.path)
        journals.remove(self.path)

    def accept_edits(self) -> int:
        """Take the manifest and the header as they are, edited by hand, if the manifest can be used.

        The next extraction then reads every file again, since nobody knows whether digests were exchanged.

        Returns
        -------
        int
            Rows of the manifest.

        Raises
        ------
        StoreError
            The manifest has a row that cannot be used; the message names it.
        """
        header, path = self._header(), self._manifest
        state = self._state(header)
        root = self._place(state)
        if root is None or not path.is_file():
            raise StoreError(
                f"{self.path} has nothing to accept; fill it with: featurepipe extract DATA -s {self.path}"
            )
        is_edited = header.digests is None or self._digest() not in header.digests
        try:
            rows = manifest.read(path, _anything, is_edited=is_edited).rows
        except manifest.Damaged as error:
            raise StoreError(
                f"{path} cannot be accepted: {error}; correct that, or make it again with: "
                f"featurepipe extract DATA -s {self.path}"
            ) from error
        placed = state.source in SOURCES and os.path.exists(root)  # of another source it may be just a name
        self._write_rows(os.path.realpath(root) if placed else root, state.source, rows)
        return len(rows)

    def write_rejects(self, rejects: Mapping[str, str]) -> None:
        """Replace the ledger of samples that could not be embedded (sample id → reason)."""
        with atomic(self.path / "rejects.csv") as temporary, open(temporary, "wb") as file:
            file.writelines(manifest.table(("id", "reason"), rejects.items()))

    # -- shards -------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Every backbone that has at least one shard here, sorted by folder."""
        found = (self._entry(folder) for folder in self._folders())
        return [entry for entry in found if entry is not None]

    def entry(self, backbone: Described) -> Entry:
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
        name = ".".join(filter(None, [_slug(backbone.name), _slug(output_of(backbone.spec) or "")]))
        folder = held[0] if held else self.path / f"{name}-{ending}"
        found = self._entry(folder)
        if found is not None:
            self._check_moved(found.indexes[0], backbone.spec)
            return found
        provenance = {"name": backbone.name, "source": backbone.source}
        return Entry(folder, backbone.spec, provenance, ())

    def choose(self, name: str | None = None, layer: str | None = None, *, tokens: bool = False) -> Entry:
        """The entry called `name` (backbone name, folder name, fingerprint prefix or model file), or the only real one.

        With several layers of one backbone it is the penultimate embedding, unless `layer` names another. Entries of
        tokens count only with `tokens`, and then no others.

        Raises
        ------
        StoreError
            None or several match; the message lists what there is.
        """
        if tokens:
            return pick_tokens(self.path, self.entries(), name)
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
        """Check the manifest, every shard row against its checksum, every folder against its fingerprint, and repeats.

        Parameters
        ----------
        repair : bool
            Rename shards whose content is wrong to ``*.corrupt``; the next extraction computes their rows again. One
            that cannot be read now, as another program has locked it, say, stays, and so does what lies behind a link.

        Returns
        -------
        dict
            ``ok``, ``checked`` (rows), ``problems`` (list of text), ``repaired`` (list of file names).
        """
        checked, problems, repaired = 0, list(self._problems()), []
        for folder in self._folders():
            seen: set[bytes] = set()
            spec = None
            for path in _shard_paths(folder):
                try:
                    shard = shards.read(path)
                    digests = {row.tobytes() for row in shard.digests}
                    check_described(path, shard.spec, shard.provenance, shard.embeddings.shape[1:])
                    if not _is_named_after(folder, shard) or shard.spec != (spec or shard.spec):
                        raise ShardCorrupt(f"{path} belongs to another backbone ({shard.fingerprint[:8]})")
                    if len(digests) < len(shard.digests) or digests & seen:
                        raise ShardCorrupt(f"{path} repeats digests")
                except (ShardCorrupt, ShardUnreadable, FormatTooNew) as error:
                    linked = path.is_symlink() or folder.is_symlink()
                    problems.append(LINKED.format(error) if linked else str(error))
                    if repair and isinstance(error, ShardCorrupt) and not linked:
                        path.rename(path.with_suffix(".corrupt"))
                        repaired.append(str(path))
                    continue
                spec = shard.spec
                seen |= digests
                checked += len(digests)
        return {"ok": not problems, "checked": checked, "problems": problems, "repaired": repaired}

    # -- inside -------------------------------------------------------------------------------------------------

    @property
    def _manifest(self) -> Path:
        return self.path / "manifest.csv"

    def _without_manifest(self) -> str:
        """Why there is no manifest, and what to do."""
        if (begun := self.begun_root) is not None:
            return (
                f"{self.path} is not complete: a run that reads the files of {begun} is still at work, or was stopped; "
                "if it was, run the same command again"
            )
        return f"{self.path} has no manifest; fill it with: featurepipe extract DATA --store {self.path}"

    def _relative(self, root: str) -> str | None:
        """The way from the store to a root; None where there is none, as from one drive of Windows to another."""
        if not os.path.isabs(root):  # it is no path
            return None
        try:
            return os.path.relpath(root, os.path.realpath(self.path))
        except ValueError:
            return None

    def _problems(self) -> Iterator[str]:
        """What is wrong with the header or the manifest."""
        try:
            header = self._trusted()
            if self._manifest.is_file():
                self.rows()
            elif self._state(header).manifest is not None:
                yield f"{self._manifest} is gone; make it again with: featurepipe extract DATA -s {self.path}"
        except (StoreError, FormatTooNew) as error:
            yield str(error)

    def _has_header(self) -> bool:
        """Whether there is a header that can be read; raises what `headers.read` does of one that is not for us."""
        try:
            return (self.path / HEADER).is_file() and bool(self._header())
        except headers.Damaged:
            return False

    def _header(self) -> Header:
        """The header, whether or not it fits its digest."""
        return headers.read(self.path)

    def _trusted(self) -> Header:
        """The header, if nobody has touched it since it was written."""
        header = self._header()
        if not header.fits:
            raise StoreError(self._edited(self.path / HEADER, "it does not match its own digest"))
        return header

    def _state(self, header: Header) -> State:
        """What of a header is true: that depends on the manifest while another takes its place."""
        return header.state if header.next is None else header.settled(self._digest()).state

    def _before(self, header: Header) -> Header:
        """A header as it is kept while another manifest takes the place of the one that is there.

        What was edited or damaged stays so until then.
        """
        if not header.fits:
            return Header(headers.ENCODING_VERSION, replace(header.state, manifest=None))
        held = self._digest()
        if header.digests is None:
            header = replace(header, state=replace(header.state, manifest=held))
        return replace(header.settled(held), version=headers.ENCODING_VERSION)

    def _digest(self) -> str | None:
        """The manifest's sha256; None where there is none, or what nobody should read."""
        with suppress(manifest.Damaged):
            return manifest.digest(self._manifest) if self._manifest.is_file() else None
        return None

    def _edited(self, path: Path, why: str) -> str:
        return (
            f"{path} was edited or damaged ({why}); accept an edit made by hand with: featurepipe verify {self.path} "
            f"--accept-edits; or make it again with: featurepipe extract DATA -s {self.path}"
        )

    def _place(self, state: State) -> str | None:
        """The root of a state, where it is now."""
        if state.root is None or state.relative is None or is_there(state.root):
            return state.root
        moved = os.path.realpath(self.path / state.relative)
        return moved if is_there(moved) else state.root

    def _is_headless(self) -> bool:
        """Whether this is an empty folder, or a store that lost its header or was never finished.

        Next to its entries it may hold a store of its own, of activations, and other files where it has entries.
        """
        held = list(self.path.iterdir()) if self.path.is_dir() else [self.path]
        return not held or any(map(_is_entry, held)) or ((self.path / LOCK).exists() and all(map(_is_own, held)))

    def _folders(self) -> list[Path]:
        """Folders inside, numbers in their names as numbers: stage2 comes before stage10."""
        return sorted((path for path in self.path.iterdir() if path.is_dir()), key=lambda path: _natural(path.name))

    def _entry(self, folder: Path) -> Entry | None:
        indexes = [shards.read_index(path) for path in _shard_paths(folder)]
        if not indexes:
            return None
        for index in indexes:
            check_described(index.path, index.spec, index.provenance, index.shape)
        rightful = [index for index in indexes if _is_named_after(folder, index)]
        if not rightful:
            raise FingerprintMismatch(
                f"{folder} holds shards of another backbone, {sha256_json(indexes[0].spec)[:8]}; if the folder was "
                f"renamed or exchanged, give it a name that ends in -{sha256_json(indexes[0].spec)[:8]} again, or set "
                f"its shards aside with: featurepipe verify --repair {self.path}"
            )
        for index in indexes:
            self._check_moved(index, rightful[0].spec)
        return Entry(folder, indexes[0].spec, indexes[0].provenance, tuple(indexes))

    def _check_moved(self, index: shards.ShardIndex, spec: Mapping[str, Any]) -> None:
        try:
            check_same(index.spec, spec)
        except FingerprintMismatch as error:
            raise FingerprintMismatch(
                f"{index.path} was moved here from another folder: {error}; "
                f"set it aside with: featurepipe verify --repair {self.path}"
            ) from error


def _is_entry(path: Path) -> bool:
    """Whether this is named and filled as nothing but a store's entry is."""
    return ENTRY.fullmatch(path.name) is not None and bool(_shard_paths(path))


def _is_own(path: Path) -> bool:
    """Whether this is something that a store's folder holds."""
    if not path.is_dir():
        return path.name.startswith(OWN_FILES)
    return any(path.glob("shard-*")) or Store.is_store(path) or Store(path)._is_headless()


def _is_named_after(folder: Path, shard: shards.Shard | shards.ShardIndex) -> bool:
    return folder.name.endswith(f"-{sha256_json(shard.spec)[:8]}")


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


def _judge(header: Header) -> Callable[[str], bool]:
    """Says of a digest whether it may be that of the store's manifest."""
    known = header.digests
    return _anything if known is None else lambda digest: digest in known


def _anything(digest: str) -> bool:
    return True
