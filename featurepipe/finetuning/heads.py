"""The head that tuning starts from: a probe's, so that the first logits are the probe's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featurepipe import probes
from featurepipe.errors import FinetuningError
from featurepipe.finetuning.recipes import RANDOM, Recipe

LINEAR = probes.names("is_linear")
UNSEEN = 10.0  # by which a class that the probe has never seen starts below the mean of the logits of those it has


@dataclass(frozen=True)
class Head:
    """A linear layer that tuning starts from.

    Attributes
    ----------
    weight, bias : ndarray of float32, shape (K, D) and (K,)
    classes : ndarray, shape (K,)
        What the outputs mean, sorted.
    strength : float
        The C of the logistic regression that it is the head of.
    """

    weight: np.ndarray
    bias: np.ndarray
    classes: np.ndarray
    strength: float

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class of each of some embeddings X (n, D)."""
        return probes.predict(head_estimator(self.weight, self.bias, self.classes, self.strength), X)


def linear_head(
    kind: str, estimator: Any, temperature: float = 1.0, classes: Sequence[Any] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A probe as a linear layer whose logits, after a softmax, are the probe's probabilities.

    The standardisation is folded into a probe's coefficients already, and its temperature is folded in here. The one
    score of two classes is split in half: softmax(-s/2, s/2) is the sigmoid of s.

    Parameters
    ----------
    kind : {'logistic', 'ridge', 'svm', 'lda'}
    estimator : scikit-learn classifier
        With ``coef_, intercept_, classes_``.
    temperature : float
        See `featurepipe.probes.Probe`.
    classes : sequence, optional
        What the outputs mean, as text; by default the estimator's own. A class that it has not seen has the mean
        of the others' logits less ten: whatever the embedding, it is not the first.

    Returns
    -------
    weight : ndarray of float32, shape (K, D)
    bias : ndarray of float32, shape (K,)

    Raises
    ------
    FinetuningError
        A kind that is not linear, or classes of the estimator's that `classes` lacks.

    References
    ----------
    Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution".

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = np.array([[0.0], [1], [2], [3]]), ["a", "a", "b", "b"]
    >>> weight, bias = linear_head("logistic", LogisticRegression().fit(X, y))
    >>> weight.shape, bias.shape
    ((2, 1), (2,))
    """
    if kind not in LINEAR:
        raise FinetuningError(f"a probe of kind {kind} has no linear head to tune; use one of {', '.join(LINEAR)}")
    coef, intercept = np.atleast_2d(estimator.coef_) / temperature, np.atleast_1d(estimator.intercept_) / temperature
    if len(estimator.classes_) == 2:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    own = [str(one) for one in estimator.classes_.tolist()]
    wanted = own if classes is None else [str(one) for one in classes]
    if missing := set(own) - set(wanted):
        raise FinetuningError(f"the probe's class {min(missing)!r} is missing from the classes to tune for; add it")
    weight = np.tile(coef.mean(axis=0), (len(wanted), 1))  # (K, D)
    bias = np.full(len(wanted), intercept.mean() - UNSEEN)  # (K,)
    places = [wanted.index(one) for one in own]
    weight[places], bias[places] = coef, intercept
    return weight.astype(np.float32), bias.astype(np.float32)


def gentle_strength(probe: probes.Probe) -> float | None:
    """The strength of the probe that tuning starts from: of a logistic one, the most regularised that is good enough.

    That is the smallest C of those that cannot be told apart from the best on the selection data
    (`featurepipe.probes.tied`). Where images are few, a probe of larger C may predict as well, but its weights lean on
    what single images have by chance, and a network that is tuned below them learns to do so too. Other kinds keep
    their own strength, and so does a probe whose path does not say what is tied (model files of version 0.1.0), or is
    that of another kind (files of networks that were tuned from a ridge classifier, say).

    Examples
    --------
    >>> path = [{"C": 0.01, "tied": True}, {"C": 0.1, "tied": True}, {"C": 1.0, "tied": False}]
    >>> gentle_strength(probes.Probe("logistic", None, 1.0, 0.1, "val", path))
    0.01
    """
    if not probes.KINDS[probe.kind].is_cross_entropy:
        return probes.strength_of(probe)
    return min([_strength(probe), *(step["C"] for step in probe.path if step.get("tied") and "C" in step)])


def head_of(probe: probes.Probe, classes: np.ndarray) -> Head:
    """A fitted linear probe as a head, see `linear_head`; `classes` are sorted, and may be more than it has seen."""
    weight, bias = linear_head(probe.kind, probe.estimator, probe.temperature, classes)
    strength = _strength(probe) if probes.KINDS[probe.kind].is_cross_entropy else 1.0  # others have no such C
    return Head(weight, bias, np.asarray(classes), strength)


def _strength(probe: probes.Probe) -> float:
    strength = probes.strength_of(probe)
    assert strength is not None  # a logistic probe has a C
    return strength


def calibrated_figures(head: Head, X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Figures of a head on embeddings X (n, D), at the temperature that suits these rows, as every epoch has them."""
    estimator = head_estimator(head.weight, head.bias, head.classes, head.strength)
    temperature = probes.fit_temperature(probes.decision_scores(estimator, X), y, head.classes)
    return probes.evaluate(estimator, X, y, temperature)


def starting_head(
    fit: Callable[[float | None], probes.Probe],
    chosen: float | None,
    gentle: float | None,
    classes: np.ndarray,
    X: np.ndarray,
    y: np.ndarray,
    recipe: Recipe,
) -> tuple[Head, Head, dict[str, Any], dict[str, Any]]:
    """What tuning starts from, and what it has to beat.

    Parameters
    ----------
    fit : callable
        Strength → a probe fitted without the validation rows.
    chosen, gentle : float
        The strength of the probe that tuning has to beat, and of the one that it starts from.
    classes : ndarray, shape (K,)
        Sorted.
    X, y : ndarray, shape (n, D) and (n,)
        Embeddings and labels of the validation rows.
    recipe : Recipe
        Whose head may be a random one instead.

    Returns
    -------
    head : Head
    rival : Head
        The probe that tuning has to beat.
    to_beat, first : dict
        `calibrated_figures` on the validation rows, of both probes in the order of their strengths above.
    """
    heads = {strength: head_of(fit(strength), classes) for strength in dict.fromkeys((chosen, gentle))}
    figures = {strength: calibrated_figures(one, X, y) for strength, one in heads.items()}
    head = heads[gentle]
    if recipe.head == RANDOM:
        weight, bias = random_head(len(head.weight), head.weight.shape[1], recipe.seed)
        head = replace(head, weight=weight, bias=bias)
    return head, heads[chosen], figures[chosen], figures[gentle]


def random_head(classes: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A small random linear layer, (K, D) and (K,): what plain fine-tuning starts from."""
    rng = np.random.default_rng([seed, classes, width])
    return rng.normal(0, 0.01, (classes, width)).astype(np.float32), np.zeros(classes, np.float32)


def head_estimator(weight: np.ndarray, bias: np.ndarray, classes: np.ndarray, strength: float) -> Any:
    """A linear layer, (K, D) and (K,), as scikit-learn's LogisticRegression of the same probabilities."""
    from sklearn.linear_model import LogisticRegression

    weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    if len(classes) == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    estimator = LogisticRegression(C=strength)
    estimator.classes_, estimator.coef_, estimator.intercept_ = np.asarray(classes), weight, bias
    estimator.n_features_in_ = weight.shape[1]
    return estimator
