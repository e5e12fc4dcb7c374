"""Entries: the shards of one backbone and layer, and which of them is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurepipe import shards
from featurepipe.backbones import (
    PENULTIMATE,
    carried_digest,
    edition,
    grid_of,
    is_handmade,
    is_model_name,
    output_of,
    stage_of,
)
from featurepipe.backbones.grids import TOKENS
from featurepipe.digests import sha256_json
from featurepipe.errors import ShardCorrupt, StoreError

ALL = "all"
SPEC = {"architecture": str, "layer": str, "precision": str, "transform": dict, "weights": str | None}
PROVENANCE = {"name": str, "source": dict, "seconds": int | float | None, "device": str | None}
SOURCE = {"name": str, "weights": str | None, "random_seed": int | None}


@dataclass(frozen=True)
class Entry:
    """The shards of one backbone in a store.

    Attributes
    ----------
    folder : Path
    spec, provenance : dict
        Spec of the backbone, and provenance of the first shard.
    indexes : tuple of ShardIndex
        In shard order.
    """

    folder: Path
    spec: dict[str, Any]
    provenance: dict[str, Any]
    indexes: tuple[shards.ShardIndex, ...]

    @property
    def name(self) -> str:
        """The backbone's display name."""
        return self.provenance["name"]

    @property
    def layer(self) -> str:
        """Which layer's output this is."""
        return self.spec["layer"]

    @property
    def title(self) -> str:
        """The backbone's display name, and the layer where it is a stage, or the grid of its tokens."""
        return " ".join(filter(None, [self.name, output_of(self.spec)]))

    @property
    def fingerprint(self) -> str:
        """sha256 of the spec."""
        return sha256_json(self.spec)

    @property
    def width(self) -> int:
        """Length of one embedding; of tokens, that of each."""
        return self.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is held of one sample: (width,), or (H, W, D) of tokens."""
        return self.indexes[0].shape

    @property
    def dtype(self) -> str:
        """What features are in memory: float32, except that tokens stay as they are stored."""
        return "float32" if self.grid is None else self.indexes[0].dtype

    @property
    def reads(self) -> str:
        """What kinds of probe read it: ``vectors`` or ``tokens``."""
        return "vectors" if self.grid is None else "tokens"

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the tokens of each sample; None where there is one vector."""
        return grid_of(self.spec)

    @property
    def members(self) -> tuple[Entry, ...]:
        """Whose embeddings are the features: this one's alone."""
        return (self,)

    @property
    def is_baseline(self) -> bool:
        """Whether this is a hand-crafted descriptor or a network with random weights."""
        return self.is_handmade or self.provenance["source"]["random_seed"] is not None

    @property
    def is_handmade(self) -> bool:
        """Whether nothing in this backbone was learned from other images."""
        return is_handmade(self.spec)

    @property
    def images_per_second(self) -> float | None:
        """Of the extractions that made the shards, as far as these say; of one device of several."""
        timed = [(len(index.digests), index.provenance.get("seconds")) for index in self.indexes]
        known = [(images, seconds) for images, seconds in timed if seconds]
        return round(sum(n for n, _ in known) / sum(seconds for _, seconds in known), 2) if known else None

    def is_sibling(self, other: Entry) -> bool:
        """Whether the two differ in nothing but the layer."""
        return {**self.spec, "layer": other.layer} == other.spec

    def places(self) -> dict[str, tuple[int, int]]:
        """Digest → (position in `indexes`, row)."""
        return {
            row.tobytes().hex(): (number, position)
            for number, index in enumerate(self.indexes)
            for position, row in enumerate(index.digests)
        }

    def rejects(self) -> dict[str, str]:
        """Digest → reason, of contents that were tried in vain."""
        return {digest: reason for index in self.indexes for digest, reason in index.rejects.items()}


@dataclass(frozen=True)
class JointEntry:
    """Several entries, whose embeddings of the same samples lie side by side: each is a block of the features.

    Attributes
    ----------
    members : tuple of Entry
        They may lie in several stores; no two are of one backbone and layer.
    """

    members: tuple[Entry, ...]

    @property
    def folder(self) -> Path:
        """The first one's."""
        return self.members[0].folder

    @property
    def name(self) -> str:
        """The display names of the backbones."""
        return " + ".join(member.name for member in self.members)

    @property
    def layer(self) -> str:
        """The layer of each."""
        return " + ".join(member.layer for member in self.members)

    @property
    def title(self) -> str:
        """The title of each."""
        return " + ".join(member.title for member in self.members)

    @property
    def titles(self) -> list[str]:
        """What each is called: its title, or where two have the same, its folder."""
        plain = [member.title for member in self.members]
        return [
            title if plain.count(title) == 1 else member.folder.name
            for title, member in zip(plain, self.members, strict=True)
        ]

    @property
    def fingerprint(self) -> str:
        """sha256 over the members', in their order."""
        return sha256_json([member.fingerprint for member in self.members])

    @property
    def width(self) -> int:
        """Length of all embeddings of a sample together."""
        return sum(member.width for member in self.members)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the features of one sample."""
        return (self.width,)

    @property
    def dtype(self) -> str:
        """What features are in memory."""
        return "float32"

    @property
    def grid(self) -> None:
        """Several backbones have no tokens together."""


def check_described(
    path: Path, spec: Mapping[str, Any], provenance: Mapping[str, Any], shape: tuple[int, ...] = ()
) -> None:
    """Check that what a shard says of its backbone has the keys and types that its readers go by.

    Parameters
    ----------
    path : Path
        Path of the shard.
    spec, provenance : mapping
        As the shard gives them.
    shape : tuple of int
        Shape of its rows.

    Raises
    ------
    ShardCorrupt
        A key is missing, or is of another type, or the rows are not what the spec describes.
    """
    source, transform = provenance.get("source"), spec.get("transform")
    problems = [
        *_unlike("spec", spec, SPEC),
        *_unlike("transform", {"decoder": None, **_table(transform)}, {"decoder": str | None}),
        *_unlike("provenance", {"seconds": None, "device": None, **provenance}, PROVENANCE),
        *_unlike("source", _table(source), SOURCE),
        *_unshaped(spec, shape),
    ]
    if problems:
        store = path.parent.parent
        raise ShardCorrupt(f"{path}: {problems[0]}; set it aside with: featurepipe verify --repair {store}")


def _unshaped(spec: Mapping[str, Any], shape: tuple[int, ...]) -> list[str]:
    """What of a spec's grid is not the shape of the rows."""
    grid = _table(spec.get(TOKENS, {})).get("grid", [])
    return [] if not shape or grid == list(shape[:-1]) else [f"its rows of shape {shape} are no grid of {grid}"]


def _table(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}


def _unlike(what: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What of `found` is not there or not of the type that is wanted."""
    odd = [key for key, kind in wanted.items() if key not in found or not isinstance(found[key], kind)]
    return [f"its {what} has no {key} that can be used" for key in odd]


def pick(store: Path, entries: Sequence[Entry], name: str | None, layer: str | None) -> Entry:
    """See `featurepipe.stores.Store.choose`."""
    given, entries = entries, [entry for entry in entries if entry.grid is None]
    matches = _matches(entries, name)
    if not matches and any(entry.grid for entry in _matches(given, name)):
        raise StoreError(
            f"{name or 'the only entry'} of {store} holds tokens, and vectors are wanted; name an entry of vectors, or "
            "a probe that reads tokens (--kind attentive)"
        )
    if layer is not None:
        found = [entry for entry in matches if entry.layer == layer]
    elif len({entry.name for entry in matches}) == 1 and _is_called(matches[0], name):
        found = [entry for entry in matches if entry.layer == PENULTIMATE] or matches
    else:
        found = matches
    if len(found) == 1:
        return found[0]
    if len(found) > 1 and all(entry.is_sibling(found[0]) for entry in found):
        held = ", ".join(entry.layer for entry in in_order(found))
        raise StoreError(f"{store}: several layers of {found[0].name} match; choose with --layer from: {held}")
    held = ", ".join(entry.folder.name for entry in entries) or "none yet"
    what = f"layer {layer} of {name or 'a backbone'}" if layer is not None and matches else f"backbone {name or ''}"
    problem = "several backbones match" if found else f"no {what.strip()} here"
    if layer is not None and matches and not found:
        raise StoreError(
            f"{store}: {problem} (it holds {held}); get more with: featurepipe extract DATA --layers stages"
        )
    raise StoreError(f"{store}: {problem}; choose with -b from: {held}")


def pick_tokens(store: Path, entries: Sequence[Entry], name: str | None) -> Entry:
    """The entry of tokens that `name` means: their own folder or fingerprint, or their backbone's name.

    Raises
    ------
    StoreError
        None or several match; the message says how to get tokens.
    """
    found = _matches([entry for entry in entries if entry.grid is not None], name)
    if len(found) == 1:
        return found[0]
    if found:
        held = ", ".join(entry.folder.name for entry in found)
        raise StoreError(f"{store}: several grids of tokens match; choose with -b from: {held}")
    of = "" if name is None else f" of {name}"
    raise StoreError(f"{store} holds no tokens{of}; get them with: featurepipe extract DATA -s {store} --tokens")


def pick_layers(store: Path, entries: Sequence[Entry], name: str | None, layers: str | Sequence[str]) -> list[Entry]:
    """See `featurepipe.stores.Store.choose_layers`."""
    groups: list[list[Entry]] = []
    entries = [entry for entry in entries if entry.grid is None]
    for match in _matches(entries, name):
        if not any(match in group for group in groups):
            groups.append([entry for entry in entries if entry.is_sibling(match)])
    several = [group for group in groups if len(group) > 1] or groups
    if len(several) != 1:
        names = ", ".join(entry.folder.name for entry in entries) or "none yet"
        problem = "several backbones match" if several else " ".join(filter(None, ["no backbone", name, "here"]))
        raise StoreError(f"{store}: {problem}; choose with -b from: {names}")
    held = {entry.layer: entry for entry in in_order(several[0])}
    wanted = [layer.strip() for layer in layers.split(",")] if isinstance(layers, str) else list(layers)
    wanted = list(held) if wanted == [ALL] else wanted
    missing = [layer for layer in wanted if layer not in held]
    if missing or len(held) == 1:
        problem = f"no layer {missing[0]}" if missing else "one layer only"
        raise StoreError(
            f"{store} holds {problem} of {several[0][0].name} (it has {', '.join(held)}); "
            "extract more with: featurepipe extract DATA --layers stages"
        )
    return [entry for layer, entry in held.items() if layer in wanted]


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Sorted as their layers lie in the network; the penultimate embedding comes last."""
    return sorted(entries, key=lambda entry: (stage_of(entry.spec) is None, len(entry.layer), entry.layer))


def _matches(entries: Sequence[Entry], name: str | None) -> list[Entry]:
    """Entries called `name` (backbone name, folder name, or fingerprint prefix if there is but one); all for None.

    The name of a model file means the network that it holds. Baselines count only where nothing else is there:
    a trained backbone and its random twin share a source name.
    """
    if name is None:
        return [entry for entry in entries if not entry.is_baseline] or list(entries)
    matches = [entry for entry in entries if _is_called(entry, name)]
    matches = matches or [entry for entry in entries if entry.provenance["source"]["name"] == name]
    matches = matches or [entry for entry in entries if entry.fingerprint.startswith(name)]
    return [entry for entry in matches if not entry.is_baseline] or matches


def _is_called(entry: Entry, name: str | None) -> bool:
    if name is not None and is_model_name(name):
        return entry.spec["weights"] == carried_digest(name)
    recorded = entry.provenance["source"]["name"]
    today = edition(recorded, entry.spec)
    return name in (None, today if entry.name == recorded else entry.name, entry.folder.name, today)
