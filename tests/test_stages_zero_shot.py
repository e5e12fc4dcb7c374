"""Zero-shot: class vectors are open_clip's own, and the model file is one like any other."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import featurepipe
from featurepipe import backbones, models, probes
from featurepipe.backbones import TextTower, class_vectors
from featurepipe.errors import BackboneError, ManifestError, ProbeError
from featurepipe.listeners import SILENT
from featurepipe.stages.zero_shot import class_words

TEMPLATES = ("a photo of a {}.", "{}", "a drawing of the {}")
NAMES = ["cat", "dog", "steam engine"]
HOW = {"precision": "fp32", "device": "cpu", "listener": SILENT}


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """open_clip with a tiny architecture, a whole model of it, and its file."""
    open_clip = pytest.importorskip("open_clip", reason="the extra open_clip is not installed")
    factory = open_clip.factory
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    tower = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    config = {"embed_dim": 24, "vision_cfg": tower, "text_cfg": text}
    factory._MODEL_CONFIGS["tiny"] = json.loads(json.dumps(config))
    torch.manual_seed(1)
    model, _, transform = open_clip.create_model_and_transforms("tiny")
    path = tmp_path / "tiny.pt"
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    return open_clip, model.eval(), transform, path


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for n in range(6):
        place = folder / NAMES[n % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (32, 32, 3), np.uint8)).save(place / f"{n}.png")
    return folder


@pytest.mark.parametrize("templates", [TEMPLATES[:1], TEMPLATES])
def test_class_vectors_are_those_of_build_zero_shot_classifier(clip, tmp_path, templates):
    open_clip, model, _, path = clip
    wanted = open_clip.build_zero_shot_classifier(model, open_clip.get_tokenizer("tiny"), NAMES, templates)  # (D, K)
    result = featurepipe.zeroshot(
        NAMES, tmp_path / "m.safetensors", backbone="open_clip:tiny", weights=path, templates=templates, **HOW
    )
    made = models.load(result["model"])
    assert made.classes.tolist() == sorted(NAMES)
    order = [NAMES.index(name) for name in made.classes.tolist()]
    np.testing.assert_allclose(made.estimator.vectors_, wanted.T.numpy()[order], atol=1e-5)
    assert result["scale"] == pytest.approx(model.logit_scale.exp().item())


def test_probabilities_are_those_of_open_clip_and_the_file_is_like_any_other(clip, tmp_path, pictures):
    open_clip, model, transform, path = clip
    file = tmp_path / "m.safetensors"
    featurepipe.zeroshot(NAMES[:2], file, backbone="open_clip:tiny", weights=path, **HOW)
    found = featurepipe.predict(file, pictures, probabilities=True, device="cpu", listener=SILENT)
    vectors = open_clip.build_zero_shot_classifier(
        model, open_clip.get_tokenizer("tiny"), NAMES[:2], ["a photo of a {}."]
    )
    for row in found["predictions"]:
        with torch.no_grad():
            image = model.encode_image(transform(Image.open(row["file"]))[None], normalize=True)
        wanted = (model.logit_scale.exp() * image @ vectors).softmax(-1)[0].tolist()
        assert [row["p:cat"], row["p:dog"]] == pytest.approx(wanted, abs=1e-4)
    measured = featurepipe.evaluate(file, pictures, device="cpu", listener=SILENT)
    assert measured["n"] == 6
    store = featurepipe.extract(
        pictures, tmp_path / "s", backbone="open_clip:tiny", weights=path, arguments={"projection": True}, **HOW
    )["store"]
    assert featurepipe.evaluate(file, store, split="all")["top1"] == measured["top1"]
    assert featurepipe.info(file)["kind"] == "zero-shot"


def test_random_towers_are_one_network_for_a_seed(clip, tmp_path):
    made = [
        featurepipe.zeroshot(
            NAMES, tmp_path / f"{n}.safetensors", backbone="open_clip:tiny", random_weights=True, seed=seed, **HOW
        )
        for n, seed in enumerate((3, 3, 4))
    ]
    heads = [models.load(one["model"]).estimator.vectors_ for one in made]
    np.testing.assert_array_equal(heads[0], heads[1])
    assert np.abs(heads[0] - heads[2]).max() > 0.01
    assert made[0]["fingerprint"] == made[1]["fingerprint"] != made[2]["fingerprint"]


def test_siglip_of_transformers_has_texts_too(tmp_path, pictures):
    transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "a", "photo", "of", "cat", "dog", "."])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = tmp_path / "siglip"
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.SiglipConfig(
        text_config={**size, "vocab_size": len(words), "max_position_embeddings": 12, "projection_size": 32},
        vision_config={**size, "image_size": 32, "patch_size": 16},
    )
    model = transformers.SiglipModel(config).eval()
    model.save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    file = tmp_path / "m.safetensors"
    featurepipe.zeroshot(NAMES[:2], file, backbone=f"transformers:{folder}", **HOW)
    found = featurepipe.predict(file, pictures, probabilities=True, device="cpu", listener=SILENT, trust=True)
    tokens = tokenizer(
        [f"a photo of a {name}." for name in NAMES[:2]], padding="max_length", max_length=12, return_tensors="pt"
    )
    processor = transformers.SiglipImageProcessor.from_pretrained(folder)
    for row in found["predictions"]:
        pixels = processor(Image.open(row["file"]), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            said = model(input_ids=tokens["input_ids"], pixel_values=pixels)
        cosines = (said.image_embeds @ said.text_embeds.T)[0]
        wanted = (model.logit_scale.exp() * cosines).softmax(-1).tolist()
        assert [row["p:cat"], row["p:dog"]] == pytest.approx(wanted, abs=1e-3)
    clip_like = tmp_path / "vit"
    transformers.ViTModel(transformers.ViTConfig(**size, image_size=32, patch_size=16)).save_pretrained(clip_like)
    with pytest.raises(BackboneError, match=r"is a vit model, and text towers of transformers are taken from siglip"):
        featurepipe.zeroshot(NAMES, tmp_path / "n.safetensors", backbone=f"transformers:{clip_like}", **HOW)


def test_what_has_no_text_tower_says_so(tmp_path):
    with pytest.raises(BackboneError, match=r"test_resnet has no text tower.*choose open_clip:ARCH/TAG"):
        featurepipe.zeroshot(NAMES, tmp_path / "m.safetensors", backbone="test_resnet", random_weights=True, **HOW)
    assert not (tmp_path / "m.safetensors").exists()


def test_a_file_without_texts_is_refused(clip, tmp_path):
    _, model, _, path = clip
    torch.save(model.visual.state_dict(), path)
    with pytest.raises(BackboneError, match="does not hold both towers of open_clip:tiny"):
        featurepipe.zeroshot(NAMES, tmp_path / "m.safetensors", backbone="open_clip:tiny", weights=path, **HOW)


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ("", "no class is named"),
        ("cat,dog,cat", "class 'cat' is there twice"),
        ("cat,=dog", "a class has no name"),
        ({"a": ""}, "a class has no name"),
        ([], "no class is named"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(classes, says):
    with pytest.raises(ManifestError, match=says):
        class_words(classes)


def test_names_come_from_texts_files_lists_and_mappings(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("cat\n\nn02123 = tabby cat, a pet\n", "utf-8")
    assert class_words(file) == class_words(str(file)) == {"cat": "cat", "n02123": "tabby cat, a pet"}
    assert class_words(" cat , dog") == class_words(["cat", "dog"]) == class_words({"cat": "cat", "dog": "dog"})
    assert len(class_words(",".join(f"class number {n}" for n in range(200)))) == 200  # longer than a name of a file
    with pytest.raises(ManifestError, match=r"none\.txt cannot be read"):
        class_words(tmp_path / "none.txt")


def test_templates_and_classes_are_checked():
    tower = TextTower(lambda prompts: np.ones((len(prompts), 2), np.float32), 1.0)
    with pytest.raises(BackboneError, match=r"'a photo' has no \{\}"):
        class_vectors(tower, NAMES, ["a photo"])
    with pytest.raises(BackboneError, match="there is no template"):
        class_vectors(tower, NAMES, [])
    with pytest.raises(BackboneError, match="not finite"):
        class_vectors(TextTower(lambda prompts: np.full((len(prompts), 2), np.nan, np.float32), 1.0), NAMES)
    with pytest.raises(ProbeError, match="at least two classes, not 1"):
        probes.cosine_classifier(["cat"], np.eye(2)[:1], 100.0)


def test_a_zero_vector_is_undecided_and_lengths_do_not_matter():
    made = probes.cosine_classifier(["a", "b", "c"], np.eye(3), 10.0)
    X = np.array([[0.0, 0, 0], [2, 1, 0], [200, 100, 0]])
    proba = made.predict_proba(X)
    np.testing.assert_allclose(proba[0], 1 / 3)
    np.testing.assert_allclose(proba[1], proba[2])
    np.testing.assert_allclose(proba, probes.probabilities(made, X, 1.0))


def test_prompts_are_encoded_in_batches_and_in_order():
    asked = []

    def encode(prompts):
        asked.append(len(prompts))
        return np.array([[float(one), 1.0] for one in prompts], np.float32)

    found = class_vectors(TextTower(encode, 1.0), [str(n) for n in range(100)], ["{}"])
    assert asked == [64, 36]
    np.testing.assert_allclose(found[:, 0] / found[:, 1], np.arange(100), rtol=1e-5)
    assert backbones.TEMPLATES == ("a photo of a {}.",)
