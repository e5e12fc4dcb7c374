"""Wilson's interval."""

import pytest

from featurepipe.statistics import wilson


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_lies_inside_its_own_interval(share):
    for n in range(1, 300):
        low, high = wilson(share, n)
        assert 0 <= low <= share <= high <= 1
