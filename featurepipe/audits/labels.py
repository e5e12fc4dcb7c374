"""Check: labels that are likely wrong, by confident learning.

A logistic probe is fitted five times, and each sample gets the probabilities of the one that has not learned from it,
nor from its group. A class's threshold is the mean probability of the class among the samples labelled with it. A
sample is confidently of the likeliest class whose threshold it reaches. If that is not its label, the label is
suspicious: these samples are off the diagonal of what the article calls the confident joint. They are ranked by the
margin between the two probabilities. No number of errors has to be guessed.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from featurepipe.audits.evidence import Evidence
from featurepipe.audits.findings import Finding


def suspicious_labels(evidence: Evidence) -> Iterator[Finding]:
    """Samples that a probe confidently takes for another class than they are labelled with."""
    answers = evidence.answers
    guesses = confident_classes(answers.probabilities, answers.codes)
    for n in np.flatnonzero((guesses >= 0) & (guesses != answers.codes)):
        row = int(evidence.labelled[answers.rows[n]])
        own, other = answers.probabilities[n, answers.codes[n]], answers.probabilities[n, guesses[n]]
        label = str(answers.classes[guesses[n]])
        yield Finding(
            "suspicious labels",
            float((1 + other - own) / 2),
            (row,),
            f"looks like {label} ({100 * other:.0f} %), not {evidence.samples.y[row]} ({100 * own:.0f} %)",
            label,
        )


def confident_classes(probabilities: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The class that each sample is confidently of, as its column, or -1.

    Parameters
    ----------
    probabilities : ndarray, shape (n, K)
        Out of fold.
    codes : ndarray of int, shape (n,)
        Columns of the labels.

    Examples
    --------
    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.95, 0.05]])
    >>> confident_classes(probabilities, np.array([0, 0, 1, 1, 1])).tolist()
    [0, -1, 1, 1, 0]
    """
    known, at = np.unique(codes, return_inverse=True)
    own = np.bincount(at, probabilities[np.arange(len(codes)), codes]) / np.bincount(at)
    thresholds = np.full(probabilities.shape[1], np.inf)  # of a class that is never held out nobody is confident
    thresholds[known] = own
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    return np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), -1)
