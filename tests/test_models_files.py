"""The model file: what goes in comes out, runs no code, and knows its backbone."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import VECTOR_KINDS
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.base import ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

import featurepipe
from featurepipe import backbones, models, probes
from featurepipe.backbones.weights import read_weights
from featurepipe.cards import Card, Selection
from featurepipe.errors import BackboneError, FingerprintMismatch, FormatTooNew, ModelFileError, WeightsUnavailable
from featurepipe.probes.kinds.knn import knn_classifier

ARCHIVES = Path(__file__).parent / "archives"
HOSTILE = [
    'a,b\n"c"\'',
    "<script>alert(1)</script>",
    "ünïcode 🐝",
    "../../etc/passwd",
    " ",
    "caf\udce9",
    "\x00x\t",
    "%s{0}",
]
TINY = {"random_weights": True, "transform": {"input_size": (3, 32, 32)}, "device": "cpu"}


def trained(kind="logistic", names=("ant", "bee", "cat"), backbone=None):
    """A model on made-up embeddings, and embeddings to try it on."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % len(names)
    centres = rng.normal(size=(len(names), 5))
    X = (centres[y] + 0.5 * rng.normal(size=(60, 5))).astype(np.float32)
    probe = probes.fit(kind, X, np.array(list(names))[y])
    backbone = backbone or backbones.Pixels()
    model = models.Model(
        kind=kind,
        estimator=probe.estimator,
        temperature=probe.temperature,
        backbone={
            "name": backbone.name,
            "fingerprint": backbone.fingerprint,
            "spec": backbone.spec,
            "source": backbone.source,
        },
        seen=models.digest_keys(["ff" * 32, "00" * 32, "0123456789abcdef" + "0" * 48]),
        card=Card.of_json(
            {"selection": {"on": probe.selected_on, "chosen": probe.chosen, "path": probe.path}, "extra": [1, None]}
        ),
    )
    return model, rng.normal(size=(40, 5)).astype(np.float32)


def rewrite(path, change=lambda header: None, *, sign=True, **tensors):
    """Change a model file's header, replace or (None) drop tensors; with the digests of what it then holds, or not."""
    with safe_open(path, "np") as file:
        header = json.loads(file.metadata()["featurepipe"])
        held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    held |= {key.replace("_", "."): value for key, value in tensors.items()}
    header, held = change(header) or header, {k: v for k, v in held.items() if v is not None}
    if sign and isinstance(header, dict):
        own = {key: value for key, value in held.items() if not key.startswith("backbone.")}
        kind = str(header.get("kind"))
        names = models.files.HEADS[kind].tensors if kind in models.files.HEADS else ()
        header["head-sha256"] = models.files._head_digest([own[name] for name in names if name in own])
        header["sha256"] = models.files._digest(header, own)
    save_file(held, path, metadata={"featurepipe": json.dumps(header)})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "m.safetensors"
    models.save(path, trained()[0])
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", VECTOR_KINDS)
@pytest.mark.parametrize(
    "names", [("yes", "no"), ("ant", "bee", "cat"), (3, 1), (10, 20, 5, -1), (False, True), HOSTILE]
)
def test_round_trip(tmp_path, kind, names):
    model, X = trained(kind, names)
    models.save(tmp_path / "deep" / "m.safetensors", model)
    back = models.load(tmp_path / "deep" / "m.safetensors")
    assert back.classes.tolist() == model.classes.tolist() == sorted(names)
    assert [type(c) for c in back.classes.tolist()] == [type(c) for c in names]
    assert back.estimator.predict(X).tolist() == model.estimator.predict(X).tolist()
    np.testing.assert_array_equal(back.predict_proba(X), model.predict_proba(X))
    assert (back.kind, back.temperature, back.backbone, back.card) == (
        kind, model.temperature, json.loads(json.dumps(model.backbone)), model.card,
    )  # fmt: skip
    np.testing.assert_array_equal(back.seen, np.unique(model.seen))


def labelled(names=("ant", "bee", "cat")):
    """A multi-label model on made-up embeddings, with a C of its own for each label; and embeddings to try it on."""
    model, X = trained()
    rng = np.random.default_rng(1)
    names = np.array(sorted(names))
    strengths = 10.0 ** np.arange(len(names))
    estimator = probes.labels_classifier(
        names, rng.normal(size=(len(names), 5)), rng.normal(size=len(names)), strengths
    )
    chosen = dict(zip(names.tolist(), strengths.tolist(), strict=True))
    card = Card(selection=Selection.made("val", chosen, []))
    return replace(model, kind="multi-label", estimator=estimator, temperature=1.0, card=card), X


@pytest.mark.slow
@pytest.mark.parametrize("names", [("yes", "no"), ("ant", "bee", "cat"), HOSTILE])
def test_round_trip_of_sets_of_labels(tmp_path, names):
    model, X = labelled(names)
    models.save(tmp_path / "m.safetensors", model)
    back = models.load(tmp_path / "m.safetensors")
    assert back.is_multi_label
    assert type(back.estimator) is OneVsRestClassifier
    assert back.classes.tolist() == model.classes.tolist()
    assert set(vars(back.estimator)) == set(vars(model.estimator))
    assert [one.C for one in back.estimator.estimators_] == (10.0 ** np.arange(len(names))).tolist()
    np.testing.assert_array_equal(back.predict_proba(X), model.estimator.predict_proba(X))
    np.testing.assert_array_equal(back.estimator.predict(X), model.estimator.predict(X))
    assert back.predict_proba(X).shape == (40, len(names))


def test_a_reader_that_does_not_know_sets_of_labels_says_so(tmp_path, monkeypatch):
    models.save(tmp_path / "m.safetensors", labelled()[0])
    monkeypatch.setattr(models.files, "HEADS", probes.KINDS)
    with pytest.raises(ModelFileError, match="probe kind 'multi-label' is unknown to this featurepipe; upgrade it"):
        models.load(tmp_path / "m.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [0.1, None, {"ant": 1.0, "bee": 1.0}, {"ant": "many", "bee": 1.0, "cat": 1.0}])
def test_labels_without_a_c_are_refused(tmp_path, chosen):
    models.save(tmp_path / "m.safetensors", labelled()[0])
    rewrite(
        tmp_path / "m.safetensors", lambda h: {**h, "card": {"selection": {**h["card"]["selection"], "chosen": chosen}}}
    )
    with pytest.raises(ModelFileError, match=r"m\.safetensors cannot be read as a model"):
        models.load(tmp_path / "m.safetensors")


def test_fewer_rows_than_labels_are_refused(tmp_path):
    models.save(tmp_path / "m.safetensors", labelled(("no", "yes"))[0])
    with safe_open(tmp_path / "m.safetensors", "np") as file:
        weight, bias = file.get_tensor("head.weight")[:1], file.get_tensor("head.bias")[:1]
    rewrite(tmp_path / "m.safetensors", head_weight=weight, head_bias=bias)
    with pytest.raises(ModelFileError, match="does not fit 2 classes"):
        models.load(tmp_path / "m.safetensors")


SCIKIT_LEARNS = {
    "logistic": LogisticRegression,
    "ridge": RidgeClassifier,
    "svm": LinearSVC,
    "lda": LinearDiscriminantAnalysis,
    "centroid": NearestCentroid,
    "knn": KNeighborsClassifier,
    "mlp": MLPClassifier,
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "type_"), SCIKIT_LEARNS.items())
@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")])
def test_the_estimator_is_scikit_learns_own(tmp_path, kind, type_, names):
    model, X = trained(kind, names)
    models.save(tmp_path / "m.safetensors", model)
    estimator = models.load(tmp_path / "m.safetensors").estimator
    assert isinstance(estimator, type_)
    assert isinstance(estimator, ClassifierMixin)
    assert estimator.score(X, estimator.predict(X)) == 1
    name = probes.KINDS[kind].parameter
    assert name is None or estimator.get_params()[name] == model.card["selection"]["chosen"]
    with pytest.raises(ValueError, match="5 features"):
        estimator.predict(X[:, :4])
    if kind == "logistic":
        cooled = estimator.predict_proba(X) ** (1 / model.temperature)
        np.testing.assert_allclose(cooled / cooled.sum(axis=1, keepdims=True), model.predict_proba(X), atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 5), (5,)])
def test_a_binary_ridge_is_kept_in_either_shape(tmp_path, shape):
    model, X = trained("ridge", ("a", "b"))
    expected = model.estimator.decision_function(X)
    model.estimator.coef_ = model.estimator.coef_.reshape(shape)  # scikit-learn's versions differ
    models.save(tmp_path / "m.safetensors", model)
    back = models.load(tmp_path / "m.safetensors")
    np.testing.assert_allclose(back.estimator.decision_function(X), expected, rtol=1e-12)
    assert back.estimator.coef_.ndim == RidgeClassifier().fit([[0.0], [1.0]], [0, 1]).coef_.ndim


def test_a_head_alone_holds_three_tensors_and_one_json_header(file):
    with safe_open(file, "np") as opened:
        assert set(opened.keys()) == {"head.weight", "head.bias", "seen"}
        assert list(opened.metadata()) == ["featurepipe"]
        header = json.loads(opened.metadata()["featurepipe"])
        assert opened.get_tensor("head.weight").shape == (3, 5)
    assert set(header) == {
        "encoding-type", "encoding-version", "head-sha256", "sha256", "kind", "classes", "temperature", "backbone",
        "card",
    }  # fmt: skip
    assert (header["encoding-type"], header["encoding-version"]) == ("featurepipe-model", "1.2")
    assert set(header["backbone"]) == {"name", "fingerprint", "spec", "source"}


def test_others_may_read_it_as_any_new_file(file):
    (file.parent / "plain").write_bytes(b"")
    assert file.stat().st_mode == (file.parent / "plain").stat().st_mode


def test_loading_unpickles_nothing(file, monkeypatch):
    import pickle

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    models.load(file)
    assert b"sklearn" not in file.read_bytes()


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"\.safetensors"):
        models.save(tmp_path / "model.pkl", trained()[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_card_that_is_no_json_leaves_the_old_file(file):
    old = file.read_bytes()
    model, _ = trained()
    model = replace(model, card=Card.of_json({**model.card, "figure": float("nan")}))
    with pytest.raises(ValueError, match="JSON"):
        models.save(file, model)
    assert file.read_bytes() == old
    assert [path.name for path in file.parent.iterdir()] == ["m.safetensors"]


def test_a_newer_format_is_refused_and_a_newer_minor_version_read(file):
    rewrite(file, lambda h: {**h, "encoding-version": "1.7", "new": 1}, new_tensor=np.zeros(3))
    assert models.load(file).kind == "logistic"
    rewrite(file, lambda h: {**h, "encoding-version": "3.0"})
    with pytest.raises(FormatTooNew, match=r"model format 3\.0.*reads 2\.0.*upgrade"):
        models.load(file)


def test_a_tuned_network_of_a_later_version_does_not_stop_a_probe_of_its_embeddings(file):
    rewrite(file, lambda h: {**h, "encoding-version": "3.0"})
    found = models.seen_in_tuning({"weights": str(file)}, {"weights": "0" * 64})
    assert (found.dtype, found.tolist()) == (np.uint64, [])


def test_a_folder_is_no_model_file_and_exists(tmp_path):
    with pytest.raises(ModelFileError, match=r"is a folder; give the model file in it"):
        models.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.safetensors")
    assert not models.is_model(tmp_path / "m.safetensors")
    assert models.find(tmp_path) == []
    with pytest.raises(ModelFileError, match="does not exist"):
        models.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("classes", [["a", 1, "b"], ["a", "a", "b"], [None, "a", "b"], ["a", "b", "b\0"]])
def test_classes_that_could_not_be_read_again_are_not_written(tmp_path, classes):
    model, _ = trained()
    model.estimator.classes_ = np.array(classes, object)
    with pytest.raises(ModelFileError, match=r"m\.safetensors cannot hold this model: .*class"):
        models.save(tmp_path / "m.safetensors", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_head_of_another_width_than_its_backbone_is_one_line(file, photos):
    with pytest.raises(ModelFileError, match=r"its head takes embeddings of 5 numbers, and its backbone gives 3072"):
        featurepipe.predict(file, photos())
    with pytest.raises(ModelFileError, match=r"its head takes embeddings of 5 numbers, and its backbone gives 3072"):
        featurepipe.TransferClassifier.load(file)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ModelFileError, match=r"does not exist.*featurepipe probe"):
        models.load(tmp_path / "none.safetensors")
    with pytest.raises(ModelFileError):
        models.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"\xff" * 100, b'{"a": 1}'])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"m\.safetensors"):
        models.load(path)


def test_other_safetensors_files_are_refused(tmp_path):
    save_file({"a": np.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelFileError, match="not a featurepipe model"):
        models.load(tmp_path / "w.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(file, keep):
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ModelFileError, match="cannot be read as a model"):
        models.load(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        {"change": lambda h: {**h, "encoding-version": "one"}},
        {"change": lambda h: {k: v for k, v in h.items() if k != "classes"}},
        {"change": lambda h: {**h, "classes": ["a", "b"]}},
        {"change": lambda h: {**h, "classes": None}},
        {"change": lambda h: {**h, "card": []}},
        {"change": lambda h: {**h, "kind": "forest"}},
        {"change": lambda h: {**h, "kind": "knn"}},
        {"change": lambda h: [h]},
        {"head_weight": np.zeros((2, 5))},
        {"head_weight": np.zeros(15)},
        {"head_bias": np.zeros(2)},
        {"head_bias": None},
        {"seen": None},
        {"seen": np.zeros((2, 2), np.uint64)},
        {"seen": np.zeros(2)},
        {"head_bias": np.array([0.0, np.nan, 0.0])},
        {"head_bias": np.array([0.0, np.inf, 0.0])},
        {"head_bias": np.zeros(3, bool)},
        {"change": lambda h: {**h, "classes": ["ant", "bee", "bee"]}},
        {"change": lambda h: {**h, "classes": ["ant", 1, "bee"]}},
        {"change": lambda h: {**h, "classes": [1, True, 2]}},
        {"change": lambda h: {**h, "classes": [[1], [2], [3]]}},
        {"change": lambda h: {**h, "classes": [None, None, None]}},
        {"change": lambda h: {**h, "classes": "abc"}},
        {"change": lambda h: {**h, "classes": ["x", "x\0", "y"]}},
        {"change": lambda h: {**h, "classes": ["a\0", "b", "c"]}},
        {"change": lambda h: {**h, "classes": [-1, 2**63, 2**63 + 1]}},
        {"change": lambda h: {**h, "temperature": 1e-308}},
        {"change": lambda h: {**h, "temperature": 1e308}},
        {"head_weight": np.full((3, 5), 1e308)},
        {"head_bias": np.full(3, -1e71)},
        {"change": lambda h: {**h, "temperature": 0}},
        {"change": lambda h: {**h, "temperature": -1.0}},
        {"change": lambda h: {**h, "temperature": True}},
        {"change": lambda h: {**h, "temperature": "1"}},
        {"change": lambda h: {**h, "temperature": float("nan")}, "sign": False},
        {"change": lambda h: {**h, "temperature": float("inf")}, "sign": False},
        {"change": lambda h: {**h, "kind": ["logistic"]}},
        {"change": lambda h: {**h, "encoding-version": 1.2}},
        {"change": lambda h: {**h, "encoding-version": "1" * 5000}},
        {"change": lambda h: {**h, "backbone": None}},
        {"change": lambda h: {**h, "backbone": {**h["backbone"], "spec": {}}}},
        {"change": lambda h: {**h, "backbone": {**h["backbone"], "source": {}}}},
        {"change": lambda h: {**h, "backbone": {**h["backbone"], "fingerprint": 1}}},
        {"change": lambda h: {**h, "card": {}}},
        {"change": lambda h: {**h, "card": {"selection": {**h["card"]["selection"], "chosen": None}}}},
        {"change": lambda h: {**h, "card": {"selection": {**h["card"]["selection"], "chosen": {"ant": 1.0}}}}},
        {"change": lambda h: {**h, "card": {**h["card"], "splits": {"train": "many"}}}},
        {"change": lambda h: {**h, "card": {**h["card"], "finetuning": {"promoted": 1}}}},
    ],
)
def test_a_header_that_does_not_fit_its_tensors_is_refused(file, damage):
    rewrite(file, **damage)
    with pytest.raises(ModelFileError, match=r"m\.safetensors|kind 'forest'"):
        models.load(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names", "damage"),
    [
        ("lda", "abc", {0: (2, 5)}),
        ("svm", "ab", {0: (2, 5), 1: (2,)}),
        ("centroid", "abc", {0: (2, 5)}),
        ("centroid", "abc", {1: (4,)}),
        ("centroid", "ab", {0: (1, 5)}),
        ("knn", "abc", {0: (59, 5)}),
        ("knn", "abc", {0: (60,)}),
        ("knn", "abc", {1: (60,)}),  # all of class 0
        ("knn", "abc", {0: (0, 5), 1: (0,)}),
        ("mlp", "abc", {0: (127, 5)}),
        ("mlp", "abc", {2: (1, 128), 3: (1,)}),
        ("mlp", "ab", {2: (2, 128), 3: (2,)}),
        ("mlp", "ab", {0: (640,)}),
    ],
)
def test_heads_of_wrong_shapes_are_refused(tmp_path, monkeypatch, kind, names, damage):
    model, _ = trained(kind, names)
    models.save(tmp_path / "m.safetensors", model)
    held = load_all(tmp_path / "m.safetensors")
    changed = {models.files.HEADS[kind].tensors[place]: shape for place, shape in damage.items()}
    tensors = {name.replace(".", "_"): np.zeros(shape, held[name].dtype) for name, shape in changed.items()}
    rewrite(tmp_path / "m.safetensors", **tensors)
    with pytest.raises(ModelFileError, match=rf"does not fit {len(names)} classes"):
        models.load(tmp_path / "m.safetensors")


def test_neighbours_that_are_not_of_unit_length_are_refused(tmp_path):
    models.save(tmp_path / "m.safetensors", trained("knn")[0])
    rewrite(tmp_path / "m.safetensors", head_rows=np.full((60, 5), 3e38, np.float32))
    with pytest.raises(ModelFileError, match="not of unit length"):
        models.load(tmp_path / "m.safetensors")


OF_VECTORS = [kind for kind in probes.HEADS if getattr(probes.HEADS[kind], "reads", "") == "vectors"]


@pytest.mark.parametrize("temperature", [1e-100, 1e100])
def test_the_largest_numbers_in_heads_of_tokens_and_names_give_probabilities_too(temperature):
    big, classes = models.LARGEST, np.array(["ant", "bee"])
    named = probes.cosine_classifier(classes, np.eye(2), big)
    seen = probes.probabilities(named, np.full((2, 2), np.finfo(np.float32).max) * [[1, 0.5], [-1, 1]], temperature)
    arrays = [np.array(rows) * big for rows in ([[1.0, -1]], [[1.0, 1], [-1, 1]], [[1.0, -1], [1, 1]], [1.0, -1])]
    attentive = probes.HEADS["attentive"].restore(classes, arrays, 1.0, 0)
    tokens = np.full((2, 2, 2, 2), 65504, np.float16) * np.array([1, -1], np.float16)
    for proba in (seen, probes.probabilities(attentive, tokens, temperature)):
        assert ((proba >= 0) & (proba <= 1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*OF_VECTORS, "multi-label"])
@pytest.mark.parametrize("temperature", [1e-100, 1e100])
def test_a_head_of_the_largest_numbers_that_are_read_still_gives_probabilities(tmp_path, kind, temperature):
    model = labelled()[0] if kind == "multi-label" else trained(kind)[0]
    models.save(tmp_path / "m.safetensors", model)
    form, held = models.files.HEADS[kind], load_all(tmp_path / "m.safetensors")
    signs = {name: np.where(np.arange(held[name].size).reshape(held[name].shape) % 3, 1, -1) for name in form.tensors}
    extreme = {
        name.replace(".", "_"): (sign * (1.0 if kind.endswith("knn") else models.LARGEST)).astype(held[name].dtype)
        for name, sign in signs.items()
        if held[name].dtype.kind == "f"
    }
    rewrite(tmp_path / "m.safetensors", lambda h: {**h, "temperature": temperature}, **extreme)
    X = np.full((2, 5), np.finfo(np.float32).max, np.float32) * [[1], [-1]]
    proba = models.load(tmp_path / "m.safetensors").predict_proba(X)
    assert ((proba >= 0) & (proba <= 1)).all()


@pytest.mark.parametrize("chosen", [0, 61, "many", None])
def test_more_neighbours_than_rows_are_refused(tmp_path, chosen):
    models.save(tmp_path / "m.safetensors", trained("knn")[0])
    rewrite(
        tmp_path / "m.safetensors", lambda h: {**h, "card": {"selection": {**h["card"]["selection"], "chosen": chosen}}}
    )
    with pytest.raises(ModelFileError, match=r"m\.safetensors cannot be read as a model"):
        models.load(tmp_path / "m.safetensors")


@pytest.mark.slow
def test_has_seen(file):
    known = ["ff" * 32, "0123456789abcdef" + "9" * 48]
    assert models.load(file).has_seen([*known, "ab" * 32]).tolist() == [True, True, False]
    assert models.load(file).has_seen([]).tolist() == []


# -- the backbone that it belongs to ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A backbone with a weights file of its own."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    module = backbones.create("test_resnet", **TINY).module
    save_file({k: v.contiguous().numpy() for k, v in module.state_dict().items()}, path)
    options = {key: value for key, value in TINY.items() if key != "random_weights"}
    return path, backbones.create("test_resnet", weights=path, **options)


def same(made, backbone):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    np.testing.assert_allclose(made.embed(pixels), backbone.embed(pixels), atol=1e-6)
    return made.fingerprint == backbone.fingerprint


@pytest.mark.slow
def test_weights_that_stayed_are_found(file, network):
    model, _ = trained(backbone=network[1])
    assert same(models.open_backbone(model, file, device="cpu"), network[1])


@pytest.mark.slow
def test_weights_that_moved_are_asked_for_and_taken(file, network, tmp_path):
    model, _ = trained(backbone=network[1])
    model.backbone["source"] = {**network[1].source, "weights": str(tmp_path / "gone.safetensors")}
    with pytest.raises(WeightsUnavailable, match=r"gone\.safetensors does not exist.*--weights"):
        models.open_backbone(model, file, device="cpu")
    assert same(models.open_backbone(model, file, weights=network[0], device="cpu"), network[1])


@pytest.mark.slow
def test_other_weights_are_refused_by_the_field_that_differs(file, network, tmp_path):
    model, _ = trained(backbone=network[1])
    state = {k: v + 1e-3 if v.dtype == np.float32 else v for k, v in load_all(network[0]).items()}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(FingerprintMismatch, match=r"weights is '[0-9a-f]{64}', not '[0-9a-f]{64}'"):
        models.open_backbone(model, file, weights=tmp_path / "other.safetensors", device="cpu")


@pytest.mark.slow
def test_a_backbone_inside_the_file_needs_no_other(tmp_path, network):
    model, _ = trained(backbone=network[1])
    model.backbone["source"] = {**network[1].source, "weights": str(tmp_path / "gone.safetensors")}
    model.backbone["name"] = "mine"
    models.save(tmp_path / "m.safetensors", model, module=network[1].module)
    loaded = models.load(tmp_path / "m.safetensors")
    opened = models.open_backbone(loaded, tmp_path / "m.safetensors", device="cpu")
    assert same(opened, network[1])
    assert opened.name == "mine"  # not that of its architecture
    model.backbone["source"] = {**network[1].source, "weights": None, "random_seed": 5}
    models.save(tmp_path / "m.safetensors", model, module=network[1].module)
    loaded = models.load(tmp_path / "m.safetensors")
    assert same(models.open_backbone(loaded, tmp_path / "m.safetensors", device="cpu"), network[1])


@pytest.mark.slow
def test_a_damaged_backbone_inside_the_file_is_noticed(tmp_path, network):
    model, _ = trained(backbone=network[1])
    models.save(tmp_path / "m.safetensors", model, module=network[1].module)
    key = next(key for key in load_all(network[0]) if key.endswith("conv1.weight"))
    rewrite(tmp_path / "m.safetensors", **{f"backbone.{key}": load_all(network[0])[key] + 1})
    with pytest.raises(BackboneError, match="its backbone does not match its digest"):
        models.open_backbone(model, tmp_path / "m.safetensors", device="cpu")


def test_a_damaged_backbone_inside_an_older_file_is_noticed_by_its_fingerprint(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes((ARCHIVES / "model-1.1-backbone.safetensors").read_bytes())
    key = next(key for key in load_all(path) if key.endswith("conv1.weight"))
    replace_tensor(path, key, load_all(path)[key] + 1)
    with pytest.raises(FingerprintMismatch, match="weights is"):
        models.open_backbone(models.load(path), path, device="cpu")


@pytest.mark.slow
def test_a_network_that_is_not_the_specs_is_not_written(tmp_path, network):
    model, _ = trained(backbone=network[1])
    other = backbones.create("test_resnet", **TINY, seed=1)
    with pytest.raises(ModelFileError, match=r"the spec of m\.safetensors describes; its weights differ"):
        models.save(tmp_path / "m.safetensors", model, module=other.module)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_random_weights_are_made_again(file):
    backbone = backbones.create("test_resnet", **TINY, seed=3)
    model, _ = trained(backbone=backbone)
    state = torch.random.get_rng_state()
    assert same(models.open_backbone(model, file, device="cpu"), backbone)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pixels_need_no_weights(file):
    assert models.open_backbone(models.load(file), file) == backbones.Pixels()


@pytest.mark.slow
def test_weights_of_another_architecture_are_refused(file, network, tmp_path):
    model, _ = trained(backbone=network[1])
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=r"a\.safetensors does not fit test_resnet"):
        models.open_backbone(model, file, weights=tmp_path / "a.safetensors", device="cpu")


def load_all(path):
    with safe_open(path, "np") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


# -- files of released versions are read for ever -----------------------------------------------------------------

ARCHIVED_X = np.array([[1, 0], [0, 1], [-1, -1], [0.5, 0.5]], np.float32)


def write_archive(path):
    """How tests/archives/model-1.0.safetensors was made (featurepipe 0.1.0); it is never written again."""
    estimator = LogisticRegression(C=0.5)
    estimator.classes_ = np.array(["ant", "bee", "ćma"])
    estimator.coef_ = np.array([[2.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
    estimator.intercept_ = np.array([0.0, 0.5, 0.25])
    pixels = backbones.Pixels()
    model = models.Model(
        kind="logistic",
        estimator=estimator,
        temperature=1.0,
        backbone={"name": "pixels", "fingerprint": pixels.fingerprint, "spec": pixels.spec, "source": pixels.source},
        seen=models.digest_keys(["ab" * 32]),
        card=Card(selection=Selection.made("given", 0.5, [])),
    )
    models.save(path, model)


def test_the_archive_of_version_1_0_predicts_the_same_for_ever():
    model = models.load(ARCHIVES / "model-1.0.safetensors")
    assert model.estimator.predict(ARCHIVED_X).tolist() == ["ant", "bee", "ćma", "bee"]
    expected = [
        [0.776966, 0.173364, 0.049670],
        [0.073234, 0.892173, 0.034593],
        [0.013745, 0.022662, 0.963594],
        [0.354296, 0.584136, 0.061567],
    ]
    np.testing.assert_allclose(model.predict_proba(ARCHIVED_X), expected, atol=1e-5)
    assert model.has_seen(["ab" * 32, "cd" * 32]).tolist() == [True, False]
    assert models.open_backbone(model, ARCHIVES / "model-1.0.safetensors").fingerprint == model.backbone["fingerprint"]


def write_knn_archive(path):
    """How tests/archives/model-1.1.safetensors was made (featurepipe 0.1.0); it is never written again."""
    rows = np.array([[1, 0], [0.6, 0.8], [0, 1], [-0.6, -0.8]], np.float32)
    estimator = knn_classifier(np.array(["ant", "bee", "ćma"]), rows, np.array([0, 0, 1, 2]), 3)
    pixels = backbones.Pixels()
    model = models.Model(
        kind="knn",
        estimator=estimator,
        temperature=0.5,
        backbone={"name": "pixels", "fingerprint": pixels.fingerprint, "spec": pixels.spec, "source": pixels.source},
        seen=models.digest_keys(["ab" * 32]),
        card=Card(selection=Selection.made("given", 3, [])),
    )
    models.save(path, model)


def test_the_archive_of_version_1_1_predicts_the_same_for_ever():
    model = models.load(ARCHIVES / "model-1.1.safetensors")
    assert model.estimator.predict(ARCHIVED_X).tolist() == ["ant", "bee", "ćma", "ant"]
    similar = np.array([[1.0, 0.6, 0.0], [0.0, 0.8, 1.0]])  # of rows 0 to 2 with the first two queries
    votes = np.exp(similar / 0.07)
    votes = votes / votes.sum(axis=1, keepdims=True)
    votes = np.stack([votes[:, 0] + votes[:, 1], votes[:, 2], np.zeros(2)], axis=1)
    expected = (3 * votes + 1 / 3) ** 2  # one shared vote; temperature 1/2
    np.testing.assert_allclose(
        model.predict_proba(ARCHIVED_X)[:2], expected / expected.sum(axis=1, keepdims=True), rtol=1e-5
    )


def write_backbone_archive(path):
    """How tests/archives/model-1.1-backbone.safetensors was made, before 1.2; it is never written again."""
    made = backbones.create("test_resnet", **TINY, arguments={"channels": [4] * 4, "stem_width": 4}, precision="fp32")
    estimator = LogisticRegression(C=0.5)
    estimator.classes_ = np.array(["ant", "bee", "ćma"])
    estimator.coef_ = (np.arange(12).reshape(3, 4) % 7 - 3) / 4
    estimator.intercept_ = np.array([0.0, 0.5, 0.25])
    model = models.Model(
        kind="logistic",
        estimator=estimator,
        temperature=0.5,
        backbone={"name": "archived", "fingerprint": made.fingerprint, "spec": made.spec, "source": made.source},
        seen=models.digest_keys(["ab" * 32]),
        card=Card(selection=Selection.made("given", 0.5, [])),
    )
    models.save(path, model, module=made.module)


def test_the_archive_with_a_backbone_predicts_the_same_to_the_bit_for_ever():
    path = ARCHIVES / "model-1.1-backbone.safetensors"
    model = models.load(path)
    X = (np.arange(16).reshape(4, 4) % 5 - 2).astype(np.float32) / 2  # with weights in quarters: every sum is exact
    expected = [[1.0, -0.375, 1.0], [-0.125, -0.125, 0.0], [-0.625, 0.75, -0.375], [-0.5, 2.25, -0.125]]
    assert model.estimator.decision_function(X).tolist() == expected
    np.testing.assert_array_equal(model.predict_proba(X), probes.metrics.softmax(np.array(expected), 0.5))
    assert model.backbone["fingerprint"] == "be2f0310587de99c1d34fa4a88d77a2a6a253afc9b95aa640f07d3b88f6df117"
    opened = models.open_backbone(model, path, device="cpu")
    assert (opened.fingerprint, opened.name) == (model.backbone["fingerprint"], "archived")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    np.testing.assert_allclose(opened.embed(pixels)[:, 0], [0.06060862, 0.06230334], atol=1e-6)


def test_an_archive_written_again_in_this_version_predicts_the_same_to_the_bit(tmp_path):
    write_backbone_archive(tmp_path / "m.safetensors")
    model, again = models.load(ARCHIVES / "model-1.1-backbone.safetensors"), models.load(tmp_path / "m.safetensors")
    X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.backbone["spec"]["architecture"] == model.backbone["spec"]["architecture"]


# -- nothing of a file changes unnoticed --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a model file that carries its backbone, and the model that was read of it."""
    path = tmp_path_factory.mktemp("whole") / "m.safetensors"
    write_backbone_archive(path)
    return path.read_bytes(), models.load(path)


def content(path):
    """All that readers take from a model file, or what they raise of one that is damaged."""
    model, described = models.load(path), backbones.carried_backbone(path)
    weights = read_weights(path)[0].values
    head = [tensor.tobytes() for tensor in models.files.HEADS[model.kind].dump(model.estimator)]
    parts = (model.kind, model.classes.tolist(), model.temperature, model.backbone, model.seen.tolist(), model.card)
    return parts, head, described, {key: value.numpy().tobytes() for key, value in weights.items()}


def assert_noticed(path, data, expected):
    path.write_bytes(data)
    try:
        found = content(path)
    except (ModelFileError, BackboneError, FormatTooNew) as error:
        assert str(path) in str(error), error  # noqa: PT017
    else:
        assert found == expected


def test_every_changed_bit_is_noticed_or_harmless(whole, tmp_path):
    data, _ = whole
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    expected, rng = content(path), np.random.default_rng(0)
    for place in rng.choice(len(data), 500, replace=False):
        changed = bytearray(data)
        changed[place] ^= 1 << rng.integers(8)
        assert_noticed(path, changed, expected)


def test_every_zeroed_block_is_noticed_or_harmless(whole, tmp_path):
    data, _ = whole
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    expected = content(path)
    for place in range(0, len(data), 256):
        assert_noticed(path, data[:place] + bytes(256)[: len(data) - place] + data[place + 256 :], expected)


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d + d, lambda d: d[: len(d) // 2]])
def test_a_file_of_another_length_is_refused(whole, tmp_path, change):
    path = tmp_path / "m.safetensors"
    path.write_bytes(change(whole[0]))
    with pytest.raises(ModelFileError, match=r"m\.safetensors cannot be read as a model"):
        models.load(path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"change": lambda h: {**h, "classes": ["ant", "cat", "bee"]}}, "its content does not match its digest"),
        ({"change": lambda h: {**h, "temperature": 2.0}}, "its content does not match its digest"),
        ({"change": lambda h: {**h, "card": {**h["card"], "extra": 2}}}, "its content does not match its digest"),
        ({"change": lambda h: {k: v for k, v in h.items() if k != "sha256"}}, "its content does not match its digest"),
        ({"seen": np.zeros(3, np.uint64)}, "its content does not match its digest"),
        ({"other": np.zeros(3)}, "its content does not match its digest"),
        ({"other": np.zeros(3), "sign": True}, "it holds more than a model file should"),
    ],
)
def test_what_is_not_what_was_written_is_refused(file, damage, says):
    rewrite(file, **{"sign": False, **damage})
    with pytest.raises(ModelFileError, match=rf"m\.safetensors: {says}"):
        models.load(file)


def test_other_metadata_is_refused(file):
    with safe_open(file, "np") as opened:
        metadata = opened.metadata() | {"more": "text"}
    save_file(load_all(file), file, metadata=metadata)
    with pytest.raises(ModelFileError, match="it holds more than a model file should"):
        models.load(file)


@pytest.mark.parametrize("arguments", [None, {"drop_rate": 0.0}])
def test_a_damaged_backbone_is_noticed_by_whoever_uses_it(whole, tmp_path, arguments):
    path = tmp_path / "m.safetensors"
    path.write_bytes(whole[0])
    counter = next(key for key in load_all(path) if key.endswith("num_batches_tracked"))
    replace_tensor(path, counter, np.array(7))
    assert models.load(path).kind == "logistic"  # of which a head is all that is wanted
    with pytest.raises(BackboneError, match=r"m\.safetensors.*backbone does not match its digest"):
        backbones.create(path, arguments=arguments, device="cpu")


def replace_tensor(path, name, tensor):
    with safe_open(path, "np") as opened:
        metadata = opened.metadata()
    save_file({**load_all(path), name: tensor}, path, metadata=metadata)


def test_the_archive_is_what_its_function_writes(tmp_path):
    write_archive(tmp_path / "again.safetensors")
    again, archived = models.load(tmp_path / "again.safetensors"), models.load(ARCHIVES / "model-1.0.safetensors")
    np.testing.assert_array_equal(again.estimator.coef_, archived.estimator.coef_)
    assert again.card == archived.card


def test_a_changed_weight_is_noticed(tmp_path):
    write_archive(tmp_path / "model.safetensors")
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    place = data.index(np.array([0.0, 0.5, 0.25]).tobytes())
    data[place + 14] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelFileError, match="its content does not match its digest"):
        models.load(tmp_path / "model.safetensors")
