"""Engines: the size of batches, what happens without memory, and whether compiling pays."""

import shutil
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import numpy as np
import pytest
from ears import Ear

from featurepipe import backbones
from featurepipe.backbones import Backbone, Pixels
from featurepipe.errors import BackboneError, OutOfMemory
from featurepipe.extraction import Engine, Memory, engines
from featurepipe.extraction.engines import BatchSize, lane_batch, lanes_for
from featurepipe.extraction.loop import fill
from featurepipe.images import ImageTransform

PIXELS = Pixels()
DEVICES = pytest.mark.parametrize("device", ["cpu", "cuda"])  # the latter is a name here; nothing of torch's runs


@pytest.fixture(scope="module")
def net():
    transform = {"input_size": (3, 32, 32)}
    return backbones.create("test_resnet", random_weights=True, transform=transform, precision="fp32", device="cpu")


class Greedy:
    """A backbone that has memory for `most` images at once."""

    def __init__(self, most, device="cpu", inner=PIXELS):
        self.most, self.device, self.inner, self.tried = most, device, inner, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def embed(self, pixels):
        self.tried.append(len(pixels))
        if len(pixels) > self.most:
            raise OutOfMemory(f"no memory for {len(pixels)} images")
        return self.inner.embed(pixels)


def doing(net, **methods):
    """The same network, as a kind of backbone that has methods of its own."""
    kind = type("Doing", (Backbone,), methods)
    return kind(**{field.name: getattr(net, field.name) for field in fields(net)})


def untried(*_):
    pytest.fail("tried")


def noise(count, size=(3, 32, 32)):
    return np.random.default_rng(0).integers(0, 256, (count, *size), np.uint8)


# -- how many at once


def grow(speeds, *, start=32):
    """The sizes that a batch size runs through where `speeds` says how many images a second a size makes."""
    size, seen = BatchSize(start, ramp=True), []
    for _ in range(60):
        seen.append(size.current)
        size.record(size.current, size.current / speeds(size.current))
    return list(dict.fromkeys(seen)), size.current


def test_a_batch_size_doubles_for_as_long_as_that_is_faster():
    assert grow(lambda size: min(size, 128)) == ([32, 64, 128, 256], 128)
    assert grow(lambda size: size) == ([32, 64, 128, 256, 512, 1024], 1024)
    assert grow(lambda size: 100) == ([32, 64], 32)
    assert grow(lambda size: 100 * 1.04 ** (size // 32)) == ([32, 64], 32)  # too little to be more than chance


def test_a_batch_size_without_ramp_stays():
    size = BatchSize(8, ramp=False)
    for _ in range(10):
        size.record(8, 0.001)
    assert size.current == 8


def test_the_rests_of_a_plan_do_not_count_for_the_ramp():
    size = BatchSize(32, ramp=True)
    for _ in range(10):
        size.record(5, 0.001)
    assert size.current == 32


def test_where_only_short_batches_come_the_longest_of_them_is_taken():
    size = BatchSize(64, ramp=True)  # of large files no more than 40 come together
    for rest in (40, 24, 40, 8) * 3:
        size.record(rest, 0.001)
    assert (size.current, size.settled) == (64, False)
    size.record(64, 0.001)  # one that is whole after all
    for rest in (40, 24, 40, 8) * 4:
        size.record(rest, 0.001)
    assert (size.current, size.settled) == (40, True)


def test_a_size_that_failed_is_halved_for_good_and_once():
    size = BatchSize(32, ramp=True)
    assert size.halve(32)
    assert size.current == 16
    assert not size.halve(32)  # another thread had the same news
    for _ in range(10):
        size.record(16, 0.001)
    assert size.current == 16
    assert size.halve(10)  # a rest of the plan, smaller than a batch
    assert size.current == 5


def test_a_single_image_cannot_be_halved():
    assert not BatchSize(1, ramp=False).halve(1)


@pytest.mark.parametrize(("side", "first", "last"), [(224, 32, 1024), (32, 32, 1024), (512, 32, 196), (4096, 3, 3)])
def test_large_images_are_no_reason_to_hold_more_bytes(side, first, last):
    transform = ImageTransform((3, side, side), "bilinear", (0.5,) * 3, (0.5,) * 3, 1.0)
    size = Engine(Greedy(0, "cuda", Pixels(transform=transform))).size
    assert size.current == first
    for _ in range(60):
        size.record(size.current, 0.001)  # ever faster
    assert last // 2 < size.current <= last
    assert size.settled


@pytest.mark.parametrize(("side", "images"), [(32, 64), (160, 15), (224, 8), (384, 4), (1024, 4)])
def test_a_lanes_batch_holds_as_many_pixels_as_a_cache(side, images):
    transform = ImageTransform((3, side, side), "bilinear", (0.5,) * 3, (0.5,) * 3, 1.0)
    assert lane_batch(Pixels(transform=transform)) == images


def test_one_lane_per_core_that_this_process_may_use():
    assert Engine(PIXELS).lanes == min(engines.default_workers(), engines.MAX_LANES)
    assert Engine(PIXELS, workers=40).lanes == 40


def test_lanes_that_only_read_are_as_many_as_there_are_cores():
    assert (lanes_for(own_device=False, cores=100), lanes_for(own_device=True, cores=100)) == (engines.MAX_LANES, 100)
    assert lanes_for(own_device=False, cores=3) == lanes_for(own_device=True, cores=3) == 3
    assert Engine(Greedy(1, "cuda")).lanes == engines.default_workers()


@pytest.mark.parametrize(("device", "threads"), [("cuda", 2), ("cuda:1", 2), ("mps", 1), ("mps:0", 1), ("xpu", 1)])
def test_two_threads_share_a_cuda_device_and_no_other(device, threads):
    assert Engine(Greedy(1, device), workers=5).infer_threads == threads


# -- without memory


@pytest.mark.parametrize("most", [1, 3, 5, 31, 32, 1000])
@DEVICES
def test_what_needs_too_much_memory_is_done_in_smaller_pieces(most, device):
    engine = Engine(Greedy(most, device), batch_size=32)
    pixels = noise(77)
    np.testing.assert_array_equal(engine.infer(pixels), PIXELS.embed(pixels))
    assert engine.size.current == {1: 1, 3: 2, 5: 4, 31: 16, 32: 32, 1000: 32}[most]
    halvings = [32, 16, 8, 4, 2][: {1: 5, 3: 4, 5: 3, 31: 1, 32: 0, 1000: 0}[most]]
    assert list(engine.notes) == [
        f"note: out of memory with {size} images at once on {device}; continuing with {size // 2}" for size in halvings
    ]


def test_the_smaller_size_is_remembered():
    backbone = Greedy(8)
    engine = Engine(backbone, batch_size=32)
    engine.infer(noise(32))
    backbone.tried.clear()
    engine.infer(noise(32))
    assert backbone.tried == [8, 8, 8, 8]


def test_one_image_too_many_is_one_clear_error():
    engine = Engine(Greedy(0), batch_size=4)
    with pytest.raises(OutOfMemory, match="no memory for 1 images"):
        engine.infer(noise(4))
    assert engine.size.current == 1


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("batch_size", [None, 16, 7])
@DEVICES
def test_an_extraction_goes_on_in_order_with_what_memory_there_is(planned, workers, batch_size, device):
    plan, sink, notes = planned(50), Memory(), []
    fill(plan, Greedy(3, device), sink, batch_size=batch_size, workers=workers, listener=Ear(notes.append))
    assert list(sink.vectors) == [pending.digest for pending in plan]
    assert all(np.array_equal(sink.vectors[p.digest], planned.vector(n)) for n, p in enumerate(plan))
    assert notes
    assert len(set(notes)) == len(notes)
    assert notes[-1].startswith("note: out of memory with ")
    assert notes[-1].endswith(("continuing with 3", "continuing with 2"))


@DEVICES
def test_an_extraction_without_memory_for_one_image_ends_with_one_line(planned, device):
    with pytest.raises(OutOfMemory, match="no memory for 1 images"):
        fill(planned(20), Greedy(0, device), Memory(), batch_size=8, workers=2)


def test_threads_that_fail_at_the_same_moment_halve_once():
    together = threading.Barrier(2)

    class Together(Greedy):
        def embed(self, pixels):
            if len(pixels) > self.most:
                together.wait(10)
            return super().embed(pixels)

    engine, found, pixels = Engine(Together(4), batch_size=8, workers=2), {}, noise(16)
    parts = {0: pixels[:8], 1: pixels[8:]}
    threads = [
        threading.Thread(target=lambda n=n, part=part: found.update({n: engine.infer(part)}))
        for n, part in parts.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.concatenate([found[0], found[1]]), PIXELS.embed(pixels))
    assert (engine.size.current, len(engine.notes)) == (4, 1)


def test_what_failed_beside_another_is_tried_again_alone_before_it_shrinks_further():
    lock, both, failed, held = threading.Lock(), threading.Barrier(2), threading.Event(), [0]

    class Shared(Greedy):
        """Memory for 20 images of all threads; who has some keeps it until another has failed for want of it."""

        def embed(self, pixels):
            with lock:
                fits = held[0] + len(pixels) <= 20
                held[0] += len(pixels) * fits
            if len(pixels) == 16:
                both.wait(10)
            if not fits:
                failed.set()
                raise OutOfMemory("no memory")
            assert failed.wait(10)
            time.sleep(0.2)  # in which half of it would not fit either
            with lock:
                held[0] -= len(pixels)
            return self.inner.embed(pixels)

    engine, pixels = Engine(Shared(0, "cuda"), batch_size=16), noise(32)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(engine.infer, (pixels[:16], pixels[16:])))
    np.testing.assert_array_equal(np.concatenate(found), PIXELS.embed(pixels))
    assert (engine.size.current, len(engine.notes)) == (8, 1)


def test_who_is_alone_waits_for_others_and_lets_nobody_in():
    turns, inside, go, seen = engines._Turns(), threading.Event(), threading.Event(), []

    def first():
        with turns.shared():
            inside.set()
            assert go.wait(10)
            seen.append("first")

    def second():
        with turns.alone():
            seen.append("alone")
            time.sleep(0.1)
            seen.append("still")

    def third():
        with turns.shared():
            seen.append("third")

    threads = [threading.Thread(target=target) for target in (first, second, third)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    while not turns._alone:
        time.sleep(0.001)
    threads[2].start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert seen == ["first", "alone", "still", "third"]


SHORT_OF_MEMORY = """
import resource, sys
import numpy as np
import torch
from featurepipe import backbones
from featurepipe.extraction import Memory
from featurepipe.extraction.loop import fill
from featurepipe.images import ImageTransform
from featurepipe.listeners import Listener
from featurepipe.sources import InMemory
from featurepipe.stores import Pending

torch.set_num_threads(1)
transform = {"input_size": (3, 128, 128), "decoder": "pillow"}
net = backbones.create("test_resnet", random_weights=True, transform=transform, precision="fp32", device="cpu")
rng = np.random.default_rng(0)


class Ear(Listener):
    def note(self, text):
        notes.append(text)


sources = [InMemory({"": rng.integers(0, 256, (128, 128, 3), np.uint8)}) for _ in range(300)]
plan = [Pending(source.digest(""), source, "") for source in sources]
wanted, found, notes = Memory(), Memory(), []
fill(plan, net, wanted, batch_size=4, workers=1, compile="off")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
fill(plan, net, found, batch_size=300, workers=1, compile="off", listener=Ear())
assert list(found.vectors) == list(wanted.vectors)
a, b = (np.stack(list(memory.vectors.values())) for memory in (wanted, found))
print(np.abs(a - b).max() <= 1e-4 * np.abs(a).max(), len(notes), notes[0] if notes else "")
"""


@pytest.mark.processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space, and reads /proc")
def test_a_process_that_really_runs_out_of_memory_goes_on_with_less():
    done = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    same, count, note = done.stdout.split(maxsplit=2)
    assert same == "True"
    assert int(count) >= 1
    assert note.startswith("note: out of memory with 300 images at once on cpu; continuing with 150")


# -- compiling


def timed(net, *, seconds=0.01, batches=16, workers=2, compile="auto"):
    """An engine that has run batches at so many seconds per image."""
    engine = Engine(net, batch_size=2, workers=workers, compile=compile)
    engine._times.extend([seconds] * batches)
    return engine


def test_compiling_is_wanted_once_and_only_if_the_images_left_repay_it(net):
    enough = int(2 * engines.COMPILE_SECONDS / (1 - 1 / engines.COMPILE_GAIN) / 0.01) + 1  # at 10 ms of two lanes
    engine = timed(net)
    assert not engine.wants_compiling(0)
    assert not engine.wants_compiling(enough // 2)
    assert engine.wants_compiling(enough)
    assert not engine.wants_compiling(enough)
    assert not timed(net, seconds=0.005).wants_compiling(enough)


def test_without_batch_norms_to_fold_compiling_gains_less_and_wants_a_longer_run(net):
    transform = {"input_size": (3, 160, 160)}
    vit = backbones.create("test_vit", random_weights=True, transform=transform, precision="fp32", device="cpu")
    enough = int(2 * engines.COMPILE_SECONDS / (1 - 1 / engines.COMPILE_GAIN_PLAIN) / 0.01) + 1
    assert not timed(vit).wants_compiling(9 * enough // 10)
    assert timed(net).wants_compiling(9 * enough // 10)
    assert timed(vit).wants_compiling(enough)


def test_what_compiling_repays_is_counted_by_the_clock_however_many_threads_share_it(net):
    engine = timed(net, workers=10, batches=80)
    enough = 10 * engines.COMPILE_SECONDS / (1 - 1 / engines.COMPILE_GAIN) / 0.01
    assert not engine.wants_compiling(int(0.9 * enough))
    assert engine.wants_compiling(int(1.1 * enough))


def test_nobody_infers_while_a_network_is_compiled(planned, net):
    """torch's tracing replaces Module.__call__ for every thread: another's forward pass then fails."""
    inside, overlaps, compiled = [], [], threading.Event()

    def embed(self, pixels):
        inside.append(None)
        time.sleep(0.01)
        try:
            return Backbone.embed(self, pixels)
        finally:
            inside.pop()

    def compile_(self, size):
        for _ in range(20):
            overlaps.append(len(inside))
            time.sleep(0.01)
        compiled.set()
        return self

    sink = Memory()
    fill(planned(10), doing(net, embed=embed, compile=compile_), sink, batch_size=2, workers=4, compile="on")
    assert len(sink.vectors) == 10
    assert compiled.is_set()
    assert set(overlaps) == {0}


def test_compiling_waits_until_the_batches_times_can_be_trusted(net):
    assert not timed(net, batches=15).wants_compiling(10**9)
    assert timed(net, batches=16).wants_compiling(10**9)


def test_compiling_is_off_where_it_was_turned_off_or_there_is_no_network(net):
    assert not timed(net, compile="off").wants_compiling(10**9)
    assert not timed(PIXELS).wants_compiling(10**9)
    assert not timed(PIXELS, compile="on").wants_compiling(10**9)


def test_compiling_that_was_asked_for_is_wanted_at_once_and_once(net):
    engine = Engine(net, compile="on")
    assert engine.wants_compiling(1)
    assert not engine.wants_compiling(10**9)


def test_compiling_waits_for_the_batch_size_that_it_is_made_for(net, compiler):
    engine = Engine(replace(net, device="cuda"), compile="on")
    assert not engine.wants_compiling(10**9)
    for _ in range(30):
        engine.size.record(engine.size.current, 1.0 / engine.size.current)  # the larger, the faster, to the last
    assert engine.size.settled
    assert engine.wants_compiling(10**9)


def test_a_run_that_is_over_before_its_batch_size_is_found_says_that_it_was_not_compiled(planned, net):
    on_cuda = doing(replace(net, device="cuda"), compile=untried)
    found, notes = vectors_of(planned, on_cuda, compile="on", batch_size=None)
    assert len(found) == 10
    assert notes == [
        "note: not compiled, because the run ended before a batch size was found; set the batch size to compile"
    ]
    assert vectors_of(planned, on_cuda, compile="auto", batch_size=None)[1] == []
    fill([], on_cuda, Memory(), compile="on", listener=Ear(notes.append))
    assert len(notes) == 1


@pytest.mark.parametrize(("compile", "said"), [("on", ["note: networks are not compiled on mps"]), ("auto", [])])
def test_nothing_is_compiled_on_mps(net, compile, said):
    engine = Engine(replace(net, device="mps"), batch_size=4, compile=compile)
    engine._times.extend([1.0] * 100)
    assert not engine.wants_compiling(10**9)
    assert list(engine.notes) == said


@pytest.fixture
def compiler(monkeypatch):
    """What is taken for a C++ compiler, whether there is one or not."""
    monkeypatch.setenv("CXX", sys.executable)


def vectors_of(planned, net, **options):
    """Vectors of ten pictures, as (10, width), and what was noted."""
    sink, notes = Memory(), []
    fill(planned(10), net, sink, workers=2, listener=Ear(notes.append), **{"batch_size": 4, **options})
    return np.stack(list(sink.vectors.values())), notes


def test_a_network_that_cannot_be_compiled_goes_on_without(planned, net, compiler):
    def fail(*_):
        raise BackboneError("test_resnet cannot be compiled: no reason")

    wanted, _ = vectors_of(planned, net, compile="off")
    found, notes = vectors_of(planned, doing(net, compile=fail), compile="on")
    assert found.tobytes() == wanted.tobytes()
    assert notes == ["note: test_resnet cannot be compiled: no reason; continuing uncompiled"]


def test_without_a_compiler_nothing_is_tried_and_it_is_said_once(planned, net, monkeypatch):
    wanted, _ = vectors_of(planned, net, compile="off")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    found, notes = vectors_of(planned, doing(net, compile=untried), compile="on")
    assert found.tobytes() == wanted.tobytes()
    assert notes == ["note: no C++ compiler found (g++, or the environment's CXX); not compiled"]


class Compiled:
    """What `Backbone.compile` might make: the same vectors, and it knows how often it was asked."""

    def __init__(self, inner, most=10**9):
        self.inner, self.most, self.tried = inner, most, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def embed(self, pixels):
        self.tried.append(len(pixels))
        if len(pixels) > self.most:
            raise OutOfMemory("no memory")
        return self.inner.embed(pixels)


@pytest.fixture
def compiles(compiler, net):
    """Factory of a network of which compiling makes a `Compiled`, and the list of all that were made."""

    def make(most=10**9):
        made = []

        def compile_(self, batch_size):
            made.append((Compiled(self, most), batch_size))
            return made[-1][0]

        return doing(net, compile=compile_), made

    return make


def test_the_compiled_network_takes_over_at_the_size_of_the_time(compiles):
    net, made = compiles()
    engine = Engine(net, batch_size=3, workers=1, compile="on")
    engine.compile()
    ((compiled, size),) = made
    assert size == 3
    assert engine.extractor is compiled
    np.testing.assert_array_equal(
        engine.infer(noise(7)), np.concatenate([net.embed(noise(7)[i : i + 3]) for i in (0, 3, 6)])
    )
    assert compiled.tried == [3, 3, 1]
    assert engine.notes.popleft().startswith("compiled in ")


def test_a_compiled_network_gets_no_more_than_it_was_made_for(compiles):
    net, made = compiles()
    engine = Engine(net, batch_size=4, workers=1, compile="on")
    engine.compile()
    engine.size.current = 16
    engine.infer(noise(10))
    assert made[0][0].tried == [4, 4, 2]


def test_a_network_that_was_compiled_for_what_is_too_many_by_then_is_not_used(net, compiler):
    def compile_(self, batch_size):
        engine.back_off(8)  # another thread, meanwhile
        return Compiled(self)

    eager = doing(net, compile=compile_)
    engine = Engine(eager, batch_size=8, workers=1, compile="on")
    engine.compile()
    assert engine.extractor is eager
    assert list(engine.notes)[1:] == ["note: compiled for 8 images at once, which is too many; continuing uncompiled"]


@pytest.mark.parametrize(("before", "stays"), [(1e-9, False), (1e9, True)])
def test_a_compiled_network_that_is_slower_is_left_again(compiles, before, stays):
    net, _ = compiles()
    engine = Engine(net, batch_size=2, workers=1)
    engine._times.extend([before] * 10)
    engine.compile()
    engine.notes.clear()
    engine.infer(noise(2 * engines.TRIALS))
    assert (engine.extractor is not net) is stays
    assert list(engine.notes) == ([] if stays else ["note: the compiled network is slower here; continuing uncompiled"])


def test_a_compiled_network_without_memory_is_left_for_the_eager_one(compiles):
    net, _ = compiles(most=0)
    engine = Engine(net, batch_size=4, workers=1, compile="on")
    engine.compile()
    pixels = noise(4)
    engine.notes.clear()
    np.testing.assert_array_equal(engine.infer(pixels), net.embed(pixels))
    assert (engine.extractor is net, engine.size.current) == (True, 4)  # which has memory enough
    assert list(engine.notes) == ["note: the compiled network failed (possibly out of memory); continuing uncompiled"]
    assert not engine.wants_compiling(10**9)


def test_what_a_compiled_network_fails_of_the_eager_one_says(compiler, small):
    def fail(*_):
        raise RuntimeError("an operation is missing")

    net = doing(small(), compile=lambda self, batch_size: Compiled(self, most=0))
    engine = Engine(net, batch_size=4, workers=1, compile="on")
    engine.compile()
    next(net.module.children()).register_forward_pre_hook(fail)
    with pytest.raises(BackboneError, match="an operation is missing"):
        engine.infer(noise(4))


def test_the_networks_time_does_not_count_waiting_for_the_compiler(net, compiler, monkeypatch):
    begun, late, clock, pixels = threading.Event(), [0], time.perf_counter, noise(4)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late[0])

    def slow(self, size):
        begun.set()
        time.sleep(0.1)  # who infers has time to wait for this
        late[0] = 1000
        raise BackboneError("it takes too long")

    engine = Engine(doing(net, compile=slow), batch_size=4, workers=2, compile="on")
    engine.extractor.embed(pixels)
    with ThreadPoolExecutor(2) as pool:
        compiling = pool.submit(engine.compile)
        assert begun.wait(10)
        pool.submit(engine.infer, pixels).result()
        compiling.result()
    assert 0 < engine.infer_seconds < 1000 <= engine.compile_seconds


@pytest.mark.parametrize("workers", [1, 2])
def test_no_error_of_compiling_ends_a_run(planned, net, compiler, workers):
    def fail(*_):
        raise KeyError("a mistake")

    sink, notes = Memory(), []
    failing, listener = doing(net, compile=fail), Ear(notes.append)
    fill(planned(10), failing, sink, batch_size=4, workers=workers, compile="on", listener=listener)
    assert len(sink.vectors) == 10
    assert notes == ["note: cannot be compiled: KeyError('a mistake'); continuing uncompiled"]


@pytest.mark.slow
def test_an_extraction_compiles_on_its_way_and_says_so(planned, compiles, monkeypatch):
    monkeypatch.setattr(engines, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(engines, "TRIALS", 2)
    net, made = compiles()
    plan, plain, sink, notes = planned(60), Memory(), Memory(), []
    fill(plan, net, plain, batch_size=2, workers=2, compile="off")
    outcome = fill(plan, net, sink, batch_size=2, workers=2, listener=Ear(notes.append))
    assert len(made) == 1
    assert made[0][0].tried
    assert notes[0].startswith("compiled in ")
    assert outcome.compile_seconds > 0
    assert list(sink.vectors) == [pending.digest for pending in plan]
    assert all(np.array_equal(sink.vectors[pending.digest], plain.vectors[pending.digest]) for pending in plan)


@pytest.mark.compile
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
def test_a_really_compiled_network_gives_the_same_vectors_for_whole_batches_and_rests(net):
    ways, pixels = [], noise(11)

    def compile_(self, some, *, from_c):
        ways.append(from_c)
        return Backbone._compile(self, some, from_c=from_c)

    engine = Engine(doing(net, _compile=compile_), batch_size=4, workers=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's compiler
        engine.compile()
        found = engine.infer(pixels)
    assert [note.split(" in ")[0] for note in engine.notes] == ["compiled"]
    assert ways == [True]  # the first has worked
    assert engine.extractor.batch_size == 4
    wanted = net.embed(pixels)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    with ThreadPoolExecutor(2) as pool:  # which call it with the interpreter's lock released
        together = list(pool.map(engine.infer, [pixels[:4], pixels[4:8]] * 8))
    for turn, vectors in enumerate(together):
        np.testing.assert_array_equal(vectors, found[4:8] if turn % 2 else found[:4])
