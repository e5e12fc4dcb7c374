"""A scikit-learn classifier that compares by cosine; apart, since it loads scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin


class CosineClassifier(ClassifierMixin, BaseEstimator):
    """The class whose vector has the greatest cosine with the embedding.

    Parameters
    ----------
    scale : float
        What cosines are multiplied by before a softmax.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
    vectors_ : ndarray of float64, shape (K, D)
        Vectors of unit length.
    """

    classes_: np.ndarray
    vectors_: np.ndarray
    n_features_in_: int

    def __init__(self, scale: float = 100.0) -> None:
        self.scale = scale

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Scaled cosines (n, K); of two classes the difference of theirs (n,), as scikit-learn has it."""
        X = np.asarray(X, np.float64)
        norms = np.linalg.norm(X, axis=1, keepdims=True)
        scores = self.scale * (X / np.where(norms > 0, norms, 1)) @ self.vectors_.T
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Classes (n,)."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Softmax of the scaled cosines, (n, K)."""
        from scipy.special import softmax

        scores = self.decision_function(X)
        return softmax(np.stack([-scores / 2, scores / 2], 1) if scores.ndim == 1 else scores, axis=1)
