"""The stage `verify`: whether a store still holds what it was given, and how far fast vectors lie from exact ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, extraction, matrices
from featurepipe.digests import sha256_json
from featurepipe.errors import BackboneError, StoreError
from featurepipe.extraction import Settings
from featurepipe.listeners import BARS, Listener, Quiet
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stores import Entry, Store
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import OriginOptions


@guarded
@presented
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
    """The entries of what was learned, layers of the same network together, in its order, to be had at once."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.is_handmade:
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
    first, places = entries[0], [entry.places() for entry in entries]  # made each time they are asked for
    digests = list(dict.fromkeys(row.digest for row in store.rows() if all(row.digest in one for one in places)))
    some = [digests[i] for i in np.unique(np.linspace(0, len(digests) - 1, min(count, len(digests))).astype(int))]
    layers = [entry.layer for entry in entries]
    spec = {**first.spec, "layer": layers if len(layers) > 1 else first.layer}
    try:
        made = backbones.recreate(spec, first.provenance["source"], **how)
    except BackboneError:
        if len(entries) == 1:
            raise  # of several no single pass may give the same vectors: see `backbones.create_layers`
        return [one for entry in entries for one in _drift(store, [entry], count, how, listener)]
    if not isinstance(made, backbones.Adaptable):
        listener.note(f"note: {made.name} has no other precision or decoder, so its drift cannot be measured")
        return []
    exact = made.adapted(precision="fp32", decoder="pillow")
    memory = extraction.Memory()
    todo, settings = store.pending(some), Settings(compile="off")
    extraction.fill(todo, exact, memory, settings, label="measuring the drift", listener=Quiet(listener))
    found = [digest for digest in some if digest in memory.vectors]
    if not found:
        raise StoreError(
            f"no image of {first.folder.name} is still readable and unchanged, so its drift cannot be measured"
        )
    vectors = exact.split(np.stack([memory.vectors[digest] for digest in found]))  # (n, D) of each layer
    files = ((one.read(), one.part) for one in todo if one.digest in memory.vectors)
    pairs = ((made.transform.decode(file, part), exact.transform.decode(file, part)) for file, part in files)
    pixels = max(int(np.nanmax(np.abs(one.astype(np.float32) - other))) for one, other in pairs)
    return [
        _layer_drift(entry, [of[digest] for digest in found], wanted, pixels)
        for entry, of, wanted in zip(entries, places, vectors, strict=True)
    ]


def _layer_drift(entry: Entry, places: Sequence[Any], exact: np.ndarray, pixels: int) -> dict[str, Any]:
    """How far the vectors at `places` lie from the exact ones (n, D), and their images' pixels from Pillow's."""
    held = matrices.gather(entry, places).reshape(len(places), -1)  # of tokens, side by side
    cosine = backbones.cosines(held, exact)  # (n,)
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
