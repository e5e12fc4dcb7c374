"""What every stage that probes begins with: a store's entry, its labelled rows, and how they are split."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, manifests, matrices, models, reports
from featurepipe.backbones import Extractor
from featurepipe.errors import ManifestError, ProbeError
from featurepipe.listeners import Listener
from featurepipe.manifests import Sample
from featurepipe.matrices import FeatureMatrix
from featurepipe.stages.quantising import has_learned
from featurepipe.stores import Entry, Store

STEP = 8192  # rows that are checked at once


@dataclass(frozen=True)
class Parts:
    """A labelled matrix cut into training, selection and evaluation rows, each of them a slice of it.

    Attributes
    ----------
    train : FeatureMatrix
    select : FeatureMatrix or None
        Val without exact copies of training images, where test is reported; None if that leaves none.
    report : FeatureMatrix
        Without exact copies of what is learned, unless all are.
    whole : FeatureMatrix or None
        The reported rows and those copies; None where there are none, or all are.
    learned : FeatureMatrix
        All rows but those that are reported, and their copies.
    reported : str
        'test', or 'val' where there is no test.
    elsewhere : str or None
        Why the features are not in memory; None if they are.
    """

    train: FeatureMatrix
    select: FeatureMatrix | None
    report: FeatureMatrix
    whole: FeatureMatrix | None
    learned: FeatureMatrix
    reported: str
    elsewhere: str | None

    @property
    def nbytes(self) -> int:
        """What the features take of the memory."""
        held_out = self.report if self.whole is None else self.whole
        return 0 if self.elsewhere else self.learned.X.nbytes + held_out.X.nbytes


@dataclass(frozen=True)
class Source:
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
class Prepared(Source):
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

    def model(self, kind: str, estimator: Any, temperature: float, card: dict[str, Any]) -> models.Model:
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
                models.digest_keys(self.parts.learned.digests), models.seen_in_tuning(self.origin, entry.spec)
            ),
            card=card,
        )


def find(
    store: str | Path,
    output: str | Path | None,
    *,
    backbone: str | PathLike[str] | Extractor | None,
    layer: str | None,
    weights: str | Path | None,
    trust: bool = False,
    include_backbone: bool,
    device: str,
) -> Source:
    """Find an entry, check where its model file goes, and list its rows.

    Parameters
    ----------
    store, output, backbone, layer, weights, trust, include_backbone, device
        As for `featurepipe.stages.probe`.

    Raises
    ------
    StoreError, ModelFileError
        As for `featurepipe.stages.probe`.
    """
    source = Store.open(store)
    ready: Extractor | None = None
    if backbone is None or isinstance(backbone, str | PathLike):
        entry = source.choose(None if backbone is None else os.fspath(backbone), layer)
        origin = entry.provenance["source"]
    elif layer is not None:
        raise TypeError("layer works only with a backbone's name; a ready-made backbone has its own layer")
    else:
        ready, entry, origin = backbone, source.entry(backbone), backbone.source
    path = Path(output) if output is not None else entry.folder / "model.safetensors"
    models.check_suffix(path)  # whether it may be written is for those to ask that write there
    module = None
    if weights is not None or include_backbone:
        how: dict[str, Any] = {"weights": weights, "device": device, "trust": trust, "who": str(source.path)}
        made = backbones.recreate(entry.spec, origin, **how) if ready is None else ready
        origin, module = made.source, getattr(made, "module", None) if include_backbone else None
    return Source(source, entry, path, origin, module, matrices.outline(source, entry))


def divide(source: Source, *, seed: int, among: Collection[str] | None = None, multi_label: bool = False) -> Prepared:
    """Take the labelled rows of a source and split them.

    Parameters
    ----------
    source : Source
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
    contradictory = manifests.contradictions(samples.digests, _samples(samples))
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


def labelled(matrix: FeatureMatrix, among: Collection[str] | None = None) -> tuple[FeatureMatrix, list[str]]:
    """The rows that have a label, of some digests if they are given, and a note on rows that have none."""
    has_label = np.array([label is not None for label in matrix.y], bool)
    missing = int((~has_label).sum())
    if not has_label.any():
        raise ManifestError("no sample has a label; put images into class folders, or add a 'label' column")
    if among is not None:
        has_label &= [digest in among for digest in matrix.digests]
    return matrix.take(has_label), [f"{missing} samples without a label are left out"] if missing else []


def check_finite(matrix: FeatureMatrix, entry: Entry) -> None:
    """Refuse embeddings that no classifier takes, which `extract` never writes.

    Raises
    ------
    ProbeError
        Some are not finite; the message names the first.
    """
    bad = np.zeros(len(matrix), bool)
    for start in range(0, len(matrix), STEP):
        bad[start : start + STEP] = ~np.isfinite(matrix.X[start : start + STEP]).all(axis=1)
    if bad.any():
        holds = "holds a value that is" if bad.sum() == 1 else "hold values that are"
        raise ProbeError(
            f"{bad.sum()} of {len(matrix)} embeddings of {entry.title} {holds} not finite: {matrix.ids[bad][0]}; leave "
            "such images out of the manifest, or extract them into a new store"
        )


def choose_splits(matrix: FeatureMatrix, seed: int, multi_label: bool = False) -> tuple[np.ndarray, str]:
    """Each row's split as given, or made; and which of the two.

    Sets of labels are not stratified by: most of them are too rare.
    """
    given = set(matrix.split)
    samples = _samples(matrix)
    if None in given and len(given) > 1:
        first = next(sample.id for sample in samples if sample.split is None)
        raise ManifestError(f"some samples have a split and {first} has none; give every sample one, or none")
    check = manifests.check_label_sets if multi_label else manifests.check_labels
    check(samples)
    if is_unsplit(matrix):
        made, how = split_by_content(matrix, seed) if multi_label else _split_by_class(matrix, seed)
        check([s._replace(split=part) for s, part in zip(samples, made, strict=True)])
        return made, how
    if "train" not in given:
        raise ManifestError(f"no sample is in train (only in {', '.join(sorted(given))}); nothing to learn from")
    return matrix.split, "given"


def _samples(matrix: FeatureMatrix) -> list[Sample]:
    return [Sample(*row) for row in zip(matrix.ids, matrix.ids, matrix.y, matrix.split, strict=True)]


def is_unsplit(matrix: FeatureMatrix) -> bool:
    """Whether splits have to be made: none is given, or train alone."""
    return set(matrix.split) in ({None}, {"train"})


def _split_by_class(matrix: FeatureMatrix, seed: int) -> tuple[np.ndarray, str]:
    made = manifests.assign_splits(matrix.y, matrix.units, seed=seed)
    return np.array(made, object), f"made here: 60/20/20, stratified, seed {seed}"


def split_by_content(matrix: FeatureMatrix, seed: int) -> tuple[np.ndarray, str]:
    """Each row's split, made whatever its label is; and how."""
    made = manifests.assign_splits([""] * len(matrix), matrix.units, seed=seed)
    return np.array(made, object), f"made here: 60/20/20 by content, seed {seed}"


def arrange(matrix: FeatureMatrix, split: np.ndarray) -> FeatureMatrix:
    """A matrix with the split of each row, (n,), in the order of the splits, so that each part is a slice.

    Within a split, exact copies of rows of earlier splits come last.
    """
    places = np.array([manifests.SPLITS.index(name) for name in split])
    first: dict[str, int] = {}  # digest → the earliest split that holds it
    for digest, place in zip(matrix.digests.tolist(), places.tolist(), strict=True):
        first[digest] = min(place, first.get(digest, place))
    copied = places > [first[digest] for digest in matrix.digests.tolist()]
    order = np.lexsort([copied, places])  # stable
    return replace(matrix.take(order), split=split[order])


def _are_among(digests: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which digests, (n,), are among those that are known; NumPy compares objects each with each."""
    some = set(known.tolist())
    return np.fromiter((digest in some for digest in digests.tolist()), bool, len(digests))


def cut(matrix: FeatureMatrix, elsewhere: str | None = None) -> Parts:
    """The parts of an arranged matrix: test is reported, or else val, without copies of what is learned.

    Val images that are copies of training images choose nothing: a probe knows them by heart.
    """
    train, val, test = sizes(matrix.split).values()
    if not val + test:
        many = f"{len(matrix)} images of {len(set(map(str, matrix.y)))} classes"
        raise ManifestError(
            f"classes are too small to hold any image back for evaluation ({many}); add images or a test split"
        )
    learned = train + val if test else train
    copies = int(_are_among(matrix.digests[learned:], matrix.digests[:learned]).sum())
    new = learned - int(_are_among(matrix.digests[train:learned], matrix.digests[:train]).sum())
    some = 0 < copies < len(matrix) - learned
    return Parts(
        train=matrix.take(slice(train)),
        select=matrix.take(slice(train, new)) if new > train else None,
        report=matrix.take(slice(learned, len(matrix) - copies if some else None)),
        whole=matrix.take(slice(learned, None)) if some else None,
        learned=matrix.take(slice(learned)),
        reported="test" if test else "val",
        elsewhere=elsewhere,
    )


def sizes(split: np.ndarray) -> dict[str, int]:
    """Split → number of rows."""
    return {name: int((split == name).sum()) for name in manifests.SPLITS}


def tuned_on(entry: Entry, parts: Parts) -> int:
    """How many of the reported images an entry's network was tuned on, as far as its model file is still there to say.

    Copies of images that are learned from here are not counted: of them `copy_notes` speaks.
    """
    new = sorted({*parts.report.digests} - {*parts.learned.digests})
    seen = models.seen_in_tuning(entry.provenance["source"], entry.spec)
    return int(np.isin(models.digest_keys(new), seen).sum())


def copy_notes(parts: Parts) -> list[str]:
    """A note for each held-out split that holds exact copies of what is learned."""
    return _select_notes(parts) + _report_notes(parts)


def _select_notes(parts: Parts) -> list[str]:
    val = len(parts.learned) - len(parts.train)
    count = val - (0 if parts.select is None else len(parts.select))
    if not count:
        return []
    if count == val:
        return ["every val image is an exact copy of a training image, so no val image is used to choose anything"]
    if count == 1:
        return [f"1 of {val} val images is an exact copy of a training image; it is not used to choose anything"]
    return [f"{count} of {val} val images are exact copies of training images; they are not used to choose anything"]


def _report_notes(parts: Parts) -> list[str]:
    on = parts.reported
    if parts.whole is None:
        if not _are_among(parts.report.digests, parts.learned.digests).any():
            return []
        return [f"every {on} image is an exact copy of a training image, so the accuracy says nothing about new images"]
    count, of = len(parts.whole) - len(parts.report), f"of {len(parts.whole)} {on} images"
    if count == 1:
        return [f"1 {of} is an exact copy of a training image; the figures are without it"]
    return [f"{count} {of} are exact copies of training images; the figures are without them"]


def headline(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figure that counts and the number of images: ``n, top1``, or ``n, map`` where there is a mean average."""
    return {key: figures[key] for key in ("n", "map" if "map" in figures else "top1")}


def interval(part: FeatureMatrix, right: np.ndarray) -> dict[str, Any]:
    """Where samples have groups, how many are reported and the interval over them; else nothing.

    Parameters
    ----------
    part : FeatureMatrix
    right : ndarray of bool, shape (n,)
        Whether the answer to each of its rows is right.
    """
    if part.groups is None:
        return {}
    units = part.units
    return {"groups": len(np.unique(units)), "interval": list(reports.bootstrap(right, units))}


def with_copies(
    figures: Mapping[str, Any], parts: Parts, evaluate: Callable[[FeatureMatrix], Mapping[str, Any]]
) -> dict[str, Any]:
    """Figures of the reported rows, and next to them the headline with the copies that are left out, if there are any.

    Parameters
    ----------
    figures : mapping
        What `evaluate` gives of ``parts.report``.
    parts : Parts
    evaluate : callable
        Gives the figures of rows.

    Returns
    -------
    dict
        The figures, and ``with_copies`` (`headline`'s) where there are copies.
    """
    return {**figures, **({} if parts.whole is None else {"with_copies": headline(evaluate(parts.whole))})}
