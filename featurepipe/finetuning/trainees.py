"""What the training loop trains: a network with whatever lies above it while it learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from featurepipe.backbones import is_out_of_memory
from featurepipe.errors import FinetuningError, OutOfMemory
from featurepipe.finetuning.objectives import Objective
from featurepipe.finetuning.recipes import Recipe

if TYPE_CHECKING:
    import torch


SCORED = 64  # rows of a batch that are predicted together, as long as memory allows it


class Trainee(ABC):
    """The seam between the loop and a network: `featurepipe.finetuning.Network` is one, those of pretexts are others.

    Attributes
    ----------
    device : str
        Where it is.
    act : str
        What is done to it, in words.
    relief : str
        What to try where memory is too small for a single image.
    """

    device: str
    act: ClassVar[str] = "tuning"
    relief: ClassVar[str] = "a smaller depth to tune"
    _at_once: int = SCORED

    @abstractmethod
    def changing(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All tensors that training changes, by name: a checkpoint holds these."""

    @abstractmethod
    def parameters(self) -> list[torch.nn.Parameter]:
        """What gets gradients now."""

    @abstractmethod
    def groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Parameter groups of an optimizer, each with a ``lr_scale``."""

    @abstractmethod
    def logits(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """What the objective's loss takes, (B, …), of a training batch."""

    @abstractmethod
    def predict(self, *inputs: torch.Tensor) -> torch.Tensor:
        """What the objective's figures are of, (B, …), of a validation batch, without gradients."""

    def in_pieces(self, infer: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], name: str) -> torch.Tensor:
        """What a function gives of a batch, in as many pieces as memory asks for.

        Raises
        ------
        OutOfMemory
            There is not enough for a single image.
        """
        import torch

        while True:
            try:
                # not inference mode, whose tensors a later backward pass could not use
                with torch.no_grad():
                    pieces = zip(*(one.split(self._at_once) for one in inputs), strict=True)
                    return torch.cat([infer(*some) for some in pieces])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._at_once == 1:
                    where = f"{name} ran out of memory on {self.device}"
                    raise OutOfMemory(f"{where} for a single image; try another device") from error
            self._at_once = max(1, min(self._at_once, len(inputs[0])) // 2)

    def set_trained(self, head_alone: bool) -> None:  # noqa: B027  # all of it trains, where nothing else is said
        """Let gradients reach the head alone, or all that trains."""

    def tell_unreached(self, parameters: Sequence[torch.nn.Parameter]) -> str:
        """What to say of parameters that no gradient has reached in the first step; nothing where nobody need hear."""
        return ""

    def objective(self, recipe: Recipe, train: Any) -> Objective:
        """What it is trained for where nobody says so, given the training data."""
        raise FinetuningError("this network has no objective of its own; give one")

    def state(self) -> dict[str, torch.Tensor]:
        """All that training changes, by name; copied to the CPU."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.changing()}

    def copy(self) -> dict[str, torch.Tensor]:
        """As `state`, but on the device."""
        return {name: value.detach().clone() for name, value in self.changing()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what `state` gave."""
        import torch

        with torch.no_grad():
            for name, value in self.changing():
                value.copy_(state[name])

    @contextmanager
    def holding(self, state: dict[str, torch.Tensor]) -> Iterator[None]:
        """Within, other values than one's own, such as an average's."""
        own = self.state()
        self.load(state)
        try:
            yield
        finally:
            self.load(own)
