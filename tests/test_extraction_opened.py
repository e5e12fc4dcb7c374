"""Sources that a process has open: one for all chunks that come from it, unless its archive is another one now."""

import os
import pickle

import pytest
from packing import write_tar

from featurepipe import manifests
from featurepipe.extraction.chunks import Chunks
from featurepipe.extraction.opened import Opened
from featurepipe.sources import Files, InMemory, Tars, tars
from featurepipe.stores import Pending, digest_rows

WORDS = [(f"{n:02}.txt", b"word %d" % n) for n in range(12)]


@pytest.fixture
def archive(tmp_path):
    return write_tar(tmp_path / "words.tar.gz", WORDS, mode="w:gz")


def sent(path, monkeypatch):
    """The chunks of an archive as another process gets them, one that has nothing open yet."""
    manifest = manifests.read(path)
    rows, _ = digest_rows(manifest, 1)
    plan = [Pending.of(row, manifest.source) for row in rows]
    monkeypatch.setattr("featurepipe.extraction.chunks.OPENED", Opened())
    return [pickle.dumps(chunk) for chunk in iter(Chunks(plan, 3, 1, 1).take, None)]


def test_a_process_unpacks_an_archive_once_for_all_of_its_chunks(archive, monkeypatch):
    chunks, times = sent(archive, monkeypatch), []
    unpack = tars._unpack
    monkeypatch.setattr(tars, "_unpack", lambda *given: times.append(1) or unpack(*given))
    found = [one.read() for chunk in chunks for one in pickle.loads(chunk).plan]
    assert (len(chunks), found, len(times)) == (4, [data for _, data in WORDS], 1)


def test_an_archive_that_has_changed_is_opened_again_and_gives_nothing_of_before(archive, monkeypatch):
    chunks = sent(archive, monkeypatch)
    before = pickle.loads(chunks[0]).plan
    assert before[0].read() == b"word 0"
    changed = [(name, b"other" if name == "05.txt" else data) for name, data in reversed(WORDS)]
    write_tar(archive.parent / "new.tar.gz", changed, mode="w:gz")
    os.replace(archive.parent / "new.tar.gz", archive)
    after = pickle.loads(chunks[1]).plan
    assert after[0].source is not before[0].source
    assert [one.read() for one in after[:2]] == [b"word 3", b"word 4"]
    with pytest.raises(OSError, match="its content has just changed; run again"):
        after[2].read()


def test_the_sources_that_were_used_last_are_kept(tmp_path):
    held, sources = Opened(2), [Files(str(tmp_path / name)) for name in "abc"]
    assert [held.one(source) is source for source in sources] == [True] * 3
    assert held.one(Files(sources[2].root)) is sources[2]
    assert held.one(Files(sources[1].root)) is sources[1]
    again = Files(sources[0].root)
    assert held.one(again) is again  # which had to go
    assert held.one(Tars(sources[0].root)) == Tars(sources[0].root)


def test_a_source_that_was_seen_to_have_changed_is_opened_again(archive, tmp_path):
    held, pattern = Opened(), str(tmp_path / "*.tar.gz")  # of which nobody sees what it looks like
    first = held.one(Tars(pattern))
    assert first.read("words.tar.gz/00.txt") == b"word 0"
    assert held.one(Tars(pattern)) is first
    archive.chmod(0o600)
    assert held.one(Tars(pattern)) is first
    write_tar(archive, [("00.txt", b"other")], mode="w:gz")
    os.utime(archive, (1, 1))
    with pytest.raises(OSError, match="has just changed"):
        first.read("words.tar.gz/00.txt")
    assert held.one(Tars(pattern)).read("words.tar.gz/00.txt") == b"other"


def test_what_only_its_contents_make_is_never_another_ones():
    held = Opened()
    one, other = InMemory({"a": b"1"}), InMemory({"a": b"2"})
    assert (held.one(one), held.one(other)) == (one, other)
