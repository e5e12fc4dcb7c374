"""What is shown of long work, to whom, and when."""

import inspect
import io
import sys
import types

import pytest
from ears import Ear

from featurepipe import listeners, stages
from featurepipe.listeners import Bars, Within, is_watched


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    def put(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return put


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(listeners, "DELAY", 0.0)


def work(listener):
    with listener.progress("embedding", 3) as advance:
        for _ in range(3):
            advance(1)
    listener.note("note: something to know")
    listener.note("a line of information")


def test_a_terminal_sees_a_bar_and_notes(stderr, at_once):
    shown = stderr(Terminal())
    work(Bars())
    assert "embedding" in shown.getvalue()
    assert "note: something to know" in shown.getvalue()
    assert "a line of information" not in shown.getvalue()


def test_a_file_or_pipe_sees_nothing_unless_it_is_asked_for(stderr, at_once):
    shown = stderr(io.StringIO())
    work(Bars())
    work(Bars(verbose=False))
    assert shown.getvalue() == ""
    work(Bars(verbose=True))
    for text in ("embedding", "note: something", "a line of information"):
        assert text in shown.getvalue()


def test_nothing_is_shown_of_what_is_soon_over(stderr):
    shown = stderr(Terminal())
    with Bars().progress("embedding", 3) as advance:
        advance(3)
    assert "embedding" not in shown.getvalue()


def test_many_short_works_in_a_row_are_a_long_one(stderr, monkeypatch):
    shown, now = stderr(Terminal()), [100.0]
    monkeypatch.setattr(listeners.time, "monotonic", lambda: now[0])
    bars = Bars()
    for epoch in (1, 2):
        with bars.progress(f"epoch {epoch}", 2) as advance:
            now[0] += 3
            advance(2)
    assert "epoch 1" not in shown.getvalue()
    assert "epoch 2" in shown.getvalue()
    before = len(shown.getvalue())
    now[0] += 60
    with bars.progress("another", 2) as advance:
        advance(2)
    assert "another" not in shown.getvalue()[before:]


@pytest.mark.parametrize("closed", [False, True])
def test_no_stderr_is_no_error(stderr, at_once, closed):
    stream = io.StringIO() if closed else None
    if closed:
        stream.close()
    stderr(stream)
    for verbose in (None, True, False):
        work(Bars(verbose))


def test_a_notebook_is_watched_and_a_child_is_not(stderr, monkeypatch):
    stderr(io.StringIO())
    assert not is_watched()
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert is_watched()
    monkeypatch.setattr(listeners.multiprocessing, "parent_process", lambda: object())
    assert not is_watched()


@pytest.mark.parametrize("name", stages.__all__)
def test_stages_show_bars_where_no_listener_is_given(name):
    given = inspect.signature(getattr(stages, name)).parameters.get("listener")
    if given is not None:
        assert given.default is listeners.BARS
        assert "listener" in getattr(stages, name).__doc__


def test_a_stage_shows_its_bar_in_a_terminal(stderr, at_once, photos, tmp_path):
    shown = stderr(Terminal())
    stages.extract(photos(), tmp_path / "s", backbone="pixels")
    assert "embedding" in shown.getvalue()


def test_work_within_a_larger_one_adds_to_its_progress():
    heard, done = [], []
    listener = Within(Ear(heard.append, progress=lambda *_: pytest.fail("a bar of its own")), done.append)
    listener.note("a line")
    for part in (2, 3):
        with listener.progress("a part", part) as advance:
            advance(part)
    assert (heard, done) == (["a line"], [2, 3])
