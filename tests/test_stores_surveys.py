"""Surveys: what is known of files stays true as long as nobody knows better."""

import errno
import os
import threading
import time
import zipfile

import pytest
from doubles import Eventful

from featurepipe import manifests
from featurepipe.digests import sha256_bytes
from featurepipe.manifests import Manifest, Sample
from featurepipe.sources import NO_STAMP, Files, Source, Stamp
from featurepipe.sources.patience import pause
from featurepipe.stores import Known, Store, Survey, digest_rows

OLD = Stamp(5, 10**18, 0, 7)


class Members(Source):
    """Contents of which it says what a test wants it to say, and whose readings are counted."""

    kind, root = "server", "there"

    def __init__(self, names):
        self.contents = {name: name.encode() for name in names}
        self.stamps = dict.fromkeys(names, OLD)
        self.asked = []

    def stamp(self, place):
        return self._given(self.stamps, place)

    def digest(self, place):
        return sha256_bytes(self.read(place))

    def read(self, place):
        self.asked.append(place)
        return self._given(self.contents, place)

    def _given(self, held, place):
        if isinstance(held[place], OSError):
            raise held[place]
        return held[place]


class Server(Members, Files):
    """The same, as files on their own."""


@pytest.fixture
def server():
    return Server(["a", "b", "c"])


def check(store, source, *, rehash=False):
    """Digests of a store's manifest after a check, and what could not be read."""
    source.asked.clear()
    samples = tuple(Sample(name, name, None, None) for name in sorted(source.contents))
    survey = Survey(Manifest(source, samples), 2, known=store.known(source), rehash=rehash)
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


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT])
def test_a_share_that_is_lost_for_a_while_costs_no_row(tmp_path, server, number):
    store = Store.create(tmp_path / "s")
    before, _ = check(store, server)
    server.stamps["b"] = OSError(number, "gone for now")
    assert check(store, server) == (before, {"b": "cannot be read: gone for now"})


def test_where_all_is_read_again_what_cannot_be_keeps_its_row(tmp_path, server):
    store = Store.create(tmp_path / "s")
    before, _ = check(store, server)
    server.contents.update(a=b"other", b=PermissionError(errno.EACCES, "HTTP 401 Unauthorized"))
    found, unreadable = check(store, server, rehash=True)
    assert (found[0] != before[0], found[1:], list(unreadable)) == (True, before[1:], ["b"])
    assert sorted(server.asked) == ["a", "b", "c"]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.EAGAIN, errno.ENODATA])
def test_what_is_gone_or_has_changed_loses_its_row(tmp_path, server, number):
    store = Store.create(tmp_path / "s")
    before, _ = check(store, server)
    server.stamps["b"] = OSError(number, "it is gone")
    assert check(store, server) == ([before[0], "", before[2]], {"b": "cannot be read: it is gone"})


def test_what_says_nothing_of_its_state_keeps_its_row_if_it_had_a_stamp(tmp_path, server):
    store = Store.create(tmp_path / "s")
    server.stamps["c"] = None
    before, _ = check(store, server)
    server.stamps["a"] = None  # as a signed URL's, which may not be asked for
    denied = PermissionError(errno.EACCES, "HTTP 403 Forbidden")
    server.contents.update(a=denied, c=denied)
    found, unreadable = check(store, server)
    for _ in range(2):  # and the next time, too
        assert (found, sorted(unreadable), sorted(server.asked)) == ([*before[:2], ""], ["a", "c"], ["a", "c"])
        assert store.rows().stamps[:, 0].tolist() == [OLD.size, OLD.size, NO_STAMP.size]
        found, unreadable = check(store, server)
    server.contents.update(a=b"other", c=b"c")
    found, unreadable = check(store, server)
    assert (found[0] != before[0], found[1:], unreadable) == (True, before[1:], {})


def test_what_has_changed_and_cannot_be_read_is_not_what_it_was(tmp_path, server):
    store = Store.create(tmp_path / "s")
    before, _ = check(store, server)
    server.stamps["b"] = OLD._replace(mtime_ns=10**18 + 1)
    server.contents["b"] = OSError(errno.EIO, "Input/output error")
    assert check(store, server)[0] == [before[0], "", before[2]]


def test_what_has_changed_is_not_what_it_was_where_all_is_read_again(tmp_path, server):
    store = Store.create(tmp_path / "s")
    before, _ = check(store, server)
    server.stamps["b"] = OLD._replace(mtime_ns=10**18 + 1)
    server.contents.update(a=OSError(errno.EPROTO, "a page"), b=OSError(errno.EIO, "Input/output error"))
    found, unreadable = check(store, server, rehash=True)
    assert (found, list(unreadable)) == (["", "", before[2]], ["a", "b"])


@pytest.mark.parametrize("rehash", [False, True])
def test_what_lies_in_something_else_never_keeps_its_row_unread(tmp_path, rehash):
    source, store = Members(["a", "b", "c"]), Store.create(tmp_path / "s")
    before, _ = check(store, source)
    failing = OSError(errno.EIO, "Input/output error")
    source.stamps["a"] = source.contents["a"] = source.contents["b"] = failing
    source.stamps["b"] = None
    found, unreadable = check(store, source, rehash=rehash)
    assert (found, list(unreadable)) == (["", "", before[2]], ["a", "b"])


def test_a_row_is_not_filed_under_its_digest_before_it_is_read(tmp_path, server):
    store = Store.create(tmp_path / "s")
    check(store, server)
    server.stamps = dict.fromkeys(server.stamps)
    samples = tuple(Sample(name, name, None, None) for name in "abc")
    survey = Survey(Manifest(server, samples), 1, known=store.known(server))
    assert (survey.unread.all(), survey.rows.contents.any()) == (True, False)


def test_a_content_that_was_read_is_not_taken_for_the_one_before(tmp_path, server):
    store = Store.create(tmp_path / "s")
    check(store, server)
    server.contents["a"] = b"other"
    read = server.read

    def fail_later(place):
        data = read(place)
        server.stamps[place] = OSError(errno.EIO, "Input/output error")
        return data

    server.read = fail_later
    assert check(store, server, rehash=True)[0] == ["", "", ""]


def test_a_damaged_member_of_a_changed_archive_is_not_the_one_before(tmp_path):
    def pack(name, age):
        with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
            for n in range(3):
                archive.writestr(f"c/{n}.jpg", f"{name}{n}" * 50)
        os.utime(tmp_path / "r.zip", (time.time() - age,) * 2)

    def look(rehash):
        manifest = manifests.read(tmp_path / "r.zip")
        survey = Survey(manifest, 1, known=store.known(manifest.source), rehash=rehash)
        survey.read_all()
        return manifest.source, survey.rows, list(survey.unreadable)

    store = Store.create(tmp_path / "s")
    pack("a", 100)
    source, rows, _ = look(False)
    store.write_rows(source, rows)
    pack("b", 50)
    data = bytearray((tmp_path / "r.zip").read_bytes())
    data[data.find(b"b1" * 9)] ^= 1
    (tmp_path / "r.zip").write_bytes(data)
    for rehash in (False, True):
        _, rows, unreadable = look(rehash)
        assert unreadable == ["c/1.jpg"]
        assert [row.digest for row in rows] == [sha256_bytes(b"b0" * 50), "", sha256_bytes(b"b2" * 50)]


def test_rows_of_a_file_that_changes_again_do_not_get_the_digests_of_others(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path, store = tmp_path / "e.parquet", Store.create(tmp_path / "s")

    def write(names, age):
        cells = [{"bytes": name.encode() * 9, "path": None} for name in names]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        parquet.write_table(pa.table({"image": pa.array(cells, kind), "label": list(names)}), path)
        os.utime(path, (time.time() - age,) * 2)

    write("abcd", 100)
    manifest = manifests.read(path)
    store.write_rows(manifest.source, digest_rows(manifest, 1)[0])
    write("dcba", 60)
    manifest = manifests.read(path)
    os.utime(path, (time.time() - 50,) * 2)
    rows, unreadable = digest_rows(manifest, 1, known=store.known(manifest.source))
    assert [row.digest for row in rows] == [""] * 4
    assert all("has just changed" in reason for reason in unreadable.values())


def test_whoever_waits_for_a_server_ends_with_the_survey_and_its_row_stays_unread(server):
    def wait(place):
        survey.stop()
        assert pause(3600)
        raise OSError(errno.EHOSTUNREACH, "nobody waited")

    server.stamp = wait
    survey = Survey(Manifest(server, (Sample("a", "a", None, None),)), 1)
    survey.read_all()
    assert (survey.unread.tolist(), survey.unreadable) == ([True], {})


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
    samples.insert(0, Sample("a##", "a", None, None, None, "5,0,9,9"))  # a new part, which is the first one now
    (new, *others), named = look()
    assert (new != "", others, named) == (True, before, ["a##", "a#0", "a#1", "a#2"])


def test_a_time_beyond_all_columns_is_none_that_is_kept(tmp_path, server):
    server.stamps.update(a=OLD._replace(mtime_ns=2**80), b=OLD._replace(size=2**64))
    store = Store.create(tmp_path / "s")
    before, unreadable = check(store, server)
    assert (unreadable, "" in before) == ({}, False)
    assert (check(store, server)[0], sorted(server.asked)) == (before, ["a", "b"])


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
