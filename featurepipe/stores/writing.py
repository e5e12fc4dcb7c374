"""Writing shards into a store."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featurepipe import shards
from featurepipe.stores.directory import Entry


@dataclass
class Writer:
    """Gathers embeddings and writes a shard whenever `rows_per_shard` planned samples have passed.

    A shard's extent is counted in planned samples, rejected ones included, so an interrupted run that is started
    again forms the very batches that the uninterrupted one would have formed; and the same shards, unless it was
    ended by Ctrl-C or an error, which write a short one.

    Parameters
    ----------
    entry : Entry
        Where the shards go.
    provenance : dict
        Written into each shard, with the seconds since the one before it, or since the start.
    rows_per_shard : int
        Planned samples per shard.
    number, step : int
        Of the first shard, and from one to the next; by default they follow what is there.

    Attributes
    ----------
    rejects : dict
        Digest → reason, of all contents that the entry is known not to embed, those just taken included.
    """

    entry: Entry
    provenance: dict[str, Any]
    rows_per_shard: int
    number: int | None = None
    step: int = 1
    _taken: list[tuple[Sequence[str], np.ndarray, Mapping[str, str]]] = field(init=False, default_factory=list)
    _since: float = field(init=False, default_factory=time.perf_counter)
    rejects: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        if self.number is None:
            names = [re.match(r"shard-(\d+)", path.name) for path in self.entry.folder.glob("shard-*")]
            self.number = max((int(name[1]) for name in names if name), default=-1) + 1
        self.rejects = self.entry.rejects()

    def append(self, digests: Sequence[str], vectors: np.ndarray, rejects: Mapping[str, str]) -> None:
        """Take one batch: `vectors` (B, width), one per digest, and the rejects (digest → reason) beside them."""
        new = {digest: why for digest, why in rejects.items() if digest not in self.rejects}
        self._taken.append((digests, vectors, new))  # one step, so that Ctrl-C finds whole batches
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
        shards.write(self.entry.folder / f"shard-{self.number:05d}.h5", shard)
        self.number, self._taken, self._since = self.number + self.step, [], now
