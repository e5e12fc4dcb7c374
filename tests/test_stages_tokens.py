"""Tokens in a store: the same pass, the same crashes, the same checks as of vectors."""

import shutil
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from featurepipe import backbones, matrices, shards, stages
from featurepipe.errors import StoreError
from featurepipe.extraction.loop import NOT_FINITE
from featurepipe.listeners import Listener
from featurepipe.stages import extractions
from featurepipe.stores import Store

NET = {"backbone": "test_resnet", "random_weights": True, "precision": "fp32"}
SMALL = {"batch_size": 4, "rows_per_shard": 8, "workers": 1, "compile": "off"}
COUNT = 21


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        place = folder / "train" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """A store with vectors and tokens; only read."""
    path = tmp_path_factory.mktemp("tokens") / "s"
    return path, stages.extract(data, path, tokens=3, **NET, **SMALL)


def content(path):
    """The bytes of what an entry's shards hold, in order."""
    return [
        (shard.embeddings.tobytes(), shard.digests.tobytes()) for shard in map(shards.read, sorted(path.glob("*.h5")))
    ]


def entries(path):
    store = Store.open(path)
    return store, store.choose(), store.choose(tokens=True)


def test_vectors_and_tokens_come_from_one_pass_into_two_entries(made, data):
    path, result = made
    store, vectors, tokens = entries(path)
    assert (result["computed"], result["width"], result["fingerprint"]) == (COUNT, 96, vectors.fingerprint)
    assert result["tokens"] == {
        "grid": [3, 3],
        "width": 96,
        "bytes": 2 * 9 * 96,
        "folder": tokens.folder.name,
        "fingerprint": tokens.fingerprint,
    }
    assert "layers" not in result
    assert tokens.folder.name.startswith("test_resnet-random-weights-seed-0.tokens-3x3-")
    assert (tokens.shape, tokens.width, tokens.grid, tokens.dtype) == ((3, 3, 96), 96, (3, 3), "float16")
    assert store.verify() == {"ok": True, "checked": 2 * COUNT, "problems": [], "repaired": []}
    assert [one.get("grid") for one in stages.info(path)["backbones"]] == [None, [3, 3]]
    matrix = matrices.load(store, tokens)
    alone = backbones.create("test_resnet", tokens=3, random_weights=True, precision="fp32")
    pending = store.pending(matrix.digests[:4].tolist())
    wanted = alone.embed(np.stack([alone.transform.decode(one.read(), None) for one in pending]))
    assert np.allclose(matrix.X[:4].reshape(4, -1), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_vectors_with_tokens_are_those_without(made, data, tmp_path):
    stages.extract(data, tmp_path / "s", **NET, **SMALL)
    plain = Store.open(tmp_path / "s").choose()
    assert content(plain.folder) == content(Store.open(made[0]).choose().folder)


@pytest.mark.slow
def test_a_store_with_vectors_gets_tokens_and_its_vectors_are_not_touched(data, tmp_path):
    stages.extract(data, tmp_path / "s", **NET, **SMALL)
    held = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*/shard-*.h5")}
    result = stages.extract(data, tmp_path / "s", tokens=3, **NET, **SMALL)
    assert result["computed"] == COUNT
    assert {path: path.stat().st_mtime_ns for path in held} == held
    assert stages.extract(data, tmp_path / "s", tokens=3, **NET, **SMALL)["computed"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("lost", [1, 2])
def test_what_a_crash_loses_is_computed_again_to_the_byte(made, data, tmp_path, lost):
    path = tmp_path / "s"
    shutil.copytree(made[0], path)
    _, vectors, tokens = entries(path)
    for entry, left in ((vectors, 3 - lost), (tokens, 3 - lost + 1)):  # as after a kill between two commits
        for shard in sorted(entry.folder.glob("shard-*.h5"))[left:]:
            shard.unlink()
    result = stages.extract(data, path, tokens=3, **NET, **SMALL)
    assert result["reused"] == 8 * (3 - lost)
    for entry in (vectors, tokens):
        assert content(entry.folder) == content(made[0] / entry.folder.name)


@pytest.mark.slow
def test_a_damaged_shard_is_set_aside_and_computed_again(made, data, tmp_path):
    path = tmp_path / "s"
    shutil.copytree(made[0], path)
    _, _, tokens = entries(path)
    damaged = tokens.folder / "shard-00001.h5"
    content_ = bytearray(damaged.read_bytes())
    at = shards.Reader.open(damaged).offset + 100
    content_[at] ^= 1
    damaged.write_bytes(content_)
    assert "fail their checksum" in stages.verify(path)["problems"][0]
    assert stages.verify(path, repair=True)["repaired"] == [str(damaged)]
    assert stages.extract(data, path, tokens=3, **NET, **SMALL)["computed"] == 8
    assert stages.verify(path)["checked"] == 2 * COUNT


@pytest.mark.slow
def test_tokens_that_are_not_finite_reject_the_image_of_both(data, tmp_path, monkeypatch):
    net = backbones.create_layers("test_resnet", "penultimate", tokens=3, random_weights=True, precision="fp32")
    plain = type(net).embed

    def embed(self, pixels):
        found = plain(self, pixels)
        if len(found) == 4:
            found[0, -1] = np.inf
        return found

    monkeypatch.setattr(type(net), "embed", embed)
    result = stages.extract(data, tmp_path / "s", backbone=net, **SMALL)
    assert result["rejected"] == 5
    assert set(result["rejects"].values()) == {NOT_FINITE}
    _, vectors, tokens = entries(tmp_path / "s")
    assert vectors.rejects() == tokens.rejects()
    assert vectors.places().keys() == tokens.places().keys()


def test_a_full_disk_is_refused_before_anything_is_computed(data, tmp_path, monkeypatch):
    monkeypatch.setattr(extractions.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(StoreError, match=r"1,728 bytes for each image, .* 1 kB left; give a coarser grid"):
        stages.extract(data, tmp_path / "s", tokens=3, **NET, **SMALL)
    assert Store.open(tmp_path / "s").entries() == []


@pytest.mark.slow
def test_the_bytes_are_said_before(data, tmp_path):
    class Notes(Listener):
        said: ClassVar[list[str]] = []

        def note(self, text):
            self.said.append(text)

    stages.extract(data, tmp_path / "s", tokens=3, listener=Notes(), **NET, **SMALL)
    assert "tokens 3×3: 1,728 bytes for each image, 36.3 kB for up to 21" in Notes.said
    assert any("tokens 3×3 on cpu" in note for note in Notes.said)


@pytest.mark.slow
def test_large_tokens_make_small_shards(data, tmp_path, monkeypatch):
    monkeypatch.setattr(extractions, "SHARD_BYTES", 5 * 1728)
    stages.extract(data, tmp_path / "s", tokens=3, **{**NET, **SMALL, "batch_size": 1})
    _, vectors, tokens = entries(tmp_path / "s")
    assert [len(index.digests) for index in tokens.indexes] == [5, 5, 5, 5, 1]
    assert [len(index.digests) for index in vectors.indexes] == [8, 8, 5]


@pytest.mark.slow
def test_probe_and_export_keep_to_the_vectors(made, data, tmp_path):
    path, _ = made
    _, vectors, tokens = entries(path)
    exported = stages.export(path, tmp_path / "f.npz")
    assert (exported["rows"], exported["width"]) == (COUNT, 96)
    result = stages.probe(path, tmp_path / "m.safetensors", kind="centroid", baselines="none")
    assert backbones.grid_of(stages.info(result["model"])["backbone"]["spec"]) is None
    with pytest.raises(StoreError, match="holds tokens, and vectors are wanted"):
        stages.export(path, tmp_path / "g.npz", backbone=tokens.folder.name)
    rows = stages.compare([path], baselines="none", kinds=["centroid", "knn"])["rows"]
    assert {row["fingerprint"] for row in rows} == {vectors.fingerprint}


@pytest.mark.slow
def test_which_tokens_are_meant(made, data, tmp_path):
    path = tmp_path / "s"
    shutil.copytree(made[0], path)
    store, _, tokens = entries(path)
    for name in (tokens.folder.name, tokens.fingerprint[:8], "test_resnet (random weights, seed 0)"):
        assert store.choose(name, tokens=True).fingerprint == tokens.fingerprint
    stages.extract(data, path, tokens=True, **NET, **SMALL)
    with pytest.raises(StoreError, match="several grids of tokens match"):
        store.choose(tokens=True)
    shutil.rmtree(tokens.folder)
    assert store.choose(tokens=True).grid == (5, 5)
    shutil.rmtree(store.choose(tokens=True).folder)
    with pytest.raises(StoreError, match=r"holds no tokens; get them with: featurepipe extract DATA -s .* --tokens"):
        store.choose(tokens=True)


def test_a_folder_of_vectors_and_tokens_mixed_is_refused(made, tmp_path):
    path = tmp_path / "s"
    shutil.copytree(made[0], path)
    store, vectors, tokens = entries(path)
    shutil.copy(vectors.folder / "shard-00000.h5", tokens.folder / "shard-00009.h5")
    assert "belongs to another backbone" in store.verify()["problems"][0]


# -- reading them -------------------------------------------------------------------------------------------------


def test_tokens_are_read_lazily_in_blocks_and_rows(made):
    store, _, tokens = entries(made[0])
    outline, whole = matrices.outline(store, tokens), matrices.load(store, tokens)
    assert (whole.X.shape, whole.X.dtype) == ((COUNT, 3, 3, 96), np.float16)
    pieces = list(matrices.stream(store, tokens))
    assert [piece.X.shape[1:] for piece in pieces] == 3 * [(3, 3, 96)]
    by_id = {id_: x for piece in pieces for id_, x in zip(piece.ids, piece.X, strict=True)}
    assert all(np.array_equal(by_id[id_], x) for id_, x in zip(whole.ids, whole.X, strict=True))
    lazy = matrices.TokenRows(tokens, outline)
    assert (lazy.shape, lazy.dtype, len(lazy), lazy.nbytes) == (whole.X.shape, whole.X.dtype, COUNT, whole.X.nbytes)
    for at in (3, slice(2, 17, 5), [20, 0, 11, 0], np.arange(COUNT) % 3 == 0):
        assert np.array_equal(lazy[at], whole.X[at])
    blocks = list(lazy.blocks(4))
    assert [rows.stop - rows.start for rows, _ in blocks] == [4, 4, 4, 4, 4, 1]
    assert np.array_equal(np.concatenate([block for _, block in blocks]), whole.X)
    some = matrices.TokenRows(tokens, outline.take(np.array([5, 2])))
    assert np.array_equal(some[:], whole.X[[5, 2]])


def test_vectors_are_not_read_as_tokens(made):
    store, vectors, _ = entries(made[0])
    with pytest.raises(StoreError, match="are vectors, not tokens"):
        matrices.TokenRows(vectors, matrices.outline(store, vectors))
