"""The seam of crews and how they are asked to work; lanes of this process, and a process on each of several devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

from featurepipe.backbones import Embedder, Extractor
from featurepipe.extraction import devices, loop
from featurepipe.extraction.loop import Parts, Sink
from featurepipe.extraction.outcomes import Outcome
from featurepipe.listeners import SILENT, Listener, Within
from featurepipe.stores import Pending, Writer, Writers


class Crew(Protocol):
    """The seam that everything plugs into that can embed a plan."""

    def fill(
        self,
        plan: Sequence[Pending],
        extractor: Embedder,
        sink: Sink,
        settings: Settings,
        listener: Listener,
    ) -> Outcome:
        """Embed what is planned into a sink, under `listener.progress`; see `featurepipe.extraction.fill`."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """What a crew is that takes its work in parts, which become known while it is at work."""

    def fill_parts(
        self, parts: Parts, extractor: Embedder, sink: Sink, settings: Settings, listener: Listener
    ) -> Outcome:
        """Embed all parts into a sink, under `listener.progress`; see `featurepipe.extraction.fill`."""
        ...


@dataclass(frozen=True)
class Lanes:
    """The threads of this process, on the extractor's own device."""

    def fill_parts(
        self, parts: Parts, extractor: Embedder, sink: Sink, settings: Settings, listener: Listener
    ) -> Outcome:
        """See `Streaming.fill_parts`."""
        return loop.fill_parts(parts, extractor, sink, **settings.pace(), listener=listener)

    def fill(
        self,
        plan: Sequence[Pending],
        extractor: Embedder,
        sink: Sink,
        settings: Settings,
        listener: Listener,
    ) -> Outcome:
        """See `Crew.fill`."""
        return loop.fill(plan, extractor, sink, **settings.pace(), listener=listener)


@dataclass(frozen=True)
class Processes:
    """A process on each of several devices, which take chunks; less than a shard is not worth starting them.

    Attributes
    ----------
    devices : tuple of str
    """

    devices: tuple[str, ...]

    def fill(
        self,
        plan: Sequence[Pending],
        extractor: Embedder,
        sink: Sink,
        settings: Settings,
        listener: Listener,
    ) -> Outcome:
        """See `Crew.fill`; the sink is a `featurepipe.stores.Writer` or `Writers`."""
        if not isinstance(sink, Writer | Writers):
            raise TypeError("several devices can fill only a store")
        if len(plan) <= sink.rows_per_shard:
            return Lanes().fill(plan, extractor, sink, settings, listener)
        how: dict[str, Any] = {**settings.pace(), "listener": listener}
        return devices.fill_together(plan, cast(Extractor, extractor), sink, self.devices, **how)


@dataclass(frozen=True)
class Settings:
    """How embeddings are computed. Nothing here decides a vector, except for rounding.

    Attributes
    ----------
    batch_size : int or None
        Images per forward pass; None chooses it.
    workers : int or None
        Threads; None is one per core.
    compile : {'auto', 'on', 'off'}
        Whether the network is compiled.
    crew : Crew
        Who does the work.
    """

    batch_size: int | None = None
    workers: int | None = None
    compile: str = "auto"
    crew: Crew = field(default_factory=Lanes)

    @classmethod
    def of(
        cls,
        batch_size: int | None = None,
        workers: int | None = None,
        compile: str = "auto",
        devices: Sequence[str] = (),
        crew: Crew | None = None,
    ) -> Settings:
        """Settings of the command line's options: of several devices each has a process, unless a crew is given."""
        chosen = crew or (Processes(tuple(devices)) if len(devices) > 1 else Lanes())
        return cls(batch_size, workers, compile, chosen)

    def pace(self) -> dict[str, Any]:
        """What every crew passes on to the loop that it runs."""
        return {"batch_size": self.batch_size, "workers": self.workers, "compile": self.compile}


def fill(
    plan: Sequence[Pending] | Parts,
    extractor: Embedder,
    sink: Sink,
    settings: Settings = Settings(),  # frozen
    *,
    label: str = "embedding",
    listener: Listener = SILENT,
) -> Outcome:
    """Embed what is planned into a sink.

    Parameters
    ----------
    plan : sequence of Pending, or Parts
        What is retried comes last. Parts are for crews that are `Streaming`.
    extractor : Backbone, Layers or Descriptor
    sink : Writer, Writers or Memory
        A Writer must be of the same backbone's entry, and Writers of its layers' entries.
    settings : Settings
    label : str
        What the progress bar says.
    listener : Listener

    Returns
    -------
    Outcome

    Raises
    ------
    BackboneError
        The network or a process fails, or (`OutOfMemory`) there is no memory for a single image.
    """
    total = len(plan) if isinstance(plan, Sequence) else plan.left
    with listener.progress(label, total) as advance:
        within = Within(listener, advance)
        if isinstance(plan, Sequence):
            return settings.crew.fill(plan, extractor, sink, settings, within)
        if not isinstance(settings.crew, Streaming):
            raise TypeError(f"{type(settings.crew).__name__} takes a plan, not parts that become known later")
        return settings.crew.fill_parts(plan, extractor, sink, settings, within)
