"""Embeddings of a data set that no store keeps, a block of samples at a time; for stages that need each one once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np

from featurepipe import extraction, matrices
from featurepipe.backbones import Extractor
from featurepipe.errors import ManifestError
from featurepipe.extraction import Settings
from featurepipe.extraction.streams import Once, Stream, Take
from featurepipe.listeners import Listener
from featurepipe.manifests import Manifest, Sample
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.scratch import scratch
from featurepipe.media import plural
from featurepipe.stages.extractions import digest, first_line
from featurepipe.stores import Row, Rows
from featurepipe.vocabulary import ComputeOptions


@dataclass
class Asked:
    """Samples of one medium, the extractor that embeds them, and what has come of it.

    Attributes
    ----------
    name : str
        The extractor's, and no other one's here.
    extractor : Extractor
    manifest : Manifest
    rows : Rows
        With the digests of what can be read.
    reasons : dict
        Sample id → why there is no embedding.
    X : ndarray of float32, shape (n, width), or None
        Where the embeddings are put, if they are.
    has : ndarray of bool, shape (n,)
        Which rows have had an embedding.
    """

    name: str
    extractor: Extractor
    manifest: Manifest
    rows: Rows
    reasons: dict[str, str]
    X: np.ndarray | None = None
    has: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.has = np.zeros(len(self.rows), bool)

    @property
    def medium(self) -> str:
        """What the samples are."""
        return self.extractor.transform.medium

    @cached_property
    def places(self) -> dict[str, int]:
        """Sample id → row."""
        return {id_: row for row, id_ in enumerate(self.rows.samples.ids)}

    def matrix(self, numbers: np.ndarray, X: np.ndarray) -> FeatureMatrix:
        """Some rows with their embeddings."""
        return matrices.from_rows(self.pick(numbers), X)

    def pick(self, numbers: np.ndarray) -> list[Row]:
        """Some rows."""
        return [self.rows[number] for number in numbers.tolist()]

    def whole(self, compute: ComputeOptions, listener: Listener) -> FeatureMatrix:
        """Embed all, and keep them."""
        blocks: list[tuple[np.ndarray, np.ndarray]] = []
        self.embed(compute, lambda *block: blocks.append(block), listener)
        numbers, X = zip(*blocks, strict=True)
        return self.matrix(np.concatenate(numbers), np.concatenate(X))

    def embed(self, compute: ComputeOptions, take: Take, listener: Listener) -> None:
        """Embed all, and hand on block after block."""

        def noted(numbers: np.ndarray, X: np.ndarray) -> None:
            self.has[numbers] = True
            take(numbers, X)

        listener.note(first_line(self.extractor, len(self.rows)))
        plan = Once(self.rows, self.manifest.source)
        sink = Stream(self.rows, plan, self.extractor.spec, noted)
        outcome = extraction.fill(plan, self.extractor, sink, Settings(**vars(compute)), listener=listener)
        sink.finish()
        if outcome.rejects:
            lacking = self.pick(np.flatnonzero(self.rows.readable & ~self.has))
            found = {row.sample.id: outcome.rejects[row.digest] for row in lacking}
            both = self.reasons | found
            self.reasons = {id_: both[id_] for id_ in self.rows.samples.ids if id_ in both}  # in their order
        check_read(int(self.has.sum()), self.reasons, self.manifest, self.medium)


def ask(
    data: Mapping[str, Manifest], extractors: Sequence[Extractor], compute: ComputeOptions, listener: Listener
) -> list[Asked]:
    """Take the digests of a data set, for each of several extractors.

    Parameters
    ----------
    data : mapping
        Medium → the data set, as samples of that medium.
    extractors : sequence of Extractor
    compute : ComputeOptions
    listener : Listener
    """
    digested = {medium: digest(manifest, compute.workers, listener) for medium, manifest in data.items()}
    asked: dict[str, Asked] = {}
    for number, extractor in enumerate(extractors, 1):
        name = extractor.name if extractor.name not in asked else f"{extractor.name} ({number})"
        medium = extractor.transform.medium
        asked[name] = Asked(name, extractor, data[medium], *digested[medium])
    return list(asked.values())


def stream(
    asked: Sequence[Asked],
    compute: ComputeOptions,
    take: Callable[[FeatureMatrix, list[Sample]], object],
    listener: Listener,
) -> dict[str, str]:
    """Embed, and hand on what all extractors can embed, block by block; sample id → reason of the rejects.

    Of several extractors the embeddings of a sample lie side by side. The others' embeddings wait for those of the
    first in files without names, in the folder for temporary files.

    Parameters
    ----------
    asked : sequence of Asked
        From `ask`.
    compute : ComputeOptions
    take : callable
        Takes a matrix and the samples of its rows: those of the first extractor, in their order.
    listener : Listener

    Raises
    ------
    ManifestError
        No sample can be embedded.
    StoreError
        There is no room for the embeddings that wait.
    """
    first, *others = asked
    if not others:
        first.embed(compute, lambda numbers, X: take(first.matrix(numbers, X), _samples(first, numbers)), listener)
        return first.reasons
    for other in others:
        other.X = scratch(Path(tempfile.gettempdir()), (len(other.rows), other.extractor.width))
        other.embed(compute, other.X.__setitem__, listener)
    answered: set[str] = set()

    def join(numbers: np.ndarray, X: np.ndarray) -> None:
        numbers, joined = _joined(first, others, numbers, X)
        if joined is not None:
            answered.update(joined.ids)
            take(joined, _samples(first, numbers))

    first.embed(compute, join, listener)
    if not answered:
        _refuse(asked)
    return _rejects(asked, answered)


def embed(
    data: Mapping[str, Manifest], extractors: Sequence[Extractor], compute: ComputeOptions, listener: Listener
) -> tuple[FeatureMatrix, dict[str, str]]:
    """All embeddings of a data set in memory, and sample id → reason of the rejects.

    Of several extractors the embeddings of a sample lie side by side; what one of them cannot embed is rejected.

    Parameters
    ----------
    data, extractors, compute, listener
        As for `ask`.
    """
    asked = ask(data, extractors, compute, listener)
    blocks = {one.name: one.whole(compute, listener) for one in asked}
    if len(asked) == 1:
        return blocks[asked[0].name], asked[0].reasons
    if not set.intersection(*({*block.ids} for block in blocks.values())):
        _refuse(asked)
    joined = matrices.join(blocks)[0]
    return joined, _rejects(asked, {*joined.ids})


def _samples(asked: Asked, numbers: np.ndarray) -> list[Sample]:
    return [asked.rows.samples[number] for number in numbers.tolist()]


def _joined(
    first: Asked, others: Sequence[Asked], numbers: np.ndarray, X: np.ndarray
) -> tuple[np.ndarray, FeatureMatrix | None]:
    """Which of some rows of the first (numbers, with embeddings X) the others have too, and all side by side."""
    ids = [first.rows.samples.ids[number] for number in numbers.tolist()]
    theirs = [np.array([other.places.get(id_, -1) for id_ in ids]) for other in others]
    common = np.logical_and.reduce([(at >= 0) & other.has[at] for at, other in zip(theirs, others, strict=True)])
    if not common.any():
        return numbers[common], None
    blocks = {first.name: first.matrix(numbers[common], X[common])}
    for at, other in zip(theirs, others, strict=True):
        assert other.X is not None  # it was embedded before
        blocks[other.name] = other.matrix(at[common], other.X[at[common]])
    return numbers[common], matrices.join(blocks)[0]


def _refuse(asked: Sequence[Asked]) -> NoReturn:
    """Say why no sample has an embedding of each extractor."""
    rejects = {id_: f"{one.name}: {why}" for one in reversed(asked) for id_, why in one.reasons.items()}
    left = {one.name: np.flatnonzero(one.has) for one in asked}
    if not all(one.rows.samples.ids[row] in rejects for one in asked for row in left[one.name].tolist()):
        matrices.join({one.name: one.matrix(left[one.name], np.zeros((len(left[one.name]), 1))) for one in asked})
    id_, reason = next(iter(_rejects(asked, set()).items()))
    raise ManifestError(
        f"each sample is rejected for {' or '.join(one.name for one in asked)}; first reason: {reason} ({id_})"
    )


def _rejects(asked: Sequence[Asked], answered: set[str]) -> dict[str, str]:
    """Why samples have no answer, by the first extractor that says so."""
    rejects: dict[str, str] = {}
    for one in asked:
        rejects |= {id_: f"{one.name}: {why}" for id_, why in one.reasons.items() if id_ not in rejects}
    known = dict.fromkeys(id_ for one in asked for id_ in one.rows.samples.ids)
    for one in asked:
        lacking = sorted(known.keys() - answered - rejects.keys() - one.places.keys())
        rejects |= dict.fromkeys(lacking, f"it has nothing for {one.name}")
    return rejects


def check_read(held: int, rejects: Mapping[str, str], manifest: Manifest, medium: str) -> None:
    """Raise ManifestError where no sample could be read."""
    if held:
        return
    id_, reason = next(iter(rejects.items()))
    if len(manifest) == 1:
        raise ManifestError(f"{manifest.name(manifest.samples[0])} cannot be read: {reason}")
    where = f"these {plural(medium)}" if manifest.root == Path() else manifest.root
    raise ManifestError(f"no {medium} of {where} can be read; first reason: {reason} ({id_})")
