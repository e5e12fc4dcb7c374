"""Probes: small classifiers on frozen embeddings, and the figures that say how good they are.

=========  ==========================================  =====================================================
kind       scikit-learn's                              strength
=========  ==========================================  =====================================================
logistic   LogisticRegression, L2                      C
ridge      RidgeClassifier                             alpha
svm        LinearSVC, squared hinge                    C
lda        LinearDiscriminantAnalysis, solver lsqr     shrinkage
centroid   NearestCentroid, Euclidean, raw features    none
knn        KNeighborsClassifier, cosine, raw features  n_neighbors, whose votes weigh exp(similarity / 0.07)
mlp        MLPClassifier, one hidden layer of 128      alpha
attentive  none: attention over tokens, then linear    alpha, the weight decay
=========  ==========================================  =====================================================

``approximate-knn`` is knn whose neighbours are searched with `featurepipe.statistics.ApproximateIndex`, for a million
rows and more; a model file of it compares all rows again.

Features are standardised where nothing else is said: each by its own deviation over the rows of the fit, but by no less
than a fifth of the common one, or, of fewer than ten rows, all by their root mean square
(`featurepipe.statistics.feature_scales`). The strength is chosen on validation data only, the
chosen model is fitted again on all training and validation data, and the standardisation is folded into its
coefficients: what comes out is a plain scikit-learn estimator that takes raw embeddings. Its probabilities are
calibrated by one temperature, on the selection scores.

Where images have any number of labels, `fit_labels` fits a logistic regression for each, with a C of its own:
scikit-learn's OneVsRestClassifier.
"""

from collections import ChainMap
from collections.abc import Mapping
from typing import cast

from featurepipe.probes.cosines import ZERO_SHOT, CosineHead, cosine_classifier
from featurepipe.probes.folds import Folded, check_folds, cross_validate, folded_groups
from featurepipe.probes.indicators import average_precision, chance, indicator, label_figures, labels_of
from featurepipe.probes.kinds import (
    ALPHA_GRID,
    C_GRID,
    CLASS_WEIGHTS,
    FOLDS,
    KINDS,
    Head,
    Kind,
    candidates_of,
    check_blocks,
    check_kind,
    check_weighing,
    names,
)
from featurepipe.probes.labels import MULTI_LABEL, ONE, LabelsHead, fit_labels, labels_classifier, listed
from featurepipe.probes.metrics import (
    ECE_BINS,
    check_known,
    commonest,
    decision_scores,
    evaluate,
    is_multi_label,
    majority,
    predict,
    probabilities,
)
from featurepipe.probes.patches import SEGMENTATION, PatchClassifier, PatchHead
from featurepipe.probes.selection import (
    OutOfFold,
    Probe,
    choose,
    choose_layer,
    fit,
    fit_temperature,
    out_of_fold,
    strength_of,
    tied,
)
from featurepipe.probes.shots import check_enough, check_few, fit_few_shot, mean_interval
from featurepipe.probes.text_starts import TextStart

__all__ = [
    "ALPHA_GRID",
    "CLASS_WEIGHTS",
    "C_GRID",
    "ECE_BINS",
    "FOLDS",
    "HEADS",
    "KINDS",
    "MULTI_LABEL",
    "ONE",
    "SEGMENTATION",
    "ZERO_SHOT",
    "Folded",
    "Kind",
    "OutOfFold",
    "PatchClassifier",
    "Probe",
    "TextStart",
    "average_precision",
    "candidates_of",
    "chance",
    "check_blocks",
    "check_enough",
    "check_few",
    "check_folds",
    "check_kind",
    "check_known",
    "check_weighing",
    "choose",
    "choose_layer",
    "commonest",
    "cosine_classifier",
    "cross_validate",
    "decision_scores",
    "evaluate",
    "fit",
    "fit_few_shot",
    "fit_labels",
    "fit_temperature",
    "folded_groups",
    "indicator",
    "is_multi_label",
    "label_figures",
    "labels_classifier",
    "labels_of",
    "listed",
    "majority",
    "mean_interval",
    "names",
    "out_of_fold",
    "predict",
    "probabilities",
    "strength_of",
    "tied",
]

# Whatever a model file can hold; a kind that is added to KINDS later is one of them.
HEADS: Mapping[str, Head] = ChainMap(
    cast("dict[str, Head]", KINDS),
    {MULTI_LABEL: LabelsHead(), SEGMENTATION: PatchHead(), ZERO_SHOT: CosineHead()},
)
