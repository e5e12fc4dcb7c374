"""Files of other people: what is no regular file, what is too large and what never ends is refused at once."""

import os
import socket
import tracemalloc

import pytest

from featurepipe import inputs
from featurepipe.digests import sha256_bytes, sha256_file

READERS = [lambda path: inputs.content(path, 100), sha256_file]


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_content_is_that_of_the_file(tmp_path, size):
    (tmp_path / "f").write_bytes(bytes(range(size)))
    os.symlink("f", tmp_path / "link")
    assert inputs.content(tmp_path / "link", 100) == bytes(range(size))
    assert sha256_file(tmp_path / "link") == sha256_bytes(bytes(range(size)))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, kind, read):
    place = tmp_path / "f"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(place))
    elif kind == "folder":
        place.mkdir()
    os.symlink("/dev/zero" if kind == "device" else "f", tmp_path / "link.png")
    why = "Is a directory" if kind == "folder" else f"it is a {kind}, not a file"
    with pytest.raises(OSError, match=why) as caught:
        read(tmp_path / "link.png")
    assert caught.value.filename == tmp_path / "link.png"


@pytest.mark.parametrize("read", READERS)
def test_a_file_of_the_kernels_that_waits_for_events_is_not_waited_for(read):
    try:
        os.close(os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        pytest.skip("no /proc/kmsg that may be read")
    with pytest.raises(OSError, match=r"only when something happens|larger than"):
        read("/proc/kmsg")


def test_what_gives_nothing_now_is_an_error_and_not_an_empty_file(tmp_path):
    reading, writing = os.pipe2(os.O_NONBLOCK)
    with inputs.Patient(reading) as file:
        for read in (file.read, file.readall, lambda: file.readinto(bytearray(8))):
            with pytest.raises(BlockingIOError, match="only when something happens"):
                read()
    os.close(writing)


def test_a_file_of_size_0_that_has_content_is_read_whole_up_to_the_bound():
    if not os.path.exists("/proc/self/limits"):
        pytest.skip("no /proc")
    assert os.stat("/proc/self/limits").st_size == 0
    assert inputs.content("/proc/self/limits", 10**5).startswith(b"Limit")
    with pytest.raises(OSError, match="larger than"):
        inputs.content("/proc/self/limits", 100)


def test_a_file_that_is_too_large_costs_no_memory(tmp_path):
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(2 * 10**9)
    tracemalloc.start()
    with pytest.raises(OSError, match="it is larger than 1 GiB, the most that is read of such a file"):
        inputs.content(tmp_path / "huge.png", inputs.IMAGE_BYTES)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_content_is_held_once(tmp_path):
    (tmp_path / "f").write_bytes(bytes(10**7))
    tracemalloc.start()
    data = inputs.content(tmp_path / "f", 10**8)
    assert tracemalloc.get_traced_memory()[1] < 1.1e7 + 2**20
    tracemalloc.stop()
    assert len(data) == 10**7
