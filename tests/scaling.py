"""Standardisation as featurepipe means it, written once more and another way, for tests to compare with."""

import numpy as np
from sklearn.preprocessing import StandardScaler

FLOOR = 1 / 5  # of the common deviation
FEW = 10  # rows, below which all features are divided by the common deviation
DIGITS = 1e-6  # of a mean: what deviates by less is constant in float32


def divisors(X, weights=None):
    """What each feature of X (n, D) is divided by, (D,); infinity where it is constant."""
    X, weights = np.asarray(X, float), np.ones(len(X)) if weights is None else weights
    mean = weights @ X / weights.sum()
    deviations = np.sqrt(weights @ (X - mean) ** 2 / weights.sum())
    varies = deviations > DIGITS * np.abs(mean)
    scales = np.full(X.shape[1], np.inf)
    if not varies.any():
        return scales
    own = deviations[varies]
    if len(X) < FEW:
        scales[varies] = np.sqrt((own @ own) / len(own))
        return scales
    most = np.sort(own)[int(0.95 * (len(own) - 1))]
    clipped = np.where(own > most, most, own)
    least = FLOOR * np.sqrt((clipped @ clipped) / len(own))
    scales[varies] = np.where(own < least, least, own)
    return scales


class FlooredScaler(StandardScaler):
    """scikit-learn's scaler, but with the `divisors` above: a floor, and one scale of few rows."""

    def fit(self, X, y=None, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.scale_ = divisors(X, sample_weight)
        return self
