"""The stages extract, info, verify and export on real files, with real crashes."""

import csv
import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from doubles import eventful_manifest
from PIL import Image

from featurepipe import backbones, manifests, matrices, stages
from featurepipe.backbones import Pixels
from featurepipe.errors import (
    BackboneError,
    FeaturepipeError,
    FingerprintMismatch,
    ManifestError,
    OutputError,
    StoreError,
    StoreReadOnly,
)
from featurepipe.extraction.loop import NOT_FINITE
from featurepipe.listeners import Listener
from featurepipe.sources import Stamp
from featurepipe.stages import extractions
from featurepipe.stores import Store, Survey, digest_rows

PIXELS = Pixels()
SMALL = {"batch_size": 4, "rows_per_shard": 8, "workers": 2}


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def vector(seed):
    """What `Pixels` must give for `picture(seed)`."""
    return picture(seed).transpose(2, 0, 1).reshape(-1).astype(np.float32) / 255


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb():
    """A PNG that says that it has 20,000 × 20,000 pixels, in some 60 bytes."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def net():
    transform = {"input_size": (3, 32, 32)}
    return backbones.create("test_resnet", random_weights=True, transform=transform, precision="fp32", device="cpu")


@pytest.fixture
def data(tmp_path):
    """Ten pictures in two classes; picture n is class a for even n."""
    root = tmp_path / "data"
    for n in range(10):
        save(root / "ab"[n % 2] / f"{n}.png", n)
    return root


class Hooked:
    """A backbone that first calls a function with the number of the batch."""

    def __init__(self, inner, hook):
        self.inner, self.hook, self.batches = inner, hook, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def embed(self, pixels):
        self.batches += 1
        changed = self.hook(self.batches)
        vectors = self.inner.embed(pixels)
        return vectors if changed is None else changed(vectors)


def extract(data, store, backbone=PIXELS):
    """The three counts of an extraction, after checking that they add up."""
    workers = 1 if isinstance(backbone, Hooked) else 2  # one lane takes the batches in order, and so numbers them
    result = stages.extract(data, store, backbone=backbone, **{**SMALL, "workers": workers})
    assert result["samples"] == result["computed"] + result["reused"] + result["rejected"]
    assert result["rejected"] == len(result["rejects"])
    assert list(result["rejects"].items()) == ledger(store)
    return result["computed"], result["reused"], result["rejected"]


def ledger(store):
    with open(store / "rejects.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["id", "reason"]
    return [tuple(line) for line in lines]


def load(store, backbone=PIXELS):
    opened = Store.open(store)
    return matrices.load(opened, opened.entry(backbone))


def shard_files(store):
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(store.glob("*/shard-*.h5"))}


# -- the same folder, again and again


def test_the_result_has_what_scripts_rely_on(data, tmp_path):
    result = stages.extract(data, tmp_path / "s", backbone=PIXELS, **SMALL)
    wanted = "store backbone fingerprint samples computed reused rejected seconds images_per_second device precision"
    assert set(wanted.split()) <= set(result)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["store"], result["backbone"]) == (str(tmp_path / "s"), "pixels")
    assert (result["fingerprint"], result["width"]) == (PIXELS.fingerprint, 3072)
    assert result["images_per_second"] > 0
    assert stages.extract(data, tmp_path / "s", backbone=PIXELS)["images_per_second"] is None


def test_every_row_is_the_vector_of_that_very_image(data, tmp_path):
    extract(data, tmp_path / "s")
    matrix = load(tmp_path / "s")
    assert matrix.ids.tolist() == sorted(f"{'ab'[n % 2]}/{n}.png" for n in range(10))
    for id_, label, x in zip(matrix.ids, matrix.y, matrix.X, strict=True):
        n = int(id_[2:-4])
        assert label == "ab"[n % 2]
        assert np.array_equal(x, vector(n))


def test_an_unchanged_folder_computes_nothing_and_touches_no_shard(data, tmp_path):
    assert extract(data, tmp_path / "s") == (10, 0, 0)
    before = shard_files(tmp_path / "s")
    assert extract(data, tmp_path / "s") == (0, 10, 0)
    assert shard_files(tmp_path / "s") == before


def add_five(data):
    for n in range(20, 25):
        save(data / "a" / f"{n}.png", n)


def rename_one(data):
    (data / "a" / "0.png").rename(data / "a" / "renamed.png")


def edit_one(data):
    save(data / "a" / "0.png", 77)


def relabel(data):
    (data / "a").rename(data / "c")


def delete_three(data):
    for n in (0, 4, 7):
        (data / "ab"[n % 2] / f"{n}.png").unlink()


def swap_two(data):
    save(data / "a" / "0.png", 2)
    save(data / "a" / "2.png", 0)


def copy_three(data):
    for n in (0, 1, 2):
        save(data / "b" / f"copy-{n}.png", n)


def touch_all(data):
    for path in data.rglob("*.png"):
        os.utime(path, (1, 1))


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (add_five, (5, 10, 0)),
        (rename_one, (0, 10, 0)),
        (edit_one, (1, 9, 0)),
        (relabel, (0, 10, 0)),
        (delete_three, (0, 7, 0)),
        (swap_two, (0, 10, 0)),
        (copy_three, (0, 13, 0)),
        (touch_all, (0, 10, 0)),
    ],
)
def test_a_change_costs_what_is_new_and_gives_what_a_fresh_store_gives(data, tmp_path, change, counts):
    extract(data, tmp_path / "s")
    before = shard_files(tmp_path / "s")
    change(data)
    assert extract(data, tmp_path / "s") == counts
    extract(data, tmp_path / "fresh")
    found, fresh = load(tmp_path / "s"), load(tmp_path / "fresh")
    for part in ("ids", "X", "y", "split", "digests"):
        assert getattr(found, part).tolist() == getattr(fresh, part).tolist()
    assert before.items() <= shard_files(tmp_path / "s").items()


def test_exact_copies_are_computed_once_and_all_get_the_vector(tmp_path):
    for name in ("a/0", "a/1", "b/2", "b/3"):
        save(tmp_path / "data" / f"{name}.png", 5 if name != "b/3" else 6)
    assert extract(tmp_path / "data", tmp_path / "s") == (2, 2, 0)
    matrix = load(tmp_path / "s")
    assert matrix.y.tolist() == ["a", "a", "b", "b"]
    assert np.array_equal(matrix.X, np.stack([vector(5)] * 3 + [vector(6)]))


def test_a_data_set_that_moved_is_still_known(data, tmp_path):
    extract(data, tmp_path / "s")
    data.rename(tmp_path / "moved")
    assert extract(tmp_path / "moved", tmp_path / "s") == (0, 10, 0)
    assert stages.info(tmp_path / "s")["root"] == str(tmp_path / "moved")


def test_names_of_any_kind_survive(tmp_path):
    names = ['c,"d".png', "new\nline.png", "carriage\rreturn.png", "ü.png", " x .png", os.fsdecode(b"\xff\x80.png")]
    for n, name in enumerate(names):
        save(tmp_path / "data" / name, n)
        (tmp_path / "data" / f"bad {name}").write_bytes(b"bad")
    assert extract(tmp_path / "data", tmp_path / "s") == (6, 0, 6)
    assert {id_ for id_, _ in ledger(tmp_path / "s")} == {f"bad {name}" for name in names}
    matrix = load(tmp_path / "s")
    found = dict(zip(matrix.ids, matrix.X, strict=True))
    assert set(found) == set(names)
    assert all(np.array_equal(found[name], vector(n)) for n, name in enumerate(names))
    assert extract(tmp_path / "data", tmp_path / "s") == (0, 6, 6)


# -- several backbones


@pytest.mark.slow
def test_backbones_share_a_store_and_never_a_vector(data, tmp_path, net):
    other_mean = backbones.recreate(
        net.spec | {"transform": net.spec["transform"] | {"mean": [0.1, 0.2, 0.3]}}, net.source
    )
    other_seed = backbones.create(
        "test_resnet", random_weights=True, seed=1, transform={"input_size": (3, 32, 32)}, device="cpu"
    )
    made = [PIXELS, net, other_mean, other_seed]
    for backbone in made:
        assert extract(data, tmp_path / "s", backbone) == (10, 0, 0)
    for backbone in made:
        assert extract(data, tmp_path / "s", backbone) == (0, 10, 0)
    assert len({backbone.fingerprint for backbone in made}) == 4
    found = [load(tmp_path / "s", backbone).X for backbone in made[1:]]
    assert not any(np.allclose(found[i], found[j], atol=1e-3) for i, j in ((0, 1), (0, 2), (1, 2)))
    described = stages.info(tmp_path / "s")["backbones"]
    assert {(d["fingerprint"], d["rows"], d["width"]) for d in described} == {
        (backbone.fingerprint, 10, backbone.width) for backbone in made
    }


# -- the bad ones


def spoil(root):
    """Adds five kinds of files that give no embedding; returns what the ledger must say."""
    save(root / "a" / "4x.jpg", 99)
    (root / "a" / "4x.jpg").write_bytes((root / "a" / "4x.jpg").read_bytes()[:700])
    (root / "a" / "4y.jpg").write_text("This is a text file.")
    (root / "a" / "9.jpg").write_bytes(b"")
    (root / "b" / "0.png").write_bytes(bomb())
    (root / "b" / "5z.png").symlink_to("nowhere.png")
    return {
        "a/4x.jpg": "broken image",
        "a/4y.jpg": "not an image that Pillow can read",
        "a/9.jpg": "empty file (0 bytes)",
        "b/0.png": "too large",
        "b/5z.png": "cannot be read: No such file or directory",
    }


def check_rejects(store, wanted):
    found = ledger(store)
    assert [id_ for id_, _ in found] == list(wanted)
    assert all(reason.startswith(wanted[id_]) for id_, reason in found)


def test_bad_files_are_listed_and_good_ones_keep_their_own_vectors(data, tmp_path):
    wanted = spoil(data)
    assert extract(data, tmp_path / "s") == (10, 0, 5)
    check_rejects(tmp_path / "s", wanted)
    matrix = load(tmp_path / "s")
    assert matrix.ids.tolist() == sorted(f"{'ab'[n % 2]}/{n}.png" for n in range(10))
    assert all(np.array_equal(x, vector(int(id_[2:-4]))) for id_, x in zip(matrix.ids, matrix.X, strict=True))
    before = shard_files(tmp_path / "s")
    assert extract(data, tmp_path / "s") == (0, 10, 5)
    check_rejects(tmp_path / "s", wanted)
    assert shard_files(tmp_path / "s") == before
    (data / "b" / "5z.png").unlink()
    save(data / "b" / "5z.png", 50)
    save(data / "a" / "9.jpg", 60)
    assert extract(data, tmp_path / "s") == (2, 10, 3)
    assert len(load(tmp_path / "s")) == 12
    assert stages.verify(tmp_path / "s")["ok"]


def test_copies_of_a_bad_file_are_all_listed(data, tmp_path):
    for name in ("a/x.png", "b/y.png"):
        (data / name).write_bytes(b"")
    assert extract(data, tmp_path / "s") == (10, 0, 2)
    assert [id_ for id_, _ in ledger(tmp_path / "s")] == ["a/x.png", "b/y.png"]


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "dangling"])
def test_nothing_but_bad_files_is_reported_not_raised(tmp_path, content):
    (tmp_path / "data").mkdir()
    for n in range(5):
        path = tmp_path / "data" / f"{n}.png"
        path.write_bytes(content + bytes([n]) * bool(content)) if content is not None else path.symlink_to("nowhere")
    for _ in range(2):
        assert extract(tmp_path / "data", tmp_path / "s") == (0, 0, 5)
    assert stages.verify(tmp_path / "s")["ok"]
    assert stages.info(tmp_path / "s")["samples"] == 5
    with pytest.raises(StoreError):
        stages.export(tmp_path / "s", tmp_path / "out.npz")


def test_a_file_that_changes_after_it_was_hashed_is_embedded_as_it_was_hashed(data, tmp_path):
    def change(number):
        save(data / "a" / "0.png", 77)

    assert extract(data, tmp_path / "s", Hooked(PIXELS, change)) == (10, 0, 0)
    assert np.array_equal(load(tmp_path / "s").X[0], vector(0))
    assert extract(data, tmp_path / "s") == (1, 9, 0)
    assert np.array_equal(load(tmp_path / "s").X[0], vector(77))


def age(data, seconds=60):
    """Make all files look as if they had been modified some time ago."""
    for path in data.rglob("*.[jp]*g"):
        os.utime(path, (path.stat().st_mtime - seconds,) * 2)


def forge(data, store, name, seed):
    """Another picture in a file that the store's manifest takes for unchanged."""
    save(data / name, seed)
    opened = Store.open(store)
    rows = opened.rows()
    stamps = rows.stamps.copy()
    stamps[rows.samples.ids.index(name)] = Stamp.of((data / name).stat())
    opened.write_rows(opened.source, replace(rows, stamps=stamps))


def test_files_of_one_size_and_time_that_swap_names_keep_their_own_vectors(data, tmp_path):
    one, other = data / "a" / "0.png", data / "b" / "1.png"
    for path in (one, other):
        path.write_bytes(path.read_bytes().ljust(4000, b"\0"))  # decoders stop at the image's end
        os.utime(path, (1, 1))
    extract(data, tmp_path / "s")
    before = dict(zip(load(tmp_path / "s").ids, load(tmp_path / "s").X, strict=True))
    one.rename(data / "between")
    other.rename(one)
    (data / "between").rename(other)
    assert extract(data, tmp_path / "s") == (0, 10, 0)
    after = dict(zip(load(tmp_path / "s").ids, load(tmp_path / "s").X, strict=True))
    assert np.array_equal(after["a/0.png"], before["b/1.png"])
    assert np.array_equal(after["b/1.png"], before["a/0.png"])


def test_only_rehash_finds_a_file_that_looks_as_it_did(data, tmp_path):
    age(data)
    assert extract(data, tmp_path / "s") == (10, 0, 0)
    forge(data, tmp_path / "s", "a/0.png", 77)
    assert extract(data, tmp_path / "s") == (0, 10, 0)
    result = stages.extract(data, tmp_path / "s", backbone=PIXELS, rehash=True, **SMALL)
    assert (result["computed"], result["reused"]) == (1, 9)
    assert np.array_equal(load(tmp_path / "s").X[0], vector(77))


def test_a_forged_file_is_never_filed_under_its_old_digest_and_the_next_run_mends_it(data, tmp_path, net):
    age(data)
    extract(data, tmp_path / "s")
    forge(data, tmp_path / "s", "a/0.png", 77)
    assert extract(data, tmp_path / "s", net) == (9, 0, 1)  # another backbone reads the files themselves
    assert "has just changed; run again" in ledger(tmp_path / "s")[0][1]
    assert extract(data, tmp_path / "s", net) == (1, 9, 0)
    assert extract(data, tmp_path / "s") == (1, 9, 0)
    assert np.array_equal(load(tmp_path / "s").X[0], vector(77))


def test_a_second_extraction_reads_no_file_and_writes_no_manifest(data, tmp_path):
    age(data)
    extract(data, tmp_path / "s")
    before = (tmp_path / "s" / "manifest.csv").stat()
    listed = eventful_manifest(data)
    assert extract(listed, tmp_path / "s") == (0, 10, 0)
    assert listed.source.digested == []
    after = (tmp_path / "s" / "manifest.csv").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_vector_that_is_not_finite_is_a_reject(data, tmp_path):
    def spoil_third(number):
        def change(vectors):
            vectors[2] = np.nan
            return vectors

        return change if number == 1 else None

    assert extract(data, tmp_path / "s", Hooked(PIXELS, spoil_third)) == (9, 0, 1)
    assert ledger(tmp_path / "s") == [("a/4.png", NOT_FINITE)]
    assert np.isfinite(load(tmp_path / "s").X).all()
    assert "a/4.png" not in load(tmp_path / "s").ids
    assert extract(data, tmp_path / "s") == (1, 9, 0)  # it is tried again, and a healthy backbone heals it
    assert np.array_equal(load(tmp_path / "s").X[2], vector(4))


# -- interrupted

CRASH = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from featurepipe import backbones, files, images, shards, stages
import timm.data

data, base, moments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
transform = {"input_size": (3, 32, 32)}
net = backbones.create("test_resnet", random_weights=True, transform=transform, precision="fp32", device="cpu")


def die_at(target, name, call, before):
    real, calls = getattr(target, name), []

    def wrapped(*args, **kwargs):
        calls.append(None)
        if before and len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if len(calls) >= call:  # of threads that came together, the last may be the first to return
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(target, name, wrapped)


endings = []
for moment, (where, name, call, before, *_) in moments.items():
    child = os.fork()
    if not child:
        target = {"embed": type(net), "files": files, "os": files.os, "shards": shards}[where]
        die_at(target, name, call, before)
        stages.extract(data, f"{base}/{moment}", backbone=net, batch_size=4, rows_per_shard=8, workers=2)
        os._exit(0)
    endings.append(os.waitpid(child, 0)[1])
print(json.dumps(endings))
"""

# Where the process is killed: in what, at which call, before it or after it; how many shards that leaves, and whether
# a *.partial: None where lanes infer while others write, and it may be any. os.replace makes .gitignore, store.json,
# rejects.csv, four shards, store.json that names both manifests, manifest.csv, store.json, and rejects.csv again.
MOMENTS = {
    "new store, no header": ("os", "replace", 2, True, 0, True),
    "no first ledger": ("os", "replace", 3, True, 0, True),
    "first batch": ("embed", "embed", 1, True, 0, False),
    "second batch": ("embed", "embed", 2, False, 0, False),
    "half a shard": ("files", "_sync_file", 4, True, 0, True),
    "unnamed shard": ("os", "replace", 4, True, 0, True),
    "first shard": ("os", "replace", 4, False, 1, False),
    "inside the second shard": ("embed", "embed", 4, True, None, None),
    "half a second shard": ("files", "_sync_file", 5, True, 1, True),
    "third shard unsynced": ("files", "_sync_file", 6, True, 2, True),
    "before the last": ("embed", "embed", 8, True, None, None),
    "half a manifest": ("os", "replace", 8, True, 4, True),
    "manifest that is announced": ("os", "replace", 9, True, 4, True),
    "manifest that was announced": ("os", "replace", 9, False, 4, False),
    "no ledger": ("os", "replace", 11, True, 4, True),
}


@pytest.fixture(scope="module")
def crashed(tmp_path_factory, net):
    """Thirty pictures and bad files in between, an uninterrupted store, and one store per moment of a kill -9."""
    base = tmp_path_factory.mktemp("crashes")
    for n in range(26):
        save(base / "data" / "ab"[n % 2] / f"{n:02}.png", n)
    for name, content in {"a/05.png": b"", "a/11.png": b"x", "b/02.png": bomb(), "b/08.png": b"y"}.items():
        (base / "data" / name).write_bytes(content)
    extract(base / "data", base / "whole", net)
    arguments = [str(base / "data"), str(base), json.dumps(MOMENTS)]
    done = subprocess.run([sys.executable, "-c", CRASH, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [signal.SIGKILL] * len(MOMENTS), done.stderr
    return base


@pytest.mark.processes
@pytest.mark.parametrize("moment", MOMENTS)
def test_after_kill_9_the_next_run_ends_as_if_nothing_had_been(crashed, net, moment):
    store, whole = crashed / moment, crashed / "whole"
    finished, (shards, partial) = shard_files(store), MOMENTS[moment][-2:]
    if shards is not None:
        assert (len(finished), bool(list(store.rglob("*.partial")))) == (shards, partial)
    kept = sum(len(index.digests) for index in Store(store).entry(net).indexes) if finished else 0
    assert extract(crashed / "data", store, net) == (26 - kept, kept, 4)
    assert finished.items() <= shard_files(store).items()  # same inode, time and bytes
    assert ledger(store) == ledger(whole)
    assert load(store, net).X.tobytes() == load(whole, net).X.tobytes()
    assert load(store, net).ids.tolist() == load(whole, net).ids.tolist()
    assert [len(i.digests) for i in Store(store).entry(net).indexes] == [
        len(i.digests) for i in Store(whole).entry(net).indexes
    ]
    assert not list(store.rglob("*.partial"))
    assert stages.verify(store)["ok"]


@pytest.mark.processes
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_ctrl_c_keeps_finished_batches_and_the_next_run_goes_on(crashed, tmp_path, net, batch):
    def interrupt(number):
        if number == batch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(crashed / "data", tmp_path / "s", Hooked(net, interrupt))
    kept = len(Store.open(tmp_path / "s").entry(net).places())
    assert 4 * (batch - 1) - 4 <= kept <= 4 * (batch - 1)
    assert extract(crashed / "data", tmp_path / "s", net) == (26 - kept, kept, 4)
    assert load(tmp_path / "s", net).X.tobytes() == load(crashed / "whole", net).X.tobytes()


@pytest.mark.processes
def test_a_vector_rejected_before_the_crash_does_not_shift_the_batches_after_it(crashed, tmp_path, net):
    """What is retried is decoded again; in a batch with new images it would change the batch's size, and so bits."""

    def hook(stop):
        def run(number):
            if number == stop:
                raise KeyboardInterrupt
            return spoil_first if number == 1 else None

        return run

    def spoil_first(vectors):
        vectors[0] = np.nan
        return vectors

    extract(crashed / "data", tmp_path / "whole", Hooked(net, hook(None)))
    with pytest.raises(KeyboardInterrupt):
        extract(crashed / "data", tmp_path / "s", Hooked(net, hook(3)))
    sizes, again = [], Hooked(net, lambda _: None)
    again.embed = lambda pixels: (sizes.append(len(pixels)), net.embed(pixels))[1]
    extract(crashed / "data", tmp_path / "s", again)
    assert sizes[-1] == 1  # the retry
    found, whole = load(tmp_path / "s", net), load(tmp_path / "whole", net)
    assert found.X[1:].tobytes() == whole.X.tobytes()


def test_a_failing_backbone_loses_no_finished_shard(data, tmp_path):
    def fail(number):
        if number == 3:
            raise RuntimeError("CUDA error")

    with pytest.raises(RuntimeError, match="CUDA error"):
        extract(data, tmp_path / "s", Hooked(PIXELS, fail))
    before = shard_files(tmp_path / "s")
    assert len(before) == 1
    assert extract(data, tmp_path / "s") == (2, 8, 0)
    assert before.items() <= shard_files(tmp_path / "s").items()


def test_two_extractions_at_once_are_one_and_one_error(data, tmp_path):
    def second(number):
        with pytest.raises(StoreError, match="written by another process"):
            stages.extract(data, tmp_path / "s", backbone=PIXELS)

    assert extract(data, tmp_path / "s", Hooked(PIXELS, second)) == (10, 0, 0)


def test_a_pending_store_says_what_to_do(data, tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(data, tmp_path / "s", Hooked(PIXELS, interrupt))
    with pytest.raises(StoreError, match="no manifest"):
        Store.open(tmp_path / "s").rows()
    extract(data, tmp_path / "s")
    edit_one(data)
    opened = Store.open(tmp_path / "s")
    opened.write_rows(
        opened.source, digest_rows(manifests.read(data), 1)[0]
    )  # as if another backbone had been extracted
    with pytest.raises(StoreError, match=r"1 of 10 samples are not extracted .*run featurepipe extract again"):
        stages.export(tmp_path / "s", tmp_path / "out.npz")


def test_until_an_extraction_ends_the_store_describes_what_it_did(data, tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    extract(data, tmp_path / "s")
    add_five(data)
    with pytest.raises(KeyboardInterrupt):
        extract(data, tmp_path / "s", Hooked(PIXELS, interrupt))
    assert len(load(tmp_path / "s")) == 10
    assert extract(data, tmp_path / "s") == (5, 10, 0)
    assert len(load(tmp_path / "s")) == 15


# -- what is refused


def test_a_store_is_not_made_when_the_data_or_the_backbone_is_wrong(data, tmp_path):
    with pytest.raises(ManifestError):
        stages.extract(tmp_path / "nothing", tmp_path / "s", backbone=PIXELS)
    with pytest.raises(FeaturepipeError):
        stages.extract(data, tmp_path / "s", backbone="resnet5O")
    assert not (tmp_path / "s").exists()


def test_the_data_folder_itself_is_no_store(data):
    before = sorted(data.rglob("*"))
    with pytest.raises(StoreError, match="not a featurepipe store"):
        stages.extract(data, data, backbone=PIXELS)
    assert sorted(data.rglob("*")) == before


def test_the_first_line_counts_what_is_cached(data, tmp_path):
    class Notes(stages.Listener):
        def __init__(self):
            self.lines = []

        def note(self, text):
            self.lines.append(text)

    spoil(data)
    (data / "b" / "5z.png").unlink()
    age(data)
    extract(data, tmp_path / "s")
    add_five(data)
    copy_three(data)
    contradiction = (
        "note: 4 images have an exact copy under another label: a/0.png (a) = b/copy-0.png (b); a/2.png (a) = "
        "b/copy-2.png (b); correct the labels or remove the copies"
    )
    notes = Notes()
    stages.extract(data, tmp_path / "s", backbone=PIXELS, listener=notes)
    assert notes.lines == [
        "found 22 images of 2 classes: a (13), b (9)",
        "22 images · pixels on cpu · 10 in the store already, 8 to be read first",
        contradiction,
    ]
    age(data)
    notes = Notes()
    stages.extract(data, tmp_path / "s", backbone=PIXELS, listener=notes)
    assert notes.lines[1] == "22 images · pixels on cpu · all to be read first"
    notes = Notes()
    stages.extract(data, tmp_path / "s", backbone=PIXELS, listener=notes)
    assert notes.lines[1:] == [contradiction, "22 images · pixels on cpu · 18 in the store already"]


# -- verify, repair, info, export


def exchange_digests(store):
    """As a spreadsheet does that sorts one column: the stamps still fit."""
    path = store / "manifest.csv"
    with open(path, newline="") as file:
        lines = list(csv.reader(file))
    lines[1][4], lines[2][4] = lines[2][4], lines[1][4]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(lines)


def test_two_digests_that_were_exchanged_are_refused_and_the_next_extraction_heals_them(data, tmp_path):
    age(data)
    extract(data, tmp_path / "s")
    sound = load(tmp_path / "s")
    exchange_digests(tmp_path / "s")
    assert not stages.verify(tmp_path / "s")["ok"]
    for ask in (stages.info, stages.probe, lambda store: stages.export(store, tmp_path / "x.npz")):
        with pytest.raises(StoreError, match=r"manifest\.csv was edited or damaged"):
            ask(tmp_path / "s")
    result, (note,) = extract_pixels(data, tmp_path / "s")
    assert (result["computed"], result["reused"]) == (0, 10)
    assert "manifest.csv was edited or damaged; every file is read again" in note
    healed = load(tmp_path / "s")
    assert healed.ids.tolist() == sound.ids.tolist()
    assert healed.X.tobytes() == sound.X.tobytes()
    assert stages.verify(tmp_path / "s")["ok"]


def test_labels_that_were_edited_by_hand_can_be_accepted(data, tmp_path):
    extract(data, tmp_path / "s")
    path = tmp_path / "s" / "manifest.csv"
    path.write_text(path.read_text().replace("a/0.png,a/0.png,a,", "a/0.png,a/0.png,z,"))
    assert "--accept-edits" in stages.verify(tmp_path / "s")["problems"][0]
    found = stages.verify(tmp_path / "s", accept_edits=True)
    assert (found["ok"], found["accepted"]) == (True, 10)
    assert load(tmp_path / "s").y[0] == "z"


@pytest.mark.parametrize("name", ["manifest.csv", "store.json"])
def test_images_made_anew_under_an_edited_manifest_go_on_in_the_same_store(tmp_path, name):
    images = pictures(tmp_path / "images", range(4))
    extract_pixels(images, tmp_path / "s")
    path = tmp_path / "s" / name
    path.write_bytes(path.read_bytes().replace(b",a,", b",x,").replace(b'"root"', b'"mine": 1,\n  "root"'))
    for place in images.rglob("*.png"):
        save(place, 1000 + int(place.stem))
    assert not stages.verify(tmp_path / "s")["ok"]
    result, _ = extract_pixels(images, tmp_path / "s")
    assert (result["computed"], stages.verify(tmp_path / "s")["ok"]) == (4, True)


def test_a_damaged_header_is_made_anew_in_one_step_as_its_error_says(data, tmp_path):
    bundled = backbones.create("bundled", precision="fp32", device="cpu")
    extract(data, tmp_path / "s", bundled)
    sound = load(tmp_path / "s", bundled)
    (tmp_path / "s" / "store.json").write_text('{"encoding-type": "featurepipe-st')
    (tmp_path / "s" / "model.safetensors").write_text("mine")
    with pytest.raises(StoreError, match=r"store\.json is damaged \(.*featurepipe extract DATA -s"):
        stages.info(tmp_path / "s")
    result = stages.extract(data, tmp_path / "s", backbone="bundled", device="cpu", workers=1)
    assert (result["computed"], result["reused"]) == (0, 10)
    assert load(tmp_path / "s", bundled).X.tobytes() == sound.X.tobytes()
    assert stages.verify(tmp_path / "s")["ok"]


def test_an_edited_manifest_of_another_data_set_is_still_not_replaced(tmp_path):
    one, two = pictures(tmp_path / "one", range(4)), pictures(tmp_path / "two", range(100, 104))
    extract_pixels(one, tmp_path / "s")
    path = tmp_path / "s" / "manifest.csv"
    path.write_bytes(path.read_bytes().replace(b",a,", b",x,"))
    with pytest.raises(StoreError, match="another data set"):
        extract_pixels(two, tmp_path / "s")


def test_the_archive_of_store_1_1_is_read_with_nothing_to_compute_again(tmp_path):
    """Made by featurepipe 0.1.0 from the first digits of three classes, and two broken files; never made again."""
    archive, digits = Path(__file__).parent / "archives" / "store-1.1", Path(__file__).parents[1] / "data" / "digits"
    store, images = shutil.copytree(archive, tmp_path / "digits.store"), tmp_path / "data" / "digits"
    rows = Store.open(store).rows()
    for row in rows:
        (images / row.sample.place).parent.mkdir(parents=True, exist_ok=True)
        content = {"train/0/broken.png": b"", "train/2/broken.png": b"not an image"}.get(row.sample.place)
        (images / row.sample.place).write_bytes(
            (digits / row.sample.place).read_bytes() if content is None else content
        )
    assert (len(rows), Store.open(store).root, stages.verify(store)["ok"]) == (20, images, True)
    before = load(store, backbones.create("bundled-1", precision="fp32", device="cpu"))
    result = stages.extract(images, store, backbone="bundled-1", device="cpu", workers=1)
    assert (result["computed"], result["reused"], result["rejected"]) == (0, 18, 2)
    assert result["rejects"] == {
        "train/0/broken.png": "empty file (0 bytes)",
        "train/2/broken.png": "not an image that Pillow can read",
    }
    assert json.loads((store / "store.json").read_text())["encoding-version"] == "1.2"
    after = load(store, backbones.create("bundled-1", precision="fp32", device="cpu"))
    assert (before.X.tobytes(), before.ids.tolist()) == (after.X.tobytes(), after.ids.tolist())
    assert len(before.X) == 18


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "foreign", "delete"])
def test_repair_sets_broken_shards_aside_and_extract_computes_just_those_rows(data, tmp_path, net, damage):
    store = tmp_path / "s"
    extract(data, store)
    extract(data, store, net)
    healthy = load(store).X
    path = Store.open(store).entry(PIXELS).indexes[0].path  # 8 of the 10 rows
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[content.index(vector(0).tobytes()) + 1000] ^= 0x40
    elif damage == "foreign":
        content = Store.open(store).entry(net).indexes[0].path.read_bytes()
    path.write_bytes({"truncate": content[: len(content) // 2], "empty": b""}.get(damage, content))
    if damage == "delete":
        path.unlink()
    else:
        found = stages.verify(store)
        assert (found["ok"], found["checked"], len(found["problems"])) == (False, 12, 1)
        assert str(path) in found["problems"][0]
        with pytest.raises((StoreError, FingerprintMismatch), match="verify --repair"):
            load(store)
        repaired = stages.verify(store, repair=True)
        assert repaired["repaired"] == [str(path)]
        assert path.with_suffix(".corrupt").exists()
    assert not path.exists()
    assert extract(data, store) == (8, 2, 0)
    assert extract(data, store, net) == (0, 10, 0)
    assert np.array_equal(load(store).X, healthy)
    assert stages.verify(store) == {"ok": True, "checked": 20, "problems": [], "repaired": []}


def test_repair_waits_for_no_writer(data, tmp_path):
    extract(data, tmp_path / "s")
    with Store.open(tmp_path / "s").lock(), pytest.raises(StoreError, match="another process"):
        stages.verify(tmp_path / "s", repair=True)


def test_info_counts(data, tmp_path):
    save(tmp_path / "set" / "test" / "a" / "x.png", 50)
    data.rename(tmp_path / "set" / "train")
    (tmp_path / "set" / "test" / "a" / "bad.png").write_bytes(b"")
    extract(tmp_path / "set", tmp_path / "s")
    found = stages.info(tmp_path / "s")
    assert (found["samples"], found["classes"], found["splits"]) == (12, 2, {"test": 2, "train": 10})
    (described,) = found["backbones"]
    sizes = sum(len(content) for _, _, content in shard_files(tmp_path / "s").values())
    assert described == {
        "name": "pixels",
        "layer": "pixels",
        "folder": f"pixels-{PIXELS.fingerprint[:8]}",
        "rows": 11,
        "width": 3072,
        "dtype": "float32",
        "shards": 2,
        "bytes": sizes,
        "fingerprint": PIXELS.fingerprint,
        "rejected": 1,
    }


@pytest.mark.parametrize("stage", [stages.info, stages.verify])
def test_a_folder_without_store_is_refused(tmp_path, stage):
    with pytest.raises(StoreError, match="not a featurepipe store"):
        stage(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_export_is_in_manifest_order(data, tmp_path):
    spoil(data)
    extract(data, tmp_path / "s")
    add_five(data)
    extract(data, tmp_path / "s")
    result = stages.export(tmp_path / "s", tmp_path / "out" / "x.npz")
    assert (result["rows"], result["width"], result["backbone"]) == (15, 3072, "pixels")
    with np.load(tmp_path / "out" / "x.npz", allow_pickle=False) as file:
        assert file["ids"].tolist() == sorted(file["ids"].tolist())
        assert all(np.array_equal(x, vector(int(i[2:-4]))) for i, x in zip(file["ids"], file["X"], strict=True))
        assert file["labels"].tolist() == [id_[0] for id_ in file["ids"]]


def test_export_asks_which_backbone(data, tmp_path, net):
    extract(data, tmp_path / "s")
    extract(data, tmp_path / "s", net)
    with pytest.raises(StoreError, match="choose with -b"):
        stages.export(tmp_path / "s", tmp_path / "x.npz")
    assert stages.export(tmp_path / "s", tmp_path / "x.npz", backbone="pixels")["width"] == 3072
    assert stages.export(tmp_path / "s", tmp_path / "x.npz", backbone=net.fingerprint[:10])["width"] == net.width


# -- what the machine chose


TINY = {"backbone": "test_resnet", "random_weights": True, "device": "cpu", "workers": 2}


def counts(data, store, *, precision="auto", **transform):
    """Computed, reused, precision and decoder of an extraction with a backbone by name."""
    transform = {"input_size": (3, 32, 32), **transform}
    result = stages.extract(data, store, precision=precision, transform=transform, **TINY)
    return result["computed"], result["reused"], result["precision"], result["decoder"]


@pytest.mark.slow
@pytest.mark.parametrize("stored", [("fp32", "pillow"), ("bf16", "torchvision"), ("fp32", "draft")])
@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
def test_a_store_is_followed_where_nothing_else_was_asked_for(data, tmp_path, machine, stored, chosen):
    machine(bf16=chosen == "bf16")
    precision, decoder = stored
    assert counts(data, tmp_path / "s", precision=precision, decoder=decoder) == (10, 0, *stored)
    assert counts(data, tmp_path / "s") == (0, 10, *stored)
    assert counts(data, tmp_path / "s", decoder="auto") == (0, 10, *stored)
    add_five(data)
    assert counts(data, tmp_path / "s") == (5, 10, *stored)


def test_what_was_asked_for_is_not_changed_by_a_store(data, tmp_path, machine):
    machine(bf16=False)
    assert counts(data, tmp_path / "s", precision="fp32", decoder="pillow") == (10, 0, "fp32", "pillow")
    assert counts(data, tmp_path / "s", precision="bf16") == (10, 0, "bf16", "torchvision")
    assert counts(data, tmp_path / "s", decoder="draft") == (10, 0, "fp32", "draft")
    assert len(stages.info(tmp_path / "s")["backbones"]) == 3


def test_half_of_the_choice_may_be_left_to_the_store(data, tmp_path, machine):
    machine(bf16=True)
    assert counts(data, tmp_path / "s", precision="fp32", decoder="pillow") == (10, 0, "fp32", "pillow")
    assert counts(data, tmp_path / "s", decoder="pillow") == (0, 10, "fp32", "pillow")
    assert counts(data, tmp_path / "s", precision="fp32") == (0, 10, "fp32", "pillow")


def test_the_machines_own_choice_comes_first_where_the_store_holds_it_too(data, tmp_path, machine):
    machine(bf16=True)
    for precision in ("fp32", "bf16"):
        assert counts(data, tmp_path / "s", precision=precision) == (10, 0, precision, "torchvision")
    assert counts(data, tmp_path / "s") == (0, 10, "bf16", "torchvision")


def test_another_network_or_transform_is_not_taken_for_the_stores(data, tmp_path, machine):
    machine(bf16=False)
    assert counts(data, tmp_path / "s", precision="bf16", decoder="pillow") == (10, 0, "bf16", "pillow")
    assert counts(data, tmp_path / "s", crop_pct=0.5) == (10, 0, "fp32", "torchvision")


def test_a_ready_made_backbone_keeps_its_precision_and_decoder(data, tmp_path, net):
    extract(data, tmp_path / "s", net.adapted(precision="bf16", decoder="pillow"))
    result = stages.extract(data, tmp_path / "s", backbone=net, **SMALL)
    assert (result["computed"], result["precision"], result["decoder"]) == (10, "fp32", "torchvision")


@pytest.mark.slow
def test_run_follows_its_store_too_and_keeps_to_what_was_asked_for(photos, tmp_path, machine):
    def run(precision):
        result = stages.run(
            photos(per_class=5, name=f"photos-{len(list(tmp_path.iterdir()))}"),
            tmp_path / "out",
            precision=precision,
            kind="ridge",
            baselines="none",
            transform={"input_size": (3, 32, 32)},
            **TINY,
        )
        return result["computed"], result["precision"]

    machine(bf16=True)
    assert run("auto") == (10, "bf16")
    machine(bf16=False)
    assert run("auto") == (0, "bf16")
    assert run("fp32") == (10, "fp32")
    assert run("fp32") == (0, "fp32")


def test_the_result_says_where_the_time_went(data, tmp_path):
    result = stages.extract(data, tmp_path / "s", backbone=PIXELS, **SMALL)
    assert result["limited_by"] in ("checking files", "reading", "inferring", "writing")
    assert list(result["stages"]) == ["check", "read", "infer", "write"]
    assert list(result["profile"]) == ["check", "load", "decode", "compile", "infer", "wait", "write"]
    assert (result["ceiling"], result["efficiency"]) == (None, None)  # too few batches
    assert result["decoder"] == "torchvision"
    result = stages.extract(data, tmp_path / "other", backbone=PIXELS, batch_size=1, workers=1)
    assert result["ceiling"] > 0
    assert result["efficiency"] > 0
    again = stages.extract(data, tmp_path / "s", backbone=PIXELS)
    assert (again["limited_by"], again["ceiling"], again["efficiency"]) == (None, None, None)


def test_speed_and_limit_count_the_pass_that_reads_the_disk(data, tmp_path, monkeypatch):
    def slow(*arguments, **options):
        time.sleep(1)
        return Survey(*arguments, **options)

    stages.extract(data, tmp_path / "first", backbone=PIXELS, **SMALL)  # loads torchvision, which takes seconds
    monkeypatch.setattr(extractions, "Survey", slow)
    result = stages.extract(data, tmp_path / "s", backbone=PIXELS, batch_size=1, workers=1)
    assert result["stages"]["check"] >= 1
    assert result["limited_by"] == "checking files"
    assert result["images_per_second"] < result["computed"] / 1
    assert result["efficiency"] == pytest.approx(result["images_per_second"] / result["ceiling"], abs=2e-3)


@pytest.mark.slow
def test_drift_is_of_the_vectors_held_and_reads_the_header_no_more_often_for_more_rows(data, tmp_path, monkeypatch):
    exact = {"precision": "fp32", "transform": {"input_size": (3, 32, 32), "decoder": "pillow"}}
    net, reads, real = backbones.create("test_resnet", random_weights=True, device="cpu", **exact), [], Store._header
    monkeypatch.setattr(Store, "_header", lambda self: reads.append(1) or real(self))

    def measure():
        stages.extract(data, tmp_path / "s", backbone=net, **SMALL)
        reads.clear()
        return stages.verify(tmp_path / "s", drift=True, images=3, device="cpu")["drift"], len(reads)

    stages.extract(data, tmp_path / "s", backbone=PIXELS, **SMALL)  # which has no drift
    (found,), few = measure()
    assert (found["images"], found["precision"], found["decoder"], found["pixels_max"]) == (3, "fp32", "pillow", 0)
    assert found["cosine_min"] == pytest.approx(1, abs=1e-6)
    assert found["cosine_median"] == pytest.approx(1, abs=1e-6)
    for n in range(20, 40):
        save(data / "a" / f"{n}.png", n)
    assert measure()[1] == few


def test_an_unknown_name_is_refused_before_a_download_is_announced(tmp_path, monkeypatch):
    class Impatient:
        """A timer that does not wait."""

        def __init__(self, seconds, function, arguments):
            self.start = lambda: function(*arguments)

        def cancel(self):
            pass

    class Heard(Listener):
        def __init__(self):
            self.notes = []

        def note(self, text):
            self.notes.append(text)

    heard = Heard()
    monkeypatch.setattr(extractions.threading, "Timer", Impatient)
    with pytest.raises(BackboneError, match="no backbone is called 'resnet5o'; did you mean resnet50"):
        extractions.make_extractor("resnet5o", {}, heard, tmp_path / "s")
    assert heard.notes == []
    monkeypatch.setattr(backbones, "create", lambda name, **_: Pixels())
    extractions.make_extractor("resnet50", {}, heard, tmp_path / "s")
    assert heard.notes == ["waiting for the weights of resnet50; they are downloaded once"]


# -- data that was moved, and other data


class Heard(Listener):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def extract_pixels(data, store, **options):
    ears = Heard()
    result = stages.extract(data, store, backbone=PIXELS, listener=ears, **{**SMALL, **options})
    return result, [note for note in ears.notes if note.startswith("note: ")]


def pictures(folder, seeds):
    for seed in seeds:
        save(folder / "ab"[seed % 2] / f"{seed}.png", seed)
    return folder


def test_a_project_that_was_moved_goes_on_and_reads_no_file_again(tmp_path):
    pictures(tmp_path / "A" / "img", range(4))
    for place in (tmp_path / "A").rglob("*.png"):
        os.utime(place, (1e9, 1e9))
    extract_pixels(tmp_path / "A" / "img", tmp_path / "A" / "s")
    (tmp_path / "A").rename(tmp_path / "B")
    moved = Store.open(tmp_path / "B" / "s")
    assert moved.recorded_root == tmp_path / "A" / "img"
    assert moved.root == tmp_path / "B" / "img"
    listed = eventful_manifest(tmp_path / "B" / "img")
    result, notes = extract_pixels(listed, tmp_path / "B" / "s")
    assert (result["computed"], result["reused"]) == (0, 4)
    assert listed.source.digested == []  # stamps are still true
    assert len(notes) == 1
    assert f"described {tmp_path / 'A' / 'img'}, which is gone; it now describes {tmp_path / 'B' / 'img'}" in notes[0]
    assert extract_pixels(tmp_path / "B" / "img", tmp_path / "B" / "s")[1] == []
    assert moved.recorded_root == tmp_path / "B" / "img"


def test_a_store_of_before_that_was_moved_with_its_data_is_reused(tmp_path):
    pictures(tmp_path / "A" / "img", range(4))
    extract_pixels(tmp_path / "A" / "img", tmp_path / "A" / "s")
    header = tmp_path / "A" / "s" / "store.json"
    told = json.loads(header.read_text())
    header.write_text(
        json.dumps({"encoding-type": told["encoding-type"], "encoding-version": "1.0", "root": told["root"]})
    )
    (tmp_path / "A").rename(tmp_path / "B")
    result, notes = extract_pixels(tmp_path / "B" / "img", tmp_path / "B" / "s")
    assert (result["computed"], result["reused"], len(notes)) == (0, 4, 1)


def test_a_copied_project_goes_on_too(tmp_path):
    pictures(tmp_path / "A" / "img", range(4))
    extract_pixels(tmp_path / "A" / "img", tmp_path / "A" / "s")
    shutil.copytree(tmp_path / "A", tmp_path / "B")
    result, notes = extract_pixels(tmp_path / "B" / "img", tmp_path / "B" / "s")
    assert (result["reused"], len(notes)) == (4, 1)


def test_a_store_of_another_data_set_is_not_replaced(tmp_path):
    """Names may agree: it is contents that tell data sets apart."""
    one, two = pictures(tmp_path / "one", range(4)), tmp_path / "two"
    for seed in range(4):
        save(two / "ab"[seed % 2] / f"{seed}.png", 100 + seed)
    extract_pixels(one, tmp_path / "s")
    before = (tmp_path / "s" / "manifest.csv").read_bytes()
    with pytest.raises(StoreError, match=rf"another data set, {one}, of which {two} holds no sample; give .*--force"):
        extract_pixels(two, tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "r" / "store")
    with pytest.raises(StoreError, match="another data set"):
        stages.run(two, tmp_path / "r", backbone=PIXELS, baselines="none")
    assert (tmp_path / "s" / "manifest.csv").read_bytes() == before
    result, notes = extract_pixels(two, tmp_path / "s", force=True)
    assert (result["computed"], len(notes)) == (4, 1)
    assert Store.open(tmp_path / "s").root == two


def test_a_part_of_the_data_set_under_other_ids_is_the_same_data_set(tmp_path):
    data = pictures(tmp_path / "img", range(4))
    extract_pixels(data, tmp_path / "s")
    result, notes = extract_pixels(data / "a", tmp_path / "s")
    assert (result["samples"], result["reused"], len(notes)) == (2, 2, 1)


def test_all_files_may_be_replaced_by_others(tmp_path):
    data = pictures(tmp_path / "img", range(4))
    extract_pixels(data, tmp_path / "s")
    shutil.rmtree(data)
    pictures(data, range(50, 53))
    result, notes = extract_pixels(data, tmp_path / "s")
    assert (result["computed"], notes) == (3, [])


# -- a store that may only be read


@pytest.fixture
def read_only(monkeypatch):
    """Makes a folder one of a read-only mount, as far as locks and questions about rights go."""

    def make(folder):
        def acquire(lock):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), lock.lock_file)

        def access(path, mode, **_):
            return not (mode & os.W_OK and os.path.realpath(path).startswith(str(folder)))

        monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
        monkeypatch.setattr(os, "access", access)

    return make


@pytest.mark.slow
def test_a_store_that_may_only_be_read_keeps_its_baselines_and_says_which_are_absent(tmp_path, read_only):
    data, store = pictures(tmp_path / "img", range(20)), tmp_path / "s"
    net = backbones.create("test_resnet", random_weights=True, device="cpu", transform={"input_size": (3, 32, 32)})
    extract_pixels(data, store)
    stages.extract(data, store, backbone=net, **SMALL)
    folder = Store.open(store).entry(net).folder
    options = {"backbone": folder.name, "kind": "ridge", "workers": 1}
    wanted = stages.probe(store, tmp_path / "m.safetensors", **options)
    read_only(store)
    found = stages.probe(store, tmp_path / "m.safetensors", **options)
    assert (found["baselines"], found["notes"]) == (wanted["baselines"], wanted["notes"])
    assert stages.probe(store, tmp_path / "m.safetensors", **options, memory=1)["out_of_core"]
    with pytest.raises(OutputError, match=rf"{folder}/model\.safetensors cannot be written: .*; give .* with -o"):
        stages.probe(store, **options)
    with pytest.raises(StoreReadOnly, match="may be read only"):
        stages.extract(data, store, backbone=net, **SMALL)
    assert stages.verify(store)["ok"]
    stages.export(store, tmp_path / "x.npz", backbone=folder.name)
    shutil.rmtree(Store.open(store).entry(PIXELS).folder)
    found = stages.probe(store, tmp_path / "m.safetensors", **options)
    table = stages.compare(store, tmp_path / "c.html", kinds=["ridge", "centroid"], device="cpu")
    assert found["baselines"]["pixels"] is None
    assert [note for note in found["notes"] if "no figure for pixels: " in note and "may be read only" in note]
    assert {row["kind"] for row in table["rows"]} == {"ridge", "centroid"}
    assert [note for note in table["notes"] if note.startswith("no row for pixels: ")]


@pytest.mark.slow
def test_a_store_that_another_process_writes_is_probed_with_the_baselines_that_it_holds(tmp_path):
    data, store = pictures(tmp_path / "img", range(20)), tmp_path / "s"
    extract_pixels(data, store)
    stages.extract(data, store, backbone="color-histogram", workers=1)
    options = {"backbone": "color-histogram", "kind": "ridge", "workers": 1}
    with Store.open(store).lock():
        found = stages.probe(store, tmp_path / "m.safetensors", **options)
    assert found["baselines"]["pixels"] is not None
    assert not [note for note in found["notes"] if "no figure" in note]


def test_files_that_would_hang_or_fill_the_memory_are_rejected_by_name(tmp_path):
    pictures(tmp_path / "img", range(4))
    with open(tmp_path / "img" / "a" / "huge.png", "wb") as file:
        file.truncate(2 * 10**9)
    os.symlink("/proc/kmsg" if os.path.isfile("/proc/kmsg") else "nowhere", tmp_path / "img" / "b" / "log.png")
    result, _ = extract_pixels(tmp_path / "img", tmp_path / "s")
    assert result["rejects"]["a/huge.png"].startswith("cannot be read: it is larger than 1 GiB")
    assert result["computed"] == 4
    assert set(result["rejects"]) == {"a/huge.png", "b/log.png"}
