"""What a protocol leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from featurepipe.protocols.definitions import Protocol
from featurepipe.solvers import Certificate


@dataclass(frozen=True)
class Result:
    """A protocol's classifier, and how it came about.

    Attributes
    ----------
    protocol : Protocol
    metric : str
        By which it was selected.
    estimator : estimator
        For raw embeddings; its ``predict`` gives labels.
    chosen : float or dict
        The chosen candidate; of one classifier per class, class → candidate.
    selected_on : str
    path : list of dict
        Per fitted candidate, ascending: the parameter, its figures on the selection rows, and ``converged`` where that
        can be known.
    scores : dict
        The chosen candidate's figures on the selection rows, before the final fit; empty where each class chose.
    certificate : Certificate or None
        Certificate of the final logistic fit.
    notes : list of str
        What went otherwise than hoped for.
    temperature : float
        Scores are divided by it before the softmax; 1 except of our own protocol, as the published ones have none.
    """

    protocol: Protocol
    metric: str
    estimator: Any
    chosen: float | dict[str, float]
    selected_on: str
    path: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    certificate: Certificate | None = None
    notes: list[str] = field(default_factory=list)
    temperature: float = 1.0
