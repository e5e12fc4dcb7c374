"""Several devices: one process each, which takes the next chunk of the plan whenever it is free."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any

from featurepipe import backbones
from featurepipe.backbones import Extractor
from featurepipe.errors import BackboneError
from featurepipe.extraction.chunks import POLL, Chunk, Chunks, Inbox
from featurepipe.extraction.engines import default_workers
from featurepipe.extraction.loop import fill_parts
from featurepipe.extraction.outcomes import Outcome, together
from featurepipe.interrupts import Interrupts
from featurepipe.listeners import SILENT, Listener
from featurepipe.stores import Pending, Writer, Writers
from featurepipe.surroundings import guarded

AHEAD = 2  # chunks for each process that wait for it
GUARD = (
    "several devices need a main guard in the script: each runs in a process that first imports it, and would start "
    'all over again; put its main part under: if __name__ == "__main__":'
)
NO_FILE = (
    "several devices cannot be used by a script from standard input, as each runs in a process that first imports "
    'it; save it as a file, with a guard around its main part: if __name__ == "__main__":'
)
_CHILD: dict[str, Any] = {}  # what a process shares with the one that started it


@guarded
def fill_together(
    plan: Sequence[Pending],
    backbone: Extractor,
    writer: Writer | Writers,
    devices: Sequence[str],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    compile: str = "auto",
    listener: Listener = SILENT,
) -> Outcome:
    """Embed what is planned on several devices; the arguments are those of `fill`.

    The plan is cut into `Chunks`, each under its own shard number, and a device takes the next one whenever it is free.
    The batches are those of one device if the batch size is given, and so are the shards, except for the last ones,
    which are smaller, and for those with files that cannot be read, to which one device adds a batch. The caller
    holds the store's lock. Each process makes the backbone again from its spec, and checks that it is the same.

    Returns
    -------
    Outcome
        Outcome of all devices together. Elapsed is the time from the first image of any device to the last of all; as
        with one device, making the backbone does not count.

    Raises
    ------
    BackboneError
        A process failed or died; what the others have finished is kept.
    """
    check_main()
    with listener.progress("embedding", len(plan)) as advance, Interrupts().heard():
        results = _results(
            plan,
            backbone,
            writer,
            devices,
            {"batch_size": batch_size, "workers": workers, "compile": compile},
            advance,
        )
    for text in dict.fromkeys(text for _, notes, _, _ in results for text in notes):
        listener.note(text)
    for _, _, rejects, _ in results:
        writer.rejects |= rejects
    begun, ended = zip(*(times for _, _, _, times in results), strict=True)
    return together([outcome for outcome, _, _, _ in results], max(ended) - min(begun))


def check_main() -> None:
    """Raise BackboneError if other processes cannot import the main module, or if this one is just importing it."""
    if str(getattr(sys.modules["__main__"], "__file__", "")).startswith("<"):
        raise BackboneError(NO_FILE)
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as Python's own check finds out
        raise BackboneError(GUARD)


def _results(
    plan: Sequence[Pending],
    backbone: Extractor,
    writer: Writer | Writers,
    devices: Sequence[str],
    options: Mapping[str, Any],
    advance: Callable[[int], object],
) -> list[tuple[Outcome, list[str], dict[str, str], tuple[float, float]]]:
    """What `_work` gives in each process; on leaving, none of them is left."""
    count = len(devices)
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    stop, done, begun = context.Event(), context.Value("q", 0), context.Value("q", 0)
    hand = context.Queue(AHEAD * count)
    sent = _sent(Chunks(plan, writer.rows_per_shard, options["batch_size"], count), count)
    options = {**options, "workers": options["workers"] or max(1, default_workers() // count)}
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, context, _begin, (stop, done, begun, hand))
    told = 0
    try:
        work = partial(_work, backbone.spec, backbone.source)
        _hand_out(sent, hand)  # what cannot be sent shows before a process is started
        running = [pool.submit(work, device, len(plan) // count, writer.share(), options) for device in devices]
        unfinished = set(running)
        while unfinished:
            finished, unfinished = wait(unfinished, POLL, FIRST_EXCEPTION)
            told, before = done.value, told
            advance(told - before)
            for future in finished:
                future.result()
            _hand_out(sent, hand)
        return [future.result() for future in running]
    except (BrokenProcessPool, BrokenPipeError) as error:
        if not begun.value:  # not one has come as far as to ask for work
            raise BackboneError(GUARD) from error
        raise BackboneError(
            f"a process on one of {', '.join(devices)} died, possibly out of memory; finished shards are kept: "
            "run again with fewer devices or a smaller batch size"
        ) from error
    finally:
        stop.set()
        hand.cancel_join_thread()  # nobody may be left to take what is in it
        try:
            pool.shutdown(wait=True, cancel_futures=True)
        except BaseException:  # Ctrl-C once more: none may go on when the store's lock is let go
            for child in set(multiprocessing.active_children()) - others:
                child.kill()
            pool.shutdown(wait=True)
            raise
        finally:
            hand.close()


def _sent(chunks: Chunks, count: int) -> Iterator[bytes]:
    """All chunks as they are sent, and for each process the word that no more will come.

    They are pickled here: what the queue's own thread cannot pickle, it drops.
    """
    for chunk in iter(chunks.take, None):
        yield pickle.dumps(chunk)
    yield from [pickle.dumps(None)] * count


def _hand_out(sent: Iterator[bytes], hand: Any) -> None:
    """Fill the queue up. Only this process puts anything in, so what is not full does not become so by itself."""
    while not hand.full() and (one := next(sent, None)) is not None:
        hand.put(one)


def _begin(stop: Any, done: Any, begun: Any, hand: Any) -> None:
    """Set a process up: Ctrl-C is for the parent to hear, and none of it outlives the parent or its lock."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _CHILD.update(stop=stop, done=done, hand=hand)
    with begun.get_lock():
        begun.value += 1
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a child

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on SIGTERM it would finish and write first

    threading.Thread(target=follow, daemon=True).start()


class _Child(Listener):
    """Keeps the notes of a process, and adds its progress to that of all."""

    def __init__(self, device: str) -> None:
        self.notes: list[str] = []
        self._device = device

    def note(self, text: str) -> None:
        self.notes.append(f"{self._device}: {text}")

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], object]]:
        yield self._advance

    def _advance(self, count: int) -> None:
        with _CHILD["done"].get_lock():
            _CHILD["done"].value += count
        _check()


def _check() -> None:
    if _CHILD["stop"].is_set():
        raise KeyboardInterrupt  # on which `fill_parts` writes what is finished


def _receive(block: bool, timeout: float) -> Chunk | None:
    received: Chunk | None = pickle.loads(_CHILD["hand"].get(block, timeout))
    return received


def _work(
    spec: Mapping[str, Any],
    source: Mapping[str, Any],
    device: str,
    left: int,
    writer: Writer | Writers,
    options: Mapping[str, Any],
) -> tuple[Outcome, list[str], dict[str, str], tuple[float, float]]:
    """What `fill_parts` does and says here, the writer's rejects, and when it began and ended."""
    import torch

    torch.set_num_threads(options["workers"])
    listener = _Child(device)
    made = backbones.recreate(spec, source, device=device, trust=True)  # the parent has made the same
    begun = time.time()  # of a clock that all processes share
    outcome = fill_parts(Inbox(_receive, writer, left, _check), made, writer, **options, listener=listener)
    return outcome, listener.notes, writer.rejects, (begun, time.time())
