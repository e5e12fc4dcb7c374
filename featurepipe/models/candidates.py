"""A store's entry on its way to a model file: found, then its labelled rows split into parts."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np

from featurepipe import backbones, manifests, matrices, models
from featurepipe.backbones import Extractor
from featurepipe.cards import Card, Data, Splits
from featurepipe.errors import ProbeError, StoreError
from featurepipe.extraction.codebooks import has_learned
from featurepipe.listeners import Listener
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import Parts, arrange, choose_splits, copy_notes, cut, labelled, samples_of, sizes
from featurepipe.probes.kinds import TOKENS, VECTORS
from featurepipe.stores import Entry, JointEntry, Store
from featurepipe.vocabulary import EntryOptions, JoinOptions


@dataclass(frozen=True)
class Candidate:
    """An entry of a store, or several as one, with all of its rows, before their embeddings are read.

    Attributes
    ----------
    store : Store
    entry : Entry or JointEntry
    path : Path
        Where the model file goes.
    origin : mapping
        The (first) backbone's source, as of where its weights are now.
    module : torch.nn.Module or None
        The backbone, where it goes into the model file.
    samples : FeatureMatrix
        See `featurepipe.matrices.outline`; of several entries, those of `featurepipe.matrices.join`.
    blocks : tuple of FeatureMatrix
        The rows of each entry, where there are several.
    lacking : mapping
        For each of several entries the ids of samples that it lacks and another one has.
    """

    store: Store
    entry: Entry | JointEntry
    path: Path
    origin: Mapping[str, Any]
    module: Any
    samples: FeatureMatrix
    blocks: tuple[FeatureMatrix, ...] = field(default=(), kw_only=True)
    lacking: Mapping[str, list[str]] = field(default_factory=dict, kw_only=True)

    @property
    def single(self) -> Entry:
        """The entry, for those that take only one."""
        (entry,) = self.entry.members
        return entry

    @property
    def licence(self) -> str | None:
        """The licences of the backbones' weights, as far as they are known."""
        pairs = zip(self.entry.members, self.origins, strict=True)
        known = [models.licence_of(origin, member.spec) for member, origin in pairs]
        return "; ".join(dict.fromkeys(filter(None, known))) or None

    @property
    def titles(self) -> list[str]:
        """What each entry is called."""
        return self.entry.titles if isinstance(self.entry, JointEntry) else [self.entry.title]

    @property
    def origins(self) -> list[Mapping[str, Any]]:
        """The source of each backbone."""
        return [self.origin, *(member.provenance["source"] for member in self.entry.members[1:])]

    def check_output(self, path: Path, *, force: bool) -> None:
        """Refuse a place for a model file that the backbone's own weights have, or that `models.check_output` does."""
        weights = [source["weights"] for source in self.origins]
        weights += [member.provenance["source"]["weights"] for member in self.entry.members]
        models.check_output(path, weights, force=force)

    def rows_of(self, samples: FeatureMatrix) -> list[tuple[Entry, FeatureMatrix]]:
        """Each entry with its own rows of some samples, in their order and with their splits."""
        if not self.blocks:
            return [(member, samples) for member in self.entry.members]
        found = []
        for member, rows in zip(self.entry.members, self.blocks, strict=True):
            places = {id_: row for row, id_ in enumerate(rows.ids.tolist())}
            mine = rows.take(np.array([places[id_] for id_ in samples.ids]))
            found.append((member, replace(mine, y=samples.y, split=samples.split)))
        return found


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
        pairs = list(zip(self.entry.members, self.origins, strict=True))
        backbones = [
            {"name": one.name, "fingerprint": one.fingerprint, "spec": one.spec, "source": dict(origin)}
            for one, origin in pairs
        ]
        seen = models.row_keys(self.parts.learned).ravel()
        for one, origin in pairs:
            seen = np.union1d(seen, models.seen_in_tuning(origin, one.spec))
        return models.Model(
            kind=kind,
            estimator=estimator,
            temperature=temperature,
            backbone=models.joined(backbones),
            seen=seen,
            card=card,
        )


def find_joint(
    store: str | Path, output: str | Path | None, where: EntryOptions, joined: JoinOptions, *, reads: str = VECTORS
) -> Candidate:
    """As `find`; where other entries are named, all of them as one.

    The first is the backbone that `where` names. Without a name it is the only one that the store holds, if there is
    only one other; several others are taken alone.

    Raises
    ------
    StoreError
        As `find`, or an entry is named twice.
    ManifestError
        The entries share no sample, or disagree on one.
    ProbeError
        Weights are to be found elsewhere, or to be stored in the model file, which is for one backbone only.
    """
    if not joined.with_:
        return find(store, output, where, reads=reads)
    if reads != VECTORS:
        raise ProbeError(f"a joint probe reads vectors, not {reads}; leave out --with, or choose another --kind")
    if where.weights is not None or where.include_backbone:
        what = "--weights" if where.weights is not None else "--include-backbone"
        raise ProbeError(f"{what} is for a single backbone; leave it out, or leave out --with")
    source = Store.open(store)
    pairs = [_other(source, os.fspath(name)) for name in joined.with_]
    first = None
    if where.backbone is not None or where.layer is not None or len(pairs) == 1:
        first = find(store, output, where)
        pairs.insert(0, (first.store, first.entry.members[0]))
    entries = [entry for _, entry in pairs]
    _check_distinct(source, entries)
    joint = JointEntry(tuple(entries))
    outlines = [matrices.outline(of, entry) for of, entry in pairs]
    samples, lacking = matrices.join(dict(zip(joint.titles, outlines, strict=True)))
    path = Path(output) if output is not None else joint.folder / f"joint-{joint.fingerprint[:8]}{models.SUFFIX}"
    models.check_suffix(path)
    origin = entries[0].provenance["source"] if first is None else first.origin
    return Candidate(source, joint, path, origin, None, samples, blocks=tuple(outlines), lacking=lacking)


def _other(store: Store, name: str) -> tuple[Store, Entry]:
    """An entry of a store that is called `name`; or of another store, whose path it is, or whose entry's folder."""
    path = Path(name)
    if Store.is_store(path):
        other = Store.open(path)
        return other, other.choose()
    if path.is_dir() and Store.is_store(path.parent):
        other = Store.open(path.parent)
        return other, other.choose(path.name)
    return store, store.choose(name)


def _check_distinct(store: Store, entries: Sequence[Entry]) -> None:
    """Raise StoreError where two entries are of one backbone and layer."""
    seen = set()
    for entry in entries:
        if entry.fingerprint in seen:
            held = ", ".join(one.folder.name for one in store.entries())
            raise StoreError(
                f"{entry.title} is named twice, and a joint probe needs different entries ({store.path} holds {held}); "
                f"get more with: featurepipe extract DATA -s {store.path} -b NAME"
            )
        seen.add(entry.fingerprint)


def find(store: str | Path, output: str | Path | None, where: EntryOptions, *, reads: str = VECTORS) -> Candidate:
    """Find an entry, check where its model file goes, and list its rows.

    Parameters
    ----------
    store, output : path
        As for `featurepipe.stages.probe`.
    where : EntryOptions
        Which entry, and where its weights are.
    reads : {'vectors', 'tokens'}
        What of a backbone's entries is meant.

    Raises
    ------
    StoreError, ModelFileError
        As for `featurepipe.stages.probe`.
    """
    source, tokens = Store.open(store), reads == TOKENS
    ready: Extractor | None = None
    backbone = where.backbone
    if backbone is None or isinstance(backbone, str | PathLike):
        entry = source.choose(None if backbone is None else os.fspath(backbone), where.layer, tokens=tokens)
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
    samples, notes = labelled(source.samples, _digests_among(source, among))
    contradictory = manifests.contradictions(samples.digests, samples_of(samples))
    split, split_source = choose_splits(samples, seed, multi_label)
    samples = arrange(samples, split)
    parts = cut(samples)
    for entry, rows in source.rows_of(samples):
        _check_untainted(entry, rows)
    return Prepared(
        **{**vars(source), "samples": samples},
        split_source=split_source,
        parts=parts,
        contradictory=contradictory,
        notes=[
            *matrices.lacking_notes(source.lacking),
            *notes,
            *manifests.contradiction_notes(contradictory),
            *copy_notes(parts),
            *_shared_notes(source, samples, parts),
        ],
    )


def keep_whole(source: Candidate, folds: int, *, seed: int, among: Collection[str] | None = None) -> Prepared:
    """Take the labelled rows of a source, all of them as training rows, to be measured by k-fold cross-validation.

    Parameters
    ----------
    source : Candidate
    folds : int
    seed : int
        Seed of the folds.
    among : collection of str, optional
        Digests of the images to use; by default all.

    Raises
    ------
    ManifestError, ProbeError
        As for `featurepipe.stages.probe`.
    """
    samples, notes = labelled(source.samples, _digests_among(source, among))
    samples = replace(samples, split=np.full(len(samples), "train", object))
    manifests.check_labels(samples_of(samples))
    contradictory = manifests.contradictions(samples.digests, samples_of(samples))
    for entry, rows in source.rows_of(samples):
        _check_unseen(entry, rows)
    whole = Parts(samples, None, samples, None, samples, "folds", None)
    return Prepared(
        **{**vars(source), "samples": samples},
        split_source=f"{folds}-fold cross-validation, stratified, seed {seed}",
        parts=whole,
        contradictory=contradictory,
        notes=[
            *matrices.lacking_notes(source.lacking),
            *notes,
            *manifests.contradiction_notes(contradictory),
        ],
    )


def _digests_among(source: Candidate, among: Collection[str] | None) -> Collection[str] | None:
    """What to look for among the digests of a source's samples; of several entries, samples with any such content."""
    if among is None or not source.blocks:
        return among
    contents = zip(*(rows.digests.tolist() for _, rows in source.rows_of(source.samples)), strict=True)
    wanted = set(among)
    return {
        digest
        for digest, own in zip(source.samples.digests.tolist(), contents, strict=True)
        if not wanted.isdisjoint(own)
    }


def _shared_notes(source: Candidate, samples: FeatureMatrix, parts: Parts) -> list[str]:
    """A note for each of several entries for which reported samples are copies of what is learned, if only for it."""
    if not source.blocks:
        return []
    notes, start, size = [], len(parts.learned), len(parts.report)
    for title, (_, rows) in zip(source.titles, source.rows_of(samples), strict=True):
        learned = {*rows.digests[:start].tolist()}
        if count := sum(digest in learned for digest in rows.digests[start : start + size].tolist()):
            has, other = ("has", "a training sample") if count == 1 else ("have", "training samples")
            notes.append(
                f"{count} of {size} {parts.reported} samples {has} the same content for {title} as {other}; the "
                "figures are optimistic"
            )
    return notes


def _check_untainted(entry: Entry, rows: FeatureMatrix) -> None:
    """Raise ProbeError where an entry's backbone has learned from samples that are held out."""
    parts = cut(arrange(rows, rows.split))  # its own copies: of a pair, only one content may be one
    if has_learned(entry, parts.train, rows.take(rows.split != "train")):
        raise ProbeError(
            f"the codebook of {entry.title} was learned from images that are held out now; use the seed and "
            "splits it was learned with, or learn a new codebook: featurepipe compare --baselines full"
        )
    if tuned := tuned_on(entry, parts):
        raise ProbeError(
            f"{entry.title} was tuned on {tuned} of the {len(parts.report)} samples that would be reported; use "
            "the seed and splits it was tuned with, or samples that it has not seen"
        )


def tuned_on(entry: Entry, parts: Parts) -> int:
    """How many of the reported images an entry's network was tuned on, as far as its model file is still there to say.

    Copies of images that are learned from here are not counted: of them `copy_notes` speaks.
    """
    learned, seen = {*parts.learned.digests}, models.seen_in_tuning(entry.provenance["source"], entry.spec)
    tuned = parts.report.digests[np.isin(models.row_keys(parts.report), seen).any(axis=1)]
    return len({*tuned} - learned)


def _check_unseen(entry: Entry, rows: FeatureMatrix) -> None:
    """Raise ProbeError where an entry's backbone has learned from any of the samples."""
    seen = models.seen_in_tuning(entry.provenance["source"], entry.spec)
    if has_learned(entry, rows.take(slice(0)), rows) or np.isin(models.row_keys(rows), seen).any():
        raise ProbeError(
            f"{entry.title} has learned from some of these samples, so it would know them when folds hold them out; "
            "leave out --folds, and use the seed and splits it was learned with"
        )
