"""Writing shards into a store."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featurepipe import shards
from featurepipe.stores.directory import Entry


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
        Written into each shard.
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
        shard = shards.Shard(
            spec=self.entry.spec,
            provenance=self.provenance,
            embeddings=np.concatenate([vectors for _, vectors, _ in self._taken]),
            digests=shards.digest_array(digests),
            rejects=rejects,
        )
        shards.write(self.entry.folder / f"shard-{self.number:05d}.h5", shard)
        self.number, self._taken = self.number + self.step, []
