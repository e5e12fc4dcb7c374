import tracemalloc

import pytest

from featurepipe.manifests import Sample
from featurepipe.manifests.samples import Samples


@pytest.mark.parametrize("which", [slice(1, None), slice(-2, None), slice(None, None, -1), slice(5, 9)])
def test_ids_are_a_sequence_that_can_be_cut(which):
    samples = Samples(Sample(id_, id_, None, None) for id_ in ("a", "b", "ü"))
    assert samples.ids[which] == ["a", "b", "ü"][which]


def test_parts_come_back_and_cost_nothing_where_there_are_none():
    given = [Sample(f"{n}", f"{n}", None, None, None, part) for n, part in enumerate((None, "0", None, "1", None))]
    samples = Samples(given)
    assert list(samples) == [samples[i] for i in range(5)] == given
    assert (samples[-1], samples[-2], samples.parts.any, len(samples.parts)) == (given[4], given[3], True, 5)
    assert samples.parts[1:4] == ["0", None, "1"]
    with pytest.raises(IndexError):
        samples.parts[5]
    assert Samples.of(samples) is samples
    assert list(Samples.of(given)) == given
    assert not Samples(one._replace(part=None) for one in given).parts.any


def test_a_part_takes_little_more_than_its_text():
    tracemalloc.start()
    many = Samples(Sample(f"{n:06d}#", f"{n:06d}", None, None, None, f"{n:06d}") for n in range(20_000))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert many[7].part == "000007"
    assert taken / len(many) < 75
