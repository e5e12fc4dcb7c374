"""Embeddings that are handed on block by block, in the order of rows, and forgotten."""

import numpy as np
import pytest

from featurepipe.digests import sha256_bytes
from featurepipe.extraction import Settings, fill
from featurepipe.extraction.streams import Once, Stream
from featurepipe.manifests import Manifest, Sample
from featurepipe.sources import InMemory
from featurepipe.stores import digest_rows


@pytest.fixture
def asked(planned):
    """Factory: rows of pictures in memory by their numbers, the pictures' source, and what a stream of them gives."""

    def make(numbers, size, broken=()):
        contents = {f"{place:02}": planned.picture(number) for place, number in enumerate(numbers)}
        contents |= {f"{place:02}": b"no picture" for place in broken}
        source = InMemory(contents)
        manifest = Manifest(source, [Sample(place, place, None, None) for place in sorted(contents)])
        rows, unreadable = digest_rows(manifest, 1)
        assert not unreadable
        return rows, Once(rows, source, size)

    return make


def run(rows, plan, batch_size):
    from featurepipe.backbones import Pixels

    taken, pixels = [], Pixels()
    sink = Stream(rows, plan, pixels.spec, lambda numbers, X: taken.append((numbers.tolist(), X)))
    outcome = fill(plan, pixels, sink, Settings(batch_size=batch_size, workers=2))
    sink.finish()
    return taken, outcome


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_rows_come_in_their_order_with_their_own_embeddings(asked, planned, batch_size):
    numbers = [0, 1, 0, 2, 3, 2, 2, 0, 4, 5]
    taken, _ = run(*asked(numbers, 4), batch_size)
    assert [found for found, _ in taken] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for found, X in taken:
        np.testing.assert_allclose(X, [planned.vector(numbers[row]) for row in found], atol=1e-6)


def test_a_content_comes_once_in_a_block_and_again_in_another(asked):
    _, plan = asked([0, 1, 0, 2, 3, 2, 2, 0, 4, 5], 4)
    assert plan.numbers.tolist() == [0, 1, 3, 4, 5, 7, 8, 9]
    assert [one.place for one in plan[2:4]] == ["03", "04"]


def test_what_cannot_be_read_is_in_no_block(asked, planned):
    rows, plan = asked([0, 1, 2, 3, 4, 5, 6], 2, broken=(0, 2, 3, 6))
    taken, outcome = run(rows, plan, 2)
    assert [found for found, _ in taken] == [[1], [4, 5]]  # of the blocks 0-1, 2-3, 4-5 and 6
    assert list(outcome.rejects) == [sha256_bytes(b"no picture")]


def test_no_more_than_a_block_is_held(asked):
    rows, plan = asked(range(12), 3)
    held = []
    sink = Stream(rows, plan, {}, lambda numbers, X: held.append(X.shape))
    for number, row in enumerate(rows):
        sink.append([row.digest], np.full((1, 5), number, np.float32), {})
        assert len(sink._held) <= 3
    sink.commit()  # as at an interrupt: a block that may be incomplete is not handed on
    assert len(held) == 3
    sink.finish()
    assert held == [(3, 5)] * 4


def test_nothing_is_asked_and_nothing_is_given(asked):
    rows, plan = asked([], 3)
    assert (len(plan), run(rows, plan, 1)[0]) == (0, [])
