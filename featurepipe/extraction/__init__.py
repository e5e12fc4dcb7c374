"""Extraction: read → infer → write, at the speed of the hardware, and what limited it.

Where the network runs on the CPU, every core is a *lane*: a thread that reads, decodes and infers its own small batch,
with no second thread to wait for. Cores are then busy to the end, a batch stays in a core's cache, and another
program on the machine delays one lane rather than all. With an accelerator the lanes read and decode, and threads
of the device put their pieces together into large batches. Either way results come back in planned order, and the
calling thread writes them while the lanes go on. New files are read once, for their digest and their vector together,
by threads just ahead of the lanes (`stretches`). Several devices are several processes, which take chunks of the plan;
Ray has actors that do so on several machines.
"""

from featurepipe.extraction.batches import Batch, read_batch
from featurepipe.extraction.crews import CREWS, Crew, Lanes, Processes, Ray, Settings, Streaming, fill, named_crew
from featurepipe.extraction.devices import check_main
from featurepipe.extraction.engines import Engine, default_workers
from featurepipe.extraction.loop import ROWS_PER_SHARD, Memory, Sink
from featurepipe.extraction.outcomes import Outcome
from featurepipe.extraction.provenance import now, provenance, versions
from featurepipe.extraction.stretches import Stretches

__all__ = [
    "CREWS",
    "ROWS_PER_SHARD",
    "Batch",
    "Crew",
    "Engine",
    "Lanes",
    "Memory",
    "Outcome",
    "Processes",
    "Ray",
    "Settings",
    "Sink",
    "Streaming",
    "Stretches",
    "check_main",
    "default_workers",
    "fill",
    "named_crew",
    "now",
    "provenance",
    "read_batch",
    "versions",
]
