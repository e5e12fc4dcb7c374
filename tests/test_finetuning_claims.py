"""Claims: which activations stay when another run begins, and which go."""

import json
import os
import signal
import subprocess
import sys

import pytest

from featurepipe.errors import StoreError
from featurepipe.finetuning.claims import _read, claim
from featurepipe.stores import Store


@pytest.fixture
def store(tmp_path):
    made = Store.create(tmp_path / "activations")
    for name in "abc":
        fill(made, name)
    return made


def fill(store, name, size=1_000_000):
    folder = store.path / name
    folder.mkdir(exist_ok=True)
    (folder / "shard-00000.h5").write_bytes(bytes(size))


def held(store):
    return sorted(path.name for path in store.path.iterdir() if path.is_dir())


def begin(store, names, checkpoint=None, notes=None):
    return claim(store, [store.path / name for name in names], checkpoint, ([] if notes is None else notes).append)


def test_what_no_run_uses_goes_and_is_told_with_its_size(store):
    notes = []
    lock = begin(store, "cd", notes=notes)  # d is still to be made
    assert held(store) == ["c"]
    assert notes == [f"activations that no run uses any more removed from {store.path}: 2 views, 2.0 MB"]
    lock.release()
    begin(store, "c", notes=notes).release()
    assert (held(store), len(notes)) == (["c"], 1)


def test_what_is_no_shard_is_left_alone(store):
    (store.path / "a" / "mine.txt").write_text("mine")
    (store.path / "mine").mkdir()
    begin(store, "c").release()
    assert held(store) == ["a", "c", "mine"]
    assert [path.name for path in (store.path / "a").iterdir()] == ["mine.txt"]


def test_a_run_that_goes_on_keeps_its_own(store):
    first = begin(store, "a")
    second = begin(store, "b")
    fill(store, "b")
    assert held(store) == ["a", "b"]
    first.release()
    begin(store, "d").release()
    assert held(store) == ["b"]
    second.release()
    begin(store, "d").release()
    assert held(store) == []


def test_a_run_that_can_be_taken_up_again_keeps_its_own_until_its_checkpoint_is_gone(store, tmp_path):
    checkpoint = tmp_path / "m.tuning" / "checkpoint.pt"
    begin(store, "a", checkpoint).release()
    fill(store, "b")
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"one")
    begin(store, "c").release()
    assert held(store) == ["a"]
    checkpoint.unlink()
    begin(store, "c").release()
    assert held(store) == []
    assert sum(path.suffix == ".json" and path.name != "store.json" for path in store.path.iterdir()) == 1


OTHER = """
import sys
from pathlib import Path
from featurepipe.finetuning.claims import _read, claim
from featurepipe.stores import Store
store = Store.open(sys.argv[1])
lock = claim(store, [store.path / "a"], None, print)
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.mark.processes
def test_another_process_keeps_its_own_until_it_is_killed(store):
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert "claimed\n" in iter(other.stdout.readline, "")
        begin(store, "d").release()
        assert held(store) == ["a"]
        os.kill(other.pid, signal.SIGKILL)
    begin(store, "d").release()
    assert held(store) == []


def test_a_damaged_claim_is_named_and_nothing_goes(store):
    path = store.path / ".lock.0.json"
    path.write_text("{")
    with pytest.raises(StoreError, match=r"\.lock\.0\.json is damaged"):
        begin(store, "d")
    assert held(store) == ["a", "b", "c"]


@pytest.mark.parametrize("checkpoint", ["x" * 5000, "a\\u0000b"])
def test_a_claim_whose_checkpoint_cannot_be_does_not_stand(store, checkpoint):
    path = store.path / ".lock.0.json"
    path.write_text(f'{{"folders": ["a"], "checkpoint": "{checkpoint}"}}')
    begin(store, "d").release()
    assert held(store) == []
    assert not path.exists()


def test_a_store_that_lost_its_header_is_still_one(store):
    lock = begin(store, "a")
    (store.path / "store.json").unlink()
    assert Store.create(store.path).root is None
    lock.release()
    assert held(store) == ["a"]


@pytest.mark.slow
def test_every_changed_bit_of_a_claim_is_named_or_harmless(store):
    begin(store, "ab", store.path / "checkpoint.pt").release()
    (path,) = store.path.glob(".lock.*.json")
    data = path.read_bytes()
    wanted = _read(path)
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                assert _read(path) == wanted, changed
            except StoreError as error:
                assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "1" * 5000,
        "[]",
        "null",
        '{"folders": ["a"]}',
        '{"folders": "a", "checkpoint": null}',
        '{"folders": [1], "checkpoint": null}',
        '{"folders": [], "checkpoint": 1}',
        '{"folders": [], "checkpoint": null, "other": 1}',
        '{"folders": [], "checkpoint": null, "sha256": "00"}',
    ],
)
def test_claims_of_other_types_are_named(store, text):
    path = store.path / ".lock.0.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"\.lock\.0\.json is damaged"):
        begin(store, "d")


def test_a_claim_of_an_earlier_version_has_no_digest_and_counts(store, tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(b"one")
    (store.path / ".lock.0.json").write_text(json.dumps({"folders": ["a"], "checkpoint": str(checkpoint)}))
    begin(store, "b").release()
    assert held(store) == ["a", "b"]
