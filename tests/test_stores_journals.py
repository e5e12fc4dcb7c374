"""Journals: what runs that were stopped leave, in order, and what lies in their place."""

import json
import os

import numpy as np
import pytest
from doubles import Eventful

from featurepipe.errors import OutputError
from featurepipe.manifests import Manifest, Sample
from featurepipe.sources import Files, Stamp
from featurepipe.stores import Journal, Seen, Store, Survey, journals
from featurepipe.stores.journals import JOURNAL, ROWS


def stamp(size):
    return Stamp(size, 1, 2, 2**63 - 1)


def put(store, root, ids, size=1):
    journal = Journal(store, Files(str(root)))
    for id_ in ids:
        journal.add(id_, id_, bytes([size]) * 32, stamp(size))
    journal.write()
    return journal


def test_runs_are_one_sorted_whole_and_the_last_word_counts(tmp_path):
    names = [f"{n:05}\udcff,\n" for n in range(2 * ROWS + 5)]  # names of files may be any bytes
    put(tmp_path, tmp_path, names[::2])
    put(tmp_path, "/elsewhere", names)
    journal = put(tmp_path, tmp_path, [*names[1::4], names[-1]], size=2)
    known = list(journal.known())
    assert sorted({one.id for one in known}) == sorted({*names[::2], *names[1::4]})
    assert [one.id for one in known] == sorted(one.id for one in known)
    assert [one.stamp for one in known if one.id == names[-1]] == [stamp(2), stamp(1)]
    assert known[0] == (names[0], names[0], bytes([1]) * 32, stamp(1))


def test_a_store_knows_what_its_journal_and_its_manifest_say(tmp_path):
    (tmp_path / "data").mkdir()
    store = Store.create(tmp_path / "s")
    put(store.path, tmp_path / "data", "ac")
    assert [one.id for one in store.known(Files(str(tmp_path / "data")))] == ["a", "c"]
    assert list(store.known(Files("/elsewhere"))) == []
    assert store.begun_root == tmp_path / "data"
    assert store.begun_contents.tolist() == [[1] * 32] * 2
    store.write_rows(Files(str(tmp_path / "data")), [])
    assert not (store.path / JOURNAL).exists()
    assert (store.begun_root, len(store.begun_contents)) == (None, 0)


@pytest.mark.parametrize("rows", [3, [[1, "a", "00" * 32, 1, 1, 1, 1]], [["a", "a", "zz", 1, 1, 1, 1]], [["a", "a"]]])
def test_lines_that_were_not_written_so_are_passed_over(tmp_path, rows):
    import hashlib

    journal = put(tmp_path, tmp_path, "ab")
    text = json.dumps({"source": "files", "root": str(tmp_path), "rows": rows}).encode()
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n")
    assert [one.id for one in journal.known()] == ["a", "b"]


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are followed here")
def test_what_lies_in_its_place_is_not_written_through(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / JOURNAL).symlink_to(tmp_path / "other")
    with pytest.raises(OutputError, match="cannot be written"):
        put(tmp_path, tmp_path, "a")
    assert (tmp_path / "other").read_text() == "precious"
    (tmp_path / JOURNAL).unlink()
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        put(tmp_path, tmp_path, "a")
    assert list(Journal(tmp_path, Files(str(tmp_path))).known()) == []


def test_what_was_seen_is_found_again_whatever_the_order():
    drawn = np.random.default_rng(0).integers(0, 256, (3000, 32), np.uint8).view("S32")[:, 0]
    seen, start = Seen(), 0
    for size in (1, 7, 500, 3, 0, 900, 89):
        seen.add(drawn[start : start + size])
        start += size
    assert seen.has(drawn).tolist() == [n < start for n in range(3000)]
    assert len(seen._runs) <= np.log2(start)


def test_a_check_of_all_files_leaves_what_it_has_read_when_it_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "ROWS", 16)
    (tmp_path / "data").mkdir()
    for n in range(200):
        path = tmp_path / "data" / f"{n:03}"
        path.write_bytes(b"content %d" % n)
        os.utime(path, (10**9, 10**9))
    source = Eventful(str(tmp_path / "data"))
    manifest = Manifest(source, tuple(Sample(f"{n:03}", f"{n:03}", None, None) for n in range(200)))
    store, counts = Store.create(tmp_path / "s"), []

    def die(count):
        counts.append(count)
        if len(counts) == 4:  # after two pieces; nobody writes what is in memory
            monkeypatch.setattr(Journal, "write", lambda self: None)
            raise SystemExit

    survey = Survey(manifest, 1)
    with pytest.raises(SystemExit):
        survey.read_all(die, Journal(store.path, source))
    known = list(store.known(source))
    assert 64 <= len(known) < 200
    monkeypatch.undo()
    source.digested.clear()
    Survey(manifest, 1, known=known).read_all(journal=Journal(store.path, source))
    assert sorted(source.digested) == [f"{n:03}" for n in range(len(known), 200)]
    assert len(list(store.known(source))) == 200
