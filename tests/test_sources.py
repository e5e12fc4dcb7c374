"""Sources: what is at a place, what it is known by, and what happens where there is nothing."""

import os
import pickle

import numpy as np
import pytest

from featurepipe.digests import sha256_bytes
from featurepipe.sources import SOURCES, Files, InMemory, Source, Tables, cell, lasting_root

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3)


class Words(Source):
    """Two of the five members suffice."""

    kind = "words"
    root = "dictionary"

    def read(self, place):
        return place.encode()


def test_files_lie_below_their_root_or_elsewhere(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(b"abc")
    source = Files(str(tmp_path))
    for place in ("a/b.bin", str(tmp_path / "a" / "b.bin")):
        assert source.read(place) == b"abc"
        assert source.digest(place) == sha256_bytes(b"abc")
        status = os.stat(tmp_path / "a" / "b.bin")
        assert source.stamp(place) == (3, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    assert pickle.loads(pickle.dumps(source)) == source == SOURCES["files"](str(tmp_path))


@pytest.mark.parametrize("ask", ["stamp", "digest", "read"])
def test_what_is_no_file_is_an_os_error(tmp_path, ask):
    os.mkfifo(tmp_path / "pipe")
    for place in ("gone", "pipe", "."):
        with pytest.raises(OSError, match=r"No such file|it is a pipe|Is a directory"):
            getattr(Files(str(tmp_path)), ask)(place)
    with pytest.raises(FileNotFoundError):
        InMemory({}).read("gone")


def test_memory_has_bytes_and_arrays_whose_digests_tell_their_shape():
    source = InMemory({"bytes": b"abc", "grey": GREY, "tall": GREY.reshape(3, 2), "rgb": np.zeros((4, 5, 3), np.uint8)})
    assert (source.read("bytes"), source.digest("bytes")) == (b"abc", sha256_bytes(b"abc"))
    assert source.digest("grey") == sha256_bytes(b"L 3x2\n" + bytes(range(6)))
    assert source.digest("tall") == sha256_bytes(b"L 2x3\n" + bytes(range(6)))
    assert source.digest("rgb") == sha256_bytes(b"RGB 5x4\n" + bytes(60))
    assert source.stamp("grey") is None
    assert source.kind not in SOURCES  # nothing could be read again


def test_a_source_that_only_reads_has_digests_and_no_stamps():
    assert Words().digest("word") == sha256_bytes(b"word")
    assert Words().stamp("word") is None


def test_a_lasting_root_names_the_same_place_everywhere(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert lasting_root(Files("link")) == str((tmp_path / "real").resolve())
    assert lasting_root(Words()) == "dictionary"


def test_a_name_that_a_folder_has_too_stays_a_name(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert lasting_root(InMemory({}, "photos")) == "photos"
    assert lasting_root(Files("photos")) == str((tmp_path / "photos").resolve())


def test_a_share_of_what_is_in_memory_holds_nothing_else():
    source = InMemory({"a": b"one", "b": b"two", "c": b"three"}, "photos")
    share = source.share({"a", "c"})
    assert (share.root, dict(share.contents)) == ("photos", {"a": b"one", "c": b"three"})
    assert Files("/a").share({"x"}) == Files("/a")


def test_cells_of_a_table_are_places(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('label,text\na,"One, two\nthree"\n,\nb,\nc,ü\n', "utf-8")
    source = Tables(str(path))
    assert [source.read(cell("text", row)) for row in (1, 3, 4)] == [b"One, two\nthree", b"", "ü".encode()]
    assert source.read(cell("label", 4)) == b"c"
    assert source.digest("text[4]") == sha256_bytes("ü".encode())
    assert source.stamp("text[1]") == source.stamp("text[4]") == (0, *source.stamp("label[1]")[1:])
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source == SOURCES["table"](str(path))
    assert copy.read("text[4]") == "ü".encode()


@pytest.mark.parametrize(
    ("place", "message"),
    [("text", "names no cell"), ("text[x]", "names no cell"), ("text[3]", "no row 3"), ("nix[1]", "no column 'nix'")],
)
def test_cells_that_are_not_there(tmp_path, place, message):
    (tmp_path / "t.csv").write_text("text\na\nb\n", "utf-8")
    with pytest.raises(OSError, match=message):
        Tables(str(tmp_path / "t.csv")).read(place)


def test_a_table_that_changes_meanwhile_gives_no_cell(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text\na\nb\n", "utf-8")
    source = Tables(str(path))
    assert source.read("text[1]") == b"a"
    path.write_text("text\nb\na\n", "utf-8")
    os.utime(path, ns=(1, 1))
    with pytest.raises(OSError, match="just changed"):
        source.read("text[1]")
