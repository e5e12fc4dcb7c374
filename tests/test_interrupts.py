"""Interrupts: Ctrl-C and SIGTERM that are heard, held, and not lost."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from featurepipe.interrupts import Interrupts, Termination


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


SIGTERM_KEEPS = """
import signal
from featurepipe.interrupts import Interrupts
interrupts = Interrupts()
try:
    with interrupts.heard():
        with interrupts.held():
            signal.raise_signal(signal.SIGTERM)
            print("not yet")
        try:
            interrupts.check()
        except KeyboardInterrupt:
            print("kept", flush=True)
except BaseException:
    print("raised")
print("alive")
"""


@pytest.mark.processes
@pytest.mark.skipif(os.name == "nt", reason="SIGTERM ends a process at once there")
def test_sigterm_is_heard_first_and_then_ends_a_process_that_it_would_have_ended():
    done = subprocess.run([sys.executable, "-c", SIGTERM_KEEPS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "not yet\nkept\n")


def test_a_program_that_lets_sigterm_end_it_as_ctrl_c_does_learns_that_it_came():
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    termination, interrupts = Termination(), Interrupts()
    with termination.heard():
        with pytest.raises(KeyboardInterrupt), interrupts.heard():
            signal.raise_signal(signal.SIGTERM)
        assert (termination.came, interrupts.came) == (True, True)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_sigterm_that_somebody_else_handles_is_left_to_them():
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    try:
        termination, interrupts = Termination(), Interrupts()
        with termination.heard(), interrupts.heard():
            signal.raise_signal(signal.SIGTERM)
        assert (came, termination.came, interrupts.came) == ([True], False, False)
    finally:
        signal.signal(signal.SIGTERM, before)
