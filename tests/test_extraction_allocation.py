"""Memory that is kept for the next batch while a network runs."""

import ctypes
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


def test_memory_is_kept_within_and_given_back_after_whatever_happens(monkeypatch):
    libc = Libc()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)

    def fail():
        with allocation.reuse_memory():
            assert dict(libc.told) == {-3: 2**25, -1: 2**31 - 1, -8: 1}
            libc.told.clear()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert libc.told == [(-1, 2**26), (-8, 0), ("trim", 0)]


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_another_systems_memory_is_left_alone(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("loaded"))
    with allocation.reuse_memory():
        pass


def test_a_c_library_without_the_settings_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with allocation.reuse_memory():
        pass


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_glibc_takes_the_settings(monkeypatch):
    libc, taken = ctypes.CDLL(None), []
    real = libc.mallopt
    spy = Libc()
    spy.mallopt = lambda *pair: taken.append(real(*pair))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: spy)
    with allocation.reuse_memory():
        pass
    assert taken == [1] * 5
