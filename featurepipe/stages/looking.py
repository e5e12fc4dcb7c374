"""The stages `info`, `verify` and `export`: what a store or a model file holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from featurepipe import matrices, models
from featurepipe.stores import Entry, Store


def info(path: str | Path) -> dict[str, Any]:
    """What a store or a model file holds.

    Returns
    -------
    dict
        Of a store: ``store, root, samples, classes, splits, backbones`` (each with ``name, folder, rows, width, dtype,
        shards, bytes, fingerprint, rejected``). Of a model: ``model, kind, classes, backbone, card``.
    """
    if not Store.is_store(path) and Path(path).is_file():
        model = models.load(path)
        parts = {"kind": model.kind, "classes": model.classes.tolist(), "backbone": model.backbone, "card": model.card}
        return {"model": str(path), **parts}
    store = Store.open(path)
    rows = store.rows() if store.root is not None else []  # the notebook's stores have no manifest
    splits = Counter(row.sample.split or "none" for row in rows)
    return {
        "store": str(store.path),
        "root": None if store.root is None else str(store.root),
        "samples": len(rows),
        "classes": len({row.sample.label for row in rows if row.sample.label is not None}),
        "splits": dict(splits),
        "backbones": [_describe(entry) for entry in store.entries()],
    }


def _describe(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "folder": entry.folder.name,
        "rows": sum(len(index.digests) for index in entry.indexes),
        "width": entry.indexes[0].width,
        "dtype": entry.indexes[0].dtype,
        "shards": len(entry.indexes),
        "bytes": sum(index.path.stat().st_size for index in entry.indexes),
        "fingerprint": entry.fingerprint,
        "rejected": len(entry.rejects()),
    }


def verify(store: str | Path, *, repair: bool = False) -> dict[str, Any]:
    """Check every row of a store against its checksum; see `featurepipe.stores.Store.verify`."""
    target = Store.open(store)
    if not repair:
        return target.verify()
    with target.lock():
        return target.verify(repair=True)


def export(store: str | Path, output: str | Path, *, backbone: str | None = None) -> dict[str, Any]:
    """Write one backbone's embeddings as ``.npz``, ``.parquet`` or ``.csv``, in manifest order.

    Returns
    -------
    dict
        ``store, output, backbone, rows, width``.
    """
    matrices.check_suffix(output)
    source = Store.open(store)
    entry = source.choose(backbone)
    matrix = matrices.load(source, entry)
    matrices.export(matrix, output)
    rows, width = matrix.X.shape
    return {"store": str(store), "output": str(output), "backbone": entry.name, "rows": rows, "width": width}
