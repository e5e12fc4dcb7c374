"""Running a protocol on embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featurepipe import probes
from featurepipe.errors import ProbeError
from featurepipe.probes.inputs import check, check_groups
from featurepipe.probes.kinds import threads
from featurepipe.protocols import logistic, margins, neighbours
from featurepipe.protocols.definitions import PROTOCOLS, Protocol
from featurepipe.protocols.outcomes import Result


def named(name: str) -> Protocol:
    """The protocol of that name.

    Raises
    ------
    ProbeError
        There is none.
    """
    if name not in PROTOCOLS:
        raise ProbeError(f"protocol {name!r} is unknown; use one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def run(
    protocol: Protocol,
    X: np.ndarray,
    y: np.ndarray,
    X_val: np.ndarray | None = None,
    y_val: np.ndarray | None = None,
    *,
    metric: str | None = None,
    groups: Sequence[object] | None = None,
    seed: int = 0,
) -> Result:
    """Choose and fit a classifier as a protocol says.

    Parameters
    ----------
    protocol : Protocol
        A protocol without shots.
    X : ndarray of float, shape (n, width)
        Raw embeddings; the protocol's normalisation is folded into the estimator or done by it.
    y : ndarray, shape (n,)
        At least two classes.
    X_val, y_val : ndarray, optional
        Selection data. Without them the protocol selects inside X.
    metric : {'top1', 'balanced_accuracy', 'map'}, optional
        One of the protocol's metrics; by default its first.
    groups : sequence, shape (n,), or (n + m,) with m rows of X_val, optional
        Rows of the same class and group are exact copies of an image. Wherever the protocol holds out rows, folds them
        or leaves them out, these go together.
    seed : int
        Seed for rows held out, folds and the solver.

    Returns
    -------
    Result

    Raises
    ------
    ProbeError
        The protocol is few-shot, the metric is not the protocol's, there is a single class, a class is in y_val only,
        values are not finite, or there are too few rows to select on.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["ant", "bee"], 30)
    >>> X = rng.normal(size=(60, 4)) + (y == "bee")[:, None]
    >>> outcome = run(named("dinov2-logreg"), X, y)
    >>> len(outcome.path), outcome.selected_on, outcome.estimator.predict(X[:2]).tolist()
    (45, '6 of 60 training rows held out', ['ant', 'ant'])
    """
    if protocol.shots:
        raise ProbeError(f"protocol {protocol.name} fits few shots, draw by draw; use run_shots")
    metric = choose_metric(protocol, metric)
    X, y, X_val, y_val = check(X, y, X_val, y_val)
    X, X_val = X.astype(np.float64), None if X_val is None else X_val.astype(np.float64)
    check_groups(groups, len(X) + (0 if X_val is None else len(X_val)))
    runner = _default if protocol.name == "featurepipe" else _RUNNERS[protocol.method]
    with threads(X):
        return runner(protocol, X, y, X_val, y_val, metric=metric, groups=groups, seed=seed)


def choose_metric(protocol: Protocol, metric: str | None) -> str:
    """The protocol's first metric, or the one that is asked for.

    Raises
    ------
    ProbeError
        It is not one of the protocol's.
    """
    if metric is None:
        return protocol.metric
    if metric not in protocol.metrics:
        raise ProbeError(f"protocol {protocol.name} has no metric {metric!r}; use {' or '.join(protocol.metrics)}")
    return metric


def _default(
    protocol: Protocol,
    X: np.ndarray,
    y: np.ndarray,
    X_val: np.ndarray | None,
    y_val: np.ndarray | None,
    *,
    metric: str,
    groups: Sequence[object] | None,
    seed: int,
) -> Result:
    """What `probes.fit` does without a protocol, which is one of its own."""
    alike = None if groups is None else np.asarray(groups)[: len(X)]
    probe = probes.fit("logistic", X, y, X_val, y_val, groups=alike, seed=seed)
    assert probe.chosen is not None  # a C
    assert not isinstance(probe.certificate, dict)  # of one classifier
    return Result(
        protocol=protocol,
        metric=metric,
        estimator=probe.estimator,
        chosen=probe.chosen,
        selected_on=probe.selected_on,
        path=probe.path,
        scores=probe.scores,
        certificate=probe.certificate,
        notes=probe.notes,
        temperature=probe.temperature,
    )


_RUNNERS = {"logistic": logistic.run, "knn": neighbours.run, "svm": margins.run}
