"""Probes: linear classifiers on frozen embeddings, and the figures that say how good they are.

Two kinds: ``logistic`` (scikit-learn's LogisticRegression, L2) and ``ridge`` (RidgeClassifier). Features are
standardised, the strength of regularisation is chosen on validation data only, the chosen model is fitted again on
all training and validation data, and the standardisation is folded into its coefficients: what comes out is a
plain scikit-learn estimator that takes raw embeddings.
"""

from featurepipe.probes.metrics import (
    ECE_BINS,
    check_known,
    decision_scores,
    evaluate,
    majority,
    probabilities,
)
from featurepipe.probes.selection import ALPHA_GRID, C_GRID, FOLDS, KINDS, Probe, fit, fit_few_shot

__all__ = [
    "ALPHA_GRID",
    "C_GRID",
    "ECE_BINS",
    "FOLDS",
    "KINDS",
    "Probe",
    "check_known",
    "decision_scores",
    "evaluate",
    "fit",
    "fit_few_shot",
    "majority",
    "probabilities",
]
