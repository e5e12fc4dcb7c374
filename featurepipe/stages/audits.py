"""The stage `audit`: what is wrong with the samples of a store."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe import audits, backbones, manifests, matrices, reports
from featurepipe.audits import Checked, Evidence, Finding, Leak, fixes
from featurepipe.characters import safe_cell
from featurepipe.errors import OutputError, SampleError
from featurepipe.files import check_safe_csv, write_text
from featurepipe.listeners import BARS, Listener
from featurepipe.matrices import FeatureMatrix
from featurepipe.reports.looks import LOOKS, show
from featurepipe.results import presented
from featurepipe.sources import Files, Remotes
from featurepipe.stores import Entry, Store
from featurepipe.stores.outputs import check_result
from featurepipe.surroundings import guarded

SUFFIXES = (".html", ".csv")
COLUMNS = ("finding", "check", "kind", "score", "id", "label", "split", "suggested_label", "reason")


@guarded
@presented
def audit(
    store: str | Path,
    output: str | Path | None = None,
    *,
    backbone: str | None = None,
    layer: str | None = None,
    fix: str | Path | None = None,
    seed: int = 0,
    safe_csv: bool = False,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Look for what is wrong with the images and labels of a store.

    Exact and near copies, also across splits and labels; likely wrong labels; outliers; blank, dark, tiny and oddly
    shaped images; small classes; and shortcuts, such as a watermark on one class. See `featurepipe.audits.CHECKS`.
    Embeddings come from the store, the images themselves are read again. Nothing is changed.

    Parameters
    ----------
    store : path
    output : path, optional
        Where to write the findings: ``.html``, a page with small pictures, or ``.csv``.
    backbone, layer : str, optional
        Which backbone of the store, and which layer of it, as for `featurepipe.stores.Store.choose`.
    fix : path, optional
        Where to write a new table of the samples, ``.csv``: without exact copies, with held-out copies of training
        images moved to the split of their original, and a column ``audit`` that lists everything else. No file is
        deleted and no label is changed.
    seed : int
        Seed for folds.
    safe_csv : bool
        As for `predict`.
    force : bool
        Also replace files that featurepipe did not write, but never one that is read here.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        - ``store, root, backbone, layer, samples, output, seed, seconds``
        - ``summary``: what was found, in words
        - ``checks``: name → ``findings`` (how many), ``kinds`` (how many of each), ``skipped`` (why it could not tell)
        - ``findings``: each with ``check, kind, score, samples, suggested_label, reason``; the surest of a check first
        - ``leak``: the accuracy of a logistic probe with and without held-out copies of what it learns (``split, n,
          copies, top1, without``); None where no splits are given
        - ``fixed``: ``table, rows, dropped, moved, listed``; None without `fix`

    Raises
    ------
    StoreError
        The store has no embeddings of that backbone and layer, or not all of them.
    OutputError
        A name that is not one of a page or a table, or a file that must not be replaced.

    Examples
    --------
    >>> from featurepipe import extract
    >>> store = extract("data/digits", "/tmp/audited.store")["store"]
    >>> found = audit(store)
    >>> found["samples"], found["checks"]["exact-copies"]
    (1797, {'findings': 0, 'kinds': {}, 'skipped': None})
    """
    started = time.perf_counter()
    path, table = (None if name is None else Path(name) for name in (output, fix))
    if path is not None and path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"cannot write an audit to {path.name}; use one of {', '.join(SUFFIXES)}")
    check_safe_csv(safe_csv and table is None, path)
    source = Store.open(store)
    if path is not None:
        check_result(path, "page or table of findings", _is_audit, [source], force=force)
    if table is not None:
        fixes.check_suffix(table)
        check_result(table, "table of an audit", fixes.is_table, [source], force=force)
        _check_listable(source)
    entry = source.choose(backbone, layer)
    samples = matrices.load(source, entry)
    evidence = _look(source, samples, seed, listener)
    found = audits.check(evidence, listener=listener)
    copies = [finding for name in audits.COPIES for finding in found[name].findings]
    leak = audits.measure(samples, audits.leaked(samples, copies), seed)
    fixed = None if table is None else _fix(table, source, samples, found, safe=safe_csv)
    result = {**_identity(source, entry), **_told(samples, found, leak), "fixed": fixed, "seed": seed}
    if path is not None:
        _write(path, result, source, entry, safe=safe_csv)
    return {
        **result,
        "output": None if path is None else str(path),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _check_listable(store: Store) -> None:
    """Refuse a new table of samples that are not files or URLs."""
    if not isinstance(store.source, Files | Remotes):
        raise OutputError(
            f"{store.path} describes samples inside {store.source_root}, which a table of files cannot name; leave out "
            "--fix, or unpack them"
        )


def _look(source: Store, samples: FeatureMatrix, seed: int, listener: Listener) -> Evidence:
    """The evidence, with what is to be seen of the images where they are still there."""
    contents = Evidence(samples).contents
    try:
        seen = audits.look(source.pending(samples.digests[contents]), listener)
    except (OSError, SampleError) as error:
        listener.note(f"note: the images cannot be looked at, so some checks are left out: {error}")
        return Evidence(samples, unseen=f"the images cannot be looked at: {error}", seed=seed)
    return Evidence(samples, seen, seed=seed)


def _fix(
    table: Path, source: Store, samples: FeatureMatrix, found: Mapping[str, Checked], *, safe: bool
) -> dict[str, Any]:
    exact, near = (found[name].findings for name in audits.COPIES)
    others = [finding for name, one in found.items() if name not in audits.COPIES for finding in one.findings]
    made = audits.fix(samples, exact, near, others)
    fixes.write(table, made, samples, source.rows(), str(source.source_root), safe=safe)
    return {"table": str(table), **made.counts(samples)}


def _identity(source: Store, entry: Entry) -> dict[str, Any]:
    return {"store": str(source.path), "root": str(source.source_root), "backbone": entry.name, "layer": entry.layer}


def _told(samples: FeatureMatrix, found: Mapping[str, Checked], leak: Leak | None) -> dict[str, Any]:
    """What was found, as JSON."""
    return {
        "samples": len(samples),
        "summary": audits.summarise(found, leak),
        "checks": {
            name: {"findings": len(one.findings), "kinds": audits.kinds(one.findings), "skipped": one.skipped}
            for name, one in found.items()
        },
        "findings": [_finding(samples, name, each) for name, one in found.items() for each in one.findings],
        "leak": None if leak is None else dict(vars(leak)),
    }


def _finding(samples: FeatureMatrix, check: str, finding: Finding) -> dict[str, Any]:
    names = zip(
        *(column[np.array(finding.rows, int)] for column in (samples.ids, samples.y, samples.split)), strict=True
    )
    return {
        "check": check,
        "kind": finding.kind,
        "score": round(finding.score, 4),
        "samples": [{"id": id_, "label": label, "split": split} for id_, label, split in names],
        "suggested_label": finding.label,
        "reason": finding.reason,
    }


# -- files --------------------------------------------------------------------------------------------------------


def _is_audit(path: Path) -> bool:
    """Whether a file holds what is written here."""
    if path.suffix.lower() == ".html":
        return reports.is_page(path)
    return tuple(manifests.header(path)) == COLUMNS


def _write(path: Path, result: Mapping[str, Any], source: Store, entry: Entry, *, safe: bool) -> None:
    if path.suffix.lower() == ".html":
        wanted = reports.pictured(result)
        digests = {row.sample.id: row.digest for row in source.rows() if row.sample.id in wanted and row.digest}
        held = dict(zip(digests, source.pending(digests.values()), strict=True)) if digests else {}
        shown, way = {id_: held[id_] for id_ in wanted if id_ in held}, LOOKS.get(backbones.medium_of(entry.spec))
        write_text(path, reports.audit_page(result, {} if way is None else show(shown, way)))
        return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for number, finding in enumerate(result["findings"]):
        start = [number, finding["check"], finding["kind"], finding["score"]]
        end = [finding["suggested_label"], finding["reason"]]
        for one in finding["samples"] or [{"id": "", "label": "", "split": ""}]:
            cells = [*start, *one.values(), *end]
            writer.writerow(map(safe_cell, cells) if safe else cells)
    write_text(path, text.getvalue())
