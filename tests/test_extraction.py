"""Extraction: each image's own vector, whatever the threads, the batch and the neighbours do."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from featurepipe import backbones, extraction, images
from featurepipe.backbones import Pixels
from featurepipe.digests import sha256_file
from featurepipe.errors import ImageError
from featurepipe.extraction import Memory, fill, read_batches
from featurepipe.stores import Pending

PIXELS = Pixels()


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def vector(seed):
    """What `Pixels` must give for `picture(seed)`."""
    return picture(seed).transpose(2, 0, 1).reshape(-1).astype(np.float32) / 255


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def net():
    return backbones.create("test_resnet", random_weights=True, transform={"input_size": (3, 32, 32)}, device="cpu")


@pytest.fixture
def planned(tmp_path):
    """Writes 32×32 pictures, and returns what a store would plan for them."""

    def make(count):
        plan = []
        for seed in range(count):
            path = tmp_path / f"{seed:03}.png"
            Image.fromarray(picture(seed)).save(path)
            plan.append(Pending(sha256_file(path), path))
        return plan

    return make


class Hooked:
    """A backbone that first calls a function with the number of the batch."""

    def __init__(self, inner, hook):
        self.inner, self.hook, self.batches = inner, hook, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def embed(self, pixels):
        self.batches += 1
        changed = self.hook(self.batches)
        vectors = self.inner.embed(pixels)
        return vectors if changed is None else changed(vectors)


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


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


# -- the right vector


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_every_image_gets_its_own_vector_in_order(planned, monkeypatch, workers):
    plan, sink = planned(41), Order()
    lag, real = np.random.default_rng(0).uniform(0, 0.004, 41), images.decode

    def late(data, transform):  # so that decoding ends out of order
        time.sleep(lag[len(data) % 41])
        return real(data, transform)

    monkeypatch.setattr(extraction, "decode", late)
    outcome = fill(plan, PIXELS, sink, batch_size=4, workers=workers)
    assert [digest for digests, _ in sink.calls for digest in digests] == [pending.digest for pending in plan]
    assert outcome.computed == 41
    for seed, pending in enumerate(plan):
        assert np.array_equal(sink.vectors[pending.digest], vector(seed))


def test_pixels_do_not_depend_on_the_batch(planned):
    plan, found = planned(7), []
    for size in (1, 3, 7, 100):
        sink = Memory()
        fill(plan, PIXELS, sink, batch_size=size)
        found.append(np.stack([sink.vectors[pending.digest] for pending in plan]))
    assert all(np.array_equal(found[0], other) for other in found)


def test_embeddings_do_not_depend_on_the_batch(planned, net):
    """BatchNorm in training mode would fail this by far."""
    plan, found = planned(9), []
    for size in (1, 4, 9):
        sink = Memory()
        net.module.train()  # somebody's notebook did
        fill(plan, net, sink, batch_size=size)
        found.append(np.stack([sink.vectors[pending.digest] for pending in plan]))
    assert np.abs(found[0]).max() > 1e-3
    assert np.ptp(found[0], axis=0).max() > 1e-3  # and they differ from image to image
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5, atol=1e-5)


def test_images_in_memory_and_on_disk_give_the_same_vectors(planned, net):
    plan, disk, memory = planned(5), Memory(), Memory()
    fill(plan, net, disk, batch_size=5)
    fill([Pending(p.digest, Image.fromarray(picture(i))) for i, p in enumerate(plan)], net, memory, batch_size=5)
    assert all(np.array_equal(disk.vectors[p.digest], memory.vectors[p.digest]) for p in plan)


# -- the bad ones


def test_bad_images_are_rejected_and_their_neighbours_keep_their_own_vectors(planned):
    plan, sink = planned(12), Order()
    for i, content in {1: b"", 5: b"no image", 6: plan[6].source.read_bytes()[:300]}.items():
        plan[i].source.write_bytes(content)
        plan[i] = Pending(sha256_file(plan[i].source), plan[i].source)
    plan[8].source.unlink()
    Image.fromarray(picture(99)).save(plan[10].source)  # changed since it was listed
    outcome = fill(plan, PIXELS, sink, batch_size=4, workers=3)
    reasons = {i: outcome.rejects.get(pending.digest) for i, pending in enumerate(plan)}
    assert reasons.pop(1) == "empty file (0 bytes)"
    assert reasons.pop(5) == "not an image that Pillow can read"
    assert reasons.pop(6).startswith("broken image: ")
    assert reasons.pop(8) == "cannot be read: No such file or directory"
    assert reasons.pop(10) == "cannot be read: its content has just changed; run again"
    assert set(reasons.values()) == {None}
    assert outcome.computed == 7
    assert set(sink.vectors) == {plan[i].digest for i in reasons}
    assert all(np.array_equal(sink.vectors[plan[i].digest], vector(i)) for i in reasons)
    kept = {digest for _, rejects in sink.calls for digest in rejects}
    assert kept == {plan[i].digest for i in (1, 5, 6)}  # what may be readable next time is not written down


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_rejected_alone(planned, bad):
    plan, sink = planned(8), Order()

    def spoil(number):
        def change(vectors):
            if number == 2:
                vectors[1, -1] = bad
            return vectors

        return change

    outcome = fill(plan, Hooked(PIXELS, spoil), sink, batch_size=4)
    assert outcome.rejects == {plan[5].digest: extraction.NOT_FINITE}
    assert outcome.computed == 7
    assert all(np.array_equal(sink.vectors[p.digest], vector(i)) for i, p in enumerate(plan) if i != 5)


def test_reasons_are_one_printable_line(planned, monkeypatch):
    """Decoders quote the bytes of broken files; HDF5 text can hold neither NUL nor half a character."""

    def fail(*_):
        raise ImageError("bad\0header \udcff\nin line 2\x1b[31m")

    monkeypatch.setattr(extraction, "decode", fail)
    outcome = fill(planned(1), PIXELS, Memory())
    assert list(outcome.rejects.values()) == ["bad?header ? in line 2?[31m"]


def test_nothing_but_bad_images_is_an_outcome_too(planned):
    plan, sink, done = planned(5), Order(), []
    for pending in plan:
        pending.source.unlink()
    outcome = fill(plan, PIXELS, sink, batch_size=2, progress=done.append)
    assert (outcome.computed, len(outcome.rejects), sum(done), sink.vectors) == (0, 5, 5, {})


def test_nothing_to_do(planned):
    outcome = fill([], PIXELS, Memory())
    assert (outcome.computed, outcome.rejects) == (0, {})


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_that_would_skip_images_is_refused(planned, size):
    with pytest.raises(ValueError, match="batch_size"):
        fill(planned(2), PIXELS, Memory(), batch_size=size)


def test_progress_counts_every_planned_image_once(planned):
    plan, done = planned(10), []
    plan[3].source.unlink()
    plan[4] = Pending("0" * 64, plan[4].source)
    fill(plan, PIXELS, Memory(), batch_size=4, progress=done.append)
    assert done == [4, 4, 2]


def test_retries_start_a_batch_of_their_own(planned):
    plan = planned(7)
    plan[5:] = [pending._replace(retried=True) for pending in plan[5:]]
    sizes = [len(batch.digests) for batch in read_batches(plan, PIXELS.transform, batch_size=4)]
    assert sizes == [4, 1, 2]


# -- memory, threads, failures


def test_the_reader_stays_a_few_batches_ahead_of_a_slow_consumer(planned, monkeypatch):
    plan, lock, counts = planned(60), threading.Lock(), {"decoded": 0, "taken": 0}
    ahead, real = [], images.decode

    def counted(data, transform):
        with lock:
            counts["decoded"] += 1
            ahead.append(counts["decoded"] - counts["taken"])
        return real(data, transform)

    monkeypatch.setattr(extraction, "decode", counted)
    for batch in read_batches(plan, PIXELS.transform, batch_size=4, workers=8):
        time.sleep(0.01)
        with lock:
            counts["taken"] += len(batch.digests)
    assert counts == {"decoded": 60, "taken": 60}
    assert 4 < max(ahead) <= 4 * (extraction.BATCHES_AHEAD + 2)


def test_a_reader_that_is_closed_drops_what_it_had_planned(planned, monkeypatch):
    decoded, real = [], images.decode

    def slow(data, transform):
        decoded.append(None)
        time.sleep(0.02)
        return real(data, transform)

    monkeypatch.setattr(extraction, "decode", slow)
    batches = read_batches(planned(24), PIXELS.transform, batch_size=4, workers=1)
    next(batches)
    batches.close()
    assert len(decoded) < 12
    assert not decoding_threads()


class Broken(Exception):
    pass


def test_a_failing_backbone_is_raised_and_leaves_no_thread(planned):
    plan, sink = planned(40), Order()

    def fail(number):
        if number == 3:
            raise Broken

    with pytest.raises(Broken):
        fill(plan, Hooked(PIXELS, fail), sink, batch_size=2, workers=4)
    assert len(sink.vectors) == 4
    assert not decoding_threads()


def test_a_failing_sink_is_raised_and_leaves_no_thread(planned):
    class Full(Memory):
        def append(self, digests, vectors, rejects):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fill(planned(40), PIXELS, Full(), batch_size=2, workers=4)
    assert not decoding_threads()


def test_a_mistake_in_the_code_is_no_reject(planned, monkeypatch):
    def fail(*_):
        raise Broken

    monkeypatch.setattr(extraction, "decode", fail)
    with pytest.raises(Broken):
        fill(planned(4), PIXELS, Memory())
    assert not decoding_threads()


def test_a_backbone_that_loses_a_row_is_an_error(planned):
    with pytest.raises(ValueError, match="argument"):
        fill(planned(4), Hooked(PIXELS, lambda _: lambda vectors: vectors[:-1]), Memory())


@pytest.mark.parametrize("where", ["infer", "read"])
def test_ctrl_c_keeps_finished_batches(planned, monkeypatch, where):
    plan, sink, real = planned(20), Order(), extraction._gather
    gathered = []

    def interrupt(number):
        if number == 4:
            raise KeyboardInterrupt

    def gather(loaded, transform):
        gathered.append(loaded)
        interrupt(len(gathered))
        return real(loaded, transform)

    if where == "read":
        monkeypatch.setattr(extraction, "_gather", gather)
    with pytest.raises(KeyboardInterrupt):
        fill(plan, Hooked(PIXELS, interrupt if where == "infer" else lambda _: None), sink, batch_size=2)
    assert sink.committed == 3
    assert set(sink.vectors) == {pending.digest for pending in plan[:6]}
    assert not decoding_threads()


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


def test_the_thirds_are_timed_apart(planned):
    class Slow(Memory):
        def append(self, digests, vectors, rejects):
            time.sleep(0.03)

    outcome = fill(planned(4), Hooked(PIXELS, lambda _: time.sleep(0.06)), Slow(), batch_size=2)
    assert outcome.infer_seconds >= 0.12
    assert outcome.write_seconds >= 0.06
    assert outcome.read_seconds > 0
