import pytest

from featurepipe.manifests import Sample
from featurepipe.manifests.samples import Samples


@pytest.mark.parametrize("which", [slice(1, None), slice(-2, None), slice(None, None, -1), slice(5, 9)])
def test_ids_are_a_sequence_that_can_be_cut(which):
    samples = Samples(Sample(id_, id_, None, None) for id_ in ("a", "b", "ü"))
    assert samples.ids[which] == ["a", "b", "ü"][which]
