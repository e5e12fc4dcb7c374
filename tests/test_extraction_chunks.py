"""Chunks: a plan cut into what becomes a shard each, and handed out."""

import queue

import pytest

from featurepipe.extraction.chunks import Chunks, Inbox
from featurepipe.sources import Files
from featurepipe.stores import Pending


def planned(count, retried=0):
    return [Pending(f"{n:064x}", Files(), f"{n}.jpg", retried=n >= count - retried) for n in range(count)]


def cut(plan, rows, batch_size, count):
    return list(iter(Chunks(plan, rows, batch_size, count).take, None))


def batches(plan, size):
    """What goes through the network together on one device: what is retried begins anew."""
    fresh = [one for one in plan if not one.retried]
    for some in (fresh, plan[len(fresh) :]):
        yield from (tuple(some[i : i + size]) for i in range(0, len(some), size))


@pytest.mark.parametrize("retried", [0, 1, 5, 43])
@pytest.mark.parametrize("size", [1, 3, 4, 7, 64])
def test_the_batches_of_all_chunks_are_those_of_one_device(size, retried):
    plan = planned(43, retried)
    chunks = cut(plan, 8, size, 2)
    assert [one for chunk in chunks for one in chunk.plan] == plan
    assert [batch for chunk in chunks for batch in batches(list(chunk.plan), size)] == list(batches(plan, size))
    assert [chunk.place for chunk in chunks] == list(range(len(chunks)))


def test_chunks_are_shards_and_smaller_ones_near_the_end():
    sizes = [len(chunk.plan) for chunk in cut(planned(10_000), 1024, 32, 4)]
    assert sizes[:5] == [1024] * 5
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes[:-1]) == 1024 // 8
    assert all(size % 32 == 0 for size in sizes[:-1])
    assert [chunk.left for chunk in cut(planned(40), 10, 10, 2)] == [15, 10, 5, 0]


def test_without_a_batch_size_no_chunk_is_more_than_a_shard():
    sizes = [len(chunk.plan) for chunk in cut(planned(1000), 100, None, 2)]
    assert max(sizes) == 100
    assert sum(sizes) == 1000


def test_a_chunk_is_known_by_its_contents():
    one, other = cut(planned(20), 10, 5, 1)
    assert one.tag != other.tag
    assert one.tag == cut(planned(10), 10, 5, 1)[0].tag
    assert one.plan.digests == [pending.digest for pending in planned(10)]


class Turned:
    """A sink that only hears which shard comes next."""

    def __init__(self):
        self.heard = []

    def turn_to(self, place, rows, tag="", *, idle=False):
        self.heard.append((place, rows, bool(tag), idle))


def test_an_inbox_turns_its_sink_to_the_part_whose_results_come_next():
    one, two = cut(planned(20), 10, 5, 1)
    waiting, sink, told = queue.Queue(), Turned(), []
    inbox = Inbox(waiting.get, sink, 20, lambda: None, lambda chunk, part: told.append(chunk.place), tagged=True)
    assert inbox.take(wait=False) is None
    for chunk in (one, two, None):
        waiting.put(chunk)
    first, second = inbox.take(wait=True), inbox.take(wait=False)
    assert (list(first.plan), list(second.plan), inbox.left) == (list(one.plan), list(two.plan), 0)
    assert sink.heard == [(0, 10, True, True)]
    inbox.finish(first)
    assert sink.heard[1:] == [(1, 10, True, False)]
    assert (inbox.take(wait=False), inbox.take(wait=True)) == (None, None)
    inbox.finish(second)
    assert told == [0, 1]


def test_whoever_waits_for_a_chunk_hears_that_it_shall_end():
    def check():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Inbox(queue.Queue().get, Turned(), 0, check).take(wait=True)
