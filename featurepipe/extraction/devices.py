"""Several devices: one process each, over a plan that is shared out shard by shard beforehand."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, overload

from featurepipe import backbones
from featurepipe.backbones import Extractor
from featurepipe.errors import BackboneError
from featurepipe.extraction.engines import default_workers
from featurepipe.extraction.loop import fill
from featurepipe.extraction.outcomes import Outcome
from featurepipe.interrupts import Interrupts
from featurepipe.listeners import SILENT, Listener
from featurepipe.manifests.samples import Rare, Texts
from featurepipe.sources import Source
from featurepipe.stores import Pending, Writer, Writers
from featurepipe.surroundings import guarded

POLL = 0.2  # seconds between two looks at how far the processes are
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

    The plan is cut into slices of ``writer.rows_per_shard`` samples. The first device takes the first, the second the
    second, and so on in turn, each under the shard number that it would have had on one device. So nothing has to be
    agreed on while they run. Where a slice is a multiple of the batch size and every file can be read, the shards
    come out as on one device; where not, a device's batches reach from one of its slices into its next, or a shard
    takes a batch more, and the same rows are shared out among the shards in another way. The caller holds the store's
    lock. Each process makes the backbone again from its spec, and checks that it is the same.

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
    return _together([outcome for outcome, _, _, _ in results], max(ended) - min(begun))


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
    count, rows = len(devices), writer.rows_per_shard
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    stop, done, begun = context.Event(), context.Value("q", 0), context.Value("q", 0)
    options = {**options, "workers": options["workers"] or max(1, default_workers() // count)}
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, context, _begin, (stop, done, begun))
    told = 0
    try:
        running = []
        for turn, device in enumerate(devices):
            part = Share(plan[i] for i in range(len(plan)) if i // rows % count == turn)
            own = writer.share(turn, count)
            running.append(pool.submit(_work, backbone.spec, backbone.source, device, part, own, options))
        unfinished = set(running)
        while unfinished:
            finished, unfinished = wait(unfinished, POLL, FIRST_EXCEPTION)
            told, before = done.value, told
            advance(told - before)
            for future in finished:
                future.result()
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
        try:
            pool.shutdown(wait=True, cancel_futures=True)
        except BaseException:  # Ctrl-C once more: none may go on when the store's lock is let go
            for child in set(multiprocessing.active_children()) - others:
                child.kill()
            pool.shutdown(wait=True)
            raise


class Share(Sequence[Pending]):
    """A part of a plan, packed to be sent: fifty bytes an image, and its place.

    A `Pending` is made when it is asked for; as objects, or pickled ones, all of them would need many times as much.

    Parameters
    ----------
    plan : iterable of Pending

    Examples
    --------
    >>> from featurepipe.sources import Files
    >>> share = Share([Pending("ab" * 32, Files(), "a.jpg"), Pending("cd" * 32, Files(), "b.jpg", retried=True)])
    >>> len(share), share[1].place, share[1].retried
    (2, 'b.jpg', True)
    """

    def __init__(self, plan: Iterable[Pending]) -> None:
        self._digests, self._places, self._parts, self._retried = bytearray(), Texts(), Rare(), bytearray()
        self._sources, self._codes = list[Source](), array("i")
        codes: dict[int, int] = {}  # a source need not be hashable; mostly there is but one
        for pending in plan:
            self._digests += bytes.fromhex(pending.digest)
            self._places.append(pending.place)
            self._parts.append(pending.part)
            self._retried.append(pending.retried)
            code = codes.setdefault(id(pending.source), len(self._sources))
            self._sources += [pending.source] if code == len(self._sources) else []
            self._codes.append(code)

    def __getstate__(self) -> dict[str, Any]:
        """What a process is sent: of a source that holds contents, those of this part."""
        places: list[set[str]] = [set() for _ in self._sources]
        for number, code in enumerate(self._codes):
            places[code].add(self._places[number])
        sources = [source.share(some) for source, some in zip(self._sources, places, strict=True)]
        return {**self.__dict__, "_sources": sources}

    def __len__(self) -> int:
        return len(self._retried)

    @overload
    def __getitem__(self, index: int) -> Pending: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pending]: ...

    def __getitem__(self, index: int | slice) -> Pending | list[Pending]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        digest, source = self._digests[32 * i : 32 * i + 32].hex(), self._sources[self._codes[i]]
        return Pending(digest, source, self._places[i], self._parts[i], bool(self._retried[i]))


def _begin(stop: Any, done: Any, begun: Any) -> None:
    """Set a process up: Ctrl-C is for the parent to hear, and none of it outlives the parent or its lock."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _CHILD.update(stop=stop, done=done)
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
        if _CHILD["stop"].is_set():
            raise KeyboardInterrupt  # on which `fill` writes what is finished


def _work(
    spec: Mapping[str, Any],
    source: Mapping[str, Any],
    device: str,
    plan: Sequence[Pending],
    writer: Writer | Writers,
    options: Mapping[str, Any],
) -> tuple[Outcome, list[str], dict[str, str], tuple[float, float]]:
    """What `fill` does and says here, the writer's rejects, and when it began and ended."""
    import torch

    torch.set_num_threads(options["workers"])
    listener = _Child(device)
    made = backbones.recreate(spec, source, device=device, trust=True)  # the parent has made the same
    begun = time.time()  # of a clock that all processes share
    outcome = fill(plan, made, writer, **options, listener=listener)
    return outcome, listener.notes, writer.rejects, (begun, time.time())


def _together(outcomes: Sequence[Outcome], elapsed: float) -> Outcome:
    """One outcome of several that ran side by side."""
    total = Outcome(
        elapsed=elapsed, lanes=0, infer_threads=0, processes=len(outcomes), own_device=outcomes[0].own_device
    )
    for outcome in outcomes:
        for name in (field.name for field in fields(Outcome)):
            if name.endswith("_seconds") or name in ("computed", "lanes", "infer_threads"):
                setattr(total, name, getattr(total, name) + getattr(outcome, name))
        total.rejects |= outcome.rejects
    total.write_seconds /= len(outcomes)  # each writes by itself
    floors = [outcome.infer_floor for outcome in outcomes if outcome.infer_floor is not None]
    total.infer_floor = sum(floors) / len(floors) if len(floors) == len(outcomes) else None
    return total
