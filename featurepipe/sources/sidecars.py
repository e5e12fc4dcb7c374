"""Files in an archive that label their neighbours, as webdataset writes them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from featurepipe.errors import ManifestError
from featurepipe.media import count_media
from featurepipe.sources.containers import Columns
from featurepipe.tables.cells import MISSING, cell_text

LARGEST = 2**20  # bytes of a file of labels
ENDINGS = (".cls", ".json")  # a label as text, and an object with the key 'label'
MOST = 12  # keys that an error names
BOM = b"\xef\xbb\xbf"

Known = dict[str, str | None]  # role → what is said


class Member(NamedTuple):
    """A file in an archive: where its content begins, and how many bytes it has."""

    name: str
    offset: int
    size: int


class Bundle(NamedTuple):
    """Neighbours whose names are the same up to the first dot, the `key`: samples, and files that label them."""

    key: str
    samples: list[Member]
    sidecars: list[Member]


@dataclass
class _Lost:
    """Files of which something is to be said: how many, and the first of them."""

    count: int = 0
    first: str = ""

    def add(self, what: str) -> None:
        self.first = self.first or what
        self.count += 1


@dataclass
class Sidecars:
    """What files of labels say of their neighbours, while an archive is gone through.

    Parameters
    ----------
    columns : Columns
        What users call the keys of a JSON.

    Attributes
    ----------
    missing : Counter
        Text that means no label (``NA``) → number of files.
    """

    columns: Columns
    missing: Counter[str] = field(default_factory=Counter)
    _keys: dict[str, None] = field(default_factory=dict)
    _broken: _Lost = field(default_factory=_Lost)
    _stray: _Lost = field(default_factory=_Lost)
    _shared: _Lost = field(default_factory=_Lost)

    def describe(
        self, bundle: Bundle, path: str, above: str, read: Callable[[Member], bytes]
    ) -> Iterator[tuple[Member, Known]]:
        """The samples of a bundle, each with what its sidecars say of it.

        Parameters
        ----------
        bundle : Bundle
        path : str
            The archive, for remarks.
        above : str
            What tells its keys from those of other archives.
        read : callable
            Gives the content of a member, or less of it where the archive is cut off.
        """
        if not bundle.sidecars:
            yield from ((member, {}) for member in bundle.samples)
            return
        own, common, stray = _assigned(bundle)
        for member in stray:
            self._stray.add(f"{path}: {member.name}")
        shared = self._said(common, path, read)
        if common and len(bundle.samples) > 1 and _has_several(bundle):
            self._shared.add(f"{path}: {', '.join(sorted(member.name for member in bundle.samples)[:2])}")
            shared["group"] = shared.get("group") or above + bundle.key
        if not own:
            yield from ((member, shared) for member in bundle.samples)
            return
        own_said = {stem: self._said(members, path, read) for stem, members in own.items()}
        for member in bundle.samples:
            yield member, shared | own_said.get(_stem(member.name), {}) | own_said.get(member.name, {})

    def check(self, root: str) -> None:
        """Raise a ManifestError if users named a key that no sample has."""
        for option, name in (("--label-column", self.columns.label), ("--group", self.columns.group)):
            if name is None or name in self._keys:
                continue
            if not self._keys:
                raise ManifestError(f"{root} has no .json files next to its samples, so no keys; leave out {option}")
            listed = ", ".join([*self._keys][:MOST])
            raise ManifestError(f"{root}: no sample has the key {name!r} in its .json (keys there: {listed})")

    def remarks(self) -> list[str]:
        """What users should know of the files that were read."""
        said = []
        if self._broken.count:
            said.append(f"{_files(self._broken)} cannot be used, first {self._broken.first}; correct the archive")
        if self._stray.count:
            said.append(
                f"{_files(self._stray)} not used, as it is not clear of which sample: first {self._stray.first}; give "
                "each the name of its sample, with the suffix .cls or .json"
            )
        if self._shared.count:
            one = self._shared.count == 1
            said.append(
                f"{self._shared.count:,} {'key has' if one else 'keys have'} several files, first "
                f"{self._shared.first}; each file is a sample, and those of a key are one group"
            )
        return said

    def _said(self, sidecars: Iterable[Member], path: str, read: Callable[[Member], bytes]) -> Known:
        """What some sidecars of the same samples say together; a JSON counts more than a label as text."""
        known: Known = {}
        for member in sorted(sidecars, key=lambda one: _suffix(one.name)):  # .cls before .json
            try:
                known |= {role: text for role, text in self._read(member, read).items() if text is not None}
            except (ValueError, RecursionError, OSError) as error:
                self._broken.add(f"{path}: {member.name} ({error})")
        return known

    def _read(self, member: Member, read: Callable[[Member], bytes]) -> Known:
        """What a sidecar says; a ValueError or OSError where it cannot be read."""
        if member.size > LARGEST:
            raise ValueError(f"larger than {LARGEST // 2**20} MiB")
        data = read(member)
        if len(data) < member.size:
            raise ValueError("cut off")
        data = data.removeprefix(BOM).strip()
        if not data:
            return {}
        if _suffix(member.name) == ENDINGS[0]:
            return self._without_missing({"label": cell_text(data)})
        found = json.loads(data)
        if not isinstance(found, dict):
            return {}
        for key in found if len(self._keys) < MOST else self._named & found.keys():
            self._keys[key] = None
        names = {"label": self.columns.label or "label", "split": "split", "group": self.columns.group or "group"}
        said = {role: cell_text(found[key]) for role, key in names.items() if found.get(key) is not None}
        return self._without_missing({role: (text and text.strip()) or None for role, text in said.items()})

    @property
    def _named(self) -> set[str]:
        return {name for name in (self.columns.label, self.columns.group) if name is not None}

    def _without_missing(self, known: Known) -> Known:
        label = known.get("label")
        if label is not None and label in MISSING:
            self.missing[label] += 1
            return known | {"label": None}
        return known


def bundled(members: Iterable[Member]) -> Iterator[Bundle]:
    """Neighbours of one key; hidden files, which some programs put between them, come by themselves."""
    bundle = Bundle("", [], [])
    for member in members:
        folder, slash, base = member.name.rpartition("/")
        if base.startswith("."):
            yield Bundle(member.name, [member], [])
            continue
        key = folder + slash + base.partition(".")[0]
        if key != bundle.key:
            yield from _settled(bundle)
            bundle = Bundle(key, [], [])
        (bundle.sidecars if base.lower().endswith(ENDINGS) else bundle.samples).append(member)
    yield from _settled(bundle)


def _settled(bundle: Bundle) -> Iterator[Bundle]:
    if bundle.samples:
        yield bundle
    elif bundle.sidecars:  # of nothing: files like any other
        yield Bundle(bundle.key, bundle.sidecars, [])


def _assigned(bundle: Bundle) -> tuple[dict[str, list[Member]], list[Member], list[Member]]:
    """Stem → the sidecars of that stem alone; those of all samples of the key; those that nobody can assign.

    A name may have dots that separate no suffix, as in DICOM's UIDs: ``1.2.840.7.json`` is only of ``1.2.840.7.dcm``.
    The name up to the first dot says what belongs together only where it leaves no choice: a file is called exactly
    that, or all samples are of one stem, and there is one sidecar of each kind, and none of one stem alone.
    """
    stems = {_stem(member.name) for member in bundle.samples}
    names = {member.name for member in bundle.samples}
    own, common, stray = dict[str, list[Member]](), list[Member](), list[Member]()
    for member in bundle.sidecars:
        stem = _stem(member.name)
        if stem == bundle.key:
            common.append(member)
        elif stem in stems or stem in names:  # 1.jpg.json is of 1.jpg
            own.setdefault(stem, []).append(member)
        else:
            stray.append(member)
    is_one = not own and (len(stems) == 1 or bundle.key in stems or bool(common))
    if stray and is_one and len({_suffix(member.name) for member in bundle.sidecars}) == len(bundle.sidecars):
        common, stray = common + stray, []
    return own, common, stray


def _has_several(bundle: Bundle) -> bool:
    """Whether a key has several files of one medium, each of which is a sample."""
    suffixes = [_suffix(name) for name in {member.name for member in bundle.samples}]
    return max(count_media(suffixes).values(), default=0) > 1


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _files(lost: _Lost) -> str:
    return f"{lost.count:,} file{'s' * (lost.count != 1)} of labels"
