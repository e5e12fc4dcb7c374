"""The scikit-learn faces: scikit-learn's own checks, every kind of image, stores, pickles."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageOps
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from featurepipe import (
    FeatureExtractor,
    FineTuner,
    TransferClassifier,
    advice,
    backbones,
    extract,
    finetuning,
    listeners,
    models,
    predict,
    probe,
    probes,
)
from featurepipe.cards import Card, Selection
from featurepipe.cli import main
from featurepipe.errors import (
    FinetuningError,
    FingerprintMismatch,
    ImageError,
    ModelFileError,
    OutOfMemory,
    ProbeError,
    TrainingDiverged,
    WeightsUnavailable,
)
from featurepipe.stores import Store

TINY = {"random_weights": True, "image_transform": {"input_size": (3, 32, 32)}, "device": "cpu"}


def network(**options):
    return FeatureExtractor("test_resnet", **TINY, **options)


# -- scikit-learn's own checks ------------------------------------------------------------------------------------


class RowsAsImages:
    """Lets scikit-learn's checks, which feed 2-D float matrices, reach an estimator of images.

    A row becomes an image of height 1 and is checked as scikit-learn checks rows; all else is the estimator's own.
    """

    def images(self, X, *, reset):
        if not reset:
            check_is_fitted(self)
        X = validate_data(self, X, reset=reset)  # (n, D)
        return np.clip(X * 24 + 128, 0, 255).round().astype(np.uint8)[:, None, :, None]  # (n, 1, D, 1)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = True, False
        return tags


class RowExtractor(RowsAsImages, FeatureExtractor):
    def fit(self, X, y=None):
        return super().fit(self.images(X, reset=True), y)

    def transform(self, X):
        return super().transform(self.images(X, reset=False))


class RowClassifier(RowsAsImages, TransferClassifier):
    def fit(self, X, y):
        return super().fit(self.images(X, reset=True), y)

    def predict_proba(self, X):
        return super().predict_proba(self.images(X, reset=False))

    def decision_function(self, X):
        return super().decision_function(self.images(X, reset=False))


@pytest.mark.slow
@parametrize_with_checks(
    [RowExtractor("pixels", workers=1), RowClassifier("pixels", kind="ridge", value=1.0)],
    expected_failed_checks=lambda estimator: {},  # none
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# -- conventions --------------------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 20, 24, 3), np.uint8)
LABELS = [0, 1] * 4


@pytest.mark.parametrize("make", [FeatureExtractor, TransferClassifier])
def test_init_only_stores(make):
    estimator = make("no_such_backbone", weights="nowhere.safetensors")
    assert estimator.get_params(deep=False)["backbone"] == "no_such_backbone"
    assert vars(estimator).keys() == estimator.get_params(deep=False).keys()
    copy = clone(estimator.set_params(store="s"))
    assert copy.get_params() == estimator.get_params()
    assert copy.store == "s"


@pytest.mark.slow
def test_the_probes_device_reaches_the_probe(monkeypatch):
    used, fit = [], probes.fit
    monkeypatch.setattr(probes, "fit", lambda *a, **options: used.append(options["device"]) or fit(*a, **options))
    here, there = (TransferClassifier("pixels", probe_device=at).fit(IMAGES, LABELS) for at in ("cpu", "cpu:0"))
    assert used == ["cpu", "cpu:0"]
    np.testing.assert_array_equal(there.predict(IMAGES), here.predict(IMAGES))
    with pytest.raises(ProbeError, match="device 'abacus' cannot be used here"):
        TransferClassifier("pixels", probe_device="abacus").fit(IMAGES, LABELS)


def test_clones_and_nested_parameters():
    model = TransferClassifier(network(seed=3), kind="ridge")
    assert clone(model).backbone.seed == 3
    assert clone(model).backbone is not model.backbone
    assert model.set_params(backbone__seed=4).get_params()["backbone__seed"] == 4


@pytest.mark.parametrize(
    "use",
    [
        lambda: FeatureExtractor("pixels").get_feature_names_out(),
        lambda: TransferClassifier("pixels").predict(IMAGES),
        lambda: TransferClassifier("pixels").predict_proba(IMAGES),
        lambda: TransferClassifier("pixels").score(IMAGES, LABELS),
        lambda: TransferClassifier("pixels").save("m.safetensors"),
    ],
)
def test_not_fitted(use):
    with pytest.raises(NotFittedError):
        use()


def test_images_can_be_embedded_without_a_fit_as_nothing_is_learned():
    extractor = network()
    before = vars(extractor).copy()
    np.testing.assert_array_equal(extractor.transform(IMAGES), network().fit_transform(IMAGES))
    assert vars(extractor) == before


def test_features_have_names_and_a_width():
    extractor = network().fit(IMAGES)
    names = extractor.get_feature_names_out()
    assert len(names) == extractor.n_features_out_ == extractor.transform(IMAGES).shape[1]
    assert (names[0], names[-1]) == ("featureextractor0", f"featureextractor{len(names) - 1}")


def test_set_output():
    extractor = FeatureExtractor("pixels").set_output(transform="default")
    assert isinstance(extractor.fit_transform(IMAGES), np.ndarray)
    pandas = pytest.importorskip("pandas")
    table = extractor.set_output(transform="pandas").fit_transform(IMAGES)
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == list(extractor.get_feature_names_out())


def test_fit_learns_nothing_from_the_images():
    a, b = network().fit(IMAGES[:2]), network().fit(IMAGES[5:])
    assert a.fingerprint_ == b.fingerprint_
    np.testing.assert_array_equal(a.transform(IMAGES), b.transform(IMAGES))


@pytest.mark.slow
def test_in_a_pipeline_and_a_grid_search():
    dark = IMAGES // 2
    X, y = np.concatenate([dark, 255 - dark]), ["dark"] * 8 + ["bright"] * 8
    pipeline = make_pipeline(FeatureExtractor("pixels"), LogisticRegression())
    assert cross_val_score(pipeline, X, y, cv=2).mean() == 1
    grid = {"kind": ["logistic", "ridge"], "value": [0.1, 1.0]}
    search = GridSearchCV(TransferClassifier("pixels"), grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_score_ == 1
    assert search.best_estimator_.predict(X).tolist() == y


def test_changing_parameters_after_fit_is_noticed_where_it_would_mix_backbones():
    fitted = pickle.loads(pickle.dumps(network().fit(IMAGES)))
    with pytest.raises(FingerprintMismatch, match="fit it again"):
        fitted.set_params(seed=1).transform(IMAGES)
    with pytest.raises(FingerprintMismatch, match="fit it again"):  # nor on a second try
        fitted.transform(IMAGES)
    assert fitted.fit(IMAGES).transform(IMAGES).shape[0] == 8


@pytest.mark.parametrize(("here", "there"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_a_pickle_keeps_its_precision_where_auto_would_choose_another(machine, here, there):
    backbones.forget()
    machine(bf16=here == "bf16")
    extractor = network().fit(IMAGES)
    model = TransferClassifier(network(), value=1.0).fit(IMAGES, LABELS)
    assert (extractor.precision, extractor.precision_) == ("auto", here)
    travelled = pickle.dumps((extractor, model))
    machine(bf16=there == "bf16")  # another machine
    backbones.forget()
    new_extractor, new_model = pickle.loads(travelled)
    for old, new in ((extractor, new_extractor), (model.extractor_, new_model.extractor_)):
        np.testing.assert_allclose(new.transform(IMAGES), old.transform(IMAGES), atol=1e-6)
        assert new.network().spec["precision"] == here
    assert extractor.fit(IMAGES).precision_ == there
    with pytest.raises(FingerprintMismatch, match="fit it again"):
        pickle.loads(travelled)[0].set_params(precision=there).transform(IMAGES)
    backbones.forget()


@pytest.mark.parametrize("kind", ["logistic", "knn"])
def test_pickles_are_small_and_work(kind):
    extractor = network().fit(IMAGES)
    model = TransferClassifier(network(), kind=kind, value=1.0).fit(IMAGES, LABELS)
    weights = sum(tensor.numel() * 4 for tensor in extractor.network().module.state_dict().values())
    for estimator, use in ((extractor, "transform"), (model, "predict_proba")):
        data = pickle.dumps(estimator)
        assert len(data) < weights / 20
        np.testing.assert_allclose(getattr(pickle.loads(data), use)(IMAGES), getattr(estimator, use)(IMAGES), atol=1e-6)


# -- inputs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """PNG files of one size, RGB and greyscale, and their PIL images."""
    images = [Image.fromarray(array) for array in IMAGES[:3]] + [Image.fromarray(IMAGES[3, :, :, 0])]
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    return paths, images


def test_one_image_has_one_embedding_however_it_comes(files):
    paths, images = files
    extractor = network().fit(paths)
    expected = extractor.transform(paths)
    assert expected.dtype == np.float32
    grey = [*IMAGES[:3], IMAGES[3, :, :, 0]]
    ways = [list(map(str, paths)), np.array(list(map(str, paths))), np.array(paths, object), tuple(paths), images, grey]
    ways += [[paths[0], images[1], grey[2], str(paths[3])], [*IMAGES[:3], IMAGES[3, :, :, :1]]]
    for X in ways:
        np.testing.assert_allclose(extractor.transform(X), expected, atol=1e-5)
    np.testing.assert_allclose(extractor.transform(IMAGES[:3]), expected[:3], atol=1e-5)
    np.testing.assert_allclose(extractor.transform(IMAGES[3:4, :, :, 0]), expected[3:], atol=1e-5)
    np.testing.assert_allclose(extractor.transform([paths[2]]), expected[2:3], atol=1e-5)


def test_rows_stay_aligned_with_copies_and_different_sizes():
    mixed = [IMAGES[0], IMAGES[1, :9, :7], IMAGES[0], Image.fromarray(IMAGES[2]), IMAGES[1, :9, :7]]
    vectors = network(batch_size=2).fit_transform(mixed)
    assert len(vectors) == 5
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_array_equal(vectors[1], vectors[4])
    assert not np.allclose(vectors[0], vectors[1])


def test_same_pixels_of_another_shape_are_another_image():
    flat = np.arange(24, dtype=np.uint8)
    vectors = FeatureExtractor("pixels").fit_transform([flat.reshape(4, 6), flat.reshape(6, 4)])
    assert not np.array_equal(vectors[0], vectors[1])


def test_exif_orientation_counts_for_pil_images_as_for_files(tmp_path):
    image = Image.fromarray(IMAGES[0])
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        vectors = FeatureExtractor("pixels").fit_transform(
            [tmp_path / "turned.png", opened, image.rotate(-90, expand=True)]
        )
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_array_equal(vectors[0], vectors[2])


def test_a_jpeg_that_pillow_has_opened_is_turned_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IMAGES[0]).save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as opened:
        vectors = FeatureExtractor("pixels").fit_transform([opened, ImageOps.exif_transpose(opened)])
    np.testing.assert_array_equal(vectors[0], vectors[1])


@pytest.mark.parametrize("content", [b"", b"text", None])
@pytest.mark.parametrize("store", [False, True])
def test_a_bad_image_is_named(files, tmp_path, content, store):
    paths, _ = files
    bad = tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(content)
    extractor = FeatureExtractor("pixels", store=tmp_path / "s" if store else None).fit(paths)
    with pytest.raises(ImageError, match=r"image 2 .*bad\.png"):
        extractor.transform([paths[0], paths[1], bad, paths[2]])
    assert extractor.transform(paths).shape == (4, 3072)


def test_labels_must_match_and_classify(files):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        TransferClassifier("pixels").fit(IMAGES, LABELS[:7])
    with pytest.raises(ValueError, match="continuous"):
        TransferClassifier("pixels").fit(IMAGES, np.linspace(0, 1, 8))
    with pytest.raises(ProbeError, match=r"only one class \(3\)"):
        TransferClassifier("pixels").fit(IMAGES, [3] * 8)
    with pytest.raises(ProbeError, match="'tree' is unknown"):
        TransferClassifier("pixels", kind="tree").fit(IMAGES, LABELS)


def test_an_extractor_brings_its_own_weights_and_store():
    for name in ("weights", "store"):
        options = {name: "s"}
        with pytest.raises(
            ValueError, match=f"the backbone is a FeatureExtractor with its own {name}; leave out {name}"
        ):
            TransferClassifier(network(), **options).fit(IMAGES, LABELS)


@pytest.mark.parametrize("names", [(0, 1), (7, -3), ("b", "a"), (True, False)])
def test_labels_keep_their_type(names):
    y = [names[i] for i in LABELS]
    model = TransferClassifier("pixels", value=1.0).fit(IMAGES, y)
    assert model.classes_.tolist() == sorted(names)
    assert {type(label) for label in model.predict(IMAGES).tolist()} == {type(names[0])}
    assert model.predict(IMAGES).tolist() == y
    assert model.score(IMAGES, y) == 1
    np.testing.assert_allclose(model.predict_proba(IMAGES).sum(1), 1)


def test_given_values_and_seeds_reach_the_probe():
    assert TransferClassifier("pixels", value=0.3).fit(IMAGES, LABELS).probe_.estimator.C == 0.3
    ridge = TransferClassifier("pixels", kind="ridge", value=0.3).fit(IMAGES, LABELS)
    assert ridge.probe_.estimator.alpha == 0.3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "logisitc"}, "probe 'logisitc' is unknown"),
        ({"kind": "ridge", "probe_device": "cuda"}, "a ridge probe is fitted on the cpu"),
        ({"probe_device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"value": -1.0}, "C must be above 0"),
        ({"kind": "centroid", "value": 1.0}, "no strength to set"),
        ({"kind": "knn", "value": 99}, "from 1 to the 8 training samples"),
        ({"strategy": "best"}, "strategy 'best' is unknown"),
    ],
)
def test_parameters_are_checked_before_anything_is_embedded(tmp_path, options, says):
    with pytest.raises(ProbeError, match=says):
        TransferClassifier("pixels", store=tmp_path / "s", **options).fit(IMAGES, LABELS)
    assert not (tmp_path / "s").exists()


# -- stores -------------------------------------------------------------------------------------------------------


@pytest.fixture
def embedded(monkeypatch, machine):
    """Counts the images that go through a network; none does to choose a precision."""
    backbones.forget()  # what a machine with bf16 has made
    machine(bf16=False)
    from featurepipe.backbones import Backbone

    counts = []
    embed = Backbone.embed
    monkeypatch.setattr(Backbone, "embed", lambda self, pixels: counts.append(len(pixels)) or embed(self, pixels))
    return counts


def test_a_store_computes_nothing_twice(files, tmp_path, embedded):
    paths, images = files
    first = network(store=tmp_path / "s").fit_transform(paths)
    assert sum(embedded) == 4
    np.testing.assert_array_equal(network(store=str(tmp_path / "s")).fit_transform(paths[::-1]), first[::-1])
    assert sum(embedded) == 4
    plain = network().fit_transform(paths)
    np.testing.assert_allclose(first, plain, atol=1e-6)
    network(store=tmp_path / "s").fit_transform([*images, *images])  # pixels have digests of their own
    assert sum(embedded) == 4 + 4 + 4
    network(store=tmp_path / "s").fit_transform([*paths, *IMAGES[:3]])
    assert sum(embedded) == 12


def test_other_settings_never_share_vectors(files, tmp_path, embedded):
    paths, _ = files
    a = network(store=tmp_path / "s").fit_transform(paths)
    b = network(store=tmp_path / "s", seed=1).fit_transform(paths)
    assert sum(embedded) == 8
    assert not np.allclose(a, b)
    assert len(Store.open(tmp_path / "s").entries()) == 2


def test_the_command_lines_store_serves_as_well(photos, tmp_path, embedded):
    data = photos(per_class=4)
    transform = TINY["image_transform"]
    extract(data, tmp_path / "s", backbone="test_resnet", random_weights=True, transform=transform, device="cpu")
    assert sum(embedded) == 8
    paths = sorted(data.rglob("*.*"))
    network(store=tmp_path / "s").fit_transform(paths)
    assert sum(embedded) == 8
    assert probe(tmp_path / "s", kind="ridge", baselines="none")["test"]["n"] == 2  # the manifest is untouched


def test_a_held_store_can_be_read_and_is_waited_for_to_be_written(files, tmp_path):
    paths, _ = files
    extractor = FeatureExtractor("pixels", store=tmp_path / "s").fit(paths)
    first = extractor.transform(paths)
    store = Store.open(tmp_path / "s")
    with ThreadPoolExecutor(1) as pool:
        with store.lock():
            np.testing.assert_array_equal(extractor.transform(paths), first)
            waiting = pool.submit(extractor.transform, IMAGES)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
        np.testing.assert_array_equal(waiting.result(timeout=30), FeatureExtractor("pixels").fit_transform(IMAGES))


def test_parallel_cross_validation_shares_a_store(files, tmp_path):
    paths, y = files[0], [0, 1, 0, 1]
    pipeline = make_pipeline(FeatureExtractor("pixels", store=tmp_path / "s"), LogisticRegression())
    alone = cross_val_score(make_pipeline(FeatureExtractor("pixels"), LogisticRegression()), paths, y, cv=2)
    with joblib.parallel_config("threading"):
        assert cross_val_score(pipeline, paths, y, cv=2, n_jobs=2).tolist() == alone.tolist()


# -- model files --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "value"), [("logistic", 0.1), ("svm", 0.1), ("centroid", None), ("knn", 3)])
@pytest.mark.parametrize("named", [str, int])
def test_a_saved_model_predicts_the_same_from_its_file(photos, tmp_path, kind, value, named):
    data = photos(("0", "1", "2"), 4)
    paths = sorted(data.rglob("*.*"))
    y = [named(path.parent.name) for path in paths]
    model = TransferClassifier(network(seed=2), kind=kind, value=value).fit(paths, y)
    model.save(tmp_path / "m.safetensors")
    predict(tmp_path / "m.safetensors", data, tmp_path / "p.csv", device="cpu")
    rows = (tmp_path / "p.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == [str(label) for label in model.predict(paths)]
    np.testing.assert_allclose([float(row.split(",")[2]) for row in rows], model.predict_proba(paths).max(1), atol=1e-5)
    loaded = models.load(tmp_path / "m.safetensors")
    assert loaded.classes.tolist() == model.classes_.tolist()
    assert len(loaded.seen) == 12


def labelled_images(count=24, seed=0):
    """Bright and dark noise, so that a probe can learn it."""
    rng = np.random.default_rng(seed)
    labels = np.array(["bright", "dark"] * (count // 2))
    images = rng.integers(0, 128, (count, 24, 24, 3), np.uint8)
    images[labels == "bright"] += 127
    return images, labels


@pytest.fixture(scope="module")
def tuner():
    X, y = labelled_images()
    return FineTuner(tune="last-1", epochs=2, recipe={"lr": 1e-3}).fit(X, y)


# -- opened backbones ----------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """Counts the networks that are made; none of before is left."""
    backbones.forget()
    calls, make = [], backbones.create
    monkeypatch.setattr(backbones.shelf.SHELF, "_create", lambda *a, **options: calls.append(a) or make(*a, **options))
    yield calls
    backbones.forget()


@pytest.mark.slow
def test_many_fits_make_one_network(opened):
    X, y = np.concatenate([IMAGES // 2, 255 - IMAGES // 2]), ["dark"] * 8 + ["bright"] * 8
    cross_val_score(make_pipeline(network(), LogisticRegression()), X, y, cv=4)
    GridSearchCV(TransferClassifier(network()), {"value": [0.1, 1.0]}, cv=2, error_score="raise").fit(X, y)
    assert len(opened) == 1


@pytest.mark.slow
def test_none_is_made_where_all_rows_are_in_the_store(opened, tmp_path, monkeypatch):
    store = tmp_path / "s"
    model = TransferClassifier(network(store=store), value=1.0).fit(IMAGES, LABELS)
    wanted = model.predict_proba(IMAGES)
    travelled = pickle.dumps(model)
    for seed in range(1, 4):  # more than are kept
        network(seed=seed).fit(IMAGES)
    before = len(opened)
    again = TransferClassifier(network(store=store), value=1.0).fit(IMAGES, LABELS)
    np.testing.assert_array_equal(again.predict_proba(IMAGES), wanted)
    again.save(tmp_path / "m.safetensors")
    assert len(opened) == before
    backbones.forget()  # as in another process
    np.testing.assert_array_equal(pickle.loads(travelled).predict_proba(IMAGES), wanted)
    assert len(opened) == before
    pickle.loads(travelled).predict_proba(255 - IMAGES)
    assert len(opened) == before + 1


@pytest.mark.slow
def test_tuning_leaves_the_kept_network_as_it_was(monkeypatch):
    X, y = labelled_images()
    monkeypatch.setattr(finetuning, "pays", lambda *_: True)
    extractor = FeatureExtractor().fit(X)
    before, state = extractor.transform(X), extractor.network().module.state_dict()
    state = {key: value.clone() for key, value in state.items()}
    tuner = FineTuner(epochs=1, recipe={"lr": 1e-2, "augment": "none"}).fit(X, y)
    after = FeatureExtractor().fit(X)
    assert after.network() is extractor.network()
    assert tuner.promoted_
    assert tuner.backbone_.module is not after.network().module
    assert all(value.equal(state[key]) for key, value in after.network().module.state_dict().items())
    assert not any(parameter.requires_grad for parameter in after.network().module.parameters())
    np.testing.assert_array_equal(after.transform(X), before)


# -- what is shown -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "work",
    [
        lambda X, y, verbose: FeatureExtractor(verbose=verbose).fit_transform(X),
        lambda X, y, verbose: TransferClassifier(verbose=verbose).fit(X, y),
        lambda X, y, verbose: TransferClassifier(FeatureExtractor(), verbose=verbose).fit(X, y),
        lambda X, y, verbose: FineTuner(verbose=verbose, **OPTIONS).fit(X, y),
        lambda X, y, verbose: TransferClassifier().fit(X, y).promote(X, y, verbose=verbose, tune="last-1", epochs=1),
    ],
    ids=["extractor", "classifier", "classifier of an extractor", "tuner", "promote"],
)
def test_long_work_shows_a_bar_to_who_asks_for_it_and_none_to_a_pipe(work, capfd, monkeypatch):
    monkeypatch.setattr(listeners, "DELAY", 0.0)
    X, y = labelled_images()
    work(X, y, None)
    work(X, y, False)
    assert capfd.readouterr().err == ""
    work(X, y, True)
    assert "sample" in capfd.readouterr().err  # the bar's unit


@pytest.mark.slow
def test_a_tuner_that_is_verbose_tells_of_its_epochs(capfd):
    FineTuner(verbose=True, **OPTIONS).fit(*labelled_images())
    shown = capfd.readouterr()
    assert "epoch 1 of 1: training loss" in shown.err
    assert shown.out == ""


# -- model files ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["logistic", "ridge", "svm", "lda", "centroid", "knn", "mlp"])
def test_a_saved_classifier_loads_and_predicts_as_before(tmp_path, kind):
    X, y = labelled_images()
    model = TransferClassifier(network(layer="stage1", pooling="max"), kind=kind).fit(X, y)
    model.save(tmp_path / "m.safetensors")
    loaded = TransferClassifier.load(tmp_path / "m.safetensors")
    np.testing.assert_allclose(loaded.predict_proba(X), model.predict_proba(X), atol=1e-6)
    assert loaded.predict(X).tolist() == model.predict(X).tolist()
    assert (loaded.kind, loaded.value) == (kind, model.probe_.chosen)
    assert loaded.extractor_.fingerprint_ == model.extractor_.fingerprint_
    np.testing.assert_array_equal(clone(loaded).fit(X, y).predict(X), loaded.predict(X))
    travelled = pickle.loads(pickle.dumps(loaded))
    np.testing.assert_allclose(travelled.predict_proba(X), model.predict_proba(X), atol=1e-6)
    loaded.save(tmp_path / "again.safetensors")
    assert models.load(tmp_path / "again.safetensors").backbone == models.load(tmp_path / "m.safetensors").backbone


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [None, "pixels"])
def test_backbones_without_a_weights_file_of_ones_own_load_too(tmp_path, backbone):
    X, y = labelled_images()
    model = TransferClassifier(backbone, value=1.0).fit(X, y)
    model.save(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(TransferClassifier.load(tmp_path / "m.safetensors").predict(X), model.predict(X))


@pytest.mark.slow
def test_a_file_with_its_backbone_needs_no_other(tmp_path):
    X, y = labelled_images()
    weights = tmp_path / "w.safetensors"
    state = network().network().module.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, weights)
    size = {"image_transform": {"input_size": (3, 32, 32)}, "device": "cpu"}
    model = TransferClassifier(FeatureExtractor("test_resnet", weights=weights, **size), value=1.0).fit(X, y)
    model.save(tmp_path / "alone.safetensors", include_backbone=True)
    model.save(tmp_path / "head.safetensors")
    moved = weights.rename(tmp_path / "moved.safetensors")
    loaded = TransferClassifier.load(tmp_path / "alone.safetensors")
    np.testing.assert_allclose(loaded.predict_proba(X), model.predict_proba(X), atol=1e-6)
    with pytest.raises(WeightsUnavailable, match=r"w\.safetensors does not exist"):
        TransferClassifier.load(tmp_path / "head.safetensors")
    found = TransferClassifier.load(tmp_path / "head.safetensors", weights=moved)
    np.testing.assert_allclose(found.predict_proba(X), model.predict_proba(X), atol=1e-6)


@pytest.mark.slow
def test_a_tuned_network_loads_as_a_classifier(saved):
    data, tuner, path = saved(True)
    assert tuner.promoted_
    paths = sorted(data.rglob("*.*"))
    loaded = TransferClassifier.load(path)
    np.testing.assert_allclose(loaded.predict_proba(paths), tuner.predict_proba(paths), atol=1e-5)
    np.testing.assert_array_equal(loaded.seen_, np.unique(tuner.seen_))
    assert loaded.extractor_.fingerprint_ == tuner.backbone_.fingerprint


def test_what_no_classifier_can_be_made_of_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="does not exist"):
        TransferClassifier.load(tmp_path / "none.safetensors")
    X, y = labelled_images()
    features = FeatureExtractor("pixels").fit_transform(X)
    sets = probes.fit_labels(features, y)
    made = backbones.Pixels()
    spec = {"name": "pixels", "fingerprint": made.fingerprint, "spec": made.spec, "source": made.source}
    card = Card(selection=Selection.made("given", sets.chosen, []))
    models.save(
        tmp_path / "m.safetensors", models.Model(sets.kind, sets.estimator, 1.0, spec, np.zeros(0, np.uint64), card)
    )
    with pytest.raises(ModelFileError, match=r"a set of labels, .* use featurepipe\.predict"):
        TransferClassifier.load(tmp_path / "m.safetensors")


@pytest.mark.slow
def test_relative_places_stay_the_same_places_in_a_pickle(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    state = network().network().module.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, "w.safetensors")
    size = {"image_transform": {"input_size": (3, 32, 32)}, "device": "cpu"}
    extractor = FeatureExtractor("test_resnet", weights="w.safetensors", store="s", **size)
    model = TransferClassifier(extractor, value=1.0).fit(IMAGES, LABELS)
    travelled = pickle.dumps(model)
    assert model.extractor_.get_params()["weights"] == clone(model.extractor_).weights == "w.safetensors"
    assert model.extractor_.get_params()["store"] == "s"
    monkeypatch.chdir(tmp_path / "elsewhere")
    backbones.forget()
    loaded = pickle.loads(travelled)
    np.testing.assert_allclose(loaded.predict_proba(255 - IMAGES), model.predict_proba(255 - IMAGES), atol=1e-6)
    assert not list((tmp_path / "elsewhere").iterdir())
    with pytest.raises(WeightsUnavailable, match="does not exist"):  # a place that was set since is taken as it is
        pickle.loads(travelled).extractor_.set_params(weights="other.safetensors", store=None).transform(IMAGES)


# -- tuning --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fine_tuner_predicts_with_what_it_has_kept(tuner):
    X, y = labelled_images(seed=1)
    assert tuner.predict(X).tolist() == y.tolist()
    np.testing.assert_allclose(tuner.predict_proba(X).sum(axis=1), 1)
    assert [row["epoch"] for row in tuner.curve_] == [0, 1, 2]
    frozen = backbones.create()
    assert (tuner.backbone_.fingerprint != frozen.fingerprint) == tuner.promoted_


def test_a_fine_tuner_travels_by_pickle_and_by_model_file(tuner, tmp_path):
    X, _ = labelled_images(seed=1)
    proba = tuner.predict_proba(X)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(tuner)).predict_proba(X), proba, atol=1e-6)
    tuner.save(tmp_path / "tuned.safetensors")
    model = models.load(tmp_path / "tuned.safetensors")
    backbone = models.open_backbone(model, tmp_path / "tuned.safetensors")
    assert backbone.fingerprint == tuner.backbone_.fingerprint
    assert clone(tuner).get_params()["recipe"] == {"lr": 1e-3}


@pytest.mark.slow
@pytest.mark.parametrize("refit", [True, False])
def test_the_card_of_a_fine_tuner_says_on_how_many_images_it_was_trained_again(monkeypatch, tmp_path, refit):
    monkeypatch.setattr(finetuning, "pays", lambda *given: True)
    X, y = labelled_images()
    recipe = {"augment": "none", "lr": 1e-3, "refit": refit}
    tuner = FineTuner(network(), tune="last-1", epochs=2, recipe=recipe).fit(X, y)
    tuner.save(tmp_path / "tuned.safetensors")
    told = models.load(tmp_path / "tuned.safetensors").card["finetuning"]["refit"]
    assert told == ({"images": len(X), "epochs": 2, "stopped": "after all epochs"} if refit else None)


@pytest.mark.slow
def test_a_fitted_probe_can_be_promoted_and_stands_where_nothing_is_better():
    X, y = labelled_images()
    model = TransferClassifier().fit(X, y)
    promoted = model.promote(X, y, tune="last-1", epochs=1, lr=1e-12, augment="none")
    assert promoted.probe_ is model.probe_
    if not promoted.promoted_:
        np.testing.assert_array_equal(promoted.predict_proba(X), model.predict_proba(X))
    with pytest.raises(FinetuningError, match="in only one of"):
        model.promote(X, ["bright"] * len(X))
    with pytest.raises(FinetuningError, match="no linear head"):
        TransferClassifier(kind="knn").fit(X, y).promote(X, y)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"recipe": {"speed": 1}}, "has no 'speed'"),
        ({"tune": "half"}, "unknown"),
        ({"backbone": "pixels"}, "not a network"),
        (
            {"backbone": FeatureExtractor("test_resnet", layer="stage1", **TINY)},
            "penultimate embedding, not from stage1",
        ),
    ],
)
def test_a_fine_tuner_refuses_what_cannot_be_tuned(options, says):
    with pytest.raises(FinetuningError, match=says):
        FineTuner(**options).fit(*labelled_images())


def test_a_probe_of_a_stage_is_not_promoted():
    X, y = labelled_images()
    with pytest.raises(FinetuningError, match="penultimate embedding, not from stage1"):
        TransferClassifier(network(layer="stage1")).fit(X, y).promote(X, y)


OPTIONS = {"tune": "last-1", "epochs": 1, "recipe": {"augment": "none"}}


@pytest.fixture
def promotions(monkeypatch):
    """Hears what is promoted; what comes of it may be changed, and something be done right after."""
    heard, promote = [], finetuning.promote

    def prepare(after=lambda validation: None, **outcome):
        def promoted(backbone, head, train, validation, recipe, **options):
            heard.append((head, validation))
            made = promote(backbone, head, train, validation, recipe, **options)
            after(validation)
            return replace(made, outcome=replace(made.outcome, **outcome))

        monkeypatch.setattr(finetuning, "promote", promoted)
        return heard

    return prepare


def noisy(folder):
    """Files and their labels, some of which are wrong."""
    paths = np.array(sorted(folder.rglob("*.*")), object)
    y = np.array([path.parent.name for path in paths])
    y[::5] = y[-1]
    return paths, y


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_tuning_has_to_beat_the_probe_at_its_own_strength(photos, monkeypatch, promotions, kept):
    """On the images that are held back, of which neither has learned."""
    paths, y = noisy(photos(per_class=30))
    heard, compared = promotions(), []
    monkeypatch.setattr(finetuning, "gentle_strength", lambda probe: probe.chosen / 100)
    monkeypatch.setattr(finetuning, "pays", lambda *given: compared.append(given[:2]) or kept)
    recipe = {"augment": "none", "lr": 2e-2, "refit": False}
    tuner = FineTuner(network(), tune="last-1", epochs=2, recipe=recipe).fit(paths, y)
    ((head, validation),) = heard
    assert head.strength == tuner.probe_.chosen / 100
    out = np.isin(paths.astype(str), [one.place for one in validation.images])
    assert out.sum() == tuner.curve_[0]["n"] > 0
    features = network().fit_transform(paths)
    alone = probes.fit("logistic", features[~out], y[~out], value=tuner.probe_.chosen).estimator
    ((probe_right, right),) = compared
    assert probe_right.tolist() == (alone.predict(features[out]) == y[out]).tolist()
    assert 0 < probe_right.sum() < len(probe_right) == len(right)
    assert tuner.promoted_ is kept
    assert (tuner.estimator_ is tuner.probe_.estimator) is not kept
    if kept:
        assert right.tolist() == (tuner.predict(paths[out]) == y[out]).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [2, None])
def test_images_that_go_while_a_network_is_tuned_are_not_compared(photos, monkeypatch, promotions, lost):
    paths, y = noisy(photos(per_class=30))
    compared = []
    heard = promotions(after=lambda held: [Path(one.place).write_bytes(b"") for one in held.images[:lost]])
    monkeypatch.setattr(finetuning, "pays", lambda *given: compared.append(given[:2]) or True)
    recipe = {"augment": "none", "refit": False}
    tuner = FineTuner(network(), **{**OPTIONS, "recipe": recipe}).fit(paths, y)
    ((_, validation),) = heard
    left = [] if lost is None else validation.images[lost:]
    assert tuner.promoted_ is (lost is not None)  # with nothing to compare on, the probe stays
    assert [len(right) for pair in compared for right in pair] == [len(left)] * 2 * len(compared)
    if lost is not None:
        ((_, right),) = compared
        wanted = y[[paths.astype(str).tolist().index(one.place) for one in left]]
        assert right.tolist() == (tuner.predict([one.place for one in left]) == wanted).tolist()


@pytest.mark.slow
def test_what_is_beaten_is_the_probe_without_the_rows_that_are_held_back(monkeypatch):
    X, y = labelled_images()
    heads, features = [], []
    monkeypatch.setattr(finetuning.heads, "calibrated_figures", spied(finetuning.heads.calibrated_figures, heads))
    monkeypatch.setattr(probes, "fit", spied(probes.fit, features))
    tuner = FineTuner(**OPTIONS).fit(X, y)
    held = {row.tobytes() for row in heads[0][1]}
    assert len(held) == tuner.curve_[0]["n"] > 0
    assert all(not held & {row.tobytes() for row in call[1]} for call in features[1:])  # the first is of all


def spied(function, calls):
    def spy(*given, **options):
        calls.append(given)
        return function(*given, **options)

    return spy


@pytest.mark.slow
def test_a_fine_tuner_starts_from_a_random_head_if_it_is_told_to(promotions):
    heard = promotions()
    options = {**OPTIONS, "recipe": {"augment": "none", "head": "random", "seed": 5}}
    FineTuner(**options).fit(*labelled_images())
    head, _ = heard[0]
    weight, bias = finetuning.random_head(*head.weight.shape, 5)
    np.testing.assert_array_equal(head.weight, weight)
    np.testing.assert_array_equal(head.bias, bias)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ended", "raised"),
    [
        ({"stopped": finetuning.FAILED, "error": TrainingDiverged("the loss is not finite")}, TrainingDiverged),
        ({"stopped": finetuning.FAILED, "error": OutOfMemory("no memory")}, OutOfMemory),
        ({"stopped": finetuning.INTERRUPTED}, KeyboardInterrupt),
    ],
)
def test_what_was_best_before_an_error_or_an_interrupt_is_kept(monkeypatch, promotions, ended, raised):
    X, y = labelled_images()
    monkeypatch.setattr(finetuning, "pays", lambda *_: True)
    promotions(**ended)
    tuner = FineTuner(**OPTIONS)
    with pytest.raises(raised):
        tuner.fit(X, y)
    assert (tuner.promoted_, tuner.stopped_) == (True, ended["stopped"])
    assert tuner.predict(X).shape == y.shape


@pytest.mark.slow
def test_a_network_that_is_kept_learns_from_the_held_back_images_too(monkeypatch):
    X, y = labelled_images()
    promote, learned, made = finetuning.promote, [], []

    def spy(backbone, head, train, validation, recipe, **options):
        learned.append((len(train), recipe.epochs))
        made.append(promote(backbone, head, train, validation, recipe, **options))
        return made[-1]

    monkeypatch.setattr(finetuning, "promote", spy)
    monkeypatch.setattr(finetuning, "pays", lambda *_: True)
    tuner = FineTuner(**OPTIONS).fit(X, y)
    assert learned == [(len(X) - tuner.curve_[0]["n"], 1), (len(X), 1)]
    first, again = made
    assert tuner.backbone_.fingerprint == again.backbone.fingerprint != first.backbone.fingerprint
    assert (tuner.curve_, tuner.temperature_) == (first.outcome.curve, first.temperature)


@pytest.mark.slow
def test_where_the_start_is_the_best_the_probe_predicts(monkeypatch, promotions):
    X, y = labelled_images()
    monkeypatch.setattr(finetuning, "pays", lambda *_: pytest.fail("there is no network to compare"))
    promotions(best_epoch=0, stopped=finetuning.INTERRUPTED)
    tuner = FineTuner(**OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        tuner.fit(X, y)
    assert (tuner.promoted_, tuner.estimator_ is tuner.probe_.estimator) == (False, True)


@pytest.fixture
def saved(photos, tmp_path, monkeypatch):
    """Photos, and the file of a network tuned on them in a notebook; it is saved by a relative path."""

    def make(kept):
        data = photos(per_class=20)
        paths = sorted(data.rglob("*.*"))
        monkeypatch.setattr(finetuning, "pays", lambda *_: kept)
        tuner = FineTuner(network(), **OPTIONS).fit(paths, [path.parent.name for path in paths])
        monkeypatch.chdir(tmp_path)
        tuner.save("t.safetensors")
        return data, tuner, tmp_path / "t.safetensors"

    return make


@pytest.mark.slow
def test_a_network_tuned_in_a_notebook_is_not_reported_on_what_it_was_tuned_on(saved, tmp_path, monkeypatch):
    data, _, path = saved(True)
    assert models.load(path).backbone["source"]["weights"] == str(path.resolve())
    extract(data, tmp_path / "s", backbone=path, device="cpu")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ProbeError, match="was tuned on 8 of the 8 samples"):
        probe(tmp_path / "s", tmp_path / "p.safetensors", baselines="none")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kept", "says"), [(True, "fine-tuned from the probe: last-1, "), (False, "did not beat the probe")]
)
def test_a_model_file_from_a_notebook_says_whether_it_was_tuned(saved, kept, says):
    _, tuner, path = saved(kept)
    assert tuner.promoted_ is kept
    told = models.load(path).card["finetuning"]
    assert (told["promoted"], told["tune"], told["best_epoch"]) == (tuner.promoted_, "last-1", 1)
    assert told["curve"] == tuner.curve_
    shown = CliRunner().invoke(main, ["info", str(path)])
    assert (shown.exit_code, says in shown.output) == (0, True)
    refused = CliRunner().invoke(main, ["report", str(path)])
    assert (refused.exit_code, "no figures to report" in refused.output) == (1, True)


def test_a_fine_tuner_needs_something_to_validate_on():
    X, y = labelled_images(2)
    with pytest.raises(FinetuningError, match="held back"):
        FineTuner().fit(X, y)


@pytest.mark.slow
def test_a_strategy_asks_for_advice_and_follows_it(monkeypatch):
    X, y = labelled_images()
    plain = TransferClassifier(strategy="auto").fit(X, y)
    assert plain.advice_["option"] == "linear"
    assert plain.tuner_ is None
    given, measure = [], advice.measure
    monkeypatch.setattr(advice, "measure", lambda *a, **options: given.append(options) or measure(*a, **options))
    monkeypatch.setattr(advice, "decide", lambda evidence: {"option": "tune-last", "tune": "last-1"})
    monkeypatch.setattr(FineTuner, "tune_from", fake_tuning)
    tuned = TransferClassifier(strategy="auto").fit(X, y)
    assert tuned.tuner_.tune == "last-1"
    pixels = FeatureExtractor("pixels").fit_transform(X)
    np.testing.assert_array_equal(given[0]["baselines"]["raw pixels"], pixels)  # each beside its own label
    np.testing.assert_array_equal(tuned.predict_proba(X), np.tile([0.25, 0.75], (len(X), 1)))
    with pytest.raises(ProbeError, match="use probe, auto"):
        TransferClassifier(strategy="best").fit(X, y)


def fake_tuning(tuner, probe, X, y, features, extractor, groups):
    tuner.promoted_, tuner.classes_ = True, probe.classes
    tuner.predict_proba = lambda images: np.tile([0.25, 0.75], (len(images), 1))
    return tuner


# -- scikit-learn's names ----------------------------------------------------------------------------------------------

COLOURS = np.random.default_rng(1).integers(0, 120, (18, 12, 12, 3), np.uint8)
COLOURS[::3] += 60
THREE = ["red", "green", "blue"] * 6


def pixels(**options):
    return TransferClassifier("pixels", **options)


@pytest.mark.parametrize("kind", ["logistic", "ridge", "svm", "lda"])
@pytest.mark.parametrize("classes", [2, 3])
def test_decision_function_is_of_the_shape_that_scikit_learn_wants(kind, classes):
    y = np.array(THREE if classes == 3 else ["a", "b"] * 9)
    model = pixels(kind=kind, value=0.5).fit(COLOURS, y)
    scores = model.decision_function(COLOURS)
    assert scores.shape == ((18,) if classes == 2 else (18, 3))
    best = (scores > 0).astype(int) if classes == 2 else scores.argmax(axis=1)
    assert model.classes_[best].tolist() == model.predict(COLOURS).tolist()


@pytest.mark.parametrize("kind", ["centroid", "knn", "mlp"])
def test_kinds_without_scores_have_no_decision_function(kind):
    assert not hasattr(pixels(kind=kind), "decision_function")
    assert hasattr(pixels(kind=kind), "kneighbors") == (kind == "knn")


def test_kneighbors_gives_the_nearest_training_samples():
    model = pixels(kind="knn", n_neighbors=3).fit(COLOURS, THREE)
    distances, indices = model.kneighbors(COLOURS[4:6])
    assert indices[:, 0].tolist() == [4, 5]
    np.testing.assert_allclose(distances[:, 0], 0, atol=1e-6)
    assert model.kneighbors(COLOURS[:1], 5)[1].shape == (1, 5)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("logistic", "C", 0.3),
        ("svm", "C", 0.3),
        ("ridge", "alpha", 3.0),
        ("lda", "shrinkage", 0.2),
        ("knn", "n_neighbors", 3),
    ],
)
def test_strengths_have_their_own_names(kind, name, value):
    named = pixels(kind=kind, **{name: value}).fit(COLOURS, THREE)
    assert named.probe_.chosen == value
    assert clone(named).get_params()[name] == value
    np.testing.assert_array_equal(
        named.predict_proba(COLOURS), pixels(kind=kind, value=value).fit(COLOURS, THREE).predict_proba(COLOURS)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ridge", "C": 1.0}, "a ridge probe has no C; use alpha"),
        ({"kind": "centroid", "alpha": 1.0}, "a centroid probe has no alpha; leave it out"),
        ({"C": 1.0, "value": 2.0}, "value and C are the same of a logistic probe"),
        ({"C": -1.0}, "C must be above 0"),
    ],
)
def test_a_strength_that_cannot_be_is_refused_before_anything_is_embedded(options, message, tmp_path):
    with pytest.raises(ProbeError, match=message):
        TransferClassifier("pixels", store=tmp_path / "s", **options).fit(COLOURS, THREE)
    assert not (tmp_path / "s").exists()


def test_random_state_is_the_seed(tmp_path):
    by_seed, by_state = (
        pixels(kind="ridge", value=1.0, **{name: 7}).fit(COLOURS, THREE) for name in ("seed", "random_state")
    )
    np.testing.assert_array_equal(by_seed.predict_proba(COLOURS), by_state.predict_proba(COLOURS))
    by_state.save(tmp_path / "m.safetensors")
    assert models.load(tmp_path / "m.safetensors").card.seed == 7
    for wrong in (np.random.RandomState(0), -1, 1.5):
        with pytest.raises(ValueError, match="random_state is a whole number"):
            pixels(random_state=wrong).fit(COLOURS, THREE)
        with pytest.raises(ValueError, match="random_state is a whole number"):
            FineTuner(random_state=wrong).fit(COLOURS, THREE)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_a_weight_of_two_is_the_sample_twice_and_of_zero_none(kind):
    weights = np.array([2.0, 1, 1, 0, 3, 1] * 3)
    times = weights.astype(int)
    weighted = pixels(kind=kind, value=0.5).fit(COLOURS, THREE, sample_weight=weights)
    repeated = pixels(kind=kind, value=0.5).fit(COLOURS.repeat(times, axis=0), np.repeat(THREE, times))
    np.testing.assert_allclose(
        weighted.decision_function(COLOURS), repeated.decision_function(COLOURS), rtol=1e-3, atol=1e-4
    )
    assert weighted.score(COLOURS, THREE, sample_weight=weights) == repeated.score(
        COLOURS.repeat(times, axis=0), np.repeat(THREE, times)
    )


@pytest.mark.parametrize(
    ("options", "weights", "error"),
    [
        ({"kind": "knn"}, np.ones(18), "a knn probe has no weights of samples"),
        ({"strategy": "auto"}, np.ones(18), "strategy 'auto' does not weigh samples"),
        ({}, np.ones(17), "one number for each of 18 rows"),
        ({}, -np.ones(18), "none below 0"),
        ({}, ["heavy"] * 18, "sample_weight is numbers"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(options, weights, error):
    with pytest.raises(ValueError, match=error):
        pixels(**options).fit(COLOURS, THREE, sample_weight=weights)


def test_tuning_says_that_it_does_not_weigh_samples():
    model = TransferClassifier(value=1.0).fit(COLOURS, THREE, sample_weight=np.full(18, 2.0))
    with pytest.raises(FinetuningError, match="does not weigh samples"):
        model.promote(COLOURS, THREE)


def test_estimators_show_their_figures_after_fit():
    model = pixels(kind="ridge")
    assert "chosen" not in model._repr_html_()
    model.fit(COLOURS, THREE)
    assert repr(model) == "TransferClassifier(backbone='pixels', kind='ridge')"
    page = model._repr_mimebundle_()["text/html"]
    assert "ridge probe of 3 classes, alpha=" in page
    assert "← chosen" in page
    assert repr(model.probe_).startswith("<ridge probe of 3 classes, alpha=")
    evil = pixels(kind="centroid").fit(COLOURS, ["<b>", "x", "y"] * 6)
    assert "<b>, " not in evil._repr_html_()


def test_cross_validate_measures_without_a_fit():
    model = pixels(kind="ridge", alpha=1.0)
    found = model.cross_validate(COLOURS, THREE, folds=3)
    assert (found["n"], len(found["per_fold"])) == (18, 3)
    assert not hasattr(model, "probe_")
    assert "of 18 held-out samples right" in repr(found)
    twice = model.cross_validate(np.concatenate([COLOURS, COLOURS]), THREE * 2, groups=list(range(18)) * 2, folds=3)
    assert twice["groups"] == 18
    with pytest.raises(ProbeError, match="2 or more"):
        model.cross_validate(COLOURS, THREE, folds=1)
