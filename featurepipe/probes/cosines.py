"""Zero-shot heads: the class whose vector has the greatest cosine with the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featurepipe import jsons
from featurepipe.errors import ProbeError
from featurepipe.probes.kinds import Head
from featurepipe.probes.kinds.kind import check_shapes

ZERO_SHOT = "zero-shot"
SLACK = 1e-3  # by which the length of a unit vector may differ from 1


@dataclass(frozen=True, kw_only=True)
class CosineHead(Head):
    """A unit vector for each class, and what cosines are multiplied by."""

    name: str = ZERO_SHOT
    tensors: tuple[str, ...] = ("head.weight", "head.scale")

    @property
    def chosen(self) -> Any:
        """Nothing."""
        return jsons.ANYTHING

    def dump(self, estimator: Any) -> tuple[np.ndarray, ...]:
        """(K, D) and (1,)."""
        return estimator.vectors_, np.array([estimator.scale])

    def restore(self, classes: np.ndarray, arrays: Sequence[np.ndarray], chosen: Any, seed: int) -> Any:
        """See `Head.restore`."""
        vectors, scale = arrays
        fits = vectors.ndim == 2 and len(vectors) == len(classes) > 1 and scale.shape == (1,)
        check_shapes(len(classes), arrays, fits)
        if (np.abs(np.linalg.norm(vectors, axis=1) - 1) > SLACK).any():
            raise ValueError("the vectors of its classes are not of unit length")
        return cosine_classifier(classes, vectors, float(scale[0]))


def cosine_classifier(classes: Sequence[Any] | np.ndarray, vectors: np.ndarray, scale: float) -> Any:
    """A classifier by cosine, as if it had been fitted.

    Parameters
    ----------
    classes : sequence of str, shape (K,)
        In any order.
    vectors : ndarray, shape (K, D)
        Vectors of unit length.
    scale : float
        What cosines are multiplied by before a softmax.

    Returns
    -------
    CosineClassifier
        Its ``classes_`` are sorted.

    Raises
    ------
    ProbeError
        Fewer than two classes, a class twice, or a scale that is not above 0 and finite.

    Examples
    --------
    >>> made = cosine_classifier(["up", "right"], np.eye(2)[::-1], 100.0)
    >>> made.classes_.tolist(), made.predict(np.array([[3.0, 1.0], [0.1, 0.2]])).tolist()
    (['right', 'up'], ['right', 'up'])
    """
    from featurepipe.probes.cosine_estimators import CosineClassifier

    named = np.asarray(classes, object)
    if len(named) < 2:
        raise ProbeError(f"a classifier needs at least two classes, not {len(named)}; name more of them")
    if len(set(named.tolist())) < len(named):
        twice = next(one for one in named.tolist() if named.tolist().count(one) > 1)
        raise ProbeError(f"class {twice!r} is there twice; name each class once")
    if not 0 < scale < np.inf:
        raise ProbeError(f"the scale of cosines must be above 0 and finite; got {scale}")
    order = np.argsort(named.astype(str), kind="stable")
    estimator = CosineClassifier(scale=scale)
    estimator.classes_ = named[order].astype(str) if all(isinstance(one, str) for one in named) else named[order]
    estimator.vectors_ = np.asarray(vectors, np.float64)[order]
    estimator.n_features_in_ = vectors.shape[1]
    return estimator
