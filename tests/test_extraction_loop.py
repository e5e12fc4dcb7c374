"""The loop: each image's own vector in planned order, whatever the lanes, the batch and the neighbours do."""

import signal
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from ears import Ear
from PIL import Image

from featurepipe import backbones
from featurepipe.backbones import Backbone, Pixels
from featurepipe.digests import sha256_file
from featurepipe.errors import BackboneError, OutOfMemory
from featurepipe.extraction import Memory, engines, loop
from featurepipe.extraction.loop import NOT_FINITE, fill
from featurepipe.sources import Files, InMemory
from featurepipe.stores import Pending

PIXELS = Pixels()
LANES = pytest.mark.parametrize("workers", [1, 2, 16])
DEVICES = pytest.mark.parametrize("device", ["cpu", "cuda"])  # the latter is a name here; nothing of torch's runs


@pytest.fixture(scope="module")
def net():
    transform = {"input_size": (3, 32, 32)}
    return backbones.create("test_resnet", random_weights=True, transform=transform, precision="fp32", device="cpu")


class Hooked:
    """A backbone that shows each batch of pixels to a function, which may raise or return other vectors."""

    def __init__(self, inner, hook=lambda pixels, vectors: None, device="cpu"):
        self.inner, self.hook, self.device = inner, hook, device

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def embed(self, pixels):
        vectors = self.inner.embed(pixels)
        changed = self.hook(pixels, vectors)
        return vectors if changed is None else changed


class Order(Memory):
    """A sink that remembers what came when."""

    def __init__(self):
        super().__init__()
        self.calls, self.committed = [], 0

    def append(self, digests, vectors, rejects):
        super().append(digests, vectors, rejects)
        self.calls.append((list(digests), dict(rejects)))

    def commit(self):
        self.committed = len(self.calls)


class Broken(Exception):
    pass


def place(pixels, picture):
    """Where in a batch a picture is; None if it is in another."""
    (found,) = np.nonzero((pixels == picture.transpose(2, 0, 1)).all(axis=(1, 2, 3)))
    return found[0] if len(found) else None


def raises_at(picture, error):
    def hook(pixels, _):
        if place(pixels, picture) is not None:
            raise error

    return hook


def threads_left():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("lane", "device"))]


# -- the right vector


@LANES
@DEVICES
def test_every_image_gets_its_own_vector_in_order(planned, decoding, workers, device):
    plan, sink = planned(41), Order()
    lag = np.random.default_rng(0).uniform(0, 0.004, 41)

    def late(data, real):  # so that decoding ends out of order
        time.sleep(lag[len(data) % 41])
        return real(data)

    late_pixels = Pixels(transform=decoding(late))
    late_batches = Hooked(late_pixels, lambda pixels, _: time.sleep(lag[int(pixels[0, 0, 0, 0]) % 41]), device)
    outcome = fill(plan, late_batches, sink, batch_size=4, workers=workers)
    assert [digest for digests, _ in sink.calls for digest in digests] == [pending.digest for pending in plan]
    assert outcome.computed == 41
    for seed, pending in enumerate(plan):
        assert np.array_equal(sink.vectors[pending.digest], planned.vector(seed))
    assert not threads_left()


@DEVICES
def test_pixels_do_not_depend_on_the_batch(planned, device):
    plan, found = planned(7), []
    for size in (1, 3, 7, 100, None):
        sink = Memory()
        fill(plan, Hooked(PIXELS, device=device), sink, batch_size=size)
        found.append(np.stack([sink.vectors[pending.digest] for pending in plan]))
    assert all(np.array_equal(found[0], other) for other in found)


def test_embeddings_do_not_depend_on_the_batch(planned, net):
    """BatchNorm in training mode would fail this by far."""
    plan, found = planned(9), []
    for size in (1, 4, 9, None):
        sink = Memory()
        net.module.train()  # somebody's notebook did
        fill(plan, net, sink, batch_size=size, workers=2)
        found.append(np.stack([sink.vectors[pending.digest] for pending in plan]))
    assert np.abs(found[0]).max() > 1e-3
    assert np.ptp(found[0], axis=0).max() > 1e-3  # and they differ from image to image
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5, atol=1e-5)


def test_embeddings_do_not_depend_on_the_lanes_by_a_bit(planned, net):
    plan, found = planned(22), []
    for workers in (1, 2, 5):
        sink = Memory()
        fill(plan, net, sink, batch_size=4, workers=workers)
        found.append(np.stack([sink.vectors[pending.digest] for pending in plan]))
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


def test_images_in_memory_and_on_disk_give_the_same_vectors(planned, net):
    plan, disk, memory = planned(5), Memory(), Memory()
    fill(plan, net, disk, batch_size=5)
    sources = [InMemory({"": planned.picture(i)}) for i in range(5)]
    held = [Pending(source.digest(""), source, "") for source in sources]
    fill(held, net, memory, batch_size=5)
    pairs = zip(plan, held, strict=True)
    assert all(np.array_equal(disk.vectors[one.digest], memory.vectors[other.digest]) for one, other in pairs)


# -- the bad ones


@LANES
@DEVICES
def test_bad_images_are_rejected_and_their_neighbours_keep_their_own_vectors(planned, workers, device):
    plan, sink = planned(12), Order()
    for i, content in {1: b"", 5: b"no image", 6: Path(plan[6].place).read_bytes()[:300]}.items():
        Path(plan[i].place).write_bytes(content)
        plan[i] = Pending(sha256_file(plan[i].place), Files(), plan[i].place)
    Path(plan[8].place).unlink()
    Image.fromarray(planned.picture(99)).save(plan[10].place)  # changed since it was listed
    outcome = fill(plan, Hooked(PIXELS, device=device), sink, batch_size=4, workers=workers)
    reasons = {i: outcome.rejects.get(pending.digest) for i, pending in enumerate(plan)}
    assert reasons.pop(1) == "empty file (0 bytes)"
    assert reasons.pop(5) == "not an image that Pillow can read"
    assert reasons.pop(6).startswith("broken image: ")
    assert reasons.pop(8) == "cannot be read: No such file or directory"
    assert reasons.pop(10) == "cannot be read: its content has just changed; run again"
    assert set(reasons.values()) == {None}
    assert outcome.computed == 7
    assert set(sink.vectors) == {plan[i].digest for i in reasons}
    assert all(np.array_equal(sink.vectors[plan[i].digest], planned.vector(i)) for i in reasons)
    kept = {digest for _, rejects in sink.calls for digest in rejects}
    assert kept == {plan[i].digest for i in (1, 5, 6)}  # what may be readable next time is not written down


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@LANES
def test_vectors_that_are_not_finite_are_rejected_alone(planned, bad, workers):
    plan, sink = planned(8), Order()

    def spoil(pixels, vectors):
        if (row := place(pixels, planned.picture(5))) is not None:
            vectors[row, -1] = bad

    outcome = fill(plan, Hooked(PIXELS, spoil), sink, batch_size=4, workers=workers)
    assert outcome.rejects == {plan[5].digest: NOT_FINITE}
    assert outcome.computed == 7
    assert all(np.array_equal(sink.vectors[p.digest], planned.vector(i)) for i, p in enumerate(plan) if i != 5)


@DEVICES
def test_nothing_but_bad_images_is_an_outcome_too(planned, device):
    plan, sink, done = planned(5), Order(), []
    for pending in plan:
        Path(pending.place).unlink()
    outcome = fill(plan, Hooked(PIXELS, device=device), sink, batch_size=2, listener=Ear(advance=done.append))
    assert (outcome.computed, len(outcome.rejects), sum(done), sink.vectors) == (0, 5, 5, {})


@DEVICES
def test_nothing_to_do(device):
    outcome = fill([], Hooked(PIXELS, device=device), Memory())
    assert (outcome.computed, outcome.rejects) == (0, {})


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_that_would_skip_images_is_refused(planned, size):
    with pytest.raises(ValueError, match="batch_size"):
        fill(planned(2), PIXELS, Memory(), batch_size=size)


def test_an_unknown_way_to_compile_is_refused(planned):
    with pytest.raises(ValueError, match="compile is one of auto, on, off, not 'maybe'"):
        fill(planned(1), PIXELS, Memory(), compile="maybe")


@DEVICES
def test_progress_counts_every_planned_image_once(planned, device):
    plan, done = planned(10), []
    Path(plan[3].place).unlink()
    plan[4] = Pending("0" * 64, Files(), plan[4].place)
    fill(plan, Hooked(PIXELS, device=device), Memory(), batch_size=4, listener=Ear(advance=done.append))
    assert done == [4, 4, 2]


@DEVICES
def test_retries_start_a_batch_of_their_own(planned, device):
    plan, sink = planned(7), Order()
    plan[5:] = [pending._replace(retried=True) for pending in plan[5:]]
    fill(plan, Hooked(PIXELS, device=device), sink, batch_size=4)
    assert [len(digests) for digests, _ in sink.calls] == [4, 1, 2]


# -- memory, threads, failures


def without_memory_for(most, monkeypatch, name):
    """Let a function that reads or joins fail on more than so many images; the list of what it was asked for."""
    asked, real = [], getattr(loop, name)

    def function(parts, *rest):
        parts = list(parts)
        asked.append(sum(len(part.digests) for part in parts) if name == "join" else len(parts))
        if asked[-1] > most:
            raise MemoryError
        return real(parts, *rest)

    monkeypatch.setattr(loop, name, function)
    return asked


@pytest.mark.parametrize(("device", "name", "most"), [("cpu", "read_batch", 5), ("cuda", "join", 20)])
def test_pixels_that_memory_does_not_suffice_for_are_read_in_halves(planned, monkeypatch, device, name, most):
    plan, sink, notes, done = planned(75), Order(), [], []
    Path(plan[7].place).unlink()
    asked = without_memory_for(most, monkeypatch, name)
    outcome = fill(
        plan, Hooked(PIXELS, device=device), sink, batch_size=40, workers=2, listener=Ear(notes.append, done.append)
    )
    kept = [n for n in range(75) if n != 7]
    assert [digest for digests, _ in sink.calls for digest in digests] == [plan[n].digest for n in kept]
    assert all(np.array_equal(sink.vectors[plan[n].digest], planned.vector(n)) for n in kept)
    assert (outcome.computed, len(outcome.rejects), sum(done)) == (74, 1, 75)
    assert notes[0] == f"note: out of memory with 40 images at once on {device}; continuing with 20"
    assert len(set(notes)) == len(notes)
    assert max(asked) > most


@pytest.mark.parametrize(("device", "name"), [("cpu", "read_batch"), ("cuda", "join"), ("cuda", "read_batch")])
def test_no_memory_for_the_pixels_of_anything_is_one_line_and_keeps_what_was_done(planned, monkeypatch, device, name):
    plan, sink = planned(24), Order()
    real = getattr(loop, name)

    def function(parts, *rest):
        parts = list(parts)
        digests = [digest for part in parts for digest in getattr(part, "digests", [getattr(part, "digest", "")])]
        if plan[16].digest in digests:
            raise MemoryError
        return real(parts, *rest)

    monkeypatch.setattr(loop, name, function)
    with pytest.raises(OutOfMemory, match=r"out of memory with \d more images to read; try a smaller batch") as caught:
        fill(plan, Hooked(PIXELS, device=device), sink, batch_size=8, workers=1)
    assert "\n" not in str(caught.value)
    assert sink.committed == 2
    assert list(sink.vectors) == [pending.digest for pending in plan[:16]]


@DEVICES
def test_pixels_are_let_go_before_their_vectors_are_written(planned, device):
    refs, alive = [], []

    def hook(pixels, _):
        refs.append(weakref.ref(pixels if pixels.base is None else pixels.base))

    class Slow(Memory):
        def append(self, digests, vectors, rejects):
            time.sleep(0.05)  # in which the lanes finish what they may
            alive.append(sum(ref() is not None for ref in refs))

    fill(planned(80), Hooked(PIXELS, hook, device), Slow(), batch_size=8, workers=1)
    assert len(refs) == 10
    assert max(alive) <= 3


@pytest.mark.parametrize(("device", "count"), [("cpu", 17), ("cuda", 4)])
def test_lanes_stay_a_few_batches_ahead_of_a_slow_sink(planned, decoding, device, count):
    plan, lock, counts = planned(60), threading.Lock(), {"decoded": 0, "taken": 0}
    ahead = []

    def counted(data, real):
        with lock:
            counts["decoded"] += 1
            ahead.append(counts["decoded"] - counts["taken"])
        return real(data)

    class Slow(Memory):
        def append(self, digests, vectors, rejects):
            time.sleep(0.01)
            super().append(digests, vectors, rejects)
            with lock:
                counts["taken"] += len(digests)

    fill(plan, Hooked(Pixels(transform=decoding(counted)), device=device), Slow(), batch_size=2, workers=2)
    assert counts == {"decoded": 60, "taken": 60}
    assert 2 < max(ahead) <= 2 * count


@DEVICES
def test_a_failing_sink_is_raised_leaves_no_thread_and_drops_what_was_planned(planned, decoding, device):
    class Full(Memory):
        def append(self, digests, vectors, rejects):
            raise OSError(28, "No space left on device")

    decoded = []
    counted = Pixels(transform=decoding(lambda data, real: (decoded.append(None), real(data))[1]))
    with pytest.raises(OSError, match="No space"):
        fill(planned(100), Hooked(counted, device=device), Full(), batch_size=2, workers=2)
    assert len(decoded) < 60
    assert not threads_left()


@LANES
@DEVICES
def test_a_failing_backbone_is_raised_after_what_came_before_it_and_leaves_no_thread(planned, workers, device):
    plan, sink = planned(40), Order()
    failing = Hooked(PIXELS, raises_at(planned.picture(5), Broken()), device)
    with pytest.raises(Broken):
        fill(plan, failing, sink, batch_size=2, workers=workers)
    assert list(sink.vectors) == [pending.digest for pending in plan[:4]]
    assert sink.committed == 2  # whatever it was
    assert not threads_left()


def test_a_mistake_in_the_code_is_no_reject(planned, decoding):
    def fail(*_):
        raise Broken

    with pytest.raises(Broken):
        fill(planned(4), Pixels(transform=decoding(fail)), Memory())
    assert not threads_left()


@pytest.mark.parametrize("rows", [3, 1, 0])
@DEVICES
def test_a_backbone_that_loses_rows_is_an_error(planned, rows, device):
    with pytest.raises(BackboneError, match=f"pixels gave {rows} vectors for 4 images"):
        fill(planned(4), Hooked(PIXELS, lambda _, vectors: vectors[:rows], device), Memory(), batch_size=4)


@pytest.mark.parametrize(
    ("error", "where"),
    [(KeyboardInterrupt(), "infer"), (KeyboardInterrupt(), "read"), (BackboneError("no such operation"), "infer")],
    ids=["ctrl-c in infer", "ctrl-c in read", "backbone"],
)
@LANES
@DEVICES
def test_what_ends_it_early_keeps_the_batches_before_it(planned, decoding, error, where, workers, device):
    plan, sink, inner = planned(20), Order(), PIXELS
    data = plan[6].read()

    def decode(found, real):
        if found == data:
            raise error
        return real(found)

    if where == "read":
        inner = Pixels(transform=decoding(decode))
    hook = raises_at(planned.picture(6), error) if where == "infer" else lambda *_: None
    with pytest.raises(type(error)):
        fill(plan, Hooked(inner, hook, device), sink, batch_size=2, workers=workers)
    assert sink.committed == 3
    assert list(sink.vectors) == [pending.digest for pending in plan[:6]]
    assert not threads_left()


@DEVICES
def test_ctrl_c_between_batches_keeps_all_that_were_taken(planned, device):
    plan, sink = planned(20), Order()

    def progress(_):
        if len(sink.calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(plan, Hooked(PIXELS, device=device), sink, batch_size=2, listener=Ear(advance=progress))
    assert sink.committed == 4
    assert not threads_left()


@pytest.fixture
def ctrl_c():
    """Sends it; a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def lost(ctrl_c):
    """Ctrl-C where Python cannot raise: h5py forgets its objects in such callbacks."""
    something = set()
    kept = weakref.ref(something, lambda _: ctrl_c())
    del something
    assert kept() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("last", [False, True])
def test_a_ctrl_c_that_gets_lost_in_a_callback_counts_all_the_same(planned, ctrl_c, last):
    class Losing(Order):
        def append(self, *batch):
            super().append(*batch)
            if len(self.calls) == 3 and not last:
                lost(ctrl_c)

        def commit(self):
            super().commit()
            if last:
                lost(ctrl_c)

    sink = Losing()
    with pytest.raises(KeyboardInterrupt):
        fill(planned(20), PIXELS, sink, batch_size=2)
    assert sink.committed == len(sink.calls) == (10 if last else 3)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_whoever_presses_ctrl_c_once_more_does_not_lose_what_is_finished(planned, ctrl_c, error):
    class Pressed(Order):
        def commit(self):
            ctrl_c()
            super().commit()

    def progress(count):
        if len(sink.calls) == 3:
            raise error

    sink = Pressed()
    with pytest.raises(error):
        fill(planned(20), PIXELS, sink, batch_size=2, listener=Ear(advance=progress))
    assert sink.committed == 3


def test_what_is_finished_is_written_before_waiting_for_a_lane_that_compiles(planned, net, monkeypatch, ctrl_c):
    sink, at_the_end, notes = Order(), [], []

    def wait_for(seen):
        deadline = time.monotonic() + 10
        while not seen() and time.monotonic() < deadline:
            time.sleep(0.01)

    def compile_(self, size):
        wait_for(lambda: len(sink.calls) > 1)  # what went before is taken, what comes after waits
        ctrl_c()
        wait_for(lambda: notes)
        at_the_end.append((len(sink.calls), sink.committed))
        raise BackboneError("it takes too long")

    monkeypatch.setattr(Backbone, "compile", compile_)
    monkeypatch.setattr(engines, "_has_compiler", lambda: True)
    monkeypatch.setattr(engines, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(engines, "TRIALS", 1)
    with pytest.raises(KeyboardInterrupt):
        fill(planned(100), net, sink, batch_size=2, workers=2, listener=Ear(notes.append))
    ((taken, committed),) = at_the_end
    assert 2 <= taken == committed < 50
    assert notes == ["stopping; waiting for the compiler, which cannot be interrupted"]


def test_ctrl_c_in_the_last_commit_commits_again(planned):
    class Interrupted(Order):
        tries = 0

        def commit(self):
            self.tries += 1
            if self.tries == 1:
                raise KeyboardInterrupt
            super().commit()

    sink = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        fill(planned(4), PIXELS, sink, batch_size=2)
    assert sink.committed == 2


@pytest.mark.parametrize(("device", "workers", "each"), [("cpu", 1, 6), ("cpu", 2, 3), ("cpu", 16, 1), ("cuda", 2, 1)])
@pytest.mark.parametrize("fails", [False, True])
def test_lanes_share_the_callers_threads_which_are_its_own_again_afterwards(planned, device, workers, each, fails):
    before, seen = torch.get_num_threads(), set()

    def hook(*_):
        seen.add(torch.get_num_threads())
        if fails:
            raise Broken

    def of_a_new_thread():
        found = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    torch.set_num_threads(6)
    try:
        try:
            fill(planned(8), Hooked(PIXELS, hook, device), Memory(), batch_size=1, workers=workers)
        except Broken:
            assert fails
        assert torch.get_num_threads() == of_a_new_thread() == 6
        if device == "cpu":
            assert seen == {each}
    finally:
        torch.set_num_threads(before)


def test_the_thirds_are_timed_apart(planned):
    class Slow(Memory):
        def append(self, digests, vectors, rejects):
            time.sleep(0.03)

    slow = Hooked(PIXELS, lambda *_: time.sleep(0.06))
    outcome = fill(planned(4), slow, Slow(), batch_size=2, workers=1)
    assert outcome.infer_seconds >= 0.12
    assert outcome.write_seconds >= 0.06
    assert outcome.load_seconds > 0
    assert outcome.decode_seconds > 0
    assert outcome.elapsed >= outcome.infer_seconds
