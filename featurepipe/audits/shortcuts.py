"""Check: what predicts the label although it should not, such as a watermark or the size of the file.

Each cue is a few numbers of an image that do not show what is in it. A logistic probe of fixed strength learns the
labels from them alone, and is measured out of fold. A cue is reported in one of two cases.

- It is good at all: the lower 99.9 % bound of its accuracy is at least half of the way from always answering with the
  commonest class to the accuracy of the real probe.
- It gives one class away, as a watermark does: precision and recall are 0.6 or more (their lower 99.9 % bounds 0.5),
  and F1 leaves no more than a third as much to 1 as the median of the other classes.

Colours tell flowers apart, too. A cue that is good everywhere by a little is no finding.

Torralba and Efros 2011, "Unbiased Look at Dataset Bias"; Geirhos et al. 2020, "Shortcut Learning in Deep Neural
Networks"; Lapuschkin et al. 2019, "Unmasking Clever Hans Predictors and Assessing What Machines Really Learn" (of a
watermark on one class).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from featurepipe.audits.evidence import KIND, Evidence
from featurepipe.audits.findings import Finding, Unknown
from featurepipe.probes import OutOfFold, majority, out_of_fold
from featurepipe.statistics.intervals import wilson

STRENGTH = 0.01  # C of the probe: nothing is chosen, so that the bounds hold
SURE = 3.290527  # standard errors: 99.9 %, two-sided
HALF = 0.5
GIVEN_AWAY = 0.6  # precision and recall of a class that a cue gives away
THIRD = 1 / 3  # of what the cue misses of the other classes
BINS = 16  # quantiles that a number is cut at
FRAME = 2  # pixels of the border, of 16
WORDS = 256  # in file names
SHOWN = 9  # examples of a class


@dataclass(frozen=True)
class Cue:
    """Numbers that should not tell the class.

    Attributes
    ----------
    name : str
        What it is, in words.
    measure : callable
        Gives the numbers of places in `Evidence.contents`: (m, D).
    """

    name: str
    measure: Callable[[Evidence, np.ndarray], np.ndarray]


def shortcuts(evidence: Evidence) -> Iterator[Finding]:
    """Cues that predict the label without looking at what an image shows."""
    places = np.flatnonzero(np.isin(evidence.contents, evidence.labelled))
    rows = evidence.contents[places]
    labels, units = evidence.samples.y[rows].astype(str), evidence.samples.units[rows]
    if np.unique(labels, return_counts=True)[1].min() < 2:
        raise Unknown("a class has only one image, so no cue can be measured")
    for cue in CUES:
        X = cue.measure(evidence, places)
        X = X[:, X.std(axis=0) > 0]
        if X.shape[1]:
            found = out_of_fold(KIND, X, labels, groups=units, values=[STRENGTH], seed=evidence.seed)
            yield from _good(evidence, cue, found, labels)
            yield from _given_away(cue, found, rows)


def _good(evidence: Evidence, cue: Cue, found: OutOfFold, labels: np.ndarray) -> Iterator[Finding]:
    """Whether a cue is good at all."""
    right, base, real = found.right, majority(labels, labels), float(evidence.answers.right.mean())
    low, _ = wilson(right.mean(), len(right), SURE)
    if real > base and low - base >= HALF * (real - base):
        yield Finding(
            "shortcuts",
            min(1.0, float((right.mean() - base) / (real - base))),
            (),
            f"{cue.name} alone predicts {100 * right.mean():.1f} % of the labels; always answering with the commonest "
            f"is right on {100 * base:.1f} %, the real probe on {100 * real:.1f} %",
        )


def _given_away(cue: Cue, found: OutOfFold, rows: np.ndarray) -> Iterator[Finding]:
    """Classes that a cue gives away."""
    guesses, count = found.probabilities.argmax(axis=1), len(found.classes)
    hits = np.bincount(found.codes[guesses == found.codes], minlength=count)
    said, true = np.bincount(guesses, minlength=count), np.bincount(found.codes, minlength=count)
    f1 = 2 * hits / np.maximum(said + true, 1)
    for number in np.flatnonzero(f1 > GIVEN_AWAY).tolist():
        shares = hits[number] / said[number], hits[number] / true[number]
        lows = wilson(shares[0], said[number], SURE)[0], wilson(shares[1], true[number], SURE)[0]
        if min(shares) >= GIVEN_AWAY and min(lows) >= HALF and _stands_out(f1, number):
            mine = rows[found.rows[(found.codes == number) & (guesses == number)]]
            yield Finding(
                "shortcuts",
                float(f1[number]),
                tuple(mine[:SHOWN].tolist()),
                f"{cue.name} alone gives {found.classes[number]} away: it finds {100 * shares[1]:.0f} % of its images, "
                f"and is right {100 * shares[0]:.0f} % of the time; of other classes it finds "
                f"{100 * np.median(np.delete(hits / np.maximum(true, 1), number)):.0f} % (median)",
            )


def _stands_out(f1: np.ndarray, place: int) -> bool:
    """Whether a cue misses much less of one class than of the others."""
    return len(f1) > 2 and bool(1 - f1[place] <= THIRD * (1 - np.median(np.delete(f1, place))))


# -- cues -----------------------------------------------------------------------------------------------------------


def _border(evidence: Evidence, places: np.ndarray) -> np.ndarray:
    small = evidence.pictures.small[places]
    halves = small.reshape(len(small), 16, 2, 16, 2, 3).mean(axis=(2, 4), dtype=np.float32)
    frame = np.ones((16, 16), bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    return halves[:, frame].reshape(len(small), -1)


def _thumbnail(evidence: Evidence, places: np.ndarray) -> np.ndarray:
    small = evidence.pictures.small[places]
    return small.reshape(len(small), 4, 8, 4, 8, 3).mean(axis=(2, 4), dtype=np.float32).reshape(len(small), -1)


def _file_size(evidence: Evidence, places: np.ndarray) -> np.ndarray:
    return binned(evidence.pictures.nbytes[places])


def _resolution(evidence: Evidence, places: np.ndarray) -> np.ndarray:
    width, height = evidence.pictures.sizes[places].T
    return np.hstack([binned(width), binned(height), binned(width / height)])


def _file_name(evidence: Evidence, places: np.ndarray) -> np.ndarray:
    """Which words names have, without numbers and without those of labels, which tell no pixels."""
    rows = evidence.contents[places]
    spoken = {word for label in set(evidence.samples.y[rows]) for word in words(label)}
    names = [set(words(PurePosixPath(evidence.samples.ids[row]).name)) - spoken for row in rows]
    known = [word for word, _ in Counter(word for name in names for word in name).most_common(WORDS)]
    return np.array([[word in name for word in known] for name in names], np.float32).reshape(len(names), len(known))


def binned(values: np.ndarray) -> np.ndarray:
    """Which of 16 quantiles each value is in, as columns of 0 and 1; fewer, where many values are equal.

    Examples
    --------
    >>> binned(np.array([7, 7, 7, 9])).tolist()
    [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    found = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    codes = np.unique(np.searchsorted(found, values), return_inverse=True)[1]
    return np.eye(codes.max() + 1, dtype=np.float32)[codes]


def words(name: str) -> list[str]:
    """Runs of letters in a name, in lower case.

    Examples
    --------
    >>> words("IMG_0241-Kopie.jpg")
    ['img', 'kopie', 'jpg']
    """
    return [word.lower() for word in re.findall(r"[^\W\d_]+", name)]


CUES = [
    Cue("the border", _border),
    Cue("a thumbnail of 4×4 pixels", _thumbnail),
    Cue("the size of the file", _file_size),
    Cue("the resolution", _resolution),
    Cue("the name of the file", _file_name),
]
