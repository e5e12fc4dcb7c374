"""Comparing classifiers on the same images: paired significance, corrected for many comparisons; rank correlation.

Also the words in which the result of `featurepipe.stages.compare` is told.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featurepipe.errors import ComparisonError

SIGNIFICANT = 0.05
BEYOND_CHANCE = 0.00135  # three standard errors of a normal distribution, one-sided
SIGNS = 9999  # draws of a permutation test
LEAST_RANKED = 3  # two values always correlate perfectly


def mcnemar(right: np.ndarray, other: np.ndarray) -> float:
    """McNemar's exact test: p value, two-sided, of two classifiers being equally good.

    Only images on which just one of them is right count; under the hypothesis either is it with probability one half,
    so that this is the exact binomial test, and equally the exact permutation test of the difference in accuracy.

    Parameters
    ----------
    right, other : ndarray of bool, shape (n,)
        Whether each of the two is right, image by image.

    References
    ----------
    McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages".

    Examples
    --------
    >>> a = np.array([True] * 9 + [False])
    >>> round(mcnemar(a, ~a), 4)
    0.0215
    """
    from scipy.stats import binomtest

    alone, against = int((right & ~other).sum()), int((other & ~right).sum())
    return float(binomtest(alone, alone + against).pvalue) if alone + against else 1.0


def permutation(right: np.ndarray, other: np.ndarray, groups: Sequence[object] | np.ndarray, *, seed: int = 0) -> float:
    """Permutation test for images in groups: p value, two-sided, of two classifiers being equally good.

    Under the hypothesis the difference of each group is as likely to have the other sign. Images of one group are right
    or wrong together, so that `mcnemar`, which counts each for itself, would find differences where there are none.

    Parameters
    ----------
    right, other : ndarray of bool, shape (n,)
        Whether each of the two is right, image by image.
    groups : sequence, shape (n,)
    seed : int
        Seed of the signs: 9,999 draws.

    References
    ----------
    Fisher 1935, "The Design of Experiments", section 21; Phipson and Smyth 2010, "Permutation P-values Should Never Be
    Zero".

    Examples
    --------
    >>> ahead = np.array([True] * 20)
    >>> permutation(ahead, ~ahead, [1] * 20)  # one group, one coin
    1.0
    """
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    differences = np.bincount(codes, right.astype(float) - other)
    differences = differences[differences != 0]
    rng, seen = np.random.default_rng(seed), abs(differences.sum()) - 1e-9
    draws = (abs((rng.choice((-1.0, 1.0), len(differences)) * differences).sum()) >= seen for _ in range(SIGNS))
    return float((1 + sum(draws)) / (1 + SIGNS))


def fisher(right: int, n: int, other: int, m: int) -> float:
    """Fisher's exact test: p value, one-sided, of `right` of n images being no better than `other` of m other images.

    It is the exact form of the pooled test of two proportions, which small numbers mislead.

    References
    ----------
    Fisher 1922, "On the interpretation of χ² from contingency tables, and the calculation of P".

    Examples
    --------
    >>> round(fisher(9, 10, 4, 10), 4)  # 27417 of 524875 ways
    0.0286
    """
    from scipy.stats import hypergeom

    return float(hypergeom.sf(right - 1, n + m, right + other, n))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for as many comparisons, by Holm's step-down method: the family-wise error stays bounded.

    References
    ----------
    Holm 1979, "A simple sequentially rejective multiple test procedure".

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    count = len(p_values)
    corrected, before = [0.0] * count, 0.0
    for rank, i in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        before = max(before, min(1.0, (count - rank) * p_values[i]))
        corrected[i] = before
    return corrected


def rank_correlations(x: Sequence[float], y: Sequence[float]) -> tuple[float, float] | None:
    """Spearman's rho and Kendall's tau-b; None for fewer than three values, or where one side does not vary.

    Examples
    --------
    >>> rank_correlations([1, 2, 3], [10, 20, 30])
    (1.0, 1.0)
    """
    from scipy.stats import kendalltau, spearmanr

    if len(x) < LEAST_RANKED or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return round(float(spearmanr(x, y).statistic), 12), round(float(kendalltau(x, y).statistic), 12)


def read_imagenet(path: str | Path) -> dict[str, float]:
    """ImageNet top-1 as fractions, by timm name, from a table with the columns ``model`` and ``top1`` (percent).

    timm publishes such tables: ``results/results-imagenet.csv`` in its repository.

    Raises
    ------
    ComparisonError
        It is missing or not such a table, or a figure is not a percentage.
    """
    found: dict[str, float] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"model", "top1"} <= {*(reader.fieldnames or ())}:
                raise ComparisonError(f"{path} lacks the columns model and top1; give timm's results-imagenet.csv")
            for row in reader:
                found[str(row["model"])] = _fraction(row["top1"], f"{path}, line {reader.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ComparisonError(f"{path} cannot be read as a table: {getattr(error, 'strerror', '') or error}") from error
    return found


def p_text(p: float | None) -> str:
    """A p value with as many digits as mean something."""
    return "–" if p is None else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def verdict(result: Mapping[str, Any]) -> str:
    """In words: how the reference was chosen, and how many rows differ from it; '' without a reference."""
    if result["reference"] is None:
        return ""
    others = [row for row in result["rows"] if row["p_holm"] is not None]
    sure = [row["difference"] for row in others if row["p_holm"] < SIGNIFICANT]
    worse, better = sum(d < 0 for d in sure), sum(d > 0 for d in sure)
    on = next(row["selected_on"] for row in result["rows"] if is_reference(result, row))
    chosen = "was given" if result["reference"]["given"] else f"was chosen on selection data ({on})"
    same = len(others) - worse - better
    test = "permutation test over groups" if any("groups" in row for row in result["rows"]) else "exact McNemar"
    return (
        f"The reference ({named(result['reference'])}) {chosen}. Other rows on {result['evaluated_on']}: {worse} "
        f"significantly worse, {better} significantly better, {same} not significantly different "
        f"({test}, Holm-corrected p ≥ {SIGNIFICANT})."
    )


def named(row: Mapping[str, Any]) -> str:
    """What a row is called."""
    return f"{row['label']}, {row['kind']}"


def is_reference(result: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether the others are tested against this row."""
    return result["reference"] is not None and all(row[key] == result["reference"][key] for key in ("label", "kind"))


def _fraction(cell: str | None, where: str) -> float:
    """A percentage in a table as a fraction."""
    try:
        value = float(cell or "")
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise ComparisonError(f"{where}: top1 is {cell!r}, which is not a percentage")
    return value / 100
