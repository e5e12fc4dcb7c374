"""Image models of transformers as backbones: equal to the library's own forward pass on its own pixels."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from featurepipe import backbones, extract, predict, probe
from featurepipe.errors import BackboneError, FinetuningError, WeightsUnavailable
from featurepipe.images import decode
from featurepipe.stages import finetune

transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")
OPTIONS = {"precision": "fp32", "device": "cpu"}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32}
SIZE = {"height": 32, "width": 32}


@pytest.fixture(autouse=True)
def quiet():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def vit(**changes):
    return transformers.ViTConfig(**SMALL, patch_size=8, **changes)


@pytest.fixture
def saved(tmp_path):
    """Saves a model with random weights, and its image processor, as their users do."""

    def save(model, processor, name="model"):
        folder = tmp_path / name
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
        return folder

    torch.manual_seed(0)
    return save


@pytest.fixture
def pictures(tmp_path):
    """Photos' stand-ins, larger and of other shapes than any input."""
    made = []
    for n, size in enumerate([(390, 260), (240, 360)]):
        y, x = np.mgrid[: size[0], : size[1]]
        waves = [128 + 100 * np.sin(x / (20 + 9 * n + c) + y / (30 - 5 * c)) for c in range(3)]
        path = tmp_path / f"{n}.png"
        Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(path)
        made.append(path)
    return made


def processed(folder, pictures, backend="pil"):
    own = transformers.AutoImageProcessor.from_pretrained(folder, backend=backend)
    return own([Image.open(path).convert("RGB") for path in pictures], return_tensors="pt")["pixel_values"]


def embedded(made, pictures):
    return made.embed(np.stack([decode(path.read_bytes(), made.transform) for path in pictures]))


PROCESSORS = {
    "vit": lambda: transformers.ViTImageProcessor(size=SIZE),
    "deit": lambda: transformers.DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size=SIZE),
    "clip": lambda: transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SIZE),
    "bit": lambda: transformers.BitImageProcessor(size={"shortest_edge": 36}, crop_size=SIZE),
    "convnext": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
    "convnext-384": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "beit": lambda: transformers.BeitImageProcessor(size=SIZE, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]),
    "unscaled": lambda: transformers.ViTImageProcessor(size=SIZE, do_rescale=False, do_normalize=False),
    "halves": lambda: transformers.ViTImageProcessor(size=SIZE, rescale_factor=1 / 127.5, image_mean=[1.0] * 3),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_are_those_of_the_image_processor(saved, pictures, kind):
    folder = saved(transformers.ResNetModel(RESNET), PROCESSORS[kind]())
    made = backbones.create(f"transformers:{folder}", transform={"decoder": "pillow"}, **OPTIONS)
    mean, std = (np.array(values)[:, None, None] for values in (made.transform.mean, made.transform.std))
    for path, wanted in zip(pictures, processed(folder, pictures).numpy(), strict=True):
        found = decode(path.read_bytes(), made.transform)
        np.testing.assert_allclose((found / 255 - mean) / std * 255 * std, wanted.astype(float) * 255 * std, atol=1.01)


RESNET = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
SWIN = transformers.SwinConfig(
    image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
)
CLIP = transformers.CLIPConfig(
    vision_config={**SMALL, "patch_size": 8}, text_config={"hidden_size": 16, "intermediate_size": 16}
)
MODELS = {
    "vit": (lambda: transformers.ViTModel(vit()), "vit", "pooled"),
    "dinov2": (lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, patch_size=8)), "vit", "pooled"),
    "swin": (lambda: transformers.SwinModel(SWIN), "vit", "pooled"),
    "resnet": (lambda: transformers.ResNetModel(RESNET), "convnext", "pooled"),
    "clip": (lambda: transformers.CLIPModel(CLIP), "clip", "pooled"),
}


def own_vectors(folder, pixels):
    """What the library's own model gives: all three, where it does."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    model = getattr(model, "vision_model", model)
    with torch.no_grad():
        found = model(pixel_values=pixels)
    last = found.last_hidden_state
    if last.ndim == 4:
        return {"pooled": found.pooler_output.flatten(1), "mean": last.mean((2, 3))}
    return {"pooled": found.pooler_output, "cls": last[:, 0], "mean": last[:, 1:].mean(1)}


@pytest.mark.parametrize("kind", MODELS)
def test_vectors_are_the_models_own(saved, pictures, kind):
    model, processor, default = MODELS[kind]
    folder = saved(model(), PROCESSORS[processor]())
    wanted = own_vectors(folder, processed(folder, pictures))
    name = f"transformers:{folder}"
    how = {"transform": {"decoder": "pillow"}, **OPTIONS}
    chosen = [one for one in wanted if kind != "swin" or one == "pooled"]
    for pooling in chosen:
        made = backbones.create(name, pooling=pooling, **how)
        found = embedded(made, pictures)
        assert found.shape == (2, made.width)
        np.testing.assert_allclose(found, wanted[pooling], atol=2e-3 * float(wanted[pooling].abs().max()))
        assert backbones.cosines(found, wanted[pooling].numpy()).min() > 0.9999
    assert backbones.create(name, **how).spec["pooling"] == default


def test_the_default_decoder_stays_near(saved, pictures):
    folder = saved(transformers.ViTModel(vit()), PROCESSORS["vit"]())
    made = backbones.create(f"transformers:{folder}", **OPTIONS)
    wanted = own_vectors(folder, processed(folder, pictures, "torchvision"))["pooled"].numpy()
    assert backbones.cosines(embedded(made, pictures), wanted).min() > 0.9999


def test_a_pooler_that_was_never_trained_is_not_used(saved):
    folder = saved(transformers.ViTForImageClassification(vit(num_labels=5)), PROCESSORS["vit"]())
    made = backbones.create(f"transformers:{folder}", **OPTIONS)
    assert made.spec["pooling"] == "cls"
    assert any("the embedding is its class token" in note for note in made.notes)
    assert backbones.create(f"transformers:{folder}", **OPTIONS).fingerprint == made.fingerprint
    with pytest.raises(BackboneError, match="cannot be pooled by 'pooled'; choose cls, mean; its pooled output has no"):
        backbones.create(f"transformers:{folder}", pooling="pooled", **OPTIONS)


def test_registers_are_no_patches(saved, pictures):
    config = transformers.Dinov2WithRegistersConfig(**SMALL, patch_size=8, num_register_tokens=3)
    folder = saved(transformers.Dinov2WithRegistersModel(config), PROCESSORS["vit"]())
    made = backbones.create(f"transformers:{folder}", pooling="mean", transform={"decoder": "pillow"}, **OPTIONS)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        wanted = model(processed(folder, pictures)).last_hidden_state[:, 4:].mean(1)
    np.testing.assert_allclose(embedded(made, pictures), wanted, atol=1e-4)


def test_content_decides_the_fingerprint_and_not_the_place(saved, tmp_path):
    folder = saved(transformers.ViTModel(vit()), PROCESSORS["vit"]())
    made = backbones.create(f"transformers:{folder}", **OPTIONS)
    other = tmp_path / "elsewhere"
    shutil.copytree(folder, other)
    assert backbones.create(f"transformers:{other}", **OPTIONS).fingerprint == made.fingerprint
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    assert backbones.create(f"transformers:{other}", **OPTIONS).fingerprint != made.fingerprint


def test_it_is_made_again_from_its_folder_and_at_random(saved, tmp_path):
    folder = saved(transformers.ViTModel(vit()), PROCESSORS["vit"]())
    made = backbones.create(f"transformers:{folder}", **OPTIONS)
    moved = folder.rename(tmp_path / "moved")
    again = backbones.recreate(made.spec, made.source, weights=moved, device="cpu")
    assert again.fingerprint == made.fingerprint
    assert backbones.recreate(again.spec, again.source, device="cpu", trust=True).fingerprint == made.fingerprint
    one, same, other = (backbones.twin(made.spec, "it", seed=seed, device="cpu") for seed in (1, 1, 2))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert backbones.recreate(one.spec, one.source, device="cpu").fingerprint == one.fingerprint


def test_a_description_may_not_ask_for_more_than_a_file_may(saved):
    folder = saved(transformers.ViTModel(vit()), PROCESSORS["vit"]())
    made = backbones.create(f"transformers:{folder}", **OPTIONS)
    weights = str(folder / "model.safetensors")
    for place in ("someone/vit", str(folder)):
        with pytest.raises(BackboneError, match=r"wants transformers to read .*; allow it with --trust .*, or give"):
            backbones.recreate(made.spec, {**made.source, "name": f"transformers:{place}"}, device="cpu")
    for changes, message in (
        ({"auto_map": "code.py"}, "gives the setting 'auto_map'"),
        ({"hidden_act": "a/b"}, "gives the setting 'hidden_act'"),
        ({"num_hidden_layers": 10**4}, "takes more than .* of memory"),
    ):
        spec = {**made.spec, "arguments": {**made.spec["arguments"], **changes}}
        with pytest.raises(BackboneError, match=message):
            backbones.recreate(spec, made.source, weights=weights, device="cpu")
    with pytest.raises(BackboneError, match="wants a model of type 'nothing'"):
        backbones.recreate({**made.spec, "architecture": "transformers:nothing"}, made.source, weights=weights)


def test_what_cannot_be_made_is_one_line(saved, tmp_path):
    def refused(folder, message, kind=BackboneError, **options):
        with pytest.raises(kind, match=message) as caught:
            backbones.create(f"transformers:{folder}", **OPTIONS, **options)
        assert "\n" not in str(caught.value)

    refused(tmp_path, "is not a folder of transformers: it has no config.json")
    refused(tmp_path / "nothing", "is neither a folder here nor a model that can be fetched", WeightsUnavailable)
    bare = saved(transformers.ViTModel(vit()), None, "bare")
    refused(bare, "cannot be loaded by transformers: .*; a folder has config.json, preprocessor_config.json")
    siglip = transformers.Siglip2ImageProcessor()
    refused(saved(transformers.ViTModel(vit()), siglip, "naflex"), "does not resize to one size; say what it does with")
    own = {"input_size": (3, 32, 32), "mean": 0.5, "std": 0.5, "interpolation": "bicubic", "crop_pct": 1.0}
    how = {"transform": {**own, "crop_mode": "squash"}, **OPTIONS}
    assert backbones.create(f"transformers:{tmp_path / 'naflex'}", **how).width == 32
    levit = transformers.LevitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    refused(
        saved(transformers.ResNetModel(RESNET), levit, "levit"),
        "does more than resize, crop and normalise: its pixels differ",
    )
    folder = saved(transformers.ViTModel(vit()), PROCESSORS["vit"](), "good")
    refused(folder, "takes no weights, arguments, random weights or layer", layer="stage1")
    refused(folder, "cannot be pooled by 'max'; choose pooled, cls, mean", pooling="max")
    refused(folder, "fails on 3×48×48 input", transform={"input_size": (3, 48, 48)})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attn_implementation": "someone/kernel"}))
    refused(folder, "cannot be loaded by transformers: its attention is code of a hub")
    (folder / "config.json").write_text(json.dumps(config))
    text = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    refused(saved(transformers.BertModel(text), PROCESSORS["vit"](), "text"), "is not a model of images: it takes inp")
    for file in folder.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:1000])
    refused(folder, "cannot be loaded by transformers")


def test_from_extraction_to_a_model_file_that_carries_it(photos, saved, tmp_path):
    root, store, path = photos(per_class=12), tmp_path / "st", tmp_path / "m.safetensors"
    folder = saved(transformers.ViTModel(vit()), PROCESSORS["vit"]())
    name = f"transformers:{folder}"
    assert extract(root, store, backbone=name, **OPTIONS)["computed"] == 24
    assert extract(root, store, backbone=name, **OPTIONS)["computed"] == 0
    how = {"include_backbone": True, "trust": True, "device": "cpu"}
    probe(store, path, backbone=name, kind="ridge", baselines="full", **how)
    with pytest.raises(FinetuningError, match="is not a network that can be tuned"):
        finetune(store, backbone=name, device="cpu")
    shutil.rmtree(folder)
    assert len(predict(path, root, device="cpu")["predictions"]) == 24
