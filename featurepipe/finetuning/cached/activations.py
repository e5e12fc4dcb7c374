"""Activations of a frozen bottom: computed once, kept in shards, read back to train the top from.

They go through the same extraction as embeddings, into a store of their own, so that a run that is killed is taken up
again and what is there is not computed twice. Each view of the images has a fingerprint of its own, which the cut and
the weights belong to.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurepipe import extraction, shards
from featurepipe.backbones import Backbone
from featurepipe.backbones.extractors import failures_named
from featurepipe.backbones.networks import autocast, embed, make_normalisation
from featurepipe.backbones.specs import plain
from featurepipe.digests import sha256_json
from featurepipe.errors import StoreError
from featurepipe.finetuning.cached.cuts import CUT, Split
from featurepipe.images import ImageTransform, Views, described
from featurepipe.listeners import SILENT, Listener, Within
from featurepipe.sources import Source
from featurepipe.stores import Entry, Plan, Row, Store, Writer, Writers, plan
from featurepipe.stores.rows import keys

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 64 * 2**20  # of all views together; an activation can be a thousand times as long as an embedding
TOGETHER = 4  # views of an image that is decoded once; of more of them too many vectors would wait to be written
ROW_BYTES = 32 + 4  # digest and checksum


@dataclass(frozen=True)
class Bottom:
    """The frozen part of a backbone, as extraction wants it: its vectors are what the cut lets through, side by side.

    Attributes
    ----------
    backbone : Backbone
    split : Split
        Split of the backbone's network.
    transform : ImageTransform
        The backbone's own, or a `View` that ends in the same size.
    """

    backbone: Backbone
    split: Split
    transform: ImageTransform

    @property
    def name(self) -> str:
        """The backbone's."""
        return self.backbone.name

    @property
    def source(self) -> dict[str, Any]:
        """The backbone's."""
        return self.backbone.source

    @property
    def device(self) -> str:
        """The backbone's."""
        return self.backbone.device

    @property
    def width(self) -> int:
        """Length of one vector."""
        return sum(map(prod, self.split.shapes))

    @property
    def members(self) -> tuple[Bottom, ...]:
        """Itself alone."""
        return (self,)

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The backbone's, with the cut for a layer."""
        changed = {"layer": self.split.layer, "transform": described(self.transform)}
        return plain({**self.backbone.spec, **changed})

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the spec."""
        return sha256_json(self.spec)

    @cached_property
    def forward(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """uint8 (B, C, H, W) on the device → float32 (B, width)."""
        import torch

        device = next(self.split.bottom.parameters()).device
        normalise, precision = make_normalisation(self.transform, device), self.spec["precision"]

        def forward(pixels: torch.Tensor) -> torch.Tensor:
            x = normalise(pixels)
            with autocast(device, precision):
                tensors = self.split.bottom(x)
            return torch.cat([tensor.float().flatten(1) for tensor in tensors], dim=1)

        return forward

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, C, H, W) uint8 → (B, width) float32; raises as `Backbone.embed`."""
        with failures_named(self, pixels):
            return embed(self.forward, self.split.bottom, pixels, self.spec["precision"])


@dataclass(frozen=True)
class Bottoms:
    """One frozen bottom under several views of each image, which is decoded once for all of them.

    Attributes
    ----------
    members : tuple of Bottom
        Bottoms of the same split.
    """

    members: tuple[Bottom, ...]

    @property
    def name(self) -> str:
        """The backbone's."""
        return self.members[0].name

    @property
    def source(self) -> dict[str, Any]:
        """The backbone's."""
        return self.members[0].source

    @property
    def device(self) -> str:
        """The backbone's."""
        return self.members[0].device

    @property
    def width(self) -> int:
        """Length of all views' vectors together."""
        return sum(member.width for member in self.members)

    @cached_property
    def transform(self) -> Views:
        """All of theirs."""
        return Views(tuple(member.transform for member in self.members))

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """(B, C, H of all views, W) uint8 → (B, width) float32; raises as `Backbone.embed`."""
        views = np.split(pixels, len(self.members), axis=2)  # (B, C, H, W) each
        return np.concatenate([one.embed(view) for one, view in zip(self.members, views, strict=True)], axis=1)


@dataclass(frozen=True)
class Activations:
    """What a frozen bottom gave for each view of each image.

    Made by `cache`.

    Attributes
    ----------
    shapes : tuple of tuple of int
        Shape of each tensor of one image.
    computed : int
        How many, over all views, were not there before.
    rejects : dict
        Digest → reason, of images that have none in at least one view.
    views : tuple of Places
    """

    shapes: tuple[tuple[int, ...], ...]
    computed: int
    rejects: dict[str, str]
    views: tuple[Places, ...]

    def rows(self, view: int, digests: Sequence[str]) -> tuple[np.ndarray, ...]:
        """What the top takes, for a batch of images; threads may share it.

        Parameters
        ----------
        view : int
            Number of the view, as they were given to `cache`.
        digests : sequence of str
            Hexadecimal, of n images.

        Returns
        -------
        tuple of ndarray of float32, shape (n, ...)
            A tensor each, by `shapes`.

        Raises
        ------
        StoreError
            An image that was not cached, or was rejected.
        ShardCorrupt
            A row that fails its checksum.
        """
        flat = self.views[view].read(digests)  # (n, width)
        ends = np.cumsum([prod(shape) for shape in self.shapes])[:-1]
        parts = np.split(flat, ends, axis=1)
        return tuple(part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True))


class Places:
    """Where the vectors of an entry lie, by digest.

    Parameters
    ----------
    entry : Entry
    width : int
        Numbers in one vector.
    """

    def __init__(self, entry: Entry, width: int) -> None:
        self._folder, self._width = entry.folder, width
        self._readers = [shards.Reader.open(index.path) for index in entry.indexes]
        held = keys(np.concatenate([np.zeros((0, 32), np.uint8), *(one.index.digests for one in self._readers)]))
        sizes = [len(one.index.digests) for one in self._readers]
        self._shards = np.repeat(np.arange(len(sizes)), sizes)  # (m,)
        self._numbers = np.concatenate([np.zeros(0, int), *map(np.arange, sizes)])  # (m,), of the row in its shard
        self._order = np.argsort(held)
        self._held = held[self._order]

    def read(self, digests: Sequence[str]) -> np.ndarray:
        """Float32 (n, width) of n digests; raises as `Activations.rows`."""
        wanted = keys(shards.digest_array(digests))
        at = np.searchsorted(self._held, wanted)
        known = np.zeros(len(wanted), bool)
        inside = at < len(self._held)
        known[inside] = self._held[at[inside]] == wanted[inside]
        if not known.all():
            first = digests[int(known.argmin())]
            raise StoreError(f"{self._folder} holds no activations of the content {first}; cache them first")
        places = self._order[at]
        vectors = np.empty((len(places), self._width), np.float32)
        for shard in np.unique(self._shards[places]):
            mine = np.flatnonzero(self._shards[places] == shard)
            vectors[mine] = self._readers[shard].read(self._numbers[places[mine]])
        return vectors


def open_store(path: str | Path) -> Store:
    """The store of activations at a path; it is made if it is missing.

    Raises
    ------
    StoreError
        The path holds something else.
    """
    store = Store.create(path)
    if store.root is not None or not all(entry.layer.startswith(CUT) for entry in store.entries()):
        raise StoreError(f"{path} is a store of embeddings; keep activations in a place of their own")
    return store


def cache(
    path: str | Path,
    rows: Sequence[Row],
    source: Source,
    backbone: Backbone,
    split: Split,
    views: Sequence[ImageTransform],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    listener: Listener = SILENT,
) -> Activations:
    """Compute what a store of activations lacks, and give access to all of it.

    Parameters
    ----------
    path : path
        Folder of a store that holds nothing else; it is made if it is missing.
    rows, source : sequence of Row, Source
        The images, and where their places are. Those without digest are left out.
    backbone : Backbone
    split : Split
        Split of the backbone's network.
    views : sequence of ImageTransform
        The backbone's own transform, or a `View` for each that is wanted.
    batch_size, workers : int, optional
        As for `featurepipe.extraction.fill`.
    listener : Listener
        Its progress is that of images to decode, batch by batch.

    Raises
    ------
    StoreError
        The disk has no room, the path holds something else, or another process is writing there.

    Examples
    --------
    >>> import tempfile
    >>> from featurepipe import backbones, manifests
    >>> from featurepipe.finetuning import trainable
    >>> from featurepipe.finetuning.cached.cuts import split
    >>> from featurepipe.stores import digest_rows
    >>> backbone = backbones.create("test_resnet", random_weights=True, transform={"input_size": (3, 32, 32)})
    >>> cut = split(backbone.module, trainable(backbone.module, "last-1", "test_resnet"), (3, 32, 32), "test_resnet")
    >>> manifest = manifests.read("data/digits/train/0")
    >>> rows = digest_rows(manifest, 1)[0][:8]
    >>> held = cache(tempfile.mkdtemp(), rows, manifest.source, backbone, cut, [backbone.transform])
    >>> [part.shape for part in held.rows(0, [row.digest for row in rows])] == [(8, *shape) for shape in cut.shapes]
    True
    """
    store = open_store(path)
    bottoms = [Bottom(backbone, split, view) for view in views]
    computed = 0
    rejects: dict[str, str] = {}
    with store.lock():
        entries = [store.entry(bottom) for bottom in bottoms]
        plans = [plan(rows, source, entry) for entry in entries]
        missing, groups = sum(map(len, plans)), _together(plans)
        _check_room(store.path, missing * (4 * bottoms[0].width + ROW_BYTES), missing, len(views))
        settings = extraction.Settings(batch_size, workers)
        with listener.progress("caching activations", sum(len(plans[group[0]]) for group in groups)) as advance:
            whole = Within(listener, advance)
            for group in groups:
                some = Bottoms(tuple(bottoms[i] for i in group))
                per_shard = min(extraction.ROWS_PER_SHARD, max(1, SHARD_BYTES // (4 * some.width)))
                made_by = extraction.provenance(some, batch_size)
                writers = [Writer(entries[i], made_by, per_shard) for i in group]
                sink = Writers(writers, [one.width for one in some.members], plans[group[0]].held * len(group))
                outcome = settings.crew.fill(plans[group[0]], some, sink, settings, whole)
                computed += len(group) * outcome.computed
                rejects |= outcome.rejects
    places = tuple(Places(store.entry(bottom), bottom.width) for bottom in bottoms)
    return Activations(split.shapes, computed, rejects, places)


def _together(plans: Sequence[Plan]) -> list[list[int]]:
    """Numbers of the views that lack the same images, a few at a time.

    A view that was cached before has less to do than a new one.
    """
    groups: dict[tuple[tuple[str, bool], ...], list[int]] = {}
    for number, todo in enumerate(plans):
        if len(todo):
            groups.setdefault(tuple((one.digest, one.retried) for one in todo), []).append(number)
    parts = ((group, range(0, len(group), TOGETHER)) for group in groups.values())
    return [group[start : start + TOGETHER] for group, starts in parts for start in starts]


def _check_room(path: Path, size: int, count: int, views: int) -> None:
    free = shutil.disk_usage(path).free
    if size > free:
        raise StoreError(
            f"{count} activations ({views} views) take {size / 1e9:.3g} GB, more than the {free / 1e9:.3g} GB left in "
            f"{path}; keep fewer views, tune fewer layers, or tune without a cache"
        )
