"""Estimators on sounds, texts and videos: every form of X, the vectors of `extract`, and scikit-learn's conventions."""

import io
import pickle

import numpy as np
import pytest
from films import film, shades
from recorded import noise, tone, written
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from featurepipe import FeatureExtractor, FineTuner, TransferClassifier, extract, matrices
from featurepipe.backbones.media import default_of
from featurepipe.errors import FinetuningError, SoundError, TextError, VideoError
from featurepipe.estimators.media import LISTINGS
from featurepipe.estimators.sounds import Sounds
from featurepipe.estimators.texts import Texts
from featurepipe.estimators.videos import Videos
from featurepipe.media import MEDIA
from featurepipe.stores import Store

pytest.importorskip("soundfile", reason="needs featurepipe[sound]")
pytest.importorskip("av", reason="needs featurepipe[video]")
RATE = 8000
SIGNALS = [tone(frequency, 0.3, rate=RATE) for frequency in (220, 440, 880, 1760)]
WORDS = ["a good film", "a bad film", "good acting and a good plot", "a bad plot, badly told"]
Y = ["low", "low", "high", "high"]
BACKBONES = {"sound": "mfcc", "text": "tfidf", "video": "color-motion"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of each medium in folders of their own."""
    root = tmp_path_factory.mktemp("media")
    moving = [film([frame + 50 * number for frame in shades(8)]) for number in range(4)]
    contents = {
        "sound": ("wav", [written(signal, rate=RATE, subtype="FLOAT") for signal in SIGNALS]),
        "text": ("txt", [text.encode() for text in WORDS]),
        "video": ("mp4", moving),
    }
    for medium, (suffix, files) in contents.items():
        (root / medium).mkdir()
        for number, content in enumerate(files):
            (root / medium / f"{number}.{suffix}").write_bytes(content)
    return root


def paths(folder, medium):
    return sorted((folder / medium).iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("medium", BACKBONES)
def test_files_have_the_vectors_that_extract_gives_and_are_found_in_its_store(folder, medium, tmp_path, monkeypatch):
    store = tmp_path / "st"
    extract(folder / medium, store, backbone=BACKBONES[medium], medium=medium)
    opened = Store.open(store)
    entry = opened.entry(FeatureExtractor(BACKBONES[medium]).network())
    wanted = matrices.gather(entry, [entry.places()[row.digest] for row in opened.rows()])
    X = paths(folder, medium)
    np.testing.assert_array_equal(FeatureExtractor(BACKBONES[medium]).fit_transform(X), wanted)
    monkeypatch.setattr("featurepipe.extraction.fill", None)  # nothing may be computed
    for same in (X, [path.read_bytes() for path in X], [{"bytes": path.read_bytes(), "path": None} for path in X]):
        np.testing.assert_array_equal(FeatureExtractor(BACKBONES[medium], store=store).transform(same), wanted)


WAYS = {
    "a list of float": (lambda: SIGNALS, RATE),
    "float64": (lambda: [signal.astype(float) for signal in SIGNALS], RATE),
    "one array": (lambda: np.stack(SIGNALS), RATE),
    "tensors": (lambda: [pytest.importorskip("torch").from_numpy(signal) for signal in SIGNALS], RATE),
    "one tensor": (lambda: pytest.importorskip("torch").from_numpy(np.stack(SIGNALS)), RATE),
    "of a data set": (lambda: [{"array": one, "sampling_rate": RATE, "path": None} for one in SIGNALS], None),
    "in memory": (lambda: [io.BytesIO(written(one, rate=RATE, subtype="FLOAT")) for one in SIGNALS], None),
}


@pytest.mark.parametrize("way", WAYS)
def test_arrays_of_sound_have_the_vectors_of_their_files(folder, way):
    make, rate = WAYS[way]
    found = FeatureExtractor("mfcc", sample_rate=rate).transform(make())
    np.testing.assert_array_equal(found, FeatureExtractor("mfcc").transform(paths(folder, "sound")))


def test_whole_numbers_are_those_of_a_file():
    whole = [(signal * 2**15).astype(np.int16) for signal in SIGNALS]
    found = FeatureExtractor("mfcc", sample_rate=RATE).transform(whole)
    files = [written(signal, rate=RATE, subtype="PCM_16") for signal in whole]
    np.testing.assert_allclose(found, FeatureExtractor("mfcc").transform(files), rtol=1e-4, atol=1e-3)


def test_the_rate_of_arrays_matters():
    slow, fast = (FeatureExtractor("mfcc", sample_rate=rate).transform(SIGNALS) for rate in (RATE, 2 * RATE))
    assert np.abs(slow - fast).max() > 1


@pytest.mark.parametrize("medium", BACKBONES)
def test_a_classifier_learns_from_a_medium_and_comes_back_from_its_file(folder, medium, tmp_path):
    X = paths(folder, medium)
    model = TransferClassifier(BACKBONES[medium], kind="ridge", value=1.0).fit(X, Y)
    assert model.predict(X).tolist() == Y
    model.save(tmp_path / "m.safetensors")
    again = TransferClassifier.load(tmp_path / "m.safetensors")
    np.testing.assert_allclose(again.predict_proba(X), model.predict_proba(X))
    assert len(model.seen_) == len(X)


@pytest.mark.slow
def test_a_network_of_images_hears_if_it_is_told_to(folder, tmp_path):
    tiny = {"random_weights": True, "precision": "fp32", "device": "cpu", "medium": "sound"}
    extractor = FeatureExtractor("test_resnet", sample_rate=RATE, **tiny)
    model = TransferClassifier(extractor, kind="ridge", value=1.0).fit(SIGNALS, Y)
    assert model.extractor_.fingerprint_ == extractor.fit(SIGNALS).fingerprint_
    model.save(tmp_path / "m.safetensors", include_backbone=True)
    again = TransferClassifier.load(tmp_path / "m.safetensors")
    files = paths(folder, "sound")
    np.testing.assert_allclose(again.predict_proba(files), model.predict_proba(SIGNALS), atol=1e-6)


def test_a_name_may_come_with_its_medium_and_rate():
    model = TransferClassifier("mfcc", medium="sound", sample_rate=RATE, kind="ridge", value=1.0).fit(SIGNALS, Y)
    assert model.predict(SIGNALS).tolist() == Y
    with pytest.raises(ValueError, match="with its own medium and sample_rate; leave out medium and sample_rate"):
        TransferClassifier(FeatureExtractor("mfcc"), medium="sound", sample_rate=RATE).fit(SIGNALS, Y)


@pytest.mark.slow
@pytest.mark.parametrize("medium", BACKBONES)
def test_scikit_learns_conventions_hold(folder, medium):
    X = paths(folder, medium) * 2
    extractor = FeatureExtractor(BACKBONES[medium], medium=medium)
    assert clone(extractor).get_params() == extractor.get_params()
    search = GridSearchCV(make_pipeline(extractor, LogisticRegression()), {"logisticregression__C": [0.1, 10]}, cv=2)
    assert search.fit(X, Y * 2).best_estimator_.predict(X).shape == (8,)
    fitted = pickle.loads(pickle.dumps(extractor.fit(X)))
    np.testing.assert_array_equal(fitted.transform(X), extractor.transform(X))


def test_texts_are_str_and_their_files_are_paths(folder):
    wanted = FeatureExtractor("tfidf").transform(WORDS)
    for same in (np.array(WORDS), [text.encode() for text in WORDS], paths(folder, "text")):
        np.testing.assert_array_equal(FeatureExtractor("tfidf").transform(same), wanted)


@pytest.mark.slow
def test_the_advice_on_another_medium_is_against_its_own_baseline(folder):
    rng = np.random.default_rng(0)
    signals = [noise(0.2, seed=seed) * rng.uniform(0.1, 1) for seed in range(24)]
    extractor = FeatureExtractor("test_resnet", medium="sound", random_weights=True, sample_rate=RATE, device="cpu")
    model = TransferClassifier(extractor, strategy="auto").fit(signals, ["a", "b"] * 12)
    assert model.advice_["tune"] is None
    assert model.tuner_ is None


def test_only_networks_of_images_are_tuned():
    sounds = FeatureExtractor("test_resnet", medium="sound", random_weights=True, sample_rate=RATE, device="cpu")
    with pytest.raises(
        FinetuningError, match=r"test_resnet.* is not a network that can be tuned, as it embeds sounds; use"
    ):
        FineTuner(sounds).fit(SIGNALS, Y)
    with pytest.raises(FinetuningError, match=r"tfidf is not .* as it embeds texts"):
        TransferClassifier("tfidf", kind="ridge").fit(WORDS, Y).promote(WORDS, Y)


@pytest.mark.parametrize(
    ("listing", "rate", "X", "error", "says"),
    [
        (Sounds, None, SIGNALS, SoundError, "sound 0: an array does not say how fast it is; give sample_rate"),
        (Sounds, 0.5, SIGNALS, SoundError, "sound 0: a sample_rate is a whole number"),
        (Sounds, float("nan"), SIGNALS, SoundError, "sound 0: a sample_rate is a whole number"),
        (Sounds, float("inf"), SIGNALS, SoundError, "sound 0: a sample_rate is a whole number"),
        (Sounds, 2**30, SIGNALS, SoundError, "sound 0: a sample_rate is .* 1000 to 768000; got 1073741824"),
        (Sounds, RATE, [np.full(9, np.inf)], SoundError, "sound 0: .*NaN or infinite"),
        (Sounds, RATE, SIGNALS[0], ValueError, r"\(n, samples\); got float32 \(2400,\); wrap a single sound in a list"),
        (Sounds, RATE, [np.zeros((2, 9))], SoundError, r"sound 0: .* one channel.*\(2, 9\): average several"),
        (Sounds, RATE, [np.zeros(9, np.uint8)], SoundError, "sound 0: samples are float of -1…1, or int16; got uint8"),
        (Sounds, RATE, [SIGNALS[0], SIGNALS[0] * 2**15], SoundError, "sound 1: .*divide them by 32768"),
        (Sounds, RATE, [[0.5, 0.25]], SoundError, "sound 0: a sound is a path, .*got list"),
        (Sounds, None, ["nowhere.wav"], SoundError, r"sound 0 \(nowhere.wav\) cannot be read: No such file"),
        (Sounds, None, "a.wav", ValueError, "X is a list of sounds; wrap the single str in a list"),
        (Sounds, None, [], ValueError, "X holds 0 samples; at least 1 sound is needed"),
        (Texts, None, ["a", None], TextError, r"text 1: it is missing \(None\)"),
        (Texts, None, ["a", 7], TextError, "text 1: a text is a str, .*got int"),
        (Texts, None, np.zeros((2, 3)), ValueError, "X is an array of float64"),
        (Videos, None, [np.zeros((4, 8, 8, 3), np.uint8)], VideoError, "video 0: a video is a path, .*got ndarray"),
        (Videos, None, [("a.mp4", 1)], VideoError, "video 0: it is a tuple of a video and more"),
    ],
)
def test_what_is_no_sample_is_named(listing, rate, X, error, says):
    with pytest.raises(error, match=says) as caught:
        listing(None, rate).listed(X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("medium", "content", "error", "says"),
    [
        ("sound", b"no sound at all", SoundError, "sound 1: "),
        ("text", b" ", TextError, "text 1: the text is empty; leave it out of X"),
        ("video", b"\0\0\0\x18ftypmp42 and no more", VideoError, "video 1: "),
    ],
)
def test_a_broken_sample_is_named_as_its_medium(folder, medium, content, error, says, tmp_path):
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(error, match=says.replace(": ", r" \(.*broken\): ", 1)):
        FeatureExtractor(BACKBONES[medium]).transform([paths(folder, medium)[0], tmp_path / "broken"])


def test_a_sound_among_images_is_told_of_the_medium(folder):
    with pytest.raises(ValueError, match=r"image 0 \(.*0\.wav\): .*; its name is that of a sound: give medium='sound'"):
        FeatureExtractor("pixels").transform(paths(folder, "sound"))


def test_a_rate_is_of_sounds():
    with pytest.raises(ValueError, match="sample_rate is of sounds; pixels embeds images, so leave it out"):
        FeatureExtractor("pixels", sample_rate=RATE).fit([np.zeros((8, 8), np.uint8)])


def test_every_medium_has_a_listing_and_none_is_taken_for_another():
    assert {*LISTINGS} == {*MEDIA}
    assert all(LISTINGS[name].medium == name for name in LISTINGS)


def test_a_medium_without_a_name_has_its_own_default():
    assert default_of(None, "text") == "all-minilm-l6-v2"
    assert default_of("tfidf", "text") == "tfidf"
    assert default_of(None, "sound") == default_of(None, None)
