"""Activations: what the bottom gives, through extraction, from the shards, to the top."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featurepipe import backbones, manifests
from featurepipe.errors import BackboneError, FeaturepipeError, ShardCorrupt, StoreError
from featurepipe.finetuning import trainable
from featurepipe.finetuning.cached import activations
from featurepipe.finetuning.cached.activations import Bottom, cache
from featurepipe.finetuning.cached.cuts import split
from featurepipe.images import DECODERS, Decoder, View, decode
from featurepipe.stores import Store, digest_rows

SIZE = (3, 32, 32)


def make(name="test_resnet", tune="last-1", seed=0, precision="fp32"):
    """A backbone with random weights, cut."""
    backbone = backbones.create(
        name, random_weights=True, seed=seed, precision=precision, device="cpu", transform={"input_size": SIZE}
    )
    return backbone, split(backbone.module, trainable(backbone.module, tune, name), SIZE, name)


@pytest.fixture
def data(photos):
    """Rows of six photos and their folder."""
    manifest = manifests.read(photos())
    return digest_rows(manifest, 1)[0], manifest.source


def digests(rows):
    return [row.digest for row in rows]


def pixels(rows, source, transform):
    return np.stack([decode(source.read(row.sample.place), transform) for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tune", "precision"),
    [
        ("test_resnet", "last-1", "fp32"),
        ("test_resnet", "last-1", "bf16"),
        ("dla34", "last-1", "fp32"),  # two tensors
        ("test_efficientnet", "last-2", "fp32"),
    ],
)
def test_the_top_on_cached_rows_gives_the_backbones_embedding(name, tune, precision, data, tmp_path):
    rows, source = data
    backbone, cut = make(name, tune, precision=precision)
    held = cache(tmp_path / "kept", rows, source, backbone, cut, [backbone.transform], workers=1, batch_size=6)
    assert (held.computed, held.rejects) == (6, {})
    wanted = backbone.embed(pixels(rows, source, backbone.transform))
    order = [4, 0, 5, 1, 3, 2, 0]  # any, and twice the same
    tensors = held.rows(0, [rows[i].digest for i in order])
    assert [(part.dtype, part.shape) for part in tensors] == [(np.float32, (7, *shape)) for shape in cut.shapes]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = cut.top(*map(torch.from_numpy, tensors))
    np.testing.assert_allclose(found.numpy(), wanted[order], rtol=1e-5, atol=1e-5)


def test_each_view_is_kept_by_itself(data, tmp_path):
    rows, source = data
    backbone, cut = make()
    views = [View.of(backbone.transform, "standard", 0, number) for number in range(2)]
    held = cache(tmp_path / "kept", rows, source, backbone, cut, views, workers=1)
    assert held.computed == 12
    for number, view in enumerate(views):
        (found,) = held.rows(number, digests(rows))
        wanted = Bottom(backbone, cut, view).embed(pixels(rows, source, view))
        np.testing.assert_allclose(found.reshape(6, -1), wanted, rtol=1e-5, atol=1e-5)
    assert not np.array_equal(*(held.rows(number, digests(rows))[0] for number in range(2)))


@pytest.mark.slow
def test_nothing_is_computed_twice_and_nothing_mixes(data, tmp_path):
    rows, source = data
    backbone, cut = make()

    def computed(backbone, cut, views, rows=rows):
        return cache(tmp_path / "kept", rows, source, backbone, cut, views, workers=1).computed

    view = View.of(backbone.transform, "crop", 1, 0)
    assert computed(backbone, cut, [backbone.transform], rows[:4]) == 4
    assert computed(backbone, cut, [backbone.transform]) == 2  # the rest
    assert computed(backbone, cut, [backbone.transform, view]) == 6
    assert computed(backbone, cut, [backbone.transform, view]) == 0
    assert computed(*make(), [backbone.transform]) == 0  # made again, it is the same
    assert computed(backbone, cut, [replace(view, seed=2)]) == 6
    assert computed(*make(tune="last-2"), [backbone.transform]) == 6
    assert computed(*make(seed=1), [backbone.transform]) == 6
    assert Store.open(tmp_path / "kept").verify()["ok"]
    assert len(Store.open(tmp_path / "kept").entries()) == 5


def test_a_broken_image_is_told_and_an_unknown_one_asked_for(data, tmp_path):
    rows, source = data
    Path(source.root, rows[1].sample.place).write_bytes(b"no image")
    rows, _ = digest_rows(manifests.read(source.root), 1)
    backbone, cut = make()
    for computed in (5, 0):  # and told again
        held = cache(tmp_path / "kept", rows, source, backbone, cut, [backbone.transform], workers=1)
        assert held.computed == computed
        assert list(held.rejects) == [rows[1].digest]
    with pytest.raises(StoreError, match=f"no activations of the content {rows[1].digest}; cache them first"):
        held.rows(0, digests(rows[:3]))
    assert [len(part) for part in held.rows(0, [])] == [0]


def test_a_damaged_row_is_noticed_when_it_is_read(data, tmp_path):
    rows, source = data
    backbone, cut = make()
    held = cache(tmp_path / "kept", rows, source, backbone, cut, [backbone.transform], workers=1)
    whole = held.rows(0, digests(rows))[0]
    (path,) = (tmp_path / "kept").glob("*/shard-*.h5")
    content = bytearray(path.read_bytes())
    at = content.index(whole[3].tobytes())
    content[at + 100] ^= 1
    path.write_bytes(content)
    assert np.array_equal(held.rows(0, digests(rows[:3]))[0], whole[:3])
    with pytest.raises(ShardCorrupt, match=r"fails its checksum; set it aside with: featurepipe verify --repair"):
        held.rows(0, digests(rows[3:]))
    path.write_bytes(content[: at + 10])
    with pytest.raises(ShardCorrupt, match="cut short"):
        held.rows(0, digests(rows[3:]))


def test_too_full_a_disk_is_said_before(data, tmp_path):
    rows, source = data
    backbone, cut = make()
    cut = replace(cut, shapes=((10**15,),))
    views = [View.of(backbone.transform, "standard", 0, number) for number in range(2)]
    with pytest.raises(StoreError, match=r"12 activations \(2 views\) take 4\.8e\+07 GB, more than the \S+ GB left"):
        cache(tmp_path / "kept", rows, source, backbone, cut, views)
    assert Store.open(tmp_path / "kept").entries() == []


def test_shards_are_of_bounded_size(data, tmp_path, monkeypatch):
    rows, source = data
    backbone, cut = make()
    monkeypatch.setattr(activations, "SHARD_BYTES", 2 * 4 * int(np.prod(cut.shapes[0])))
    held = cache(tmp_path / "kept", rows, source, backbone, cut, [backbone.transform], workers=1, batch_size=1)
    assert len(list((tmp_path / "kept").glob("*/shard-*.h5"))) == 3
    order = [4, 0, 5, 2, 3, 1]  # from one shard to the other and back
    (found,) = held.rows(0, [rows[i].digest for i in order])
    wanted = Bottom(backbone, cut, backbone.transform).embed(
        pixels([rows[i] for i in order], source, backbone.transform)
    )
    np.testing.assert_allclose(found.reshape(6, -1), wanted, rtol=1e-5, atol=1e-5)


def test_a_store_of_embeddings_is_left_alone(data, tmp_path):
    rows, source = data
    store = Store.create(tmp_path / "kept")
    store.write_rows(source, rows)
    backbone, cut = make()
    with pytest.raises(StoreError, match="place of their own"):
        cache(tmp_path / "kept", rows, source, backbone, cut, [backbone.transform])


def test_pixels_that_do_not_fit():
    backbone, cut = make()
    with pytest.raises(BackboneError, match="inputs are uint8 of shape"):
        Bottom(backbone, cut, backbone.transform).embed(np.zeros((1, 3, 16, 16), np.uint8))


@pytest.mark.slow
def test_an_image_is_decoded_once_for_all_views_that_lack_it(data, tmp_path, monkeypatch):
    rows, source = data
    backbone, cut = make()
    decoded = []

    class Counted(Decoder):
        def read(self, image, data, channels):
            decoded.append(1)
            return super().read(image, data, channels)

    monkeypatch.setitem(DECODERS, "counted", Counted())
    backbone = backbone.adapted(decoder="counted")
    views = [View.of(backbone.transform, "standard", 0, number) for number in range(4)]

    def passes(rows, views):
        decoded.clear()
        held = cache(tmp_path / "kept", rows, source, backbone, cut, views, workers=1)
        return len(decoded), held.computed

    assert passes(rows[:4], views[:2]) == (4, 8)
    assert passes(rows[:4], views) == (4, 8)  # those that are there are not made again
    assert passes(rows, views) == (2, 8)
    assert passes(rows, views) == (0, 0)


@pytest.mark.slow
def test_together_views_give_what_each_gives_alone(data, tmp_path):
    rows, source = data
    backbone, cut = make("dla34")  # two tensors
    views = [backbone.transform, *(View.of(backbone.transform, "standard", 0, number) for number in range(3))]
    together = cache(tmp_path / "together", rows, source, backbone, cut, views, workers=1)
    for number, view in enumerate(views):
        alone = cache(tmp_path / "alone", rows, source, backbone, cut, [view], workers=1)
        for one, other in zip(together.rows(number, digests(rows)), alone.rows(0, digests(rows)), strict=True):
            np.testing.assert_array_equal(one, other)


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
from test_finetuning_cached_activations import make
from featurepipe import manifests
from featurepipe.finetuning.cached import activations
from featurepipe.stores import digest_rows
torch.set_num_threads(1)
activations.SHARD_BYTES = 1
manifest = manifests.read({root!r})
backbone, cut = make()
embed = activations.Bottom.embed
activations.Bottom.embed = lambda self, pixels: (time.sleep(0.3), embed(self, pixels))[1]
rows, _ = digest_rows(manifest, 1)
activations.cache({kept!r}, rows, manifest.source, backbone, cut, [backbone.transform], workers=1, batch_size=1)
"""


@pytest.mark.processes
def test_what_a_killed_run_has_finished_is_kept(data, tmp_path):
    rows, source = data
    kept = tmp_path / "kept"
    code = KILLED.format(tests=os.path.dirname(__file__), root=source.root, kept=str(kept))
    child = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while len(list(kept.glob("*/shard-*.h5"))) < 2 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done = sum(len(entry.places()) for entry in Store.open(kept).entries())
    assert 2 <= done < 6
    backbone, cut = make()
    held = cache(kept, rows, source, backbone, cut, [backbone.transform], workers=1)
    assert held.computed == 6 - done
    assert held.rows(0, digests(rows))[0].shape == (6, *cut.shapes[0])


@pytest.mark.slow
def test_every_changed_bit_of_cached_activations_is_noticed_or_harmless(data, tmp_path):
    rows, source = data
    backbone, cut = make("test_resnet")
    options = {"workers": 1, "batch_size": 6}
    cache(tmp_path / "kept", rows, source, backbone, cut, [backbone.transform], **options)
    store, bottom = activations.open_store(tmp_path / "kept"), Bottom(backbone, cut, backbone.transform)
    (file,) = (tmp_path / "kept").rglob("*.h5")
    content, rng = file.read_bytes(), np.random.default_rng(0)

    def read():
        return activations.Places(store.entry(bottom), bottom.width).read(digests(rows))

    wanted, noticed = read(), 0
    places = [*range(64), *rng.choice(len(content), 200, replace=False)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        file.write_bytes(changed)
        try:
            np.testing.assert_array_equal(read(), wanted)
        except FeaturepipeError:
            noticed += 1
    assert noticed > len(places) / 2
