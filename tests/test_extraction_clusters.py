"""Ray: a cluster of two nodes on this machine, whose actors, nodes and drivers are killed (`.ci/ray`)."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import featurepipe
from featurepipe import shards
from featurepipe.errors import BackboneError, StoreError
from featurepipe.extraction import Ray, named_crew
from featurepipe.extraction.crews.clusters import seats
from featurepipe.stores import Store, locks

DATA = Path(__file__).parents[1] / "data" / "digits"
KILLS = int(os.environ.get("FEATUREPIPE_KILLS", "20"))
HOW = ["--compile", "off", "--batch-size", "32", "--rows-per-shard", "32"]
ACTOR, NODE, DRIVER = "actor", "node", "driver"


def node(name, **resources):
    return {"NodeID": name, "Alive": True, "Resources": resources}


def test_a_crew_has_a_name_and_may_have_an_address():
    with pytest.raises(BackboneError, match=r"cannot have 1\.5 GPUs"):
        named_crew("ray", 1.5)
    assert named_crew(None) is None
    assert named_crew("ray") == Ray()
    assert named_crew("ray://head:10001", 0.5) == Ray("ray://head:10001", 0.5)
    with pytest.raises(BackboneError, match="crew 'dask' is unknown; choose one of ray"):
        named_crew("dask")
    with pytest.raises(BackboneError, match="GPUs per actor need a crew"):
        named_crew(None, 1.0)


def test_devices_and_a_crew_exclude_each_other(tmp_path):
    with pytest.raises(BackboneError, match="leave out one of the two"):
        featurepipe.extract(DATA, tmp_path / "s", crew="ray", devices=["cpu", "cpu"])


def test_on_cpus_an_actor_has_a_node_or_as_many_threads_as_were_asked_for():
    nodes = [node("a", CPU=8.0), node("b", CPU=3.0), node("c"), {**node("d", CPU=4.0), "Alive": False}]
    assert [(one.node, one.workers, one.cpus, one.gpus) for one in seats(nodes, None, None)] == [
        ("a", 8, 8, 0),
        ("b", 3, 3, 0),
    ]
    assert Counter(one.node for one in seats(nodes, None, 3)) == {"a": 2, "b": 1}


def test_on_gpus_actors_share_the_cpus_of_their_node():
    nodes = [node("a", CPU=16.0, GPU=4.0), node("b", CPU=64.0)]
    assert [(one.node, one.workers, one.gpus) for one in seats(nodes, None, None)] == [("a", 4, 1)] * 4
    assert [(one.node, one.workers, one.gpus) for one in seats(nodes, 0.5, None)] == [("a", 2, 0.5)] * 8
    assert {one.node for one in seats(nodes, 0, None)} == {"a", "b"}
    assert seats([node("b", CPU=64.0)], 1.0, None) == []


# -- locks of workers


def test_a_worker_that_still_runs_keeps_the_next_writer_away_and_is_named(tmp_path, monkeypatch):
    store = Store.create(tmp_path / "a.store")
    with store.lock():
        locks.admit(store.path, "x-0")
    worker = locks.join(store.path, "x-0")
    monkeypatch.setattr(locks, "SETTLE", 0.05)
    with pytest.raises(StoreError, match=rf"worker of an earlier run \(process {os.getpid()} on "), store.lock():
        pass
    worker.lock.release()
    with store.lock():
        assert not list(store.path.glob(".lock.*.member"))
    with pytest.raises(StoreError, match="is not the folder that this run writes to"):
        locks.join(store.path, "x-0")


def test_a_second_writer_is_told_who_the_first_is(tmp_path):
    store = Store.create(tmp_path / "a.store")
    with store.lock():
        with pytest.raises(StoreError, match=rf"by another process \(process {os.getpid()} on "), store.lock():
            pass
        (store.path / locks.HOLDER).write_bytes(b"\x1b[31m" + b"x" * 20)
        with pytest.raises(StoreError, match=r"by another process \(\\x1b\[31mx+\)"), store.lock():
            pass
    assert not (store.path / locks.HOLDER).exists()


# -- a cluster


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of a cluster, each of one CPU; the head has none, as it cannot be lost."""
    utils = pytest.importorskip("ray.cluster_utils", reason="needs Ray: pip install 'featurepipe[ray]'")
    made = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.others = [made.add_node(num_cpus=1) for _ in range(2)]
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of the data."""
    place = tmp_path_factory.mktemp("alone") / "a.store"
    subprocess.run([sys.executable, "-m", "featurepipe", "extract", DATA, "-s", place, "-q", *HOW], check=True)
    return rows_of(place)


def rows_of(place):
    """Digest → vector as bytes; fails where a digest occurs twice."""
    found = {}
    for path in sorted(place.glob("*-*/shard-*.h5")):
        shard = shards.read(path)
        for digest, vector in zip(shard.digests, np.asarray(shard.embeddings), strict=True):
            assert digest.tobytes() not in found, f"{path} doubles a row"
            found[digest.tobytes()] = vector.tobytes()
    return found


def started(cluster, place, *more):
    command = [sys.executable, "-m", "featurepipe", "extract", DATA, "-s", place, "--crew", "ray", *HOW, *more]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )


def count(place):
    return len(list(place.glob("*-*/shard-*.h5")))


def workers(place):
    """Process ids of the actors that hold a lock."""
    found = []
    for path in place.glob(".lock.*.member"):
        try:
            pid = int(re.match(r"process (\d+)", path.read_text("utf-8"))[1])
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, TypeError):
            continue
        found += [pid] if name.startswith(b"ray::Worker") else []
    return found


def wait_for(condition, run, seconds=600):
    """Whether it came about before the run ended."""
    deadline = time.monotonic() + seconds
    while not condition():
        if run.poll() is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return True


@pytest.mark.ray
def test_two_nodes_give_the_vectors_of_one_process(cluster, alone, tmp_path):
    run = started(cluster, tmp_path / "s")
    said, _ = run.communicate(timeout=900)
    assert run.returncode == 0, said
    assert rows_of(tmp_path / "s") == alone
    assert all(re.fullmatch(r"shard-\d{5}-[0-9a-f]{12}\.h5", path.name) for path in tmp_path.glob("s/*-*/*.h5"))
    assert Store.open(tmp_path / "s").verify()["ok"]
    assert not list((tmp_path / "s").glob(".lock.*"))
    again = started(cluster, tmp_path / "s")
    assert "0 computed" in again.communicate(timeout=900)[0]


@pytest.mark.ray
def test_ctrl_c_keeps_what_is_finished_and_a_second_driver_is_refused(cluster, alone, tmp_path):
    place = tmp_path / "s"
    run = started(cluster, place)
    assert wait_for(lambda: count(place) >= 3, run)
    run.send_signal(signal.SIGSTOP)  # so that it is not done before the second one has started, which may take long
    second = started(cluster, place)
    said, _ = second.communicate(timeout=900)
    run.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert f"another process (process {run.pid} on" in said
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=900)
    assert run.returncode == 130, said
    held = rows_of(place)
    assert 0 < len(held) < len(alone)
    assert not workers(place)
    last = started(cluster, place)
    said, _ = last.communicate(timeout=900)
    assert last.returncode == 0, said
    assert rows_of(place) == alone


@pytest.mark.ray
def test_whatever_is_killed_no_row_is_lost_or_doubled(cluster, alone, tmp_path):
    """Actors, nodes and drivers are killed at random instants; every run in the end has all rows, each once."""
    draw = random.Random(0)
    kinds = [(ACTOR, ACTOR, NODE, ACTOR, DRIVER)[number % 5] for number in range(KILLS)]
    draw.shuffle(kinds)
    rounds = 0
    while kinds:
        place, rounds = tmp_path / f"{rounds}", rounds + 1
        run, before = started(cluster, place), 0
        while run.poll() is None:
            if not kinds:
                run.wait(900)
                break
            if not wait_for(lambda: count(place) > before and workers(place), run):  # noqa: B023
                break
            time.sleep(draw.uniform(0, 1.5))
            before = count(place)
            run = killed(cluster, kinds.pop(), place, run, draw)
        said = run.communicate()[0]
        assert run.returncode == 0, said
        assert rows_of(place) == alone
        assert Store.open(place).verify() == {"ok": True, "checked": len(alone), "problems": [], "repaired": []}


def killed(cluster, kind, place, run, draw):
    """Kill one; the run that goes on."""
    print(f"{kind} at {count(place)} shards, {sorted(workers(place))}", flush=True)
    if kind == DRIVER:
        run.kill()
        run.communicate()
        return started(cluster, place)
    if kind == NODE:
        lost = cluster.others.pop(draw.randrange(len(cluster.others)))
        cluster.remove_node(lost, allow_graceful=False)
        cluster.others.append(cluster.add_node(num_cpus=1))
    elif able := workers(place):
        os.kill(draw.choice(able), signal.SIGKILL)
    return run
