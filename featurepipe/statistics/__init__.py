"""Sufficient statistics: one pass over the features, and many classifiers and scores from it alone.

`gather` reads any number of rows once and keeps, per fold and class, what memory of O(width²) holds: how many rows,
the sum of their features, and X'X. With targets of one column per class, 1 for its rows and 0 for the others, X'Y is
nothing but the class sums and Y'Y nothing but the counts, so these statistics are sufficient for every method that is
quadratic in the features: ridge regression for every alpha and every fold (`ridge_path`, `cross_validate_ridge`),
linear discriminant analysis for every shrinkage (`lda_path`, `to_lda`), the nearest class mean and standardisation
(`to_centroids`, `to_scaler`), and the scores of transferability H-score and LogME (`h_score`, `logme`). What is fitted
is a scikit-learn estimator, equal to scikit-learn's own fit on the same rows in float64. A class without rows is left
out, as scikit-learn would not know it. Of fewer rows than features the rows themselves are smaller than X'X:
`gather_rows` keeps those, and all that is made of statistics can be made of them.

What cannot come from here: logistic regression and SVMs, which are not quadratic; Ledoit and Wolf's choice of a
shrinkage (``shrinkage="auto"``), which needs fourth moments; medians and neighbours.

Examples
--------
>>> from featurepipe import statistics
>>> rng = np.random.default_rng(0)
>>> y = np.repeat(["ant", "bee", "cow"], 50)
>>> X = rng.normal(size=(150, 8)) + 2 * (y == "bee")[:, None]
>>> found = statistics.gather([(X[:70], y[:70]), (X[70:], y[70:])], ["ant", "bee", "cow"])
>>> found.rows, found.width
(150, 8)
>>> statistics.to_lda(found).predict(X[:1])
array(['ant'], dtype='<U3')
"""

from featurepipe.statistics.approximations import ApproximateIndex, Recall, check_faiss
from featurepipe.statistics.discriminants import centroid_classifier, lda_path, to_centroids, to_lda, to_scaler
from featurepipe.statistics.indexes import Index
from featurepipe.statistics.intervals import bootstrap, interval_of, wilson
from featurepipe.statistics.neighbours import Nearest, directions, nearest, search
from featurepipe.statistics.projections import Plane, tsne
from featurepipe.statistics.ridges import ridge_classifier, ridge_path
from featurepipe.statistics.rows import RowStatistics, gather_rows
from featurepipe.statistics.scales import ROUNDING, feature_scales, is_constant
from featurepipe.statistics.scores import h_score, logme
from featurepipe.statistics.sums import Chunk, Statistics, gather, row_eigenpairs
from featurepipe.statistics.thresholds import Kept, coverage, threshold
from featurepipe.statistics.validation import RidgeScores, cross_validate_ridge

__all__ = [
    "ROUNDING",
    "ApproximateIndex",
    "Chunk",
    "Index",
    "Kept",
    "Nearest",
    "Plane",
    "Recall",
    "RidgeScores",
    "RowStatistics",
    "Statistics",
    "bootstrap",
    "centroid_classifier",
    "check_faiss",
    "coverage",
    "cross_validate_ridge",
    "directions",
    "feature_scales",
    "gather",
    "gather_rows",
    "h_score",
    "interval_of",
    "is_constant",
    "lda_path",
    "logme",
    "nearest",
    "ridge_classifier",
    "ridge_path",
    "row_eigenpairs",
    "search",
    "threshold",
    "to_centroids",
    "to_lda",
    "to_scaler",
    "tsne",
    "wilson",
]
