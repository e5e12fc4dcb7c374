"""What an extraction did, how long its stages took, and how near it came to what the hardware can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STAGES = {"check": "checking files", "read": "reading", "infer": "inferring", "write": "writing"}


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
        Before that, of taking the digests of all files; 0 where they were known.
    lanes : int
        Threads that read, and on a CPU infer too.
    own_device : bool
        Whether the network ran beside the lanes, on an accelerator, and not in them.
    load_seconds, decode_seconds, infer_seconds : float
        Summed over threads.
    compile_seconds, write_seconds : float
    decode_cpu_seconds : float
        As `decode_seconds`, but of a core at work.
    infer_floor : float or None
        Seconds per image and thread of the network's fastest tenth of batches; None where too few ran to say.
    infer_threads : int
        Threads that ran the network.
    """

    computed: int = 0
    rejects: dict[str, str] = field(default_factory=dict)
    elapsed: float = 0.0
    check_seconds: float = 0.0
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

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of checking, reading, inferring and writing, each as if the threads that shared it were one."""
        return {
            "check": self.check_seconds,
            "read": (self.load_seconds + self.decode_seconds) / self.lanes,
            "infer": (self.infer_seconds + self.compile_seconds) / self.infer_threads,
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
        """Images per second that the hardware would do if nothing but decoding and the network took time.

        Both are taken from this very run: decoding by its cores' time at work, the network by its fastest tenth of
        batches. On a CPU they share the cores, so their times add up; beside an accelerator the slower one counts.
        None where too few batches ran to say.
        """
        if self.infer_floor is None or not self.computed:
            return None
        decode = self.decode_cpu_seconds / self.computed / self.lanes
        infer = self.infer_floor / self.infer_threads
        return 1 / max(decode, infer) if self.own_device else 1 / (decode + infer)

    def summary(self) -> dict[str, Any]:
        """The keys ``images_per_second, ceiling, efficiency, limited_by, stages`` of a stage's result.

        Both speed and ``efficiency``, which is speed over ceiling, are of the whole, checking included.
        """
        speed, ceiling = self.images_per_second, self.ceiling
        return {
            "images_per_second": speed and round(speed, 2),
            "ceiling": ceiling and round(ceiling, 2),
            "efficiency": ceiling and round(speed / ceiling, 3),
            "limited_by": self.limited_by,
            "stages": {stage: round(seconds, 3) for stage, seconds in self.stages.items()},
        }

    def profile(self) -> dict[str, dict[str, float]]:
        """Each step's seconds (summed over threads), milliseconds per image, and share of the threads' time.

        All lanes check files together. ``wait`` is what is left of their time and the device threads'; writing goes on
        beside them.
        """
        steps = {
            "check": self.check_seconds * self.lanes,
            "load": self.load_seconds,
            "decode": self.decode_seconds,
            "compile": self.compile_seconds,
            "infer": self.infer_seconds,
        }
        threads = self.lanes + (self.infer_threads if self.own_device else 0)
        total = (self.check_seconds + self.elapsed) * threads or 1.0
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
