"""Data that are hard to take, by every kind of probe, every protocol and compare: a right result or one clear line."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from doubles import VECTOR_KINDS

from featurepipe import compare, evaluate, probe, probe_protocol
from featurepipe.backbones import Pixels
from featurepipe.errors import FeaturepipeError, ManifestError, ProbeError
from featurepipe.manifests import Sample
from featurepipe.probes.kinds import mlp
from featurepipe.protocols import PROTOCOLS
from featurepipe.sources import Files
from featurepipe.stores import Row, Store, Writer

KINDS, NAMES = VECTOR_KINDS, tuple(PROTOCOLS)
FOLLOWERS = (*KINDS, *NAMES, "compare")
SHOTS = tuple(name for name in NAMES if PROTOCOLS[name].shots)
HELD_OUT = tuple(name for name in NAMES if PROTOCOLS[name].held_out)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """A few candidates of each grid, few draws and epochs."""
    for name, protocol in PROTOCOLS.items():
        places = len(protocol.grid)
        grid = protocol.grid[places // 3 : -places // 3 : 6] if places > 12 else protocol.grid[:4]
        few = {"shots": tuple(n for n in protocol.shots if n <= 5), "repeats": 2} if protocol.shots else {}
        monkeypatch.setitem(PROTOCOLS, name, replace(protocol, grid=grid, coarse=0, **few))
    monkeypatch.setattr(mlp, "EPOCHS", 20)
    monkeypatch.setattr(mlp, "HIDDEN", 8)


@pytest.fixture
def stored(tmp_path):
    """Factory of stores of given vectors (n, D), labels and splits."""

    def make(X, labels, splits):
        pixels = Pixels()
        store = Store.create(tmp_path / "hard.store")
        writer = Writer(store.entry(pixels), {"name": "pixels", "source": pixels.source}, 64)
        digests = [f"{n:064x}" for n in range(len(X))]
        writer.append(digests, np.asarray(X, np.float32), {})
        writer.commit()
        samples = [Sample(f"{n:03}", f"{n:03}.png", *of) for n, of in enumerate(zip(labels, splits, strict=True))]
        store.write_rows(Files(str(tmp_path / "gone")), [Row(*pair) for pair in zip(samples, digests, strict=True)])
        return store.path

    return make


def clusters(width=6, classes="abc", train=20, test=8):
    """Well separated clusters: vectors, labels and splits."""
    rng, per_class = np.random.default_rng(0), train + test
    labels = np.repeat(list(classes), per_class).astype(object)
    middles = 6 * np.random.default_rng(1).normal(size=(len(classes), width))
    X = 3 + np.repeat(middles, per_class, axis=0) + rng.normal(size=(len(labels), width))
    return X, labels, np.tile(["train"] * train + ["test"] * test, len(classes)).astype(object)


def follow(who, store):
    """The result of a kind, a protocol or compare, whose figures are all finite; and its top-1 or mean average.

    An mlp of few epochs has no other figure to show than that it has one.
    """
    if who == "compare":
        result = compare(store, kinds=KINDS, baselines="none")
        return json.loads(json.dumps(result, allow_nan=False)), min(
            row["top1"] for row in result["rows"] if row["kind"] != "mlp"
        )
    by = {"kind": who, "baselines": "none"} if who in KINDS else {"protocol": who}
    result = (probe if who in KINDS else probe_protocol)(store, **by)
    json.dumps(result, allow_nan=False)
    if result["test"] is None:
        return result, max(one["mean"] for one in result["few_shot"])
    return result, 1.0 if who == "mlp" else result["test"]["top1"]


def refusal(who, store):
    """The one line in which it is refused."""
    with pytest.raises(FeaturepipeError) as raised:
        follow(who, store)
    said = str(raised.value)
    assert "\n" not in said
    assert len(said) < 300
    return raised.type, said


@pytest.mark.slow
@pytest.mark.parametrize("who", FOLLOWERS)
def test_a_class_with_one_sample(stored, who):
    X, labels, splits = clusters()
    X, labels, splits = np.vstack([X, X[:1] - 40]), np.append(labels, "rare"), np.append(splits, "train")
    store = stored(X, labels, splits)
    if who == "vissl-svm":
        assert refusal(who, store) == (
            ProbeError,
            "class 'rare' has 1 distinct images, fewer than the 3 folds that choose its cost; add images",
        )
        return
    result, found = follow(who, store)
    assert found > (0.3 if who in SHOTS else 0.9)  # of one image
    if who in SHOTS:
        assert [one["shots"] for one in result["few_shot"]] == [1]
        assert any("some class has fewer training samples" in note for note in result["notes"])


@pytest.mark.slow
@pytest.mark.parametrize("who", FOLLOWERS)
def test_constant_features(stored, who):
    X, labels, splits = clusters()
    X[:, 2], X[:, 4] = 7.25, 0
    assert follow(who, stored(X, labels, splits))[1] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("who", FOLLOWERS)
def test_nothing_but_constant_features(stored, who):
    _, labels, splits = clusters()
    found = follow(who, stored(np.full((len(labels), 6), 0.1), labels, splits))[1]
    if who not in ("mlp", "vissl-lowshot-svm"):  # whose average precision depends on the order of equal scores
        assert found == pytest.approx(1 / 3)  # one class is as good as another


@pytest.mark.parametrize("who", FOLLOWERS)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_value_that_is_not_finite(stored, who, split):
    X, labels, splits = clusters()
    splits[1::5] = "val"
    at = np.flatnonzero(splits == split)[3]
    X[at, 1] = np.nan if who in KINDS else np.inf
    kind, said = refusal(who, stored(X, labels, splits))
    assert kind is ProbeError
    assert f"1 of 84 embeddings of pixels holds a value that is not finite: {at:03}; leave" in said


def test_evaluate_refuses_them_too(stored):
    X, labels, splits = clusters()
    store = stored(X, labels, splits)
    model = probe(store, baselines="none", kind="ridge")["model"]
    moved = Store.open(store).path.parent / "m.safetensors"
    shutil.copy(model, moved)
    X[-1, 0] = np.nan
    shutil.rmtree(store)
    with pytest.raises(ProbeError, match="1 of 84 embeddings of pixels holds a value that is not finite: 083"):
        evaluate(moved, stored(X, labels, splits))


@pytest.mark.slow
@pytest.mark.parametrize("who", FOLLOWERS)
def test_labels_missing_for_some_rows(stored, who):
    X, labels, splits = clusters()
    labels[::9] = None
    X[::9] = 1000
    result, found = follow(who, stored(X, labels, splits))
    assert found > 0.8
    assert f"{len(labels[::9])} samples without a label are left out" in result["notes"]


@pytest.mark.parametrize("who", FOLLOWERS)
def test_as_many_classes_as_training_rows(stored, who):
    store = stored(*clusters(width=12, classes="abcdefghij", train=1, test=2))
    if who == "dinov2-logreg":  # one class of ten is all that is held out
        assert any("was held out as a whole (1 sample)" in note for note in follow(who, store)[0]["notes"])
    elif who in HELD_OUT:
        error, said = refusal(who, store)
        assert (error, "of 10 that leaves none; add images or a val split" in said) == (ProbeError, True)
    elif who == "dinov2-knn":
        assert refusal(who, store)[1] == "10 training samples are too few for 10 neighbours; add samples"
    elif who == "vissl-svm":
        assert "'a' has 1 distinct images, fewer than the 3 folds" in refusal(who, store)[1]
    else:
        assert follow(who, store)[1] > 0.7


@pytest.mark.parametrize("who", FOLLOWERS)
def test_more_classes_than_training_rows(stored, who):
    X, labels, splits = clusters(classes="ab", train=5, test=3)
    labels[splits == "test"] = list("abcdef")
    error, said = refusal(who, stored(X, labels, splits))
    assert (error, "class 'c' occurs in test only, never in train" in said) == (ManifestError, True)


@pytest.mark.slow
@pytest.mark.parametrize("who", FOLLOWERS)
@pytest.mark.parametrize("shape", [{"width": 120}, {"width": 2, "classes": "abcdefg"}])
def test_more_features_than_rows_and_more_classes_than_features(stored, who, shape):
    assert follow(who, stored(*clusters(train=12, test=5, **shape)))[1] > (0.3 if "classes" in shape else 0.9)


@pytest.mark.parametrize("who", FOLLOWERS)
def test_a_single_class(stored, who):
    X, labels, splits = clusters(classes="a")
    assert "only one class ('a')" in refusal(who, stored(X, labels, splits))[1]
