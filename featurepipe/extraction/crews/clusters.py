"""Ray: actors on the nodes of a cluster, which the driver hands chunks of its plan.

Plain actors and the queue of chunks that the devices of one machine have, too. Ray Data would hide which samples are in
which block, and a block that it computes again is another one: but here each chunk has to become one shard, under a
name that follows from what is in it, so that whoever computes it a second time replaces the same rows by themselves.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, cast

import featurepipe
from featurepipe.backbones import Embedder, Extractor
from featurepipe.errors import BackboneError, DependencyMissing, FeaturepipeError, StoreError
from featurepipe.extraction.chunks import POLL, Chunk, Chunks, Share
from featurepipe.extraction.crews.actors import Job, Report, Worker
from featurepipe.extraction.crews.crew import Lanes, Settings
from featurepipe.extraction.loop import Sink
from featurepipe.extraction.outcomes import Outcome, together
from featurepipe.interrupts import Interrupts
from featurepipe.listeners import Listener
from featurepipe.stores import Pending, Writer, Writers, locks

TRIES = 4  # actors that may be lost over one chunk
SEAT_TRIES = 8  # actors that may be lost one after another in one place of a node, without a chunk in between
FOLLOW = 2.0  # seconds between two looks at which nodes there are
PATIENCE = 60.0  # seconds without any actor before a run gives up
THREADS = 8  # of an actor: for two chunks, and what else the driver asks
GRACE = 60.0  # seconds for actors to write what is finished
LEAVE = 15.0  # seconds for actors that were told to end
KEPT = "finished shards are kept: run the same command again"


@dataclass(frozen=True)
class Ray:
    """Actors of a Ray cluster, each with the network in its memory.

    The store and the samples have to be in folders that all nodes share, and the file system must have locks. Each
    actor writes the shard of a chunk itself. A chunk whose actor or node is lost goes to another one; one over which
    several are lost ends the run.

    Attributes
    ----------
    address : str or None
        As `ray.init` takes it. None is what RAY_ADDRESS says, or the cluster that this machine is in, or else one of
        this machine alone, for this run.
    gpus : float or None
        GPUs of each actor, such as 0.5; 0 for none. None is 1 if a node has one.
    """

    address: str | None = None
    gpus: float | None = None

    def fill(
        self,
        plan: Sequence[Pending],
        extractor: Embedder,
        sink: Sink,
        settings: Settings,
        listener: Listener,
    ) -> Outcome:
        """See `featurepipe.extraction.Crew.fill`; the sink is a `featurepipe.stores.Writer` or `Writers`."""
        if not isinstance(sink, Writer | Writers):
            raise TypeError("a cluster can fill only a store")
        if not len(plan):
            return Lanes().fill(plan, extractor, sink, settings, listener)
        with _connected(self.address) as ray, listener.progress("embedding", len(plan)) as advance:
            team = _Team(ray, plan, cast(Extractor, extractor), sink, settings, self.gpus, listener, advance)
            with Interrupts().heard():
                return team.fill()


@contextmanager
def _connected(address: str | None) -> Iterator[ModuleType]:
    """Ray, connected; what was connected before stays so."""
    try:
        import ray
    except ImportError as error:
        raise DependencyMissing("--crew ray needs Ray: pip install 'featurepipe[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    own: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    main = threading.current_thread() is threading.main_thread()
    hears = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, **quiet, **own)
    except Exception as error:  # of many kinds: no connection, another version, a cluster that does not start
        why = (str(error).strip() or repr(error)).splitlines()[0]
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise BackboneError(
            f"Ray cannot be used at {where} ({why}); see with ray status whether it runs there, or leave out --crew"
        ) from error
    try:
        if main:
            signal.signal(signal.SIGTERM, hears)  # which Ray has replaced
        yield ray
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Seat:
    """Where an actor may be.

    Attributes
    ----------
    node : str
        Id of the node.
    number : int
        Number of the actor among those of the node.
    workers : int
        Threads of it.
    cpus, gpus : float
        What it takes of the node.
    """

    node: str
    number: int
    workers: int
    cpus: float
    gpus: float


def seats(nodes: Sequence[Mapping[str, Any]], gpus: float | None, workers: int | None) -> list[Seat]:
    """Places for actors on nodes as `ray.nodes` lists them.

    With GPUs there are as many actors on a node as its GPUs allow, and they share its CPUs. Without, an actor has all
    CPUs of a node, or `workers` of them, and there are as many as fit.

    Parameters
    ----------
    nodes : sequence of mapping
    gpus : float or None
        GPUs of each actor; None is 1 if a node has one, and else 0.
    workers : int or None
        Threads of each actor.

    Examples
    --------
    >>> nodes = [{"NodeID": "a", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}]
    >>> [(seat.number, seat.workers, seat.gpus) for seat in seats(nodes, 0.5, None)]
    [(0, 2, 0.5), (1, 2, 0.5), (2, 2, 0.5), (3, 2, 0.5)]
    """
    held = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
    each = gpus if gpus is not None else float(any(one.get("GPU", 0) for one in held.values()))
    found = []
    for node, one in sorted(held.items()):
        cpus = int(one.get("CPU", 0))
        if each:
            count = int(one.get("GPU", 0) / each + 1e-6)
            share = cpus // count if count else 0
        else:
            share = min(workers or cpus, cpus)
            count = cpus // share if share else 0
        threads = workers or max(1, share)
        found += [Seat(node, number, threads, min(threads, share), each) for number in range(count)]
    return found


@dataclass(eq=False)
class Member:
    """An actor, and what it has to do.

    Attributes
    ----------
    actor : object
    seat : Seat
    ready : object or None
        What comes when it is; None when it is.
    flight : dict
        What comes when a chunk is done, and the chunk, the oldest first.
    asked : object or None
        What says how far it is.
    done, told : int
        Samples that are done, as it says; those of them in chunks that are.
    """

    actor: Any
    seat: Seat
    ready: Any
    flight: dict[Any, Chunk] = field(default_factory=dict)
    asked: Any = None
    done: int = 0
    told: int = 0

    @property
    def waits_for(self) -> list[Any]:
        """What may come from it."""
        return [one for one in (self.ready, self.asked, *self.flight) if one is not None]


class _Team:
    """The driver's side of a run: who is there, who has which chunk, and what has come of them."""

    def __init__(
        self,
        ray: ModuleType,
        plan: Sequence[Pending],
        extractor: Extractor,
        sink: Writer | Writers,
        settings: Settings,
        gpus: float | None,
        listener: Listener,
        advance: Callable[[int], object],
    ) -> None:
        self._ray, self._sink, self._settings, self._gpus = ray, sink, settings, gpus
        self._listener, self._advance = listener, advance
        entry = sink.entry if isinstance(sink, Writer) else sink.writers[0].entry
        self._store, self._run = entry.folder.parent.absolute(), secrets.token_hex(4)
        self._job = self._make_job(plan, extractor)
        self._chunks = Chunks(plan, sink.rows_per_shard, settings.batch_size, 1)
        self._returned = deque[Chunk]()
        self._members: list[Member] = []
        self._lost: Counter[Any] = Counter()  # of a chunk's place, or of a seat: actors
        self._names: list[str] = []
        self._computed = self._finished = self._advanced = 0
        self._rejects: dict[str, str] = {}
        self._looked = self._seen = float("-inf")
        self._begun: float | None = None
        self._cause = "no node of the cluster has what an actor needs"

    def _make_job(self, plan: Sequence[Pending], extractor: Extractor) -> Job:
        return Job(
            featurepipe.__version__,
            os.getcwd(),
            self._store,
            "",
            extractor.spec,
            extractor.source,
            "cpu",
            self._sink.share(),
            Share([_readable(plan)]),
            len(plan),
            {"batch_size": self._settings.batch_size, "compile": self._settings.compile},
        )

    def fill(self) -> Outcome:
        """Hand out chunks until all are done; on leaving, no actor is left."""
        try:
            self._seen = time.monotonic()
            while self._chunks.left or self._returned or any(member.flight for member in self._members):
                self._follow()
                self._hand_out()
                self._hear()
            return self._outcome()
        except BaseException:
            self._stop()
            raise
        finally:
            self._dismiss()

    def _follow(self) -> None:
        """Place an actor wherever the cluster has room for one and there is none: nodes come and go."""
        now = time.monotonic()
        if now < self._looked + FOLLOW:
            return
        self._looked = now
        places = seats(self._ray.nodes(), self._gpus, self._settings.workers)
        taken = {member.seat for member in self._members}
        for seat in places:
            if seat not in taken and self._lost[seat] < SEAT_TRIES:
                self._place(seat)
        self._chunks.count = max(1, len(self._members))
        if any(member.ready is None for member in self._members):
            self._seen = now
        hopeless = bool(places) and all(self._lost[seat] >= SEAT_TRIES for seat in places)
        if not self._members and (hopeless or now > self._seen + PATIENCE):
            raise BackboneError(f"no actor can work on this cluster: {self._cause}; {KEPT}")
        if now > self._seen + PATIENCE:
            self._seen = now
            self._listener.note(f"note: no actor has been ready for {PATIENCE:.0f} s; the cluster may be busy")

    def _place(self, seat: Seat) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        name = f"{self._run}-{len(self._names)}"
        self._names.append(name)
        locks.admit(self._store, name)
        there = NodeAffinitySchedulingStrategy(seat.node, soft=False)
        made = self._ray.remote(Worker).options(
            num_cpus=seat.cpus,
            num_gpus=seat.gpus,
            max_concurrency=THREADS,
            max_restarts=0,
            scheduling_strategy=there,
        )
        actor = made.remote()
        job = replace(
            self._job,
            name=name,
            device="cuda" if seat.gpus else "cpu",
            left=self._chunks.left // self._chunks.count,
            options={**self._job.options, "workers": seat.workers},
        )
        self._members.append(Member(actor, seat, actor.start.remote(job)))

    def _hand_out(self) -> None:
        """Give each actor something to do; and while there is plenty, also what it does next."""
        able = [member for member in self._members if member.ready is None]
        plenty = self._chunks.left > len(able) * self._sink.rows_per_shard
        for depth in (1, 2) if plenty else (1,):
            for member in able:
                if len(member.flight) < depth and (chunk := self._next()) is not None:
                    self._begun = self._begun or time.perf_counter()
                    member.flight[member.actor.embed.remote(chunk)] = chunk

    def _next(self) -> Chunk | None:
        return self._returned.popleft() if self._returned else self._chunks.take()

    def _hear(self) -> None:
        """Wait a little for what comes from anybody, and take it."""
        for member in self._members:
            if member.ready is None and member.asked is None:
                member.asked = member.actor.progress_made.remote()
        waited = {one: member for member in self._members for one in member.waits_for}
        if not waited:
            time.sleep(POLL)
            return
        come, _ = self._ray.wait(list(waited), num_returns=1, timeout=POLL)
        asked = [member.asked for member in self._members]
        if come and all(one in asked for one in come):  # they are asked again at once
            time.sleep(POLL)
            come, _ = self._ray.wait(list(waited), num_returns=len(waited), timeout=0)
        for one in come:
            if waited[one] in self._members:
                self._take(waited[one], one)
        current = self._finished + sum(max(0, member.done - member.told) for member in self._members)
        if current > self._advanced:  # what a lost actor had done is not done any more
            self._advance(current - self._advanced)
            self._advanced = current

    def _take(self, member: Member, one: Any) -> None:
        try:
            value = self._ray.get(one)
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error, member) from error
        except self._ray.exceptions.RayError as error:
            self._lose(member, error)
            return
        if one == member.ready:
            member.ready, self._seen = None, time.monotonic()
        elif one == member.asked:
            member.asked, (member.done, notes) = None, value
            for note in notes:
                self._listener.note(note)
        else:
            self._count(member.flight[one], value)
            member.told += len(member.flight.pop(one).plan)
            self._lost[member.seat] = 0

    def _count(self, chunk: Chunk, report: Report) -> None:
        self._finished += len(chunk.plan)
        self._computed += report.computed
        self._rejects |= report.rejects
        self._sink.rejects |= report.broken

    def _lose(self, member: Member, error: Exception) -> None:
        """Take back what an actor had to do that is gone, or cannot be reached."""
        self._members.remove(member)
        with suppress(Exception):  # it may be gone for good
            self._ray.kill(member.actor)
        self._cause = _first_line(error)
        self._lost[member.seat] += 1
        self._looked = float("-inf")
        for number, chunk in enumerate(member.flight.values()):
            if not number:
                self._lost[chunk.place] += 1
            rejects = self._sink.found(chunk.place, chunk.plan.digests, chunk.tag)
            if rejects is not None:  # it was written, and only not told
                self._count(chunk, Report(len(chunk.plan) - len(rejects), rejects, rejects))
                continue
            if self._lost[chunk.place] >= TRIES:
                raise BackboneError(
                    f"{TRIES} actors were lost over {len(chunk.plan)} samples from {chunk.plan[0].place} on, the last "
                    f"one so: {self._cause}; {KEPT}, with a smaller batch size or fewer actors if memory ran out"
                )
            self._returned.append(chunk)
        self._listener.note(f"note: an actor was lost ({self._cause}); its samples go to another one")

    def _outcome(self) -> Outcome:
        """What all did; an actor that is lost now has already told of each chunk."""
        elapsed = time.perf_counter() - (self._begun or time.perf_counter())
        asked = [member.actor.finish.remote() for member in self._members if member.ready is None]
        come, _ = self._ray.wait(asked, num_returns=len(asked), timeout=GRACE) if asked else ([], [])
        outcomes = []
        for one in come:
            with suppress(self._ray.exceptions.RayError):
                outcomes.append(self._ray.get(one))
        total = together(outcomes, elapsed) if outcomes else Outcome(elapsed=elapsed)
        return replace(total, computed=self._computed, rejects=self._rejects, cores=max(1, total.lanes))

    def _stop(self) -> None:
        """Let all write what is finished."""
        asked = [member.actor.stop.remote() for member in self._members if member.ready is None]
        if asked:
            self._ray.wait(asked, num_returns=len(asked), timeout=GRACE)

    def _dismiss(self) -> None:
        for member in self._members:
            with suppress(Exception):  # of a cluster that is gone
                self._ray.kill(member.actor)
        with suppress(StoreError):  # whoever writes next waits for those that are left
            locks.settle(self._store, LEAVE)


def _readable(plan: Sequence[Pending]) -> Pending:
    """The first sample that can be read here, for each actor to try; or else the first."""
    for pending in plan:
        with suppress(OSError):
            pending.size  # noqa: B018
            return pending
    return plan[0]


def _cause(error: Any, member: Member) -> Exception:
    """What went wrong in an actor, as it would have been raised here."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, FeaturepipeError):
        return cause
    return BackboneError(f"an actor on node {member.seat.node[:8]} failed: {_first_line(cause or error)}; {KEPT}")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:1]) or repr(error)
