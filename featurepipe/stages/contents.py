"""The stage `info`: what a store or a model file holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from featurepipe import models
from featurepipe.results import presented
from featurepipe.stores import Entry, Store
from featurepipe.surroundings import guarded


@guarded
@presented
def info(path: str | Path) -> dict[str, Any]:
    """Show what a store or a model file holds; for a folder of results, its store or its model file.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict
        For a store: ``store, root, samples, classes, splits, backbones`` (each with ``name, layer, folder, rows, width,
        dtype, shards, bytes, fingerprint, rejected``). For a model: ``model, kind, classes, backbone, card``, and
        ``carries_backbone`` (whether the file also holds the backbone's weights).
    """
    if not Store.is_store(path) and models.find(path):
        path = models.locate(path)
        model = models.load(path)
        return {
            "model": str(path),
            "kind": model.kind,
            "classes": model.classes.tolist(),
            "backbone": model.backbone,
            "card": model.card.to_json(),
            "carries_backbone": models.carries_backbone(path),
        }
    store = Store.open(path)
    rows = store.rows() if store.root is not None else []  # the notebook's stores have no manifest
    splits = Counter(row.sample.split or "none" for row in rows)
    return {
        "store": str(store.path),
        "root": store.source_root,
        "samples": len(rows),
        "classes": len({row.sample.label for row in rows if row.sample.label is not None}),
        "splits": dict(splits),
        "backbones": [_describe(entry) for entry in store.entries()],
    }


def _describe(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "layer": entry.layer,
        "folder": entry.folder.name,
        "rows": sum(len(index.digests) for index in entry.indexes),
        "width": entry.indexes[0].width,
        "dtype": entry.indexes[0].dtype,
        "shards": len(entry.indexes),
        "bytes": sum(index.path.stat().st_size for index in entry.indexes),
        "fingerprint": entry.fingerprint,
        "rejected": len(entry.rejects()),
    }
