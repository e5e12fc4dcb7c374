"""Which candidate and which layer is chosen, by paired answers; and how sure the chosen probe is."""

import numpy as np
import pytest
from scipy.special import softmax

from featurepipe import probes
from featurepipe.errors import ProbeError
from featurepipe.probes import metrics, selection

ROWS = 20_000


def answers(n, *wrong):
    """Of each candidate, on which of n rows it is right: on all except those given."""
    right = np.ones((len(wrong), n), bool)
    for one, rows in zip(right, wrong, strict=True):
        one[list(rows)] = False
    return right


def overlapping(n, classes=3, seed=0, width=12, spread=2.0):
    """Clusters that overlap."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return np.random.default_rng(99).normal(size=(classes, width))[y] + spread * rng.normal(size=(n, width)), y


# -- which candidates cannot be told apart from the best ----------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 10, 1000, ROWS])
def test_a_single_row_never_decides(n):
    assert probes.tied(answers(n, [], [0])).tolist() == [True, True]
    assert probes.tied(answers(n, [0], [])).tolist() == [True, True]
    none_but_one = answers(n, range(n), range(1, n))
    assert probes.tied(none_but_one).tolist() == [True, True]


@pytest.mark.parametrize("n", [100, ROWS])
@pytest.mark.parametrize("shared", [0, 5, 50])  # rows that both get wrong say nothing
@pytest.mark.parametrize(("behind", "stays"), [(1, True), (2, True), (3, False), (30, False)])
def test_who_is_right_wherever_the_other_is_and_on_three_more_is_better(n, shared, behind, stays):
    right = answers(n, range(shared), range(shared + behind))
    assert probes.tied(right).tolist() == [True, stays]


@pytest.mark.parametrize(
    ("best_alone", "other_alone", "stays"),
    [
        (3, 0, False),  # 2 > √3
        (4, 1, True),  # 2 < √5
        (5, 1, False),  # 3 > √6
        (6, 3, True),  # 2 < √9
        (7, 3, True),  # 3 < √10
        (40, 32, True),  # 7 < √72
        (40, 30, False),  # 9 > √70
        (500, 470, True),  # 29 < √970
        (500, 468, True),  # 31 < √968
        (500, 467, False),  # 32 > √967
        (30, 0, False),
        (5000, 4901, True),  # 98 < √9901
        (5000, 4899, False),  # 100 > √9899
    ],
)
def test_how_much_is_chance_depends_on_the_rows_that_only_one_gets_right(best_alone, other_alone, stays):
    right = answers(ROWS, range(best_alone, best_alone + other_alone), range(best_alone))
    assert probes.tied(right).tolist() == [True, stays]
    assert probes.tied(right[::-1]).tolist() == [stays, True]


def test_as_many_right_is_as_good_wherever_they_are():
    assert probes.tied(answers(100, range(50), range(50, 100), range(25, 75))).tolist() == [True] * 3


def test_near_100_percent_the_comparison_still_holds():
    """The standard error of the accuracy itself is 0 at 100 %, so that a single row would decide."""
    assert probes.tied(answers(1000, [], [1], [1, 2], [1, 2, 3])).tolist() == [True, True, True, False]
    assert probes.tied(answers(1000, range(999), range(1000), range(997))).tolist() == [True, False, True]


def test_many_rows_tell_apart_what_few_do_not():
    """92 % against 91 %, nine in ten of the mistakes in common."""
    few, many = (answers(n, range(8 * n // 100), range(n // 100, 10 * n // 100)) for n in (100, 10_000))
    assert [one.mean(axis=1).round(4).tolist() for one in (few, many)] == [[0.92, 0.91]] * 2
    assert probes.tied(few).tolist() == [True, True]
    assert probes.tied(many).tolist() == [True, False]


@pytest.mark.parametrize("seed", range(20))
def test_ties_are_those_of_mcnemars_statistic_with_edwards_correction(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 400))
    right = rng.random((6, n)) < np.linspace(0.7, 0.8, 6)[:, None]
    best = max(range(6), key=lambda i: (right[i].sum(), -i))
    for i, stays in enumerate(probes.tied(right)):
        b = sum(x and not z for x, z in zip(right[best], right[i], strict=True))
        c = sum(z and not x for x, z in zip(right[best], right[i], strict=True))
        assert stays == (b - c <= 1 or (b - c - 1) ** 2 / (b + c) <= 1)
    rows = rng.permutation(n)
    assert probes.tied(right[:, rows]).tolist() == probes.tied(right).tolist()


@pytest.mark.parametrize("form", [np.asarray, list, tuple, np.ndarray.tolist, lambda right: right.astype(np.uint8)])
def test_answers_may_come_in_any_form_and_stay_as_they_are(form):
    right = form(answers(50, [1, 2, 3], [0], []))
    before = np.array(right, bool)
    found = probes.tied(right)
    assert (found.dtype, found.tolist()) == (np.dtype(bool), [False, True, True])
    assert probes.choose(right, np.array([0.1, 0.2, 0.3])) == probes.choose(right, [0.1, 0.2, 0.3]) == 1
    assert probes.choose_layer(right) == 2
    np.testing.assert_array_equal(right, before)


def test_one_candidate_is_its_own_best():
    right = answers(3, [0, 1, 2])
    assert probes.tied(right).tolist() == [True]
    assert probes.choose(right, [9.0]) == probes.choose_layer(right) == 0


# -- which of them is chosen --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "loss", "best"),
    [
        (answers(1000, [], [1], [1, 2, 3]), (0.3, 0.2, 0.1), 1),  # the third is worse, however low its loss
        (answers(1000, [], [1], [1, 2]), (0.3, 0.2, 0.1), 2),
        (answers(1000, [0], [], [1]), (0.2, 0.3, 0.2), 0),  # of equal losses the first, which has the lower C
        (answers(5, range(5), range(5)), (2.0, 1.0), 1),  # none right
        (answers(100, range(10), range(1, 10), range(50)), (0.3, 0.4, 0.1), 0),
        (answers(ROWS, range(1600), range(2000)), (0.4, 0.1), 0),  # 92 % and 90 % of many
        (answers(ROWS, range(1000, 1030), range(1030)), (0.4, 0.1), 0),
    ],
)
def test_of_those_that_cannot_be_told_apart_the_lowest_log_loss_is_chosen(right, loss, best):
    assert probes.choose(right, loss) == best


@pytest.mark.parametrize(
    ("right", "best"),
    [
        (answers(100, [], [], []), 2),  # as good: the last
        (answers(100, [], [], [0, 1]), 2),  # two images behind is chance
        (answers(100, [], [], [0, 1, 2]), 1),  # three are not: the latest of the others
        (answers(100, [], [0], [0, 1, 2]), 1),
        (answers(100, [], [0, 1, 2], [0, 1, 2]), 0),
        (answers(100, range(9), [], range(9)), 1),
        (answers(ROWS, range(400, 800), range(9000), range(401)), 2),  # one more wrong of 400, elsewhere
        (answers(ROWS, range(440), range(9000), range(440, 910)), 2),  # 470 against 440: 29 < √910
        (answers(ROWS, range(440), range(9000), range(440, 912)), 0),  # 472: 31 > √912
    ],
)
def test_the_last_layer_is_taken_unless_another_is_better_by_more_than_chance(right, best):
    assert probes.choose_layer(right) == best


# -- a probe that is nearly always right --------------------------------------------------------------------------


def nearly_always_right(n, seed, wide=0.8):
    """Two features with a common part: alone the first tells the classes, but the difference tells them better."""
    rng = np.random.default_rng(seed)
    y, common = np.arange(n) % 2, rng.uniform(-wide, wide, n // 2).repeat(2)
    return np.stack([2 * y - 1 + common, common], axis=1) + 0.02 * rng.normal(size=(n, 2)), y


def test_at_999_in_1000_right_a_small_c_does_not_win_by_one_row():
    X, y = nearly_always_right(200, 0)
    V, v = nearly_always_right(1000, 1)
    V[1] = (-0.8, 0.2)  # a wrong label, which every C gets wrong
    V[0] = (-0.5, -0.8)  # an odd one, which a small C, with weight on the first feature only, gets right by chance
    probe = probes.fit("logistic", X, y, V, v)
    assert [step["top1"] for step in probe.path] == 4 * [0.999] + 5 * [0.998]
    assert all(step["tied"] for step in probe.path)
    assert probe.chosen == 0.1
    assert probe.right.tolist() == [False, False] + 998 * [True]
    losses = [step["log_loss"] for step in probe.path]
    assert min(losses[:4]) > 1.1 * losses[4] == 1.1 * probe.scores["log_loss"]
    T, t = nearly_always_right(2000, 2, wide=1.3)  # where the common part varies more
    right = [
        probes.fit("logistic", X, y, V, v, value=C).estimator.predict(T) == t for C in (probes.C_GRID[0], probe.chosen)
    ]
    assert np.mean(right, axis=1).round(2).tolist() == [0.88, 1.0]


# -- calibration of logistic regression ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("on_val", [False, True])
def test_a_logistic_probe_never_does_worse_on_held_out_rows_than_at_temperature_1(classes, on_val):
    X, y = overlapping(120, classes)
    V, v = overlapping(200, classes, seed=1)
    for C in probes.C_GRID:
        if on_val:
            probe, truth = probes.fit("logistic", X, y, V, v, value=C), v
            ((estimator, _),) = probes.KINDS["logistic"].fit_path(X, y, [C])
            scores = probes.decision_scores(estimator, V)
        else:
            probe, truth = probes.fit("logistic", X, y, value=C), y
            ((scores,), _) = selection._cross_validate(
                probes.KINDS["logistic"], X, y, [C], selection.assign_folds(y, 0)
            )
            scores = np.concatenate([block for _, block in scores])
        plain = metrics.log_loss(softmax(scores, axis=1), truth)
        assert probe.scores["log_loss"] <= plain + 1e-9
        assert probe.scores["log_loss"] == pytest.approx(
            metrics.log_loss(softmax(scores / probe.temperature, axis=1), truth), rel=1e-12
        )
        np.testing.assert_array_equal(probe.right, scores.argmax(axis=1) == truth)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 3])
def test_a_logistic_probe_that_is_too_sure_is_cooled_and_one_that_doubts_is_not(classes):
    X, y = overlapping(90, classes, width=30)
    T, t = overlapping(4000, classes, 2, width=30)
    sure, doubting = (probes.fit("logistic", X, y, value=C) for C in (1000.0, 0.001))
    assert doubting.temperature < 0.1 < 3 < sure.temperature
    for probe in (sure, doubting):
        cooled, plain = (probes.evaluate(probe.estimator, T, t, at) for at in (probe.temperature, 1.0))
        assert cooled["log_loss"] < plain["log_loss"] - 0.2
        assert cooled["ece"] < plain["ece"] / 2
        assert cooled["confusion"] == plain["confusion"]
        np.testing.assert_array_equal(
            probe.predict_proba(T), probes.probabilities(probe.estimator, T, probe.temperature)
        )


@pytest.mark.slow
def test_strengths_are_compared_after_their_temperatures():
    """Before it the log-loss would be that of a scale, which the temperature mends."""
    X, y = overlapping(90, 3)
    V, v = overlapping(900, 3, seed=1)
    probe = probes.fit("logistic", X, y, V, v)
    for step in probe.path:
        alone = probes.fit("logistic", X, y, V, v, value=step["C"])
        assert (step["top1"], step["log_loss"]) == pytest.approx(
            [alone.scores[key] for key in ("top1", "log_loss")], rel=1e-4
        )
    stay = [step for step in probe.path if step["tied"]]
    assert 1 < len(stay) < len(probe.path)
    assert probe.chosen == min(stay, key=lambda step: step["log_loss"])["C"]


def test_out_of_fold_probabilities_are_those_of_probes_that_know_neither_row_nor_group():
    """Rows come in pairs of one group, and each pair has labels of its own that only its members could tell."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(60, 100)), 2, axis=0)
    y = np.repeat(rng.permutation(["a", "b"] * 30), 2)
    alone = probes.out_of_fold("ridge", X, y, values=[1e-3])
    paired = probes.out_of_fold("ridge", X, y, groups=np.repeat(np.arange(60), 2), values=[1e-3])
    assert alone.right.mean() > 0.8
    assert paired.right.mean() < 0.7
    np.testing.assert_allclose(paired.probabilities.sum(axis=1), 1)
    assert (paired.classes[paired.codes] == y[paired.rows]).all()


def test_out_of_fold_leaves_out_what_is_never_held_out():
    X, y = np.eye(5), np.array(["a", "a", "b", "b", "c"])
    assert probes.out_of_fold("ridge", X, y, values=[1.0]).rows.tolist() == [0, 1, 2, 3]
    with pytest.raises(ProbeError, match="every class has only one sample"):
        probes.out_of_fold("ridge", np.eye(2), np.array(["a", "b"]))
