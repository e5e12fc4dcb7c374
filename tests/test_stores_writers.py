"""Writing several layers, whose shards are committed one after another."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from featurepipe import shards
from featurepipe.backbones.specs import make_spec
from featurepipe.digests import sha256_json
from featurepipe.images import ImageTransform
from featurepipe.manifests import Sample
from featurepipe.sources import Files
from featurepipe.stores import Row, Store, Writer, Writers, plan

WIDTHS = (2, 1, 3)
COLUMNS = np.split(np.arange(6), np.cumsum(WIDTHS)[:-1])
ROWS = 4
BAD = {3, 9, 10}
COUNT = 21


@dataclass(frozen=True)
class Layer:
    layer: str
    name: str = "net"

    @property
    def spec(self):
        return make_spec(
            "net", {}, "w", ImageTransform((3, 8, 8), "box", (0.0,) * 3, (1.0,) * 3, 1), self.layer, None, "fp32"
        )

    @property
    def fingerprint(self):
        return sha256_json(self.spec)

    @property
    def source(self):
        return {"name": "net", "weights": None, "random_seed": None}


LAYERS = [Layer("stage1"), Layer("stage2"), Layer("penultimate")]


def digest(n):
    return f"{n:064x}"


def vector(n):
    """Of all layers, side by side."""
    return n + np.arange(sum(WIDTHS), dtype=np.float32) / 10


@pytest.fixture
def store(tmp_path):
    made = Store.create(tmp_path / "s")
    describe(made)
    return made


def describe(store, numbers=range(COUNT)):
    store.write_rows(Files("/r"), [Row(Sample(f"{n:02}", f"{n:02}", None, None), digest(n)) for n in numbers])


def sink_and_plan(store, layers=LAYERS):
    entries = [store.entry(layer) for layer in layers]
    todo = plan(store.rows(), Files("/r"), *entries)
    writers = [Writer(entry, {"name": "net", "source": LAYERS[0].source}, ROWS) for entry in entries]
    widths = [WIDTHS[LAYERS.index(layer)] for layer in layers]
    return Writers(writers, widths, todo.held), todo


def extract(store, layers=LAYERS, batch=2, until=None):
    """What extraction does: batches in planned order; returns the numbers of what was computed."""
    sink, todo = sink_and_plan(store, layers)
    columns = np.concatenate([COLUMNS[LAYERS.index(layer)] for layer in layers])
    numbers = [int(pending.digest, 16) for pending in todo]
    for start in range(0, len(todo), batch):
        some = numbers[start : start + batch]
        good = [n for n in some if n not in BAD]
        vectors = np.stack([vector(n)[columns] for n in good]) if good else np.empty((0, len(columns)), np.float32)
        sink.append([digest(n) for n in good], vectors, {digest(n): "broken" for n in some if n in BAD})
        if until is not None and start >= until:
            break
    sink.commit()
    return numbers


def content(store):
    """Per layer, per shard: numbers of the rows, of the rejects; after a check of every vector."""
    found = {}
    for layer, columns in zip(LAYERS, COLUMNS, strict=True):
        held = []
        for index in store.entry(layer).indexes:
            shard = shards.read(index.path)
            rows = [int(row.tobytes().hex(), 16) for row in shard.digests]
            assert all(np.array_equal(x, vector(n)[columns]) for n, x in zip(rows, shard.embeddings, strict=True))
            held.append((rows, sorted(int(key, 16) for key in shard.rejects)))
        found[layer.layer] = held
    return found


def rows(store, layer):
    return [n for shard, _ in content(store)[layer] for n in shard]


@pytest.fixture
def whole(tmp_path):
    """What an uninterrupted run writes."""
    made = Store.create(tmp_path / "whole")
    describe(made)
    extract(made)
    return content(made)


@pytest.mark.slow
def test_each_layer_gets_its_columns_all_rows_and_all_rejects(store, whole):
    assert extract(store) == list(range(COUNT))
    assert content(store) == whole
    good = [n for n in range(COUNT) if n not in BAD]
    for shard_list in whole.values():
        assert [n for shard, _ in shard_list for n in shard] == good
        assert [n for _, rejects in shard_list for n in rejects] == sorted(BAD)
    assert store.verify()["ok"]


def test_every_layers_shards_say_how_long_the_pass_took(store):
    sink, _ = sink_and_plan(store)
    for writer in sink.writers:
        writer._since -= 7  # as if the first rows had taken seven seconds
    for n in range(ROWS + 1):
        sink.append([digest(n)], vector(n)[None], {})
    sink.commit()
    for layer in LAYERS:
        first, second = (index.provenance["seconds"] for index in store.entry(layer).indexes)
        assert first >= 7
        assert 0 <= second < 7


class Stop(BaseException):
    """Ends a run without a word, as kill -9 does: no handler sees it."""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 2, 3, 4, 8, 17])  # of 18 shards in all
@pytest.mark.parametrize("renamed", [False, True], ids=["before the rename", "after the rename"])
def test_killed_between_the_commits_of_layers_the_next_run_ends_as_if_nothing_had_been(
    store, whole, monkeypatch, after, renamed
):
    real, calls = shards.write, []

    def write(path, shard):
        calls.append(path)
        if len(calls) == after and not renamed:
            raise Stop
        real(path, shard)
        if len(calls) == after:
            raise Stop

    monkeypatch.setattr(shards, "write", write)
    with pytest.raises(Stop):
        extract(store)
    monkeypatch.undo()
    before = {path: path.read_bytes() for path in store.path.glob("*/shard-*.h5")}
    assert len(before) == after - 1 + renamed
    lags = min(len(rows(store, layer.layer)) for layer in LAYERS)
    computed = extract(store)
    assert len([n for n in computed if n not in BAD]) == COUNT - len(BAD) - lags
    assert content(store) == whole
    assert store.verify() == {"ok": True, "checked": 3 * (COUNT - len(BAD)), "problems": [], "repaired": []}
    assert all(path.read_bytes() == data for path, data in before.items())
    assert [n for n in extract(store) if n not in BAD] == []  # what is retried gives nothing
    assert content(store) == whole


@pytest.mark.slow
def test_after_ctrl_c_between_two_layers_neither_loses_nor_repeats_rows(store, monkeypatch):
    sink, _ = sink_and_plan(store)
    real, calls = Writer.append, []

    def append(self, *args):
        calls.append(self)
        if len(calls) == 8:  # in the third batch, the second layer
            raise KeyboardInterrupt
        real(self, *args)

    monkeypatch.setattr(Writer, "append", append)
    for some in ((0, 1), (2, 4)):
        sink.append([digest(n) for n in some], np.stack([vector(n) for n in some]), {})
    with pytest.raises(KeyboardInterrupt):
        sink.append([digest(5), digest(6)], np.stack([vector(5), vector(6)]), {digest(3): "broken"})
    sink.commit()  # what extraction does on Ctrl-C
    monkeypatch.undo()
    assert [len(rows(store, layer.layer)) for layer in LAYERS] == [6, 4, 4]
    assert extract(store)[:3] == [3, 5, 6]
    good = [n for n in range(COUNT) if n not in BAD]
    assert all(rows(store, layer.layer) == good for layer in LAYERS)
    assert store.verify()["ok"]


@pytest.mark.slow
def test_a_layer_that_is_complete_gets_nothing(store, whole):
    extract(store, LAYERS[2:])
    before = {path: path.stat().st_mtime_ns for path in store.path.glob("*/shard-*.h5")}
    assert extract(store) == list(range(COUNT))
    assert content(store) == whole
    assert before.items() <= {path: path.stat().st_mtime_ns for path in store.path.glob("*/shard-*.h5")}.items()
    assert store.verify()["ok"]


@pytest.mark.slow
def test_layers_that_hold_different_halves_are_both_completed(store):
    extract(store, LAYERS[:1], until=8)
    describe(store, range(1, COUNT, 2))
    extract(store, LAYERS[1:2])
    describe(store)
    extract(store)
    good = [n for n in range(COUNT) if n not in BAD]
    assert all(sorted(rows(store, layer.layer)) == good for layer in LAYERS)
    assert store.verify()["ok"]


# -- what is planned for several


def entry(held=(), refused=()):
    index = SimpleNamespace(digests=shards.digest_array([digest(n) for n in held]))
    return SimpleNamespace(indexes=(index,), rejects=lambda: {digest(n): "broken" for n in refused})


def planned(*entries):
    rows = [Row(Sample(str(n), str(n), None, None), digest(n)) for n in range(8)]
    return plan(rows, Files("/r"), *entries)


def test_what_any_layer_lacks_is_planned_and_what_all_have_refused_comes_last():
    todo = planned(entry({0, 1, 2}, {5, 7}), entry({0, 2, 3}, {1, 5, 6}))
    assert [(int(p.digest, 16), p.retried) for p in todo] == [
        (3, False), (4, False), (6, False), (7, False), (1, True), (5, True),
    ]  # fmt: skip
    assert todo.samples == 6
    assert [[int(key.hex(), 16) for key in held] for held in todo.held] == [[1], [3]]


def test_of_one_layer_nothing_that_is_planned_is_held():
    todo = planned(entry({0, 1, 2}, {5}))
    assert [int(p.digest, 16) for p in todo] == [3, 4, 6, 7, 5]
    assert [len(held) for held in todo.held] == [0]


def test_digests_that_end_in_zero_bytes_are_told_apart(store):
    similar = ["ab" * 30 + "0000", "ab" * 31 + "00", "ab" * 30 + "00ab"]
    held = np.sort(shards.digest_array(similar[:1]).view("S32")[:, 0])
    writers = [
        Writer(
            store.entry(LAYERS[0]), {"name": "net", "source": {"name": "net", "weights": None, "random_seed": None}}, 99
        )
    ]
    sink = Writers(writers, (1,), (held,))
    sink.append(similar, np.arange(3, dtype=np.float32)[:, None], {})
    sink.commit()
    assert sorted(store.entry(LAYERS[0]).places()) == sorted(similar[1:])


def test_a_writer_may_be_turned_to_any_shard_which_another_one_finds(store):
    entry = store.entry(LAYERS[0])
    made_by = {"name": "net", "source": LAYERS[0].source}
    first = Writer(entry, made_by, ROWS)
    writer = first.share()
    writer.turn_to(2, 6, "-abc", idle=True)
    for numbers in ((0, 1), (2, 4), (5,)):  # of which one more than fills what was a shard
        writer.append([digest(n) for n in numbers], np.stack([vector(n)[:2] for n in numbers]), {})
    assert first.found(2, [digest(0)], "-abc") is None  # it is not full, and not written
    writer.append([], np.empty((0, 2), np.float32), {digest(3): "broken"})
    assert [path.name for path in entry.folder.iterdir()] == ["shard-00002-abc.h5"]
    assert first.found(2, [digest(n) for n in range(6)], "-abc") == {digest(3): "broken"}
    assert first.found(2, [digest(n) for n in range(7)], "-abc") is None
    assert first.found(2, [digest(0)], "-abd") is None
    assert Writer(store.entry(LAYERS[0]), made_by, ROWS).first == 3


def test_layers_are_found_when_each_has_what_it_lacked(store):
    extract(store, LAYERS[:1], until=0)  # one layer is ahead
    sink, todo = sink_and_plan(store)
    digests = [pending.digest for pending in todo][:8]
    writers = sink.share()
    writers.turn_to(0, 8)
    numbers = [int(one, 16) for one in digests]
    good = [n for n in numbers if n not in BAD]
    assert sink.found(0, digests, "") is None
    broken = {digest(n): "broken" for n in numbers if n in BAD}
    writers.append([digest(n) for n in good], np.stack([vector(n) for n in good]), broken)
    writers.commit()
    assert sink.found(0, digests, "") == broken
    assert sink.found(0, [one.digest for one in todo][:9], "") is None
