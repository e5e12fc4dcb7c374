"""The stage `label`: which samples of a store to label next."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import acquisitions, manifests, matrices
from featurepipe.acquisitions import Next, Pool
from featurepipe.characters import safe_cell
from featurepipe.errors import OutputError, ProbeError
from featurepipe.files import check_safe_csv, write_text
from featurepipe.listeners import BARS, Listener
from featurepipe.manifests.labelsets import SEPARATOR
from featurepipe.matrices import FeatureMatrix
from featurepipe.results import presented
from featurepipe.stores import Store
from featurepipe.stores.outputs import check_result
from featurepipe.surroundings import guarded

SUFFIX = ".csv"
COLUMNS = ("id", "path", "label", "suggested_label", "confidence")


@guarded
@presented
def label(
    store: str | Path,
    output: str | Path | None = None,
    *,
    count: int = 50,
    order: str | None = None,
    backbone: str | None = None,
    layer: str | None = None,
    seed: int = 0,
    safe_csv: bool = False,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """List the unlabelled samples of a store whose labels would teach a probe most.

    As long as fewer than two classes are known, samples that are typical of their surroundings come first; afterwards
    those that a probe is unsure of and that are unlike each other. See `featurepipe.acquisitions`. Samples of the
    splits val and test, and copies of them, are never listed: what is measured on has to be drawn at random. Nothing is
    learned from test.

    Parameters
    ----------
    store : path
    output : path, optional
        Where to write them, ``.csv``, with an empty column ``label`` to fill in; the others are ``id, path,
        suggested_label, confidence``.
    count : int
        How many samples to list.
    order : {'typical', 'unsure'}, optional
        By default what fits the labels that are known.
    backbone, layer : str, optional
        Which backbone of the store, and which layer of it, as for `featurepipe.stores.Store.choose`.
    seed : int
        Seed for clusters and folds.
    safe_csv : bool
        As for `predict`.
    force : bool
        Also replace files that featurepipe did not write, but never one that is read here.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``store, backbone, layer, order, labelled, unlabelled, classes, seed, output, seconds``, and ``next``: for each
        sample ``id, suggested_label, confidence``, the most useful first. The last two are None without a probe.

    Raises
    ------
    ProbeError
        Nothing is left to label, labels are sets, or an order that does not fit.
    StoreError
        The store has no embeddings of that backbone and layer, or not all of them.
    OutputError
        A name that is not one of a CSV, or a file that must not be replaced.

    Examples
    --------
    >>> from featurepipe import extract
    >>> store = extract("data/digits/train/7", "/tmp/unlabelled.store", backbone="pixels")["store"]
    >>> found = label(store, count=3)
    >>> found["order"], found["unlabelled"], len(found["next"])
    ('typical', 118, 3)
    """
    started = time.perf_counter()
    path = None if output is None else Path(output)
    if count < 1:
        raise ProbeError(f"cannot list {count} samples; give a number above 0")
    if path is not None and path.suffix.lower() != SUFFIX:
        raise OutputError(f"cannot write a list of samples to {path.name}; use {SUFFIX}")
    check_safe_csv(safe_csv, path)
    source = Store.open(store)
    if path is not None:
        check_result(path, "list of samples to label", _is_list, [source], force=force)
    entry = source.choose(backbone, layer)
    pool = _pool(matrices.load(source, entry), str(store))
    name = order or acquisitions.order_for(pool)
    listener.note(f"{pool.free.sum():,} samples without a label, {pool.known.sum():,} with one")
    found = acquisitions.choose(pool, count, order=name, seed=seed)
    listed = _listed(pool, found)
    if path is not None:
        _write(path, listed, source, safe=safe_csv)
    return {
        "store": str(source.path),
        "backbone": entry.name,
        "layer": entry.layer,
        "order": name,
        "labelled": int(pool.known.sum()),
        "unlabelled": int(pool.free.sum()),
        "classes": len(pool.classes),
        "next": listed,
        "seed": seed,
        "output": None if path is None else str(path),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _pool(samples: FeatureMatrix, who: str) -> Pool:
    """One row for each content, labelled if any of its samples is."""
    has_label = np.array([label is not None for label in samples.y])
    sets = [label for label in samples.y[has_label] if SEPARATOR in label]
    if sets:
        raise ProbeError(
            f"{who}: labels are sets, such as {sets[0]!r}; an order is known for one label per sample only"
        )
    order = np.argsort(~has_label, kind="stable")  # labelled samples first, so that a labelled copy counts
    _, firsts = np.unique(samples.digests[order].astype(str), return_index=True)
    rows = np.sort(order[firsts])
    one, known = samples.take(rows), has_label[rows]
    measured = set(samples.digests[np.isin(samples.split.astype(str), ("val", "test"))])
    free = ~known & [digest not in measured for digest in one.digests]
    if not free.any():
        raise ProbeError(f"{who}: no sample without a label is left outside val and test, so there is nothing to label")
    return Pool(one, known & (one.split != "test"), free)


def _listed(pool: Pool, found: Next) -> list[dict[str, Any]]:
    ids = pool.samples.ids[found.rows]
    columns = zip(ids, found.labels, found.confidences, strict=True)
    return [{"id": id_, "suggested_label": label, "confidence": sure} for id_, label, sure in columns]


# -- files --------------------------------------------------------------------------------------------------------


def _is_list(path: Path) -> bool:
    """Whether a file holds what is written here."""
    return tuple(manifests.header(path)) == COLUMNS


def _write(path: Path, listed: list[dict[str, Any]], source: Store, *, safe: bool) -> None:
    wanted = {one["id"] for one in listed}
    places = {row.sample.id: row.sample.place for row in source.rows() if row.sample.id in wanted}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for one in listed:
        sure = "" if one["confidence"] is None else f"{one['confidence']:.6f}"
        cells = [one["id"], places[one["id"]], "", one["suggested_label"] or "", sure]
        writer.writerow(map(safe_cell, cells) if safe else cells)
    write_text(path, text.getvalue())
