"""The codebook of a SIFT bag of words: learned from a store's training images, and kept in the store."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from featurepipe import backbones, extraction
from featurepipe.backbones import SIFT, Patches, Sift
from featurepipe.errors import StoreError
from featurepipe.extraction import Settings
from featurepipe.listeners import Listener, Quiet
from featurepipe.matrices import FeatureMatrix
from featurepipe.stores import Entry, Store

IMAGES = 1000  # that a codebook is learned from, at most
FILE = "codebook.safetensors"


def learn_sift(store: Store, train: FeatureMatrix, seed: int, workers: int | None, listener: Listener) -> Sift:
    """A bag of SIFT words whose codebook is learned from training images, or was before.

    Parameters
    ----------
    store : Store
        Keeps the codebook next to its shards, as ``sift-<fingerprint8>/codebook.safetensors``.
    train : FeatureMatrix
        The training images; other splits would leak into the words.
    seed : int
        Seed of the images drawn, where there are more than 1000, and of the clusters.

    Raises
    ------
    DependencyMissing
        OpenCV is not installed.
    StoreError
        None of the images can be read, or another process writes the store.
    """
    patches = Patches()
    drawn = np.random.default_rng(seed).permutation(np.unique(train.digests.astype(str)))[:IMAGES].tolist()
    origin = {"images": drawn, "seed": seed}
    for path in sorted(store.path.glob(f"{SIFT}-*/{FILE}")):
        if backbones.learned_from(path) == origin:
            return Sift.load(path)
    memory = extraction.Memory()
    todo, settings = store.pending(drawn), Settings(workers=workers)
    extraction.fill(todo, patches, memory, settings, label="learning a codebook", listener=Quiet(listener))
    found = [memory.vectors[digest] for digest in drawn if digest in memory.vectors]
    if not found:
        raise StoreError("none of the training images can be read any more; restore the files and run again")
    codebook = backbones.learn_codebook(np.stack(found).reshape(-1, backbones.SIFT_LENGTH), seed)
    path = store.entry(Sift(codebook=codebook, path=store.path)).folder / FILE
    with store.lock():
        backbones.save_codebook(path, codebook, origin)
    return Sift.load(path)


def has_learned(entry: Entry, train: FeatureMatrix, held_out: FeatureMatrix) -> bool:
    """Whether an entry's codebook was learned from images that are held out now: another seed, say, other splits.

    A codebook that does not say what it was learned from is taken as weights are: from elsewhere.
    """
    if entry.spec["architecture"] != SIFT:
        return False
    places = (entry.folder / FILE, Path(entry.provenance["source"]["weights"]))  # the former also after a move
    found = [backbones.learned_from(path) or {} for path in places if os.path.isfile(path)]
    images = found[0].get("images", ()) if found else ()
    return not {*images}.isdisjoint({*held_out.digests} - {*train.digests})
