"""Feature matrices and their exports: every row is the embedding of the very sample it stands beside."""

import csv

import numpy as np
import pyarrow.parquet
import pytest

from featurepipe import matrices
from featurepipe.backbones import Pixels
from featurepipe.errors import ShardCorrupt, StoreError
from featurepipe.manifests import Sample
from featurepipe.sources import Files
from featurepipe.stores import Row, Store, Writer

PIXELS = Pixels()
NASTY = ['a,b".jpg', "line\nbreak.png", "carriage\rreturn.png", "ü/ß.png", "'=1+1.png"]
UNDECODABLE = "\udcff\udc80.png"  # a file name whose bytes are not UTF-8


def digest(n):
    return f"{n:064x}"


def value(n):
    """The vector filed under digest(n): its own number everywhere, and float32 values that are awkward as text."""
    vector = np.full(PIXELS.width, n, np.float32)
    vector[:4] = [1 / 3, np.float32(1e-45), -0.0, np.float32(3.4e38)]
    return vector


@pytest.fixture
def store(tmp_path):
    """Shards of two rows for the numbers 0 to 9, of which 4 was rejected; the manifest still has to be written."""
    store = Store.create(tmp_path / "a.store")
    writer = Writer(store.entry(PIXELS), {"name": "pixels", "source": PIXELS.source}, 2)
    for n in range(10):
        kept = [] if n == 4 else [digest(n)]
        writer.append(kept, np.stack([value(n)])[: len(kept)], {} if kept else {digest(n): "broken"})
    writer.commit()
    return store


def write(store, numbers, ids=None):
    ids = ids or [f"{i:02}" for i in range(len(numbers))]
    labels, splits = [None, "cat", "dog"], ["train", None]
    samples = [Sample(name, name, labels[i % 3], splits[i % 2]) for i, name in enumerate(ids)]
    store.write_rows(Files(str(store.path)), [Row(s, digest(n)) for s, n in zip(samples, numbers, strict=True)])


def load(store):
    return matrices.load(store, store.entry(PIXELS))


def test_where_all_were_rejected_the_reason_is_said(store):
    write(store, [4])
    said = r"holds no embedding of its samples; the most common reason \(1 of 1\): broken; see .*csv"
    with pytest.raises(StoreError, match=said):
        load(store)


@pytest.mark.parametrize("numbers", [range(4), [9, 0, 5, 3, 8], [7, 7, 1, 7], [2]])
def test_rows_are_aligned_in_manifest_order(store, numbers):
    write(store, numbers)
    matrix = load(store)
    assert matrix.X.dtype == np.float32
    assert matrix.ids.tolist() == [f"{i:02}" for i in range(len(numbers))]
    assert matrix.digests.tolist() == [digest(n) for n in numbers]
    assert matrix.X.tobytes() == np.stack([value(n) for n in numbers]).tobytes()
    assert matrix.y.tolist() == [[None, "cat", "dog"][i % 3] for i in range(len(numbers))]
    assert matrix.split.tolist() == [["train", None][i % 2] for i in range(len(numbers))]


def test_rejected_and_unreadable_samples_have_no_row(store):
    rows = [Row(Sample(str(n), str(n), None, None), digest(n)) for n in (3, 4, 5)]
    store.write_rows(Files(str(store.path)), [*rows, Row(Sample("unread", "unread", None, None), "")])
    assert load(store).ids.tolist() == ["3", "5"]


def test_pending_samples_are_an_error_that_says_what_to_do(store):
    write(store, [1, 77, 78])
    with pytest.raises(StoreError, match=r"2 of 3 samples are not extracted .*first 01.*run featurepipe extract again"):
        load(store)


def test_nothing_but_rejects_is_an_error(store):
    write(store, [4])
    with pytest.raises(StoreError, match=r"no embedding.*rejects\.csv"):
        load(store)


def test_a_flipped_byte_never_becomes_a_feature(store):
    write(store, range(4))
    path = store.entry(PIXELS).indexes[1].path
    whole = bytearray(path.read_bytes())
    whole[whole.index(value(3).tobytes()) + 5] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ShardCorrupt, match="checksum"):
        load(store)


def test_float16_shards_give_float32_features(tmp_path):
    store = Store.create(tmp_path / "half.store")
    writer = Writer(store.entry(PIXELS), {"name": "pixels", "source": PIXELS.source}, 2)
    writer.append([digest(1)], np.full((1, PIXELS.width), 0.1, np.float16), {})
    writer.commit()
    write(store, [1])
    matrix = load(store)
    assert matrix.X.dtype == np.float32
    assert set(matrix.X.ravel()) == {np.float32(np.float16(0.1))}


def test_take_keeps_rows_together(store):
    write(store, range(4))
    matrix = load(store)
    for which in (np.array([3, 1]), np.array([False, True, False, True])):
        part = matrix.take(which)
        assert len(part) == 2
        assert [part.X[i, 9] for i in range(2)] == [int(d, 16) for d in part.digests]
        assert [int(id_) for id_ in part.ids] == [int(d, 16) for d in part.digests]


# -- streaming


def columns(matrix):
    rows = zip(matrix.ids, matrix.digests, matrix.y, matrix.split, map(bytes, matrix.X), strict=True)
    return sorted(rows, key=lambda row: row[0])


@pytest.mark.parametrize("numbers", [range(4), [9, 0, 5, 3, 8], [7, 7, 1, 7, 6, 0, 7, 7], [2], [1, 4, 9]])
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_a_stream_has_the_rows_of_load_shard_by_shard(store, numbers, at_once, monkeypatch):
    monkeypatch.setattr(matrices.features, "PIECE_ROWS", at_once)
    write(store, numbers)
    pieces = list(matrices.stream(store, store.entry(PIXELS)))
    whole = load(store)
    assert sorted((row for piece in pieces for row in columns(piece)), key=lambda row: row[0]) == columns(whole)
    assert {piece.X.dtype for piece in pieces} == {np.dtype(np.float32)}
    assert max(map(len, pieces)) <= at_once
    ids = [id_ for piece in pieces for id_ in piece.ids]
    places = store.entry(PIXELS).places()
    order = {id_: (places[digest][0], id_) for id_, digest in zip(whole.ids, whole.digests, strict=True)}
    assert ids == sorted(ids, key=order.get)  # by shard, and there as in the manifest


def test_a_stream_holds_one_shard_at_a_time(store, monkeypatch):
    write(store, range(10))
    read = []
    monkeypatch.setattr(
        matrices.features.shards, "read", lambda path, of=matrices.features.shards.read: read.append(path) or of(path)
    )
    pieces = matrices.stream(store, store.entry(PIXELS))
    for count, _ in enumerate(pieces, 1):
        assert len(read) == count
    assert len(set(read)) == len(read) == 5


def test_a_stream_makes_float32_of_float16_shards(tmp_path):
    store = Store.create(tmp_path / "half.store")
    writer = Writer(store.entry(PIXELS), {"name": "pixels", "source": PIXELS.source}, 2)
    writer.append([digest(1)], np.full((1, PIXELS.width), 0.1, np.float16), {})
    writer.commit()
    write(store, [1])
    (piece,) = matrices.stream(store, store.entry(PIXELS))
    assert piece.X.dtype == np.float32


def test_a_stream_that_cannot_be_whole_says_so_before_it_starts(store):
    write(store, [1, 77, 78])
    with pytest.raises(StoreError, match="2 of 3 samples are not extracted"):
        matrices.stream(store, store.entry(PIXELS))
    write(store, [4])
    with pytest.raises(StoreError, match=r"no embedding.*rejects\.csv"):
        matrices.stream(store, store.entry(PIXELS))


def test_a_store_without_any_shard_has_no_rows(tmp_path):
    store = Store.create(tmp_path / "empty.store")
    write(store, [1])
    for read in (matrices.load, matrices.stream):
        with pytest.raises(StoreError, match="1 of 1 samples are not extracted"):
            read(store, store.entry(PIXELS))


# -- exports


def test_npz_holds_the_matrix_and_no_pickle(store, tmp_path):
    write(store, [9, 1, 5, 7, 2, 3], [*NASTY, UNDECODABLE])
    matrices.export(load(store), tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert set(file) == {"ids", "labels", "splits", "digests", "X"}
        assert file["ids"].tolist() == [*NASTY, UNDECODABLE]
        assert file["labels"].tolist() == ["", "cat", "dog", "", "cat", "dog"]
        assert file["splits"].tolist() == ["train", "", "train", "", "train", ""]
        assert file["digests"].tolist() == [digest(n) for n in (9, 1, 5, 7, 2, 3)]
        assert file["X"].tobytes() == load(store).X.tobytes()
        assert {file[name].dtype.kind for name in ("ids", "labels", "splits", "digests")} == {"U"}


def test_parquet_holds_the_matrix(store, tmp_path):
    write(store, [9, 1, 5, 7, 2], NASTY)
    matrices.export(load(store), tmp_path / "out.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "label", "split", "digest", "embedding"]
    assert table["id"].to_pylist() == NASTY
    assert table["label"].to_pylist() == [None, "cat", "dog", None, "cat"]
    assert table["split"].to_pylist() == ["train", None, "train", None, "train"]
    assert np.array(table["embedding"].to_pylist(), np.float32).tobytes() == load(store).X.tobytes()


def test_csv_holds_the_matrix_to_the_last_bit(store, tmp_path):
    write(store, [9, 1, 5, 7, 2, 3], [*NASTY, UNDECODABLE])
    matrices.export(load(store), tmp_path / "out.csv")
    with open(tmp_path / "out.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *lines = csv.reader(file)
    assert header[:5] == ["id", "label", "split", "digest", "f0"]
    assert header[-1] == f"f{PIXELS.width - 1}"
    assert [line[0] for line in lines] == [*NASTY, UNDECODABLE]
    assert [line[1] for line in lines] == ["", "cat", "dog", "", "cat", "dog"]
    assert [line[3] for line in lines] == [digest(n) for n in (9, 1, 5, 7, 2, 3)]
    assert np.array([line[4:] for line in lines], np.float32).tobytes() == load(store).X.tobytes()


def test_parquet_refuses_names_that_it_cannot_hold(store, tmp_path):
    write(store, [1], [UNDECODABLE])
    with pytest.raises(StoreError, match=r"Parquet.*\.npz or \.csv"):
        matrices.export(load(store), tmp_path / "out.parquet")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["out.xlsx", "out", ".npz"])
def test_other_formats_are_refused_by_name(store, tmp_path, name):
    write(store, [1])
    with pytest.raises(StoreError, match=r"\.npz, \.parquet, \.csv"):
        matrices.export(load(store), tmp_path / name)


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".PARQUET"])
def test_an_export_that_fails_keeps_the_old_file(store, tmp_path, monkeypatch, suffix):
    write(store, [1])
    matrix, path = load(store), tmp_path / f"out{suffix}"
    path.write_text("old")
    broken = matrices.FeatureMatrix(matrix.ids, None, matrix.y, matrix.split, matrix.digests)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it stumbles over
        matrices.export(broken, path) if suffix != ".npz" else matrices.export(_unsaveable(monkeypatch, matrix), path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("out")] == [path.name]


def _unsaveable(monkeypatch, matrix):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    return matrix
