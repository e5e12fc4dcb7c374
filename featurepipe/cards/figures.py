"""How good a model is, by its card: on a split, on each class, and with few labels."""

from __future__ import annotations

from dataclasses import dataclass

from featurepipe.cards.parts import Absent, Anything, Count, Figure, Loss, Number, Part, Share, Text, unsaid


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassFigures(Part):
    """Figures of one class, or of one label; `average_precision` is of a label, and null where no image has it."""

    support: Count
    precision: Figure
    recall: Figure
    f1: Figure
    average_precision: Share | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Headline(Part):
    """How many images, and the figure that counts: `top1`, or of sets of labels `map`."""

    n: Count
    top1: Absent[Share] = None
    map: Absent[Share] = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered(Part):
    """A point of the curve of coverage: from `confidence` on `kept` answers are given, `right` of which are right."""

    confidence: Share
    kept: Count
    right: Count


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair(Part):
    """How many images of one class are taken for another."""

    true: Text
    predicted: Text
    count: Count


@dataclass(frozen=True, kw_only=True, eq=False)
class Confused(Part):
    """The most common confusions, and how many more pairs of classes are confused."""

    pairs: list[Pair]
    more: Count


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold(Part):
    """A fold of a cross-validation: how many images it holds out, and the strength that the others chose."""

    n: Count
    top1: Share
    chosen: Number | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Figures(Part):
    """Figures on the images of a split, as `featurepipe.probes.evaluate` or `label_figures` gives them.

    Attributes
    ----------
    source : str
        What they are; only figures of selection data say it.
    top5 : float or None
        The share of images whose class is among the five likeliest, where there are more than ten classes.
    confusion : list of list of int or None
        Rows are true classes; None where there are too many of them.
    confused : Confused or None
        The most common confusions, where there is no matrix.
    with_copies : Headline or None
        With the exact copies of training images, which the other figures leave out.
    groups : int or None
        How many groups of images there are; then `interval` is bootstrapped over them.
    mean, per_fold, method
        For k-fold cross-validation: the mean of the folds' accuracies, each fold, and how `interval` was made.
    """

    source: Anything = None
    n: Count = unsaid()
    top1: Figure = unsaid()
    top5: Absent[Share] = None
    balanced_accuracy: Figure = unsaid()
    map: Figure = unsaid()
    micro_f1: Share | None = unsaid()
    macro_f1: Share | None = unsaid()
    subset_accuracy: Share | None = unsaid()
    log_loss: Loss = unsaid()
    ece: Loss = unsaid()
    ece_uncalibrated: Loss = unsaid()
    hamming: Loss = unsaid()
    classes: list[Text] = unsaid()
    per_class: dict[str, ClassFigures] = unsaid()
    confusion: list[list[Count]] | None = unsaid()
    confused: Absent[Confused] = None
    with_copies: Absent[Headline] = None
    groups: Absent[Count] = None
    interval: Absent[list[Share]] = None
    mean: Absent[Share] = None
    per_fold: Absent[list[Fold]] = None
    method: Absent[Text] = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws(Part):
    """Top-1 of each draw of a few labels, and their mean; nobody here reads the rest."""

    mean: Share
    top1: list[Share]
    std: Anything = None
    interval: Anything = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FewShot(Draws):
    """Figures with only `shots` labels of each class, over `repeats` draws; semi-supervised methods, methods that start
    from class names, and baselines.
    """

    shots: Count
    repeats: Count
    labels: Anything = None
    semi: Absent[dict[str, Draws]] = None
    text: Absent[dict[str, Draws]] = None
    baselines: dict[str, Share | None] = unsaid()
