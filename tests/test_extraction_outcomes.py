"""Outcomes: where the time went, and how near to the ceiling."""

import pytest
import torch

from featurepipe.extraction import Outcome, default_workers


def outcome(**values):
    """A hundred images in 10 s on two lanes: 2 s loading and 6 s decoding, 9 s inferring."""
    made = {
        "computed": 100,
        "elapsed": 10.0,
        "lanes": 2,
        "load_seconds": 2.0,
        "decode_seconds": 6.0,
        "decode_cpu_seconds": 5.0,
        "infer_seconds": 9.0,
        "write_seconds": 0.5,
        "infer_floor": 0.08,
        "infer_threads": 2,
        "cores": 2,
        "torch_threads": 2,
    }
    return Outcome(**{**made, **values})


def test_stages_are_seconds_as_if_the_threads_were_one():
    assert outcome().stages == {"check": 0.0, "read": 4.0, "infer": 4.5, "write": 0.5}
    assert outcome(compile_seconds=3.0).stages["infer"] == 7.5  # for which all wait
    assert outcome(compile_seconds=3.0, processes=2).stages["infer"] == 6.0  # each for its own
    assert outcome(lanes=8, own_device=True).stages == {"check": 0.0, "read": 1.0, "infer": 4.5, "write": 0.5}


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ({}, "inferring"),
        ({"decode_seconds": 8.0}, "reading"),
        ({"write_seconds": 7.0}, "writing"),
        ({"compile_seconds": 20.0, "decode_seconds": 8.0}, "inferring"),
        ({"check_seconds": 4.6}, "checking files"),
        ({"computed": 0}, None),
    ],
)
def test_what_took_longest_limits(values, limit):
    assert outcome(**values).limited_by == limit


def test_on_a_cpu_decoding_and_the_network_share_the_ceiling():
    assert outcome().ceiling == pytest.approx(1 / (0.05 / 2 + 0.08 / 2))


@pytest.mark.parametrize(
    ("lanes", "torch_threads", "floor"),
    [
        (1, 1, 0.08),  # -j 1 where torch may use one core: the other three would do as much each
        (2, 2, 0.08),
        (3, 4, 0.08),
        (4, 4, 0.08),
        (1, 4, 0.02),  # -j 1 where the lane computes on all four cores
        (2, 4, 0.04),
        (16, 4, 0.32),  # more lanes than cores, which they have in turn
    ],
)
def test_the_ceiling_is_of_all_cores_however_many_lanes_there_are(lanes, torch_threads, floor):
    found = outcome(cores=4, lanes=lanes, infer_threads=lanes, torch_threads=torch_threads, infer_floor=floor)
    assert found.ceiling == pytest.approx(1 / (0.05 / 4 + 0.08 / 4))


def test_an_outcome_knows_the_machine_by_itself():
    made = Outcome(lanes=1)
    assert (made.cores, made.torch_threads) == (default_workers(), torch.get_num_threads())


@pytest.mark.parametrize(("floor", "ceiling"), [(0.001, 2 / 0.05), (0.08, 1 / 0.08)])
def test_beside_a_device_the_slower_one_is_the_ceiling(floor, ceiling):
    assert outcome(own_device=True, infer_floor=floor).ceiling == pytest.approx(ceiling)


@pytest.mark.parametrize(
    ("infer_seconds", "infer_threads", "abreast"),
    [
        (4.0, 2, 1.0),  # of 10 s: the device waits, and its batches run alone
        (15.0, 2, 1.5),
        (20.0, 2, 2.0),  # two batches at a time, each at half the device's speed
        (9.0, 1, 1.0),
        (4.0, 4, 2.0),  # two devices
        (35.0, 4, 3.5),
    ],
)
def test_threads_that_share_a_device_do_not_count_as_devices(infer_seconds, infer_threads, abreast):
    found = outcome(
        own_device=True, cores=99, infer_floor=0.08, infer_seconds=infer_seconds, infer_threads=infer_threads
    )
    assert found.ceiling == pytest.approx(abreast / 0.08)


def test_devices_are_not_thought_idle_for_the_time_of_compiling():
    found = outcome(own_device=True, cores=99, elapsed=16.0, compile_seconds=6.0, infer_seconds=15.0)
    assert found.ceiling == pytest.approx(1.5 / 0.08)


def test_efficiency_is_the_speed_over_the_ceiling():
    summary = outcome().summary()
    assert summary["images_per_second"] == 10
    assert summary["ceiling"] == pytest.approx(15.38)
    assert summary["efficiency"] == pytest.approx(0.65)
    assert summary["limited_by"] == "inferring"
    assert summary["stages"] == {"check": 0.0, "read": 4.0, "infer": 4.5, "write": 0.5}


def test_speed_and_efficiency_are_end_to_end():
    summary = outcome(check_seconds=10.0).summary()
    assert summary["images_per_second"] == 5
    assert summary["ceiling"] == pytest.approx(15.38)  # of decoding and the network alone
    assert summary["efficiency"] == pytest.approx(0.325)
    assert summary["stages"]["check"] == 10.0


@pytest.mark.parametrize("values", [{"infer_floor": None}, {"computed": 0}, {"computed": 0, "infer_floor": None}])
def test_too_little_to_say_is_none(values):
    summary = outcome(**values).summary()
    assert (summary["ceiling"], summary["efficiency"]) == (None, None)
    assert (summary["images_per_second"] is None) == (values.get("computed") == 0)


def test_an_outcome_of_nothing_can_be_told():
    summary = Outcome().summary()
    assert summary == {
        "images_per_second": None,
        "ceiling": None,
        "efficiency": None,
        "limited_by": None,
        "stages": {"check": 0.0, "read": 0.0, "infer": 0.0, "write": 0.0},
    }
    assert {step["share"] for step in Outcome().profile().values()} <= {0.0, 1.0}


@pytest.mark.parametrize(
    "values", [{}, {"compile_seconds": 1.5}, {"own_device": True}, {"lanes": 3}, {"check_seconds": 3.0}]
)
def test_the_profiles_shares_of_the_threads_time_sum_to_one_beside_writing(values):
    profile = outcome(**values).profile()
    assert list(profile) == ["check", "load", "decode", "compile", "infer", "wait", "write"]
    assert sum(step["share"] for name, step in profile.items() if name != "write") == pytest.approx(1, abs=1e-3)
    assert all(step["share"] >= 0 for step in profile.values())


def test_the_profile_says_seconds_and_milliseconds_per_image():
    profile = outcome().profile()
    assert profile["decode"] == {"seconds": 6.0, "ms_per_image": 60.0, "share": 0.3}
    assert profile["wait"] == {"seconds": 3.0, "ms_per_image": 30.0, "share": 0.15}
    assert profile["write"]["seconds"] == 0.5
