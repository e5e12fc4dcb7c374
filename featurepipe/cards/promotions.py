"""How a network was tuned, by its card: the course of it, what it was compared with, and why it was kept or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from featurepipe.cards.parts import Absent, Anything, Count, Figure, Flag, Number, Part, Share, Text, unsaid
from featurepipe.jsons import Type

AFTER_ALL = "after all epochs"
_STARTS = ("probe", "random head", "scratch")
_START = Type("probe, random head or scratch", lambda value: value in _STARTS)
_DEPTH = Type("a depth", lambda value: isinstance(value, str) and _is_depth(value))


@dataclass(frozen=True, kw_only=True, eq=False)
class Epoch(Part):
    """An epoch of training; 0 is the start, before any step. Figures are of validation data."""

    epoch: Count
    top1: Figure
    train_loss: Number | None
    log_loss: Number | None
    lr: Number | None
    seconds: Number | None
    n: Anything = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Validation(Part):
    """What tuning was validated on, and how the probe and the network compare there.

    Attributes
    ----------
    on : str
    n : int
    probe, probe_log_loss : float or None
        The probe's top-1 and log-loss.
    compared : int or None
        Images that could still be read.
    network_alone, probe_alone : int or None
        Images on which only the one is right.
    expected_gain : float or None
        In top-1 on new images; older cards do not say it.
    behind : bool or None
        Whether the network is clearly worse.
    """

    on: Text
    n: Count
    probe: Share | None = None
    probe_log_loss: Number | None = None
    compared: Count | None = None
    network_alone: Count | None = None
    probe_alone: Count | None = None
    expected_gain: Number | None = None
    behind: Anything = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Rated(Part):
    """A classifier's figures on the reported split; `kind` is that of a probe, where it is known."""

    kind: Absent[Text] = None
    top1: Share
    log_loss: Number | None


@dataclass(frozen=True, kw_only=True, eq=False)
class RatedProbe(Rated):
    """The probe's."""

    n: Anything = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RatedNetwork(Rated):
    """The network's, on the images that could be read."""

    n: Count


@dataclass(frozen=True, kw_only=True, eq=False)
class Refit(Part):
    """How the network that is kept was trained once more, on the validation images too."""

    images: Count
    stopped: Text
    epochs: Anything = None
    train_loss: Anything = None
    seconds: Anything = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Scratch(Part):
    """The same network from random weights, under the same recipe."""

    curve: list[Epoch]
    best_epoch: Count
    stopped: Anything = None
    top1: Share
    seconds: Number


@dataclass(frozen=True, kw_only=True, eq=False)
class Range(Part):
    """A figure that is expected, between its bounds."""

    low: Number
    mean: Number
    high: Number


@dataclass(frozen=True, kw_only=True, eq=False)
class Advice(Part):
    """What advice chose, or that nothing is tuned (`tune` is None), and why."""

    option: Text
    tune: Text | None
    layer: Text | None
    expected_gain: dict[str, Range | None]
    reasons: list[Text]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuning(Part):
    """How a network was tuned, or was tuned in vain.

    Attributes
    ----------
    promoted : bool
        Whether the file holds the tuned network, and not the probe.
    of : str
        The name of the backbone.
    start : str
        What the head started as: ``probe``, ``random head``; of older files ``scratch``.
    C : float or None
        The strength of the probe that the head started as.
    tune : str
        How deep.
    tuned_parameters, parameters : int
        Below the head.
    recipe : dict
        The fields of `featurepipe.finetuning.Recipe`, as the defaults came to.
    best_epoch : int
        The one that was kept.
    probe, network : Rated or None
        Their figures on the reported split.
    cached_bottom : bool
        Whether the output of the frozen layers was computed once.
    """

    promoted: Flag
    of: Anything = None
    start: Annotated[str, _START]
    C: Absent[Number] = None
    tune: Annotated[str, _DEPTH]
    tuned_parameters: Count
    parameters: Count
    recipe: dict[str, Anything] = unsaid()
    validation: Validation = unsaid()
    curve: list[Epoch]
    best_epoch: Count
    stopped: Text
    probe: RatedProbe | None = unsaid()
    network: RatedNetwork | None = None
    cached_bottom: Flag = unsaid()
    refit: Refit | None = None
    advice: Advice | None = None
    scratch: Scratch | None = unsaid()
    seconds: Number = unsaid()

    @property
    def is_refitted(self) -> bool:
        """Whether the network that was kept has learned from the validation images too, in the end."""
        return self.refit is not None and self.refit.stopped == AFTER_ALL


def _is_depth(text: str) -> bool:
    """Whether the name of a depth can be put into words."""
    return not text.startswith("last-") or (text.removeprefix("last-").isdecimal() and len(text) < len("last-") + 10)
