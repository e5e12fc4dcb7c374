"""The stage `extract`: samples → shards."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurepipe import backbones, extraction, manifests
from featurepipe.backbones import Adaptable, Extractor
from featurepipe.errors import BackboneError, StoreError
from featurepipe.estimators.datasets import Dataset
from featurepipe.extraction import Settings, stretches
from featurepipe.files import size_text
from featurepipe.listeners import BARS, SILENT, Listener, Within
from featurepipe.manifests import Manifest
from featurepipe.media import plural
from featurepipe.results import presented
from featurepipe.signatures import spread
from featurepipe.sources import Source, title
from featurepipe.stages import clips
from featurepipe.stages.descriptions import check_root, describes
from featurepipe.stores import (
    Entry,
    Holdings,
    Journal,
    Known,
    Row,
    Rows,
    Store,
    Survey,
    Writer,
    Writers,
    digest_rows,
    plan,
)
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import BackboneOptions, ExtractOptions, TableOptions

if TYPE_CHECKING:
    import torch

EXAMPLE = "resnet50.a1_in1k"  # of a real backbone
OFFLINE = "pip install 'featurepipe[offline]'"
SHARD_BYTES = 2**26  # of tokens in one shard, which is in memory while it is written


@guarded
@presented
@spread(table=TableOptions, compute=ExtractOptions, options=BackboneOptions)
def extract(
    data: str | PathLike[str] | Manifest | Dataset,
    store: str | Path | None = None,
    *,
    backbone: str | PathLike[str] | torch.nn.Module | Extractor | None = None,
    layers: str | Sequence[str] | None = None,
    tokens: bool | int | None = None,
    table: TableOptions,
    compute: ExtractOptions,
    rows_per_shard: int = extraction.ROWS_PER_SHARD,
    force: bool = False,
    listener: Listener = BARS,
    **options: Any,
) -> dict[str, Any]:
    """Embed every image of a data set that the store does not hold yet.

    Parameters
    ----------
    data : path, Manifest or data set
        Folder, table or archive; see `featurepipe.manifests`. A data set is an object that has a length and gives
        (image, label) for a number, such as torchvision's.
    store : path, optional
        Folder of the embeddings; by default ``NAME.store`` here, after the data's name.
    backbone : str, path, torch.nn.Module, or what `featurepipe.backbones` makes, optional
        See `featurepipe.backbones.create`, which also takes `options`; a path is that of a model file. Precision and
        decoder, where they are left to choose, are those of the vectors of the same network that the store already
        holds.
    layers : str or sequence of str, optional
        Several layers of the backbone, all of one forward pass, each kept as if it were a backbone: ``'stages'`` (all
        stages and the penultimate embedding), or names as for `featurepipe.backbones.create_layers`.
    tokens : bool or int, optional
        Also keep an embedding for each patch of an image, of the same forward pass, as an entry of its own: rows
        (H, W, D) of float16. True is the network's own grid; a number pools to a square by means. See
        `featurepipe.backbones.create_layers`.
    table
    compute
    rows_per_shard : int
        Samples per shard.
    force : bool
        Let the store describe this data set, even if it describes another one that is still there.
    listener : Listener
        Hears notes and progress. By default bars show progress in a terminal or a notebook, and nothing is shown where
        stderr is a file or a pipe; ``featurepipe.listeners.Bars(verbose=True)`` shows all there is, and
        ``Bars(verbose=False)`` nothing.
    options

    Returns
    -------
    dict
        ``store, backbone, fingerprint, width, samples, computed, reused, rejected, rejects, seconds, device,
        precision, decoder``, and ``images_per_second, ceiling, efficiency, limited_by, stages, profile`` (see
        `featurepipe.extraction.Outcome`; None where too little ran to say). ``samples`` is the sum of the three counts;
        copies of an image already embedded count as reused. ``images_per_second`` is end to end: what was computed,
        over the seconds of checking all files and of embedding, without imports and the making of the network.
        ``efficiency`` is that over ``ceiling``, and ``stages`` holds the seconds of ``check, read, infer, write``: new
        files are read for their digests in ``read``, or in ``check`` with several devices or a crew.
        With several layers ``fingerprint`` is None, ``width`` the sum, and ``layers`` lists each one's ``layer, width,
        folder, fingerprint``; an image counts as computed if any layer lacked it. With tokens, ``tokens`` has their
        ``grid, width`` (of each), ``bytes`` (of an image), ``folder, fingerprint``; the other keys are of the vectors.
        ``found`` is what the data set holds:
        see `featurepipe.manifests.summarise`; ``contradictions`` is the number of images that have an exact copy under
        another label, and ``contradictory`` lists them: for each such picture the ``id`` and ``label`` of every copy.

    Examples
    --------
    >>> result = extract("data/digits", "/tmp/digits.store")
    >>> result["samples"], result["rejected"]
    (1797, 0)
    >>> result = extract("data/digits", "/tmp/digits.store", tokens=2)
    >>> result["computed"], result["tokens"]["grid"]  # the vectors are there already, and stay as they are
    (1797, [2, 2])
    """
    started = time.perf_counter()
    settings = _make_settings(compute)
    manifest = data if isinstance(data, Manifest) else clips.read(data, table, listener)
    if layers is not None:
        options = {**options, "layers": layers}
    if tokens:
        options = {**options, "tokens": tokens}
    place = store or default_name(data if isinstance(data, str | PathLike) else manifest.source.root, ".store")
    extractor = make_extractor(backbone, options, listener, place, manifest.medium)
    clips.check_medium(extractor.transform.medium, manifest, extractor.name)
    target = Store.create(place)
    with target.lock():
        checking = time.perf_counter()
        survey = _survey(target, manifest, extractor, settings, compute, force, listener)
        target.write_rejects(survey.unreadable)  # the last run's are not true any more, even if this one is interrupted
        how: dict[str, Any] = {
            "rows_per_shard": rows_per_shard,
            "check_seconds": time.perf_counter() - checking,
            "listener": listener,
        }
        if survey.unread.any():
            result = fill_ahead(target, survey, extractor, settings, **how)
            contradictory = _contradictions(survey.rows, listener)
        else:
            rows = survey.rows
            target.write_rows(manifest.source, rows)
            contradictory = _contradictions(rows, listener)
            result = fill(target, manifest.source, rows, survey.unreadable, extractor, settings, **how)
        target.write_rejects(result["rejects"])
    about = {"found": manifests.summarise(manifest), "contradictions": sum(map(len, contradictory))}
    about["contradictory"] = contradictory
    return {**result, **about, "seconds": round(time.perf_counter() - started, 3)}


def _survey(
    store: Store,
    manifest: Manifest,
    extractor: Extractor,
    settings: Settings,
    compute: ExtractOptions,
    force: bool,
    listener: Listener,
) -> Survey:
    """What is known of the files, and whether the store may describe them.

    New files are left unread, to be read just ahead of embedding, unless all digests have to be known before: for other
    workers than this process, or to know whether a store of other samples may describe these. They are read into the
    store's journal, unless the latter is not known yet.
    """
    known = store.known(manifest.source, SILENT.note if compute.rehash else listener.note)
    with listener.progress("checking files", len(manifest)) as advance:
        workers = compute.workers or extraction.default_workers()
        survey = Survey(manifest, workers, advance, known, rehash=compute.rehash)
        belongs = force or describes(store, survey.source, survey.rows)
        waits = isinstance(settings.crew, extraction.Streaming) and has_room(store.path, extractor, len(manifest))
        if survey.unread.any() and not (belongs and waits):
            survey.read_all(advance, Journal(store.path, survey.source) if belongs else None)
            belongs = belongs or describes(store, survey.source, survey.rows)
    check_root(store, survey.source, belongs, listener)
    return survey


def _contradictions(rows: Rows, listener: Listener) -> list[Any]:
    """See `featurepipe.manifests.contradictions`; `listener` hears of them."""
    found = manifests.contradictions(rows.keys, rows.samples)
    for note in manifests.contradiction_notes(found):
        listener.note(f"note: {note}")
    return found


def _make_settings(compute: ExtractOptions) -> Settings:
    devices = backbones.resolve_devices(compute.devices)
    crew = extraction.named_crew(compute.crew, compute.gpus_per_actor)
    if crew is not None and devices:
        raise BackboneError("devices are those of one machine, and a crew has its own; leave out one of the two")
    if len(devices) > 1:
        extraction.check_main()
    return Settings.of(compute.batch_size, compute.workers, compute.compile, devices, crew)


def default_name(data: str | PathLike[str], suffix: str) -> Path:
    """``NAME<suffix>`` in the current folder, after a data set's own name."""
    return Path(title(data) + suffix)


def complete(
    store: Store, extractor: Extractor, *, workers: int | None, said: str | None = None, listener: Listener
) -> Entry:
    """The entry of a baseline, with what it lacked of the store's samples embedded now; `said` as for `fill`.

    An entry that lacks none is read without a lock.

    Raises
    ------
    StoreError
        It lacks some, and the store may not be written, or another process writes it.
    """
    rows, entry, source = store.rows(), store.entry(extractor), store.source
    lacked = plan(rows, source, entry)
    if not lacked:
        listener.note(said or first_line(extractor, len(rows), len(rows)))
        return entry
    try:
        with store.lock():
            fill(store, source, rows, {}, extractor, Settings(workers=workers), said=said, listener=listener)
    except StoreError:
        if not lacked[0].retried:
            raise
    return store.entry(extractor)


def make_extractor(
    backbone: str | PathLike[str] | torch.nn.Module | Extractor | None,
    options: Mapping[str, Any],
    listener: Listener,
    store: str | Path,
    medium: str | None = None,
) -> Extractor:
    """The backbone itself, or the one of that name for a medium, as `store` holds it.

    A download that takes its time is announced.

    Raises
    ------
    TypeError
        Options together with a ready-made backbone.
    """
    if backbones.is_ready(backbone):
        if options:
            raise TypeError(
                f"{', '.join(options)}: options work only with a backbone's name, not with a ready-made backbone"
            )
        return backbone
    name: Any = backbone
    asked = dict(options)
    if "tokens" in asked and "layers" not in asked:  # they come with the vector, of the same pass
        asked["layers"] = asked.pop("layer", backbones.PENULTIMATE)
    create = backbones.create_layers if "layers" in asked else backbones.create
    given = options.get("weights") is not None or options.get("random_weights")
    waiting = threading.Timer(8, listener.note, [f"waiting for the weights of {name}; they are downloaded once"])
    if not given and backbones.fetches(name):
        waiting.start()
    try:
        made = create(name, medium=medium, **asked)
        for note in getattr(made, "notes", ()):
            listener.note(note)
        return follow_store(store, made, options, listener)
    finally:
        waiting.cancel()


def follow_store(
    store: str | Path, extractor: Extractor, options: Mapping[str, Any], listener: Listener = SILENT
) -> Extractor:
    """Keep to the precision and decoder of a store that holds this network's vectors, unless the caller chose them.

    What a machine would choose by itself may differ from what another one chose, and a store that is carried from
    one to the other should not be computed again for that. Layers keep to each other, too.
    """
    if not isinstance(extractor, Adaptable) or not Store.is_store(store):
        return extractor
    chosen = {"precision": options.get("precision") not in (None, "auto")}
    chosen["decoder"] = (options.get("transform") or {}).get("decoder") not in (None, "auto")
    target = Store(Store.locate(store))  # not opened: a damaged header is made anew, and says nothing of entries
    held = {entry.fingerprint: entry.spec for entry in target.entries()}
    owns = ({"precision": spec["precision"], "decoder": spec["transform"].get("decoder")} for spec in held.values())
    followers = [extractor.adapted(**{key: value for key, value in own.items() if not chosen[key]}) for own in owns]
    siblings = [{**spec, "layer": extractor.spec["layer"]} for spec in held.values()]

    def held_of(candidate: Adaptable) -> tuple[int, bool]:
        return sum(member.fingerprint in held for member in candidate.members), candidate.spec in siblings

    best = max([extractor, *followers], key=held_of)  # of equals the first
    if held_of(best) <= held_of(extractor):
        return extractor
    if best.spec["precision"] not in ("fp32", extractor.spec["precision"]) and (drifts := backbones.drifting(best)):
        listener.note(
            f"note: this store is in {best.spec['precision']}, in which {', '.join(drifts)} drifts from fp32; "
            "featurepipe verify --drift measures it, --precision fp32 avoids it"
        )
    return best


def digest(
    manifest: Manifest, workers: int | None, listener: Listener, known: Iterable[Known] = ()
) -> tuple[Rows, dict[str, str]]:
    """`featurepipe.stores.digest_rows`, with progress."""
    with listener.progress("checking files", len(manifest)) as advance:
        return digest_rows(manifest, workers or extraction.default_workers(), advance, known)


def fill(
    store: Store,
    source: Source,
    rows: Sequence[Row],
    unreadable: Mapping[str, str],
    extractor: Extractor,
    settings: Settings,
    *,
    rows_per_shard: int = extraction.ROWS_PER_SHARD,
    check_seconds: float = 0.0,
    said: str | None = None,
    listener: Listener,
) -> dict[str, Any]:
    """Embed what `extractor` lacks of `rows`, whose digests took `check_seconds`; the caller has locked the store.

    `said` is told first, by default `first_line`.
    """
    started = time.perf_counter()
    entries = [store.entry(member) for member in extractor.members]
    todo = plan(rows, source, *entries)
    listener.note(said or first_line(extractor, len(rows), int(Rows.of(rows).readable.sum()) - todo.samples))
    check_room(store.path, extractor, len(todo), listener)
    sink = _sink(extractor, entries, todo.held, settings, rows_per_shard)
    outcome = extraction.fill(todo, extractor, sink, settings, listener=listener)
    outcome.check_seconds = check_seconds
    doubtful = outcome.rejects.keys() - sink.rejects.keys()  # not broken, but gone or changed since it was hashed
    if doubtful:
        store.write_rows(source, Rows.of(rows).without_stamps(doubtful))
    return _result(store, extractor, entries, rows, unreadable, outcome, started)


def fill_ahead(
    store: Store,
    survey: Survey,
    extractor: Extractor,
    settings: Settings,
    *,
    rows_per_shard: int = extraction.ROWS_PER_SHARD,
    check_seconds: float = 0.0,
    budget: int = stretches.BYTES,
    listener: Listener,
) -> dict[str, Any]:
    """As `fill`, of a survey that has unread files: they are read just ahead of embedding, and once.

    The manifest is written at the end. `budget` is how many bytes are kept between the two.
    """
    started = time.perf_counter()
    entries = [store.entry(member) for member in extractor.members]
    rows, unread = survey.rows, int(survey.unread.sum())
    todo, holdings = plan(rows, survey.source, *entries), Holdings(entries)
    cached = int(rows.readable.sum()) - todo.samples
    is_new = not any(map(len, holdings.held))
    listener.note(first_line(extractor, len(rows), cached, unread=0 if is_new else unread))
    check_room(store.path, extractor, len(todo) + unread, listener, up_to=True)
    sink = _sink(extractor, entries, holdings.held, settings, rows_per_shard)
    batch = stretches.batch_of(extractor, settings.batch_size)
    with listener.progress("embedding", len(todo) + unread) as advance:
        parts = stretches.Stretches(
            survey, todo, holdings, Journal(store.path, survey.source), batch=batch, budget=budget, advance=advance
        )
        with parts:
            outcome = extraction.fill(parts, extractor, sink, settings, listener=Within(listener, advance))
    outcome.check_seconds, outcome.ahead_seconds = check_seconds, survey.seconds
    doubtful = outcome.rejects.keys() - sink.rejects.keys()
    rows = survey.rows
    store.write_rows(survey.source, rows.without_stamps(doubtful) if doubtful else rows)
    return _result(store, extractor, entries, rows, survey.unreadable, outcome, started)


def _sink(
    extractor: Extractor, entries: Sequence[Entry], held: Sequence[np.ndarray], settings: Settings, rows: int
) -> Writer | Writers:
    """What writes the entries' shards, of `rows` samples each; `held` as of `Writers`."""
    made_by = extraction.provenance(extractor, settings.batch_size)
    pairs = zip(extractor.members, entries, strict=True)
    writers = [Writer(entry, made_by, _shard_rows(member, rows)) for member, entry in pairs]
    widths = [member.width for member in extractor.members]
    return writers[0] if len(writers) == 1 else Writers(writers, widths, held)


def _result(
    store: Store,
    extractor: Extractor,
    entries: Sequence[Entry],
    rows: Sequence[Row],
    unreadable: Mapping[str, str],
    outcome: extraction.Outcome,
    started: float,
) -> dict[str, Any]:
    rejects = rejected_samples(rows, unreadable, outcome.rejects)
    return {
        "store": str(store.path),
        "backbone": extractor.name,
        **_outputs(list(zip(extractor.members, entries, strict=True))),
        "samples": len(rows),
        "computed": outcome.computed,
        "reused": len(rows) - outcome.computed - len(rejects),
        "rejected": len(rejects),
        "rejects": rejects,
        "seconds": round(time.perf_counter() - started, 3),
        "device": extractor.device,
        "precision": extractor.spec["precision"],
        "decoder": extractor.spec["transform"].get("decoder"),
        **outcome.summary(),
        "profile": outcome.profile(),
    }


def check_room(place: Path, extractor: Extractor, count: int, listener: Listener, *, up_to: bool = False) -> None:
    """Say how many bytes the tokens of `count` more samples take, or of `up_to` as many; of vectors nothing.

    Raises
    ------
    StoreError
        The disk has no room for them.
    """
    grid = next(filter(None, (backbones.grid_of(member.spec) for member in extractor.members)), None)
    if grid is None or not count:
        return
    size, (height, width) = _row_bytes(extractor, tokens=True), grid
    total, free = count * _row_bytes(extractor), shutil.disk_usage(place).free
    each = f"{size:,} bytes for each {extractor.transform.medium}"
    listener.note(
        f"tokens {height}×{width}: {each}, {size_text(count * size)} for {'up to ' if up_to else ''}{count:,}"
    )
    if total > free:
        raise StoreError(
            f"tokens take {each}, {size_text(total)} for {count:,} with their vectors, and {place} has "
            f"{size_text(free)} left; give a coarser grid, such as --tokens 7, or another disk"
        )


def has_room(place: Path, extractor: Extractor, count: int) -> bool:
    """Whether the tokens of `count` more samples fit onto the disk; vectors are not looked at."""
    has_tokens = any(backbones.grid_of(member.spec) for member in extractor.members)
    return not has_tokens or count * _row_bytes(extractor) <= shutil.disk_usage(place).free


def _row_bytes(extractor: Extractor, *, tokens: bool = False) -> int:
    """Bytes of a sample in all entries, or of its tokens alone, of which there is one entry."""
    members = [one for one in extractor.members if backbones.grid_of(one.spec) or not tokens]
    return sum(backbones.row_bytes(member.spec, member.width) for member in members)


def _shard_rows(member: Extractor, rows: int) -> int:
    """Samples of a shard: as many as asked for, but of tokens no more than fit into `SHARD_BYTES`."""
    if backbones.grid_of(member.spec) is None:
        return rows
    return max(1, min(rows, SHARD_BYTES // backbones.row_bytes(member.spec, member.width)))


def _outputs(pairs: Sequence[tuple[Extractor, Entry]]) -> dict[str, Any]:
    """What a result says of the vectors, of each layer where there are several, and of the tokens."""
    vectors = [pair for pair in pairs if backbones.grid_of(pair[0].spec) is None]
    tokens = [pair for pair in pairs if backbones.grid_of(pair[0].spec) is not None]
    single = vectors[0][0] if len(vectors) == 1 else None
    found: dict[str, Any] = {
        "fingerprint": None if single is None else single.fingerprint,
        "width": sum(member.width for member, _ in vectors),
    }
    if single is None:
        found["layers"] = [_layer(*pair) for pair in vectors]
    for member, entry in tokens:
        found["tokens"] = _tokens(member, entry)
    return found


def _identity(member: Extractor, entry: Entry) -> dict[str, Any]:
    return {"folder": entry.folder.name, "fingerprint": member.fingerprint}


def _layer(member: Extractor, entry: Entry) -> dict[str, Any]:
    return {"layer": member.spec["layer"], "width": member.width, **_identity(member, entry)}


def _tokens(member: Extractor, entry: Entry) -> dict[str, Any]:
    return {
        "grid": list(backbones.grid_of(member.spec) or ()),
        "width": backbones.feature_width(member.spec, member.width),
        "bytes": backbones.row_bytes(member.spec, member.width),
        **_identity(member, entry),
    }


def first_line(extractor: Extractor, samples: int, cached: int | None = None, *, unread: int = 0) -> str:
    """What a run says first: images, backbone, device, and how many of the images the store holds already.

    Parameters
    ----------
    cached : int or None
        None where there is no store.
    unread : int
        Images of which nobody knows whether the store holds them before they are read.
    """
    bundled = extractor.source["name"] == backbones.BUNDLED and extractor.source["random_seed"] is None
    stage = backbones.stage_of(extractor.members[0].spec)
    grids = [grid for grid in (backbones.grid_of(member.spec) for member in extractor.members) if grid]
    layers = len(extractor.members) - len(grids)
    which = f", {layers} layers" if layers > 1 else f" {stage}" if stage else ""
    which += "".join(f", tokens {height}×{width}" for height, width in grids)
    name = f"demo network ({extractor.name})" if bundled else extractor.name
    medium = extractor.transform.medium
    said = f"{samples:,} {medium if samples == 1 else plural(medium)} · {name}{which} on {extractor.device}"
    said += f" in {extractor.spec['precision']}" if extractor.spec["precision"] != "fp32" else ""
    if cached is None:
        return said
    if unread:
        held = f"{cached:,} in the store already, " if cached else ""
        return f"{said} · {held}{'all' if unread == samples else f'{unread:,}'} to be read first"
    held = "none" if not cached else "all" if cached == samples else f"{cached:,}"
    hint = f". For real work: -b {EXAMPLE}; without a model hub: {OFFLINE}" if bundled else ""
    return f"{said} · {held} in the store yet{hint}" if not cached else f"{said} · {held} in the store already{hint}"


def rejected_samples(rows: Sequence[Row], unreadable: Mapping[str, str], reasons: Mapping[str, str]) -> dict[str, str]:
    """Sample id → reason, in manifest order."""
    if not unreadable and not reasons:
        return {}
    found = ((row.sample.id, unreadable.get(row.sample.id) or reasons.get(row.digest)) for row in rows)
    return {id_: reason for id_, reason in found if reason}
