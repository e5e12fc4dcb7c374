"""New files are read once: counted reads, kills, copies, rejects, budgets, and shards as of a plan of all digests."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featurepipe import manifests, stages
from featurepipe.backbones import Pixels
from featurepipe.errors import StoreError
from featurepipe.extraction import Settings
from featurepipe.listeners import Listener
from featurepipe.sources import Kept, Source, open_container
from featurepipe.stages import extractions
from featurepipe.stores import Store, Survey, surveys

HOW = {"batch_size": 4, "compile": "off", "workers": 2}


def png(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    os.utime(path, (10**9, 10**9))


@pytest.fixture
def folder(tmp_path):
    """Thirty pictures of two classes, three copies far from what they are copies of, and two broken files."""
    root = tmp_path / "data"
    for n in range(30):
        png(root / "ab"[n % 2] / f"{n:02}.png", n)
    for n in (0, 2, 4):
        png(root / "b" / f"copy-{n}.png", n)
    for name in ("a/05.png", "b/08.png"):
        (root / name).write_bytes(b"broken " + name.encode())
        os.utime(root / name, (10**9, 10**9))
    return root


@dataclass(frozen=True)
class Counted(Source):
    """Another source, whose contents are counted as they are read; a place may be changed before a reading."""

    inner: Source
    read_at: Counter = field(default_factory=Counter)
    before: Any = lambda place: None
    kind = "files"

    @property
    def root(self):
        return self.inner.root

    def stamp(self, place):
        return self.inner.stamp(place)

    def digest(self, place):
        self.read_at[place] += 1
        return self.inner.digest(place)

    def read(self, place):
        self.before(place)
        self.read_at[place] += 1
        return self.inner.read(place)


def counted(data, **more):
    manifest = manifests.read(data)
    return replace(manifest, source=Counted(manifest.source, **more))


def counts(result):
    return result["computed"], result["reused"], result["rejected"]


def extract(data, store, rows=8, **how):
    return stages.extract(data, store, backbone=Pixels(), rows_per_shard=rows, **{**HOW, **how})


def ahead(manifest, store, budget, rows=8):
    """An extraction that keeps no more than `budget` bytes; the survey knows nothing."""
    target = Store.create(store)
    with target.lock():
        how = {"rows_per_shard": rows, "budget": budget, "listener": Listener()}
        settings = Settings(batch_size=4, workers=2, compile="off")
        return extractions.fill_ahead(target, Survey(manifest, 2), Pixels(), settings, **how)


def in_two_reads(manifest, store, rows=8):
    """An extraction as several devices do it: all digests first."""
    target, survey = Store.create(store), Survey(manifest, 2)
    survey.read_all()
    with target.lock():
        target.write_rows(manifest.source, survey.rows)
        settings, how = Settings(batch_size=4, workers=2, compile="off"), {"rows_per_shard": rows}
        of = (target, manifest.source, survey.rows, survey.unreadable, Pixels(), settings)
        return extractions.fill(*of, **how, listener=Listener())


def shards(store):
    """What is in each shard of a store, in order."""
    entry = Store.open(store).entry(Pixels())
    vectors = {index.path: index for index in entry.indexes}
    from featurepipe import shards as files

    found = [files.read(path) for path in vectors]
    return [(one.digests.tobytes(), one.embeddings.tobytes(), dict(one.rejects)) for one in found]


def packed(folder, kind):
    """The folder itself, or in an archive."""
    if kind == "folder":
        return folder
    path = folder.parent / f"data.{kind}"
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            tar.add(folder, "data")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for one in sorted(folder.rglob("*.*")):
                archive.write(one, f"data/{one.relative_to(folder)}")
    os.utime(path, (10**9, 10**9))
    return path


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_new_files_are_read_once_and_known_ones_not_at_all(folder, tmp_path, kind):
    manifest = counted(packed(folder, kind))
    assert counts(extract(manifest, tmp_path / "s")) == (30, 3, 2)
    assert set(manifest.source.read_at.values()) == {1}
    assert len(manifest.source.read_at) == 35
    manifest = replace(manifest, source=Counted(manifest.source.inner))
    assert counts(extract(manifest, tmp_path / "s")) == (0, 33, 2)
    assert len(manifest.source.read_at) == 2  # the rejects, which are tried again
    assert not list((tmp_path / "s").glob("*.journal"))


@pytest.mark.parametrize("budget", [0, 3000, 2**28])
def test_shards_are_those_of_a_plan_made_of_all_digests(folder, tmp_path, budget):
    found = ahead(counted(folder), tmp_path / "one", budget)
    wanted = in_two_reads(counted(folder), tmp_path / "two")
    assert counts(found) == counts(wanted) == (30, 3, 2)
    assert found["rejects"] == wanted["rejects"]
    assert len(shards(tmp_path / "one")) == 4
    assert shards(tmp_path / "one") == shards(tmp_path / "two")
    assert list(Store.open(tmp_path / "one").rows()) == list(Store.open(tmp_path / "two").rows())


def test_what_does_not_fit_into_the_budget_is_read_again(folder, tmp_path):
    largest = max(path.stat().st_size for path in folder.rglob("*.png"))
    small, enough = counted(folder), counted(folder)
    assert counts(ahead(small, tmp_path / "small", largest)) == (30, 3, 2)
    assert max(small.source.read_at.values()) == 2
    assert counts(ahead(enough, tmp_path / "enough", 4 * largest)) == (30, 3, 2)  # one batch each
    assert set(enough.source.read_at.values()) == {1}


def test_a_file_that_changes_between_two_readings_is_not_filed_under_its_old_digest(folder, tmp_path):
    place, seen = "a/00.png", Counter()

    def change(name):
        seen[name] += 1
        if name == place:
            png(folder / place, 77)

    result = ahead(counted(folder, before=change), tmp_path / "s", 0)  # nothing is kept
    assert counts(result) == (29, 2, 4)  # its copy has the same digest
    assert "has just changed" in result["rejects"][place]
    assert (
        counts(extract(folder, tmp_path / "s"))[0] == 2
    )  # the new picture, and the one of which it was the first copy


def test_what_was_rejected_before_shares_no_batch_with_new_files(folder, tmp_path):
    manifest = counted(folder)
    extract(manifest, tmp_path / "s")
    for n in range(40, 46):
        png(folder / "a" / f"{n}.png", n)
    os.utime(folder / "a" / "05.png", (2, 2))  # so that it is read again before anybody knows that it was rejected
    sizes, real = [], Pixels.embed

    class Sized(Pixels):
        def embed(self, pixels):
            sizes.append(len(pixels))
            return real(self, pixels)

    (folder / "b" / "08.png").unlink()
    png(folder / "b" / "08.png", 99)
    result = stages.extract(folder, tmp_path / "s", backbone=Sized(), **{**HOW, "workers": 1})
    assert counts(result) == (7, 33, 1)
    assert [size for size in sizes if size] == [4, 3]


def test_entries_that_hold_contents_of_changed_files_compute_nothing(folder, tmp_path):
    extract(folder, tmp_path / "s")
    for path in folder.rglob("*.png"):
        os.utime(path, (3, 3))
    manifest = counted(folder)
    assert counts(extract(manifest, tmp_path / "s")) == (0, 33, 2)
    assert Counter(manifest.source.read_at.values()) == {1: 33, 2: 2}


class Planned:
    """A crew that takes a plan only."""

    def fill(self, plan, extractor, sink, settings, listener):
        return Settings().crew.fill(plan, extractor, sink, settings, listener)


def test_other_workers_plan_from_all_digests(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extractions.extraction, "named_crew", lambda *_: Planned())
    manifest = counted(folder)
    assert counts(extract(manifest, tmp_path / "s")) == (30, 3, 2)
    assert set(manifest.source.read_at.values()) == {1, 2}


def test_what_was_read_for_other_workers_is_not_read_again_after_a_stop(folder, tmp_path, monkeypatch):
    class Stopping(Listener):
        """Ctrl-C after the third piece of the check."""

        @contextmanager
        def progress(self, label, total):
            self.done = 0
            yield self.advance

        def advance(self, count):
            self.done += count
            if self.done >= 24:
                raise KeyboardInterrupt

    monkeypatch.setattr(extractions.extraction, "named_crew", lambda *_: Planned())
    monkeypatch.setattr(surveys, "FILES_PER_TASK", 8)
    with pytest.raises(KeyboardInterrupt):
        extract(folder, tmp_path / "s", listener=Stopping())
    manifest = counted(folder)
    assert counts(extract(manifest, tmp_path / "s")) == (30, 3, 2)
    assert sum(manifest.source.read_at.values()) == 35 - 16 + 32  # digests that were not known, and contents to embed
    assert not list((tmp_path / "s").glob("*.journal"))


def test_an_error_of_the_readers_keeps_what_is_finished(folder, tmp_path):
    def fail(place):
        if place == "b/21.png":
            raise OSError(24, "Too many open files", place)

    with pytest.raises(OSError, match="ulimit"):
        extract(counted(folder, before=fail), tmp_path / "s", rows=4)
    assert counts(extract(folder, tmp_path / "s"))[0] + sum(len(one[0]) // 32 for one in shards(tmp_path / "s")) >= 30


# -- killed

KILLED = """
import json, os, signal, sys
from featurepipe import manifests, stages
from featurepipe.backbones import Pixels
from featurepipe.extraction import stretches
from featurepipe.stages import extractions

data, store, call = sys.argv[1], sys.argv[2], int(sys.argv[3])
stretches.ROWS = 4
calls = []


class Dying(Pixels):
    def embed(self, pixels):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(pixels)


stages.extract(data, store, backbone=Dying(), batch_size=4, compile="off", workers=1, rows_per_shard=4)
"""


@pytest.mark.processes
def test_after_kill_9_only_what_was_not_finished_is_read(folder, tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(tmp_path / "s"), "5"], timeout=120)
    assert done.returncode == -signal.SIGKILL
    held = sum(len(one[0]) // 32 for one in shards(tmp_path / "s"))
    assert held >= 4
    with pytest.raises(StoreError, match="is not complete"):
        Store.open(tmp_path / "s").rows()
    manifest = counted(folder)
    result = extract(manifest, tmp_path / "s", rows=4)
    assert counts(result) == (30 - held, 3 + held, 2)
    assert set(manifest.source.read_at.values()) == {1}
    assert len(manifest.source.read_at) <= 35 - held
    in_two_reads(counted(folder), tmp_path / "two", rows=4)
    assert shards(tmp_path / "s") == shards(tmp_path / "two")
    assert not list((tmp_path / "s").glob("*.journal"))
    assert stages.verify(tmp_path / "s")["ok"]


def test_a_store_that_a_stopped_run_has_begun_refuses_another_data_set(folder, tmp_path):
    class Stopped(Pixels):
        def embed(self, pixels):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.extract(folder, tmp_path / "s", backbone=Stopped(), **HOW)
    for n in range(5):
        png(tmp_path / "other" / "c" / f"{n}.png", 100 + n)
    with pytest.raises(StoreError, match="describes another data set"):
        extract(tmp_path / "other", tmp_path / "s")
    png(tmp_path / "other" / "c" / "9.png", 1)  # a copy of one of the first
    assert counts(extract(tmp_path / "other", tmp_path / "s")) == (6, 0, 0)


def test_a_journal_that_is_torn_is_used_as_far_as_it_goes(folder, tmp_path):
    class Stopped(Pixels):
        def embed(self, pixels):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.extract(folder, tmp_path / "s", backbone=Stopped(), **HOW)
    (journal,) = (tmp_path / "s").glob("*.journal")
    whole = journal.read_bytes()
    line = json.loads(whole.split(b" ", 1)[1])
    assert len(line["rows"]) == 35
    journal.write_bytes(whole + whole[: len(whole) // 2])
    known = list(Store.open(tmp_path / "s").known(manifests.read(folder).source))
    assert [one.id for one in known] == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    journal.write_bytes(whole.replace(b"a/00.png", b"a/01.png"))
    assert list(Store.open(tmp_path / "s").known(manifests.read(folder).source)) == []
    journal.write_bytes(b"\x00\xff\n" * 9)
    manifest = counted(folder)
    assert counts(extract(manifest, tmp_path / "s")) == (30, 3, 2)
    assert set(manifest.source.read_at.values()) == {1}


# -- what is kept


def test_what_is_kept_is_given_as_often_as_it_was_announced_and_then_read_where_it_was(folder):
    source = Counted(manifests.read(folder).source)
    kept = Kept(source)
    kept.add("a/00.png", b"twice")
    kept.add("a/00.png", None)
    kept.add("a/02.png", None)
    assert (kept.size, kept.stamp("a/00.png")) == (5, None)
    assert [kept.read("a/00.png") for _ in range(2)] == [b"twice", b"twice"]
    assert source.read_at == {}
    assert kept.read("a/00.png") == (folder / "a/00.png").read_bytes()
    assert kept.read("a/02.png") == (folder / "a/02.png").read_bytes()
    assert kept.stamp("a/02.png") == source.stamp("a/02.png")


def test_parts_of_a_file_are_made_of_one_reading(folder, tmp_path):
    rows = ["path,label,part"]
    for n in range(0, 30, 2):
        rows += [f'a/{n:02}.png,{label},"0,0,{8 + i},8"' for i, label in enumerate("xy")]
    (folder / "boxes.csv").write_text("\n".join(rows))
    manifest = counted(folder / "boxes.csv")
    assert counts(extract(manifest, tmp_path / "s")) == (30, 0, 0)
    assert set(manifest.source.read_at.values()) == {1}
    assert stages.verify(tmp_path / "s")["ok"]
    assert open_container(folder / "boxes.csv") is None


def test_no_more_contents_wait_than_there_is_room_for(tmp_path):
    root = tmp_path / "large"
    for n in range(24):
        (root / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        (root / "ab"[n % 2] / f"{n:02}.png").write_bytes(bytes([n]) * 1000)
    survey = Survey(manifests.read(root), 8)
    kept = []
    with closing(survey.read(np.arange(24), 1000)) as pieces:
        for piece in pieces:
            time.sleep(0.005)  # the readers are quicker
            kept += [one.data is not None for one in piece]
    assert len(kept) == 24
    assert all(kept)  # because no more were asked for than fit
    survey = Survey(manifests.read(root), 8)
    reader = surveys._Reader(survey.source, 1000, 8, threading.Event(), surveys._Before(24))
    places = list(enumerate(one.place for one in survey.rows.samples))
    found, _ = reader(places)  # nobody takes them
    assert sum(len(one.data) for one in found if one.data is not None) == surveys.ROOM * 1000
    wanted = [sha256(bytes([int(place[2:4])]) * 1000).digest() for _, place in places]
    assert [one.content for one in found] == wanted
    reader.hand_over(found)
    again, _ = reader(places[:4])
    assert all(one.data is not None for one in again)
