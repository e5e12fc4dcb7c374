"""Writing shards into a store."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import shards
from featurepipe.backbones import as_rows
from featurepipe.stores.entries import Entry
from featurepipe.stores.rows import are_among, keys


@dataclass
class Writer:
    """Gathers embeddings and writes a shard whenever `rows_per_shard` planned samples have passed.

    A shard's extent is counted in planned samples, rejected ones included. So a run that was killed and is started
    again cuts the rest of its plan into the batches and shards of the uninterrupted one; into the same batches after
    Ctrl-C or an error, which write a short shard. Its vectors are then the same to the byte, unless

    - a file cannot be read: it is in no shard, and stays in the plan;
    - the network is compiled on the way: which batch is the first to run compiled depends on the time
      (`featurepipe.backbones.precisions.bears_compiling` says by how much vectors differ; ``compile="off"`` is exact);
    - memory runs out and halves the batch, or an accelerator's batch size is still being searched for: rounding
      differs from size to size (a given ``batch_size`` for which there is memory is exact).

    Parameters
    ----------
    entry : Entry
        Where the shards go.
    provenance : dict
        Written into each shard, with the seconds since the one before it, or since the start.
    rows_per_shard : int
        Planned samples per shard.
    number : int
        Number of the first shard; by default it follows what is there.

    Attributes
    ----------
    first : int
        Number of the first shard.
    rejects : dict
        Digest → reason, of all contents that the entry is known not to embed, those just taken included.
    """

    entry: Entry
    provenance: dict[str, Any]
    rows_per_shard: int
    number: int | None = None
    _tag: str = field(init=False, default="")
    _taken: list[tuple[Sequence[str], np.ndarray, Mapping[str, str]]] = field(init=False, default_factory=list)
    _since: float = field(init=False, default_factory=time.perf_counter)
    first: int = field(init=False)
    rejects: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        if self.number is None:
            names = [re.match(r"shard-(\d+)", path.name) for path in self.entry.folder.glob("shard-*")]
            self.number = max((int(name[1]) for name in names if name), default=-1) + 1
        self.first = self.number
        self.rejects = self.entry.rejects()

    def share(self) -> Writer:
        """A writer for a process of its own, which is told by `turn_to` what shard comes next.

        It is not sent the digests that the entry holds, since the plan has none of them. It may run in another folder.
        """
        indexes = tuple(replace(index, digests=index.digests[:0]) for index in self.entry.indexes)
        entry = replace(self.entry, folder=self.entry.folder.absolute(), indexes=indexes)
        return replace(self, entry=entry, number=self.first)

    def found(self, place: int, digests: Sequence[str], tag: str) -> dict[str, str] | None:
        """The rejects of a shard that another process may have written, if it has all these contents; else None."""
        path = self._path(self.first + place, tag)
        if not path.is_file():
            return None
        index = shards.read_index(path)
        held = {row.tobytes().hex() for row in index.digests} | index.rejects.keys()
        return dict(index.rejects) if held >= set(digests) else None

    def turn_to(self, place: int, rows: int, tag: str = "", *, idle: bool = False) -> None:
        """Write what comes next as one shard, however many batches it takes.

        Parameters
        ----------
        place : int
            Number of the shard among all of a run, from 0.
        rows : int
            Planned samples of it.
        tag : str
            What follows the number in its name.
        idle : bool
            Whether nothing has been at work for it before: its seconds begin now.
        """
        self.number, self.rows_per_shard, self._tag = self.first + place, rows, tag
        self._since = time.perf_counter() if idle else self._since

    def append(self, digests: Sequence[str], vectors: np.ndarray, rejects: Mapping[str, str]) -> None:
        """Take one batch: `vectors` (B, width), one per digest, and the rejects (digest → reason) of the same batch."""
        new = {digest: why for digest, why in rejects.items() if digest not in self.rejects}
        rows = as_rows(self.entry.spec, vectors)
        self._taken.append((digests, rows, new))  # one step, so that Ctrl-C finds whole batches
        self.rejects |= new
        if sum(len(digests) + len(rejects) for digests, _, rejects in self._taken) >= self.rows_per_shard:
            self.commit()

    def commit(self) -> None:
        """Write what has gathered as a shard, unless there is nothing."""
        digests = [digest for digests, _, _ in self._taken for digest in digests]
        rejects = {digest: why for _, _, rejects in self._taken for digest, why in rejects.items()}
        if not digests and not rejects:
            return
        now = time.perf_counter()
        shard = shards.Shard(
            spec=self.entry.spec,
            provenance={**self.provenance, "seconds": round(now - self._since, 3)},
            embeddings=np.concatenate([vectors for _, vectors, _ in self._taken]),
            digests=shards.digest_array(digests),
            rejects=rejects,
        )
        assert self.number is not None  # set when it was made
        shards.write(self._path(self.number, self._tag), shard)
        self.number, self._taken, self._since = self.number + 1, [], now

    def _path(self, number: int, tag: str) -> Path:
        return self.entry.folder / f"shard-{number:05d}{tag}.h5"


@dataclass
class Writers:
    """Writes several layers of one forward pass, or views of one decoded image, each into an entry of its own.

    Their shards are written one after another, so a process that is killed in between leaves some layers ahead of the
    others. What a layer holds already, it is not given again.

    Parameters
    ----------
    writers : sequence of Writer
        One per layer.
    widths : sequence of int
        Length of each layer's embedding, in the same order.
    held : sequence of ndarray
        What of the plan each layer holds already; see `featurepipe.stores.Plan`.

    Attributes
    ----------
    rejects : dict
        Digest → reason, of all contents that any of the layers is known not to embed.
    """

    writers: Sequence[Writer]
    widths: Sequence[int]
    held: Sequence[np.ndarray]
    rejects: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.rejects = {digest: why for writer in self.writers for digest, why in writer.rejects.items()}

    @property
    def rows_per_shard(self) -> int:
        """Planned samples that give none of the layers more than a shard."""
        return min(writer.rows_per_shard for writer in self.writers)

    def share(self) -> Writers:
        """Writers for a process of its own; see `Writer.share`."""
        return replace(self, writers=[writer.share() for writer in self.writers])

    def turn_to(self, place: int, rows: int, tag: str = "", *, idle: bool = False) -> None:
        """Write what comes next as one shard of each layer; see `Writer.turn_to`."""
        for writer in self.writers:
            writer.turn_to(place, rows, tag, idle=idle)

    def found(self, place: int, digests: Sequence[str], tag: str) -> dict[str, str] | None:
        """The rejects of the layers' shards, if each has all that it lacked of these contents; else None."""
        rejects: dict[str, str] = {}
        for writer, held in zip(self.writers, self.held, strict=True):
            lacking = [digest for digest, known in zip(digests, _among(digests, held), strict=True) if not known]
            found = writer.found(place, lacking, tag) if lacking else {}
            if found is None:
                return None
            rejects |= found
        return rejects

    def append(self, digests: Sequence[str], vectors: np.ndarray, rejects: Mapping[str, str]) -> None:
        """Take one batch: `vectors` (B, sum of widths), one per digest, and the batch's rejects (digest → reason).

        Ctrl-C may find some layers with this batch and others without; the next run plans it for the latter.
        """
        parts = np.split(vectors, np.cumsum(self.widths)[:-1], axis=1)  # (B, width) each
        for writer, part, held in zip(self.writers, parts, self.held, strict=True):
            lacking = ~_among(digests, held)
            kept = [digest for digest, is_new in zip(digests, lacking, strict=True) if is_new]
            broken = dict(zip(rejects, ~_among(list(rejects), held), strict=True))
            writer.append(kept, part[lacking], {digest: why for digest, why in rejects.items() if broken[digest]})
        self.rejects |= rejects

    def commit(self) -> None:
        """Write what has gathered, each layer as a shard."""
        for writer in self.writers:
            writer.commit()


def _among(digests: Sequence[str], held: np.ndarray) -> np.ndarray:
    """Which hexadecimal digests are among sorted keys; bool (n,)."""
    return are_among(keys(shards.digest_array(digests)), held)
