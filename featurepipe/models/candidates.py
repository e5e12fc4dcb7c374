"""A store's entry on its way to a model file: found, then its labelled rows split into parts."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np

from featurepipe import backbones, manifests, matrices, models
from featurepipe.backbones import Extractor
from featurepipe.cards import Card, Data, Splits
from featurepipe.errors import ProbeError
from featurepipe.extraction.codebooks import has_learned
from featurepipe.listeners import Listener
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import Parts, arrange, choose_splits, copy_notes, cut, labelled, samples_of, sizes
from featurepipe.stores import Entry, Store
from featurepipe.vocabulary import EntryOptions


@dataclass(frozen=True)
class Candidate:
    """An entry of a store with all of its rows, before their embeddings are read.

    Attributes
    ----------
    store : Store
    entry : Entry
    path : Path
        Where the model file goes.
    origin : mapping
        The backbone's source, as of where its weights are now.
    module : torch.nn.Module or None
        The backbone, where it goes into the model file.
    samples : FeatureMatrix
        See `featurepipe.matrices.outline`.
    """

    store: Store
    entry: Entry
    path: Path
    origin: Mapping[str, Any]
    module: Any
    samples: FeatureMatrix

    def check_output(self, path: Path, *, force: bool) -> None:
        """Refuse a place for a model file that the backbone's own weights have, or that `models.check_output` does."""
        weights = self.origin["weights"], self.entry.provenance["source"]["weights"]
        models.check_output(path, weights, force=force)


@dataclass(frozen=True)
class Prepared(Candidate):
    """An entry of a store, ready to be probed: of its rows those that have a label, by split.

    Attributes
    ----------
    split_source : str
    parts : Parts
        The same rows.
    contradictory : list of list of dict
        Copies under several labels: see `featurepipe.manifests.contradictions`.
    notes : list of str
    """

    split_source: str
    parts: Parts
    contradictory: list[list[dict[str, str]]]
    notes: list[str]

    def announce(self, listener: Listener, what: str) -> None:
        """Say what is done on how many samples."""
        counts = ", ".join(f"{n} {name}" for name, n in sizes(self.samples.split).items())
        listener.note(f"{what} on {self.entry.title}: {counts}")
        if self.split_source != "given":
            listener.note(f"splits {self.split_source}")

    def data(self, classes: int, **about: str) -> Data:
        """What a card says of the data, and whatever else is said about it."""
        return Data(root=str(self.store.source_root), samples=len(self.samples), classes=classes, **about)

    @property
    def splits(self) -> Splits:
        """What a card says of the splits' sizes."""
        return Splits(**sizes(self.samples.split))

    def model(self, kind: str, estimator: Any, temperature: float, card: Card) -> models.Model:
        """What the model file holds of a classifier that has learned from all but the reported rows."""
        entry = self.entry
        return models.Model(
            kind=kind,
            estimator=estimator,
            temperature=temperature,
            backbone={
                "name": entry.name,
                "fingerprint": entry.fingerprint,
                "spec": entry.spec,
                "source": dict(self.origin),
            },
            seen=np.union1d(
                models.row_keys(self.parts.learned).ravel(), models.seen_in_tuning(self.origin, entry.spec)
            ),
            card=card,
        )


def find(store: str | Path, output: str | Path | None, where: EntryOptions) -> Candidate:
    """Find an entry, check where its model file goes, and list its rows.

    Parameters
    ----------
    store, output : path
        As for `featurepipe.stages.probe`.
    where : EntryOptions
        Which entry, and where its weights are.

    Raises
    ------
    StoreError, ModelFileError
        As for `featurepipe.stages.probe`.
    """
    source = Store.open(store)
    ready: Extractor | None = None
    backbone = where.backbone
    if backbone is None or isinstance(backbone, str | PathLike):
        entry = source.choose(None if backbone is None else os.fspath(backbone), where.layer)
        origin = entry.provenance["source"]
    elif where.layer is not None:
        raise TypeError("layer works only with a backbone's name; a ready-made backbone has its own layer")
    else:
        ready = backbone if backbones.is_ready(backbone) else backbones.create(cast(Any, backbone), device=where.device)
        entry, origin = source.entry(ready), ready.source
    path = Path(output) if output is not None else entry.folder / "model.safetensors"
    models.check_suffix(path)  # whether it may be written is for those to ask that write there
    module = None
    if where.weights is not None or where.include_backbone:
        how: dict[str, Any] = {"weights": where.weights, "device": where.device, "trust": where.trust}
        how["who"] = str(source.path)
        made = backbones.recreate(entry.spec, origin, **how) if ready is None else ready
        origin, module = made.source, models.portable(made) if where.include_backbone else None
    return Candidate(source, entry, path, origin, module, matrices.outline(source, entry))


def divide(
    source: Candidate, *, seed: int, among: Collection[str] | None = None, multi_label: bool = False
) -> Prepared:
    """Take the labelled rows of a source and split them.

    Parameters
    ----------
    source : Candidate
    seed : int
        Seed of splits, where they have to be made.
    among : collection of str, optional
        Digests of the images to use; by default all.
    multi_label : bool
        Whether labels are sets of labels.

    Raises
    ------
    ManifestError, ProbeError
        As for `featurepipe.stages.probe`.
    """
    samples, notes = labelled(source.samples, among)
    contradictory = manifests.contradictions(samples.digests, samples_of(samples))
    split, split_source = choose_splits(samples, seed, multi_label)
    samples = arrange(samples, split)
    parts = cut(samples)
    if has_learned(source.entry, parts.train, samples.take(samples.split != "train")):
        raise ProbeError(
            f"the codebook of {source.entry.title} was learned from images that are held out now; use the seed and "
            "splits it was learned with, or learn a new codebook: featurepipe compare --baselines full"
        )
    if tuned := tuned_on(source.entry, parts):
        raise ProbeError(
            f"{source.entry.title} was tuned on {tuned} of the {len(parts.report)} images that would be reported; use "
            "the seed and splits it was tuned with, or images that it has not seen"
        )
    return Prepared(
        **{**vars(source), "samples": samples},
        split_source=split_source,
        parts=parts,
        contradictory=contradictory,
        notes=notes + manifests.contradiction_notes(contradictory) + copy_notes(parts),
    )


def tuned_on(entry: Entry, parts: Parts) -> int:
    """How many of the reported images an entry's network was tuned on, as far as its model file is still there to say.

    Copies of images that are learned from here are not counted: of them `copy_notes` speaks.
    """
    learned, seen = {*parts.learned.digests}, models.seen_in_tuning(entry.provenance["source"], entry.spec)
    tuned = parts.report.digests[np.isin(models.row_keys(parts.report), seen).any(axis=1)]
    return len({*tuned} - learned)
