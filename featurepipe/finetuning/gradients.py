"""The gradients of a batch's loss, computed in as many pieces as memory asks for and shared among processes."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from featurepipe.backbones import is_out_of_memory
from featurepipe.errors import FinetuningError, OutOfMemory
from featurepipe.finetuning.batches import Step
from featurepipe.finetuning.objectives import Objective
from featurepipe.finetuning.peers import Peers
from featurepipe.finetuning.recipes import Recipe
from featurepipe.finetuning.trainees import Trainee
from featurepipe.listeners import Listener

if TYPE_CHECKING:
    import torch

ONE_VALUE = "Expected more than 1 value per channel when training"  # what PyTorch's batch norms say


class Gradients:
    """The gradients of a network under a recipe's loss.

    Parameters
    ----------
    network : Trainee
        As tuning starts from it: L2-SP pulls back to here.
    objective : Objective
    recipe : Recipe
    peers : Peers
    listener : Listener
        Hears when memory has run out.

    Attributes
    ----------
    piece : int
        Images that are in memory at once.
    """

    def __init__(
        self, network: Trainee, objective: Objective, recipe: Recipe, peers: Peers, listener: Listener
    ) -> None:
        self._network, self._objective, self._recipe = network, objective, recipe
        self._peers, self._listener = peers, listener
        self.piece = -(-recipe.batch_size // (recipe.accumulate * peers.world))
        self._start = network.copy() if recipe.l2_sp else {}
        self._follows = recipe.batch_norm == "train"
        self._ran_out = self._told = False

    def fill(self, step: Step, seed: list[int]) -> tuple[float, float]:
        """Give what trains the gradients of a batch's mean loss.

        Parameters
        ----------
        step : Step
            This process's share of the batch.
        seed : list of int
            Seed for mixup and dropout.

        Returns
        -------
        loss, weight : float
            Sums over the whole batch: of the images' losses, and of their weights.

        Raises
        ------
        OutOfMemory
            There is not enough for a single image, or for the two that batch norms need.
        FinetuningError
            Batch norms follow the batches, and one holds a single image.
        KeyboardInterrupt
            In all of several processes, once one of them has heard it.
        """
        import torch

        parameters = self._network.parameters()
        while True:
            lonely = 0
            torch.manual_seed(int(np.random.default_rng([*seed, self._peers.rank]).integers(2**62)))
            try:
                (loss, weight), failed = self._sum_up(step, np.random.default_rng(seed)), 0
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                loss, weight, failed = 0.0, 0.0, 1
            except ValueError as error:
                if ONE_VALUE not in str(error):
                    raise
                loss, weight, failed, lonely = 0.0, 0.0, 0, 1
            totals = torch.tensor([loss, weight, failed, lonely, self._peers.interrupts.came], dtype=torch.float64)
            self._peers.add([totals])  # if one of the processes has no memory, all of them cut their batches
            loss, weight, failed, lonely, interrupted = totals.tolist()
            if lonely:  # in one of the processes; all of them end
                raise self._lonely()
            if interrupted:
                raise KeyboardInterrupt
            if not failed:
                break
            for parameter in parameters:
                parameter.grad = None
            self._halve()
        unreached = self._share(parameters, weight)
        if weight:
            self._spare(unreached)
            self._pull()
        return loss, weight

    def _share(self, parameters: list[torch.nn.Parameter], weight: float) -> list[torch.nn.Parameter]:
        """Make the gradients of all processes' sums those of the mean; which parameters have none in any process."""
        import torch

        reached = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
        gradients: list[torch.Tensor] = []
        for parameter in parameters:  # one that has no part in the output, or a process without a share of the batch
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
        self._peers.add([reached, *gradients])
        for gradient in gradients:
            gradient /= weight or 1.0  # no image could be read
        return [one for one, some in zip(parameters, reached.tolist(), strict=True) if not some]

    def _spare(self, parameters: list[torch.nn.Parameter]) -> None:
        """Leave parameters without gradient that have no part in the output: an optimizer would let them decay."""
        for parameter in parameters:
            parameter.grad = None
        if not self._told and (told := self._network.tell_unreached(parameters)):
            self._listener.note(told)
        self._told = True

    def _lonely(self) -> FinetuningError | OutOfMemory:
        """Why a batch norm has raised an error of a single image."""
        if self._ran_out and self.piece == 1:
            return OutOfMemory(
                f"out of memory with two images in training, and batch norms cannot learn from one; try "
                f"{self._network.relief}, or another device"
            )
        return FinetuningError(
            "batch norms cannot learn from a single image, and a batch or a piece of one holds only one; use another "
            "batch size, a smaller accumulate, or a network without batch norms"
        )

    def _halve(self) -> None:
        if self.piece == 1:
            raise OutOfMemory(
                f"out of memory with a single image in training; try checkpointing, {self._network.relief}, or another "
                "device"
            )
        least = 2 if self._follows and self.piece > 2 else 1
        self.piece, self._ran_out = max(self.piece // 2, least), True
        images = "single images" if self.piece == 1 else f"pieces of {self.piece} images"
        self._listener.note(f"memory ran out: each batch is now computed in {images}")

    def _pieces(self, count: int) -> list[slice]:
        """How a batch of some images is cut; the last piece gets a second image where batch norms need one."""
        starts = list(range(0, count, self.piece))
        if self._follows and self.piece > 1 and len(starts) > 1 and count - starts[-1] == 1:
            if self.piece == 2:
                starts.pop()  # three at once, which may be too many: then memory runs out
            else:
                starts[-1] -= 1
        return [slice(start, end) for start, end in pairwise([*starts, count])]

    def _sum_up(self, step: Step, rng: np.random.Generator) -> tuple[float, float]:
        """Fill in the gradients of the sum of a batch's losses; that sum, and the sum of the images' weights."""
        import torch

        inputs, other, share = step.inputs, step.targets, 1.0
        if self._recipe.mixup:
            share = float(rng.beta(self._recipe.mixup, self._recipe.mixup))
            inputs = tuple(share * one.float() + (1 - share) * one.float().flip(0) for one in inputs)
            other = step.targets.flip(0)
        if getattr(self._objective, "couples", False) and len(step) > self.piece:
            return self._sum_up_coupled(step, rng)
        total, weight = torch.zeros((), device=step.targets.device), 0.0
        for some in self._pieces(len(step)):
            logits = self._network.logits(tuple(one[some] for one in inputs))  # (B, K)
            loss, some_weight = self._objective.loss(logits, step.targets[some])
            if share < 1:
                mixed, mixed_weight = self._objective.loss(logits, other[some])
                loss = share * loss + (1 - share) * mixed
                some_weight = share * some_weight + (1 - share) * mixed_weight
            loss.backward()
            total += loss.detach()
            weight += some_weight
        return total.item(), weight

    def _sum_up_coupled(self, step: Step, rng: np.random.Generator) -> tuple[float, float]:
        """As `_sum_up`, of a loss that compares the rows of a batch with each other, which pieces may not change.

        All outputs are computed first, without a graph. The gradient of the loss by each of them then flows back piece
        by piece: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup". Only batch
        norms see pieces instead of the batch; what they keep follows each piece once, and not in both passes.
        """
        import torch

        pieces = self._pieces(len(step))
        seeds = rng.integers(2**62, size=len(pieces)).tolist()

        def outputs(some: slice, seed: int) -> torch.Tensor:
            torch.manual_seed(seed)  # the same dropout in both passes
            return self._network.logits(tuple(one[some] for one in step.inputs))

        with torch.no_grad():
            norms = [
                (one, one.clone()) for _, one in self._network.changing() if not isinstance(one, torch.nn.Parameter)
            ]
            whole = torch.cat([outputs(*pair) for pair in zip(pieces, seeds, strict=True)])  # (B, …)
            for kept, before in norms:
                kept.copy_(before)
        whole.requires_grad_()
        loss, weight = self._objective.loss(whole, step.targets)
        loss.backward()
        assert whole.grad is not None
        for some, seed in zip(pieces, seeds, strict=True):
            outputs(some, seed).backward(whole.grad[some])
        return loss.item(), weight

    def _pull(self) -> None:
        """L2-SP: Xuhong et al. 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks"."""
        for name, value in self._network.changing() if self._start else ():
            if value.grad is not None:
                value.grad += self._recipe.l2_sp * (value.detach() - self._start[name])
