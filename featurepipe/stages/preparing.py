"""What every stage that probes begins with: a store's entry, its labelled rows, and how they are split."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, manifests, matrices, models
from featurepipe.backbones import Extractor
from featurepipe.errors import ManifestError, ProbeError
from featurepipe.matrices import FeatureMatrix
from featurepipe.stages.listening import Listener
from featurepipe.stages.quantising import has_learned
from featurepipe.stores import Entry, Store


@dataclass(frozen=True)
class Parts:
    """A labelled matrix cut into training, selection and evaluation rows, each of them a slice of it.

    Attributes
    ----------
    train : FeatureMatrix
    select : FeatureMatrix or None
    report : FeatureMatrix
    learned : FeatureMatrix
        All rows but those that are reported.
    reported : str
        'test', or 'val' where there is no test.
    elsewhere : str or None
        Why the features are not in memory; None if they are.
    """

    train: FeatureMatrix
    select: FeatureMatrix | None
    report: FeatureMatrix
    learned: FeatureMatrix
    reported: str
    elsewhere: str | None

    @property
    def nbytes(self) -> int:
        """What the features take of the memory."""
        return 0 if self.elsewhere else self.learned.X.nbytes + self.report.X.nbytes


@dataclass(frozen=True)
class Prepared:
    """An entry of a store, ready to be probed.

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
        The labelled rows by split, before their embeddings are read: see `featurepipe.matrices.outline`.
    split_source : str
    parts : Parts
        The same.
    notes : list of str
    """

    store: Store
    entry: Entry
    path: Path
    origin: Mapping[str, Any]
    module: Any
    samples: FeatureMatrix
    split_source: str
    parts: Parts
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
            seen=models.digest_keys(self.parts.learned.digests),
            card=card,
        )


def prepare(
    store: str | Path,
    output: str | Path | None,
    *,
    backbone: str | Extractor | None,
    layer: str | None,
    weights: str | Path | None,
    include_backbone: bool,
    among: Collection[str] | None = None,
    seed: int,
    device: str,
) -> Prepared:
    """Find an entry, check where its model file goes, find its labelled rows and split them.

    Parameters
    ----------
    store, output, backbone, layer, weights, include_backbone, seed, device
        As for `featurepipe.stages.probe`.
    among : collection of str, optional
        Digests of the images to use; by default all.

    Raises
    ------
    ManifestError, ProbeError, StoreError
        As for `featurepipe.stages.probe`.
    """
    source = Store.open(store)
    by_name = backbone is None or isinstance(backbone, str)
    if layer is not None and not by_name:
        raise TypeError("layer: that is for a backbone by name, a ready-made one has its own")
    entry = source.choose(backbone, layer) if by_name else source.entry(backbone)
    path = Path(output) if output is not None else entry.folder / "model.safetensors"
    models.check_suffix(path)
    origin = entry.provenance["source"] if by_name else backbone.source
    module = None
    if weights is not None or include_backbone:
        made = backbones.recreate(entry.spec, origin, weights=weights, device=device) if by_name else backbone
        origin, module = made.source, getattr(made, "module", None) if include_backbone else None
    samples, notes = outline(source, entry, among)
    split, split_source = choose_splits(samples, seed)
    samples = arrange(samples, split)
    parts = cut(samples)
    if has_learned(entry, parts.train, samples.take(samples.split != "train")):
        raise ProbeError(
            f"the codebook of {entry.title} was learned from images that are held out now; use the seed and splits of "
            "then, or learn another: featurepipe compare --baselines full"
        )
    return Prepared(source, entry, path, origin, module, samples, split_source, parts, notes + copy_notes(parts))


def outline(store: Store, entry: Entry, among: Collection[str] | None) -> tuple[FeatureMatrix, list[str]]:
    """The labelled rows before their embeddings are read, of some digests if they are given; and notes."""
    samples, notes = labelled(matrices.outline(store, entry))
    if among is None:
        return samples, notes
    return samples.take(np.array([digest in among for digest in samples.digests], bool)), notes


def labelled(matrix: FeatureMatrix) -> tuple[FeatureMatrix, list[str]]:
    """The rows that have a label, and a note on those that have none."""
    has_label = np.array([label is not None for label in matrix.y], bool)
    kept = matrix.take(has_label)
    missing = int((~has_label).sum())
    if not len(kept):
        raise ManifestError("no sample has a label; put images into class folders, or add a 'label' column")
    return kept, [f"{missing} samples without a label are left out"] if missing else []


def choose_splits(matrix: FeatureMatrix, seed: int) -> tuple[np.ndarray, str]:
    """Each row's split as given, or made; and which of the two."""
    given = set(matrix.split)
    samples = [manifests.Sample(*row) for row in zip(matrix.ids, matrix.ids, matrix.y, matrix.split, strict=True)]
    if None in given and len(given) > 1:
        first = next(sample.id for sample in samples if sample.split is None)
        raise ManifestError(f"some samples have a split and {first} has none; give every sample one, or none")
    manifests.check_labels(samples)
    if given in ({None}, {"train"}):
        made = manifests.assign_splits(matrix.y, matrix.digests, seed=seed)
        manifests.check_labels([s._replace(split=part) for s, part in zip(samples, made, strict=True)])
        return np.array(made, object), f"made here: 60/20/20, stratified, seed {seed}"
    if "train" not in given:
        raise ManifestError(f"no sample is in train (only in {', '.join(sorted(given))}); nothing to learn from")
    return matrix.split, "given"


def arrange(matrix: FeatureMatrix, split: np.ndarray) -> FeatureMatrix:
    """A matrix with the split of each row, (n,), in the order of the splits, so that each part is a slice."""
    order = np.argsort([manifests.SPLITS.index(name) for name in split], kind="stable")
    return replace(matrix.take(order), split=split[order])


def cut(matrix: FeatureMatrix, elsewhere: str | None = None) -> Parts:
    """The parts of an arranged matrix: test is reported, or else val."""
    train, val, test = sizes(matrix.split).values()
    if not val + test:
        raise ManifestError("classes are too small to hold any image back for evaluation; add images or a test split")
    learned = train + val if test else train
    return Parts(
        train=matrix.take(slice(train)),
        select=matrix.take(slice(train, learned)) if learned > train else None,
        report=matrix.take(slice(learned, None)),
        learned=matrix.take(slice(learned)),
        reported="test" if test else "val",
        elsewhere=elsewhere,
    )


def sizes(split: np.ndarray) -> dict[str, int]:
    """Split → number of rows."""
    return {name: int((split == name).sum()) for name in manifests.SPLITS}


def copy_notes(parts: Parts) -> list[str]:
    """A note where what is reported on has been learned from."""
    learned = set(parts.train.digests) | set(parts.select.digests if parts.select is not None else ())
    copies = sum(digest in learned for digest in parts.report.digests)
    verb = "image is an exact copy" if copies == 1 else "images are exact copies"
    return [f"{copies} {parts.reported} {verb} of training images: figures flatter"] if copies else []
