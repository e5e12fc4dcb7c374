"""The stage `verify`: whether a store still holds what it was given, and how far fast vectors lie from exact ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, extraction, inputs, matrices
from featurepipe.digests import sha256_json
from featurepipe.errors import BackboneError, StoreError
from featurepipe.extraction import Settings
from featurepipe.images import decode
from featurepipe.listeners import BARS, Listener, Quiet
from featurepipe.signatures import spread
from featurepipe.stores import Entry, Pending, Store
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import OriginOptions


@guarded
@spread(origin=OriginOptions)
def verify(
    store: str | Path,
    *,
    repair: bool = False,
    accept_edits: bool = False,
    drift: bool = False,
    images: int = 64,
    origin: OriginOptions,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Check a store's manifest and every row against its checksum; see `featurepipe.stores.Store.verify`.

    Parameters
    ----------
    store : path
    repair : bool
        Rename shards that fail; the next extraction computes their rows again.
    accept_edits : bool
        First accept ``manifest.csv`` and ``store.json`` as they were edited by hand; see
        `featurepipe.stores.Store.accept_edits`.
    drift : bool
        Also embed some images again in fp32 from Pillow's pixels, and compare the stored vectors with these.
    images : int
        Number of images for each backbone, evenly spaced over the manifest.
    origin
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``ok, checked, problems, repaired``; with `accept_edits` ``accepted``, the rows of the manifest; with `drift`
        a list ``drift``: for each network and layer ``backbone, layer, folder, precision, decoder, images,
        cosine_median, cosine_min`` (of the vectors) and ``pixels_max`` (the
        greatest difference between two pixels, of 255).
    """
    target = Store.open(store)
    with target.lock() if repair or accept_edits else nullcontext():
        accepted = {"accepted": target.accept_edits()} if accept_edits else {}
        result = {**target.verify(repair=repair), **accepted}
    if drift and not result["problems"]:
        how = {**vars(origin), "who": str(store), "note": listener.note}
        entries = target.entries()
        measured = {
            one["folder"]: one for layers in _networks(entries) for one in _drift(target, layers, images, how, listener)
        }
        result["drift"] = [measured[entry.folder.name] for entry in entries if entry.folder.name in measured]
    return result


def _networks(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries of networks, layers of the same one together, in its order: one forward pass gives them all."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.spec["architecture"] in backbones.DESCRIPTORS:
            continue
        network = {key: value for key, value in entry.spec.items() if key != "layer"}
        found.setdefault(sha256_json(network), []).append(entry)
    return [sorted(layers, key=_depth) for layers in found.values()]


def _depth(entry: Entry) -> tuple[bool, int, str]:
    """Sorts the layers of a network from the first stage to the penultimate embedding."""
    return entry.layer == backbones.PENULTIMATE, len(entry.layer), entry.layer


def _drift(
    store: Store, entries: Sequence[Entry], count: int, how: Mapping[str, Any], listener: Listener
) -> list[dict[str, Any]]:
    """The drift of each of a network's layers, of the same images."""
    first, rows, root = (
        entries[0],
        store.rows(),
        store.root,
    )  # read from its file each time it is asked for, as places are
    assert root is not None  # a store of rows has one
    places = [entry.places() for entry in entries]
    held = {row.digest: root / row.sample.path for row in rows if all(row.digest in one for one in places)}
    digests = list(held)
    some = [digests[i] for i in np.unique(np.linspace(0, len(held) - 1, min(count, len(held))).astype(int))]
    layers = [entry.layer for entry in entries]
    spec = {**first.spec, "layer": layers if len(layers) > 1 else first.layer}
    try:
        made = backbones.recreate(spec, first.provenance["source"], **how)
    except BackboneError:
        if len(entries) == 1:
            raise  # of several no single pass may give the same vectors: see `backbones.create_layers`
        return [one for entry in entries for one in _drift(store, [entry], count, how, listener)]
    assert isinstance(made, backbones.Backbone)  # as `_networks` has chosen
    exact = made.adapted(precision="fp32", decoder="pillow")
    memory = extraction.Memory()
    todo, settings = [Pending(digest, held[digest]) for digest in some], Settings(compile="off")
    extraction.fill(todo, exact, memory, settings, label="measuring the drift", listener=Quiet(listener))
    found = [digest for digest in some if digest in memory.vectors]
    if not found:
        raise StoreError(
            f"no image of {first.folder.name} is still readable and unchanged, so its drift cannot be measured"
        )
    vectors = exact.split(np.stack([memory.vectors[digest] for digest in found]))  # (n, D) of each layer
    files = (inputs.content(held[digest], inputs.IMAGE_BYTES) for digest in found)
    pairs = ((decode(file, made.transform), decode(file, exact.transform)) for file in files)
    pixels = max(int(np.abs(one.astype(np.int16) - other).max()) for one, other in pairs)
    return [
        _layer_drift(entry, [of[digest] for digest in found], wanted, pixels)
        for entry, of, wanted in zip(entries, places, vectors, strict=True)
    ]


def _layer_drift(entry: Entry, places: Sequence[Any], exact: np.ndarray, pixels: int) -> dict[str, Any]:
    """How far the vectors at `places` lie from the exact ones (n, D), and their images' pixels from Pillow's."""
    cosine = backbones.cosines(matrices.gather(entry, places), exact)  # (n,)
    return {
        "backbone": entry.name,
        "layer": entry.layer,
        "folder": entry.folder.name,
        "precision": entry.spec["precision"],
        "decoder": entry.spec["transform"].get("decoder") or "pillow",  # as long as there was no other
        "images": len(places),
        "cosine_median": float(np.median(cosine)),
        "cosine_min": float(cosine.min()),
        "pixels_max": pixels,
    }
