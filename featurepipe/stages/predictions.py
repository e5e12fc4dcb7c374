"""The stage `predict`: what a model file says of images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from featurepipe import backbones, extraction, manifests, models, tables
from featurepipe.backbones import Extractor
from featurepipe.errors import ModelFileError
from featurepipe.extraction import Settings, Sink
from featurepipe.files import atomic, check_output, check_safe_csv
from featurepipe.listeners import BARS, Listener
from featurepipe.manifests import Manifest, Sample, Samples
from featurepipe.matrices import FeatureMatrix
from featurepipe.models import abstentions, folders
from featurepipe.models.abstentions import Threshold
from featurepipe.models.answers import Answers, Block, Count, Taker, answer, collector, csv_writer, table
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages import clips
from featurepipe.stages.extractions import first_line, rejected_samples
from featurepipe.stages.streams import ask, stream
from featurepipe.stores import Pending, Row, Rows
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import AnswerOptions, ColumnOptions, ComputeOptions, OriginOptions

PREDICTION_SUFFIXES = (".csv", ".jsonl", ".parquet")


@guarded
@presented
@spread(wanted=AnswerOptions, columns=ColumnOptions, origin=OriginOptions, compute=ComputeOptions)
def predict(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    output: str | Path | TextIO | None = None,
    *,
    probabilities: bool = False,
    safe_csv: bool = False,
    wanted: AnswerOptions,
    columns: ColumnOptions,
    origin: OriginOptions,
    compute: ComputeOptions,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Classify images with a model file, and write ``path, label, confidence`` as CSV, JSONL or Parquet, or return it.

    A multi-label model's ``label`` is the set of labels whose probability is above 0.5, as in a manifest (``cat;dog``,
    ``;`` for none), and instead of one confidence there is a column ``p:LABEL`` for each.

    Probabilities in CSV have six decimals; in the other formats they are complete. Images are embedded, answered and
    forgotten block by block, so memory hardly grows with their number: a path and a digest each. An image that comes
    several times in a block of 16,384 is embedded once. Of a model of several backbones, the embeddings of all but the
    first wait in files without names, in the folder for temporary files.

    Images that cannot be read have no row; they are in the result's ``rejects``.

    Parameters
    ----------
    model : path
    data : path, or sequence of path
        Images, folders or tables.
    output : path or text file, optional
        File to write; an open text file gets CSV.
    probabilities : bool
        Also one column per class, named ``p:CLASS``; of a multi-label model they are always there.
    safe_csv : bool
        In CSV, put an apostrophe before cells that a spreadsheet would run as a formula: those that begin with =, +, -,
        @, a tab or a line break and are not a number. Other readers of the table have to remove it.
    wanted
    columns
    origin
    compute
    force : bool
        Also replace a file that featurepipe did not write, but never one that is read here.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``model, output, predicted, labels`` (class → count of images), ``labelled, right`` (of the images that have a
        true label: how many there are, and on how many of them the model is right), ``seen_in_training, rejected,
        rejects, found, seconds``; and ``predictions`` where there is no output: a dict for each image. Its keys are the
        columns: ``path, label, confidence``, one per class, ``true_label`` where the data have labels of the model's,
        and ``file``. ``path`` is as the data have it, below their folder; ``file`` leads to it from here.
        With a threshold, ``label`` is None where the model abstains, ``guess`` is what it would have said, ``labels``
        counts the answers that are given, ``right`` those that would be right if all were, and ``abstention`` has
        ``threshold, target_accuracy, abstained, labelled, right`` (of the answers that are given) and ``validation``
        (None, or of ``auto`` ``on, samples, coverage, accuracy``: which validation data, how many samples, which share
        of them the model answers at this threshold, and which share of these answers is right).
        With `copy_to`, ``copied`` has ``folder, written, same`` (files that were there already), ``failed`` (sample id
        → why it could not be copied) and ``renamed`` (label → folder, where its name could not be the label).

    Raises
    ------
    ModelFileError
        ``auto`` is asked for, and the model file holds nothing to choose a threshold by, or no confidence is accurate
        enough; or a model gives sets of labels, and a threshold or sorted copies are asked for.
    ProbeError
        A threshold or a target accuracy that is none.
    ManifestError
        Copies are asked for, and samples are parts of files.
    OutputError
        The output or the copies cannot be written, or would replace what they must not.

    Examples
    --------
    >>> from featurepipe import run
    >>> made = run("data/digits", "/tmp/predicted.featurepipe", baselines="none")
    >>> found = predict(made["model"], "data/digits/test")
    >>> found["predicted"], found["predictions"][0]["label"], found["predictions"][0]["true_label"]
    (600, '0', '0')
    """
    started = time.perf_counter()
    path = Path(output) if isinstance(output, str | PathLike) else None
    if path is not None and path.suffix.lower() not in PREDICTION_SUFFIXES:
        raise ModelFileError(f"cannot write predictions to {path.name}; use one of {', '.join(PREDICTION_SUFFIXES)}")
    if path is not None and path.suffix.lower() == ".parquet":
        tables.require_pyarrow()
    check_safe_csv(safe_csv, path)
    model = models.locate(model)
    loaded = models.load_of_samples(model)
    limit = abstentions.choose(loaded, model, wanted.threshold, wanted.target_accuracy)
    places = [data] if isinstance(data, str | PathLike) else list(data)
    if path is not None:
        inputs = [model, *places, origin.weights, *(one["source"]["weights"] for one in loaded.backbones)]
        check_output(path, "table of predictions", is_prediction, inputs, force=force)
    data_of = clips.gather_each(places, columns, listener, media_of(loaded))
    for medium, held in data_of.items():
        clips.check_medium(medium, held, str(model))
    manifest = next(iter(data_of.values()))
    target = _copies(loaded, model, wanted.copy_to, data_of, places)
    if path is not None and path.exists():
        images = map(manifest.file, manifest.samples)
        check_output(path, "table of predictions", is_prediction, images, force=force)
    for note in manifest.left_out.lines():
        listener.note(f"note: {note}")
    extractors = models.open_backbones(loaded, model, **vars(origin), note=listener.note)
    asked = ask(data_of, extractors, compute, listener)
    answers = Answers.to(
        readable(asked[0].rows),
        loaded,
        probabilities=probabilities or loaded.is_multi_label,
        least=None if limit is None else limit.confidence,
    )
    predictions: list[dict[str, Any]] = []
    told = Told(answers, manifest, sorts=target is not None)
    with _taker(answers, path or output, predictions, safe=safe_csv) as take:
        rejects = stream(asked, compute, partial(told.tell, take=take), listener)
    count = told.count
    further = {} if limit is None else {"abstention": _abstention(limit, count)}
    if target is not None:
        copied = folders.sort(target, manifest, told.samples, told.labels, loaded.classes.tolist(), listener)
        further["copied"] = {"folder": str(target), **vars(copied), "renamed": _renamed(loaded)}
    return {
        "model": str(model),
        "output": None if path is None else str(path),
        "predicted": told.predicted,
        "labels": dict(count.labels),
        "labelled": count.labelled,
        "right": count.right,
        "seen_in_training": told.seen,
        **further,
        **({} if output is not None else {"predictions": predictions}),
        "rejected": len(rejects),
        "rejects": rejects,
        "found": manifests.summarise(manifest),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _copies(
    model: models.Model, who: Path, folder: Any, data: Mapping[str, Manifest], places: Sequence[str | PathLike[str]]
) -> Path | None:
    """The folder for sorted copies, which can be made there; None where none are asked for."""
    if folder is None:
        return None
    if model.is_multi_label:
        raise ModelFileError(f"{who} gives sets of labels, and --copy-to needs one label per sample; leave it out")
    folders.folder_names(model.classes.tolist())
    folders.check(Path(folder), data, places)
    return Path(folder)


@contextmanager
def _taker(
    answers: Answers, output: str | PathLike[str] | TextIO | None, predictions: list[dict[str, Any]], *, safe: bool
) -> Iterator[Taker]:
    """Where answers go: a file, an open text file, or else a list."""
    if isinstance(output, Path):
        with atomic(output) as temporary, table(temporary, output, answers, safe=safe) as take:
            yield take
    elif output is not None:
        assert not isinstance(output, str | PathLike)  # of which a path is made
        yield csv_writer(output, answers, safe=safe)
    else:
        yield collector(answers, predictions)


@dataclass
class Told:
    """What has been answered, block after block.

    Attributes
    ----------
    answers : Answers
    manifest : Manifest
        Where the samples are.
    sorts : bool
        Whether samples and labels are kept, to sort files by them.
    count : Count
    predicted, seen : int
        How many samples have been answered, and how many of them the model was trained on.
    samples : Samples
    labels : list
        The label of each of these, or None.
    """

    answers: Answers
    manifest: Manifest
    sorts: bool
    count: Count = field(default_factory=Count)
    predicted: int = 0
    seen: int = 0
    samples: Samples = field(default_factory=Samples)
    labels: list[Any] = field(default_factory=list)
    _one: dict[Any, Any] = field(default_factory=dict)  # label → itself: a million copies of a text are kept once

    def tell(self, matrix: FeatureMatrix, samples: list[Sample], *, take: Taker) -> None:
        """Answer some samples."""
        self.predicted += len(samples)
        self.seen += int(self.answers.model.has_seen_rows(matrix).sum())
        names = [self.manifest.name(sample) for sample in samples]
        answer(self.answers, matrix.X, samples, names, self.count, self._noted(take) if self.sorts else take)
        if self.sorts:
            for sample in samples:
                self.samples.append(sample)

    def _noted(self, take: Taker) -> Taker:
        """The same, which also notes the labels."""

        def both(block: Block) -> None:
            take(block)
            self.labels += [self._one.setdefault(label, label) for label in block.before["label"]]

        return both


def readable(rows: Rows) -> Iterator[Sample]:
    """The samples that could be read."""
    return compress(rows.samples, rows.readable.tolist())


def _abstention(limit: Threshold, count: Count) -> dict[str, Any]:
    """What a result says of a threshold, and of the answers that it let through."""
    counts = {"abstained": count.abstained, "labelled": count.answered, "right": count.answered_right}
    return {**limit.to_json(), **counts}


def _renamed(model: models.Model) -> dict[str, str]:
    return {label: name for label, name in folders.folder_names(model.classes.tolist()).items() if name != label}


def media_of(model: models.Model) -> list[str]:
    """The media that a model's backbones embed, each once."""
    return list(dict.fromkeys(backbones.medium_of(one["spec"]) for one in model.backbones))


def fill(
    sink: Sink,
    rows: Sequence[Row],
    unreadable: Mapping[str, str],
    manifest: Manifest,
    extractor: Extractor,
    compute: ComputeOptions,
    listener: Listener,
) -> dict[str, str]:
    """Embed the rows of a data set into a sink, each content once; sample id → reason of the rejects."""
    todo = list({row.digest: Pending.of(row, manifest.source) for row in rows if row.digest}.values())
    listener.note(first_line(extractor, len(rows)))
    outcome = extraction.fill(todo, extractor, sink, Settings(**vars(compute)), listener=listener)
    return rejected_samples(rows, unreadable, outcome.rejects)


def is_prediction(path: Path) -> bool:
    """Whether a file holds what `predict` writes."""
    path_, label, *others = [*manifests.header(path), "", ""]
    return (path_, label) == ("path", "label") and any(name == "confidence" or name.startswith("p:") for name in others)
