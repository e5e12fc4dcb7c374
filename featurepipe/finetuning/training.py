"""The training loop: steps, validation after every epoch, the best of them kept, and a checkpoint to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from featurepipe.backbones import is_out_of_memory
from featurepipe.errors import FeaturepipeError, OutOfMemory, TrainingDiverged
from featurepipe.finetuning import checkpoints
from featurepipe.finetuning.batches import Step
from featurepipe.finetuning.networks import Network
from featurepipe.finetuning.peers import Peers
from featurepipe.finetuning.recipes import Recipe

if TYPE_CHECKING:
    import torch

CHECKPOINT_SECONDS = 300.0  # between checkpoints inside an epoch; each epoch ends with one
HEAD_RATE = 10.0  # times the highest learning rate: a head alone, before the rest, learns at the usual recipes' rates
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
class Outcome:
    """What tuning came to.

    Attributes
    ----------
    curve : list of dict
        Of epoch 0 (before any step) and every epoch that was finished: ``epoch, train_loss, top1, log_loss`` (on
        validation data), ``lr`` (its highest), ``seconds``.
    best_epoch : int
        The one that was kept.
    state : dict
        The tensors of that epoch, for `Network.load`.
    stopped : str
        Why it ended.
    error : FeaturepipeError or None
        What ended it before its time; the best epoch until then stands.
    """

    curve: list[dict[str, Any]]
    best_epoch: int
    state: dict[str, torch.Tensor]
    stopped: str = EVERY_EPOCH
    error: FeaturepipeError | None = None


@dataclass
class _Run:
    """Where a run is; all of it goes into a checkpoint, but for the network's own state."""

    curve: list[dict[str, Any]]
    best_epoch: int
    best: dict[str, torch.Tensor]
    epoch: int = 1  # that is being learned
    step: int = 0  # of it, done
    loss: float = 0.0  # sum over its images so far
    weight: float = 0.0  # and what to divide that by
    seconds: float = 0.0  # spent on it
    average: dict[str, torch.Tensor] | None = None
    updates: int = 0  # of the average


def tune(
    network: Network,
    train: Batches,
    validation: Callable[[], Iterator[Step]],
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    peers: Peers | None = None,
    progress: Callable[[str, int], Any] | None = None,
    note: Callable[[str], object] = lambda text: None,
) -> Outcome:
    """Tune a network.

    The epoch that is kept is chosen as C is: it has to be within one standard error of the best validation top-1, and
    of those to have the lowest log-loss. Epoch 0 takes part, so that what is returned is never worse on validation
    data than what tuning started from.

    Parameters
    ----------
    network : Network
    train : Batches
    validation : callable
        Gives the validation images as steps, in their order.
    recipe : Recipe
    checkpoint : Path, optional
        File to write checkpoints to, and to go on from if it is this very run's.
    identity : mapping, optional
        JSON of all that decides the run beside the recipe.
    peers : Peers, optional
        The processes that share each batch.
    progress : callable, optional
        As `featurepipe.stages.Listener.progress`.
    note : callable, optional
        Hears a line after each epoch.

    Returns
    -------
    Outcome
        The network itself is left as the last step has made it.
    """
    return _Tuning(
        network, train, validation, recipe, checkpoint, identity or {}, peers or Peers(), progress, note
    ).run()


class _Tuning:
    def __init__(
        self,
        network: Network,
        train: Batches,
        validation: Callable[[], Iterator[Step]],
        recipe: Recipe,
        checkpoint: Path | None,
        identity: Mapping[str, Any],
        peers: Peers,
        progress: Callable[[str, int], Any] | None,
        note: Callable[[str], object],
    ) -> None:
        from dataclasses import asdict

        self.network, self.train, self.validation, self.recipe = network, train, validation, recipe
        self.checkpoint, self.identity, self.peers = checkpoint, {**identity, "recipe": asdict(recipe)}, peers
        self.progress, self.note = progress, note
        self.epochs = recipe.head_epochs + recipe.epochs_for(len(train))
        self.steps = -(-len(train) // recipe.batch_size)  # per epoch
        self.piece = -(-recipe.batch_size // recipe.accumulate)  # images that are in memory at once
        self.saved = time.perf_counter()
        self.start: dict[str, torch.Tensor] = {}

    def run(self) -> Outcome:
        import torch

        device = torch.device(self.network.backbone.device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self.network.set_trained(self._head_alone(1))
            self.start = {name: value.detach().clone() for name, value in self.network.changing()}
            run, optimizer_state = self._begin()
            stopped, error = EVERY_EPOCH, None
            try:
                stopped = self._epochs(run, optimizer_state)
            except KeyboardInterrupt:
                stopped = INTERRUPTED
            except (TrainingDiverged, OutOfMemory) as failure:
                stopped, error = FAILED, failure
        return Outcome(run.curve, run.best_epoch, run.best, stopped, error)

    def _begin(self) -> tuple[_Run, dict[str, Any] | None]:
        """A run at its start, or where its checkpoint says; and the optimizer's state there."""
        found = checkpoints.load(self.checkpoint, self.identity) if self.checkpoint is not None else None
        if found is None:
            first = {"epoch": 0, "train_loss": None, "lr": None, **self._validate()}
            self.note(f"before tuning: val top-1 {100 * first['top1']:.1f} %, log-loss {first['log_loss']:.3f}")
            run = _Run([first], 0, self.network.state())
            run.average = self.network.state() if self.recipe.ema else None
            return run, None
        told, tensors = found
        self.network.load(tensors["state"])
        run = _Run(**told, best=tensors["best"], average=tensors["average"] or None)
        self.note(f"going on from {self.checkpoint}: epoch {run.epoch} of {self.epochs}, {run.step} steps of it done")
        return run, tensors["optimizer"]

    def _epochs(self, run: _Run, optimizer_state: dict[str, Any] | None) -> str:
        """All epochs that are left; why they ended."""
        optimizer, head_alone = None, None
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
            self._epoch(run, optimizer)
        return EVERY_EPOCH

    def _impatience(self, run: _Run) -> str | None:
        """Why no further epoch is tried, if none is: neither top-1 nor log-loss has been better for long enough."""
        done = run.curve[self.recipe.head_epochs :] if len(run.curve) > self.recipe.head_epochs else run.curve[:1]
        last = max(
            max(range(len(done)), key=lambda i: (done[i]["top1"], -i)),
            min(range(len(done)), key=lambda i: (done[i]["log_loss"], i)),
        )
        patience = self.recipe.patience
        if run.step or not patience or len(done) - 1 - last < patience:
            return None
        return f"early: validation no better for {patience} epochs"

    def _epoch(self, run: _Run, optimizer: torch.optim.Optimizer) -> None:
        """The rest of an epoch, its validation, and a checkpoint."""
        started, before = time.perf_counter(), run.seconds
        label = f"epoch {run.epoch} of {self.epochs}"
        rate = 0.0
        with self._bar(label, len(self.train)) as advance:
            advance(run.step * self.recipe.batch_size)
            for step in self.train.epoch(run.epoch, run.step):
                rate = max(rate, self._set_rate(optimizer, run))
                self._step(step, optimizer, run)
                run.step += 1
                run.seconds = before + time.perf_counter() - started
                advance(len(step))
                if time.perf_counter() - self.saved > CHECKPOINT_SECONDS:
                    self._save(run, optimizer)
        if run.average is None:
            figures = self._validate()
        else:
            with self.network.holding(run.average):
                figures = self._validate()
        run.seconds = before + time.perf_counter() - started
        row = {"epoch": run.epoch, "train_loss": run.loss / run.weight, "lr": rate, **figures, "seconds": run.seconds}
        if not math.isfinite(row["log_loss"]):
            raise TrainingDiverged(self._diverged("the validation loss", run))
        run.curve.append(row)
        if better(run.curve, run.best_epoch):
            run.best_epoch = run.epoch
            run.best = self.network.state() if run.average is None else dict(run.average)
        self._tell(run)
        run.epoch, run.step, run.loss, run.weight, run.seconds = run.epoch + 1, 0, 0.0, 0.0, 0.0
        self._save(run, optimizer)

    def _step(self, step: Step, optimizer: torch.optim.Optimizer, run: _Run) -> None:
        """One step of the optimizer, in as many pieces as memory asks for."""
        import torch

        seed = [self.recipe.seed, run.epoch, run.step]
        while True:
            torch.manual_seed(int(np.random.default_rng([*seed, self.peers.rank]).integers(2**62)))
            try:
                loss, weight = self._gradients(step, np.random.default_rng(seed))
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                optimizer.zero_grad(set_to_none=True)
                if self.piece == 1 or self.peers.world > 1:  # the others would wait for gradients
                    raise OutOfMemory(
                        f"no memory for {self.piece} images at once in training; try --checkpointing, a smaller --tune "
                        "depth, --accumulate, or another --device"
                    ) from error
                self.piece //= 2
                self.note(f"memory ran out: each batch is now computed in pieces of {self.piece} images")
        if not math.isfinite(loss):
            raise TrainingDiverged(self._diverged("the loss", run))
        if self.recipe.clip_grad:
            torch.nn.utils.clip_grad_norm_(self._trained(), self.recipe.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.loss, run.weight = run.loss + loss, run.weight + weight
        if run.average is not None:
            run.updates += 1
            decay = min(self.recipe.ema, (1 + run.updates) / (10 + run.updates))
            for name, value in self.network.changing():
                run.average[name].lerp_(value.detach().cpu(), 1 - decay)

    def _gradients(self, step: Step, rng: np.random.Generator) -> tuple[float, float]:
        """Fill in the gradients of a batch's mean loss; its sum of losses, and of the images' weights."""
        import torch

        inputs, other, share = step.inputs, step.targets, 1.0
        if self.recipe.mixup:
            share = float(rng.beta(self.recipe.mixup, self.recipe.mixup))
            inputs = tuple(share * one.float() + (1 - share) * one.float().flip(0) for one in inputs)
            other = step.targets.flip(0)
        weights = self._class_weights(step.targets.device)
        total = torch.zeros(2, device=step.targets.device, dtype=torch.float64)  # of losses, of weights
        for start in range(0, len(step), self.piece):
            some = slice(start, start + self.piece)
            logits = self.network.logits(tuple(one[some] for one in inputs))  # (B, K)
            loss = torch.zeros((), device=logits.device)
            for targets, part in ((step.targets[some], share), (other[some], 1 - share)):
                if part:
                    smoothing = {"label_smoothing": self.recipe.label_smoothing, "weight": weights}
                    loss = loss + part * torch.nn.functional.cross_entropy(
                        logits, targets, reduction="sum", **smoothing
                    )
                    total[1] += part * (len(targets) if weights is None else weights[targets].sum())
            loss.backward()
            total[0] += loss.detach()
        parameters = self._trained()
        for parameter in parameters:  # one that has no part in the output, or a process without a share of the batch
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        self.peers.add([total, *(parameter.grad for parameter in parameters)])
        for parameter in parameters:
            parameter.grad /= total[1].to(parameter.grad.dtype)
        if self.recipe.l2_sp:
            for name, value in self.network.changing():
                if value.grad is not None:
                    value.grad += self.recipe.l2_sp * (value.detach() - self.start[name])
        return total[0].item(), total[1].item()

    def _class_weights(self, device: torch.device) -> torch.Tensor | None:
        import torch

        if self.recipe.class_weight is None:
            return None
        counts = np.bincount(self.train.samples.targets, minlength=self.network.head.out_features)
        weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
        return torch.tensor(weights, dtype=torch.float32, device=device)

    def _validate(self) -> dict[str, float]:
        """Top-1 and log-loss of the validation data, in float64."""
        import torch

        started = time.perf_counter()
        sums = torch.zeros(3, dtype=torch.float64, device=self.network.head.weight.device)  # right, loss, images
        for step in self.validation():
            logits = self.network.predict(*step.inputs).double()  # (B, K)
            sums[0] += (logits.argmax(1) == step.targets).sum()
            sums[1] += torch.nn.functional.cross_entropy(logits, step.targets, reduction="sum")
            sums[2] += len(step)
        self.peers.add([sums])
        right, loss, count = sums.tolist()
        return {
            "top1": right / count,
            "log_loss": loss / count,
            "n": int(count),
            "seconds": time.perf_counter() - started,
        }

    def _trained(self) -> list[torch.nn.Parameter]:
        head = list(self.network.head.parameters())
        return [*head, *(one for one in self.network.module.parameters() if one.requires_grad)]

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
        rate = self.recipe.peak_lr * factor * (HEAD_RATE if alone else 1)
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
        checkpoints.save(self.checkpoint, self.identity, told, {**tensors, "optimizer": optimizer.state_dict()})
        self.saved = time.perf_counter()

    def _bar(self, label: str, total: int) -> Any:
        from contextlib import nullcontext

        return self.progress(label, total) if self.progress is not None else nullcontext(lambda done: None)

    def _tell(self, run: _Run) -> None:
        row, best = run.curve[-1], run.curve[run.best_epoch]
        left = (self.epochs - run.epoch) * row["seconds"]
        self.note(
            f"epoch {run.epoch} of {self.epochs}: loss {row['train_loss']:.3f}, val top-1 {100 * row['top1']:.1f} %, "
            f"log-loss {row['log_loss']:.3f} (kept: epoch {run.best_epoch}, {100 * best['top1']:.1f} %); "
            f"{row['seconds']:.0f} s, at most {_duration(left)} to go"
        )

    def _diverged(self, what: str, run: _Run) -> str:
        return (
            f"{what} is not finite in epoch {run.epoch}, step {run.step + 1}; epoch {run.best_epoch} is kept; "
            f"try a lower --lr than {self.recipe.peak_lr:g}, or --precision fp32"
        )


def better(curve: list[dict[str, Any]], best: int) -> bool:
    """Whether the last epoch of a curve is to be kept instead of epoch `best`.

    It has to be within one standard error of the best top-1 so far; and of a lower log-loss, unless the one that was
    kept is not within it any more.
    """
    top = max(row["top1"] for row in curve)
    enough = top - math.sqrt(top * (1 - top) / curve[-1]["n"])
    last, kept = curve[-1], curve[best]
    return last["top1"] >= enough and (kept["top1"] < enough or last["log_loss"] < kept["log_loss"])


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
