"""Surveys: what is known of files stays true as long as nobody knows better."""

import errno
import threading

import pytest
from doubles import Eventful

from featurepipe.digests import sha256_bytes
from featurepipe.manifests import Manifest, Sample
from featurepipe.sources import NO_STAMP, Source, Stamp
from featurepipe.stores import Known, Store, Survey, digest_rows

OLD = Stamp(5, 10**18, 0, 7)


class Server(Source):
    """Files of which it says what a test wants it to say, and whose readings are counted."""

    kind, root = "server", "there"

    def __init__(self, names):
        self.contents = {name: name.encode() for name in names}
        self.stamps = dict.fromkeys(names, OLD)
        self.asked = []

    def stamp(self, place):
        return self._given(self.stamps, place)

    def read(self, place):
        self.asked.append(place)
        return self._given(self.contents, place)

    def _given(self, held, place):
        if isinstance(held[place], OSError):
            raise held[place]
        return held[place]


@pytest.fixture
def server():
    return Server(["a", "b", "c"])


def check(store, source, *, rehash=False):
    """Digests of a store's manifest after a check, and what could not be read."""
    source.asked.clear()
    samples = tuple(Sample(name, name, None, None) for name in sorted(source.contents))
    known = (one._replace(stamp=NO_STAMP) if rehash else one for one in store.known(source))
    survey = Survey(Manifest(source, samples), 2, known=known)
    survey.read_all()
    store.write_rows(source, survey.rows)
    return [row.digest for row in store.rows()], survey.unreadable


def test_what_cannot_be_looked_at_for_a_while_keeps_its_row_and_is_named(tmp_path, server):
    store = Store.create(tmp_path / "s")
    before, unreadable = check(store, server)
    assert (unreadable, len(set(before))) == ({}, 3)
    server.stamps["a"] = PermissionError(errno.EACCES, "HTTP 401 Unauthorized")
    server.stamps["b"] = OSError(errno.EIO, "Input/output error")
    found, unreadable = check(store, server)
    assert found == before
    assert unreadable == {"a": "cannot be read: HTTP 401 Unauthorized", "b": "cannot be read: Input/output error"}
    server.stamps.update(a=OLD, b=OLD)
    assert check(store, server) == (before, {})
    assert server.asked == []  # nothing is read again


def test_where_all_is_read_again_what_cannot_be_keeps_its_row(tmp_path, server):
    store = Store.create(tmp_path / "s")
    before, _ = check(store, server)
    server.contents.update(a=b"other", b=PermissionError(errno.EACCES, "HTTP 401 Unauthorized"))
    found, unreadable = check(store, server, rehash=True)
    assert (found[0] != before[0], found[1:], list(unreadable)) == (True, before[1:], ["b"])
    assert sorted(server.asked) == ["a", "b", "c"]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EINVAL])
def test_what_is_gone_loses_its_row(tmp_path, server, number):
    store = Store.create(tmp_path / "s")
    before, _ = check(store, server)
    server.stamps["b"] = OSError(number, "it is gone")
    assert check(store, server) == ([before[0], "", before[2]], {"b": "cannot be read: it is gone"})


def test_what_says_nothing_of_its_state_keeps_its_row_until_it_can_be_read(tmp_path, server):
    store = Store.create(tmp_path / "s")
    server.stamps["c"] = None
    before, _ = check(store, server)
    server.stamps["a"] = None  # as a signed URL's, which may not be asked for
    denied = PermissionError(errno.EACCES, "HTTP 403 Forbidden")
    server.contents.update(a=denied, c=denied)
    found, unreadable = check(store, server)
    assert (found, sorted(unreadable), sorted(server.asked)) == (before, ["a", "c"], ["a", "c"])
    assert store.rows().stamps[:, 0].tolist() == [NO_STAMP.size, OLD.size, NO_STAMP.size]
    server.contents.update(a=b"other", c=b"c")
    found, unreadable = check(store, server)
    assert (found[0] != before[0], found[1:], unreadable) == (True, before[1:], {})


def test_what_has_changed_and_cannot_be_read_is_not_what_it_was(tmp_path, server):
    store = Store.create(tmp_path / "s")
    before, _ = check(store, server)
    server.stamps["b"] = OLD._replace(mtime_ns=10**18 + 1)
    server.contents["b"] = OSError(errno.EIO, "Input/output error")
    assert check(store, server)[0] == [before[0], "", before[2]]


def test_parts_of_a_file_that_cannot_be_looked_at_are_named_and_stay(tmp_path, server):
    store = Store.create(tmp_path / "s")
    samples = [Sample(f"a#{n}", "a", None, None, None, f"{n},0,9,9") for n in range(3)]

    def look():
        survey = Survey(Manifest(server, samples), 2, known=store.known(server))
        survey.read_all()
        store.write_rows(server, survey.rows)
        return [row.digest for row in store.rows()], sorted(survey.unreadable)

    before, _ = look()
    server.stamps["a"] = OSError(errno.EIO, "Input/output error")
    assert look() == (before, ["a#0", "a#1", "a#2"])


@pytest.mark.parametrize("known", [False, True])
def test_an_interrupt_waits_for_no_more_than_the_file_that_each_thread_is_at(known):
    class Waiting(Server):
        came = threading.Event()

        def stamp(self, place):
            self.asked.append(place)
            if place >= "064":
                self.came.set()
                stopped.wait(60)
            return super().stamp(place)

    def interrupt(count):
        assert source.came.wait(60)
        raise KeyboardInterrupt

    names = [f"{n:03}" for n in range(200)]
    source, stopped = Waiting(names), threading.Event()
    manifest = Manifest(source, tuple(Sample(name, name, None, None) for name in names))

    class Heard(Survey):
        def stop(self):
            super().stop()
            stopped.set()

    records = [Known(name, name, bytes(31) + b"1", OLD) for name in names] if known else []

    def check():
        Heard(manifest, 1, interrupt if known else lambda n: None, known=records).read_all(interrupt)

    with pytest.raises(KeyboardInterrupt):
        check()
    assert set(source.asked) == set(names[:65])


def test_a_file_and_its_parts_are_read_once_in_any_order(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    samples = [Sample("1", "a", None, None, None, "0,0,4,4"), Sample("2", "a", None, None)]
    samples += [Sample("3", "a", None, None, None, "4,4,8,8"), Sample("4", "gone", None, None)]
    for some in (samples, [samples[1]._replace(id="0"), *samples[:1], *samples[2:]]):
        source = Eventful(str(tmp_path))
        rows, unreadable = digest_rows(Manifest(source, some), 2)
        assert (source.digested, list(unreadable)) == (["a"], ["4"])
        whole = next(row for row in rows if row.sample.part is None)
        assert whole.digest == sha256_bytes(b"abc")
        assert len({row.digest for row in rows}) == 4
