"""What a page shows of single samples, made from a model file and the store that holds its embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import backbones, extraction, manifests, matrices, models, probes, statistics
from featurepipe.errors import DependencyMissing, FeaturepipeError, StoreError
from featurepipe.extraction import Settings
from featurepipe.listeners import SILENT, Listener, Quiet
from featurepipe.matrices import FeatureMatrix
from featurepipe.models.answers import BLOCK as PROBABILITIES
from featurepipe.models.candidates import Candidate, divide, find_joint
from featurepipe.models.files import Model
from featurepipe.reports.galleries import ALIKE, NONE, Alike, Gallery
from featurepipe.reports.looks import LOOKS, show
from featurepipe.stages.advice import advise
from featurepipe.statistics import projections
from featurepipe.stores import Entry, Store
from featurepipe.vocabulary import EntryOptions, JoinOptions

POINTS = 100_000  # samples of a page; of more a draw
BLOCK = 2**14  # embeddings at once
Reader = Callable[[np.ndarray], np.ndarray]  # numbers of rows → their embeddings
Shape = Callable[[np.ndarray], np.ndarray]  # embeddings → features (n, D) to compare samples by


@dataclass(frozen=True)
class Way:
    """How samples are looked at.

    Attributes
    ----------
    pictures : int
        Bytes of all pictures; 0 for none.
    projection : str
        One of `featurepipe.vocabulary.names.PROJECTIONS`.
    """

    pictures: int
    projection: str


def nearby_store(model: Path) -> Path | None:
    """The store next to a model file, as `run` and `probe` leave it; None where there is none."""
    places = model.parent.parent / "store", model.parent.parent, model.parent / "store"
    return next((place for place in places if Store.is_store(place)), None)


def gather(model: Path, loaded: Model, store: Path, how: Way, listener: Listener = SILENT) -> Gallery:
    """A gallery of a store's samples.

    Raises
    ------
    FeaturepipeError
        The store does not hold what the model was made from.
    """
    if "task" in loaded.card.data:
        raise StoreError("the labels come from a table of several tasks, and the store does not hold them")
    opened = Store.open(store)
    source = _source(opened, loaded)
    entry = source.entry
    rows, reported = _rows(source, loaded)
    alike = _blocks([member.width for member in entry.members])
    if entry.fingerprint == loaded.backbone["fingerprint"]:
        rows = rows.take(_drawn(len(rows), reported, loaded.card.seed))
        places = rows.X

        def read(numbers: np.ndarray) -> np.ndarray:
            return matrices.gather(entry, places[numbers])
    else:  # a network that was tuned has no embeddings here
        rows = rows.take(slice(reported))
        X = _embedded(model, loaded, opened, rows, listener)

        def read(numbers: np.ndarray) -> np.ndarray:
            return X[numbers]

    found = _judged(loaded, rows, min(reported, len(rows)), read, how.projection, alike)
    made = Gallery(
        ids=[_local(id_, opened.root) for id_ in rows.ids.tolist()],
        whole=len(source.samples),
        store=opened.path.resolve().name,
        medium=backbones.medium_of(loaded.backbones[0]["spec"]),
        advice=_advice(source, loaded),
        notes=_notes(loaded, reported, found["truth"][:reported] == found["guess"][:reported]),
        **found,
    )
    made = made.near(_alike(made, rows, loaded, read, alike))
    return made.shown(_looks(made, opened, source.rows_of(rows)[0][1], how.pictures, listener))


def _source(store: Store, model: Model) -> Candidate:
    """The rows of the model's entries in a store."""
    first, *others = (_entry(store, model, one) for one in model.backbones)
    where = EntryOptions(backbone=first.folder.name, layer=first.layer, device="cpu")
    joined = JoinOptions(with_=tuple(entry.folder.name for entry in others))
    return find_joint(store.path, None, where, joined, reads=first.reads)


def _entry(store: Store, model: Model, backbone: Mapping[str, Any]) -> Entry:
    """The entry of a model's backbone; of a tuned network, the one that it was tuned from."""
    entries = store.entries()
    for entry in entries:
        if entry.fingerprint == backbone["fingerprint"]:
            return entry
    spec = backbone["spec"]
    if model.card.tuned is not None:
        for entry in entries:
            if {**entry.spec, "weights": spec["weights"]} == spec and not entry.is_baseline:
                return entry
        for entry in entries:
            if entry.spec["architecture"] == spec["architecture"] and not entry.is_baseline:
                return entry
    raise StoreError(f"{store.path.name} holds no embeddings of the model's backbone {backbone['name']}")


def _rows(source: Candidate, model: Model) -> tuple[FeatureMatrix, int]:
    """All rows, those first that the model's figures are measured on; and how many these are.

    What the model has learned from is never among them, whatever became of the store.
    """
    card = model.card
    parts = divide(source, seed=card.seed, multi_label=model.is_multi_label).parts
    if card.evaluated_on == "folds":
        raise StoreError("the probe has learned from every sample, so none shows what it does on new ones")
    if parts.reported != card.evaluated_on:
        raise StoreError(f"the store has other splits now than when the model was made (no {card.evaluated_on})")
    report = parts.report.take(~model.has_seen_rows(parts.report))
    split = dict(zip(parts.learned.ids.tolist(), parts.learned.split.tolist(), strict=True))
    held = {*report.ids.tolist()}
    others = source.samples.take(np.array([id_ not in held for id_ in source.samples.ids.tolist()], bool))
    names = ("ids", "X", "y", "split", "digests")
    columns: dict[str, Any] = {name: np.concatenate([getattr(report, name), getattr(others, name)]) for name in names}
    rows = FeatureMatrix(**columns)
    rows.split[len(report) :] = [split.get(id_, given) for id_, given in zip(others.ids, others.split, strict=True)]
    return rows, len(report)


def _drawn(count: int, reported: int, seed: int) -> np.ndarray:
    """At most `POINTS` rows, in their order: the reported ones, and a draw of the others."""
    if count <= POINTS:
        return np.arange(count)
    generator = np.random.default_rng(seed)
    if reported >= POINTS:
        return np.sort(generator.permutation(reported)[:POINTS])
    others = reported + generator.permutation(count - reported)[: POINTS - reported]
    return np.concatenate([np.arange(reported), np.sort(others)])


def _embedded(model: Path, loaded: Model, store: Store, rows: FeatureMatrix, listener: Listener) -> np.ndarray:
    """Embeddings of rows by the model's own network, (n, width)."""
    extractor = models.open_backbone(loaded, model, note=listener.note)
    memory = extraction.Memory(spec=extractor.spec)
    digests = list(dict.fromkeys(rows.digests.tolist()))
    extraction.fill(store.pending(digests), extractor, memory, Settings(), listener=Quiet(listener))
    missing = [digest for digest in digests if digest not in memory.vectors]
    if missing:
        raise StoreError(f"{len(missing)} of {len(digests)} reported samples cannot be read any more")
    return np.stack([memory.vectors[digest] for digest in rows.digests.tolist()])


def _judged(
    model: Model, rows: FeatureMatrix, reported: int, read: Reader, projection: str, alike: Shape
) -> dict[str, Any]:
    """What the model says of rows, and where they lie on the map."""
    place, said = _projection(len(rows), lambda numbers: alike(read(numbers)), model.card.seed, projection)
    truths = ["" if label is None else _sorted_set(label, model) for label in rows.y.tolist()]
    names = list(map(str, model.classes.tolist())) if not model.is_multi_label else []
    labels = [*names, *sorted({truth for truth in truths if truth} - {*names})]
    number = {label: n for n, label in enumerate(labels)}
    guess = np.full(len(rows), NONE, np.int64)
    confidence, raw = np.zeros(len(rows), np.float32), np.zeros(reported, np.float32)
    points = np.zeros((len(rows), 2))
    step = max(1, min(BLOCK, PROBABILITIES // max(1, len(model.classes))))
    order = np.arange(len(rows)) if rows.X.ndim < 2 else np.lexsort(rows.X.T[::-1])  # shard by shard
    for start in range(0, len(rows), step):
        at = np.sort(order[start : start + step])
        X = read(at)
        points[at] = place(alike(X), at)
        proba = model.predict_proba(X)  # (m, K)
        if model.is_multi_label:
            sets = [manifests.write_set(sorted(model.classes[row].tolist())) for row in proba > 0.5]
            guess[at] = [number.setdefault(one, len(number)) for one in sets]
            confidence[at] = np.exp(np.log(np.maximum(proba, 1 - proba)).sum(axis=1))
        else:
            guess[at], confidence[at] = proba.argmax(axis=1), proba.max(axis=1)
            mine = at < reported
            if model.temperature != 1 and mine.any():
                raw[at[mine]] = probes.probabilities(model.estimator, X[mine], 1.0).max(axis=1)
    return {
        "labels": list(number),
        "truth": np.array([number[truth] if truth else NONE for truth in truths], np.int64),
        "guess": guess,
        "confidence": confidence,
        "split": np.array([manifests.SPLITS.index(one) if one else NONE for one in rows.split.tolist()], np.int64),
        "reported": reported,
        "points": points,
        "projection": said,
        "raw": None if model.temperature == 1 or model.is_multi_label else raw,
    }


def _sorted_set(label: str, model: Model) -> str:
    """A label; a set of labels as the model writes it."""
    return manifests.write_set(sorted(manifests.read_set(label))) if model.is_multi_label else label


def _projection(
    count: int, read: Reader, seed: int, wanted: str
) -> tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], str]:
    """Gives the points of embeddings, by them and their numbers; and how it does, in words."""
    if wanted == "tsne" and count <= projections.NEIGHBOURHOOD:
        points = projections.tsne(read(np.arange(count)), seed)
        return lambda X, at: points[at], "t-SNE: neighbours stay together; distances between groups mean little"
    drawn = np.arange(count)
    if count > projections.FITTED:
        drawn = np.sort(np.random.default_rng(seed).permutation(count)[: projections.FITTED])
    plane = projections.Plane.of(read(drawn))
    too_many = f"t-SNE is for at most {projections.NEIGHBOURHOOD:,} samples, so this is " if wanted == "tsne" else ""
    said = f"{too_many}PCA: the two directions of most variance, {100 * plane.explained:.0f} % of all of it"
    return lambda X, at: plane.place(X), said


def _blocks(widths: Sequence[int]) -> Shape:
    """Gives features (n, D) to compare samples by; of tokens (n, H, W, D) their means.

    Of several backbones the embedding of each has length 1, so that each counts alike, and the cosine of two samples is
    the mean of theirs.
    """

    def compared(X: np.ndarray) -> np.ndarray:
        if len(widths) == 1:
            return X if X.ndim == 2 else X.mean(axis=(1, 2), dtype=np.float32)
        parts = np.split(X, np.cumsum(widths)[:-1], axis=1)
        return np.concatenate([statistics.directions(part) for part in parts], axis=1)

    return compared


def _local(id_: str, root: Path | None) -> str:
    """A sample's name without what lies above the data's folder."""
    if os.path.isabs(id_):
        if root is None:
            return os.path.basename(id_)
        inside = os.path.relpath(id_, root)
        return os.path.basename(id_) if inside.startswith(os.pardir) else inside
    return os.path.basename(id_) if id_.startswith(os.pardir + os.sep) else id_


def _notes(model: Model, reported: int, right: np.ndarray) -> list[str]:
    """Says so where the store is not what it was when the figures were measured."""
    figures = model.card.figures
    is_comparable = len(right) == reported and not model.is_multi_label  # of very many samples, some are left out
    same = figures.n == reported and not (is_comparable and abs(right.mean() - figures.top1) > 1e-9)
    if same:
        return []
    return [
        f"The pictures are of {reported:,} samples of which {int(right.sum()):,} are right; the figures were measured "
        f"on {figures.n:,}. The data or the splits have changed since, or the figures were rounded otherwise."
    ]


def _advice(source: Candidate, model: Model) -> dict[str, Any] | None:
    """What to do next, from the embeddings; None where advice does not apply."""
    card = model.card
    if model.is_multi_label or len(model.backbones) > 1 or card.finetuning is not None or card.protocol is not None:
        return None
    try:
        return advise(source.store.path, backbone=source.entry.folder.name, seed=card.seed, listener=SILENT)
    except FeaturepipeError:  # hand-made features cannot be tuned, and some labels tell nothing
        return None


def _alike(made: Gallery, rows: FeatureMatrix, model: Model, read: Reader, alike: Shape) -> dict[int, list[Alike]]:
    """The nearest samples, among those that the model has learned from, of the reported ones that matter most.

    Not of a tuned network, which has embedded the reported samples only.
    """
    learned = made.reported + np.flatnonzero(model.has_seen_rows(rows.take(slice(made.reported, len(rows)))))
    asked = made.compared
    if not len(learned) or not len(asked):
        return {}
    pieces = (alike(read(learned[start : start + BLOCK])) for start in range(0, len(learned), BLOCK))
    found = statistics.search(alike(read(asked)), pieces, ALIKE)
    near = zip(learned[found.rows].tolist(), (1 - found.distances).tolist(), strict=True)
    both = zip(asked.tolist(), near, strict=True)
    return {row: [Alike(*one) for one in zip(*pair, strict=True)] for row, pair in both}


def _looks(made: Gallery, store: Store, rows: FeatureMatrix, budget: int, listener: Listener) -> dict[int, Any]:
    way = LOOKS.get(made.medium)
    if way is None or not budget:
        return {}
    wanted = made.order[: way.most].tolist()
    pending = store.pending(rows.digests[wanted].tolist())
    try:
        return show(dict(zip(wanted, pending, strict=True)), way, budget, listener)
    except DependencyMissing as error:
        listener.note(f"note: {error}")
        return {}
