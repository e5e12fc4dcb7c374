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
        Contents, each once.
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
    store = Store.create(folder)
    made = []
    with store.lock():
        for number, view in enumerate(views_of(teacher.transform, augment, seed, count)):
            shown = replace(teacher, transform=view, spec=plain({**teacher.spec, "transform": asdict(view)}))
            made.append(_embed(pending, shown, store, f"teacher, view {number + 1} of {count}", workers, listener))
    return np.stack(made, axis=1)


def _embed(
    pending: Sequence[Pending], shown: Backbone, store: Store, label: str, workers: int | None, listener: Listener
) -> np.ndarray:
    """The embeddings (n, D) of one view."""
    digests = [one.digest for one in pending]
    entry = store.entry(shown)
    held = entry.places()
    if todo := [one for one in pending if one.digest not in held]:
        writer = Writer(entry, extraction.provenance(shown, None), extraction.ROWS_PER_SHARD)
        outcome = extraction.fill(todo, shown, writer, Settings(workers=workers), label=label, listener=listener)
        if outcome.rejects:
            raise PretrainingError(
                f"the teacher cannot embed {len(outcome.rejects)} images, the first: "
                f"{next(iter(outcome.rejects.values()))}; remove them, or choose another teacher"
            )
        entry = store.entry(shown)
    return Places(entry, shown.width).read(digests)
