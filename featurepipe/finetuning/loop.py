"""The training loop: steps, validation after every epoch, the last of them kept, and a checkpoint to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from featurepipe.backbones import is_out_of_memory
from featurepipe.digests import sha256_json
from featurepipe.errors import FeaturepipeError, FinetuningError, OutOfMemory, OutputError, TrainingDiverged
from featurepipe.finetuning import checkpoints
from featurepipe.finetuning.batches import Step
from featurepipe.finetuning.gradients import Gradients
from featurepipe.finetuning.objectives import Objective
from featurepipe.finetuning.peers import Peers
from featurepipe.finetuning.recipes import Recipe
from featurepipe.finetuning.trainees import Trainee
from featurepipe.listeners import SILENT, Listener
from featurepipe.signatures import spread
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import option

if TYPE_CHECKING:
    import torch

CHECKPOINT_SECONDS = 300.0  # between checkpoints inside an epoch; each epoch ends with one
MOMENTUM = 0.9
EVERY_EPOCH = "after all epochs"
INTERRUPTED, FAILED = "interrupted", "failed"


class Batches(Protocol):
    """Training data, as `featurepipe.finetuning.batches.PixelBatches` gives them."""

    def __len__(self) -> int: ...

    def epoch(self, number: int, first: int = 0) -> Iterator[Step]:
        """The batches of an epoch, from the `first` on: always the same ones for a number."""
        ...


@dataclass
class Course:
    """What tuning came to.

    Attributes
    ----------
    curve : list of dict
        One entry for epoch 0 (before any step) and for every finished epoch: ``epoch, train_loss, top1, log_loss, n``
        (on validation data, the log-loss calibrated by a temperature, and how many they are), ``lr`` (its highest),
        ``seconds``. Other objectives have other figures of validation data, and epochs without them.
    best_epoch : int
        The one that is kept.
    state : dict
        The tensors of that epoch, for `Network.load`.
    stopped : str
        Why it ended.
    error : FeaturepipeError or None
        What ended it early; the best epoch so far is kept.
    """

    curve: list[dict[str, Any]]
    best_epoch: int
    state: dict[str, torch.Tensor]
    stopped: str = EVERY_EPOCH
    error: FeaturepipeError | None = None

    @property
    def finished(self) -> bool:
        """Whether it came to its end: nothing is left to go on with."""
        return self.stopped not in (INTERRUPTED, FAILED)


@dataclass
class _Run:
    """Where a run is; all of it goes into a checkpoint, with the state of the network and the optimizer."""

    curve: list[dict[str, Any]]
    best_epoch: int
    best: dict[str, torch.Tensor]
    epoch: int = 1  # that is being learned
    step: int = 0  # of it, done
    loss: float = 0.0  # sum over its images so far
    weight: float = 0.0  # and what to divide that by
    seconds: float = 0.0  # spent on it
    rate: float = 0.0  # its highest so far
    average: dict[str, torch.Tensor] | None = None
    updates: int = 0  # of the average


@dataclass(frozen=True)
class Watch:
    """Who hears of a tuning, and where it is kept to go on with."""

    checkpoint: Path | None = option(
        None, "File to write checkpoints to, and to go on from if it is this very run's.", shape="Path, optional"
    )
    listener: Listener = option(SILENT, "Hears a line after each epoch, too.", shape="Listener, optional")


@dataclass(frozen=True)
class Session(Watch):
    """What goes on around a tuning."""

    peers: Peers = option(Peers(), "The processes that share each batch.", shape="Peers, optional")
    strict: bool = option(False, "Whether a checkpoint of another run is an error, and not replaced with a note.")


@guarded
@spread(session=Session)
def tune(
    network: Trainee,
    train: Batches,
    validation: Callable[[], Iterator[Step]],
    recipe: Recipe,
    *,
    objective: Objective | None = None,
    every: int = 1,
    identity: Mapping[str, Any] | None = None,
    session: Session,
) -> Course:
    """Tune a network.

    The last epoch is kept, where the learning rate has come down to nothing: the best of many epochs by few validation
    images is the luckiest one. Where training ends before its time (patience, Ctrl-C, an error), the best epoch until
    then is kept, by the objective's `better`; the start is epoch 0.

    Parameters
    ----------
    network : Trainee
    train : Batches
    validation : callable
        Gives the validation images as steps, in their order.
    recipe : Recipe
    objective : Objective, optional
        By default the network's own: `Classes`, as the recipe has it.
    every : int
        Epochs from one validation to the next; the start and the last epoch are always validated. 0 never validates.
    identity : mapping, optional
        JSON of all that decides the run, apart from the recipe.
    session

    Returns
    -------
    Course
        The network itself is left as the last step has made it.

    Raises
    ------
    FinetuningError
        A checkpoint that may not be read, or images none of which can be read any more.
    OutOfMemory
        There is not enough to validate a single image.
    KeyboardInterrupt
        Before the first validation is over; from then on the best so far is returned.
    """
    identity = dict(identity or {})
    if objective is not None:  # a checkpoint of another one is not gone on with; old ones have the default's identity
        identity["objective"] = f"{type(objective).__module__}.{type(objective).__qualname__}"
    else:
        objective = network.objective(recipe, train)
    return _Tuning(network, train, validation, recipe, objective, identity, session, every).run()


class _Tuning:
    def __init__(
        self,
        network: Trainee,
        train: Batches,
        validation: Callable[[], Iterator[Step]],
        recipe: Recipe,
        objective: Objective,
        identity: Mapping[str, Any],
        session: Session,
        every: int = 1,
    ) -> None:
        self.network, self.train, self.validation, self.recipe = network, train, validation, recipe
        self.checkpoint, self.identity = session.checkpoint, sha256_json({**identity, "recipe": asdict(recipe)})
        self.peers, self.listener, self.strict = session.peers, session.listener, session.strict
        self.epochs = recipe.head_epochs + recipe.epochs_for(len(train))
        self.steps = -(-len(train) // recipe.batch_size)  # per epoch
        self.objective, self.every = objective, every
        self.gradients = Gradients(network, objective, recipe, self.peers, self.listener)
        self.saved = time.perf_counter()
        self.lost = ""  # why the first of the images that cannot be read any more cannot

    def run(self) -> Course:
        import torch

        device = torch.device(self.network.device)
        held = self.peers.interrupts.held()
        with held, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            run, optimizer_state = self._begin()
            stopped, error = EVERY_EPOCH, None
            try:
                stopped = self._epochs(run, optimizer_state)
                if stopped == EVERY_EPOCH and not self.recipe.patience:
                    run.best_epoch, run.best = self.epochs, self._weights(run)
            except KeyboardInterrupt:
                stopped = INTERRUPTED
            except (TrainingDiverged, OutOfMemory) as failure:
                stopped, error = FAILED, failure
            except (RuntimeError, MemoryError) as failure:  # a step of the optimizer has no memory, say
                if not is_out_of_memory(failure) or self.peers.world > 1:
                    raise
                stopped, error = (
                    FAILED,
                    OutOfMemory(f"out of memory when {self.network.act} this network; try {self.network.relief}"),
                )
        return Course(run.curve, run.best_epoch, run.best, stopped, error)

    def _begin(self) -> tuple[_Run, dict[str, Any] | None]:
        """A run at its start, or where its checkpoint says; and the optimizer's state there."""
        found = None
        if self.checkpoint is not None:  # the other processes may not see the first one's files
            found = self.peers.first(self._held)
        if found is None:
            figures = self._figures(0)
            if not all(map(math.isfinite, figures.values())):
                raise TrainingDiverged(
                    f"before {self.network.act}, what the network gives of validation images is not finite; start "
                    "from other weights"
                )
            first = {"epoch": 0, "train_loss": None, "lr": None, **figures}
            if told := self.objective.tell(first):
                self.listener.note(f"before {self.network.act}: {told}")
            return _Run(
                [first], 0, self.network.state(), average=self.network.copy() if self.recipe.ema else None
            ), None
        told, tensors = found
        try:
            self.network.load(tensors["state"])
            average = {name: value.to(self.network.device) for name, value in tensors["average"].items()}
            run = _Run(**told, best=tensors["best"], average=average or None)
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise FinetuningError(
                f"{self.checkpoint} holds something else than a checkpoint of this run; remove it to start again"
            ) from error
        self.listener.note(
            f"continuing from {self.checkpoint}: epoch {run.epoch} of {self.epochs}, {run.step} of its steps done"
        )
        # the whole network, after the head alone, begins with an optimizer of its own
        begins = run.step == 0 and run.epoch == self.recipe.head_epochs + 1
        return run, None if begins else tensors["optimizer"]

    def _held(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        assert self.checkpoint is not None
        return checkpoints.load(self.checkpoint, self.identity, self.listener.note, strict=self.strict)

    def _epochs(self, run: _Run, optimizer_state: dict[str, Any] | None) -> str:
        """All epochs that are left; why they ended."""
        optimizer: torch.optim.Optimizer | None = None
        head_alone: bool | None = None
        while run.epoch <= self.epochs:
            if (patient := self._impatience(run)) is not None:
                return patient
            if self._head_alone(run.epoch) != head_alone:
                head_alone = self._head_alone(run.epoch)
                self.network.set_trained(head_alone)
                optimizer = self._make_optimizer()
                if optimizer_state is not None:
                    optimizer.load_state_dict(optimizer_state)
                    optimizer_state = None
            assert optimizer is not None  # made for the first epoch
            self._epoch(run, optimizer)
        return EVERY_EPOCH

    def _impatience(self, run: _Run) -> str | None:
        """Why no further epoch is tried, if none is: no figure has been better for long enough."""
        done = run.curve[self.recipe.head_epochs :] if len(run.curve) > self.recipe.head_epochs else run.curve[:1]
        patience = self.recipe.patience
        if run.step or not patience or self.objective.stale(done) < patience:
            return None
        return f"early: validation no better for {patience} epochs"

    def _epoch(self, run: _Run, optimizer: torch.optim.Optimizer) -> None:
        """The rest of an epoch, its validation, and a checkpoint."""
        started, before = time.perf_counter(), run.seconds
        with self.listener.progress(f"epoch {run.epoch} of {self.epochs}", len(self.train)) as advance:
            advance(self._done(run))
            for step in self.train.epoch(run.epoch, run.step):
                done = self._done(run)
                run.rate = max(run.rate, self._set_rate(optimizer, run))
                self._step(step, optimizer, run)
                run.step += 1
                run.seconds = before + time.perf_counter() - started
                advance(self._done(run) - done)  # of all processes
                if time.perf_counter() - self.saved > CHECKPOINT_SECONDS:
                    self._save(run, optimizer)
        if not run.weight:
            raise FinetuningError(
                f"no training image can be read any more: {self.lost}; restore the files and run again"
            )
        with nullcontext() if run.average is None else self.network.holding(run.average):
            figures = self._figures(run.epoch)
        run.seconds = before + time.perf_counter() - started
        told = {"epoch": run.epoch, "train_loss": run.loss / run.weight, "lr": run.rate}
        row = {**told, **figures, "seconds": run.seconds}
        if not all(map(math.isfinite, figures.values())):
            raise TrainingDiverged(self._diverged("the validation loss", run))
        if not self._is_finite(run):  # the loss was that of the weights before the last step
            raise TrainingDiverged(self._diverged("a weight", run))
        run.curve.append(row)
        if self.objective.better(run.curve, run.best_epoch):
            best = self._weights(run)
            run.best_epoch, run.best = run.epoch, best  # at once, whenever Ctrl-C comes
        run.epoch, run.step, run.loss, run.weight, run.seconds, run.rate = run.epoch + 1, 0, 0.0, 0.0, 0.0, 0.0
        self._save(run, optimizer)
        self._tell(run)

    def _is_finite(self, run: _Run) -> bool:
        """Whether all weights are, of which one may be kept."""
        kept = self.network.changing() if run.average is None else run.average.items()
        return all(bool(value.isfinite().all()) for _, value in kept)

    def _weights(self, run: _Run) -> dict[str, torch.Tensor]:
        """What tuning has made so far, or its moving average; copied to the CPU."""
        kept = self.network.changing() if run.average is None else run.average.items()
        return {name: value.detach().to("cpu", copy=True) for name, value in kept}

    def _step(self, step: Step, optimizer: torch.optim.Optimizer, run: _Run) -> None:
        """One step of the optimizer, in as many pieces as memory asks for."""
        import torch

        self._miss(step)
        loss, weight = self.gradients.fill(step, [self.recipe.seed, run.epoch, run.step])
        if not weight:  # none of its images can be read any more
            optimizer.zero_grad(set_to_none=True)
            return
        if not math.isfinite(loss):
            raise TrainingDiverged(self._diverged("the loss", run))
        if self.recipe.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._share_statistics()
        run.loss, run.weight = run.loss + loss, run.weight + weight
        if run.average is not None:
            run.updates += 1
            decay = min(self.recipe.ema, (1 + run.updates) / (10 + run.updates))
            for name, value in self.network.changing():
                run.average[name].lerp_(value.detach(), 1 - decay)

    def _share_statistics(self) -> None:
        """Batch norms that follow the batches have followed other ones in each process: the mean of them goes on."""
        if self.peers.world == 1 or self.recipe.batch_norm == "eval":
            return
        import torch

        statistics = [value for _, value in self.network.changing() if not isinstance(value, torch.nn.Parameter)]
        self.peers.add(statistics)
        for value in statistics:
            value /= self.peers.world

    def _figures(self, epoch: int) -> dict[str, float]:
        """The figures of an epoch: of validation data, where their turn has come."""
        due = self.every and (epoch % self.every == 0 or epoch == self.epochs)
        return self._validate() if due else {"seconds": 0.0}

    def _validate(self) -> dict[str, float]:
        """The objective's figures of the validation data, and the seconds that they took."""
        started = time.perf_counter()
        own, failure = [], ""
        try:
            for step in self.validation():
                if self.peers.interrupts.came:
                    break
                self._miss(step)
                if len(step):  # logits (B, K) and targets (B,)
                    logits = self.network.predict(*step.inputs).cpu().double().numpy()
                    own.append((logits, step.targets.cpu().numpy()))
        except OutOfMemory as error:  # which the others, who wait for these figures, have to hear of
            failure = str(error)
        found, interrupted, failures = zip(*self.peers.gather((own, self.peers.interrupts.came, failure)), strict=True)
        if any(interrupted):
            raise KeyboardInterrupt
        if any(failures):
            raise OutOfMemory(next(filter(None, failures)))
        pieces = [pair for part in found for pair in part]
        if not pieces:
            raise FinetuningError(
                f"no validation image can be read any more: {self.lost}; restore the files and run again"
            )
        scores, truth = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        return {**self.objective.validate(scores, truth), "seconds": time.perf_counter() - started}

    def _miss(self, step: Step) -> None:
        """Say once that images are left out."""
        if step.lost and not self.lost:
            self.lost = next(iter(step.lost.values()))
            self.listener.note(f"note: images that cannot be read any more are left out; the first: {self.lost}")

    def _done(self, run: _Run) -> int:
        """Images of the epoch that were learned from, in all processes."""
        return min(run.step * self.recipe.batch_size, len(self.train))

    def _make_optimizer(self) -> torch.optim.Optimizer:
        import torch

        groups = self.network.groups(self.recipe)
        if self.recipe.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=self.recipe.peak_lr, momentum=MOMENTUM)
        return torch.optim.AdamW(groups, lr=self.recipe.peak_lr)

    def _set_rate(self, optimizer: torch.optim.Optimizer, run: _Run) -> float:
        """Linear warm-up, then a cosine to nothing; the head's own epochs have a schedule of their own."""
        alone = self._head_alone(run.epoch)
        first, last = (1, self.recipe.head_epochs) if alone else (self.recipe.head_epochs + 1, self.epochs)
        total, done = (last - first + 1) * self.steps, (run.epoch - first) * self.steps + run.step
        warm = self.recipe.warmup * total
        factor = (
            (done + 1) / (warm + 1) if done < warm else 0.5 + 0.5 * math.cos(math.pi * (done - warm) / (total - warm))
        )
        rate = self.recipe.peak_lr * factor
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        return rate

    def _head_alone(self, epoch: int) -> bool:
        return epoch <= self.recipe.head_epochs

    def _save(self, run: _Run, optimizer: torch.optim.Optimizer) -> None:
        if self.checkpoint is None or self.peers.rank:
            return
        told = {name: value for name, value in vars(run).items() if name not in ("best", "average")}
        tensors = {"state": self.network.state(), "best": run.best, "average": run.average or {}}
        try:
            checkpoints.save(self.checkpoint, self.identity, told, {**tensors, "optimizer": optimizer.state_dict()})
        except OutputError as error:  # what has been learned is worth more than the chance to go on from here
            why, _, _ = str(error).partition("; ")  # what to do is for the end, when the model file is written
            self.listener.note(f"note: training continues without a checkpoint: {why}")
        self.saved = time.perf_counter()

    def _tell(self, run: _Run) -> None:
        row = run.curve[-1]
        patient = f" (best so far: epoch {run.best_epoch})" if self.recipe.patience else ""
        left = (self.epochs - row["epoch"]) * row["seconds"]
        to_go = f", at most {_duration(left)} to go" if left else ""
        figures = ", ".join(filter(None, [f"training loss {row['train_loss']:.3f}", self.objective.tell(row)]))
        self.listener.note(f"epoch {row['epoch']} of {self.epochs}: {figures}{patient}; {row['seconds']:.0f} s{to_go}")

    def _diverged(self, what: str, run: _Run) -> str:
        return (
            f"{what} is not finite in epoch {run.epoch}, step {run.step + 1}; epoch {run.best_epoch} is kept; "
            f"try a lower lr than {self.recipe.peak_lr:g}, or precision fp32"
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
