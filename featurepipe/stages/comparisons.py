"""The stage `compare`: every backbone and layer that some stores hold, under every probe asked for, in one table.

All rows are fitted, selected and measured on the same images in the same splits. What wins is decided on selection
data, as C or alpha is; the significance of its lead is then tested on images that played no part in it.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from featurepipe import backbones, comparisons, manifests, probes, reports, statistics
from featurepipe.backbones import PENULTIMATE, Extractor
from featurepipe.characters import safe_cell
from featurepipe.comparisons.contenders import Contender, gather
from featurepipe.errors import BackboneError, ComparisonError, DependencyMissing, StoreError
from featurepipe.extraction.codebooks import has_learned, learn_sift
from featurepipe.files import check_safe_csv, write_text
from featurepipe.listeners import BARS, Listener
from featurepipe.matrices import FeatureMatrix
from featurepipe.matrices.parts import Parts, arrange, choose_splits, copy_notes, cut, sizes
from featurepipe.matrices.scratch import check_scores
from featurepipe.media import IMAGE
from featurepipe.memory import available
from featurepipe.models.candidates import tuned_on
from featurepipe.probes.notes import fit_notes
from featurepipe.probes.parts import fit_parts
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.stages.extractions import complete
from featurepipe.statistics.intervals import interval
from featurepipe.stores import Entry, Store
from featurepipe.stores.outputs import check_result
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import CompareOptions
from featurepipe.vocabulary.names import BASELINES, HANDMADE

SUFFIXES = (".html", ".csv")
ABSENT = "no row for "  # how a note on a baseline begins that cannot be made


@guarded
@presented
@spread(wanted=CompareOptions)
def compare(
    stores: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    wanted: CompareOptions,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    trust: bool = False,
    safe_csv: bool = False,
    force: bool = False,
    listener: Listener = BARS,
) -> dict[str, Any]:
    """Compare backbones, layers and probes on the same images, none of them an exact copy of a training image.

    Parameters
    ----------
    stores : path, or sequence of paths
        Every entry, that is every layer of every backbone, is a row for each kind of probe. With several stores, only
        samples that all of them hold with the same id and content count. The stores must agree on labels and splits.
    output : path, optional
        Also write the table, as ``.html`` or ``.csv``.
    wanted
    seed : int
        Seed for splits, folds, random weights and the codebook.
    device : str
        Device that computes the baselines' embeddings.
    workers : int, optional
        Threads that read images; one per core by default.
    trust : bool
        Let the stores have untrained copies made of whatever they ask for; see `featurepipe.backbones.trust`.
    safe_csv : bool
        As for `predict`.
    force : bool
        Also replace a file that featurepipe did not write, but never one that is read here.
    listener : Listener
        Hears notes and progress; see `extract`.

    Returns
    -------
    dict
        ``stores, root, samples, classes, splits, split_source, evaluated_on, majority, majority_class, seed,
        reference`` (``label, kind``, and whether it was ``given``), ``rows``, ``imagenet`` (None, or for each kind
        ``n, spearman, kendall``), ``notes, output, seconds``. Rows are sorted by top-1 on selection data, best first;
        each has ``label, backbone, layer, is_baseline, kind, parameter, chosen, selected_on, selection_top1,
        selection_log_loss, selection_n, n, top1, interval`` (Wilson, 95 %), ``difference`` (to the reference), ``wins,
        losses`` (images on which only this row, only the reference is right), ``p`` (exact McNemar, or a permutation
        test over groups), ``p_holm`` (corrected for all rows), ``width, images_per_second`` (None where the shards do
        not say), ``device, bytes, imagenet_top1, store, folder, fingerprint``. All accuracies are fractions.

    Raises
    ------
    ComparisonError
        Fewer than two rows, stores that share no sample or disagree on a label or split, an unknown reference.
    ManifestError, ProbeError, StoreError
        As for `probe`.

    Examples
    --------
    >>> from featurepipe import extract
    >>> store = extract("data/digits/test", "/tmp/compared.store", backbone="color-histogram")["store"]
    >>> result = compare(store, kinds=["ridge"])
    >>> [row["backbone"] for row in result["rows"]]
    ['pixels', 'color-histogram']
    >>> result["rows"][1]["p_holm"] < 0.001
    True
    """
    kinds, baselines, reference, imagenet = wanted.kinds, wanted.baselines, wanted.reference, wanted.imagenet
    started = time.perf_counter()
    _check_arguments(kinds, baselines, output)
    opened = _open(stores)
    if output is not None:
        check_safe_csv(safe_csv, Path(output))
        check_result(Path(output), "comparison", _is_comparison, opened, (imagenet,), force=force)
    published = {} if imagenet is None else comparisons.read_imagenet(imagenet)
    reads = {probes.KINDS[kind].reads for kind in kinds}
    contenders, samples, notes = gather(opened, reads)
    split, split_source = choose_splits(samples, seed)
    samples = arrange(samples, split)
    if baselines != "none":
        learn = partial(learn_sift, opened[0], samples.take(samples.split == "train"), seed, workers, listener)
        absent = _add(opened[0], _wanted(contenders, baselines, seed, device, trust, learn), workers, listener)
        contenders, held, notes = gather(opened, reads)
        kept = set(held.ids)
        samples, notes = samples.take(np.array([id_ in kept for id_ in samples.ids], bool)), notes + absent
    check_scores(samples, available())
    parts = cut(samples)
    contenders = _untainted(contenders, samples, parts, notes)
    _check_rows(contenders, kinds, reference, baselines, [note for note in notes if note.startswith(ABSENT)])
    notes += copy_notes(parts) + _unread(contenders, kinds)
    rows, rights, selected = _measure(contenders, kinds, samples, published, seed, notes, listener)
    place = _reference(
        rows, selected, [reference is None or c.is_called(reference) for c, _ in _pairs(contenders, kinds)]
    )
    _test(rows, rights, place, parts.report.units if parts.report.has_units else None)
    result = {
        "stores": [str(store.path) for store in opened],
        "root": str(opened[0].source_root),
        "samples": len(samples),
        "classes": len(set(samples.y)),
        "splits": sizes(samples.split),
        "split_source": split_source,
        "evaluated_on": parts.reported,
        "majority": probes.majority(parts.train.y, parts.report.y),
        "majority_class": str(probes.commonest(parts.train.y)),
        "seed": seed,
        "reference": place if place is None else {**_name(rows[place]), "given": reference is not None},
        "rows": sorted(rows, key=_rank),
        "imagenet": None if imagenet is None else {kind: _correlate(rows, kind) for kind in kinds},
        "notes": notes,
        "output": None if output is None else str(output),
    }
    for note in notes:
        listener.note(f"note: {note}")
    if output is not None:
        _write(Path(output), result, safe_csv)
    return {**result, "seconds": round(time.perf_counter() - started, 3)}


def _check_arguments(kinds: Sequence[str], baselines: str, output: str | Path | None) -> None:
    unknown = [kind for kind in kinds if kind not in probes.KINDS]
    if unknown or not kinds:
        what = f"probe {unknown[0]!r} is unknown" if unknown else "no probe is named"
        raise ComparisonError(f"{what}; use {', '.join(probes.KINDS)}")
    for kind in kinds:
        probes.KINDS[kind].check_installed()
    if len(set(kinds)) < len(kinds):
        raise ComparisonError(f"a probe is named twice in {', '.join(kinds)}; name each once")
    if baselines not in BASELINES:
        raise ComparisonError(f"baselines {baselines!r} is unknown; use {', '.join(BASELINES)}")
    if output is not None and Path(output).suffix.lower() not in SUFFIXES:
        raise ComparisonError(f"cannot write a comparison to {Path(output).name}; use one of {', '.join(SUFFIXES)}")


def _pairs(contenders: Sequence[Contender], kinds: Sequence[str]) -> list[tuple[Contender, str]]:
    """The rows: each entry with the kinds of probe that can read it."""
    return [(one, kind) for one in contenders for kind in kinds if probes.KINDS[kind].reads == one.entry.reads]


def _unread(contenders: Sequence[Contender], kinds: Sequence[str]) -> list[str]:
    """A note on kinds of probe that can read no entry."""
    without = sorted(set(kinds) - {kind for _, kind in _pairs(contenders, kinds)})
    get = {"vectors": "featurepipe extract DATA", "tokens": "featurepipe extract DATA --tokens"}
    lacking = [(kind, probes.KINDS[kind].reads) for kind in without]
    return [f"no row for {kind}: no entry holds {what}; get them with: {get[what]}" for kind, what in lacking]


def _open(stores: str | Path | Sequence[str | Path]) -> list[Store]:
    """Each store once."""
    paths = [stores] if isinstance(stores, (str, Path)) else list(stores)
    if not paths:
        raise ComparisonError("no store is named; fill one with: featurepipe extract DATA")
    return [Store.open(path) for path in {Path(path).resolve(): path for path in paths}.values()]


def _untainted(
    contenders: Sequence[Contender], samples: FeatureMatrix, parts: Parts, notes: list[str]
) -> list[Contender]:
    """Those that have not learned from images that are held out here; and notes on the others."""
    train, held_out = (samples.take((samples.split == "train") == is_train) for is_train in (True, False))
    kept = []
    for contender in contenders:
        if has_learned(contender.entry, train, held_out):
            notes.append(f"left out: the codebook of {contender.entry.folder} was learned from images now held out")
        elif tuned := tuned_on(contender.entry, parts):
            notes.append(
                f"left out: {contender.entry.folder} was tuned on {tuned} of the samples that are reported here"
            )
        else:
            kept.append(contender)
    return kept


def _check_rows(
    contenders: Sequence[Contender],
    kinds: Sequence[str],
    reference: str | None,
    baselines: str,
    absent: Sequence[str],
) -> None:
    """Refuse a comparison of nothing, or with nothing, before anything is fitted; `absent` says what has no row."""
    known = ", ".join(contender.label for contender in contenders)
    if len(_pairs(contenders, kinds)) < 2:
        here = f"only a {kinds[0]} probe on {known} is here, and nothing to compare it with"
        if absent:
            why = "; ".join(absent)
            raise ComparisonError(
                f"{here} ({why}); name another --kind, or extract another backbone where the samples are"
            )
        more = "simple" if baselines == "none" and known not in HANDMADE else "full"
        raise ComparisonError(
            f"{here}; extract another backbone into the store, name another --kind, or add --baselines {more}"
        )
    if reference is not None and not any(contender.is_called(reference) for contender in contenders):
        raise ComparisonError(f"no row is called {reference!r}; choose the reference from: {known}")


# -- baselines ----------------------------------------------------------------------------------------------------


def _wanted(
    contenders: Sequence[Contender], which: str, seed: int, device: str, trust: bool, learn: Callable[[], Extractor]
) -> dict[str, Callable[[], Extractor]]:
    """Baselines by name, each to be made when its turn comes."""
    medium = backbones.medium_of(contenders[0].entry.spec)
    vectors = any(contender.entry.grid is None for contender in contenders)  # which the hand-made ones are
    wanted = dict(backbones.SIMPLE[medium]) if vectors else {}
    if which == "full":
        wanted |= backbones.FURTHER.get(medium, {}) if vectors else {}
        wanted |= {backbones.SIFT: learn} if medium == IMAGE and vectors else {}
        for entry in (contender.entry for contender in contenders):
            if not entry.is_baseline and entry.layer == PENULTIMATE:
                name = entry.provenance["source"]["name"]
                how: dict[str, Any] = {"seed": seed, "device": device, "trust": trust}
                called = " ".join(filter(None, [name, backbones.output_of(entry.spec)]))
                wanted[f"{called} untrained"] = partial(backbones.twin, entry.spec, name, **how)
    return wanted


def _add(
    store: Store, wanted: Mapping[str, Callable[[], Extractor]], workers: int | None, listener: Listener
) -> list[str]:
    """Extract baselines into a store, as far as they are missing; returns why some cannot be there."""
    absent = []
    for name, make in wanted.items():
        try:
            extractor = make()
            if not complete(store, extractor, workers=workers, listener=listener).indexes:
                raise StoreError("none of the samples can be read any more; restore the files and run again")
        except (BackboneError, DependencyMissing, StoreError) as error:
            # what nobody trusts; or the images may be gone while their embeddings are still here
            absent.append(f"{ABSENT}{name}: {error}")
    return absent


# -- figures ------------------------------------------------------------------------------------------------------


def _measure(
    contenders: Sequence[Contender],
    kinds: Sequence[str],
    samples: FeatureMatrix,
    published: Mapping[str, float],
    seed: int,
    notes: list[str],
    listener: Listener,
) -> tuple[list[dict[str, Any]], list[np.ndarray], list[np.ndarray | None]]:
    """A row for each contender and kind, on which of the reported images it is right, bool (n,) each, and on which of
    the selection data.
    """
    rows, rights, held = [], [], []
    for contender in contenders:
        parts = cut(contender.matrix(samples))  # one backbone's embeddings in memory at a time
        for _, kind in _pairs([contender], kinds):
            listener.note(f"{kind} probe on {contender.label}")
            fitted = fit_parts(kind, parts, seed=seed)
            guesses = fitted.classes[fitted.predict_proba(parts.report.X).argmax(axis=1)]
            right = guesses == parts.report.y
            imagenet = {"imagenet_top1": _published(contender.entry, published)}
            rows.append({**_described(contender, kind), **_figures(fitted, parts.report, right), **imagenet})
            rights.append(right)
            held.append(fitted.right)
            notes += [f"{kind} probe on {contender.label}: {note}" for note in fit_notes(fitted)]
    return rows, rights, held


def _described(contender: Contender, kind: str) -> dict[str, Any]:
    entry = contender.entry
    return {
        "label": contender.label,
        "backbone": entry.name,
        "layer": entry.layer,
        "is_baseline": entry.is_baseline,
        "kind": kind,
        "width": entry.indexes[0].width,
        "images_per_second": entry.images_per_second,
        "device": entry.provenance.get("device"),
        "bytes": sum(index.path.stat().st_size for index in entry.indexes),
        "store": str(contender.store.path),
        "folder": entry.folder.name,
        "fingerprint": entry.fingerprint,
    }


def _figures(fitted: probes.Probe, report: FeatureMatrix, right: np.ndarray) -> dict[str, Any]:
    top1 = float(right.mean())
    return {
        "parameter": probes.KINDS[fitted.kind].parameter,
        "chosen": fitted.chosen,
        "selected_on": fitted.selected_on,
        "selection_top1": fitted.scores.get("top1"),
        "selection_log_loss": fitted.scores.get("log_loss"),
        "selection_n": fitted.scores.get("n"),
        "n": len(right),
        "top1": top1,
        "interval": list(statistics.wilson(top1, len(right))),
        **interval(report, right),
    }


def _name(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("label", "kind")}


def _rank(row: Mapping[str, Any]) -> tuple[bool, float, float]:
    """Sorts rows by selection data, best first; those without selection come last."""
    if row["selection_top1"] is None:
        return True, 0.0, 0.0
    return False, -row["selection_top1"], row["selection_log_loss"]


def _reference(
    rows: Sequence[Mapping[str, Any]], held: Sequence[np.ndarray | None], may_be: Sequence[bool]
) -> int | None:
    """Which row the others are tested against: of those that may be it what `probes.choose` takes, or the only one."""
    candidates = [i for i in range(len(rows)) if may_be[i]]
    selected = {i: right for i in candidates if (right := held[i]) is not None}
    if not selected:
        return candidates[0] if len(candidates) == 1 else None
    log_loss = [rows[i]["selection_log_loss"] for i in selected]
    return list(selected)[probes.choose(list(selected.values()), log_loss)]  # the same images of all rows


def _test(
    rows: Sequence[dict[str, Any]], rights: Sequence[np.ndarray], place: int | None, groups: np.ndarray | None
) -> None:
    """Write into each row how it compares with the one at `place`."""
    for row in rows:
        row |= dict.fromkeys(("difference", "wins", "losses", "p", "p_holm"))
    if place is None:
        return
    others = [i for i in range(len(rows)) if i != place]
    if groups is None:
        p_values = [comparisons.mcnemar(rights[i], rights[place]) for i in others]
    else:
        p_values = [comparisons.permutation(rights[i], rights[place], groups) for i in others]
    for i, p, corrected in zip(others, p_values, comparisons.holm(p_values), strict=True):
        rows[i] |= {
            "difference": rows[i]["top1"] - rows[place]["top1"],
            "wins": int((rights[i] & ~rights[place]).sum()),
            "losses": int((rights[place] & ~rights[i]).sum()),
            "p": p,
            "p_holm": corrected,
        }


def _published(entry: Entry, table: Mapping[str, float]) -> float | None:
    """ImageNet top-1 of the backbone whose penultimate embedding this is, if the table knows it."""
    source = entry.provenance["source"]
    if entry.is_baseline or entry.layer != PENULTIMATE:
        return None
    if source["name"] in table or source["weights"] is not None:  # of a file no more is known than what it was called
        return table.get(source["name"])
    return table.get(backbones.with_tag(source["name"]))


def _correlate(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    """Rank correlation of top-1 here and on ImageNet, over the backbones of which both are known."""
    here: dict[tuple[str, float], list[float]] = {}  # a backbone may have several rows: other precisions, say
    for row in rows:
        if row["kind"] == kind and row["imagenet_top1"] is not None:
            here.setdefault((row["backbone"], row["imagenet_top1"]), []).append(row["top1"])
    found = comparisons.rank_correlations([there for _, there in here], [fmean(top1) for top1 in here.values()])
    spearman, kendall = found or (None, None)
    return {"n": len(here), "spearman": spearman, "kendall": kendall}


# -- files --------------------------------------------------------------------------------------------------------


def _is_comparison(path: Path) -> bool:
    """Whether a file holds what is written here."""
    if path.suffix.lower() == ".html":
        return reports.is_page(path)
    return manifests.header(path)[:5] == ["label", "backbone", "layer", "is_baseline", "kind"]


def _write(path: Path, result: Mapping[str, Any], safe: bool) -> None:
    if path.suffix.lower() == ".html":
        write_text(path, reports.comparison_page(result))
        return
    lines = [{**row, "low": row["interval"][0], "high": row["interval"][1]} for row in result["rows"]]
    columns = [name for name in lines[0] if name != "interval"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: safe_cell(cell) if safe else cell for key, cell in line.items()} for line in lines)
    write_text(path, text.getvalue())
