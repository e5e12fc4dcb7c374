"""What a model says of images, block by block: counted, written as a table, or returned.

Of a model of many classes all probabilities of all images at once would not fit into memory.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from featurepipe import manifests, models, tables
from featurepipe.characters import safe_cell
from featurepipe.errors import ManifestError
from featurepipe.manifests import Sample

BLOCK = 2**22  # probabilities at once
DECIMALS = 6  # of a probability in CSV: a file of all classes would otherwise be three times as large
STEPS = 10**DECIMALS


@dataclass(frozen=True)
class Answers:
    """Which answers a model gives to samples, and with which columns.

    Attributes
    ----------
    model : Model
    probabilities : bool
        Whether there is a column for each class.
    has_truths : bool
        Whether there is a column for the samples' own labels.
    has_parts : bool
        Whether there is a column for what part of its file a sample is.
    least : float or None
        The least confidence of an answer; None where all are given.
    """

    model: models.Model
    probabilities: bool
    has_truths: bool = False
    has_parts: bool = False
    least: float | None = None

    @classmethod
    def to(
        cls, samples: Iterable[Sample], model: models.Model, *, probabilities: bool, least: float | None = None
    ) -> Answers:
        """Answers with the columns that make sense for samples, which are looked at once.

        Folders are not always named after classes: a column of true labels is there if any is a class of the model.
        """
        labels: set[str | None] = set()
        has_parts = False
        for sample in samples:
            labels.add(sample.label)
            has_parts |= sample.part is not None
        known, truths = set(map(str, model.classes.tolist())), labels - {None}
        if model.is_multi_label:
            truths = {label for text in truths if text is not None for label in manifests.read_set(text)}
        return cls(model, probabilities, not known.isdisjoint(truths), has_parts, least)

    @property
    def names(self) -> list[str]:
        """Names of the probabilities' columns."""
        return [f"p:{label}" for label in self.model.classes] if self.probabilities else []


@dataclass(frozen=True)
class Block:
    """Some rows.

    Attributes
    ----------
    before, after : dict
        Column → cells, of those in front of the probabilities and behind them.
    proba : ndarray of shape (rows, classes or 0)
        What of the probabilities is written.
    """

    before: dict[str, list[Any]]
    proba: np.ndarray
    after: dict[str, list[Any]]


@dataclass
class Count:
    """What is said of all answers together.

    Attributes
    ----------
    labels : Counter
        Label → images.
    labelled, right : int
        Images with a true label, and those on which the model is right, or would be if it answered.
    abstained : int
        Images on which it does not answer.
    answered, answered_right : int
        Images with a true label on which it answers, and those on which it is right.
    """

    labels: Counter[str] = field(default_factory=Counter)
    labelled: int = 0
    right: int = 0
    abstained: int = 0
    answered: int = 0
    answered_right: int = 0


Taker = Callable[[Block], object]


def answer(
    answers: Answers, X: np.ndarray, samples: Sequence[Sample], files: Sequence[str], count: Count, take: Taker
) -> None:
    """Give rows to `take`, a block at a time, and count them.

    Parameters
    ----------
    answers : Answers
    X : ndarray, shape (n, width)
    samples : sequence of Sample
        One for each row.
    files : sequence of str
        How to open each of them from here.
    count : Count
        Goes on counting.
    take : callable
    """
    step = max(1, BLOCK // max(1, len(answers.model.classes)))
    for start in range(0, len(samples), step):
        rows = slice(start, start + step)
        _answer(answers, X[rows], samples[rows], files[rows], count, take)


def _answer(
    answers: Answers, X: np.ndarray, samples: Sequence[Sample], files: Sequence[str], count: Count, take: Taker
) -> None:
    """As `answer`, of a single block."""
    model, proba = answers.model, answers.model.predict_proba(X)  # (rows, K)
    before = {"path": [sample.place for sample in samples]}
    before |= _multiple(model, proba, count) if model.is_multi_label else _single(answers, proba, count)
    after: dict[str, list[Any]] = {"true_label": _truths(model, samples)} if answers.has_truths else {}
    guesses = before.get("guess", before["label"])
    for guess, label, truth in zip(guesses, before["label"], after.get("true_label", ()), strict=bool(after)):
        is_right = bool(truth) and str(guess) == truth
        count.labelled += bool(truth)
        count.right += is_right
        count.answered += bool(truth) and label is not None
        count.answered_right += is_right and label is not None
    after |= {"part": [sample.part for sample in samples]} if answers.has_parts else {}
    after["file"] = list(files)
    take(Block(before, proba if answers.probabilities else proba[:, :0], after))


def _single(answers: Answers, proba: np.ndarray, count: Count) -> dict[str, list[Any]]:
    """Each row's label and how sure the model is of it; with a threshold, None where it is not, and its guess."""
    labels, sure = answers.model.classes[proba.argmax(axis=1)].tolist(), proba.max(axis=1).tolist()
    if answers.least is None:
        count.labels.update(map(str, labels))
        return {"label": labels, "confidence": sure}
    given = [label if one >= answers.least else None for label, one in zip(labels, sure, strict=True)]
    count.labels.update(str(label) for label in given if label is not None)
    count.abstained += given.count(None)
    return {"label": given, "confidence": sure, "guess": labels}


def _multiple(model: models.Model, proba: np.ndarray, count: Count) -> dict[str, list[Any]]:
    """Each row's set of labels, as a text."""
    sets = [model.classes[row].tolist() for row in proba > 0.5]
    count.labels.update(label for labels in sets for label in labels)
    return {"label": [manifests.write_set(labels) for labels in sets]}


def _truths(model: models.Model, samples: Sequence[Sample]) -> list[str | None]:
    """The samples' own labels, written as the model writes its."""
    truths = [sample.label for sample in samples]
    if not model.is_multi_label:
        return truths
    return [None if truth is None else manifests.write_set(sorted(manifests.read_set(truth))) for truth in truths]


# -- where they go ------------------------------------------------------------------------------------------------


def collector(answers: Answers, into: list[dict[str, Any]]) -> Taker:
    """Puts a dict for each row into a list."""

    def take(block: Block) -> None:
        into.extend(_dicts(block, answers.names))

    return take


@contextmanager
def table(temporary: Path, path: Path, answers: Answers, *, safe: bool) -> Iterator[Taker]:
    """Writes what will be `path` to a temporary file; as CSV with cells that are `safe` for spreadsheets, if asked."""
    if path.suffix.lower() == ".parquet":
        with _parquet(temporary, path, answers) as take:
            yield take
        return
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        if path.suffix.lower() == ".jsonl":
            yield lambda block: file.writelines(json.dumps(row) + "\n" for row in _dicts(block, answers.names))
        else:
            yield csv_writer(file, answers, safe=safe)


def csv_writer(file: TextIO, answers: Answers, *, safe: bool) -> Taker:
    """Writes to an open text file."""
    writer = csv.writer(file)  # the default line end: with another, a \r in a name would not be quoted
    as_cell = safe_cell if safe else lambda cell: cell
    started: list[bool] = []

    def take(block: Block) -> None:
        before = {name: _rounded(cells) if name == "confidence" else cells for name, cells in block.before.items()}
        if not started:
            writer.writerow(map(as_cell, [*before, *answers.names, *block.after]))
            started.append(True)
        for left, numbers, right in zip(_rows(before), _written(block.proba), _rows(block.after), strict=True):
            writer.writerow([*map(as_cell, left), *numbers, *map(as_cell, right)])

    return take


def _rounded(cells: Sequence[float]) -> list[str]:
    return [texts[0] for texts in _written(np.array(cells).reshape(-1, 1))]


def _written(proba: np.ndarray) -> list[list[str]]:
    """Probabilities (n, K) as texts; each one that there is made once, as there are many more cells."""
    steps = np.rint(proba * STEPS).astype(np.int64)
    there = np.zeros(STEPS + 1, bool)
    there[steps] = True
    texts = np.empty(STEPS + 1, object)
    texts[there] = [f"{step / STEPS:.{DECIMALS}f}".rstrip("0").rstrip(".") for step in np.flatnonzero(there)]
    return texts[steps].tolist()


@contextmanager
def _parquet(temporary: Path, path: Path, answers: Answers) -> Iterator[Taker]:
    pyarrow = tables.require_pyarrow()
    label = pyarrow.array([] if answers.model.is_multi_label else answers.model.classes.tolist()).type
    kinds = {"path": pyarrow.string(), "label": pyarrow.string() if answers.model.is_multi_label else label}
    kinds |= {"guess": kinds["label"], **dict.fromkeys(("true_label", "part", "file"), pyarrow.string())}
    writers: list[Any] = []

    def take(block: Block) -> None:
        numbers = dict(zip(answers.names, block.proba.T, strict=bool(answers.names)))
        columns = {**block.before, **numbers, **block.after}
        try:
            arrays = {name: pyarrow.array(cells, kinds.get(name, pyarrow.float64())) for name, cells in columns.items()}
        except UnicodeEncodeError as error:
            raise ManifestError(f"{path}: Parquet holds UTF-8 only, and a file name is not; use .csv") from error
        rows = pyarrow.table(arrays)
        if not writers:
            writers.append(pyarrow.parquet.ParquetWriter(temporary, rows.schema))
        writers[0].write_table(rows)

    try:
        yield take
    finally:
        for writer in writers:
            writer.close()


def _dicts(block: Block, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    columns = [*block.before, *names, *block.after]
    for left, numbers, right in zip(_rows(block.before), block.proba.tolist(), _rows(block.after), strict=True):
        yield dict(zip(columns, [*left, *numbers, *right], strict=True))


def _rows(columns: Mapping[str, list[Any]]) -> Iterator[tuple[Any, ...]]:
    return zip(*columns.values(), strict=True)
