"""What earlier featurepipes wrote is read for ever: a store, models of every kind, and fingerprints by value.

`archives/store-1.1.tar.gz` was written by the first featurepipe with store format 1.1 (shards 1.0, models 1.1): 20 of
the bundled digits through the bundled network, every layer of a timm network of random weights, and three descriptors;
ten model files of them; and the probabilities that each model gave for the embeddings in the store. It is never written
again. What was the bundled network then is `bundled-1` now.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from featurepipe import extract, matrices, models, predict
from featurepipe.reports.answers import extract_words
from featurepipe.stores import Store

ARCHIVE = Path(__file__).parent / "archives" / "store-1.1.tar.gz"
FINGERPRINTS = {
    "bundled-57c105a0": "57c105a058152fd77ff55eeedb278c6e3d573087c8c9943a1966c60b73aad368",
    "color-histogram-3dae89a1": "3dae89a1402a91d0d6bd2d4f60e198c5e728dcff4ba84f3758147dd46871ef54",
    "hog-b6866bb7": "b6866bb77f96a891a802d79f425e66a635918a6de14746870666718d82e0a4be",
    "pixels-02b0404d": "02b0404d5fbdd1f497080ca74c5d3e79519d2782571a13266c4843eb766dd3be",
    "test_resnet-random-weights-seed-3-87d25de7": "87d25de7657fc71e59b8dfb92c12db9399448619cdc43a597df95e17ff074b5f",
    "test_resnet-random-weights-seed-3.stage1-ff002a40": (
        "ff002a40d6e215c97a9a1c3bd77d8a0fd780deeba20acd1c6b4222950d7ec869"
    ),
    "test_resnet-random-weights-seed-3.stage2-fcea8fdc": (
        "fcea8fdc048bf6610f2a984269dee2ead3bf90c3989325433fed609e8812fe37"
    ),
    "test_resnet-random-weights-seed-3.stage3-2c1ddaae": (
        "2c1ddaae0fbf3b326b8184a4b5379ebc324b7ecae21207f1e823c695b1ef1314"
    ),
    "test_resnet-random-weights-seed-3.stage4-5dbdd4b2": (
        "5dbdd4b20df3951e374132910be5df6da655b2af1a63270fb283cc7fa8b3fd41"
    ),
    "test_resnet-random-weights-seed-3.stage5-a53c6459": (
        "a53c64593b57492f88347da3bd9f5c628b0738efe319b67b99c88561649b00d1"
    ),
}
EXTRACTORS = {
    "bundled": {"backbone": "bundled-1"},  # "bundled" means a newer one today
    "pixels": {"backbone": "pixels"},
    "color-histogram": {"backbone": "color-histogram"},
    "hog": {"backbone": "hog"},
    "test_resnet": {"backbone": "test_resnet", "random_weights": True, "seed": 3, "layers": "stages"},
}


@pytest.fixture
def unpacked(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_fingerprints_are_what_they_were(unpacked):
    found = {entry.folder.name: entry.fingerprint for entry in Store.open(unpacked / "store").entries()}
    assert found == FINGERPRINTS
    assert json.loads((unpacked / "fingerprints.json").read_text()) == FINGERPRINTS


@pytest.mark.parametrize("name", EXTRACTORS)
def test_nothing_is_computed_again(unpacked, name):
    result = extract(unpacked / "digits", unpacked / "store", **EXTRACTORS[name])
    assert (result["samples"], result["computed"], result["reused"]) == (20, 0, 20)
    assert Store.open(unpacked / "store").verify()["ok"]


def test_models_of_every_kind_predict_as_they_did(unpacked):
    store = Store.open(unpacked / "store")
    entries = {entry.fingerprint: entry for entry in store.entries()}
    wanted = np.load(unpacked / "probabilities.npz")
    assert {models.load(unpacked / "models" / f"{name}.safetensors").kind for name in wanted} <= {*models.files.HEADS}
    for name in wanted:
        model = models.load(unpacked / "models" / f"{name}.safetensors")
        X = matrices.load(store, entries[model.backbone["fingerprint"]]).X
        np.testing.assert_allclose(model.predict_proba(X), wanted[name], rtol=1e-9, atol=1e-12, err_msg=name)
        np.testing.assert_array_equal(model.predict_proba(X).argmax(axis=1), wanted[name].argmax(axis=1))


def test_models_of_an_earlier_bundled_network_are_recalled_with_it(unpacked):
    file = unpacked / "models" / "bundled-logistic.safetensors"
    model = models.load(file)
    assert model.backbone["source"]["name"] == "bundled"
    assert models.open_backbones(model, file)[0].fingerprint == FINGERPRINTS["bundled-57c105a0"]
    assert predict(file, unpacked / "digits")["predicted"] == 20


def test_an_earlier_bundled_network_goes_by_its_name_of_today(unpacked):
    store = Store.open(unpacked / "store")
    old = FINGERPRINTS["bundled-57c105a0"]
    assert {store.choose(name).fingerprint for name in ("bundled-1", "bundled")} == {old}  # there is no other one yet
    new = extract(unpacked / "digits", store.path, backbone="bundled")
    assert (new["computed"], new["fingerprint"]) != (0, old)
    assert [store.choose(name).fingerprint for name in ("bundled-1", "bundled")] == [old, new["fingerprint"]]
    model = models.load(unpacked / "models" / "bundled-logistic.safetensors")
    words = extract_words(model.backbone, "digits", "digits.store")
    assert words[words.index("-b") + 1] == "bundled-1"
