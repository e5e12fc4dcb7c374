"""Batches for tuning: images decoded ahead by threads, in an order and under views that a seed decides."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from featurepipe.extraction import Batch, default_workers, read_batch
from featurepipe.extraction.batches import join
from featurepipe.finetuning.peers import Peers
from featurepipe.finetuning.recipes import NO_AUGMENTATION, Recipe
from featurepipe.images import ImageTransform, View
from featurepipe.media import Transform
from featurepipe.stores import Pending

if TYPE_CHECKING:
    import torch

AHEAD = 2  # batches that are decoded while one is learned from


@dataclass(frozen=True)
class Examples:
    """Images with what they show.

    Attributes
    ----------
    images : sequence of Pending
    targets : ndarray of int64, shape (n,)
        Class numbers.
    """

    images: Sequence[Pending]
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def __add__(self, other: Examples) -> Examples:
        return Examples([*self.images, *other.images], np.concatenate([self.targets, other.targets]))


@dataclass(frozen=True)
class Step:
    """One batch: what the network takes, on its device, and the classes.

    Attributes
    ----------
    inputs : tuple of torch.Tensor
        Each (B, …).
    targets : torch.Tensor of int64, shape (B,)
    lost : mapping
        Digest → reason, of the images that were to be in it and cannot be read any more.
    """

    inputs: tuple[torch.Tensor, ...]
    targets: torch.Tensor
    lost: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.targets)


class PixelBatches:
    """Training images, decoded again in every epoch.

    Parameters
    ----------
    samples : Examples
    transform : ImageTransform
        The backbone's.
    recipe : Recipe
    device : str
    workers : int, optional
        Threads that decode; one per core by default.
    peers : Peers
        The processes of which each takes its share of every batch.
    """

    def __init__(
        self,
        samples: Examples,
        transform: ImageTransform,
        recipe: Recipe,
        device: str,
        workers: int | None = None,
        peers: Peers = Peers(),  # noqa: B008  # frozen
    ) -> None:
        self.samples, self._transform, self._recipe = samples, transform, recipe
        self._device, self._workers, self._peers = device, workers, peers

    def __len__(self) -> int:
        return len(self.samples)

    def epoch(self, number: int, first: int = 0) -> Iterator[Step]:
        """The batches of an epoch, from the `first` on."""
        order = epoch_order(len(self), self._recipe.seed, number)
        size = self._recipe.batch_size
        parts = [order[start : start + size] for start in range(first * size, len(order), size)]
        if self._recipe.batch_norm == "train" and len(order) > size and parts and len(parts[-1]) == 1:
            parts.pop()  # batch norms have no statistics of a single image
        return decoded(self.samples, self._peers.parts(parts), self._view(number), self._device, self._workers)

    def _view(self, number: int) -> ImageTransform:
        if self._recipe.augment == NO_AUGMENTATION:
            return self._transform
        return View.of(self._transform, self._recipe.augment, self._recipe.seed, number)


def epoch_order(count: int, seed: int, number: int) -> np.ndarray:
    """The order in which an epoch takes its samples, int64 (n,)."""
    return np.random.default_rng([seed, number]).permutation(count)


def in_order(
    samples: Examples, transform: Transform, size: int, device: str, workers: int | None, peers: Peers
) -> Iterator[Step]:
    """All samples once, as they are, for validation."""
    parts = [np.arange(start, min(start + size, len(samples))) for start in range(0, len(samples), size)]
    return decoded(samples, peers.parts(parts), transform, device, workers)


def decoded(
    samples: Examples, parts: Sequence[np.ndarray], transform: Transform, device: str, workers: int | None
) -> Iterator[Step]:
    """The samples of each part as a step, the next ones decoded meanwhile; images that cannot be read are `lost`."""
    import torch

    workers = workers or default_workers()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[np.ndarray, list[Future[Batch]]]] = deque()
        todo = iter(parts)
        try:
            while True:
                while len(waiting) <= AHEAD and (part := next(todo, None)) is not None:
                    pieces = [piece for piece in np.array_split(part, workers) if len(piece)]
                    plans = [[samples.images[i] for i in piece] for piece in pieces]
                    waiting.append((part, [pool.submit(read_batch, plan, transform) for plan in plans]))
                if not waiting:
                    return
                part, futures = waiting.popleft()
                batches = [future.result() for future in futures]
                batch = join(batches or [read_batch([], transform)])  # a last, small batch may have no share for us
                lost = {**batch.rejects, **batch.unreadable}
                kept = [i for i in part.tolist() if samples.images[i].digest not in lost]
                inputs = torch.from_numpy(batch.inputs).to(device)  # (B, …), in the order in memory that it has
                yield Step((inputs,), torch.from_numpy(samples.targets[kept]).to(device), lost)
        finally:
            for _, futures in waiting:
                for future in futures:
                    future.cancel()
