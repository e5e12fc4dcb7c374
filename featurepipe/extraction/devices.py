"""Several devices: one process each, over a plan that is shared out shard by shard beforehand."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields
from typing import Any

from featurepipe import backbones
from featurepipe.backbones import Extractor
from featurepipe.errors import BackboneError
from featurepipe.extraction.engines import default_workers
from featurepipe.extraction.loop import fill
from featurepipe.extraction.outcomes import Outcome
from featurepipe.stores import Pending, Writer, Writers

POLL = 0.2  # seconds between two looks at how far the processes are
_CHILD: dict[str, Any] = {}  # what a process shares with the one that started it


def fill_together(
    plan: Sequence[Pending],
    backbone: Extractor,
    writer: Writer | Writers,
    devices: Sequence[str],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    compile: str = "auto",
    progress: Callable[[int], object] = lambda n: None,
    note: Callable[[str], object] = lambda text: None,
) -> Outcome:
    """Embed what is planned on several devices; the arguments are those of `fill`.

    Of the plan's slices of ``writer.rows_per_shard`` samples the first device takes the first, the second the second,
    and so on in turn, each under the shard number that it would have had on one device. So nothing has to be agreed
    on while they run, and the shards come out the same. The caller holds the store's lock. Each process makes the
    backbone anew from its spec, and checks that it is the same.

    Raises
    ------
    BackboneError
        A process failed or died; what the others have finished is kept.
    """
    started, count, rows = time.perf_counter(), len(devices), writer.rows_per_shard
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    stop, done = context.Event(), context.Value("q", 0)
    options = {"batch_size": batch_size, "workers": workers or max(1, default_workers() // count), "compile": compile}
    pool = ProcessPoolExecutor(count, context, _begin, (stop, done))
    told = 0
    try:
        running = []
        for turn, device in enumerate(devices):
            part = [pending for i, pending in enumerate(plan) if i // rows % count == turn]
            own = writer.share(turn, count)
            running.append(pool.submit(_work, backbone.spec, backbone.source, device, part, own, options))
        unfinished: set = set(running)
        while unfinished:
            finished, unfinished = wait(unfinished, POLL, FIRST_EXCEPTION)
            told, before = done.value, told
            progress(told - before)
            for future in finished:
                future.result()
        results = [future.result() for future in running]
    except BrokenProcessPool as error:
        raise BackboneError(
            f"a process on one of {', '.join(devices)} died, perhaps for lack of memory; finished shards are kept: "
            "run again with fewer devices or a smaller --batch-size"
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    for text in dict.fromkeys(text for _, notes, _ in results for text in notes):
        note(text)
    for _, _, rejects in results:
        writer.rejects |= rejects
    return _together([outcome for outcome, _, _ in results], time.perf_counter() - started)


def _begin(stop: Any, done: Any) -> None:
    """Set a process up: Ctrl-C is for the parent to hear, and none of it outlives the parent or its lock."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _CHILD.update(stop=stop, done=done)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


def _work(
    spec: Mapping[str, Any],
    source: Mapping[str, Any],
    device: str,
    plan: Sequence[Pending],
    writer: Writer | Writers,
    options: Mapping[str, Any],
) -> tuple[Outcome, list[str], dict[str, str]]:
    import torch

    def advance(count: int) -> None:
        with _CHILD["done"].get_lock():
            _CHILD["done"].value += count
        if _CHILD["stop"].is_set():
            raise KeyboardInterrupt  # on which `fill` writes what is finished

    torch.set_num_threads(options["workers"])
    notes: list[str] = []
    made = backbones.recreate(spec, source, device=device)
    outcome = fill(plan, made, writer, **options, progress=advance, note=lambda text: notes.append(f"{device}: {text}"))
    return outcome, notes, writer.rejects


def _together(outcomes: Sequence[Outcome], elapsed: float) -> Outcome:
    """One outcome of several that ran side by side."""
    total = Outcome(elapsed=elapsed, lanes=0, infer_threads=0, own_device=outcomes[0].own_device)
    for outcome in outcomes:
        for name in (field.name for field in fields(Outcome)):
            if name.endswith("_seconds") or name in ("computed", "lanes", "infer_threads"):
                setattr(total, name, getattr(total, name) + getattr(outcome, name))
        total.rejects |= outcome.rejects
    total.write_seconds /= len(outcomes)  # each writes by itself
    floors = [outcome.infer_floor for outcome in outcomes if outcome.infer_floor is not None]
    total.infer_floor = sum(floors) / len(floors) if len(floors) == len(outcomes) else None
    return total
