"""Few labels: probes on a few labelled images per class, over seeded draws, and what unlabelled images add to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes.inputs import check, check_groups
from featurepipe.probes.kinds import named
from featurepipe.probes.metrics import predict
from featurepipe.probes.selection import fit
from featurepipe.probes.text_starts import METHODS, TextStart
from featurepipe.signatures import spread
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import option

LEVEL = 0.95


@dataclass(frozen=True)
class DrawOptions:
    """How often labels are drawn, and what learns from them."""

    repeats: int = option(10, "Draws for each of `shots`.")
    semi: bool = option(
        False,
        "Also learn from the rows of X that were not drawn, without their labels: `pseudolabels.fit_self_training` and "
        "`pseudolabels.LabelSpreader`.",
    )
    text: TextStart | None = option(None, "Also learn by the methods of `text_starts.METHODS`, from this start.")
    seed: int = option(0, "Repeat r draws under ``[seed, r]``.")
    blocks: Sequence[int] = option((), "As for `featurepipe.probes.fit`.")


@guarded
@spread(draws=DrawOptions)
def fit_few_shot(
    kind: str,
    X: np.ndarray,
    y: np.ndarray,
    X_test: np.ndarray,
    y_test: np.ndarray,
    *,
    shots: Sequence[int],
    groups: np.ndarray | None = None,
    draws: DrawOptions,
    progress: Callable[[int], object] = lambda draws: None,
) -> list[dict[str, Any]]:
    """Top-1 of probes with few labels, over seeded draws of these labels.

    The strength is chosen by cross-validation inside each draw. A draw of few shots is part of the same repeat's draw
    of more shots, so figures can be compared pair by pair. The test rows are only predicted; they decide nothing.

    Parameters
    ----------
    kind : str
        As for `featurepipe.probes.fit`.
    X, X_test : ndarray of float, shape (n, width)
        Raw embeddings.
    y, y_test : ndarray, shape (n,)
        Labels; each class in y_test must be in y.
    shots : sequence of int
        Labelled images per class.
    groups : ndarray, shape (n,), optional
        Groups of rows, such as exact copies of an image. A draw takes one row of each class and group, as long as the
        class has other groups left.
    draws
    progress : callable, optional
        Called after each draw with the number of draws just done, 1.

    Returns
    -------
    list of dict
        Per number of shots: ``shots, labels`` (in all), ``repeats, mean, std, interval`` (see `mean_interval`),
        ``top1`` (one figure per draw), and ``semi``: with `semi`, the last four of ``self_training`` and
        ``label_spreading``, on the same draws. With `text` also ``text``, with the same of each of its methods.

    Raises
    ------
    ProbeError
        A class has fewer rows than shots, shots or repeats below 1, a class in y_test only, values that are not finite,
        or what `featurepipe.probes.fit` refuses.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(80) % 2
    >>> X = rng.normal(size=(80, 4)) + 2 * y[:, None]
    >>> few = fit_few_shot("ridge", X[:40], y[:40], X[40:], y[40:], shots=[2, 10], repeats=5, semi=True)
    >>> [(one["labels"], len(one["top1"]), list(one["semi"])) for one in few]
    [(4, 5, ['self_training', 'label_spreading']), (20, 5, ['self_training', 'label_spreading'])]
    """
    X, y, X_test, y_test = check(X, y, X_test, y_test, reads=named(kind).reads)
    check_groups(groups, len(y))
    repeats, semi, seed = draws.repeats, draws.semi, draws.seed
    check_few(shots, repeats, semi)
    check_enough(y, shots)
    classes, codes = np.unique(y, return_inverse=True)
    start = None if draws.text is None else draws.text.of(classes)
    unit, test_unit = (unit_rows(X), unit_rows(X_test)) if start is not None else (X, X_test)
    spreader = None
    if semi:
        from featurepipe.probes.pseudolabels import LabelSpreader, fit_self_training

        spreader = LabelSpreader(X, X_test)
    found = []
    for count in shots:
        lines: dict[str, list[float]] = {}
        for repeat in range(repeats):
            drawn = draw(y, count, groups, seed=[seed, repeat])  # (K × count,)
            units = None if groups is None else groups[drawn]
            probe = fit(kind, X[drawn], y[drawn], groups=units, seed=seed, blocks=draws.blocks)
            guesses = {"supervised": predict(probe.estimator, X_test)}
            if spreader is not None:
                known = np.full(len(y), -1)  # unlabelled, in scikit-learn's words
                known[drawn] = codes[drawn]
                guesses["self_training"] = classes[fit_self_training(probe, X, known, seed).predict(X_test)]
                guesses["label_spreading"] = classes[spreader.predict(known)]
            if start is not None:
                for name, learn in METHODS.items():
                    scores = learn(start, unit[drawn], codes[drawn], seed)
                    guesses[name] = classes[scores(test_unit).argmax(1)]
            for name, guessed in guesses.items():
                lines.setdefault(name, []).append(float(np.mean(guessed == y_test)))
            progress(1)
        summaries = {name: _summary(top1) for name, top1 in lines.items()}
        size = {"shots": int(count), "labels": int(count) * len(classes), "repeats": repeats}
        told = {**size, **summaries.pop("supervised")}
        text = {name: summaries.pop(name) for name in METHODS} if start is not None else {}
        found.append({**told, "semi": summaries, **({"text": text} if text else {})})
    return found


def unit_rows(X: np.ndarray) -> np.ndarray:
    """Rows of unit length; what is 0 stays 0."""
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(norms > 0, norms, 1)


def check_few(shots: Sequence[int], repeats: int, semi: bool) -> None:
    """Raise ProbeError for shots, repeats or semi-supervised lines that no data could have."""
    if isinstance(shots, int):
        raise ProbeError(f"shots is a list of numbers; give [{shots}]")
    if repeats < 1 or any(count < 1 for count in shots):
        raise ProbeError("shots and repeats must be at least 1")
    if semi and not shots:
        raise ProbeError("semi-supervised probes need a number of labels per class; give shots")


def check_enough(y: np.ndarray, shots: Sequence[int]) -> None:
    """Raise ProbeError for more shots than the smallest class has rows."""
    classes, counts = np.unique(y, return_counts=True)
    if shots and max(shots) > counts.min():
        scarce = classes.tolist()[counts.argmin()]
        have = "1 training sample" if counts.min() == 1 else f"{counts.min()} training samples"
        raise ProbeError(f"class {scarce!r} has {have}, fewer than {max(shots)} shots; ask for at most {counts.min()}")


def draw(y: np.ndarray, shots: int, groups: np.ndarray | None = None, *, seed: int | Sequence[int]) -> np.ndarray:
    """Rows of N labelled images per class; under the same seed, those of fewer shots are among them.

    Returns
    -------
    ndarray of int, shape (classes × shots,)
        Class after class. Of each of the `groups` the first comes before any second.

    Examples
    --------
    >>> draw(np.array([0, 0, 1, 1]), 1, seed=0).tolist(), draw(np.array([0, 0, 1, 1]), 2, seed=0).tolist()
    ([0, 2], [0, 1, 2, 3])
    """
    generator = np.random.default_rng(seed)
    drawn = []
    for label in np.unique(y):
        members = generator.permutation(np.flatnonzero(y == label))
        if groups is not None:
            firsts = np.sort(np.unique(groups[members], return_index=True)[1])
            members = np.concatenate([members[firsts], np.delete(members, firsts)])
        drawn.append(members[:shots])
    return np.concatenate(drawn)


def mean_interval(values: Sequence[float]) -> list[float] | None:
    """The 95 % confidence interval of the mean of fractions, by Student's t, cut at 0 and 1; None for a single one.

    It says where the mean over all possible draws of labels may lie, on the same test images. It does not say how sure
    a figure is with this number of test images: that is `featurepipe.statistics.wilson`.

    Examples
    --------
    >>> [round(end, 3) for end in mean_interval([0.5, 0.6, 0.7])]
    [0.352, 0.848]
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    mean = np.mean(values)
    return [max(0.0, float(mean - half)), min(1.0, float(mean + half))]


def _summary(top1: list[float]) -> dict[str, Any]:
    return {
        "mean": float(np.mean(top1)),
        "std": float(np.std(top1, ddof=1)) if len(top1) > 1 else None,
        "interval": mean_interval(top1),
        "top1": top1,
    }
