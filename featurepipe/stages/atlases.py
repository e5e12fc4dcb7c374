"""A store's samples as a table for programs that show embeddings: Embedding Atlas and Spotlight."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, manifests, matrices, models, statistics
from featurepipe.errors import DependencyMissing, ProbeError, StoreError
from featurepipe.files import atomic
from featurepipe.listeners import SILENT, Listener
from featurepipe.matrices import FeatureMatrix
from featurepipe.models import Model
from featurepipe.reports.looks import LOOKS, Look, show
from featurepipe.statistics import projections
from featurepipe.stores import Entry, Store
from featurepipe.stores.outputs import check_result
from featurepipe.tables import require_pyarrow
from featurepipe.vocabulary.atlases import PROGRAMS, AtlasOptions
from featurepipe.vocabulary.names import PROJECTIONS

SUFFIX = ".parquet"
NEIGHBOURS = 10
BLOCK = 1024  # rows that are written at once
COMPARED = 4096  # rows at once
ENDLESS = 2**62  # bytes of pictures
# What Hugging Face's library reads of a column of images; Spotlight shows its data sets.
FEATURES = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})


def check(path: Path, wanted: AtlasOptions) -> None:
    """Refuse what an atlas cannot be written to, or what only an atlas takes."""
    if wanted.for_ is None:
        for name, given in (("--model", wanted.model), ("--map", wanted.projection)):
            if given is not None:
                raise StoreError(f"{name} works only with --for atlas; add it, or leave {name} out")
        return
    if wanted.for_ not in PROGRAMS:
        raise StoreError(f"no table is written for {wanted.for_!r}; use {', '.join(PROGRAMS)}")
    if wanted.projection not in (None, *PROJECTIONS):
        raise StoreError(f"no map is made by {wanted.projection!r}; use {', '.join(PROJECTIONS)}")
    if path.suffix.lower() != SUFFIX:
        raise StoreError(f"an atlas is a Parquet file, and {path.name} is not one; name FILE.parquet")
    require_pyarrow()


def is_atlas(path: Path) -> bool:
    """Whether a file holds what `write` writes."""
    names = manifests.header(path)
    return names[:2] == ["id", "path"] and {"projection_x", "projection_y", "neighbors"} <= {*names}


def write(store: Store, entry: Entry, path: Path, wanted: AtlasOptions, force: bool, listener: Listener) -> int:
    """Write the table, and say how many rows it has.

    Raises
    ------
    StoreError
        The store lacks embeddings, a name is not Unicode, or the model belongs to another backbone.
    ProbeError
        Too many samples for the map that was asked for.
    """
    model, file = None, None
    if wanted.model is not None:
        file = models.locate(wanted.model)
        model = models.load_of_samples(file)
        models.check_single(model, file, "an atlas")
        if model.backbone["fingerprint"] != entry.fingerprint:
            raise StoreError(
                f"{file} is on {model.backbone['name']}, and not on {entry.title} of {store.path}; name that backbone "
                "with -b, or another model"
            )
    check_result(path, "atlas", is_atlas, [store], (file,), force=force)
    matrix = matrices.load(store, entry)
    columns = _columns(store, matrix, model)
    x, y = _points(matrix.X, wanted.projection or "pca").T
    columns |= {"projection_x": x.tolist(), "projection_y": y.tolist(), "neighbors": _neighbours(matrix.X, listener)}
    pyarrow = require_pyarrow()
    schema = _schema(pyarrow, columns)
    medium = backbones.medium_of(entry.spec)
    with atomic(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for at, looks in _looked(store, matrix, medium, listener):
            cells = {name: values[at] for name, values in columns.items()}
            cells["image"] = [_image(look, id_) for look, id_ in zip(looks, columns["id"][at], strict=True)]
            cells["text"] = [None if look is None else look.words for look in looks]
            try:
                writer.write_table(pyarrow.table(cells, schema))
            except UnicodeEncodeError as error:
                raise StoreError(
                    f"Parquet cannot hold the file name {error.object!r}; rename it and extract again"
                ) from error
    return len(matrix)


def _columns(store: Store, matrix: FeatureMatrix, model: Model | None) -> dict[str, list[Any]]:
    """What is known of each sample, and what a model says of it."""
    places = {row.sample.id: row.sample.place for row in store.rows()}
    ids = matrix.ids.tolist()
    columns: dict[str, list[Any]] = {
        "id": ids,
        "path": [places[id_] for id_ in ids],
        "label": matrix.y.tolist(),
        "split": matrix.split.tolist(),
    }
    if model is None:
        return columns
    predicted: list[str] = []
    confidence: list[float] = []
    for start in range(0, len(matrix), COMPARED):
        proba = model.predict_proba(matrix.X[start : start + COMPARED])  # (m, K)
        if model.is_multi_label:
            predicted += [manifests.write_set(model.classes[row].tolist()) for row in proba > 0.5]
            confidence += np.exp(np.log(np.maximum(proba, 1 - proba)).sum(axis=1)).tolist()
        else:
            predicted += map(str, model.classes[proba.argmax(axis=1)].tolist())
            confidence += proba.max(axis=1).tolist()
    seen = model.has_seen_rows(matrix).tolist()
    return columns | {"prediction": predicted, "confidence": confidence, "seen_in_training": seen}


def _points(X: np.ndarray, projection: str) -> np.ndarray:
    """The map, (n, 2)."""
    if projection == "tsne":
        if len(X) > projections.NEIGHBOURHOOD:
            raise ProbeError(
                f"a map by t-SNE is for at most {projections.NEIGHBOURHOOD:,} samples, and there are {len(X):,}; "
                "leave out --map"
            )
        return projections.tsne(X)
    drawn = np.random.default_rng(0).permutation(len(X))[: projections.FITTED]
    return projections.Plane.of(X[np.sort(drawn)]).place(X)


def _neighbours(X: np.ndarray, listener: Listener) -> list[dict[str, list[Any]]]:
    """The nearest other rows of each, by their numbers, and their distances, 1 − cosine."""
    made = []
    with listener.progress("finding neighbours", len(X)) as advance:
        for start in range(0, len(X), COMPARED):
            pieces = (X[at : at + COMPARED] for at in range(0, len(X), COMPARED))
            found = statistics.search(X[start : start + COMPARED], pieces, NEIGHBOURS + 1)  # a row finds itself
            for row, (numbers, distances) in enumerate(zip(found.rows, found.distances, strict=True), start):
                others = np.flatnonzero(numbers != row)[:NEIGHBOURS]
                made.append({"ids": numbers[others].tolist(), "distances": distances[others].tolist()})
            advance(len(found.rows))
    return made


def _looked(
    store: Store, matrix: FeatureMatrix, medium: str, listener: Listener
) -> Iterator[tuple[slice, list[Look | None]]]:
    """Some rows at a time, and how each looks; None of those that cannot be read any more."""
    way = LOOKS.get(medium)
    with listener.progress("small pictures", len(matrix)) as advance:
        for start in range(0, len(matrix), BLOCK):
            at = slice(start, min(start + BLOCK, len(matrix)))
            looks: dict[int, Look] = {}
            if way is not None:
                pending = dict(enumerate(store.pending(matrix.digests[at].tolist())))
                try:
                    looks = show(pending, way, ENDLESS, SILENT)
                except DependencyMissing as error:
                    listener.note(f"note: {error}")
                    way = None
            yield at, [looks.get(row) for row in range(at.stop - at.start)]
            advance(at.stop - at.start)


def _image(look: Look | None, name: str) -> dict[str, Any] | None:
    if look is None or look.picture is None:
        return None
    return {"bytes": base64.b64decode(look.picture), "path": name}


def _schema(pyarrow: Any, columns: dict[str, list[Any]]) -> Any:
    """The types of all columns, in their order."""
    text = pyarrow.string()
    numbers = dict.fromkeys(("confidence", "projection_x", "projection_y"), pyarrow.float64())
    near = pyarrow.struct({"ids": pyarrow.list_(pyarrow.int64()), "distances": pyarrow.list_(pyarrow.float64())})
    kinds = {**numbers, "neighbors": near, "seen_in_training": pyarrow.bool_()}
    fields = {name: kinds.get(name, text) for name in columns}
    fields |= {"image": pyarrow.struct({"bytes": pyarrow.binary(), "path": text}), "text": text}
    return pyarrow.schema(list(fields.items()), metadata={"huggingface": FEATURES})
