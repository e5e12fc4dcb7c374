"""Reading: the pixels of each file, and a reason for each that has none."""

import errno
import os
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from doubles import eventful
from PIL import Image

from featurepipe import inputs
from featurepipe.backbones import Pixels
from featurepipe.digests import sha256_file
from featurepipe.errors import BackboneError, ImageError, SampleError
from featurepipe.extraction import batches
from featurepipe.extraction.batches import join, read_batch
from featurepipe.media import turns
from featurepipe.sources import Files, InMemory
from featurepipe.stores import Pending

SQUASHED = Pixels().transform


def failing(error):
    def fail(*_):
        raise error

    return fail


def test_every_file_gives_its_own_pixels_in_planned_order(planned):
    plan = planned(5)
    batch = read_batch(plan, SQUASHED)
    assert batch.digests == [pending.digest for pending in plan]
    assert (batch.inputs.dtype, batch.inputs.shape) == (np.uint8, (5, 3, 32, 32))
    for seed, pixels in enumerate(batch.inputs):
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0), planned.picture(seed))
    assert (batch.rejects, batch.unreadable) == ({}, {})


def test_images_in_memory_give_the_pixels_of_their_files(planned):
    plan = planned(3)
    sources = [InMemory({"": planned.picture(n)}) for n in range(3)]
    held = [Pending(source.digest(""), source, "") for source in sources]
    np.testing.assert_array_equal(read_batch(held, SQUASHED).inputs, read_batch(plan, SQUASHED).inputs)


def test_bad_files_leave_their_neighbours_pixels_in_place(planned):
    plan = planned(9)
    for i, content in {1: b"", 3: b"no image", 4: Path(plan[4].place).read_bytes()[:300]}.items():
        Path(plan[i].place).write_bytes(content)
        plan[i] = Pending(sha256_file(plan[i].place), Files(), plan[i].place)
    Path(plan[6].place).unlink()
    Image.fromarray(planned.picture(99)).save(plan[7].place)  # changed since it was listed
    batch = read_batch(plan, SQUASHED)
    good = [0, 2, 5, 8]
    assert batch.digests == [plan[i].digest for i in good]
    np.testing.assert_array_equal(batch.inputs.transpose(0, 2, 3, 1), np.stack([planned.picture(i) for i in good]))
    assert list(batch.rejects) == [plan[i].digest for i in (1, 3, 4)]
    assert list(batch.rejects.values())[:2] == ["empty file (0 bytes)", "not an image that Pillow can read"]
    assert batch.rejects[plan[4].digest].startswith("broken image: ")
    assert batch.unreadable == {
        plan[6].digest: "cannot be read: No such file or directory",
        plan[7].digest: "cannot be read: its content has just changed; run again",
    }


def test_nothing_but_bad_files_is_an_empty_batch(planned):
    plan = planned(2)
    for pending in plan:
        Path(pending.place).unlink()
    batch = read_batch(plan, SQUASHED)
    assert (batch.digests, batch.inputs.shape, len(batch.unreadable)) == ([], (0, 3, 32, 32), 2)


def test_reasons_are_one_printable_line(planned, decoding):
    """Decoders quote the bytes of broken files; HDF5 text can hold neither NUL nor half a character."""
    broken = decoding(failing(SampleError("bad\0header \udcff\nin line 2\x1b[31m")))
    assert list(read_batch(planned(1), broken).rejects.values()) == ["bad?header ? in line 2?[31m"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")], ids=str)
def test_want_of_memory_is_held_against_no_image_for_ever(planned, decoding, error):
    batch = read_batch(planned(1), decoding(failing(error)))
    assert batch.rejects == {}
    assert list(batch.unreadable.values()) == ["cannot be decoded: out of memory; try fewer workers"]


def test_want_of_memory_in_pillow_is_no_broken_image(planned, monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", failing(MemoryError()))
    batch = read_batch(planned(1), SQUASHED)
    assert (len(batch.rejects), len(batch.unreadable)) == (0, 1)


def test_too_many_open_files_are_no_fault_of_an_image(planned, decoding):
    full = decoding(failing(OSError(errno.EMFILE, "Too many open files", "a.png")))
    with pytest.raises(OSError, match=r"Too many open files; raise the limit \(ulimit -n\), or use fewer --workers"):
        read_batch(planned(2), full)


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), TypeError("another")], ids=str)
def test_a_mistake_in_the_code_is_no_reject(planned, decoding, error):
    with pytest.raises(type(error), match=str(error)):
        read_batch(planned(2), decoding(failing(error)))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_what_numpy_would_spread_over_an_input_is_a_mistake_in_the_transform(planned, decoding, dtype):
    spread = decoding(lambda data, real: real(data)[:1].astype(dtype))
    with pytest.raises(BackboneError, match=r"the transform of images gave .*\(1, 32, 32\), not uint8 \(3, 32, 32\)"):
        read_batch(planned(2), spread)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_a_batch_lies_in_memory_as_its_inputs_do(planned, decoding, order):
    """Networks like pixel by pixel, as decoders of images give them, and another copy would take time."""
    back = np.argsort(order)
    transform = decoding(lambda data, real: np.ascontiguousarray(real(data).transpose(order)).transpose(back))
    plan = planned(3)
    for batch in (read_batch(plan, transform), join(read_batch([one], transform) for one in plan)):
        assert batch.inputs.transpose(0, *(1 + axis for axis in order)).flags.c_contiguous
        np.testing.assert_array_equal(batch.inputs, read_batch(plan, SQUASHED).inputs)


def test_pieces_of_which_nothing_could_be_read_join_too(planned):
    plan = planned(2)
    for pending in plan:
        Path(pending.place).unlink()
    joined = join(read_batch([one], SQUASHED) for one in plan)
    assert (joined.inputs.shape, joined.inputs.dtype, len(joined.unreadable)) == ((0, 3, 32, 32), np.uint8, 2)


def test_seconds_of_loading_and_decoding_are_told_apart(planned):
    batch = read_batch(planned(3), SQUASHED)
    assert batch.load_seconds > 0
    assert batch.decode_seconds > 0
    assert 0 <= batch.decode_cpu_seconds <= batch.decode_seconds


def test_pieces_join_into_the_batch_that_one_thread_would_have_read(planned):
    plan = planned(7)
    Path(plan[2].place).write_bytes(b"")
    plan[2] = Pending(sha256_file(plan[2].place), Files(), plan[2].place)
    Path(plan[5].place).unlink()
    pieces = [read_batch(plan[i : i + 3], SQUASHED) for i in (0, 3, 6)]
    joined, whole = join(pieces), read_batch(plan, SQUASHED)
    assert (joined.digests, joined.rejects, joined.unreadable) == (whole.digests, whole.rejects, whole.unreadable)
    np.testing.assert_array_equal(joined.inputs, whole.inputs)
    for seconds in ("load_seconds", "decode_seconds", "decode_cpu_seconds"):
        assert getattr(joined, seconds) == pytest.approx(sum(getattr(piece, seconds) for piece in pieces))


def test_the_cores_time_of_reading_is_not_taken_for_decoding(planned, monkeypatch):
    spent = [0.0]

    def slow(place):
        spent[0] += 5.0

    clock = SimpleNamespace(perf_counter=count(0, 10).__next__, thread_time=lambda: spent[0])  # of a busy machine
    monkeypatch.setattr(batches, "time", clock)
    batch = read_batch(eventful(planned(3), slow), SQUASHED)
    assert batch.decode_seconds > batch.decode_cpu_seconds == 0.0


@pytest.mark.slow
def test_large_files_are_held_by_turns_and_one_at_a_time(planned, decoding, monkeypatch):
    monkeypatch.setattr(inputs, "IMAGE_BYTES", 2**26)
    monkeypatch.setattr(turns, "READING", turns.Turns(2**26))
    plans = [replaced_by_large(planned(4))] * 3
    held, most, lock = [0], [0], threading.Lock()

    def decode(data, _):
        with lock:
            held[0] += len(data)
            most[0] = max(most[0], held[0])
        time.sleep(0.01)
        with lock:
            held[0] -= len(data)
        raise ImageError("broken")

    transform = decoding(decode)
    tracemalloc.start()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda plan: read_batch(plan, transform), plans))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [len(batch.rejects) for batch in found] == [1] * 3  # of one content
    assert most[0] == 2**25 + 1
    assert peak < 1.2 * 2**25


def replaced_by_large(plan):
    """Files of more than half of what may be held at once."""
    for pending in plan:
        os.truncate(pending.place, 0)
        os.truncate(pending.place, 2**25 + 1)
    digest = sha256_file(plan[0].place)
    return [pending._replace(digest=digest) for pending in plan]


def test_what_is_too_large_or_has_become_a_pipe_is_unreadable_and_costs_nothing(planned):
    plan = planned(4)
    os.truncate(plan[1].place, 2 * 10**9)
    Path(plan[2].place).unlink()
    os.mkfifo(plan[2].place)
    tracemalloc.start()
    batch = read_batch(plan, SQUASHED)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    assert batch.digests == [plan[0].digest, plan[3].digest]
    assert batch.unreadable == {
        plan[1].digest: "cannot be read: it is larger than 1 GiB, the most that is read of such a file",
        plan[2].digest: "cannot be read: it is a pipe, not a file",
    }
