"""The card itself, and those of its parts that say what a model was made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from featurepipe.cards.blocks import Blocks
from featurepipe.cards.figures import Answered, FewShot, Figures
from featurepipe.cards.parts import Absent, Anything, Count, Figure, Flag, Loss, Number, Part, Share, Text, unsaid
from featurepipe.cards.promotions import Tuning
from featurepipe.cards.segmentations import Segmented
from featurepipe.jsons import Type, check
from featurepipe.statistics import Kept

_MEASURED = ("train", "val", "test", "folds")
_SPLIT = Type("a split, or folds", lambda value: value in _MEASURED)


@dataclass(frozen=True, kw_only=True, eq=False)
class Data(Part):
    """What was learned from, and reported on: its folder, and how many labelled images of how many classes.

    With labels from a table, `labels` is that table and `task` its column.
    """

    root: Text
    samples: Count
    classes: Count
    labels: Absent[Text] = None
    task: Absent[Text] = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits(Part):
    """How many images each split has."""

    train: Count
    val: Count
    test: Count


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried(Part):
    """A candidate of the selection. Its strength is under its own name, as the kind of probe calls it."""

    C: Number | None = None
    alpha: Number | None = None
    shrinkage: Number | None = None
    n_neighbors: Number | None = None
    top1: Figure = unsaid()
    log_loss: Loss = unsaid()
    tied: Anything = None
    converged: Flag = unsaid()


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection(Part):
    """How the strength was chosen, and how well probabilities are calibrated.

    Attributes
    ----------
    on : str
        The data that chose.
    chosen : float, dict or None
        The strength; of sets of labels that of each label; None of a kind that has none.
    path : list of Tried
    temperature, ece, ece_uncalibrated : float or None
    coverage : list of Answered or None
        How accurate the answers of enough confidence are, on data from which the classifier that gave them has not
        learned; None where there were none. `featurepipe.predict` chooses a threshold by it.
    """

    on: Text
    chosen: Number | dict[str, Number] | None
    path: list[Tried]
    temperature: Number | None = None
    ece: Number | None = None
    ece_uncalibrated: Number | None = None
    coverage: Absent[list[Answered]] = None

    @classmethod
    def made(
        cls,
        on: str,
        chosen: Any,
        path: Sequence[Mapping[str, Any]],
        *,
        coverage: Iterable[Kept] = (),
        **calibration: float | None,
    ) -> Self:
        """How a strength was chosen, and its calibration and coverage where these are told too."""
        points = [Answered(**point._asdict()) for point in coverage]
        told: dict[str, Any] = {**calibration, **({"coverage": points} if points else {})}
        return cls(on=on, chosen=chosen, path=[Tried.of_json(one) for one in path], **told)


@dataclass(frozen=True, kw_only=True, eq=False)
class Followed(Part):
    """The named protocol that was followed, as it was then."""

    name: Text
    version: Text | Number
    source: Text
    normalisation: Anything = None
    selection: Text
    refit: Anything = None
    remarks: Anything = None
    metric: Absent[Text] = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Card(Part):
    """What a model file says of itself.

    Attributes
    ----------
    data : Data
    splits : Splits
    split_source : str
        How the splits were made.
    evaluated_on : str or None
        Which of the next four holds the figures that count; None where nothing was measured.
    selection : Selection
    train, val, test : Figures or None
    folds : Figures or None
        Those of k-fold cross-validation over all samples; the probe in the file was trained on all of them.
    baselines : dict
        Name → top-1, or of sets of labels mean average precision; None where it was not measured.
    majority_class : str or None
    few_shot : list of FewShot
    layers : list of dict or None
        What was found on each layer before one was chosen.
    blocks : Blocks or None
        Each backbone alone, where there are several.
    finetuning : Tuning or None
    segmentation : Segmented or None
    protocol : Followed or None
    licence : str or None
        That of the backbone's weights.
    seed : int
    probe_device, class_weight : str or None
    notes : list of str
    versions : dict
        Library → version.
    created : str
    """

    data: Data = unsaid()
    splits: Splits = unsaid()
    split_source: Text = unsaid()
    evaluated_on: Absent[Annotated[str, _SPLIT]] = None
    selection: Selection
    train: Figures | None = unsaid()
    val: Figures | None = unsaid()
    test: Figures | None = unsaid()
    folds: Absent[Figures] = None
    baselines: dict[str, Share | None] = unsaid()
    majority_class: Text | None = None
    few_shot: list[FewShot] = unsaid()
    layers: Anything = None
    blocks: Absent[Blocks] = None
    finetuning: Tuning | None = None
    segmentation: Absent[Segmented] = None
    protocol: Followed | None = None
    licence: Anything = None
    seed: Count = unsaid()
    probe_device: Anything = None
    class_weight: Text | None = None
    notes: list[Text] = unsaid()
    versions: dict[str, Text] = unsaid()
    created: Text = unsaid()

    @classmethod
    def from_json(cls, said: Any) -> Self:
        """A card of what a file holds.

        Raises
        ------
        ValueError
            It names the first value that does not fit.
        """
        check(said, cls.shape(), "the card")
        return cls.of_json(said)

    @property
    def figures(self) -> Figures:
        """Those that count."""
        return getattr(self, str(self.evaluated_on))

    @property
    def learned(self) -> int:
        """How many images the probe in the file has learned from: all that are not reported."""
        return self.splits.train + (self.splits.val if self.evaluated_on == "test" else 0)

    @property
    def tuned(self) -> Tuning | None:
        """How the network in the file was tuned; None where it holds a probe."""
        return self.finetuning if self.finetuning is not None and self.finetuning.promoted else None
