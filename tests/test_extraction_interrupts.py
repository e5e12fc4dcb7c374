"""Interrupts: Ctrl-C that is heard, held, and not lost."""

import os
import signal
import threading

import pytest

from featurepipe.extraction import Interrupts


@pytest.fixture
def heard():
    """Interrupts that hear, whatever was done with the signal before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts = Interrupts()
    with interrupts.heard():
        yield interrupts
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_it_is_raised_where_it_comes_unless_it_is_held(heard):
    with heard.held():
        os.kill(os.getpid(), signal.SIGINT)
        assert heard.came
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_came_is_raised_by_every_check(heard):
    heard.check()
    with heard.held():
        signal.raise_signal(signal.SIGINT)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            heard.check()


def test_a_handler_of_the_callers_own_is_left_to_it():
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        interrupts = Interrupts()
        with interrupts.heard():
            signal.raise_signal(signal.SIGINT)
            interrupts.check()
        assert (came, interrupts.came) == ([True], False)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_is_ignored_stays_so_and_other_threads_do_not_hear():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts().heard():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        found = []

        def other():
            with Interrupts().heard():
                found.append(signal.getsignal(signal.SIGINT))

        signal.signal(signal.SIGINT, signal.default_int_handler)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert found == [signal.default_int_handler]
    finally:
        signal.signal(signal.SIGINT, before)
