"""Batches for pretraining: pictures that lie decoded in memory, varied by one call for each batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from featurepipe.finetuning import Peers, Recipe, Step
from featurepipe.finetuning.batches import epoch_order
from featurepipe.pretraining.augmentations import resized
from featurepipe.pretraining.objectives.pretext import Pretext
from featurepipe.pretraining.pictures import Pictures

SHOWN = 256  # pictures that are embedded at once for a probe


class ViewBatches:
    """What an objective learns from, in an order and under views that a seed decides.

    Parameters
    ----------
    pictures : Pictures
    pretext : Pretext
    recipe : Recipe
    device : str
    length : int
        Pictures of an epoch: as many of them, drawn anew for each epoch.
    peers : Peers
        The processes of which each takes its share of every batch.
    """

    def __init__(
        self, pictures: Pictures, pretext: Pretext, recipe: Recipe, device: str, length: int, peers: Peers
    ) -> None:
        self._pictures, self._pretext, self._recipe = pictures, pretext, recipe
        self._device, self._length, self._peers = device, length, peers

    def __len__(self) -> int:
        return self._length

    def epoch(self, number: int, first: int = 0) -> Iterator[Step]:
        """The batches of an epoch, from the `first` on; the next one is made while one is learned from."""
        learned = self._pictures.learned
        order = learned[epoch_order(len(learned), self._recipe.seed, number)[: self._length]]
        size = self._recipe.batch_size
        starts = range(first * size, len(order), size)
        parts = self._peers.parts([order[start : start + size] for start in starts])
        waiting: deque[Future[Step]] = deque()
        with ThreadPoolExecutor(1) as pool:
            for count, rows in enumerate(parts, first):
                waiting.append(pool.submit(self._step, rows, number, count))
                if len(waiting) > 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _step(self, rows: np.ndarray, epoch: int, count: int) -> Step:
        """One batch; all that is random in it hangs on the seed, the epoch, its number and the process."""
        key = [self._recipe.seed, epoch, count, self._peers.rank]
        generator = torch.Generator(self._device)
        generator.manual_seed(int(np.random.default_rng(key).integers(2**62)))
        with torch.no_grad():
            return Step(*self._pretext.prepare(self._pictures, rows, generator, epoch))


def probed(pictures: Pictures, size: tuple[int, int], device: str, peers: Peers) -> Iterator[Step]:
    """The labelled pictures that probes are fitted and measured on, as they are.

    Targets are class numbers; of the pictures that a probe is measured on, -1 minus these.
    """
    rows = np.concatenate([pictures.fitted, pictures.measured])
    told = np.concatenate([pictures.classes[pictures.fitted], -1 - pictures.classes[pictures.measured]])
    starts = range(0, len(rows), SHOWN)
    for part in peers.parts([np.arange(start, min(start + SHOWN, len(rows))) for start in starts]):
        pixels = pictures.take(rows[part], device)
        yield Step((resized(pixels, size),), torch.from_numpy(told[part]).to(device))
