"""Whether a store, which describes one data set, may describe these samples."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from featurepipe.errors import StoreError
from featurepipe.listeners import Listener
from featurepipe.sources import Source, is_there, lasting_root
from featurepipe.stores import Rows, Store
from featurepipe.stores.rows import keys

FEW = 1024  # rows of a manifest that mostly tell whether it is of the same data set


def check_root(store: Store, source: Source, belongs: bool, listener: Listener) -> None:
    """Say that a store is about to describe another folder; refuse if it is another data set's that is still there."""
    before, now = store.recorded_root or store.begun_root, Path(lasting_root(source))
    if before is None:
        return
    if not belongs and before == now:
        raise StoreError(
            f"{store.path} describes other samples of {now}, none of which is among these; give another place (-o "
            "of run, -s of extract), or replace what it describes with --force"
        )
    if not belongs:
        raise StoreError(
            f"{store.path} describes another data set, {before}, of which {now} holds no sample; give another place "
            "(-o of run, -s of extract), or replace what it describes with --force"
        )
    if before != now and not is_there(str(before)):
        listener.note(f"note: {store.path} described {before}, which is gone; it now describes {now}")
    elif before != now:
        listener.note(f"note: {store.path} described {before}; it now describes {now}")


def describes(store: Store, source: Source, rows: Rows) -> bool:
    """Whether rows are of the data set that a store describes, or it describes none that is still there.

    A data set that was moved, copied or that had files added is the same one: some of its contents are. In the same
    folder it also is if some paths are: the images behind them may all have been made again. Mere numbers are no paths.
    More digests may turn a False into True, and never the other way round.
    """
    before, now = store.recorded_root, Path(lasting_root(source))
    if before == now:
        return _continues(store, source, rows)
    if before is not None:
        return not is_there(str(before)) or _shares(store, rows)
    begun = store.begun_root  # by a run that was stopped before it could write a manifest
    return begun in (None, now) or not is_there(str(begun)) or _has_read(store, rows)


def _has_read(store: Store, rows: Rows) -> bool:
    """Whether a content that the store's journal lists is among `rows`."""
    return bool(np.isin(keys(store.begun_contents), rows.keys[rows.readable]).any())


def _continues(store: Store, source: Source, rows: Rows) -> bool:
    """Whether a store's manifest lists contents or paths that are among `rows`, or none whose file is still there."""
    some = [known.digest for known in islice(store.known(source), FEW)]
    contents = keys(np.frombuffer(b"".join(some), np.uint8).reshape(-1, 32))
    is_known = np.isin(contents, rows.keys[rows.readable]).any()
    if is_known or _shares(store, rows):  # mostly the former, without reading all
        return True
    if source.numbered:
        return False
    places = {sample.place for sample in rows.samples}
    before = [sample.place for sample in store.rows(checked=False).samples]  # which `_shares` has read as well
    return not places.isdisjoint(before) or not any(_is_there(source, place) for place in before)


def _is_there(source: Source, place: str) -> bool:
    try:
        source.stamp(place)
    except OSError:
        return False
    return True


def _shares(store: Store, rows: Rows) -> bool:
    """Whether a content that the store's manifest lists is among `rows`, or it lists none at all."""
    try:
        before = store.rows(checked=False)
    except StoreError:  # a damaged manifest is replaced
        return True
    known = before.keys[before.readable]
    return not len(known) or bool(np.isin(known, rows.keys[rows.readable]).any())
