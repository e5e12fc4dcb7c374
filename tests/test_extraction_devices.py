"""Devices: several processes over one plan. Two times ``cpu`` are two devices, as far as all of this is concerned."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path

import numpy as np
import pytest
from ears import Ear
from PIL import Image

from featurepipe import backbones, shards
from featurepipe.digests import sha256_file
from featurepipe.errors import BackboneError
from featurepipe.extraction import devices
from featurepipe.extraction.chunks import Share
from featurepipe.extraction.devices import fill_together
from featurepipe.extraction.loop import fill
from featurepipe.sources import Files, InMemory
from featurepipe.stores import Pending, Store, Writer

COUNT, ROWS = 43, 8


def writer(store, extractor, rows=ROWS):
    return Writer(store.entry(extractor), {"name": extractor.name, "source": extractor.source}, rows)


def content(store):
    """Shard name → (digests, vectors, rejects)."""
    found = {}
    for path in sorted(store.path.glob("*/shard-*.h5")):
        shard = shards.read(path)
        digests = [row.tobytes().hex() for row in shard.digests]
        found[path.name] = (digests, np.asarray(shard.embeddings), dict(shard.rejects))
    return found


def rows_of(found):
    return {digest: row for digests, vectors, _ in found.values() for digest, row in zip(digests, vectors, strict=True)}


@pytest.fixture(scope="module")
def net():
    transform = {"input_size": (3, 32, 32)}
    return backbones.create("test_resnet", random_weights=True, transform=transform, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Pictures, one of them broken, and in the last shard one that is not there, and one that was changed since."""
    folder, rng, plan = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for number in range(COUNT):
        path = folder / f"{number:03}.png"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
        if number == 9:
            path.write_bytes(b"no image")
        plan.append(Pending(sha256_file(path), Files(), str(path)))
    Path(plan[40].place).unlink()
    Path(plan[41].place).write_bytes(Path(plan[31].place).read_bytes())
    return plan


def alone(tmp_path_factory, plan, net, batch_size):
    store = Store.create(tmp_path_factory.mktemp("alone") / "a.store")
    return fill(plan, net, writer(store, net), batch_size=batch_size, workers=1, compile="off"), content(store)


@pytest.fixture(scope="module", params=[4, 3], ids=["whole batches to a shard", "batches across shards"])
def both(request, tmp_path_factory, plan, net):
    """Batch size, (outcome, shards) of one device and of two; of the latter also writer, progress and all seconds."""
    one = alone(tmp_path_factory, plan, net, request.param)
    store, done = Store.create(tmp_path_factory.mktemp("together") / "a.store"), []
    sink = writer(store, net)
    settings = {"batch_size": request.param, "workers": 1, "compile": "off", "listener": Ear(advance=done.append)}
    started = time.perf_counter()
    outcome = fill_together(plan, net, sink, ("cpu", "cpu"), **settings)
    return request.param, one, (outcome, content(store)), sink, done, time.perf_counter() - started


@pytest.mark.processes
def test_two_devices_give_each_image_the_vector_that_one_gives_it(both):
    _, (_, wanted), (_, found), *_ = both
    wanted, found = rows_of(wanted), rows_of(found)
    assert wanted.keys() == found.keys()
    assert len(found) == COUNT - 3
    for digest, row in wanted.items():
        assert row.tobytes() == found[digest].tobytes()


@pytest.mark.processes
def test_where_batches_fill_shards_they_are_the_shards_of_one_device(both):
    batch_size, (_, wanted), (_, found), *_ = both
    if batch_size == 4:
        assert len(found) == 6
        assert found.keys() == wanted.keys()
        assert all(found[name][0] == wanted[name][0] and found[name][2] == wanted[name][2] for name in wanted)
    else:  # the same, except for the last one, which two devices share
        assert [len(found[name][0]) + len(found[name][2]) for name in sorted(found)] == [9, 9, 9, 9, 4, 1]
        assert [len(wanted[name][0]) + len(wanted[name][2]) for name in sorted(wanted)] == [9, 9, 9, 9, 5]


@pytest.mark.processes
def test_the_outcome_of_two_devices_is_that_of_one_but_for_its_times(both, plan):
    _, (wanted, _), (found, _), sink, done, _ = both
    assert (found.computed, found.rejects) == (wanted.computed, wanted.rejects)
    assert set(sink.rejects) == {plan[9].digest}
    assert (found.lanes, found.infer_threads, found.processes, sum(done)) == (2, 2, 2, COUNT)


@pytest.mark.processes
def test_elapsed_is_the_time_of_the_images_in_what_the_call_took(both):
    (outcome, _), seconds = both[2], both[5]
    assert 0 < outcome.elapsed < seconds
    assert 2 * outcome.elapsed >= outcome.infer_seconds + outcome.decode_seconds


@pytest.mark.processes
def test_what_ends_one_device_ends_all_and_keeps_what_is_finished(tmp_path, plan, net):
    store = Store.create(tmp_path / "a.store")

    def progress(count):
        if count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_together(
            plan, net, writer(store, net), ("cpu", "cpu"), batch_size=4, workers=1, listener=Ear(advance=progress)
        )
    assert set(rows_of(content(store))) <= {pending.digest for pending in plan}
    assert content(store)


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped there")
def test_no_process_outlives_a_ctrl_c_while_they_are_waited_for(tmp_path, plan, net, monkeypatch):
    store, shutdown = Store.create(tmp_path / "a.store"), ProcessPoolExecutor.shutdown
    children, ended = [], []
    before = set(multiprocessing.active_children())

    def interrupted(self, **options):
        if not children:
            children.extend(set(multiprocessing.active_children()) - before)
            for child in children:
                os.kill(child.pid, signal.SIGSTOP)  # as long as that, they do not come to an end by themselves
            raise KeyboardInterrupt
        for child in children:
            ended.append(bool(connection.wait([child.sentinel], 10)))
            if not ended[-1]:
                os.kill(child.pid, signal.SIGCONT)
        shutdown(self, **options)

    def progress(count):
        raise KeyboardInterrupt

    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill_together(
            plan, net, writer(store, net), ("cpu", "cpu"), batch_size=4, workers=1, listener=Ear(advance=progress)
        )
    assert ended == [True, True]
    assert not set(multiprocessing.active_children()) - before


SLOW = """
import multiprocessing, os, pathlib, time, torch

HERE = pathlib.Path(__file__).parent

class Net(torch.nn.Module):
    role = None

    def forward(self, x):
        if multiprocessing.parent_process() is not None and len(x) == 4:  # no trial
            self.work(len(x))
        return x.mean((2, 3))

    def work(self, count):
        if self.role is None:
            try:
                os.close(os.open(HERE / "slow", os.O_CREAT | os.O_EXCL))
                self.role = "slow"
            except FileExistsError:
                self.role = "fast"
        if self.role == "slow":
            deadline = time.monotonic() + 300
            while not (HERE / "fast").exists() or (HERE / "fast").stat().st_size < 28:
                assert time.monotonic() < deadline, "the other one has not gone on"
                time.sleep(0.05)
        with open(HERE / self.role, "a") as file:
            file.write("." * count)
"""


@pytest.mark.processes
def test_a_slow_device_takes_less_and_the_others_go_on(tmp_path, plan, monkeypatch):
    """The slow one stops at its first batch until the other has embedded more than an equal share."""
    (tmp_path / "slownets.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    net = backbones.create("module:slownets:Net", transform={"input_size": (3, 32, 32)}, precision="fp32", device="cpu")
    store = Store.create(tmp_path / "a.store")
    outcome = fill_together(plan, net, writer(store, net), ("cpu", "cpu"), batch_size=4, workers=1, compile="off")
    assert outcome.computed == len(rows_of(content(store))) == COUNT - 3
    slow, fast = ((tmp_path / role).stat().st_size for role in ("slow", "fast"))
    assert 0 < slow < COUNT // 2 < 28 <= fast


@pytest.mark.processes
def test_a_device_that_is_not_there_is_one_line(tmp_path, plan, net):
    store = Store.create(tmp_path / "a.store")
    with pytest.raises(BackboneError, match="device 'nowhere' cannot be used here"):
        fill_together(plan, net, writer(store, net), ("cpu", "nowhere"), batch_size=4, workers=1)


# -- shares


def test_a_share_is_the_pendings_that_it_was_made_of():
    one, other = Files("/a"), Files("/b")
    plan = [
        Pending(f"{n:064x}", (one, other)[n % 2], f"ü {n}.jpg", "1,2,3,4" if n == 3 else None, n > 2) for n in range(5)
    ]
    share = pickle.loads(pickle.dumps(Share(plan)))
    assert list(share) == plan
    assert (len(share), share[-1], share[1:4], share[3:99]) == (5, plan[-1], plan[1:4], plan[3:])
    with pytest.raises(IndexError):
        share[5]
    assert list(Share([])) == []


@pytest.mark.skipif(sys.platform == "win32", reason="names there are no bytes")
def test_a_share_keeps_names_that_are_no_text():
    pending = Pending("0" * 64, Files(), "\udcff\udc80.png")
    assert list(pickle.loads(pickle.dumps(Share([pending])))) == [pending]


def test_a_share_is_sent_in_little_more_than_its_paths():
    source = Files("/a/folder/of/some/length")
    plan = [Pending(f"{n:064x}", source, f"of/some/length/{n:06}.jpg") for n in range(10_000)]
    assert len(pickle.dumps(Share(plan))) < len(plan) * (len(plan[0].place) + 46)


def test_a_share_of_what_is_in_memory_is_sent_with_its_own_contents_alone():
    source = InMemory({f"{n}": bytes([n]) * 10_000 for n in range(8)})
    plan = [Pending(source.digest(f"{n}"), source, f"{n}") for n in range(8)]
    sent = pickle.dumps(Share(plan[:2]))
    assert 20_000 < len(sent) < 22_000
    assert [one.read() for one in pickle.loads(sent)] == [bytes([n]) * 10_000 for n in range(2)]
    assert len(source.contents) == 8


@pytest.mark.slow
def test_no_process_is_sent_what_the_entry_holds_already(tmp_path, plan, net):
    store = Store.create(tmp_path / "a.store")
    fill(plan, net, writer(store, net), batch_size=4, workers=1, compile="off")
    entry = store.entry(net)
    sent = writer(store, net).share().entry
    assert sent.rejects() == entry.rejects() != {}
    assert sum(len(index.digests) for index in sent.indexes) == 0
    assert sum(len(index.digests) for index in entry.indexes) == COUNT - 3
    assert replace(sent, indexes=()) == replace(entry, indexes=())


@pytest.mark.processes
def test_a_script_without_a_main_guard_is_told_so_and_shown_one(tmp_path, photos):
    script = tmp_path / "script.py"
    options = "backbone='pixels', devices=['cpu', 'cpu'], rows_per_shard=2"
    call = f"featurepipe.extract({str(photos())!r}, {str(tmp_path / 's')!r}, {options})"
    script.write_text(f"import featurepipe\n{call}\n", "utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"featurepipe.errors.BackboneError: {devices.GUARD}"
    assert devices.GUARD.endswith('if __name__ == "__main__":')


@pytest.mark.processes
def test_a_script_from_standard_input_is_told_to_be_a_file(monkeypatch, plan, net, tmp_path):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "<stdin>", raising=False)
    with pytest.raises(BackboneError, match=r"from standard input.*save it as a file, with a guard"):
        fill_together(plan, net, writer(Store.create(tmp_path / "s"), net), ("cpu", "cpu"))
