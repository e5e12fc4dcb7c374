"""Teachers: a network that embeds every view once; the embeddings rest in a store, which serves again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from featurepipe import extraction
from featurepipe.backbones import Backbone, Extractor
from featurepipe.backbones.specs import plain
from featurepipe.errors import PretrainingError
from featurepipe.extraction import Settings
from featurepipe.finetuning.cached.activations import Places
from featurepipe.images import ImageTransform, View, Views
from featurepipe.listeners import Listener
from featurepipe.stores import Pending, Store, Writer


def views_of(transform: ImageTransform, augment: str, seed: int, count: int) -> list[ImageTransform]:
    """The views of a picture that a teacher and its pupil see, each in its own size.

    What a view shows is drawn from the seed, its number and the picture's content alone, so both see the same.
    """
    if augment == "none":
        return [transform] * count
    return [View.of(transform, augment, seed, number) for number in range(count)]


def pupil_transform(transform: ImageTransform, augment: str, seed: int, count: int) -> Views:
    """A picture as it is and its views, below each other."""
    return Views((transform, *views_of(transform, augment, seed, count)))


def check_teacher(teacher: Extractor) -> Backbone:
    """Raise PretrainingError unless it is a network that sees images."""
    if not isinstance(teacher, Backbone) or teacher.transform.medium != "image":
        raise PretrainingError(f"the teacher {teacher.name} is not a network for images; choose another one")
    return teacher


def teach(
    pending: Sequence[Pending],
    rows: np.ndarray,
    teacher: Backbone,
    folder: Path,
    augment: str,
    seed: int,
    count: int,
    workers: int | None,
    listener: Listener,
) -> np.ndarray:
    """A teacher's embeddings of views, float32 (n, K, D); those that the store holds already are not computed again.

    Parameters
    ----------
    pending : sequence of Pending
        n contents, each once.
    rows : ndarray of int64
        Those that the teacher is asked about; of others there are zeros.
    teacher : Backbone
    folder : Path
        Where the store is.
    augment : {'standard', 'crop', 'none'}
    seed : int
    count : int
        Views, K.
    workers : int, optional
    listener : Listener

    Raises
    ------
    PretrainingError
        The teacher cannot embed one of them.
    """
    store = Store.create(folder, wait=True)
    asked = [pending[row] for row in rows]
    digests = [one.digest for one in asked]
    made = np.zeros((len(pending), count, teacher.width), np.float32)
    for number, view in enumerate(views_of(teacher.transform, augment, seed, count)):
        shown = replace(teacher, transform=view, spec=plain({**teacher.spec, "transform": asdict(view)}))
        if _missing(asked, shown, store):
            with store.lock(wait=True):  # several processes of one run may come at once; the first one computes
                _embed(asked, shown, store, f"teacher, view {number + 1} of {count}", workers, listener)
        made[rows, number] = Places(store.entry(shown), shown.width).read(digests)
    return made


def _missing(pending: Sequence[Pending], shown: Backbone, store: Store) -> list[Pending]:
    """What the store does not hold of one view."""
    held = store.entry(shown).places()
    return [one for one in pending if one.digest not in held]


def _embed(
    pending: Sequence[Pending], shown: Backbone, store: Store, label: str, workers: int | None, listener: Listener
) -> None:
    """Embed what the store lacks of one view; this process holds its lock."""
    todo = _missing(pending, shown, store)  # another process may have embedded it meanwhile
    if not todo:
        return
    writer = Writer(store.entry(shown), extraction.provenance(shown, None), extraction.ROWS_PER_SHARD)
    outcome = extraction.fill(todo, shown, writer, Settings(workers=workers), label=label, listener=listener)
    if outcome.rejects:
        raise PretrainingError(
            f"the teacher cannot embed {len(outcome.rejects)} images, the first: "
            f"{next(iter(outcome.rejects.values()))}; remove them, or choose another teacher"
        )
