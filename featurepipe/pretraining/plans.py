"""How long a run is: epochs that are given, or as many as fit into some minutes at the speed of the first seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch

from featurepipe.errors import PretrainingError
from featurepipe.finetuning import Batches, Peers, Recipe
from featurepipe.finetuning.batches import Step
from featurepipe.finetuning.gradients import Gradients
from featurepipe.listeners import SILENT
from featurepipe.pretraining.pupils import Pupil
from featurepipe.vocabulary import PretrainOptions
from featurepipe.vocabulary.pretexts import DISTANCES, SOUND_TARGETS

EPOCHS = 20
TRIED, MOST = 0.03, 20.0  # share of the minutes that the speed is measured for, and the most seconds
WARM = 1  # first steps, which allocate memory and count for nothing


@dataclass(frozen=True)
class Plan:
    """How long a run is.

    Attributes
    ----------
    epochs : int
    length : int
        Images of each.
    """

    epochs: int
    length: int


def check(how: PretrainOptions) -> None:
    """Raise PretrainingError for options that exclude each other or are out of range, before anything is read."""
    if how.epochs is not None and how.minutes is not None:
        raise PretrainingError("the length of a run is given in epochs or in minutes; leave out one of them")
    for name, fits, says in (
        ("minutes", how.minutes is None or 0 < how.minutes < math.inf, "above 0"),
        ("every", how.every >= 0, "0 or more"),
        ("batch_size", how.batch_size >= 2, "at least 2"),
        ("crop", 0 < how.crop <= 1, "above 0 and at most 1"),
        ("temperature", 0 < how.temperature < math.inf, "above 0"),
        ("mask", 0 < how.mask < 1, "above 0 and below 1"),
        ("views", how.views >= 1, "at least 1"),
        ("codes", how.codes >= 2, "at least 2"),
        ("seed", how.seed >= 0, "0 or more"),
        ("distance", how.distance in DISTANCES, " or ".join(DISTANCES)),
        ("sound_target", how.sound_target in SOUND_TARGETS, " or ".join(SOUND_TARGETS)),
    ):
        if not fits:
            raise PretrainingError(f"{name} is {getattr(how, name)}; it must be {says}")


def precision_of(how: PretrainOptions, device: str) -> str:
    """The number format of training: on a GPU bf16, and fp32 elsewhere, where nothing else is asked for."""
    if how.precision != "auto":
        return how.precision
    return "bf16" if device.startswith("cuda") else "fp32"


def recipe_of(how: PretrainOptions, device: str, epochs: int | None = None) -> Recipe:
    """What the training loop goes by."""
    own = ("batch_size", "lr", "optimizer", "weight_decay", "warmup", "ema", "accumulate", "seed")
    made = Recipe(
        **{name: getattr(how, name) for name in own},
        epochs=epochs,
        head="random",
        layer_decay=1.0,
        batch_norm="train",
        augment=how.augment,
        precision=precision_of(how, device),
        refit=False,
    )
    made.check()
    return made


def whole_batches(images: int, batch_size: int) -> int:
    """Images of an epoch of whole batches, of which the last one leaves some out; each epoch leaves out others."""
    return images if images < batch_size else images - images % batch_size


def of_epochs(how: PretrainOptions, images: int) -> Plan:
    """A run of a given number of epochs."""
    return Plan(how.epochs or EPOCHS, whole_batches(images, how.batch_size))


def of_minutes(minutes: float, rate: float, images: int, batch_size: int) -> Plan:
    """A run that sees as many images as fit: whole epochs, or a part of one.

    Examples
    --------
    >>> of_minutes(10, 500, images=50_000, batch_size=256)
    Plan(epochs=6, length=49920)
    >>> of_minutes(1, 100, images=50_000, batch_size=256)
    Plan(epochs=1, length=5888)
    """
    seen = max(batch_size, round(60 * minutes * rate))
    length = whole_batches(images, batch_size)
    epochs = max(1, round(seen / length))
    return Plan(epochs, whole_batches(min(length, round(seen / epochs)), batch_size))


def speed(pupil: Pupil, batches: Batches, recipe: Recipe, seconds: float, peers: Peers) -> float:
    """Images a second of training steps of a copy, which nothing is kept of; the slowest process counts.

    Parameters
    ----------
    pupil : Pupil
    batches : Batches
    recipe : Recipe
    seconds : float
        How long to try, at the least.
    peers : Peers
    """
    state, device = pupil.state(), torch.device(pupil.device)
    gradients = Gradients(pupil, pupil.pretext, recipe, peers, SILENT)
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=0.0)
    started, done = time.perf_counter(), -WARM
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for step in _endless(batches):
            gradients.fill(step, [recipe.seed, 0, done + WARM])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            if not done:
                started = time.perf_counter()
            elif any(peers.gather(time.perf_counter() - started > seconds)):
                break
    spent = time.perf_counter() - started
    pupil.load(state)
    return min(peers.gather(done * min(recipe.batch_size, len(batches)) / spent))


def _endless(batches: Batches) -> Iterator[Step]:
    """Batches of one epoch after another: an epoch of few images is over before its speed is known."""
    for number in count():
        yield from batches.epoch(number)


def timed(how: PretrainOptions, pupil: Pupil, batches: Batches, images: int, recipe: Recipe, peers: Peers) -> Plan:
    """A run of a given number of minutes, by the speed of the first steps; the same in all processes."""
    assert how.minutes is not None
    seconds = min(TRIED * 60 * how.minutes, MOST)
    rate = peers.share(speed(pupil, batches, recipe, seconds, peers))
    return of_minutes(how.minutes, rate, images, how.batch_size)
