"""Texts: what is read, and what is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from featurepipe import backbones, evaluate, extract, info, predict, probe, report
from featurepipe.errors import BackboneError, SampleError, TextError
from featurepipe.estimators import FeatureExtractor
from featurepipe.media import Transform
from featurepipe.texts import TextTransform, words


def test_a_text_is_an_input_without_axes():
    transform: Transform = TextTransform()
    found = transform.decode("\ufeffnaïve\n".encode())
    assert (found.shape, found.dtype, found.item()) == ((), np.dtype(object), "naïve\n")
    trial = transform.trial(5)
    assert (trial.shape, trial.dtype, trial[0]) == ((5,), np.dtype(object), trial[3])


@pytest.mark.parametrize(
    ("data", "part", "message"),
    [
        (b"", None, "the text is empty"),
        (b"\xef\xbb\xbf \n\t", None, "the text is empty"),
        (b"caf\xe9", None, r"not UTF-8 \(byte 0xe9 at 3\)"),
        ("text".encode("utf-16"), None, r"not UTF-8 \(byte 0xff at 0\)"),
        (b"a" * (2**20 + 1), None, r"has 1,048,577 bytes"),
        (b"a", "1,2,3,4", r"has no parts"),
    ],
)
def test_what_is_no_text_is_refused(data, part, message):
    with pytest.raises(TextError, match=message) as caught:
        TextTransform().decode(data, part)
    assert isinstance(caught.value, SampleError)


def test_words_keep_their_apostrophes_and_marks_stand_alone():
    assert words("“It’s” 3.5 naïve_ones\n\t–  don't'") == [*"“", "It’s", *"”3.5", "naïve_ones", "–", "don't", "'"]


def test_tfidf_counts_words_and_learns_nothing():
    made = backbones.create("tfidf")
    assert made.spec["medium"] == "text"
    texts = [b"The film, the FILM!", b"the film the film", b"a dull plot", b"\xf0\x9f\x98\x80"]
    found = made.embed(np.stack([made.transform.decode(text) for text in texts]))
    assert (found.shape, found.dtype) == ((4, 4096), np.float32)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 1, 1, 0], rtol=1e-6)  # of one letter no word
    assert np.count_nonzero(found[2]) == 2
    assert backbones.recreate(made.spec, made.source).fingerprint == made.fingerprint
    assert backbones.is_handmade(made.spec)


def test_a_network_of_images_is_not_for_texts():
    with pytest.raises(BackboneError, match=r"is for images, not for texts; .* all-minilm-l6-v2, .* tfidf"):
        backbones.create("test_resnet", random_weights=True, medium="text")


@pytest.fixture
def reviews(tmp_path):
    rng = np.random.default_rng(0)
    words = {"good": ["lovely", "great", "fun"], "bad": ["dull", "awful", "slow"], "": ["film", "plot", "the", "it"]}
    lines = []
    for number in range(120):
        label = "good" if number % 2 else "bad"
        chosen = [*rng.choice(words[label], 2), *rng.choice(words[""], 5), str(number)]
        lines.append({"text": " ".join(rng.permutation(chosen)), "label": label, "group": f"author {number // 4}"})
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in [*lines, {"text": "  ", "label": "good"}]), "utf-8")
    return path


def test_texts_of_a_table_are_embedded_probed_compared_and_predicted(reviews, tmp_path):
    made = extract(reviews, tmp_path / "st", backbone="tfidf")
    assert (made["samples"], made["computed"], made["rejects"]) == (121, 120, {"0000121": "the text is empty"})
    again = extract(reviews, tmp_path / "st", backbone="tfidf")
    assert (again["computed"], again["rejected"]) == (0, 1)
    result = probe(tmp_path / "st", tmp_path / "m.safetensors")
    assert result["test"]["top1"] > 0.9
    assert info(tmp_path / "st")["root"] == str(reviews)
    found = predict(tmp_path / "m.safetensors", reviews)
    assert (found["predicted"], found["rejected"]) == (120, 1)
    assert found["predictions"][0]["path"] == "text[1]"
    assert evaluate(tmp_path / "m.safetensors", tmp_path / "st")["top1"] == result["test"]["top1"]
    page = Path(report(tmp_path / "m.safetensors")["report"]).read_text("utf-8")
    assert "<img" not in page


def test_encoders_of_texts_are_probed_with_tfidf_as_the_baseline(reviews, tmp_path):
    words = ["lovely", "great", "fun", "dull", "awful", "slow", "film"]
    vectors = np.random.default_rng(0).normal(size=(7, 3)).round(3)
    lines = [" ".join([word, *map(str, vector)]) for word, vector in zip(words, vectors.tolist(), strict=True)]
    (tmp_path / "words.txt").write_text("\n".join(lines))
    extract(reviews, tmp_path / "st", backbone=f"word2vec:{tmp_path / 'words.txt'}")
    result = probe(tmp_path / "st", tmp_path / "m.safetensors", baselines="simple")
    assert {name for name, top1 in result["baselines"].items() if top1 is not None} == {"majority", "tfidf"}
    with pytest.raises(BackboneError, match="--weights"):
        predict(tmp_path / "m.safetensors", reviews)
    assert predict(tmp_path / "m.safetensors", reviews, weights=tmp_path / "words.txt")["predicted"] == 120
    (tmp_path / "one.txt").write_text("a great, lovely film")
    one = predict(tmp_path / "m.safetensors", tmp_path / "one.txt", weights=tmp_path / "words.txt")
    assert one["predictions"][0]["label"] == "good"


def test_a_changed_table_is_read_again(reviews, tmp_path):
    extract(reviews, tmp_path / "st", backbone="tfidf")
    lines = reviews.read_text("utf-8").splitlines()
    reviews.write_text("\n".join(["{}", *lines[1:-1], lines[0]]), "utf-8")
    found = extract(reviews, tmp_path / "st", backbone="tfidf")
    assert (found["samples"], found["computed"], found["rejected"]) == (120, 0, 0)


def test_broken_texts_of_a_folder_are_rejected_by_name(tmp_path):
    (tmp_path / "data").mkdir()
    contents = {"good": b"a text", "empty": b"", "latin": b"caf\xe9", "bytes": bytes(range(256)), "long": b"a " * 2**20}
    for name, content in contents.items():
        (tmp_path / "data" / f"{name}.txt").write_bytes(content)
    found = extract(tmp_path / "data", tmp_path / "st", backbone="tfidf")
    assert (found["computed"], {*found["rejects"]}) == (1, {"bytes.txt", "empty.txt", "latin.txt", "long.txt"})
    assert found["rejects"]["latin.txt"].startswith("it is not UTF-8 (byte 0xe9 at 3)")


def test_an_extractor_takes_a_list_of_texts_and_the_store_of_a_table(reviews, tmp_path):
    extract(reviews, tmp_path / "st", backbone="tfidf")
    texts = [json.loads(line)["text"] for line in reviews.read_text("utf-8").splitlines()[:5]]
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "st").rglob("shard-*")}
    found = FeatureExtractor("tfidf", store=tmp_path / "st").fit_transform(texts)
    wanted = backbones.create("tfidf")
    np.testing.assert_array_equal(found, wanted.embed(np.array(texts, object)))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "st").rglob("shard-*")} == shards
    with pytest.raises(TextError, match="text 1: it is missing \\(nan\\)"):
        FeatureExtractor("tfidf").transform(["a", float("nan")])
    with pytest.raises(ValueError, match="the text is empty"):
        FeatureExtractor("tfidf").transform(["a", " "])
