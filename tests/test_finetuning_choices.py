"""Whether a tuned network is kept instead of the probe: by held-back images, and by what tuning brought elsewhere."""

import numpy as np
import pytest

from featurepipe.finetuning import choices, duel, expected_gain, expected_share, is_behind, pays


def answers(n, wrong, ahead=0, behind=0):
    """Whether probe and network are right on n images: the probe is `wrong` on some, the network on others."""
    probe = np.arange(n) >= wrong
    network = probe.copy()
    network[:ahead], network[wrong : wrong + behind] = True, False
    return probe, network


def prior(n, wrong):
    """What tuning is expected to bring before anybody has looked at the held-back images."""
    return choices.SHARE * wrong / n


def test_a_duel_counts_the_images_on_which_one_alone_is_right():
    probe, network = np.array([True, True, False, False, True]), np.array([True, False, True, False, False])
    assert duel(probe, network) == (1, 2)
    assert duel(network, probe) == (2, 1)
    assert duel(probe, probe) == (0, 0)


def test_where_an_image_lies_does_not_matter():
    probe, network = answers(60, 20, 9, 4)
    drawn = np.random.default_rng(0).permutation(60)
    assert expected_gain(probe[drawn], network[drawn]) == expected_gain(probe, network)


@pytest.mark.parametrize(("n", "wrong"), [(1000, 3), (1000, 10), (5000, 0), (5000, 25)])
def test_one_image_of_many_never_decides_at_high_accuracy(n, wrong):
    assert not any(pays(*answers(n, wrong, *fate)) for fate in ((0, 0), (min(wrong, 1), 0), (0, 1)))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_a_clear_loss_on_many_images_is_refused_whatever_tuning_brought_elsewhere(share):
    assert not pays(*answers(1000, 200, 50, 90), share)
    assert not pays(*answers(1000, 20, 5, 40), share)
    assert expected_gain(*answers(1000, 200, 50, 90), share) < 0


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_a_clear_lead_on_many_images_is_kept_whatever_tuning_brought_elsewhere(share):
    assert pays(*answers(1000, 200, 90, 50), share)


@pytest.mark.parametrize("fate", [(0, 0), (1, 0), (0, 1)])
def test_few_images_leave_it_to_what_tuning_brought_elsewhere_and_many_do_not(fate):
    few, seen = expected_gain(*answers(5, 2, *fate)), (fate[0] - fate[1]) / 5
    assert abs(few - prior(5, 2)) < abs(few - seen)
    fate = tuple(1000 * one for one in fate)
    many, seen = expected_gain(*answers(5000, 2000, *fate)), (fate[0] - fate[1]) / 5000
    assert abs(many - seen) < abs(many - prior(5000, 2000))


@pytest.mark.parametrize(("share", "kept"), [(0.5, True), (-0.5, False)])
def test_of_few_images_that_say_nothing_what_tuning_brought_elsewhere_decides(share, kept):
    assert pays(*answers(10, 4, 1, 1), share) is kept


@pytest.mark.parametrize(("n", "wrong"), [(1, 1), (5, 2), (20, 1), (48, 10), (300, 100), (5000, 2)])
def test_more_wins_are_worth_more_and_more_losses_less(n, wrong):
    behind = min(3, n - wrong)
    by_wins = [expected_gain(*answers(n, wrong, ahead, behind)) for ahead in range(min(wrong, 30) + 1)]
    by_losses = [expected_gain(*answers(n, wrong, 1, behind)) for behind in range(min(n - wrong, 30) + 1)]
    assert np.all(np.diff(by_wins) > 0)
    assert np.all(np.diff(by_losses) < 0)
    assert np.isfinite([*by_wins, *by_losses]).all()


@pytest.mark.parametrize("n", [500, 2000, 10_000])
@pytest.mark.parametrize("fate", [(0, 0), (1, 0), (0, 3)])
def test_near_a_hundred_per_cent_the_probe_stays(n, fate):
    probe, network = answers(n, fate[0], *fate)
    assert probe.mean() > 0.995
    assert not pays(probe, network)


def test_less_than_a_point_is_not_worth_a_network():
    found = [answers(100_000, 10_000, 1000 + lead, 1000) for lead in (500, 2000)]
    small, large = (expected_gain(*one) for one in found)
    assert 0 < small < 0.01 < large
    assert [pays(*one) for one in found] == [False, True]


@pytest.mark.parametrize(("n", "wrong", "behind"), [(4, 0, 4), (10, 0, 5), (50, 1, 5), (50, 1, 20)])
def test_a_network_that_is_much_worse_on_few_images_is_refused(n, wrong, behind):
    assert not pays(*answers(n, wrong, 0, behind))


@pytest.mark.parametrize(
    ("behind", "ahead", "wanted"), [(3, 0, False), (4, 0, True), (5, 1, False), (6, 1, True), (0, 0, False)]
)
def test_a_network_is_behind_where_one_that_is_no_worse_would_seldom_lose_so(behind, ahead, wanted):
    probe, network = answers(40, 10, ahead, behind)  # 0 of 3 happens one time in eight, 0 of 4 one in sixteen
    assert is_behind(probe, network) is wanted
    assert not (wanted and pays(probe, network))


def test_of_the_head_alone_nothing_is_expected_beforehand_and_of_a_part_less_than_of_all():
    assert expected_share("head") == 0 < expected_share("last-1") == expected_share("stage4+") < expected_share("all")
    same = answers(20, 4)
    assert [pays(*same, expected_share(tune)) for tune in ("head", "all")] == [False, True]


@pytest.mark.parametrize("n", [1, 5, 20, 100])
def test_a_probe_without_a_mistake_stays(n):
    """Seen on five held-back images: both right on all, and "+2.1 points" were promised."""
    probe, network = answers(n, 0)
    assert expected_gain(probe, network) == 0
    assert not pays(probe, network)
