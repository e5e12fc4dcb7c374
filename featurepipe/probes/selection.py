"""Choosing the strength on validation data, and fitting the chosen probe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featurepipe.errors import ProbeError
from featurepipe.probes.inputs import check, check_groups
from featurepipe.probes.kinds import FOLDS, KINDS, Kind, check_blocks, check_kind, check_weights
from featurepipe.probes.metrics import Blocks, Judged, decision_scores, judge, mean_loss, probabilities, softmax
from featurepipe.probes.scorings import HELD, Remade, Scoring, scored
from featurepipe.signatures import spread
from featurepipe.solvers import CPU, Certificate, Matrix, Stack, stacked
from featurepipe.statistics import Kept, coverage
from featurepipe.surroundings import guarded
from featurepipe.vocabulary import option

HELD_OUT = 0.5  # share of the rows that must ever be held out, or the strength is not chosen on them
THINNED = 2**26  # scores that fit the temperature, where not all of them can be kept
COLDEST = 7.0  # log of the scores' size over the temperature; and hottest: all classes are as likely to a thousandth


@dataclass(frozen=True, repr=False)
class Probe:
    """A fitted probe.

    Attributes
    ----------
    kind : str
        One of `KINDS`, or ``multi-label``; see `featurepipe.probes.fit_labels`.
    estimator : scikit-learn classifier
        LogisticRegression, RidgeClassifier, LinearSVC, LinearDiscriminantAnalysis, NearestCentroid,
        KNeighborsClassifier, MLPClassifier, `featurepipe.probes.kinds.attentive.AttentiveClassifier` or, multi-label,
        OneVsRestClassifier. Takes raw embeddings; the
        standardisation is folded in.
    temperature : float
        Scores are divided by it before the softmax that makes probabilities; 1 where nothing was held out to fit it on.
    chosen : float, dict or None
        The selected strength; None for a kind that has none (centroid); multi-label, that of each label.
    selected_on : str
        ``val``, ``5-fold cross-validation on train``, ``given``, or why there was nothing to select on.
    path : list of dict
        Per candidate: its strength by the name that `KINDS` gives, ``top1`` and ``log_loss`` on the selection data (the
        latter after a temperature), ``tied`` (whether it cannot be told apart from the best there, see `tied`),
        ``converged`` (before the final fit, which has its own `certificate`).
    scores : dict
        `evaluate`'s figures of the chosen candidate on the selection data, before the final fit: ``ece`` and
        ``ece_uncalibrated`` are those after and before the temperature.
    right : ndarray of bool, shape (n,), or None
        Whether the chosen candidate is right on each row of the selection data, in their order; None where there were
        none, and multi-label. `choose` compares such answers.
    confidence : ndarray of float, shape (n,), or None
        How sure it is of each of these answers, after the temperature.
    certificate : Certificate, dict or None
        Certificate of the final fit, if its kind has one; for multi-label, label → that of the fit at its C. All
        labels are fitted together at each C, so its objective is the sum of theirs, and so is what its gap bounds.
    notes : list of str
        What went otherwise than hoped for.
    """

    kind: str
    estimator: Any
    temperature: float
    chosen: float | dict[str, float] | None
    selected_on: str
    path: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    right: np.ndarray | None = None
    confidence: np.ndarray | None = None
    certificate: Certificate | dict[str, Certificate] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> np.ndarray:
        """Class labels in the order of the probability columns."""
        return self.estimator.classes_

    @property
    def coverage(self) -> list[Kept]:
        """How often it is right on the selection data where it is sure enough; empty where there are none."""
        return [] if self.right is None or self.confidence is None else coverage(self.confidence, self.right)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities of shape (n, classes)."""
        return probabilities(self.estimator, X, self.temperature)

    @property
    def summary(self) -> str:
        """What was chosen, on what, and how good it was there, in one line."""
        parameter = KINDS[self.kind].parameter if self.kind in KINDS else None
        strength = f", {parameter}={self.chosen:g}" if parameter and isinstance(self.chosen, float | int) else ""
        line = f"{self.kind} probe of {len(self.classes)} classes{strength} ({self.selected_on})"
        if "top1" not in self.scores:
            return line
        found = self.scores
        return f"{line}: accuracy {100 * found['top1']:.1f} % of {found['n']}, log-loss {found['log_loss']:.3f}"

    def __repr__(self) -> str:
        return f"<{self.summary}>"


@dataclass(frozen=True)
class FitOptions:
    """How a probe is fitted."""

    value: float | None = option(None, "The strength to use without any selection.")
    measure: bool = option(
        True,
        "Whether a logistic probe of a given strength is measured by cross-validation where there are no selection "
        "data. Without it nothing but the final fit runs: there are no scores, and the temperature is 1. Other kinds "
        "are always measured.",
    )
    class_weight: str | None = option(
        None,
        "``balanced`` lets every class count alike, as if the rows of small ones were there several times (in the "
        "standardisation, too); not for centroid and kinds of knn.",
        shape="{None, 'balanced'}",
    )
    seed: int = option(
        0,
        "Seed for the folds, for the initialisation and batches of an mlp and an attentive probe, and for the lists of "
        "approximate-knn.",
    )
    keep: bool = option(
        True,
        "Whether logistic and svm keep a working copy of the features in memory, as float32. Without it they read X in "
        "every product, and no kind but those of knn and mlp, which are made of copies, holds more than a few rows.",
    )
    device: str = option(
        CPU,
        "Where logistic and svm are fitted: ``cpu``, or torch's name of a device with float64, such as ``cuda`` or "
        "``cuda:1``. Each fit's X and its working copy lie there, whatever `keep` is. Never run on a GPU, and tested "
        "with torch on a CPU only; each certificate says in float64 how good a fit is, wherever it was made.",
    )
    blocks: Sequence[int] = option(
        (),
        "Widths of blocks of features, such as those of several backbones. Each block is standardised by itself, and "
        "none drowns the others: see `featurepipe.statistics.feature_scales`. Not for centroid and kinds of knn.",
    )


@guarded
@spread(how=FitOptions)
def fit(
    kind: str,
    X: np.ndarray,
    y: np.ndarray,
    X_val: np.ndarray | None = None,
    y_val: np.ndarray | None = None,
    *,
    groups: np.ndarray | None = None,
    sample_weight: np.ndarray | None = None,
    how: FitOptions,
) -> Probe:
    """Choose the strength and fit a probe.

    Parameters
    ----------
    kind : {'logistic', 'ridge', 'svm', 'lda', 'centroid', 'knn', 'approximate-knn', 'mlp', 'attentive'}
    X : ndarray, shape (n, width), or (n, H, W, width) of tokens for an attentive probe
        Only read, and never copied to another precision as a whole; a memory map will do.
    y : ndarray, shape (n,)
        At least two classes.
    X_val, y_val : ndarray, optional
        Selection data. Without them, stratified cross-validation inside X.
    groups : ndarray, shape (n,), optional
        Rows of the same class and group, such as exact copies of an image, stay in the same fold.
    sample_weight : ndarray, shape (n,), optional
        What each row of X weighs in every fit, above 0: 2 is exactly the row twice. Rows of X_val weigh 1. Whatever it
        weighs, a row that is held out to choose the strength and the temperature counts once. Not for centroid, mlp
        and kinds of knn.
    how

    Returns
    -------
    Probe
        Fitted on X, and on X_val too where it was given.

    Raises
    ------
    ProbeError
        An unknown kind, rows and labels that `featurepipe.probes.inputs.check` refuses, a strength, weights or a
        device that the kind cannot have, or a device that is not there, has no float64, or too little memory.

    Notes
    -----
    The strength is chosen by `choose`. With one sample per class there is nothing to select on, and the middle of the
    grid is used; so it is where fewer than half of the rows can be held out without leaving a class empty. The
    temperature minimises the log-loss on the same selection scores (Guo et al. 2017, "On Calibration of Modern Neural
    Networks"), but makes them no surer than n right of n allow: of mean confidence (n + 1)/(n + 2), Laplace's rule of
    succession. Scores without a mistake would be made certain otherwise.

    Examples
    --------
    >>> X, y = np.array([[0.0, 1], [1, 0], [3, 5], [4, 3]]), np.array(["a", "a", "b", "b"])
    >>> fit("centroid", X, y).estimator.predict([[4, 4]]).tolist()
    ['b']
    """
    check_kind(kind, how.class_weight, how.device)
    value = how.value
    member = KINDS[kind]
    X, y, X_val, y_val = check(X, y, X_val, y_val, reads=member.reads)
    check_groups(groups, len(y))
    check_blocks(kind, how.blocks, X.shape[1])
    held: Matrix = Stack(X, blocks=how.blocks) if how.blocks else X
    classes = np.unique(y)
    candidates, folds = member.candidates(value, len(y)), assign_folds(y, how.seed, groups)
    own: dict[str, Any] = {name: getattr(how, name) for name in ("class_weight", "seed", "keep", "device")}
    if sample_weight is not None:
        check_weights(kind, sample_weight, len(y))
        own["sample_weight"] = sample_weight
    rows: Matrix
    scores: Iterable[Blocks]
    if X_val is not None and y_val is not None:
        truth, selected_on = y_val, "val"
        fitted = member.fit_path(held, y, candidates, **own)
        scores = (scored([(estimator, X_val, np.arange(len(truth)))]) for estimator, _ in fitted)  # one at a time
        converged = np.array([_converged(certificate) for _, certificate in fitted])
        rows, y = Stack(X, X_val, blocks=how.blocks), np.concatenate([y, truth])
        if sample_weight is not None:
            own["sample_weight"] = np.concatenate([sample_weight, np.ones(len(truth))])
    elif _can_test(folds, value) and (how.measure or value is None or not member.is_dear):
        rows, truth, selected_on = held, y[folds >= 0], f"{FOLDS}-fold cross-validation on train"
        scores, converged = _cross_validate(member, held, y, candidates, folds, **own)
    else:
        middle = candidates[len(candidates) // 2]
        ((estimator, certificate),) = member.fit_path(held, y, [middle], **own)
        why = f"nothing: {_few(folds, groups)}, so the middle of the grid" if value is None else "given"
        temperature, notes = member.untested(X, middle, value is not None)
        return Probe(kind, estimator, temperature, _number(middle), why, certificate=certificate, notes=notes)
    temperatures, judged = zip(*(_judge(one, truth, classes) for one in scores), strict=True)
    found, right, sure = zip(*judged, strict=True)
    best = choose(right, [f["log_loss"] for f in found])
    ((estimator, certificate),) = member.fit_path(rows, y, candidates[best : best + 1], **own)
    return Probe(
        kind=kind,
        estimator=estimator,
        temperature=temperatures[best],
        chosen=_number(candidates[best]),
        selected_on=selected_on if value is None else "given",
        path=[
            _strength(member, c)
            | {"top1": f["top1"], "log_loss": f["log_loss"], "tied": bool(stays), "converged": bool(ok)}
            for c, f, stays, ok in zip(candidates, found, tied(right), converged, strict=True)
        ],
        scores=found[best],
        right=right[best],
        confidence=sure[best],
        certificate=certificate,
        notes=[_thinned_note(len(truth), len(classes))] if _is_thinned(len(truth), len(classes)) else [],
    )


@dataclass(frozen=True)
class OutOfFold:
    """What a probe says of rows that it has not learned from.

    Attributes
    ----------
    rows : ndarray of int, shape (m,)
        Those that were ever held out; all, except where a class is one row, or one group.
    codes : ndarray of int, shape (m,)
        The place of each row's label in `classes`.
    classes : ndarray, shape (K,)
    probabilities : ndarray of float64, shape (m, K)
    """

    rows: np.ndarray
    codes: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Whether the likeliest class of each row is its own, (m,)."""
        return self.probabilities.argmax(axis=1) == self.codes


@guarded
def out_of_fold(
    kind: str,
    X: np.ndarray,
    y: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    values: Sequence[float] | None = None,
    seed: int = 0,
) -> OutOfFold:
    """Probabilities of each row, by a probe of the other folds; strength and temperature are chosen on all of them.

    Parameters
    ----------
    kind : str
    X : ndarray, shape (n, width)
    y : ndarray, shape (n,)
        At least two classes.
    groups : ndarray, shape (n,), optional
        No group is in two folds.
    values : sequence of float, optional
        Strengths to choose from, as `fit` does; by default the kind's grid.
    seed : int
        Seed of the folds.

    Raises
    ------
    ProbeError
        What `fit` refuses, or every class has but one row.

    Examples
    --------
    >>> X, y = np.array([[0.0, 1], [1, 0], [3, 5], [4, 3]]), np.array(["a", "a", "b", "b"])
    >>> found = out_of_fold("ridge", X, y, values=[1.0])
    >>> found.classes[found.probabilities.argmax(axis=1)].tolist()
    ['a', 'a', 'b', 'b']
    """
    X, y, _, _ = check(X, y, None, None, reads=KINDS[kind].reads)
    check_groups(groups, len(y))
    member, folds = KINDS[kind], assign_folds(y, seed, groups)
    rows = np.flatnonzero(folds >= 0)
    if not len(rows):
        raise ProbeError("every class has only one sample, so nothing can be held out; add samples")
    classes = np.unique(y)
    asked = [None] if values is None else values
    candidates = [one for value in asked for one in member.candidates(value, len(y))]
    held, _ = _cross_validate(member, X, y, candidates, folds, class_weight=None, seed=seed)
    scores = list(held)
    temperatures, judged = zip(*(_judge(one, y[rows], classes) for one in scores), strict=True)
    best = choose([one.right for one in judged], [one.figures["log_loss"] for one in judged])
    found = np.empty((len(rows), len(classes)))
    for at, block in scores[best]:
        found[at] = softmax(block, temperatures[best])
    return OutOfFold(rows, np.searchsorted(classes, y[rows]), classes, found)


def _cross_validate(
    kind: Kind, X: Matrix, y: np.ndarray, candidates: Sequence[float | None], folds: np.ndarray, **how: Any
) -> tuple[Iterator[Blocks], np.ndarray]:
    """Scores of every candidate on the rows ever held out, (m, classes), and whether each always converged."""
    classes, held = np.unique(y), np.flatnonzero(folds >= 0)
    converged = np.ones(len(candidates), bool)
    several = 1 if kind.is_copied else len(candidates)  # estimators of copies would be larger than their scores
    lasts = len(held) * len(classes) * several > HELD
    parts: list[list[Scoring]] = [[] for _ in candidates]
    scores = [np.zeros((0 if lasts else len(held), len(classes))) for _ in candidates]
    for out, fitted in kind.fit_folds(X, y, candidates, folds, **how):
        held_out, at = stacked(X).take(out), np.searchsorted(held, np.flatnonzero(out))
        for i, (estimator, certificate) in enumerate(fitted):
            if lasts:
                parts[i].append((estimator, held_out, at))
            else:
                scores[i][at] = decision_scores(estimator, held_out)
            converged[i] &= _converged(certificate)
        del fitted, estimator  # a kind that is made of copies would hold those of two folds
    return (
        Remade(one) if lasts else [(slice(None), whole)] for one, whole in zip(parts, scores, strict=True)
    ), converged


def _can_test(folds: np.ndarray, value: float | None) -> bool:
    """Whether enough rows are ever held out: to measure a given strength any, to choose one a good part of all."""
    share = float((folds >= 0).mean())
    return share > 0 if value is not None else share >= HELD_OUT


def _few(folds: np.ndarray, groups: np.ndarray | None) -> str:
    """In words, why too few rows are ever held out."""
    if groups is not None and len(np.unique(groups)) < len(folds):
        some, every = "most samples are in classes of one sample or group", "one sample or group per class"
    else:
        some, every = "most classes have only one sample", "one sample per class"
    return some if (folds >= 0).any() else every


def _judge(scores: Blocks, truth: np.ndarray, classes: np.ndarray) -> tuple[float, Judged]:
    """The temperature of selection scores (m, classes), and what is said of them at it."""
    columns = np.searchsorted(classes, truth)
    some, rows = scores, np.arange(len(columns))
    if _is_thinned(len(columns), len(classes)) and isinstance(scores, Remade):
        some, rows = scores.thinned(_thinned(len(classes)))
    elif isinstance(scores, Remade):  # there were several candidates' to keep; one is less
        some = scores = [(slice(None), scores.kept(len(columns), len(classes)))]
    temperature = temperature_of(some, columns[rows])
    return temperature, judge(scores, columns, classes, temperature)


def _is_thinned(rows: int, classes: int) -> bool:
    """Whether there are more selection scores than can be kept, so that some of the rows fit the temperature."""
    return rows * classes > HELD


def _thinned(classes: int) -> int:
    return max(1, THINNED // classes)


def _thinned_note(rows: int, classes: int) -> str:
    return (
        f"{rows:,} samples of {classes:,} classes have too many scores to keep, so the temperature was fitted on "
        f"{min(rows, _thinned(classes)):,} of these samples"
    )


def strength_of(probe: Probe) -> float | None:
    """The strength of a probe of one label per image; None of a kind that has none."""
    assert not isinstance(probe.chosen, dict)  # as of several labels
    return probe.chosen


@guarded
def choose(right: Sequence[np.ndarray], log_loss: Sequence[float]) -> int:
    """Which of several strengths (or kinds, or backbones) is chosen, by their answers on the same selection data.

    Among those that are `tied` with the best, the lowest log-loss wins: top-1 alone lets single images decide.

    Parameters
    ----------
    right : sequence of ndarray of bool, shape (n,)
        For each candidate, whether it is right on each row.
    log_loss : sequence of float
        Log-loss of each candidate on the same rows, after its temperature.

    Returns
    -------
    int
        Its place.

    Examples
    --------
    >>> right = np.ones((3, 100), bool)
    >>> right[0, :10] = right[1, 1:10] = right[2, :50] = False
    >>> choose(right, [0.3, 0.4, 0.1])
    0
    """
    stays = tied(right)
    return min(np.flatnonzero(stays).tolist(), key=log_loss.__getitem__)


@guarded
def choose_layer(right: Sequence[np.ndarray]) -> int:
    """Which of several layers of one network is chosen, by the same probe's answers on the same selection data.

    The last one, unless it is not `tied` with the best; then of those that are, the latest. A log-loss decides nothing
    between layers: on few images it favours layers with few features.

    Parameters
    ----------
    right : sequence of ndarray of bool, shape (n,)
        For each layer, in the network's order, whether its probe is right on each row.

    Returns
    -------
    int
        Its place.

    Examples
    --------
    >>> right = np.ones((2, 100), bool)
    >>> right[1, :2] = False
    >>> choose_layer(right)
    1
    >>> right[1, :9] = False
    >>> choose_layer(right)
    0
    """
    places = range(len(right))[::-1]  # of equally good ones, the latest is what the others are compared with
    return places[int(np.flatnonzero(tied([right[place] for place in places]))[0])]


@guarded
def tied(right: Sequence[np.ndarray]) -> np.ndarray:
    """Which candidates cannot be told apart from the best on the same rows, bool (candidates,).

    Two of them differ only on the rows that one gets right and the other wrong. Where neither is better, the difference
    of these two counts has the root of their sum as its standard error. A candidate stays unless it is behind by more
    than one such standard error and one row: the correction for counts, which keeps a single row from deciding.
    Unlike the standard error of the accuracy itself this one holds near 0 and 1, and it is small where two candidates
    agree on nearly every row.

    Parameters
    ----------
    right : sequence of ndarray of bool, shape (n,)

    References
    ----------
    The one-standard-error rule of Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3, with the
    statistic of McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
    percentages", and the continuity correction of Edwards 1948.

    Examples
    --------
    >>> right = np.ones((3, 1000), bool)
    >>> right[1, 0] = right[2, :3] = False
    >>> tied(right).tolist()
    [True, True, False]
    """
    answers = np.asarray(right, float)  # (candidates, n)
    behind = answers[answers.sum(axis=1).argmax()] - answers
    return behind.sum(axis=1) - 1 <= np.sqrt((behind**2).sum(axis=1))


def _number(candidate: float | None) -> float | None:
    return None if candidate is None else float(candidate)


def _strength(kind: Kind, candidate: float | None) -> dict[str, float]:
    """A candidate by its parameter's name; nothing for a kind without one."""
    return {} if kind.parameter is None or candidate is None else {kind.parameter: float(candidate)}


def _converged(certificate: Certificate | None) -> bool:
    return certificate is None or certificate.converged


def assign_folds(y: np.ndarray, seed: int, groups: np.ndarray | None = None, count: int = FOLDS) -> np.ndarray:
    """Stratified fold of each sample, (n,); -1 (never held out) for a class's only sample, or group of them.

    No group is in two folds, whatever classes its samples have. Unlike scikit-learn's StratifiedGroupKFold this takes
    classes smaller than the number of folds, and every class stays in every training part.
    """
    generator = np.random.default_rng(seed)
    units = np.arange(len(y)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    folds = np.full(len(y), -1)  # of the units
    own = []  # units of each class
    for offset, label in enumerate(np.unique(y)):
        drawn = units[generator.permutation(np.flatnonzero(y == label))]
        mine, firsts = np.unique(drawn, return_index=True)
        order = firsts.argsort().argsort()  # of the units, as they were drawn
        new = folds[mine] < 0
        folds[mine[new]] = (order[new] + offset) % count
        own.append(mine)
    for mine in own:
        if (folds[mine] == folds[mine[0]]).all():  # held out together, they would leave no sample of their class
            folds[mine] = -1
    return folds[units]


@guarded
def fit_temperature(scores: np.ndarray, truth: np.ndarray, classes: np.ndarray) -> float:
    """The temperature of lowest log-loss, but none that makes the scores surer than n right of n allow.

    Parameters
    ----------
    scores : ndarray, shape (n, K)
        Scores of data that the classifier was not fitted on.
    truth : ndarray, shape (n,)
        Labels, all of them among `classes`.
    classes : ndarray, shape (K,)
        Sorted.

    References
    ----------
    Guo et al. 2017, "On Calibration of Modern Neural Networks"; the limit is Laplace's rule of succession, see `fit`.
    """
    return temperature_of([(slice(None), scores)], np.searchsorted(classes, truth))


def temperature_of(scores: Blocks, columns: np.ndarray) -> float:
    """As `fit_temperature`, of scores that need not all be in memory, and the columns of the true classes (n,)."""
    from scipy.optimize import brentq, minimize_scalar

    size, count = _spread(scores) or 1.0, len(columns)  # squared distances may be any

    def measure(log_temperature: float) -> tuple[np.ndarray, np.ndarray]:
        sure, picked = np.empty(count), np.empty(count)
        for at, block in scores:
            proba = softmax(block, size * np.exp(log_temperature))
            sure[at], picked[at] = proba.max(axis=1), proba[np.arange(len(proba)), columns[at]]
        return sure, picked

    def excess(log_temperature: float) -> float:
        return float(measure(log_temperature)[0].mean()) - (count + 1) / (count + 2)

    coldest, hottest = -COLDEST, COLDEST
    if excess(coldest) > 0 > excess(hottest):
        coldest = brentq(excess, coldest, hottest)
    found = minimize_scalar(lambda t: mean_loss(measure(t)[1]), bounds=(coldest, hottest), method="bounded").x
    return size * float(np.exp(found))


def _spread(scores: Blocks) -> float:
    """Deviation of scores about the mean of their row."""
    sizes, deviations = [], []
    for _, block in scores:
        sizes.append(block.size)
        deviations.append(float(np.std(block - block.mean(axis=1, keepdims=True))))
    return deviations[0] if len(sizes) == 1 else float(np.sqrt(np.average(np.square(deviations), weights=sizes)))
