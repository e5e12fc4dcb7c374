"""Stores: what is kept, what is still missing, and what happens when the directory is not as it was left."""

import csv
import errno
import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from doubles import Eventful

from featurepipe import files, shards, stores
from featurepipe.backbones import Pixels
from featurepipe.digests import sha256_bytes, sha256_file, sha256_part
from featurepipe.errors import (
    FingerprintMismatch,
    FormatTooNew,
    OutputError,
    ShardCorrupt,
    ShardUnreadable,
    StoreError,
    StoreReadOnly,
)
from featurepipe.images import ImageTransform
from featurepipe.manifests import SPLITS, Manifest, Sample
from featurepipe.sources import Files, Stamp
from featurepipe.stores import Pending, Row, Store, Writer, manifest
from featurepipe.stores.headers import Header, State

PIXELS = Pixels()
OTHER = Pixels(
    name="other pixels", transform=ImageTransform((3, 8, 8), "bilinear", (0.0,) * 3, (1.0,) * 3, 1.0, "squash")
)
NASTY = [
    'a,b".jpg',
    "line\nbreak.png",
    "carriage\rreturn.png",
    " spaces .png",
    "ü/ß.png",
    "'=1+1.png",
    "\udcff\udc80.png",
]


def digest(n):
    return f"{n:064x}"


def writer(store, backbone=PIXELS, rows_per_shard=2):
    provenance = {"name": backbone.name, "source": backbone.source}
    return Writer(store.entry(backbone), provenance, rows_per_shard)


def put(store, numbers, backbone=PIXELS, rows_per_shard=2, rejects=()):
    """One-row batches; row n is filled with n."""
    sink = writer(store, backbone, rows_per_shard)
    for n in numbers:
        bad = {digest(n): f"broken {n}"} if n in rejects else {}
        kept = [] if bad else [digest(n)]
        sink.append(kept, np.full((len(kept), backbone.width), n, np.float32), bad)
    sink.commit()


def shard_files(store):
    return sorted(store.path.glob("*/shard-*.h5"))


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "a.store")


# -- the directory


def test_create_makes_a_store_once_and_opens_it_afterwards(tmp_path):
    made = Store.create(tmp_path / "deep" / "a.store")
    before = (made.path / "store.json").read_bytes()
    assert Store.is_store(made.path)
    assert (made.path / ".gitignore").read_text() == "*\n"
    assert Store.create(made.path) == Store.open(made.path) == made
    assert (made.path / "store.json").read_bytes() == before


@pytest.mark.parametrize(
    "content", ["photo.jpg", "manifest.csv", ".gitignore", "trip-20240101/a.jpg", "store.json.bak"]
)
def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / content).parent.mkdir(exist_ok=True)
    (tmp_path / content).write_text("mine")
    with pytest.raises(StoreError, match="not a featurepipe store"):
        Store.create(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / content]
    assert (tmp_path / content).read_text() == "mine"


def test_a_file_is_refused(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(StoreError, match="not a featurepipe store"):
        Store.create(tmp_path / "a")


def test_open_says_what_to_do_when_there_is_nothing(tmp_path):
    with pytest.raises(StoreError, match="featurepipe extract"):
        Store.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_newer_store_is_refused(store):
    header = json.loads((store.path / "store.json").read_text())
    (store.path / "store.json").write_text(json.dumps(header | {"encoding-version": "2.0"}))
    for opened in (Store.open, Store.create):
        with pytest.raises(FormatTooNew, match=r"2\.0.*reads 1\.2"):
            opened(store.path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '"x"',
        "[" * 100_000,
        '{"root": "\\ud800"}',
        "\udcff",
        '{"encoding-type": "featurepipe-store"}',
    ]
    + [
        json.dumps({"encoding-type": "featurepipe-store", "encoding-version": "1.0", "root": "/x"} | change)
        for change in (
            {"encoding-version": "one"},
            {"encoding-version": None},
            {"root": 5},
            {"root": "a\0b"},
            {"relative": "a\0b"},
            {"relative": "\ud800"},
            {"manifest": 5},
            {"next": {}},
            {"next": "x"},
        )
    ],
)
def test_a_damaged_header_is_one_clear_error_and_made_anew(store, text):
    (store.path / "store.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreError, match=r"store\.json is damaged \(.*featurepipe extract DATA -s"):
        Store.open(store.path)
    assert Store.create(store.path).root is None
    assert Store.open(store.path).root is None


def test_the_header_of_something_else_is_never_replaced(store):
    header = store.path / "store.json"
    header.write_text('{"encoding-type": "zarr", "encoding-version": "1"}')
    for opened in (Store.open, Store.create):
        with pytest.raises(StoreError, match=r"store\.json describes a 'zarr', not a featurepipe store"):
            opened(store.path)
    (store.path / ".lock").unlink()
    header.write_text('{"shop": [')
    (store.path / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="exists and is not a featurepipe store"):
        Store.create(store.path)
    assert header.read_text() == '{"shop": ['


def sparse(path, size):
    with open(path, "wb") as file:
        file.truncate(size)


@pytest.mark.parametrize("make", [lambda path: sparse(path, 2**41), os.mkfifo], ids=["2 TB", "pipe"])
def test_a_header_that_is_no_file_of_its_size_is_not_read(store, make):
    (store.path / "store.json").unlink()
    make(store.path / "store.json")
    with pytest.raises(StoreError, match=r"is damaged \(it is larger|is not a featurepipe store"):
        Store.open(store.path)
    assert Store.create(store.path).entries() == []


@pytest.mark.parametrize("gone", [[], ["store.json"], [".lock", ".gitignore"]])
def test_a_store_whose_header_is_damaged_is_made_anew_next_to_other_files(store, gone):
    put(store, range(4))
    store.write_rows(Files(str(store.path)), [Row(Sample("a", "a", None, None), digest(1))])
    (store.path / "store.json").write_text("{")
    (store.path / "model.safetensors").write_text("a file that may lie there")
    for name in gone:
        (store.path / name).unlink()
    assert len(Store.create(store.path).entry(PIXELS).places()) == 4
    assert Store.open(store.path).rows(checked=False)[0].sample.id == "a"
    assert (store.path / "model.safetensors").read_text() == "a file that may lie there"


@pytest.mark.parametrize("both", [False, True])
def test_a_lost_header_beside_activations_is_made_again(store, both):
    put(store, range(4))
    inner = Store.create(store.path / "activations")
    put(inner, range(3))
    for path in [store.path, inner.path][: 1 + both]:
        (path / "store.json").unlink()
    assert len(Store.create(store.path).entry(PIXELS).places()) == 4
    assert len(Store.create(inner.path).entry(PIXELS).places()) == 3


@pytest.mark.parametrize(
    "left", [[], [".gitignore"], [".gitignore.1f.partial"], [".gitignore", "store.json.1f.partial"]]
)
def test_a_store_that_was_never_finished_is_finished(tmp_path, left):
    for name in [".lock", *left]:
        (tmp_path / name).write_text("*\n" if name == ".gitignore" else "")
    assert Store.create(tmp_path).entries() == []
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".gitignore", "store.json"}


# -- the lock

HOLD = """
import sys
from featurepipe.stores import Store
with Store.open(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.processes
def test_a_second_writer_gets_one_clear_error_until_the_first_is_gone(store):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="written by another process"), store.lock():
            pytest.fail("two writers")
        (store.path / "store.json").unlink()  # as if the store was just being made
        with pytest.raises(StoreError, match="written by another process"):
            Store.create(store.path)
        first.kill()
    with store.lock():  # the lock went with the process
        pass


def test_a_store_that_may_not_be_written_says_so(store, as_nobody):
    store.path.chmod(0o555)
    says = rf"{store.path} may be read only .*\.lock: Perm"
    with as_nobody(store.path), pytest.raises(StoreReadOnly, match=says), store.lock():
        raise AssertionError("not reached")
    store.path.chmod(0o755)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOSPC])
@pytest.mark.parametrize("before", [False, True], ids=["first lock", "a lock from before"])
@pytest.mark.filterwarnings("error")
def test_a_file_system_without_locks_or_room_is_named(store, monkeypatch, number, before):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    (store.path / ".lock").unlink()
    if before:
        (store.path / ".lock").write_bytes(b"")
    monkeypatch.setattr(fcntl, "flock", fail)
    says = "the disk is full" if number == errno.ENOSPC else "the file system has no locks"
    for _ in range(2):  # the second try, too
        with (
            pytest.raises(OSError, match=rf"{store.path / '.lock'} cannot be .*{os.strerror(number)}|{says}") as caught,
            store.lock(),
        ):
            raise AssertionError("not reached")
        assert says in str(caught.value)
        assert "another process" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("a folder", Path.mkdir),
        ("a link", lambda path: path.symlink_to(path.with_name("store.json"))),
        ("a link", lambda path: path.symlink_to("nowhere")),
        ("a pipe", os.mkfifo),
    ],
)
def test_what_lies_in_the_locks_place_and_is_no_file_is_named(store, kind, make):
    (store.path / ".lock").unlink()
    make(store.path / ".lock")
    before = (store.path / "store.json").read_bytes()
    with pytest.raises(StoreError, match=rf"\.lock is {kind}, not a lock file; remove it, and run"), store.lock():
        raise AssertionError("not reached")
    assert (store.path / "store.json").read_bytes() == before
    assert not (store.path / "nowhere").exists()


@pytest.mark.parametrize("content", ["", "4711\nsomehost\n"])
def test_a_locks_file_of_any_content_is_a_lock(store, content):
    (store.path / ".lock").write_text(content)
    with store.lock():
        pass
    assert (store.path / ".lock").read_text() == content


def test_the_lock_removes_leftovers_and_nothing_else(store):
    put(store, range(2))
    (shard,) = shard_files(store)
    leftovers = [shard.with_name("shard-00001.h5.0a1b2c3d.partial"), store.path / "manifest.csv.0a1b2c3d.partial"]
    for leftover in leftovers:
        leftover.write_bytes(b"half")
    with pytest.raises(ZeroDivisionError), store.lock():
        raise ZeroDivisionError  # goes through, and the lock is free again
    with store.lock():
        assert not any(leftover.exists() for leftover in leftovers)
        assert shard_files(store) == [shard]


# -- the manifest


def test_rows_come_back_as_they_went_in(store):
    rows = [
        Row(Sample(name, name, name, split), digest(n))
        for n, (name, split) in enumerate(zip(NASTY, [*SPLITS, None, *SPLITS], strict=True))
    ]
    rows += [Row(Sample("unread", "unread", None, None), "")]
    store.write_rows(Files("/some/where"), rows)
    assert list(store.rows()) == rows
    assert store.root == Path("/some/where")


def test_the_root_may_have_any_name(store, tmp_path):
    root = tmp_path / os.fsdecode(b'"\xff\n\xc3\xbc')
    root.mkdir()
    store.write_rows(Files(str(root)), [])
    assert Store.open(store.path).root == root


def test_rejects_are_a_table_that_reads_back(store):
    rejects = {name: f"broken: {name}" for name in NASTY}
    store.write_rejects(rejects)
    with open(store.path / "rejects.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert list(csv.reader(file)) == [["id", "reason"], *map(list, rejects.items())]


def test_a_store_without_manifest_says_how_to_fill_it(store):
    assert store.root is None
    with pytest.raises(StoreError, match=f"featurepipe extract DATA --store {store.path}"):
        store.rows()
    (store.path / "manifest.csv").write_text("id,label\n")
    with pytest.raises(StoreError, match=r"it lacks columns|does not fit"):
        store.rows()


def test_digests_are_of_the_content_and_unreadable_files_have_a_reason(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("nowhere")
    (tmp_path / "c").mkdir()
    manifest = Manifest(Files(str(tmp_path)), tuple(Sample(name, name, None, None) for name in "abc"))
    done = []
    rows, unreadable = stores.digest_rows(manifest, 2, done.append)
    assert [row.digest for row in rows] == ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "", ""]
    assert unreadable == {
        "b": "cannot be read: No such file or directory",
        "c": "cannot be read: Is a directory",
    }
    assert sum(done) == 3


def test_an_interrupted_check_does_not_wait_for_the_other_files(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    source = Eventful(str(tmp_path))
    manifest = Manifest(source, tuple(Sample(str(n), "a", None, None) for n in range(5_000)))

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stores.digest_rows(manifest, 2, interrupt)
    assert len(source.digested) < 5_000


# -- what need not be read


def put_file(path, content=b"abc", age=60):
    """A file that was modified `age` seconds ago."""
    path.write_bytes(content)
    then = time.time_ns() - age * 10**9
    os.utime(path, ns=(then, then))
    return path


def restamp(store, id_, path):
    """Let a manifest know a file by what it looks like now: what a file system that lies about times would do."""
    rows = store.rows()
    stamps = rows.stamps.copy()
    stamps[rows.samples.ids.index(id_)] = Stamp.of(path.stat())
    store.write_rows(store.source, replace(rows, stamps=stamps))


class Data:
    """A flat folder and its store; `check` takes the digests as an extraction does."""

    def __init__(self, base):
        self.root, self.store = base / "data", Store.create(base / "a.store")
        self.root.mkdir()

    @property
    def source(self):
        return Eventful(str(self.root))

    def check(self, *, rehash=False, samples=None, after=lambda place: None):
        """Digests by id, and the names of the files that were read for them."""
        names = sorted(path.name for path in self.root.iterdir())
        source = Eventful(str(self.root), after=after)
        manifest = Manifest(source, samples or tuple(Sample(name, name, None, None) for name in names))
        rows, _ = stores.digest_rows(manifest, 2, known=() if rehash else self.store.known(source))
        self.store.write_rows(source, rows)
        assert list(self.store.rows()) == list(rows)
        return {row.sample.id: row.digest for row in rows}, sorted(source.digested)


@pytest.fixture
def folder(tmp_path):
    made = Data(tmp_path)
    for name in "abc":
        put_file(made.root / name, name.encode())
    return made


def test_an_unchanged_file_is_read_once_and_an_unchanged_manifest_written_once(folder):
    first, read = folder.check()
    assert read == ["a", "b", "c"]
    manifest, header = folder.store.path / "manifest.csv", folder.store.path / "store.json"
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (manifest, header)]
    assert folder.check() == (first, [])
    assert folder.check(rehash=True) == (first, ["a", "b", "c"])
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (manifest, header)] == before


def test_another_time_or_size_is_a_file_to_read(folder):
    first, _ = folder.check()
    put_file(folder.root / "a", b"x", age=30)  # the same size
    put_file(folder.root / "c", b"longer", age=60)
    second, read = folder.check()
    assert read == ["a", "c"]
    assert [first[name] == second[name] for name in "abc"] == [False, True, False]


def test_a_forged_time_deceives_nobody(folder):
    first, _ = folder.check()
    status = (folder.root / "a").stat()
    (folder.root / "a").write_bytes(b"x")
    os.utime(folder.root / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    second, read = folder.check()
    assert read == ["a"]
    assert second["a"] != first["a"]


def same_size_and_time(*paths):
    then = time.time_ns() - 60 * 10**9
    for path in paths:
        os.utime(path, ns=(then, then))


def swap(one, other):
    one.rename(one.parent / "between")
    other.rename(one)
    (one.parent / "between").rename(other)


def test_files_of_one_size_and_time_that_swap_names_are_read(folder):
    same_size_and_time(folder.root / "a", folder.root / "b")
    first, _ = folder.check()
    swap(folder.root / "a", folder.root / "b")
    assert folder.check() == ({"a": first["b"], "b": first["a"], "c": first["c"]}, ["a", "b"])
    assert folder.check()[1] == []


def linked(folder, link, one, other):
    """Digests below `link` while it leads to `one`, and again when it leads to `other`."""
    samples = (Sample("a", "link/a" if one.is_dir() else "link", None, None),)
    found = []
    for target in (one, other):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        found.append(folder.check(samples=samples)[0]["a"])
        assert folder.check(samples=samples)[1] == []
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize("folders", [False, True])
def test_a_link_that_leads_elsewhere_now_is_read(folder, tmp_path, folders):
    places = [tmp_path / "one", tmp_path / "other"]
    files_ = [place / "a" if folders else place for place in places]
    for file, content in zip(files_, (b"1", b"2"), strict=True):
        file.parent.mkdir(exist_ok=True)
        put_file(file, content)
    same_size_and_time(*files_)
    first, second = linked(folder, folder.root / "link", *places)
    assert first != second


def test_folders_that_swap_names_are_read_though_no_file_in_them_changes(folder):
    for place in ("x", "y"):
        (folder.root / place).mkdir()
        put_file(folder.root / place / "a", place.encode())
    same_size_and_time(folder.root / "x" / "a", folder.root / "y" / "a")
    samples = tuple(Sample(path, path, None, None) for path in ("x/a", "y/a"))
    first, _ = folder.check(samples=samples)
    swap(folder.root / "x", folder.root / "y")
    second, read = folder.check(samples=samples)
    assert read == ["a", "a"]
    assert second == {"x/a": first["y/a"], "y/a": first["x/a"]}


def test_a_file_that_changes_while_it_is_read_gets_no_stamp(folder):
    def rewrite(place):
        if place == "b":
            put_file(folder.root / place, b"2", age=30)

    folder.check(after=rewrite)
    with open(folder.store.path / "manifest.csv", newline="") as file:
        assert {line[0] for line in csv.reader(file) if not line[5]} == {"b"}


def test_parts_of_one_file_share_one_reading(folder):
    parts = [Sample(f"{n}", "b" if n % 2 else "a", None, None, None, f"{n}") for n in range(6)]
    whole, gone = Sample("whole", "b", None, None), [Sample(f"x{n}", "gone", None, None, None, str(n)) for n in (1, 2)]
    digests, read = folder.check(samples=(*parts, whole, *gone))
    assert read == ["a", "b"]
    a, b = sha256_bytes(b"a"), sha256_bytes(b"b")
    assert digests.pop("whole") == b
    assert [digests.pop(f"x{n}") for n in (1, 2)] == ["", ""]
    assert digests == {f"{n}": sha256_part(bytes.fromhex(b if n % 2 else a), f"{n}") for n in range(6)}
    again, read = folder.check(
        samples=(*parts[:3], *(one._replace(part=f"new {one.part}") for one in parts[3:]), whole)
    )
    assert read == []  # the stamps are the files'
    assert [again[f"{n}"] == digests[f"{n}"] for n in range(6)] == [True] * 3 + [False] * 3
    assert again["3"] == sha256_part(bytes.fromhex(b), "new 3")


def test_every_part_of_an_unreadable_file_is_said_to_be(tmp_path):
    samples = [Sample(f"{n}", "gone", None, None, None, f"{n}") for n in range(3)]
    done = []
    rows, unreadable = stores.digest_rows(Manifest(Files(str(tmp_path)), samples), 1, done.append)
    assert unreadable == dict.fromkeys("012", "cannot be read: No such file or directory")
    assert [row.digest for row in rows] == [""] * 3
    assert sum(done) == 3


def test_contents_are_found_by_their_digests_with_places(folder):
    samples = (Sample("1", "a", None, None), Sample("2", "a", None, None, None, "p"), Sample("3", "gone", None, None))
    digests, _ = folder.check(samples=(*samples, Sample("4", str(folder.root / "a"), None, None)))
    source = Files(str(folder.root.resolve()))
    wanted = [digests["2"], digests["1"], digests["2"]]
    part, whole = Pending(digests["2"], source, "a", "p"), Pending(digests["1"], source, "a")
    assert folder.store.pending(wanted) == [part, whole, part]  # of copies, the first
    assert [one.read() for one in (part, whole)] == [b"a", b"a"]
    assert (part.size, pickle.loads(pickle.dumps(part))) == (1, part)
    assert folder.store.pending([]) == []
    for unknown in (digest(77), "0" * 64, "f" * 64):
        with pytest.raises(StoreError, match=rf"manifest\.csv has no sample of the content {unknown}"):
            folder.store.pending([digests["1"], unknown])
    put_file(folder.root / "a", b"other")
    for one in (part, whole):
        with pytest.raises(OSError, match="its content has just changed; run again"):
            one.read()


def test_a_store_of_files_does_not_mention_its_source(folder):
    folder.check()
    header = json.loads((folder.store.path / "store.json").read_text())
    assert [*header] == ["encoding-type", "encoding-version", "root", "relative", "manifest", "digest"]
    assert folder.store.source == Files(str(folder.root.resolve()))


def test_what_is_known_of_files_is_not_known_of_another_source(folder):
    folder.check()
    assert len(list(folder.store.known(folder.source))) == 3

    class Other(Files):
        kind = "other"

    assert list(folder.store.known(Other(str(folder.root)))) == []
    folder.store.write_rows(Other(str(folder.root)), folder.store.rows())
    assert json.loads((folder.store.path / "store.json").read_text())["source"] == "other"
    with pytest.raises(StoreError, match=r"'other' source, which cannot be opened from here \(only files, .* can\)"):
        folder.store.pending([])
    assert folder.store.accept_edits() == 3
    assert (len(folder.store.rows()), folder.store.root) == (3, folder.root.resolve())


def test_a_file_that_looks_as_it_did_is_read_by_rehash_alone(folder):
    first, _ = folder.check()
    put_file(folder.root / "a", b"x")
    restamp(folder.store, "a", folder.root / "a")
    assert folder.check() == (first, [])
    second, read = folder.check(rehash=True)
    assert read == ["a", "b", "c"]
    assert second["a"] != first["a"]
    assert folder.check() == (second, [])


@pytest.mark.parametrize("age", [0, 1, -3600])
def test_a_file_modified_just_now_is_read_again(folder, age):
    put_file(folder.root / "b", b"1", age=age)
    folder.check()
    with open(folder.store.path / "manifest.csv", newline="") as file:
        stamped = {line[0]: line[5:9] for line in csv.reader(file)}
    assert stamped["b"] == [""] * 4
    assert stamped["a"][0] == "1"
    (folder.root / "b").write_bytes(b"2")  # in the same tick, as far as the clock can tell
    assert folder.check()[1] == ["b"]


def test_a_renamed_file_is_read_and_a_removed_one_forgotten(folder):
    first, _ = folder.check()
    (folder.root / "a").rename(folder.root / "d")
    (folder.root / "b").unlink()
    assert folder.check() == ({"c": first["c"], "d": first["a"]}, ["d"])


def test_the_path_counts_not_the_id_alone(folder):
    folder.check()
    same = (Sample("a", "a", "x", "train"), Sample("b", "c", None, None))
    assert folder.check(samples=same)[1] == ["c"]


def test_another_folder_knows_nothing(folder, tmp_path):
    folder.check()
    folder.root = folder.root.rename(tmp_path / "moved")
    assert folder.check()[1] == ["a", "b", "c"]


def age_store(store, version, columns):
    """Make of a store one of an earlier format."""
    manifest, header = store.path / "manifest.csv", store.path / "store.json"
    lines = [line[:columns] for line in lines_of(store)]
    with open(manifest, "w", newline="") as file:
        csv.writer(file).writerows(lines)
    told = json.loads(header.read_text())
    header.write_text(json.dumps({key: told[key] for key in ("encoding-type", "root")} | {"encoding-version": version}))


def lines_of(store):
    with open(store.path / "manifest.csv", newline="") as file:
        return list(csv.reader(file))


def version_of(store):
    return json.loads((store.path / "store.json").read_text())["encoding-version"]


@pytest.mark.parametrize("columns", [5, 7])  # of 1.0, and one that was written before 1.1 had all of its columns
def test_a_store_of_1_0_is_read_without_short_cut_and_becomes_1_2(folder, columns):
    first, _ = folder.check()
    age_store(folder.store, "1.0", columns)
    assert {row.sample.id: row.digest for row in Store.open(folder.store.path).rows()} == first
    assert folder.check() == (first, ["a", "b", "c"])
    assert version_of(folder.store) == "1.2"
    assert folder.check() == (first, [])


def test_a_store_of_1_1_is_read_as_before_and_becomes_1_2_without_reading_a_file(folder):
    first, _ = folder.check()
    age_store(folder.store, "1.1", 9)
    assert {row.sample.id: row.digest for row in Store.open(folder.store.path).rows()} == first
    assert folder.store.verify()["ok"]
    assert folder.check() == (first, [])
    assert version_of(folder.store) == "1.2"


def test_a_damaged_manifest_of_1_1_is_one_clear_error_and_no_obstacle(folder):
    first, _ = folder.check()
    age_store(folder.store, "1.1", 9)
    manifest = folder.store.path / "manifest.csv"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"manifest\.csv was edited or damaged \(row 4.*featurepipe extract DATA -s"):
        folder.store.rows()
    assert folder.check()[0] == first


DAMAGES = {
    "numbers that are none": lambda text: text.replace("\r\n", "x\r\n").replace("groupx", "group"),
    "a cell too many": lambda text: text.replace("\r\n", ",1\r\n").replace("group,1", "group"),
    "half": lambda text: text[: len(text) // 2],
    "semicolons": lambda text: text.replace(",", ";"),
    "empty": lambda text: "",
    "a long cell": lambda text: text + "a" * 200_000,
    "no digest": lambda text: text.replace("a,a,,,", "a,a,,,zz"),
    "another label": lambda text: text.replace("b,b,,", "b,b,x,"),
    "another split": lambda text: text.replace("b,b,,,", "b,b,,train,"),
    "another path": lambda text: text.replace("b,b,", "b,c,"),
    "rows reversed": lambda text: "".join([(lines := text.splitlines(True))[0], *lines[:0:-1]]),
    "a row twice": lambda text: text + text.splitlines(True)[-1],
    "a row less": lambda text: "".join(text.splitlines(True)[:-1]),
    "digests exchanged": lambda text: exchanged(text),
}


def exchanged(text):
    """A column sorted in a spreadsheet, say: two rows have each other's digest, and their stamps still fit."""
    first, *rows = [line.split(",") for line in text.splitlines(True)]
    rows[0][4], rows[1][4] = rows[1][4], rows[0][4]
    return "".join(",".join(row) for row in [first, *rows])


def damage(folder, change):
    manifest = folder.store.path / "manifest.csv"
    manifest.write_bytes(change(manifest.read_bytes().decode()).encode())


ADVICE = r"--accept-edits; or make it again with: featurepipe extract DATA -s "


@pytest.mark.parametrize("name", DAMAGES)
def test_a_manifest_that_is_not_the_one_that_was_written_is_refused_by_every_reader_and_made_anew(folder, name):
    first, _ = folder.check()
    damage(folder, DAMAGES[name])
    with pytest.raises(StoreError, match=rf"manifest\.csv was edited or damaged \(.*\); .*{ADVICE}"):
        folder.store.rows()
    found = folder.store.verify()
    assert (found["ok"], len(found["problems"]), "\n" in found["problems"][0]) == (False, 1, False)
    assert "manifest.csv was edited or damaged" in found["problems"][0]
    notes = []
    assert list(folder.store.known(folder.source, notes.append)) == []
    assert ["edited or damaged; every file is read again" in note for note in notes] == [True]
    assert folder.check() == (first, ["a", "b", "c"])
    assert folder.store.verify()["ok"]
    assert folder.check() == (first, [])


@pytest.mark.slow
def test_every_flipped_bit_of_manifest_and_header_is_found_or_changes_nothing(folder):
    samples = tuple(Sample(name, name, "ant", "train") for name in "abc")
    folder.check(samples=samples)
    rows, root, found = list(folder.store.rows()), folder.store.root, 0
    for path in (folder.store.path / "manifest.csv", folder.store.path / "store.json"):
        whole = path.read_bytes()
        for position in range(len(whole)):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
            try:
                opened = Store.open(folder.store.path)
                assert (list(opened.rows()), opened.root) == (rows, root)
            except (StoreError, FormatTooNew):
                found += 1
        path.write_bytes(whole)
    assert found > 700


@pytest.mark.parametrize(
    "change", [{"root": "/else/where"}, {"relative": "../x"}, {"manifest": None}, {"digest": None}]
)
def test_a_header_that_was_edited_is_refused_by_every_reader_and_made_anew(folder, change):
    first, _ = folder.check()
    header = folder.store.path / "store.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | change))
    opened = Store.open(folder.store.path)
    for ask in (opened.rows, lambda: opened.root):
        with pytest.raises(StoreError, match=rf"store\.json was edited or damaged \(.*{ADVICE}"):
            ask()
    assert "store.json was edited" in opened.verify()["problems"][0]
    assert folder.check() == (first, ["a", "b", "c"])
    assert opened.verify()["ok"]


def test_a_manifest_that_is_gone_is_a_problem(folder):
    folder.check()
    (folder.store.path / "manifest.csv").unlink()
    assert "manifest.csv is gone; make it again" in folder.store.verify()["problems"][0]


def test_an_edit_made_by_hand_is_accepted_and_no_digest_is_trusted_after_it(folder):
    first, _ = folder.check()
    damage(folder, lambda text: text.replace("\r\n", "\n").replace("b,b,,,", "b,b,bee,val,"))
    assert folder.store.accept_edits() == 3
    assert folder.store.verify()["ok"]
    assert folder.store.rows()[1] == Row(Sample("b", "b", "bee", "val"), first["b"])
    assert folder.check()[1] == ["a", "b", "c"]


def as_a_spreadsheet_saves(text):
    """A mark of UTF-8 in front, great numbers rounded, and a row that was added below."""
    first, *rows = [line.split(",") for line in text.splitlines()]
    rows = [[*row[:5], row[5], "1.79E+18", "1.79E+18", "2.1E+06", *row[9:]] for row in rows]
    added = ["0", "0.png", "new", "train", *[""] * 7]
    return "\ufeff" + "".join(",".join(row) + "\r\n" for row in [first, *rows, added])


def test_an_edit_made_in_a_spreadsheet_is_accepted(folder):
    first, _ = folder.check()
    damage(folder, as_a_spreadsheet_saves)
    assert folder.store.accept_edits() == 4
    assert folder.store.verify()["ok"]
    rows = folder.store.rows()
    assert [row.sample.id for row in rows] == ["0", "a", "b", "c"]
    assert (rows[0], rows[1].digest) == (Row(Sample("0", "0.png", "new", "train"), ""), first["a"])
    assert not lines_of(folder.store)[1][5]
    assert folder.check() == (first, ["a", "b", "c"])


@pytest.mark.parametrize(("digest", "columns"), [("0" * 64, 11), ("", 9), ("f" * 64, 10)])
def test_a_header_that_says_an_earlier_format_is_no_way_round_the_digest(folder, digest, columns):
    first, _ = folder.check()
    damage(folder, DAMAGES["digests exchanged"])
    age_store(folder.store, "1.1", columns)
    if columns == 9:  # as stores of 1.1 are
        assert len(folder.store.rows()) == 3
        return
    with pytest.raises(StoreError, match=r"manifest\.csv was edited or damaged \(it has columns of format 1\.2"):
        folder.store.rows()
    assert not folder.store.verify()["ok"]
    assert folder.check() == (first, ["a", "b", "c"])
    assert folder.store.verify()["ok"]


def waiting(path):
    """What gives its content when something happens, where there is such a file."""
    path.symlink_to("/proc/kmsg")


@pytest.mark.parametrize("version", ["1.1", "1.2"])
@pytest.mark.parametrize("make", [lambda path: sparse(path, 2**41), lambda path: sparse(path, 2**24), waiting])
def test_a_manifest_that_never_ends_is_refused_and_made_anew(folder, make, version):
    first, _ = folder.check()
    if version == "1.1":
        age_store(folder.store, "1.1", 9)
    (folder.store.path / "manifest.csv").unlink()
    make(folder.store.path / "manifest.csv")
    if not os.access(folder.store.path / "manifest.csv", os.R_OK):
        pytest.skip("there is no such file here")
    for ask in (folder.store.rows, lambda: folder.store.rows(checked=False), folder.store.accept_edits):
        with pytest.raises(StoreError, match=r"manifest\.csv (was edited or damaged|cannot be accepted)"):
            ask()
    assert not folder.store.verify()["ok"]
    assert folder.check() == (first, ["a", "b", "c"])
    assert folder.store.verify()["ok"]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_manifest_that_a_writer_replaces_again_and_again_is_not_called_damaged(folder, monkeypatch, times):
    """Between the reading of the header and that of the manifest, as often as that happens."""
    folder.check()
    read, turns = manifest.read, iter(range(times))

    def replaced(*args, **options):
        for turn in islice(turns, 1):
            labelled(folder, f"label {turn}")
            labelled(folder, f"label {turn} again")
        return read(*args, **options)

    monkeypatch.setattr(manifest, "read", replaced)
    assert folder.store.rows()[0].sample.label == f"label {times - 1} again"


def labelled(folder, label):
    folder.store.write_rows(folder.source, [Row(Sample("a", "a", label, None), digest(1))])


def test_a_manifest_that_is_replaced_and_put_back_is_not_called_damaged(folder, monkeypatch):
    labelled(folder, "x")
    read, turns = manifest.read, iter("y")

    def replaced(*args, **options):
        other = next(turns, None)
        if other is None:
            return read(*args, **options)
        labelled(folder, other)
        try:
            return read(*args, **options)
        finally:
            labelled(folder, "x")

    monkeypatch.setattr(manifest, "read", replaced)
    assert folder.store.rows()[0].sample.label == "x"


def test_an_edited_root_is_accepted_and_what_is_known_of_files_stays(folder, tmp_path):
    first, _ = folder.check()
    moved, header = folder.root.rename(tmp_path / "moved"), folder.store.path / "store.json"
    header.write_text(header.read_text().replace(str(folder.root), str(moved)))
    folder.store.accept_edits()
    assert (folder.store.root, folder.store.verify()["ok"]) == (moved, True)
    folder.root = moved
    assert folder.check() == (first, [])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a row twice", r"'c' has two rows; ids have to be unique"),
        ("no digest", r"row 2, 'a': .* is not a sha256"),
        ("half", r"row \d"),
        ("semicolons", "it lacks columns"),
        ("NUL", r"row 2, 'a': its path or id is empty or has a NUL"),
        ("split", r"row 3, 'b': split 'tbain' is not one of train, val, test"),
    ],
)
def test_an_edit_that_cannot_be_used_is_not_accepted_and_its_row_named(folder, name, why):
    folder.check()
    more = {
        "NUL": lambda text: text.replace("a,a,", "a,a\0,"),
        "split": lambda text: text.replace("b,b,,,", "b,b,,tbain,"),
    }
    damage(folder, {**DAMAGES, **more}[name])
    before = (folder.store.path / "manifest.csv").read_bytes()
    with pytest.raises(StoreError, match=rf"manifest\.csv cannot be accepted: {why}.*; correct that"):
        folder.store.accept_edits()
    assert (folder.store.path / "manifest.csv").read_bytes() == before


def test_a_store_without_manifest_has_nothing_to_accept(store):
    with pytest.raises(StoreError, match="has nothing to accept"):
        store.accept_edits()


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_an_unknown_split_is_named_with_its_row(folder, version):
    folder.check(samples=(Sample("a", "a", "x", "train"), Sample("b", "b", "x", "train")))
    age_store(folder.store, "1.1", 9)
    damage(folder, lambda text: text.replace("b,b,x,train", "b,b,x,tbain"))
    if version == "1.2":
        header = json.loads((folder.store.path / "store.json").read_text())
        told = Header("1.2", State(header["root"], None, sha256_file(folder.store.path / "manifest.csv")))
        told.write(folder.store.path)
    with pytest.raises(StoreError, match=r"row 3, 'b': split 'tbain' is not one of train, val, test"):
        folder.store.rows()


def with_column(folder, column, value):
    """The same value in all rows of a column, by a writer that knows what it does."""
    table = [line.split(",") for line in (folder.store.path / "manifest.csv").read_text("utf-8").splitlines()]
    at = table[0].index(column)
    for line in table[1:]:
        line[at] = value
    (folder.store.path / "manifest.csv").write_bytes("".join(",".join(line) + "\r\n" for line in table).encode())
    header = json.loads((folder.store.path / "store.json").read_text())
    state = State(header["root"], header["relative"], sha256_file(folder.store.path / "manifest.csv"))
    Header("1.2", state).write(folder.store.path)


def test_a_group_changes_no_key_and_a_part_does(folder):
    first, _ = folder.check()
    with_column(folder, "group", "patient 7")
    assert {row.sample.id: row.digest for row in folder.store.rows()} == first
    with_column(folder, "part", "12.0-16.0")
    rows = list(folder.store.rows())
    assert {row.sample.id: row.content for row in rows} == first
    assert [row.sample.part for row in rows] == ["12.0-16.0"] * 3
    for row in rows:
        assert row.digest == sha256_bytes(bytes.fromhex(row.content) + b"12.0-16.0")
    assert [known.digest.hex() for known in folder.store.known(folder.source)] == list(first.values())
    assert folder.store.accept_edits() == 3
    assert list(folder.store.rows()) == rows


def test_the_writer_leaves_part_and_group_empty(folder):
    folder.check()
    first, *rest = lines_of(folder.store)
    assert first == ["id", "path", "label", "split", "digest", *Stamp._fields, "part", "group"]
    assert [line[9:] for line in rest] == [["", ""]] * 3


@pytest.mark.processes
@pytest.mark.parametrize("start", ["no manifest", "1.1", "1.2", "half done"])
@pytest.mark.parametrize("call", range(1, 4))
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_kill_at_any_boundary_leaves_the_manifest_of_before_or_of_after(tmp_path, start, call, before, name):
    store, old, new = Store.create(tmp_path / "s"), tmp_path / "old", tmp_path / "new"
    one, two = ([Row(Sample(f"{place}/{n}", "p", "x", None), digest(n)) for n in range(3)] for place in "ab")
    if start != "no manifest":
        store.write_rows(Files(str(old)), one)
    if start == "1.1":
        age_store(store, "1.1", 9)
    if start == "half done":
        killed(lambda: store.write_rows(Files(str(old)), two), "replace", 2, False)
        one = two
        two = [Row(Sample("c", "p", "x", None), digest(9))]
    was = None if start == "no manifest" else (one, old)
    killed(lambda: store.write_rows(Files(str(new)), two), name, call if name == "replace" else 2 * call, before)
    opened = Store.open(store.path)
    found = None if opened.root is None else (list(opened.rows()), opened.root)
    assert found in (was, (two, new))
    assert (name, call, before) != ("replace", 3, False) or found == (two, new)
    assert opened.verify()["ok"] or found is None
    with opened.lock():
        opened.write_rows(Files(str(new)), two)
    assert (list(opened.rows()), opened.root, opened.verify()["ok"]) == (two, new, True)
    assert "next" not in json.loads((store.path / "store.json").read_text())
    assert not list(store.path.glob("*.partial"))


def killed(act, name, call, before):
    """Do something in a process that kills itself at the call with this number of a function of `os`."""
    child = os.fork()
    if not child:
        real, calls = getattr(os, name), []

        def dying(*args):
            calls.append(None)
            if before and len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, name, dying)
        act()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_a_reader_next_to_a_writer_is_right_however_they_meet(folder, monkeypatch):
    """The header is read first; when the manifest is opened, another may lie in its place."""
    folder.check()
    real, new = manifest.read, [Row(Sample("x", "x", None, None), digest(7))]

    def meet(path, fits, **options):
        monkeypatch.setattr(manifest, "read", real)
        folder.store.write_rows(folder.source, new)
        return real(path, fits, **options)

    monkeypatch.setattr(manifest, "read", meet)
    assert list(folder.store.rows()) == new


def test_a_manifest_that_changes_while_an_extraction_reads_it_stops_the_extraction(folder):
    folder.check(samples=tuple(Sample(f"{n:04}", "a", None, None) for n in range(1000)))  # more than is read ahead
    known = folder.store.known(folder.source)
    next(known)
    with open(folder.store.path / "manifest.csv", "r+b") as file:
        file.seek(-3, 2)
        file.write(b"7")
    with pytest.raises(StoreError, match="has changed while it was read"):
        list(known)


# -- what is missing


def test_the_plan_is_what_is_missing_in_order_once_and_retries_last(store):
    put(store, range(4), rejects={2})
    numbers = [9, 2, 0, 9, 7, 3, 8]
    rows = [Row(Sample(f"{i}", f"f{i}", None, None), digest(n)) for i, n in enumerate(numbers)]
    rows.append(Row(Sample("gone", "gone", None, None), ""))
    plan = stores.plan(rows, Files("/r"), store.entry(PIXELS))
    assert list(plan) == [
        Pending(digest(9), Files("/r"), "f0"),
        Pending(digest(7), Files("/r"), "f4"),
        Pending(digest(8), Files("/r"), "f6"),
        Pending(digest(2), Files("/r"), "f1", retried=True),
    ]
    assert (plan[-1], plan[1:3]) == (plan[3], [plan[1], plan[2]])
    assert (len(plan), plan.samples) == (4, 5)
    with pytest.raises(IndexError):
        plan[4]


def test_the_plan_is_that_of_a_plain_loop(store):
    random = np.random.default_rng(0)
    put(store, range(60), rows_per_shard=7, rejects=set(range(0, 60, 5)))
    numbers = random.integers(0, 100, 10_000)  # more than a block
    unread = random.random(len(numbers)) < 0.1
    rows = [
        Row(Sample(str(i), str(i), None, None), "" if gone else digest(n))
        for i, (n, gone) in enumerate(zip(numbers, unread, strict=True))
    ]
    held, refused, expected, samples = store.entry(PIXELS).places(), store.entry(PIXELS).rejects(), {}, 0
    for row in rows:
        if row.digest and row.digest not in held:
            expected.setdefault(
                row.digest, Pending(row.digest, Files("/r"), row.sample.place, retried=row.digest in refused)
            )
            samples += 1
    plan = stores.plan(rows, Files("/r"), store.entry(PIXELS))
    assert list(plan) == sorted(expected.values(), key=lambda pending: pending.retried)
    assert plan.samples == samples


@pytest.mark.parametrize("rows", [[], [Row(Sample("a", "a", None, None), "")]])
def test_nothing_to_plan(store, rows):
    plan = stores.plan(rows, Files("/r"), store.entry(PIXELS))
    assert (list(plan), plan.samples) == ([], 0)


@pytest.mark.slow
def test_rows_and_plan_take_little_room(store):
    count = 20_000
    rows = stores.Rows.gather((Sample(f"a/{n}.jpg", f"a/{n}.jpg", "a", None), digest(n), None) for n in range(count))
    entry = store.entry(PIXELS)
    tracemalloc.start()
    plan = stores.plan(rows, Files("/r"), entry)
    store.write_rows(Files("/r"), rows)
    _, peak = tracemalloc.get_traced_memory()
    assert len(plan) == count
    del plan
    tracemalloc.reset_peak()
    again = store.rows()
    taken, reading = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(again) == count
    assert peak < 100 * count + 4_000_000  # blocks
    assert taken < 130 * count
    assert reading < 200 * count


# -- shards of several backbones


def test_rows_are_found_where_they_were_put(store):
    put(store, range(5), rejects={1, 4})
    entry = store.entry(PIXELS)
    found = {
        key: float(shards.read(entry.indexes[number].path).embeddings[row, 0])
        for key, (number, row) in entry.places().items()
    }
    assert found == {digest(n): n for n in (0, 2, 3)}
    assert entry.rejects() == {digest(n): f"broken {n}" for n in (1, 4)}
    assert [len(index.digests) + len(index.rejects) for index in entry.indexes] == [2, 2, 1]


def test_backbones_lie_side_by_side_and_never_mix(store):
    put(store, range(3))
    put(store, range(5), OTHER)
    mine, other = store.entry(PIXELS), store.entry(OTHER)
    assert (len(mine.places()), len(other.places())) == (3, 5)
    assert mine.folder.name == f"pixels-{PIXELS.fingerprint[:8]}"
    assert other.folder.name == f"other-pixels-{OTHER.fingerprint[:8]}"
    assert store.choose(PIXELS.fingerprint).folder == mine.folder
    assert store.choose("other pixels").folder == store.choose(other.folder.name).folder == other.folder
    with pytest.raises(StoreError, match="several") as caught:
        store.choose()
    assert mine.folder.name in str(caught.value)
    with pytest.raises(StoreError, match="no backbone nonsense here"):
        store.choose("nonsense")


def test_a_backbone_is_found_under_another_name(store):
    put(store, range(3))
    assert len(store.entry(Pixels(name="my pixels")).places()) == 3


def test_known_rejects_are_not_written_again(store):
    put(store, range(3), rejects={1})
    before = shard_files(store)
    put(store, [1], rejects={1})
    assert shard_files(store) == before


def test_the_next_shard_gets_a_number_that_was_never_used(store):
    put(store, range(4))
    first, second = shard_files(store)
    second.rename(second.with_suffix(".corrupt"))
    (first.parent / "shard-00000 (copy).txt").write_text("somebody's note")
    (first.parent / "shard-notes.txt").write_text("somebody's note")
    put(store, [7])
    assert [path.name for path in shard_files(store)] == ["shard-00000.h5", "shard-00002.h5"]


def moved(store):
    """A store whose pixel folder holds, as its first shard, one of the other backbone."""
    put(store, range(2), OTHER)
    (foreign,) = shard_files(store)
    put(store, range(4))
    target = store.entry(PIXELS).folder / "shard-00000.h5"
    for path in sorted(target.parent.iterdir(), reverse=True):
        path.rename(path.with_name(f"shard-{int(path.stem[-5:]) + 1:05d}.h5"))
    return foreign.rename(target)


@pytest.mark.parametrize("ask", [lambda s: s.entry(PIXELS), lambda s: s.entries(), lambda s: s.choose()])
def test_a_shard_in_the_wrong_folder_is_refused_by_name(store, ask):
    foreign = moved(store)
    with pytest.raises(FingerprintMismatch, match="moved here") as caught:
        ask(store)
    message = str(caught.value)
    assert str(foreign) in message
    assert "transform" in message
    assert f"featurepipe verify --repair {store.path}" in message


READERS = {
    "entry": lambda s: s.entry(PIXELS),
    "entries": lambda s: s.entries(),
    "choose": lambda s: s.choose("pixels"),
    "layers": lambda s: s.choose_layers("pixels"),
}


@pytest.mark.parametrize("ask", READERS.values(), ids=READERS)
def test_a_folder_of_nothing_but_foreign_shards_is_refused(store, ask):
    put(store, range(2), OTHER)
    folder = shard_files(store)[0].parent.rename(store.path / f"pixels-{PIXELS.fingerprint[:8]}")
    with pytest.raises(FingerprintMismatch, match=rf"{folder} holds .* ends in -{OTHER.fingerprint[:8]} again, or set"):
        ask(store)
    assert not store.verify()["ok"]


@pytest.mark.parametrize("ask", READERS.values(), ids=READERS)
def test_two_folders_that_were_exchanged_are_refused(store, ask):
    put(store, range(3))
    put(store, range(3), OTHER)
    swap(*(path.parent for path in shard_files(store) if path.name == "shard-00000.h5"))
    with pytest.raises(FingerprintMismatch, match="renamed or exchanged, give it a name that ends in"):
        ask(store)


ODD = {
    "layer": ({"layer": None}, {}, {}),
    "no layer": ({"layer": ...}, {}, {}),
    "architecture": ({"architecture": 5}, {}, {}),
    "transform": ({"transform": "squash"}, {}, {}),
    "decoder": ({"transform": {"decoder": []}}, {}, {}),
    "precision": ({"precision": ...}, {}, {}),
    "weights": ({"weights": {}}, {}, {}),
    "name": ({}, {"name": ...}, {}),
    "seconds": ({}, {"seconds": "long"}, {}),
    "source": ({}, {"source": []}, {}),
    "source name": ({}, {}, {"name": None}),
    "seed": ({}, {}, {"random_seed": ...}),
}


@pytest.mark.parametrize("name", ODD)
def test_a_shard_that_says_too_little_of_its_backbone_is_corrupt(store, name):
    spec, provenance, source = ODD[name]

    def changed(table, change):
        return {key: value for key, value in {**table, **change}.items() if value is not ...}

    made_by = {"name": "pixels", "seconds": 1.5, "source": changed(PIXELS.source, source)}
    shard = shards.Shard(
        changed(PIXELS.spec, spec),
        changed(made_by, provenance),
        np.zeros((1, 3), np.float32),
        shards.digest_array([digest(1)]),
        {},
    )
    path = store.path / f"pixels-{shard.fingerprint[:8]}" / "shard-00000.h5"
    shards.write(path, shard)
    with pytest.raises(ShardCorrupt, match=rf"{path}: its \w+ has no \w+ that can be used; .*--repair {store.path}"):
        store.entries()
    found = store.verify(repair=True)
    assert found["repaired"] == [str(path)]
    assert store.entries() == []


def test_verify_sets_aside_the_foreign_shard_and_keeps_the_rightful_ones(store):
    foreign = moved(store)
    assert store.verify()["checked"] == 4
    found = store.verify(repair=True)
    assert found["repaired"] == [str(foreign)]
    assert len(found["problems"]) == 1
    assert "another backbone" in found["problems"][0]
    assert store.verify() == {"ok": True, "checked": 4, "problems": [], "repaired": []}
    assert len(store.entry(PIXELS).places()) == 4


# -- verify


def test_verify_finds_repeats_and_repair_keeps_one_copy(store):
    put(store, range(2))
    (shard,) = shard_files(store)
    shard.with_name("shard-00007.h5").write_bytes(shard.read_bytes())
    found = store.verify()
    assert (found["ok"], found["checked"], found["repaired"]) == (False, 2, [])
    assert "shard-00007.h5 repeats digests" in found["problems"][0]
    store.verify(repair=True)
    assert shard_files(store) == [shard]
    assert store.verify()["ok"]


def test_verify_finds_repeats_inside_a_shard(store):
    sink = writer(store)
    sink.append([digest(1)] * 2, np.zeros((2, PIXELS.width), np.float32), {})
    assert "repeats digests" in store.verify()["problems"][0]


def test_verify_names_a_newer_shard_and_repair_leaves_it(store, monkeypatch):
    for name in ("ENCODING_VERSION", "TOKENS_VERSION"):  # of which the writer takes the one, and the reader the other
        monkeypatch.setattr(shards, name, "9.0")
    put(store, range(2))
    monkeypatch.undo()
    found = store.verify(repair=True)
    assert "9.0" in found["problems"][0]
    assert found["repaired"] == []
    assert len(shard_files(store)) == 1


def test_repair_leaves_a_shard_that_another_program_has_locked(store):
    put(store, range(4))
    first = shard_files(store)[0]
    before = first.read_bytes()
    with open(first, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = store.verify(repair=True)
        with pytest.raises(ShardUnreadable, match="locked by another program"):
            store.entries()
    assert (found["ok"], found["checked"], found["repaired"]) == (False, 2, [])
    assert [str(first) in problem for problem in found["problems"]] == [True]
    assert first.read_bytes() == before


def test_a_folder_that_may_not_be_listed_is_not_taken_for_an_empty_one(store, as_nobody):
    put(store, range(2))
    folder = shard_files(store)[0].parent
    folder.chmod(0)
    with as_nobody(store.path):
        for ask in (store.entries, store.verify, lambda: store.entry(PIXELS)):
            with pytest.raises(PermissionError, match=folder.name):
                ask()
    folder.chmod(0o755)


def test_stages_are_listed_as_numbers(store):
    for name in ("net.stage10-0123abcd", "net.stage2-4567abcd", "net-89ababcd", "net.stage1-9999abcd"):
        (store.path / name).mkdir()
    listed = [folder.name.split("-")[0] for folder in store._folders()]
    assert listed == ["net", "net.stage1", "net.stage2", "net.stage10"]


def test_verify_without_repair_changes_nothing(store):
    put(store, range(4))
    path = shard_files(store)[0]
    path.write_bytes(path.read_bytes()[:-100])
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in store.path.rglob("*") if p.is_file()}
    assert not store.verify()["ok"]
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in store.path.rglob("*") if p.is_file()} == before


# -- interrupts while writing


@pytest.mark.parametrize("after", [False, True], ids=["before the rename", "after the rename"])
def test_ctrl_c_while_a_shard_is_written_neither_loses_nor_repeats_rows(store, monkeypatch, after):
    real, calls = shards.write, []

    def interrupted(path, shard):
        calls.append(path)
        if after or len(calls) > 1:
            real(path, shard)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(shards, "write", interrupted)
    sink = writer(store)
    sink.append([digest(0)], np.zeros((1, PIXELS.width), np.float32), {})
    with pytest.raises(KeyboardInterrupt):
        sink.append([digest(1)], np.ones((1, PIXELS.width), np.float32), {})
    sink.commit()  # what extraction does on Ctrl-C
    assert store.verify() == {"ok": True, "checked": 2, "problems": [], "repaired": []}


def test_a_full_disk_keeps_what_is_finished_and_leaves_no_half(store, monkeypatch):
    put(store, range(2))
    before = [(path, path.read_bytes()) for path in shard_files(store)]

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_sync_file", full)
    with pytest.raises(
        OutputError, match=r"shard-00001\.h5 cannot be written: the disk is full \(.* left in .*is kept"
    ):
        put(store, range(2, 4))
    assert [(path, path.read_bytes()) for path in sorted(before[0][0].parent.iterdir())] == before


def test_every_shard_says_how_long_its_rows_took(store):
    started = time.perf_counter()
    sink = writer(store)
    sink._since -= 7  # as if the first rows had taken seven seconds
    for n in range(5):
        sink.append([digest(n)], np.zeros((1, PIXELS.width), np.float32), {})
    sink.commit()
    passed = time.perf_counter() - started
    seconds = [index.provenance["seconds"] for index in store.entry(PIXELS).indexes]
    assert len(seconds) == 3
    assert seconds[0] >= 7
    assert min(seconds) >= 0
    assert sum(seconds) <= 7 + passed + 0.002  # rounding


def test_a_lock_sweeps_what_writers_of_the_store_left_and_nobody_elses(tmp_path):
    store = Store.create(tmp_path / "s")
    entry = store.entry(OTHER)
    entry.folder.mkdir(exist_ok=True)
    swept = [entry.folder / "shard-00000.h5.0123.partial", store.path / "manifest.csv.0123.partial"]
    kept = [entry.folder / "tuned.safetensors.0123.partial", store.path / "model.safetensors.0123.partial"]
    for path in (*swept, *kept):
        path.write_text("half")
    with store.lock():
        pass
    assert [path.exists() for path in (*swept, *kept)] == [False, False, True, True]


# -- links


def linked_entry(store, base):
    """A store whose entry is a link to a folder elsewhere, with a sound shard, a broken one and a half one."""
    put(store, range(4))
    folder = shard_files(store)[0].parent
    elsewhere = folder.rename(base / "elsewhere")
    folder.symlink_to(elsewhere)
    broken = elsewhere / "shard-00001.h5"
    broken.write_bytes(broken.read_bytes()[:-100])
    (elsewhere / "shard-00009.h5.0123.partial").write_bytes(b"half")
    return elsewhere


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_entry_behind_a_link_is_read_and_nothing_there_is_renamed_or_removed(store, tmp_path):
    elsewhere = linked_entry(store, tmp_path)
    before = content(elsewhere)
    with store.lock():
        found = store.verify(repair=True)
    assert (found["checked"], found["repaired"], len(found["problems"])) == (2, [], 1)
    assert "shard-00001.h5" in found["problems"][0]
    assert found["problems"][0].endswith("it lies behind a link, so nothing is set aside there")
    assert content(elsewhere) == before


def test_an_entry_behind_a_link_is_filled_where_it_lies(store, tmp_path):
    elsewhere = linked_entry(store, tmp_path)
    (elsewhere / "shard-00001.h5").unlink()
    put(store, range(2, 4))
    assert {path.name for path in elsewhere.glob("*.h5")} == {"shard-00000.h5", "shard-00010.h5"}  # never used before
    assert len(store.entry(PIXELS).places()) == 4


def test_a_shard_that_is_a_link_is_not_set_aside(store, tmp_path):
    put(store, range(4))
    first = shard_files(store)[0]
    elsewhere = first.rename(tmp_path / "mine.h5")
    elsewhere.write_bytes(elsewhere.read_bytes()[:-100])
    first.symlink_to(elsewhere)
    found = store.verify(repair=True)
    assert (found["repaired"], len(found["problems"]), first.is_symlink(), elsewhere.exists()) == ([], 1, True, True)


def test_a_partial_that_is_a_link_goes_and_its_target_stays(store, tmp_path):
    (tmp_path / "mine").write_text("mine")
    link = store.path / "manifest.csv.0123.partial"
    link.symlink_to(tmp_path / "mine")
    with store.lock():
        pass
    assert not link.is_symlink()
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_manifest_that_is_a_pipe_is_none(store):
    store.write_rows(Files(str(store.path)), [])
    (store.path / "manifest.csv").unlink()
    os.mkfifo(store.path / "manifest.csv")
    with pytest.raises(StoreError, match="has no manifest"):
        store.rows()
    assert list(store.known(Files(str(store.path)))) == []
    assert "is gone" in store.verify()["problems"][0]
