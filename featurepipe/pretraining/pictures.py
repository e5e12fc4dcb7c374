"""Pictures in memory: decoded once, as uint8, and on disk where memory is too small for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from featurepipe.errors import PretrainingError, SampleError
from featurepipe.extraction import default_workers, read_batch
from featurepipe.files import size_text
from featurepipe.images import ImageTransform
from featurepipe.images.pictures import opened
from featurepipe.listeners import Listener
from featurepipe.matrices.scratch import scratch
from featurepipe.media import Transform
from featurepipe.memory import available
from featurepipe.stores import Pending

PIECE = 64  # pictures that a thread decodes at a stretch
LOOKED_AT = 64  # pictures whose sizes say how large the others are
ROOM = 1.25  # sides of what is held, by those of the network's input: for crops to have some detail
SHARE = 0.5  # of the memory that there is, for pictures


def none() -> np.ndarray:
    """No rows."""
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Pictures:
    """All pictures of a run.

    Attributes
    ----------
    pixels : torch.Tensor of uint8, shape (n, V, 3, h, w)
        Views of each, of which the first is the picture as it is; mostly there is no other.
    digests : list of str
    classes : ndarray of int64, shape (n,)
        Class numbers; -1 for none.
    names : list of str
        What the numbers mean.
    learned : ndarray of int64
        Rows that the network learns from.
    fitted, measured : ndarray of int64
        Rows that a probe is fitted on, and others that it is measured on.
    """

    pixels: Tensor
    digests: Sequence[str]
    classes: np.ndarray
    names: Sequence[str]
    learned: np.ndarray
    fitted: np.ndarray = field(default_factory=none)
    measured: np.ndarray = field(default_factory=none)

    def __len__(self) -> int:
        return len(self.digests)

    def take(self, rows: np.ndarray, device: str, view: int = 0) -> Tensor:
        """Pixels of some rows, uint8 (B, 3, h, w), on a device."""
        return self.pixels[torch.from_numpy(rows), view].to(device)


def held_transform(pending: Sequence[Pending], transform: ImageTransform, listener: Listener) -> ImageTransform:
    """How pictures are held: as large as they are, but not much larger than the network's input; cropped to its shape.

    Pictures that are smaller than the input are enlarged when they are looked at, and the listener hears of it.
    """
    sides = _sides(pending)
    height, width = transform.input_size[1:]
    side, wanted = min(height, width), round(median(sides)) if sides else round(ROOM * min(height, width))
    if wanted < side:
        small = sum(one < side for one in sides)
        listener.note(
            f"note: {small} of {len(sides)} images looked at are smaller than the input of {side} pixels (median "
            f"{wanted}) and are enlarged; a smaller --input-size trains faster"
        )
    factor = max(1, min(wanted, round(ROOM * side))) / side
    size = (3, max(1, round(factor * height)), max(1, round(factor * width)))
    return ImageTransform(
        size, interpolation="bilinear", mean=transform.mean, std=transform.std, crop_pct=1.0, decoder="torchvision"
    )


def _sides(pending: Sequence[Pending]) -> list[int]:
    """Short sides of some pictures."""
    found = []
    for number in np.linspace(0, len(pending) - 1, min(len(pending), LOOKED_AT)).astype(int):
        try:
            with opened(pending[number].read()) as image:
                found.append(min(image.size))
        except (SampleError, OSError):  # it is told when it is decoded
            continue
    return found


def decode(
    pending: Sequence[Pending],
    transform: Transform,
    views: int,
    folder: Path,
    *,
    limit: int | None,
    workers: int | None,
    listener: Listener,
    label: str = "decoding",
) -> tuple[Tensor, dict[str, str]]:
    """Decode pictures, each once.

    Parameters
    ----------
    pending : sequence of Pending
    transform : Transform
        It gives views below each other, (…, 3, views · h, w), or a single frame.
    views : int
    folder : Path
        Where they lie if memory is too small for them.
    limit : int or None
        Bytes of memory; None is half of what there is.
    workers : int, optional
    listener : Listener
    label : str

    Returns
    -------
    pixels : torch.Tensor of uint8, shape (n, views, 3, h, w)
        Rows of pictures that cannot be read are black.
    lost : dict
        Digest → reason.

    Raises
    ------
    StoreError
        Neither memory nor the disk has room for them.
    """
    *_, channels, height, width = transform.shape
    room = _room((len(pending), views, channels, height // views, width), folder, limit, listener)
    lost: dict[str, str] = {}

    def fill(start: int) -> int:
        some = pending[start : start + PIECE]
        batch = read_batch(some, transform)
        lost.update({**batch.rejects, **batch.unreadable})
        kept = [start + i for i, one in enumerate(some) if one.digest not in lost]
        split = batch.inputs.reshape(len(kept), channels, views, height // views, width)
        room[kept] = split.transpose(0, 2, 1, 3, 4)
        return len(some)

    with listener.progress(label, len(pending)) as advance, ThreadPoolExecutor(workers or default_workers()) as pool:
        for done in pool.map(fill, range(0, len(pending), PIECE)):
            advance(done)
    return torch.from_numpy(room), lost


def _room(shape: tuple[int, ...], folder: Path, limit: int | None, listener: Listener) -> np.ndarray:
    """An array in memory, or in a file where memory is too small."""
    size, most = int(np.prod(shape)), limit
    if most is None and (free := available()) is not None:
        most = int(SHARE * free)
    if most is None or size <= most:
        return np.zeros(shape, np.uint8)
    made = scratch(folder, shape, "uint8", "decoded images")
    listener.note(
        f"note: {size_text(size)} of decoded images do not fit into {size_text(most)} of memory; they lie in {folder}"
    )
    return made


def check_enough(count: int, lost: Mapping[str, str], what: str) -> None:
    """Refuse what nothing can be learned from: fewer than two pictures."""
    if count >= 2:
        return
    why = f" ({len(lost)} cannot be read, the first: {next(iter(lost.values()))})" if lost else ""
    raise PretrainingError(f"pretraining needs at least 2 {what}, and there {_are(count)}{why}; give more of them")


def _are(count: int) -> str:
    return "is only one" if count == 1 else "are none"
