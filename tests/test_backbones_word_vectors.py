"""Word vectors: every format gives the same, broken files are refused, and means are gensim's."""

import gzip
import struct

import numpy as np
import pytest

from featurepipe import backbones
from featurepipe.backbones.word_vectors import read_vectors
from featurepipe.errors import BackboneError, TextError, WeightsUnavailable

WORDS = ["the", "cat", "Paris", "café", "sat"]
VECTORS = np.round(np.random.default_rng(0).normal(size=(5, 4)), 3).astype(np.float32)
PAIRS = list(zip(WORDS, VECTORS.tolist(), strict=True))
LINES = [f"{word} {' '.join(map(str, vector))}\n".encode() for word, vector in PAIRS]
PACKED = [word.encode() + b" " + struct.pack("4f", *vector) for word, vector in PAIRS]
TEXT, BINARY = b"5 4\n" + b"".join(LINES), b"5 4\n" + b"".join(PACKED)


@pytest.fixture
def written(tmp_path):
    def write(data, name="vectors.txt"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    "data",
    [TEXT, b"".join(LINES), BINARY, b"5 4\n" + b"\n".join(PACKED), gzip.compress(TEXT), gzip.compress(BINARY)],
    ids=["word2vec", "glove", "binary", "binary-lines", "text-gz", "binary-gz"],
)
def test_every_format_gives_the_same_vectors_and_the_same_digest(written, data):
    found = read_vectors(written(data))
    assert list(found.places) == WORDS
    np.testing.assert_allclose(found.vectors, VECTORS, atol=1e-6)
    assert found.digest() == read_vectors(written(TEXT, "other")).digest()


def test_words_with_blanks_copies_and_limits(written):
    found = read_vectors(written(b"the 1 2\n. . 3 4\nthe 5 6\nrest 7 8\n"), limit=2)
    assert found.places == {"the": 0, ". .": 1}
    assert found.vectors.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a file of word vectors"),
        (b"\x80\x04pickle", "not a file of word vectors"),
        (b"5 4\n" + LINES[0] + b"cat 1 2\n", "line 3 is not a word and 4 numbers"),
        (LINES[0] + b"cat 1 2 x 4\n", "line 2 is not a word and 4 numbers"),
        (BINARY[:-20], "ends or breaks in vector 5 of 5"),
        (b"5 99999999999\nthe 1\n", "have 99999999999 numbers"),
        (b"the 1 nan\n", "not finite"),
        (gzip.compress(TEXT)[:-12], "cannot be read as word vectors"),
    ],
)
def test_broken_files_are_refused(written, data, message):
    with pytest.raises(BackboneError, match=message):
        read_vectors(written(data))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WeightsUnavailable, match="do not exist"):
        backbones.create(f"word2vec:{tmp_path / 'nix'}")


def test_means_are_those_of_gensim(written):
    models = pytest.importorskip("gensim.models", reason="gensim is not installed")
    path = written(TEXT)
    made = backbones.create(f"word2vec:{path}")
    batch = np.stack([made.transform.decode(text) for text in (b"The cat sat.", b"Paris, the caf\xc3\xa9!")])
    theirs = models.KeyedVectors.load_word2vec_format(str(path))
    wanted = [
        theirs.get_mean_vector(words, pre_normalize=False)
        for words in (["the", "cat", "sat"], ["Paris", "the", "café"])
    ]
    np.testing.assert_allclose(made.embed(batch), wanted, atol=1e-6)


def test_a_text_without_a_known_word_is_rejected(written):
    made = backbones.create(f"word2vec:{written(TEXT)}")
    with pytest.raises(TextError, match="none of its words has a vector"):
        made.transform.decode("Ich weiß nicht".encode())
    assert made.embed(made.transform.trial(3)).shape == (3, 4)


def test_sif_weighs_frequent_words_less(written):
    path = written(TEXT)
    mean, sif = (backbones.create(f"word2vec:{path}", pooling=pooling) for pooling in (None, "sif"))
    assert mean.fingerprint != sif.fingerprint
    assert (mean.spec["pooling"], sif.spec["pooling"], mean.spec["medium"]) == ("mean", "sif", "text")
    batch = mean.transform.decode(b"the cat")[None]
    shares = 1 / np.arange(1, 6)
    weights = (1e-3 / (1e-3 + shares / shares.sum()))[:2]
    np.testing.assert_allclose(sif.embed(batch)[0], weights / weights.sum() @ VECTORS[:2], rtol=1e-5)


def test_it_is_made_again_from_what_it_says_and_moves(written, tmp_path):
    made = backbones.create(f"word2vec:{written(BINARY, 'a.bin')}", arguments={"limit": 3})
    again = backbones.recreate(made.spec, made.source)
    assert (again.fingerprint, again.source) == (made.fingerprint, made.source)
    moved = written(gzip.compress(TEXT), "b.gz")
    assert backbones.recreate(made.spec, made.source, weights=moved).spec == made.spec
    with pytest.raises(BackboneError, match="limit alone"):
        backbones.create(f"word2vec:{moved}", arguments={"most": 3})
    with pytest.raises(BackboneError, match="takes no random weights"):
        backbones.create(f"word2vec:{moved}", random_weights=True)
