"""Several processes that tune one network together, as ``torchrun`` starts them; mostly there is but one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from featurepipe.errors import FeaturepipeError
from featurepipe.interrupts import Interrupts

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Peers:
    """One process among those that share every batch.

    Attributes
    ----------
    rank, world : int
        Its number, and how many there are.
    interrupts : Interrupts
        Each process gets Ctrl-C, but not at the same place: one that left its batch would leave the others waiting for
        its share. So it is held in a batch, and they tell each other with what they share anyway. Of one process alone
        nothing is heard: it is raised where it comes.
    """

    rank: int = 0
    world: int = 1
    interrupts: Interrupts = field(default_factory=Interrupts, compare=False)

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        """Put into each tensor the sum over all processes."""
        if self.world == 1:
            return
        import torch.distributed

        for tensor in tensors:
            torch.distributed.all_reduce(tensor)

    def parts(self, batches: Iterable[np.ndarray]) -> list[np.ndarray]:
        """The samples of each batch that belong to this process."""
        return [batch[self.rank :: self.world] for batch in batches]

    def gather(self, value: Any) -> list[Any]:
        """What each process has."""
        if self.world == 1:
            return [value]
        import torch.distributed

        values = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def share(self, value: Any) -> Any:
        """What the first process has, in every process."""
        if self.world == 1:
            return value
        import torch.distributed

        box = [value]
        torch.distributed.broadcast_object_list(box)
        return box[0]

    def first(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, in every process; if it fails, all of them raise its error."""
        made: Any = None
        error: FeaturepipeError | OSError | None = None
        if not self.rank:
            try:
                made = make()
            except (FeaturepipeError, OSError) as problem:
                error = problem
        made, error = self.share((made, error))
        if error is not None:
            raise error
        return made


@contextmanager
def joined(device: str) -> Iterator[tuple[Peers, str]]:
    """Within, one meets the processes that ``torchrun`` has started next to this one, if any.

    The environment says so. Gives the peers, and the device: ``auto`` and ``cuda`` become each process's own GPU. A
    process group that is there already is used, and left as it is.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, also where it was another process that left first.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Peers(), device
        return
    import torch
    from torch import distributed

    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    own = not distributed.is_initialized()
    if own:  # the others wait while the first one embeds and probes, for hours it may be
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        distributed.init_process_group(backend, timeout=timedelta(days=1))
    interrupts = Interrupts()
    try:
        with interrupts.heard():
            yield Peers(distributed.get_rank(), distributed.get_world_size(), interrupts), device
            if own:
                distributed.barrier()  # nobody leaves while another still writes
    except RuntimeError as error:  # what waits for a process that has left says so
        if interrupts.came:
            raise KeyboardInterrupt from error
        raise
    finally:
        if own:  # or its threads may still run when the process ends, which aborts it
            distributed.destroy_process_group()
