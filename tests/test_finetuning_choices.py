"""Whether a tuned network is better than the probe, on validation data."""

import pytest

from featurepipe.finetuning import pays


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ((0.81, 0.50), True),  # one more right, and surer of it
        ((0.80, 0.50), False),  # as many right: the simpler of the two
        ((0.83, 0.70), False),  # within one standard error of the better top-1 the probe has the lower log-loss
        ((0.95, 0.70), True),  # the probe is not within it
        ((0.79, 0.30), False),  # fewer right, whatever the log-loss
    ],
)
def test_a_network_pays_if_it_is_better_than_the_probe_and_has_more_right(row, wanted):
    probe = {"top1": 0.80, "log_loss": 0.60, "n": 100, "classes": ["a"]}
    assert pays(probe, {"epoch": 3, "top1": row[0], "log_loss": row[1], "n": 100}) is wanted
