"""Memory that is kept for the next batch while a network runs."""

import subprocess
import sys

import pytest

from featurepipe.extraction import allocation


class Libc:
    """A C library that notes what it is told."""

    def __init__(self):
        self.told = []

    def mallopt(self, parameter, value):
        self.told.append((parameter, value))

    def malloc_trim(self, pad):
        self.told.append(("trim", pad))


def test_memory_is_kept_within_and_given_back_after_whatever_happens():
    libc = Libc()

    def fail():
        with allocation.reuse_memory(libc):
            assert dict(libc.told) == {-3: 2**25, -1: 2**31 - 1, -2: 2**27}
            libc.told.clear()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert libc.told == [(-1, 2**26), (-2, 2**17), ("trim", 0)]


def test_the_last_of_several_gives_memory_back():
    libc = Libc()
    with allocation.reuse_memory(libc):
        with allocation.reuse_memory(libc):
            libc.told.clear()
        assert not libc.told
    assert libc.told[-1] == ("trim", 0)


def test_only_linux_is_asked_for_its_c_library():
    assert (allocation.LIBC is not None) == (sys.platform == "linux")


@pytest.mark.parametrize("libc", [None, object()])
def test_a_c_library_without_the_settings_is_left_alone(libc):
    with allocation.reuse_memory(libc):
        pass


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(allocation.LIBC, "mallopt"), reason="needs glibc")
def test_glibc_takes_the_settings():
    spy, taken = Libc(), []
    spy.mallopt = lambda *pair: taken.append(allocation.LIBC.mallopt(*pair))
    with allocation.reuse_memory(spy):
        pass
    assert taken == [1] * 5


WORK = """
import ctypes, resource, threading
from contextlib import nullcontext
from featurepipe.extraction.allocation import reuse_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def turns(count):
    for _ in range(count):  # more than a heap of 64 MB
        blocks = [libc.malloc(30 * 2**20) for _ in range(3)]
        for block in blocks:
            libc.memset(block, 1, 30 * 2**20)
        for block in blocks:
            libc.free(block)

def run(count):
    threads = [threading.Thread(target=turns, args=(count,)) for _ in range(2)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]

run(1)  # arenas that others have left are taken again, whatever is allowed later
with CONTEXT:
    run(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run(20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux" or not hasattr(allocation.LIBC, "mallopt"), reason="needs glibc")
def test_threads_get_the_memory_again_that_they_have_freed():
    def faults(context):
        command = [sys.executable, "-c", WORK.replace("CONTEXT", context)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("reuse_memory()") < faults("nullcontext()") / 10
