"""The stage `search`: the samples of a store that are nearest to others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, matrices, statistics
from featurepipe.errors import ProbeError
from featurepipe.listeners import BARS, Listener
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages import clips
from featurepipe.stages.streams import embed
from featurepipe.statistics import Nearest
from featurepipe.stores import Entry, Store
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import ColumnOptions, ComputeOptions, OriginOptions


@guarded
@presented
@spread(columns=ColumnOptions, origin=OriginOptions, compute=ComputeOptions)
def search(
    store: str | Path,
    queries: str | Path | Sequence[str | Path],
    *,
    count: int = 10,
    backbone: str | None = None,
    layer: str | None = None,
    columns: ColumnOptions,
    origin: OriginOptions,
    compute: ComputeOptions,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Find the samples of a store that are most similar to others, by the cosine of their embeddings.

    All samples of the store are compared, a shard at a time.

    Parameters
    ----------
    store : path
    queries : path or str, or sequence of these
        Ids of the store's samples, whose embeddings are there; or files, folders and tables, which are embedded by the
        store's backbone.
    count : int
        How many neighbours of each.
    backbone, layer : str, optional
        Which backbone of the store, and which layer of it, as for `featurepipe.stores.Store.choose`.
    columns
    origin
    compute
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``store, backbone, layer, samples, rejects, seconds``, and ``queries``: for each its ``id`` and ``neighbours``,
        the most similar first, with ``id, label, split, similarity`` (cosine, from -1 to 1). A sample of the store is
        not its own neighbour; copies of it are. Queries that are ids of the store come first.

    Raises
    ------
    StoreError
        The store has no embeddings of that backbone and layer, or not all of them.
    ManifestError
        A query that is neither a sample of the store nor a file.

    Examples
    --------
    >>> from featurepipe import extract
    >>> store = extract("data/digits", "/tmp/searched.store")["store"]
    >>> found = search(store, "data/digits/test/3", count=2)["queries"][0]
    >>> [one["label"] for one in found["neighbours"]]
    ['3', '3']
    """
    started = time.perf_counter()
    if count < 1:
        raise ProbeError(f"cannot list {count} neighbours; give a number above 0")
    given = [queries] if isinstance(queries, str | PathLike) else list(queries)
    source = Store.open(store)
    entry = source.choose(backbone, layer)
    outline = matrices.outline(source, entry)
    numbers = {id_: number for number, id_ in enumerate(outline.ids)}
    inside = [numbers[str(one)] for one in given if str(one) in numbers]
    outside = [one for one in given if str(one) not in numbers]
    found = matrices.fill(entry, outline.take(np.array(inside, int)))
    names, Q = [*found.ids], found.X
    rejects: dict[str, str] = {}
    if outside:
        medium = backbones.medium_of(entry.spec)
        manifest = clips.gather(outside, columns, listener, medium)
        clips.check_medium(medium, manifest, f"{entry.name} in {source.path}")
        how = {**vars(origin), "who": str(store), "note": listener.note}
        extractor = backbones.recreate(entry.spec, entry.provenance["source"], **how)
        matrix, rejects = embed({medium: manifest}, [extractor], compute, listener)
        names, Q = [*names, *matrix.ids], np.concatenate([Q, matrix.X])
    return {
        "store": str(source.path),
        "backbone": entry.name,
        "layer": entry.layer,
        "samples": len(outline),
        "queries": list(_answers(source, entry, names, Q, len(found), count)),
        "rejects": rejects,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _answers(
    source: Store, entry: Entry, names: Sequence[str], Q: np.ndarray, own: int, count: int
) -> Iterator[dict[str, Any]]:
    """The neighbours of each query Q (q, D); the first `own` of them are samples of the store."""
    ids: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    splits: list[np.ndarray] = []

    def pieces() -> Iterator[np.ndarray]:
        for piece in matrices.stream(source, entry):
            ids.append(piece.ids)
            labels.append(piece.y)
            splits.append(piece.split)
            yield piece.X

    near: Nearest = statistics.search(Q, pieces(), count + 1)  # one more: a sample finds itself
    table = [np.concatenate(column) for column in (ids, labels, splits)]
    for number, (name, distances, rows) in enumerate(zip(names, near.distances, near.rows, strict=True)):
        listed = [
            {
                "id": table[0][row],
                "label": table[1][row],
                "split": table[2][row],
                "similarity": round(1 - float(far), 6),
            }
            for far, row in zip(distances, rows, strict=True)
            if number >= own or table[0][row] != name  # a file may be called as a sample of the store is
        ]
        yield {"id": name, "neighbours": listed[:count]}
