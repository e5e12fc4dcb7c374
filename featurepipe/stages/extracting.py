"""The stage `extract`: images → shards."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featurepipe import backbones, extraction, manifests
from featurepipe.backbones import Backbone, Extractor
from featurepipe.errors import StoreError
from featurepipe.manifests import Manifest
from featurepipe.stages.listening import SILENT, Listener
from featurepipe.stores import Known, Row, Rows, Store, Writer, digest_rows, plan


def extract(
    data: str | Path,
    store: str | Path | None = None,
    *,
    backbone: str | Extractor | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    compile: str = "auto",
    devices: Sequence[str] = (),
    rows_per_shard: int = extraction.ROWS_PER_SHARD,
    rehash: bool = False,
    listener: Listener = SILENT,
    **options: Any,
) -> dict[str, Any]:
    """Embed every image of a data set that the store does not hold yet.

    Parameters
    ----------
    data : path
        Folder or table; see `featurepipe.manifests`.
    store : path, optional
        By default ``NAME.store`` here, after the data's name.
    backbone : str, Backbone or Descriptor, optional
        See `featurepipe.backbones.create`, which also takes `options`. Precision and decoder, where they are left to
        choose, are those of the vectors of the same network that the store already holds.
    batch_size, workers, rows_per_shard : int
        Images per forward pass (None: chosen here), threads (None: one per core), planned samples per shard.
    compile : {'auto', 'on', 'off'}
        Whether the network is compiled; ``auto`` does it in runs that take ten times as long as compiling.
    devices : sequence of str
        More than one: each runs in a process of its own. A script must then guard its main part by
        ``if __name__ == "__main__":``, as for every use of Python's multiprocessing.
    rehash : bool
        Read every file, also those whose size and modification time are still what the store knows.
    listener : Listener

    Returns
    -------
    dict
        ``store, backbone, fingerprint, width, samples, computed, reused, rejected, rejects, seconds, device,
        precision, decoder``, and of the embedding itself ``images_per_second, ceiling, efficiency, limited_by, stages,
        profile`` (see `featurepipe.extraction.Outcome`; None where too little ran to say). ``samples`` is the sum of
        the three counts; copies of an image already embedded count as reused.

    Examples
    --------
    >>> result = extract("data/digits", "/tmp/digits.store")
    >>> result["samples"], result["rejected"]
    (1797, 0)
    """
    started = time.perf_counter()
    manifest = manifests.read(data)
    extractor = make_extractor(backbone, options, listener, store or default_name(data, ".store"))
    target = Store.create(store or default_name(data, ".store"))
    check_root(target, manifest.root, listener, refuse="-s" if store is None else None)
    with target.lock():
        rows, unreadable = digest(manifest, workers, listener, () if rehash else target.known(manifest.root))
        target.write_rows(manifest.root, rows)
        target.write_rejects(unreadable)  # the last run's are not true any more, even if this one is interrupted
        result = fill(
            target,
            manifest.root,
            rows,
            unreadable,
            extractor,
            batch_size=batch_size,
            workers=workers,
            compile=compile,
            devices=devices,
            rows_per_shard=rows_per_shard,
            listener=listener,
        )
        target.write_rejects(result["rejects"])
    return {**result, "seconds": round(time.perf_counter() - started, 3)}


def default_name(data: str | Path, suffix: str) -> Path:
    """``NAME<suffix>`` in the current folder, after a data set's own name."""
    path = Path(data).resolve()
    return Path((path.name if path.is_dir() else path.stem) + suffix)


def check_root(store: Store, root: Path, listener: Listener, *, refuse: str | None) -> None:
    """Say that a store is about to describe another folder; refuse if its place was not chosen but a default.

    Parameters
    ----------
    refuse : str or None
        The option by which another place can be given, where none was.
    """
    before = store.root
    if before is None or before == root.resolve():
        return
    if refuse is not None:
        raise StoreError(f"{store.path} belongs to {before}, not to {root.resolve()}; give another place with {refuse}")
    listener.note(f"note: {store.path} described {before}; it now describes {root.resolve()}")


def make_extractor(
    backbone: str | Extractor | None, options: Mapping[str, Any], listener: Listener, store: str | Path
) -> Extractor:
    """The backbone itself, or the one of that name, as `store` holds it; a download that takes its time is announced.

    Raises
    ------
    TypeError
        Options beside a ready-made backbone.
    """
    if backbone is not None and not isinstance(backbone, str):
        if options:
            raise TypeError(f"{', '.join(options)}: options are for a backbone by name, not for a ready-made one")
        return backbone
    local = backbone in (None, backbones.BUNDLED, *backbones.DESCRIPTORS)
    if local or options.get("weights") is not None or options.get("random_weights"):
        return follow_store(store, backbones.create(backbone, **options), options)
    waiting = threading.Timer(8, listener.note, [f"waiting for the weights of {backbone}; they are downloaded once"])
    waiting.start()
    try:
        return follow_store(store, backbones.create(backbone, **options), options)
    finally:
        waiting.cancel()


def follow_store(store: str | Path, extractor: Extractor, options: Mapping[str, Any]) -> Extractor:
    """Keep to the precision and decoder of a store that holds this network's vectors, unless the caller chose them.

    What a machine would choose by itself may differ from what another one chose, and a store that is carried from
    one to the other should not be computed again for that.
    """
    if not isinstance(extractor, Backbone) or not Store.is_store(store):
        return extractor
    chosen = {"precision": options.get("precision") not in (None, "auto")}
    chosen["decoder"] = (options.get("transform") or {}).get("decoder") not in (None, "auto")
    held = {entry.fingerprint: entry.spec for entry in Store.open(store).entries()}
    if extractor.fingerprint in held:
        return extractor
    for fingerprint, spec in held.items():
        own = {"precision": spec["precision"], "decoder": spec["transform"].get("decoder")}
        candidate = extractor.adapted(**{key: value for key, value in own.items() if not chosen[key]})
        if candidate.fingerprint == fingerprint:
            return candidate
    return extractor


def digest(
    manifest: Manifest, workers: int | None, listener: Listener, known: Iterable[Known] = ()
) -> tuple[Rows, dict[str, str]]:
    """`featurepipe.stores.digest_rows`, with progress."""
    with listener.progress("checking files", len(manifest)) as advance:
        return digest_rows(manifest, workers or extraction.default_workers(), advance, known)


def fill(
    store: Store,
    root: Path,
    rows: Sequence[Row],
    unreadable: Mapping[str, str],
    extractor: Extractor,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    compile: str = "auto",
    devices: Sequence[str] = (),
    rows_per_shard: int = extraction.ROWS_PER_SHARD,
    listener: Listener,
) -> dict[str, Any]:
    """Embed what `extractor` lacks of `rows`; the store is locked by the caller."""
    started = time.perf_counter()
    entry = store.entry(extractor)
    todo = plan(rows, root, entry)
    listener.note(first_line(extractor, len(rows), len(rows) - len(unreadable) - todo.samples))
    writer = Writer(entry, extraction.provenance(extractor, batch_size), rows_per_shard)
    settings = {"batch_size": batch_size, "workers": workers, "compile": compile, "note": listener.note}
    with listener.progress(f"embedding with {extractor.name}", len(todo)) as advance:
        if len(devices) > 1 and len(todo) > rows_per_shard:
            outcome = extraction.fill_together(todo, extractor, writer, devices, **settings, progress=advance)
        else:
            outcome = extraction.fill(todo, extractor, writer, **settings, progress=advance)
    doubtful = outcome.rejects.keys() - writer.rejects.keys()  # not broken, but gone or changed since it was hashed
    if doubtful:
        store.write_rows(root, Rows.of(rows).without_stamps(doubtful))
    rejects = rejected_samples(rows, unreadable, outcome.rejects)
    return {
        "store": str(store.path),
        "backbone": extractor.name,
        "fingerprint": extractor.fingerprint,
        "width": extractor.width,
        "samples": len(rows),
        "computed": outcome.computed,
        "reused": len(rows) - outcome.computed - len(rejects),
        "rejected": len(rejects),
        "rejects": rejects,
        "seconds": round(time.perf_counter() - started, 3),
        "device": extractor.device,
        "precision": extractor.spec["precision"],
        "decoder": extractor.transform.decoder,
        **outcome.summary(),
        "profile": outcome.profile(),
    }


def first_line(extractor: Extractor, samples: int, cached: int) -> str:
    """What a run says first: device, precision, backbone, samples, and how many are cached."""
    bundled = extractor.source["name"] == backbones.BUNDLED and extractor.source["random_seed"] is None
    hint = " (the small network inside featurepipe; choose a real one with -b, say -b resnet50.a1_in1k)"
    return (
        f"{extractor.device} {extractor.spec['precision']} · {extractor.name}{hint if bundled else ''} · "
        f"{samples} samples, {cached} cached"
    )


def rejected_samples(rows: Sequence[Row], unreadable: Mapping[str, str], reasons: Mapping[str, str]) -> dict[str, str]:
    """Sample id → reason, in manifest order."""
    if not unreadable and not reasons:
        return {}
    found = ((sample.id, unreadable.get(sample.id) or reasons.get(digest)) for sample, digest in rows)
    return {id_: reason for id_, reason in found if reason}
