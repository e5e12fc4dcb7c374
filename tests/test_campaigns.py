"""Every campaign at a small count, and what the campaigns are made of."""

import errno
import os
import random
import sys
import time

import pytest
from campaigns import NAMES, disks, mutators, results, sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="campaigns look into /proc")


@pytest.mark.processes
@pytest.mark.campaign
@pytest.mark.parametrize("name", NAMES)
def test_nothing_escapes(name, tmp_path):
    place = tmp_path / name
    result = results.run(name, results.module(name).CI, 0, place)
    sandbox.remove(place)
    assert not result.escaped, "\n".join(result.lines())
    assert result.held == result.hit > 0


class Toy:
    """A campaign of which each fourth trial escapes, and each third comes too late."""

    INSIDE = False

    @staticmethod
    def attempt(bench, trial):
        if trial.number % 4 == 0:
            raise results.Escaped(f"drew {trial.rng.randrange(10**6)}")
        if trial.number % 3 == 0:
            raise results.Missed
        return 1 / (trial.number - 5) and None


@pytest.fixture
def toy(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "module", lambda name: Toy)

    def trial(number, seed=7):
        return results.one("toy", None, number, seed, tmp_path)

    return trial


def test_a_trial_is_the_same_again_and_an_error_that_nobody_foresaw_escapes(toy):
    assert toy(4) == toy(4)
    assert toy(4) != toy(4, seed=8)
    assert toy(3) == (3, results.MISSED, None)
    assert toy(1) == (1, results.HELD, None)
    number, outcome, told = toy(5)
    assert (number, outcome) == (5, results.ESCAPED)
    assert told.startswith("ZeroDivisionError at tests/test_campaigns.py:")


def test_a_result_counts_and_says_how_to_see_an_escape_again(toy):
    result = results.Result("toy", 7)
    for number in range(1, 5):
        result.add(*toy(number))
    assert (result.tried, result.hit, result.held, result.escaped) == (4, 3, 2, 1)
    (escape,) = result.to_json()["escapes"]
    assert escape["again"] == "python -m tests.campaigns toy --seed 7 --only 4"
    assert result.lines()[0].startswith("toy: 4 tried, 3 hit, 2 held, 1 escaped")


@pytest.mark.processes
def test_a_child_that_dies_or_hangs_is_told_from_one_that_returns(tmp_path):
    assert sandbox.call(os.getcwd, folder=tmp_path / "a").value == os.getcwd()
    assert sandbox.call(os._exit, 9, folder=tmp_path / "b").code == 9
    ended = sandbox.call(time.sleep, 60, folder=tmp_path / "c", limit=0.2)
    assert (ended.code, ended.late) == (-9, True)


def write(folder, act):
    disk = disks.Disk(str(folder), (disks.BEFORE, disks.HALF, disks.AFTER))
    disk.act = act
    disk.install()
    with open(folder / "a", "wb") as file:
        file.write(b"12345678")
    os.replace(folder / "a", folder / "b")
    return disk.moments


def refusing(folder):
    return write(folder, disks.fails(0, errno.ENOSPC, frozenset({"write"}), True, []))


def killing(folder):
    return write(folder, disks.kills(3))


def counting(folder):
    return write(folder, lambda *moment: None)


@pytest.mark.processes
def test_a_disk_counts_every_change_of_a_file_and_kills_or_fails_at_one(tmp_path):
    calls = {name: tmp_path / name for name in ("counting", "killing", "refusing")}
    for folder in calls.values():
        folder.mkdir()
    moments = sandbox.call(counting, calls["counting"], folder=tmp_path / "1").value
    writing = ["before open a", "after open a", "before write a", "half write a", "after write a"]
    assert moments == [*writing, "before replace b", "after replace b"]
    assert sandbox.call(killing, calls["killing"], folder=tmp_path / "2").code == -9
    assert (calls["killing"] / "a").read_bytes() == b"1234"
    assert "No space left" in sandbox.call(refusing, calls["refusing"], folder=tmp_path / "3").stderr


def test_mutations_follow_the_seed():
    one, again, other = (mutators.mutate(random.Random(seed), bytes(100), [b"abc"]) for seed in (3, 3, 4))
    assert one == again != other
    value = {"a": [1, {"b": "c"}]}
    assert repr(mutators.mutate_json(random.Random(1), value)) == repr(mutators.mutate_json(random.Random(1), value))
    assert value == {"a": [1, {"b": "c"}]}
