"""What an extraction did, how long its stages took, and how near it came to what the hardware can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from featurepipe.extraction.engines import THREADS_PER_DEVICE, default_workers

STAGES = {"check": "checking files", "read": "reading", "infer": "inferring", "write": "writing"}


def _torch_threads() -> int:
    """Seconds of the calling thread, which shares the images out to the lanes."""
    import torch

    return torch.get_num_threads()


@dataclass
class Outcome:
    """What an extraction did.

    Attributes
    ----------
    computed : int
        Embeddings.
    rejects : dict
        Digest → reason, of all that failed.
    elapsed : float
        Seconds from the first file that was decoded to the last shard.
    check_seconds : float
        Before that, of comparing all files with what is known of them, and of reading new ones for their digests where
        they are not read just ahead of embedding.
    ahead_seconds : float
        Spent on reading new files just ahead of embedding and taking their digests, summed over threads.
    lanes : int
        Threads that read, and on a CPU infer too.
    own_device : bool
        Whether the network ran on an accelerator, next to the lanes, and not in them.
    load_seconds, decode_seconds, infer_seconds : float
        Summed over threads; the last without waiting for the compiler.
    compile_seconds : float
        Summed over processes.
    write_seconds : float
    decode_cpu_seconds : float
        As `decode_seconds`, but of a core at work.
    infer_floor : float or None
        Seconds per image and thread of the network's fastest tenth of batches; None where too few ran to say.
    infer_threads : int
        Threads that ran the network.
    processes : int
        One for each of several devices.
    cores : int
        That this process may use, whatever number of lanes it was given.
    torch_threads : int
        That the lanes share: with fewer lanes than these, each computes on several cores.
    """

    computed: int = 0
    rejects: dict[str, str] = field(default_factory=dict)
    elapsed: float = 0.0
    check_seconds: float = 0.0
    ahead_seconds: float = 0.0
    lanes: int = 1
    own_device: bool = False
    load_seconds: float = 0.0
    decode_seconds: float = 0.0
    decode_cpu_seconds: float = 0.0
    infer_seconds: float = 0.0
    compile_seconds: float = 0.0
    write_seconds: float = 0.0
    infer_floor: float | None = None
    infer_threads: int = 1
    processes: int = 1
    cores: int = field(default_factory=default_workers)
    torch_threads: int = field(default_factory=_torch_threads)

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of checking, reading, inferring and writing, each as if the threads that shared it were one."""
        return {
            "check": self.check_seconds,
            "read": (self.ahead_seconds + self.load_seconds + self.decode_seconds) / self.lanes,
            "infer": self.infer_seconds / self.infer_threads + self.compile_seconds / self.processes,
            "write": self.write_seconds,
        }

    @property
    def limited_by(self) -> str | None:
        """What took longest; None where nothing was computed."""
        stages = self.stages
        return STAGES[max(stages, key=stages.__getitem__)] if self.computed else None

    @property
    def images_per_second(self) -> float | None:
        """Embeddings per second, end to end: checking all files counts too. None where nothing was computed."""
        return self.computed / (self.check_seconds + self.elapsed) if self.computed else None

    @property
    def ceiling(self) -> float | None:
        """Images per second that all cores would do if nothing but decoding and the network took time.

        Both are taken from this very run: decoding by its cores' time at work, the network by its fastest tenth of
        batches. On a CPU they share the cores, so their times add up; with an accelerator the slower one counts.
        None where too few batches ran to say.
        """
        if self.infer_floor is None or not self.computed:
            return None
        decode = self.decode_cpu_seconds / self.computed / self.cores
        if self.own_device:
            return 1 / max(decode, self.infer_floor / self._abreast)
        at_work = min(self.cores, self.lanes * max(1, self.torch_threads // self.lanes))
        return 1 / (decode + self.infer_floor / self.infer_threads * at_work / self.cores)

    @property
    def _abreast(self) -> float:
        """How many threads of the devices had a batch at a time, on average; at least one for each device.

        Two threads on one device share it: a batch takes twice its time while the other has one too, and its own time
        while the other waits for pixels. Taken for two in the latter case, the device would seem twice as fast.
        """
        devices = max(1, self.infer_threads // THREADS_PER_DEVICE)
        able = self.elapsed - self.compile_seconds / self.processes  # all wait for the compiler
        together = self.infer_seconds / able if able > 0 else 0.0
        return min(self.infer_threads, max(devices, together))

    def summary(self) -> dict[str, Any]:
        """The keys ``images_per_second, ceiling, efficiency, limited_by, stages`` of a stage's result.

        Both speed and ``efficiency``, which is speed over ceiling, are of the whole, checking included.
        """
        speed, ceiling = self.images_per_second, self.ceiling
        return {
            "images_per_second": speed and round(speed, 2),
            "ceiling": ceiling and round(ceiling, 2),
            "efficiency": ceiling and speed and round(speed / ceiling, 3),
            "limited_by": self.limited_by,
            "stages": {stage: round(seconds, 3) for stage, seconds in self.stages.items()},
        }

    def profile(self) -> dict[str, dict[str, float]]:
        """Each step's seconds (summed over threads), milliseconds per image, and share of the threads' time.

        All lanes check files together. Threads that read ahead are at work next to them, and count for as long as they
        read. ``wait`` is what is left of the lanes' time and the device threads', such as waiting for the compiler;
        writing goes on meanwhile.
        """
        steps = {
            "check": self.check_seconds * self.lanes,
            "load": self.ahead_seconds + self.load_seconds,
            "decode": self.decode_seconds,
            "compile": self.compile_seconds,
            "infer": self.infer_seconds,
        }
        threads = self.lanes + (self.infer_threads if self.own_device else 0)
        total = (self.check_seconds + self.elapsed) * threads + self.ahead_seconds or 1.0
        steps["wait"] = max(0.0, total - sum(steps.values()))
        steps["write"] = self.write_seconds
        return {
            step: {
                "seconds": round(seconds, 3),
                "ms_per_image": round(1000 * seconds / max(1, self.computed), 3),
                "share": round(seconds / total, 4),
            }
            for step, seconds in steps.items()
        }


def together(outcomes: Sequence[Outcome], elapsed: float) -> Outcome:
    """One outcome of several that ran side by side."""
    total = Outcome(
        elapsed=elapsed, lanes=0, infer_threads=0, processes=len(outcomes), own_device=outcomes[0].own_device
    )
    for outcome in outcomes:
        for name in (each.name for each in fields(Outcome)):
            if name.endswith("_seconds") or name in ("computed", "lanes", "infer_threads"):
                setattr(total, name, getattr(total, name) + getattr(outcome, name))
        total.rejects |= outcome.rejects
    total.write_seconds /= len(outcomes)  # each writes by itself
    busy = [outcome for outcome in outcomes if outcome.computed]  # one may have come too late to be given anything
    floors = [outcome.infer_floor for outcome in busy if outcome.infer_floor is not None]
    total.infer_floor = sum(floors) / len(floors) if floors and len(floors) == len(busy) else None
    return total
