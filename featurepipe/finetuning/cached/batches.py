"""Tuning from cached activations: the frozen bottom runs once for each view of an image, not once for each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurepipe.backbones import Backbone
from featurepipe.backbones.networks import autocast
from featurepipe.errors import FinetuningError
from featurepipe.finetuning.batches import Examples, Step, epoch_order
from featurepipe.finetuning.cached.activations import Activations, Bottom, cache, open_store
from featurepipe.finetuning.cached.cuts import split
from featurepipe.finetuning.claims import claim
from featurepipe.finetuning.depths import ALL, HEAD, trainable
from featurepipe.finetuning.loop import Watch
from featurepipe.finetuning.networks import training_precision
from featurepipe.finetuning.peers import Peers
from featurepipe.finetuning.promotion import Cache
from featurepipe.finetuning.recipes import NO_AUGMENTATION, Recipe
from featurepipe.finetuning.trainees import SCORED
from featurepipe.images import ImageTransform, View
from featurepipe.signatures import spread
from featurepipe.sources import Source
from featurepipe.stores import Row

if TYPE_CHECKING:
    import torch


class CachedBatches:
    """Training images as what the frozen bottom made of them.

    Parameters
    ----------
    samples : Examples
        None of them rejected.
    activations : Activations
    recipe : Recipe
    device : str

    Notes
    -----
    Epoch n takes the images in the order in which `featurepipe.finetuning.PixelBatches` takes them, and view number n,
    of as many as there are: the first of these epochs are the same, the later ones see the first ones' views again.
    """

    def __init__(self, samples: Examples, activations: Activations, recipe: Recipe, device: str) -> None:
        self.samples, self._activations, self._recipe, self._device = samples, activations, recipe, device
        self._digests = np.array([one.digest for one in samples.images], object)

    def __len__(self) -> int:
        return len(self.samples)

    def epoch(self, number: int, first: int = 0) -> Iterator[Step]:
        """The batches of an epoch, from the `first` on; the next one is read while one is learned from.

        Raises
        ------
        ShardCorrupt
            A row that fails its checksum.
        """
        order, size = epoch_order(len(self), self._recipe.seed, number), self._recipe.batch_size
        parts = [order[start : start + size] for start in range(first * size, len(order), size)]
        return self._steps((number - 1) % len(self._activations.views), parts)

    def in_order(self, size: int) -> Iterator[Step]:
        """The first view of all images once, in their order, batch by batch."""
        numbers = np.arange(len(self))
        return self._steps(0, [numbers[start : start + size] for start in range(0, len(self), size)])

    def _steps(self, view: int, parts: Sequence[np.ndarray]) -> Iterator[Step]:
        import torch

        def read(part: np.ndarray) -> Step:
            rows = self._activations.rows(view, self._digests[part])  # (B, …) each
            tensors = tuple(torch.from_numpy(one).to(self._device) for one in rows)
            return Step(tensors, torch.from_numpy(self.samples.targets[part]).to(self._device))

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(read, parts[0]) if parts else None
            for following in parts[1:]:
                assert waiting is not None
                step, waiting = waiting.result(), pool.submit(read, following)
                yield step
            if waiting is not None:
                yield waiting.result()


def why_not(recipe: Recipe, precision: str, peers: Peers) -> str | None:
    """Why a recipe cannot be trained from cached activations; None if it can.

    Parameters
    ----------
    recipe : Recipe
    precision : str
        The backbone's own, which the activations are computed in.
    peers : Peers
    """
    if recipe.tune in (HEAD, ALL):
        return "nothing below it is frozen" if recipe.tune == ALL else "the head alone is trained"
    if recipe.mixup:
        return "mixup mixes pixels"
    if training_precision(recipe, precision) != precision:
        return f"activations are computed in {precision}, and training in {recipe.precision}"
    return "several processes train" if peers.world > 1 else None


@spread(watch=Watch)
def make_cache(
    backbone: Backbone,
    train: Examples,
    validation: Examples,
    recipe: Recipe,
    rows: Sequence[Row],
    source: Source,
    folder: Path,
    *,
    workers: int | None = None,
    watch: Watch,
) -> Cache:
    """Split a network, cache what its frozen part makes of images, and give batches of that.

    What the store of activations holds that no run uses any more goes: see `featurepipe.finetuning.claims`. While this
    run's checkpoint exists, what it needs is kept.

    Parameters
    ----------
    backbone : Backbone
        Whose network is to be tuned.
    train, validation : Examples
    recipe : Recipe
    rows, source : sequence of Row, Source
        The same images, as a store's manifest has them.
    folder : Path
        Folder of the store of activations.
    workers : int, optional
        Threads that decode; one per core by default.
    watch

    Raises
    ------
    FinetuningError
        A network that cannot be split, or images none of which can be read any more.
    StoreError
        The disk has no room, or another process is writing there.
    """
    trained = trainable(backbone.module, recipe.tune, backbone.name)
    parts = split(backbone.module, trained, backbone.transform.input_size, backbone.name)
    if recipe.checkpointing:
        parts.top.checkpoint()

    def kept(samples: Examples, views: Sequence[ImageTransform]) -> CachedBatches:
        wanted = {one.digest for one in samples.images}
        own = [row for row in rows if row.digest in wanted]
        options: dict[str, Any] = {"workers": workers, "listener": watch.listener}
        held = cache(folder, own, source, backbone, parts, views, **options)
        return CachedBatches(_without(samples, held.rejects), held, recipe, backbone.device)

    views, store = _views(backbone.transform, recipe), open_store(folder)
    bottoms = [Bottom(backbone, parts, view) for view in {*views, backbone.transform}]
    claimed = claim(store, [store.entry(bottom).folder for bottom in bottoms], watch.checkpoint, watch.listener.note)
    try:
        of_train, of_validation = kept(train, views), kept(validation, [backbone.transform])
    except BaseException:
        claimed.release()
        raise
    device = next(backbone.module.parameters()).device

    def forward(*tensors: torch.Tensor) -> torch.Tensor:
        with autocast(device, backbone.spec["precision"]):
            return parts.top(*tensors)

    return Cache(of_train, lambda: of_validation.in_order(SCORED), forward, claimed.release)


def _without(samples: Examples, rejects: Mapping[str, str]) -> Examples:
    """The samples that are not rejected."""
    kept = np.array([one.digest not in rejects for one in samples.images], bool)
    if not kept.any():
        raise FinetuningError(
            f"no image can be read any more: {next(iter(rejects.values()))}; restore the files and run again"
        )
    return Examples([one for one in samples.images if one.digest not in rejects], samples.targets[kept])


def _views(transform: ImageTransform, recipe: Recipe) -> list[ImageTransform]:
    """What `featurepipe.finetuning.PixelBatches` shows in as many epochs, from the first."""
    if recipe.augment == NO_AUGMENTATION:
        return [transform]
    return [View.of(transform, recipe.augment, recipe.seed, number) for number in range(1, recipe.views + 1)]
