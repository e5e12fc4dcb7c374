"""Significance, corrected significance, rank correlation, and the words in which they are told."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest, false_discovery_control, fisher_exact, kendalltau, spearmanr

from featurepipe import comparisons
from featurepipe.comparisons import (
    BEYOND_CHANCE,
    fisher,
    holm,
    mcnemar,
    p_text,
    rank_correlations,
    read_imagenet,
    verdict,
)
from featurepipe.errors import ComparisonError


def pair(both, alone, against, neither):
    """Two classifiers by how many images both, only one, only the other, and none get right."""
    one = np.repeat([True, True, False, False], [both, alone, against, neither])
    return one, np.repeat([True, False, True, False], [both, alone, against, neither])


# -- McNemar ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alone", "against"), [(1, 0), (0, 3), (5, 5), (2, 9), (9, 2), (1, 12), (40, 61), (30, 30)])
@pytest.mark.parametrize("agreed", [0, 17])
def test_mcnemar_is_the_two_sided_binomial_of_the_images_that_one_alone_gets_right(alone, against, agreed):
    n = alone + against
    tail = sum(math.comb(n, k) for k in range(min(alone, against) + 1)) / 2**n
    found = mcnemar(*pair(agreed, alone, against, agreed))
    assert found == pytest.approx(min(1.0, 2 * tail))
    assert found == pytest.approx(binomtest(alone, n).pvalue)


@pytest.mark.parametrize(("alone", "against"), [(4, 1), (3, 3), (0, 6), (7, 2)])
def test_mcnemar_is_the_exact_permutation_test_of_the_difference_in_accuracy(alone, against):
    one, other = pair(2, alone, against, 1)
    differences = one.astype(int) - other  # +1, 0, -1
    nonzero = differences[differences != 0]
    flips = [abs(np.dot(signs, nonzero)) for signs in itertools.product((1, -1), repeat=len(nonzero))]
    assert mcnemar(one, other) == pytest.approx(np.mean(np.array(flips) >= abs(nonzero.sum())))


@pytest.mark.parametrize("n", [0, 1, 50])
def test_classifiers_that_are_right_on_the_same_images_do_not_differ(n):
    right = np.arange(n) % 2 == 0
    assert mcnemar(right, right) == 1.0


def test_mcnemar_has_no_side():
    one, other = pair(10, 8, 2, 5)
    assert mcnemar(one, other) == mcnemar(other, one)


def test_under_the_hypothesis_mcnemar_rejects_no_more_often_than_it_says():
    rng = np.random.default_rng(0)
    found = [mcnemar(*(rng.random((2, 200)) < 0.8)) for _ in range(400)]
    assert np.mean(np.array(found) < 0.05) < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


# -- Fisher -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(9, 10, 4, 10), (0, 5, 0, 3), (5, 5, 3, 3), (767, 1000, 99, 240), (1, 9, 7, 8)])
def test_fisher_is_scipys_one_sided(counts):
    right, n, other, m = counts
    assert fisher(*counts) == pytest.approx(fisher_exact([[right, n - right], [other, m - other]], "greater").pvalue)


def test_of_large_sets_it_is_the_pooled_test_at_three_standard_errors():
    def errors(right, other, n=40_000, m=10_000):
        pooled = (right + other) / (n + m)
        return (right / n - other / m) / math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))

    for other in range(7800, 7940, 5):
        if abs(errors(32_000, other) - 3) > 0.05:
            assert (fisher(32_000, 40_000, other, 10_000) < BEYOND_CHANCE) == (errors(32_000, other) > 3)


def test_one_image_says_nothing():
    assert fisher(97, 100, 0, 1) > BEYOND_CHANCE  # the pooled test has nearly five standard errors


# -- Holm ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),
        ([0.04, 0.03, 0.02, 0.01], [0.06, 0.06, 0.06, 0.04]),
        ([0.01, 0.005, 0.5], [0.02, 0.015, 0.5]),
        ([0.5, 0.6, 1.0], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holms_correction(p_values, corrected):
    assert holm(p_values) == pytest.approx(corrected)


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(1)
    for _ in range(50):
        p_values = (rng.random(7) ** 3).tolist()
        rejected, order = set(), sorted(range(7), key=p_values.__getitem__)
        for rank, i in enumerate(order):
            if p_values[i] > 0.05 / (7 - rank):
                break
            rejected.add(i)
        corrected = holm(p_values)
        assert {i for i in range(7) if corrected[i] <= 0.05} == rejected
        assert (np.array(corrected) >= p_values).all()
        assert (np.array(corrected) <= np.minimum(7 * np.array(p_values), 1) + 1e-12).all()  # Bonferroni
        assert (np.array(corrected) >= false_discovery_control(p_values) - 1e-12).all()


# -- rank correlation ---------------------------------------------------------------------------------------------


def test_rank_correlations_are_scipys_ties_included():
    x, y = [70.1, 75.0, 75.0, 80.2, 83.3], [0.5, 0.7, 0.6, 0.9, 0.9]
    spearman, kendall = rank_correlations(x, y)
    assert spearman == pytest.approx(spearmanr(x, y).statistic)
    assert kendall == pytest.approx(kendalltau(x, y).statistic)
    assert rank_correlations([1, 2, 3, 4], [4, 3, 2, 1]) == (-1.0, -1.0)


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1], [2]), ([1, 2], [2, 1]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2])]
)
def test_too_few_or_equal_values_have_no_rank_correlation(x, y):
    assert rank_correlations(x, y) is None


# -- ImageNet's table ---------------------------------------------------------------------------------------------


def test_timms_table_is_read(tmp_path):
    path = tmp_path / "results-imagenet.csv"
    path.write_text(
        "model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation\n"
        'a_giant.x_in1k,89.786,10.214,98.992,1.008,"1,014.45",560,1.000,bicubic\n'
        "a_small.y_in1k,71.5,28.5,90,10,2,224,0.875,bicubic\n"
    )
    assert read_imagenet(path) == pytest.approx({"a_giant.x_in1k": 0.89786, "a_small.y_in1k": 0.715})


def test_the_tables_own_columns_may_stand_anywhere_and_after_a_byte_order_mark(tmp_path):
    (tmp_path / "t.csv").write_text("\ufefftop1,model\r\n50,a\r\n", "utf-8")
    assert read_imagenet(tmp_path / "t.csv") == {"a": 0.5}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "lacks the columns model and top1"),
        (b"name,acc\na,1\n", "lacks the columns model and top1"),
        (b"model,top1\na,71\nb,high\n", "line 3: top1 is 'high', which is not a percentage"),
        (b"model,top1\na\n", "line 2: top1 is None, which is not a percentage"),
        (b"model,top1\na,-3\n", "not a percentage"),
        (b"model,top1\na,nan\n", "not a percentage"),
        (b"model,top1\na,101\n", "not a percentage"),
        (b"\xff\xfe\x00", "cannot be read as a table"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, content, says):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ComparisonError, match=says):
        read_imagenet(tmp_path / "t.csv")


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(ComparisonError, match="cannot be read as a table: No such file"):
        read_imagenet(tmp_path / "gone.csv")


# -- in words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "text"),
    [(None, "–"), (1.0, "1.0000"), (0.05, "0.0500"), (0.0001, "0.0001"), (9e-5, "< 0.0001"), (0.0, "< 0.0001")],
)
def test_p_values_have_as_many_digits_as_mean_something(p, text):
    assert p_text(p) == text


def compared(*others, given=False):
    """A result with a reference and rows of (difference, corrected p)."""
    rows = [{"label": "best", "kind": "ridge", "difference": None, "p_holm": None, "selected_on": "val"}]
    for number, (difference, p) in enumerate(others):
        rows.append(
            {"label": f"o{number}", "kind": "ridge", "difference": difference, "p_holm": p, "selected_on": "val"}
        )
    reference = {"label": "best", "kind": "ridge", "given": given}
    return {"rows": rows, "reference": reference, "evaluated_on": "test"}


def test_the_verdict_counts_what_can_be_told_from_the_reference():
    text = verdict(compared((-0.2, 0.001), (-0.1, 0.04), (-0.1, 0.05), (0.1, 0.01), (0.0, 1.0)))
    assert "The reference (best, ridge) was chosen on selection data (val)" in text
    assert "Other rows on test: 2 significantly worse, 1 significantly better, 2 not significantly different" in text
    assert f"p ≥ {comparisons.SIGNIFICANT}" in text


def test_the_verdict_says_if_the_reference_was_given():
    text = verdict(compared((-0.2, 0.001), given=True))
    assert "The reference (best, ridge) was given. Other rows on test: 1 significantly worse" in text


def test_without_a_reference_there_is_no_verdict():
    assert verdict({**compared((0.1, None)), "reference": None}) == ""
