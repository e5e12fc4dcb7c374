"""The stage `probe_tasks`: the labels of a table, a probe for each of its columns."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import manifests, probes, tables
from featurepipe.errors import ManifestError, ProbeError
from featurepipe.listeners import BARS, Listener
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import is_unsplit, split_by_content
from featurepipe.memory import parse_size
from featurepipe.models.candidates import Candidate, Prepared, divide, find
from featurepipe.probes.options import Options
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages.probes import load_baselines, probe_prepared
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import EntryOptions

KEYS = ("id", "path")  # columns that say which sample a row is of


@guarded
@presented
@spread(where=EntryOptions, recipe=Options)
def probe_tasks(
    store: str | Path,
    output: str | Path | None = None,
    *,
    labels: str | Path,
    tasks: str | Sequence[str],
    where: EntryOptions,
    recipe: Options,
    workers: int | None = None,
    memory: int | str | None = None,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Train a classifier for each of several tasks, whose labels are in the columns of a table.

    The store's own labels are not used, but its splits are. If it has none (or train alone), they are made: for a
    single task as in `probe`; for several tasks once, by content alone, from the samples that have a label in any task.
    So no task's test images are another's training images.

    Parameters
    ----------
    store : path
    output : path, optional
        Model files: ``DIR/NAME.safetensors`` makes each task's ``DIR/NAME-TASK.safetensors``. By default
        ``STORE/<backbone>-<fingerprint8>/model-TASK.safetensors``.
    labels : path
        CSV, TSV, JSONL or Parquet table with the column ``id`` (or ``path``, where that is the id) and one for each
        task. A sample with an empty cell, or with no row, is unlabelled in that task and left out of it.
    tasks : str or sequence of str
        Columns, as a list or separated by commas.
    where
    recipe
    workers, memory, force
        As for `probe`.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``tasks`` (name → what `probe` returns, with ``labels`` and ``task`` in ``data``), ``labels, notes, seconds``.

    Raises
    ------
    ManifestError
        A table without such columns, with two rows of one sample, or none of the store's samples in it; labels or
        splits that cannot be learned from, where the message begins with the task's name.
    ProbeError, StoreError
        As for `probe`.

    Examples
    --------
    >>> from featurepipe import extract
    >>> from featurepipe.stages import export
    >>> store = extract("data/digits/test", "/tmp/tasks.store", backbone="pixels")["store"]
    >>> table = export(store, "/tmp/tasks.csv")["output"]  # has the columns id and label
    >>> result = probe_tasks(store, labels=table, tasks="label", kind="ridge", baselines="none")
    >>> result["tasks"]["label"]["test"]["top1"] > 0.8
    True
    """
    started, limit = time.perf_counter(), parse_size(memory)
    recipe.check()
    names = _names(tasks)
    columns, left_out = _read(Path(labels), names)
    source = find(store, output, where)
    paths = _paths(source.path, names)
    for path in paths.values():
        source.check_output(path, force=force)
    notes = left_out + _match_notes(labels, columns, source.samples.ids, {row.sample.id for row in source.store.rows()})
    for note in notes:
        listener.note(f"note: {note}")
    samples = {name: _relabelled(source.samples, columns, number) for number, name in enumerate(names)}
    samples, split_source = _split(samples, recipe.seed) if len(names) > 1 else (samples, None)
    ready = {}
    for name, mine in samples.items():  # the labels of all, before anything is fitted
        if split_source is not None:
            _check_held_out(name, mine)
        found = _divide(name, replace(source, samples=mine, path=paths[name]), recipe)
        ready[name] = replace(found, split_source=split_source or found.split_source)
        probes.check_enough(found.parts.learned.y, recipe.shots)
    others = cache(lambda: load_baselines(source, recipe, where, workers, listener))
    results = {}
    for name, found in ready.items():
        begun = time.perf_counter()
        listener.note(f"task {name}")
        about = {"labels": str(labels), "task": name}
        result = probe_prepared(found, recipe, others, about=about, limit=limit, listener=listener)
        results[name] = {**result, "seconds": round(time.perf_counter() - begun, 3)}
    seconds = round(time.perf_counter() - started, 3)
    return {"tasks": results, "labels": str(labels), "notes": notes, "seconds": seconds}


def _names(tasks: str | Sequence[str]) -> list[str]:
    names = [name.strip() for name in tasks.split(",") if name.strip()] if isinstance(tasks, str) else list(tasks)
    if not names:
        raise ProbeError("no task is named; name columns of the table")
    if len(set(names)) < len(names):
        raise ProbeError(f"a task is named twice in {', '.join(names)}; name each once")
    return names


def _paths(path: Path, names: Sequence[str]) -> dict[str, Path]:
    """Each task's model file, next to `path`."""
    found: dict[Path, str] = {}
    for name in names:
        plain = re.sub(r"[^\w.-]+", "-", name)
        own = path.with_name(f"{path.stem}-{plain}{path.suffix}")
        if own in found:
            raise ProbeError(f"tasks {found[own]!r} and {name!r} would both be written to {own.name}; rename a column")
        found[own] = name
    return {name: own for own, name in found.items()}


def _read(path: Path, names: Sequence[str]) -> tuple[dict[str, tuple[str | None, ...]], list[str]]:
    """Sample id → its label in each task; and notes on what was left out."""
    if not path.is_file() or path.suffix.lower() not in tables.TABLE_SUFFIXES:
        why = "is not one" if path.exists() else "does not exist"
        raise ManifestError(f"labels are read from a table ({' '.join(sorted(tables.TABLE_SUFFIXES))}); {path} {why}")
    found: dict[str, tuple[str | None, ...]] = {}
    table, doubles = tables.Table(path, names, KEYS, keys=KEYS), 0
    for number, row in table:
        id_, file = map(row.get, KEYS)
        if not id_:
            if file is None:
                there = ", ".join([*table.used, *table.unused]) or "none"
                raise ManifestError(f"{path}: row {number} has neither 'id' nor 'path' (its columns: {there})")
            id_ = file.replace(os.sep, "/")
        labels = tuple(row.get(name) for name in names)
        doubles += id_ in found
        if found.setdefault(id_, labels) != labels:
            raise ManifestError(
                f"{path}: id {id_!r} is in several rows with different labels (again in row {number}); keep one"
            )
    if not found:
        raise ManifestError(f"{path} has no rows")
    left_out = manifests.LeftOut(blank_rows=table.blank_rows, missing=table.missing, doubles=doubles)
    return found, left_out.lines()


def _match_notes(
    table: str | Path, columns: Mapping[str, object], ids: np.ndarray, known: Collection[str]
) -> list[str]:
    """Notes on samples that are in the table or in the store only; a ManifestError if nothing is in both."""
    absent = sum(id_ not in columns for id_ in ids)
    strangers = [id_ for id_ in columns if id_ not in known]
    if absent == len(ids):
        raise ManifestError(
            f"{table} has no row of any sample of the store: its ids are like {next(iter(columns))!r}, "
            f"the store's like {ids[0]!r}"
        )
    notes = [f"{absent} of {len(ids)} samples have no row in {table}: unlabelled"] if absent else []
    if strangers:
        notes.append(
            f"{len(strangers)} rows of {table} do not belong to any sample of the store (first {strangers[0]!r})"
        )
    return notes


def _relabelled(matrix: FeatureMatrix, columns: Mapping[str, tuple[str | None, ...]], task: int) -> FeatureMatrix:
    labels = np.array([columns[id_][task] if id_ in columns else None for id_ in matrix.ids], object)
    return replace(matrix, y=labels)


def _split(matrices: dict[str, FeatureMatrix], seed: int) -> tuple[dict[str, FeatureMatrix], str | None]:
    """The same rows with splits for all tasks, and how they were made; as they are where the store gives splits."""
    any_label = np.any([matrix.y != None for matrix in matrices.values()], axis=0)  # noqa: E711  # element by element
    first = next(iter(matrices.values()))
    used = first.take(any_label)
    if not len(used) or not is_unsplit(used):
        return matrices, None
    split = np.full(len(first), None, object)
    split[any_label], how = split_by_content(used, seed)
    return {name: replace(matrix, split=split) for name, matrix in matrices.items()}, how


def _check_held_out(name: str, samples: FeatureMatrix) -> None:
    """Refuse a task that the common splits leave no image to measure: its own would mix with other tasks' images."""
    mine = samples.split[samples.y != None]  # noqa: E711  # element by element
    if len(mine) and set(mine) == {"train"}:
        raise ManifestError(
            f"task {name}: all of its {len(mine)} labelled samples fall into train; label more, give splits in the "
            "manifest, or try another seed"
        )


def _divide(name: str, source: Candidate, recipe: Options) -> Prepared:
    try:
        return divide(source, seed=recipe.seed, multi_label=recipe.multi_label)
    except ManifestError as error:
        raise ManifestError(f"task {name}: {error}") from error
