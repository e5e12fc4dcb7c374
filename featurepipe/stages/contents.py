"""The stage `info`: what a store, a model file or a backbone file holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from featurepipe import backbones, models
from featurepipe.results import presented
from featurepipe.stores import Entry, Store
from featurepipe.surroundings import guarded


@guarded
@presented
def info(path: str | Path) -> dict[str, Any]:
    """Show what a store, a model file or a backbone file holds; for a folder of results, its store or its model file.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict
        For a store: ``store, root, samples, classes, splits, backbones`` (each with ``name, layer, folder, rows, width,
        dtype, shards, bytes, fingerprint, rejected``, and of tokens ``grid``). For a model: ``model, kind, classes,
        backbone, card``, and ``carries_backbone`` (whether the file also holds the backbone's weights). For a backbone
        file: ``backbone_file``, and what the file says of itself: ``name, architecture, arguments, transform, licence,
        source, weights-sha256``, and ``pretraining`` where `pretrain` made it.
    """
    if (carried := backbones.carried_card(Path(path))) is not None:
        return {"backbone_file": str(path), **carried}
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
        **({} if entry.grid is None else {"grid": list(entry.grid)}),
    }
