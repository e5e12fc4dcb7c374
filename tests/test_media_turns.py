"""Turns: threads have no more at once than there is, and each has its turn."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from featurepipe.images.limits import turn
from featurepipe.media import FREE, Turns, file_turn, turns


def test_threads_have_no_more_at_once_than_there_is():
    turns, inside, most, lock = Turns(100), [0], [0], threading.Lock()

    def decode(pixels):
        with turns.taken(pixels):
            with lock:
                inside[0] += min(pixels, 100)
                most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            with lock:
                inside[0] -= min(pixels, 100)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(decode, [60, 30, 100, 45, 50, 1000, 7] * 6))
    assert 60 < most[0] <= 100
    assert inside == [0]


def test_large_files_take_turns_and_small_ones_do_not():
    assert file_turn(2**24) is FREE
    got = []
    with file_turn(2**30 - 2**25):
        wants = threading.Thread(target=lambda: file_turn(2**26).__enter__() or got.append("turn"), daemon=True)
        wants.start()
        wants.join(0.05)
        assert got == []
        with turn((5000, 5000)):  # pixels are counted by themselves
            pass
    wants.join(5)
    assert got == ["turn"]
    turns._start_anew()


def test_who_wants_much_is_not_overtaken_for_ever():
    turns, got = Turns(10), []
    with turns.taken(5):
        wants = threading.Thread(target=lambda: turns.taken(10).__enter__() or got.append("all"))
        wants.start()
        while not turns._next.locked():
            time.sleep(0.001)
        late = threading.Thread(target=lambda: turns.taken(1).__enter__() or got.append("one"), daemon=True)
        late.start()
        late.join(0.05)
        assert got == []
    wants.join(5)
    assert got[0] == "all"
