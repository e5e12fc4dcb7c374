"""Files at URLs: the same samples as files, bounded patience, and errors that say why."""

import os
import pickle
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import unquote

import pytest
from packing import files_of, to_tar, to_zip

from featurepipe import manifests
from featurepipe.errors import DependencyMissing, ManifestError
from featurepipe.sources import SOURCES, Remotes, urls
from featurepipe.sources.patience import Patience, heard
from featurepipe.stages import extract, predict, probe
from featurepipe.stores import Store

OLD = "Wed, 01 Jan 2025 00:00:00 GMT"


class Handler(BaseHTTPRequestHandler):
    """Serves the files of a folder, and answers by name for whatever can go wrong."""

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        name = self.path.lstrip("/")
        if name == "moved.jpg":
            return self.answer(302, headers={"Location": "/login"})
        if name == "login":
            return self.answer(200, b"<html>Who are you?</html>", {"Content-Type": "text/html"})
        if name == "denied.jpg":
            return self.answer(403)
        if name == "slow.jpg":
            self.server.stopped.wait(5)
            return None
        if name == "trickle.jpg":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while not self.server.stopped.wait(0.02):
                self.wfile.write(b"x")
            return None
        if name.startswith("late/"):
            name = name.removeprefix("late/")
            if sum(path == self.path for _, path in self.server.asked) < 3:
                return self.answer(503)
        path = self.server.root / unquote(name)
        if not path.is_file():
            return self.answer(404)
        cut = 10 if self.headers.get("cut") else None
        return self.answer(200, path.read_bytes(), {"Last-Modified": OLD, "ETag": f'"{len(path.read_bytes())}"'}, cut)

    do_HEAD = do_GET

    def answer(self, code, data=b"", headers=(), cut=None):
        self.send_response(code)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A server of the folder ``web``; it waits for nothing long."""
    monkeypatch.setattr(urls, "WAITS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(urls, "SECONDS", 0.2)
    monkeypatch.setattr(urls, "PATIENT", Patience())
    (tmp_path / "web").mkdir()
    with serving(tmp_path / "web") as server:
        yield server


@contextmanager
def serving(root):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.root, server.asked, server.stopped, server.daemon_threads = root, [], threading.Event(), True
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stopped.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_table_of_urls_gives_the_vectors_of_the_files(web, photos, tmp_path):
    root = photos(per_class=4, name="web/p")
    lines = [f"{web.url}/p/{name},{name[:3]}" for name in files_of(root)]
    lines[0] = "web/p/ant/0.jpg,ant"  # files of this machine may be among them
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *lines]))
    assert extract(root, tmp_path / "st", backbone="pixels")["computed"] == 8
    assert extract(tmp_path / "t.csv", tmp_path / "st", backbone="pixels")["computed"] == 0
    assert extract(tmp_path / "t.csv", tmp_path / "own", backbone="pixels")["computed"] == 8
    before = len(web.asked)
    assert extract(tmp_path / "t.csv", tmp_path / "own", backbone="pixels")["computed"] == 0
    assert {method for method, _ in web.asked[before:]} == {"HEAD"}  # what has not changed is not read again
    source = Store.open(tmp_path / "own").source
    assert source == pickle.loads(pickle.dumps(source)) == SOURCES["remote"](str(tmp_path))
    assert all(
        one.read()
        for one in Store.open(tmp_path / "own").pending([row.digest for row in Store.open(tmp_path / "own").rows()])
    )


def test_what_cannot_be_had_is_rejected_by_name_and_the_run_goes_on(web, photos, tmp_path):
    photos(per_class=2, name="web/p")
    names = ["p/ant/0.jpg", "late/p/bee/0.jpg", "gone.jpg", "moved.jpg", "denied.jpg", "slow.jpg"]
    (tmp_path / "t.csv").write_text("\n".join(["id,path", *(f"{n},{web.url}/{name}" for n, name in enumerate(names))]))
    result = extract(tmp_path / "t.csv", tmp_path / "st", backbone="pixels")
    assert result["computed"] == 2
    assert result["rejects"] == {
        "2": "cannot be read: HTTP 404 Not Found",
        "3": f"cannot be read: it is a web page, not a file, to which it leads: {web.url}/login",
        "4": "cannot be read: HTTP 403 Forbidden: the credentials are missing, wrong or expired",
        "5": "cannot be read: no answer within 0.2 seconds, after 4 tries",
    }
    assert len([path for _, path in web.asked if path == "/gone.jpg"]) == 1  # not asked for again
    assert len([path for _, path in web.asked if path == "/slow.jpg"]) == 4


class Clock:
    """Time that passes only while somebody waits."""

    now = 0.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds
        return False


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(urls, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(urls, "PATIENT", Patience(clock=made, wait=made.wait))
    return made


class Failing:
    """What a server does that answers with an error until `back`, and how often it was asked."""

    def __init__(self, clock, error, back=float("inf")):
        self.clock, self.error, self.back, self.asked = clock, error, back, 0

    def __call__(self):
        self.asked += 1
        if self.clock.now < self.back:
            raise self.error
        return b"x"


def losses(ask, count, place="x://me:secret@y"):
    """The reasons of all of these files that do not come."""
    found = []
    for n in range(count):
        try:
            urls.tried(f"{place}/{n}", ask)
        except OSError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize(("back", "lost", "seconds"), [(5, 16, 30), (45, 17, 60)])
def test_a_server_that_is_gone_for_a_while_is_waited_for(clock, back, lost, seconds):
    failing = Failing(clock, ConnectionResetError("gone away"), back)
    assert len(losses(failing, 500)) == lost  # one of them to see whether it is back
    assert clock.now == pytest.approx(seconds)
    assert losses(Failing(clock, ConnectionResetError("gone away")), 1) == [
        "[Errno 5] gone away, after 3 tries: 'x://me:secret@y/0'"
    ]


def test_a_server_that_stays_away_is_not_asked_for_all_of_its_files(clock):
    failing = Failing(clock, ConnectionResetError("gone away"))
    found = losses(failing, 500)
    assert (len(found), clock.now, failing.asked) == (500, pytest.approx(60), 3 * 16 + 2)
    assert "x://y gave none of 16 files in a row" in found[-1]
    assert "run the same command again" in found[-1]
    assert urls.tried("x://z/0", lambda: "another server") == "another server"
    clock.now += 31
    assert urls.tried("x://y/0", lambda: "back") == "back"
    assert losses(lambda: b"x", 9) == []


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_gets_all_tries_for_a_file_and_is_not_asked_for_ever(clock, code):
    busy = Failing(clock, HTTPError("http://y", code, "Busy", {}, None))
    assert len(losses(busy, 500, "http://y")) == 500
    assert (busy.asked, clock.now) == (3 * 18, pytest.approx(60))


def test_a_server_that_knows_its_files_and_gives_none_is_not_asked_for_all(clock):
    failing = Failing(clock, HTTPError("http://y", 500, "Broken", {}, None))
    for n in range(500):
        urls.tried(f"http://y/{n}", lambda: "its size", "HEAD")
        assert losses(failing, 1, "http://y")
    assert failing.asked == 3 * 16 + 2


def test_a_run_that_begins_later_waits_for_the_first_answer(clock):
    losses(Failing(clock, ConnectionResetError("gone away")), 500)
    clock.now += 3600
    assert urls.PATIENT.check("x://y", "GET", "x://y/0")  # asks
    assert not urls.PATIENT.is_given_up("x://y", "GET")  # so the others wait
    urls.PATIENT.note("x://y", "GET", came=True)
    assert losses(lambda: b"x", 9) == []


def test_whoever_waits_for_a_server_hears_that_it_should_end(clock, monkeypatch):
    monkeypatch.setattr(urls, "PATIENT", Patience(rest=3600))
    losses(Failing(clock, ConnectionResetError("gone away")), 16)
    stopped = threading.Event()
    stopped.set()
    with heard(stopped), pytest.raises(OSError, match="gave none of 16 files in a row"):
        urls.tried("x://y/0", lambda: "back")


def test_whoever_was_told_to_end_says_nothing_of_a_server(clock):
    stopped = threading.Event()
    stopped.set()
    with heard(stopped):
        losses(Failing(clock, ConnectionResetError("gone away")), 20)
    assert not urls.PATIENT.check("x://y", "GET", "x://y/0")
    assert clock.now == 0  # nobody waits for it now


def test_an_answer_that_trickles_has_an_end(web, monkeypatch):
    monkeypatch.setattr(urls, "WAITS", ())
    with pytest.raises(OSError, match=r"it comes too slowly: \d+ bytes in \d+ seconds"):
        urls.fetch(f"{web.url}/trickle.jpg")


def test_urls_may_have_spaces_and_any_letters(web):
    (web.root / "größe a%20b.png").write_bytes(b"large")
    assert urls.fetch(f"{web.url}/größe a%2520b.png")[0] == b"large"
    assert urls.stamp_of(f"{web.url}/gr%C3%B6%C3%9Fe%20a%2520b.png") is not None
    assert urls.quoted("https://bücher.example/a?k=%2F&s=x+y#ü") == "https://xn--bcher-kva.example/a?k=%2F&s=x+y#%C3%BC"
    with pytest.raises(OSError, match="too long") as caught:
        urls.fetch(f"http://{'ü' * 70}.example/")
    assert "tries" not in str(caught.value)  # which would change nothing


def test_a_pipe_behind_a_url_of_this_machine_is_not_waited_for(tmp_path):
    pytest.importorskip("fsspec")
    os.mkfifo(tmp_path / "p.jpg")
    with pytest.raises(OSError, match=r"^\[Errno \d+\] it is a pipe, not a file"):
        urls.fetch(f"file://{tmp_path}/p.jpg")
    (tmp_path / "a.jpg").write_bytes(b"abc")
    assert urls.fetch(f"file://{tmp_path}/a.jpg")[0] == b"abc"


def test_an_answer_that_is_cut_is_asked_for_again(web, tmp_path, monkeypatch):
    (web.root / "a.png").write_bytes(bytes(100))
    monkeypatch.setattr(urls, "AGENT", {"cut": "yes"})
    with pytest.raises(OSError, match=r"IncompleteRead.*, after 4 tries"):
        urls.fetch(f"{web.url}/a.png")
    monkeypatch.setattr(urls, "AGENT", {})
    assert urls.fetch(f"{web.url}/a.png")[0] == bytes(100)
    with pytest.raises(OSError, match="it is larger than"):
        urls.fetch(f"{web.url}/a.png", 99)


@pytest.mark.parametrize(("pack", "name"), [(to_zip, "p.zip"), (to_tar, "p.tar")])
def test_archives_at_urls_are_downloaded_once(web, photos, tmp_path, pack, name):
    root = photos()
    pack(root, web.root / name)
    result = extract(f"{web.url}/{name}", tmp_path / "st", backbone="pixels")
    assert (result["computed"], sum(method == "GET" for method, _ in web.asked)) == (6, 1)
    assert extract(f"{web.url}/{name}", tmp_path / "st", backbone="pixels")["computed"] == 0
    assert extract(root, tmp_path / "st", backbone="pixels")["computed"] == 0
    with pytest.raises(ManifestError, match=r"gone\.zip cannot be downloaded: HTTP 404"):
        manifests.read(f"{web.url}/gone.zip")


def test_folders_of_other_file_systems_and_single_files(photos, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    root = photos(per_class=8, splits=("train", "test"))
    for name, data in files_of(root).items():
        memory.pipe(f"/bucket/{name}", data)
    try:
        manifest = manifests.read("memory://bucket")
        assert [(one.id, one.label, one.split) for one in manifest.samples] == [
            (one.id, one.label, one.split) for one in manifests.read(root).samples
        ]
        assert manifest.name(manifest.samples[0]) == "memory://bucket/test/ant/0.jpg"
        assert extract(root, tmp_path / "st", backbone="pixels")["computed"] == 32
        assert extract("memory://bucket", tmp_path / "st", backbone="pixels")["computed"] == 0
        made = probe(tmp_path / "st", tmp_path / "m.safetensors", kind="ridge", baselines="simple")
        found = predict(made["model"], "memory://bucket/test/ant/0.jpg")["predictions"]
        assert found[0]["file"] == "memory://bucket/test/ant/0.jpg"
        with pytest.raises(OSError, match=r"No such file|nix"):
            Remotes("memory://bucket").read("nix.jpg")
    finally:
        memory.rm("/bucket", recursive=True)


def test_what_is_not_read_at_urls(web):
    with pytest.raises(ManifestError, match="web servers list no folders; give an archive, or a table of URLs"):
        manifests.read(f"{web.url}/photos/")
    with pytest.raises(ManifestError, match="is a table, which is read from a file; download it"):
        manifests.read(f"{web.url}/t.csv")
    with pytest.raises(ManifestError, match=r"memory://nix cannot be listed|holds no files"):
        manifests.read("memory://nix")
    with pytest.raises(ManifestError, match="the scheme nosuch:// is not known"):
        manifests.read("nosuch://bucket/photos")


def test_a_scheme_without_its_package_says_which(monkeypatch):
    fsspec = pytest.importorskip("fsspec")

    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(DependencyMissing, match="s3:// needs s3fs: pip install s3fs"):
        manifests.read("s3://bucket/photos")


@pytest.mark.parametrize(
    "headers",
    [{"Last-Modified": "Mon, 01 Jan 1601 00:00:00 GMT"}, {"ETag": "a", "Content-Length": "99999999999999999999"}],
)
def test_what_no_file_can_be_gives_no_stamp(headers):
    assert urls._stamp_of_headers(headers) is None


def test_a_server_that_says_nothing_of_versions_gives_no_stamp():
    assert urls._stamp_of_headers({"Content-Length": "5"}) is None
    assert urls._stamp_of_info({"size": 3}) is None
    stamp = urls._stamp_of_info({"size": 3, "ETag": "x", "LastModified": "2025-01-01T00:00:00+00:00"})
    assert (stamp.size, stamp.mtime_ns) == (3, 1735689600 * 10**9)
