"""The stages `info`, `verify` and `export`: what a store or a model file holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, extraction, matrices, models
from featurepipe.errors import StoreError
from featurepipe.images import decode
from featurepipe.stages.listening import SILENT, Listener
from featurepipe.stores import Entry, Pending, Store


def info(path: str | Path) -> dict[str, Any]:
    """What a store or a model file holds.

    Returns
    -------
    dict
        Of a store: ``store, root, samples, classes, splits, backbones`` (each with ``name, layer, folder, rows, width,
        dtype, shards, bytes, fingerprint, rejected``). Of a model: ``model, kind, classes, backbone, card``.
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


def verify(
    store: str | Path,
    *,
    repair: bool = False,
    drift: bool = False,
    images: int = 64,
    weights: str | Path | None = None,
    device: str = "auto",
    listener: Listener = SILENT,
) -> dict[str, Any]:
    """Check every row of a store against its checksum; see `featurepipe.stores.Store.verify`.

    Parameters
    ----------
    store : path
    repair : bool
        Rename shards that fail; the next extraction computes their rows again.
    drift : bool
        Also embed some images anew in fp32 from Pillow's pixels, and compare the stored vectors with theirs.
    images : int
        So many for each backbone, evenly spaced over the manifest.
    weights : path, optional
        Where a backbone's weights are, if they have moved.

    Returns
    -------
    dict
        ``ok, checked, problems, repaired``, and with `drift` a list ``drift``: for each network and layer ``backbone,
        layer, folder, precision, decoder, images, cosine_median, cosine_min`` (of the vectors) and ``pixels_max`` (the
        greatest difference between two pixels, of 255).
    """
    target = Store.open(store)
    if repair:
        with target.lock():
            result = target.verify(repair=True)
    else:
        result = target.verify()
    if drift and not result["problems"]:
        networks = [entry for entry in target.entries() if entry.spec["architecture"] not in backbones.DESCRIPTORS]
        result["drift"] = [_drift(target, entry, images, weights, device, listener) for entry in networks]
    return result


def _drift(
    store: Store, entry: Entry, count: int, weights: str | Path | None, device: str, listener: Listener
) -> dict[str, Any]:
    places, root = entry.places(), store.root  # read from its file each time it is asked for
    held = {row.digest: root / row.sample.path for row in store.rows() if row.digest in places}
    digests = list(held)
    some = [digests[i] for i in np.unique(np.linspace(0, len(held) - 1, min(count, len(held))).astype(int))]
    made = backbones.recreate(entry.spec, entry.provenance["source"], weights=weights, device=device)
    exact = made.adapted(precision="fp32", decoder="pillow")
    memory = extraction.Memory()
    with listener.progress(f"measuring the drift of {entry.title}", len(some)) as advance:
        extraction.fill([Pending(d, held[d]) for d in some], exact, memory, compile="off", progress=advance)
    found = [digest for digest in some if digest in memory.vectors]
    if not found:
        raise StoreError(f"no image of {entry.folder.name} can be read as it was; its drift cannot be measured")
    stored = matrices.gather(entry, [places[digest] for digest in found])  # (n, D)
    cosine = backbones.cosines(stored, np.stack([memory.vectors[digest] for digest in found]))
    files = [held[digest].read_bytes() for digest in found]
    pairs = ((decode(file, made.transform), decode(file, exact.transform)) for file in files)
    return {
        "backbone": entry.name,
        "layer": entry.layer,
        "folder": entry.folder.name,
        "precision": entry.spec["precision"],
        "decoder": made.transform.decoder,
        "images": len(found),
        "cosine_median": float(np.median(cosine)),
        "cosine_min": float(cosine.min()),
        "pixels_max": max(int(np.abs(one.astype(np.int16) - other).max()) for one, other in pairs),
    }


def export(
    store: str | Path, output: str | Path, *, backbone: str | None = None, layer: str | None = None
) -> dict[str, Any]:
    """Write one backbone's embeddings as ``.npz``, ``.parquet`` or ``.csv``, in manifest order.

    Parameters
    ----------
    store, output : path
    backbone, layer : str, optional
        Which backbone of the store, and which layer of it, as for `featurepipe.stores.Store.choose`.

    Returns
    -------
    dict
        ``store, output, backbone, layer, rows, width``.
    """
    matrices.check_suffix(output)
    source = Store.open(store)
    entry = source.choose(backbone, layer)
    matrix = matrices.load(source, entry)
    matrices.export(matrix, output)
    rows, width = matrix.X.shape
    identity = {"store": str(store), "output": str(output), "backbone": entry.name, "layer": entry.layer}
    return {**identity, "rows": rows, "width": width}
