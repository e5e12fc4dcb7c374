"""Training from cached activations is ordinary frozen-bottom training, step for step."""

import numpy as np
import pytest
import torch
from ears import Ear
from PIL import Image

from featurepipe import backbones, manifests
from featurepipe.errors import FinetuningError
from featurepipe.finetuning import Examples, Head, Network, Peers, Recipe, make_cache, promote, random_head, why_not
from featurepipe.listeners import SILENT, Listener
from featurepipe.stores import Pending, digest_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(20):
        path = folder / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 128, (40, 40, 3), np.uint8) + 127 * (index % 2)).convert("RGB").save(path)
    manifest = manifests.read(folder)
    rows = digest_rows(manifest, 1)[0]
    images = [Pending.of(row, manifest.source) for row in rows]
    return manifest.source, rows, Examples(images, np.array([row.sample.label == "b" for row in rows], np.int64))


def curves(name, recipe, pictures, folder, precision="fp32", listener=SILENT):
    """The curve and the tuned weights of an ordinary run, and of one from the cache."""
    source, rows, samples = pictures
    transform = {"input_size": (3, 32, 32)}
    arguments = {"img_size": 32} if "vit" in name else {}
    options = {"random_weights": True, "precision": precision, "transform": transform, "arguments": arguments}
    backbone = backbones.create(name, **options)
    head = Head(*random_head(2, backbone.width, 0), np.array(["a", "b"]), 1.0)

    def cached(copied):
        place = folder / f"{name}-{recipe.tune}"
        return make_cache(copied, samples, samples, recipe, rows, source, place, listener=listener)

    options = {"name": "tuned", "workers": 1}
    plain = promote(backbone, head, samples, samples, recipe, **options)
    return plain, promote(backbone, head, samples, samples, recipe, cached=cached, **options)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_curve_without_augmentation_is_that_of_ordinary_training(name, optimizer, pictures, tmp_path):
    recipe = Recipe("last-1", epochs=3, batch_size=8, optimizer=optimizer, lr=1e-2, augment="none", patience=0)
    plain, cached = curves(name, recipe, pictures, tmp_path)
    assert (plain.cached, cached.cached) == (False, True)
    for one, other in zip(plain.outcome.curve[1:], cached.outcome.curve[1:], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["log_loss"] == pytest.approx(other["log_loss"], rel=1e-4)
    assert plain.outcome.curve[-1]["train_loss"] != pytest.approx(plain.outcome.curve[1]["train_loss"], rel=1e-3)


def test_the_first_epochs_see_the_views_that_ordinary_training_sees(pictures, tmp_path):
    recipe = Recipe("last-1", epochs=3, batch_size=8, lr=1e-2, augment="standard", views=2, patience=0)
    plain, cached = curves("test_resnet", recipe, pictures, tmp_path)
    losses = [[row["train_loss"] for row in one.outcome.curve[1:]] for one in (plain, cached)]
    np.testing.assert_allclose(losses[1][:2], losses[0][:2], rtol=1e-4)
    for one, other in zip(plain.outcome.curve[:3], cached.outcome.curve[:3], strict=True):  # validated as they are
        assert one["log_loss"] == pytest.approx(other["log_loss"], rel=1e-4)
    assert losses[1][2] != pytest.approx(losses[0][2], rel=1e-4)  # the third has a view of its own in one alone


def test_a_second_run_computes_nothing(pictures, tmp_path):
    class Counting(Listener):
        images = 0

        def progress(self, label, total):
            self.images += total if label == "caching activations" else 0
            return super().progress(label, total)

    recipe, counting = Recipe("last-1", epochs=1, batch_size=8, augment="none"), Counting()
    first = curves("test_resnet", recipe, pictures, tmp_path, listener=counting)[1]
    assert counting.images == 20
    second = curves("test_resnet", recipe, pictures, tmp_path, listener=counting)[1]
    assert counting.images == 20
    assert second.outcome.curve[1]["train_loss"] == first.outcome.curve[1]["train_loss"]


@pytest.mark.parametrize(
    ("recipe", "precision", "peers", "why"),
    [
        (Recipe("last-1"), "fp32", Peers(), None),
        (Recipe("all"), "fp32", Peers(), "nothing below"),
        (Recipe("head"), "fp32", Peers(), "head alone"),
        (Recipe("last-1", mixup=0.2), "fp32", Peers(), "mixes pixels"),
        (Recipe("last-1", precision="fp32"), "bf16", Peers(), "in bf16, and training in fp32"),
        (Recipe("last-1"), "fp32", Peers(0, 2), "several processes"),
    ],
)
def test_what_cannot_be_cached_says_why(recipe, precision, peers, why):
    found = why_not(recipe, precision, peers)
    assert found is None if why is None else why in found


def test_a_network_that_trains_from_its_first_layer_has_nothing_to_cache(pictures, tmp_path):
    with pytest.raises(FinetuningError, match="nothing to cache"):
        curves("test_resnet", Recipe("stage1+", epochs=1), pictures, tmp_path)


def test_another_depths_activations_go_when_a_run_begins_and_those_of_the_same_depth_stay(pictures, tmp_path):
    source, rows, samples = pictures
    backbone = backbones.create("test_resnet", random_weights=True, transform={"input_size": (3, 32, 32)})
    notes = []

    def run(tune, **recipe):
        given = samples, samples, Recipe(tune, **recipe), rows, source, tmp_path / "activations"
        made = make_cache(backbone, *given, workers=1, listener=Ear(notes.append))
        return made, {path.name for path in (tmp_path / "activations").iterdir() if path.is_dir()}

    first, of_first = run("last-1", views=2)
    assert len(of_first) == 3  # and the images as they are
    second, of_both = run("last-2", views=2)
    assert of_first < of_both  # the first still goes on
    first.release()
    second.release()
    same, of_second = run("last-2", views=2, lr=1.0, epochs=7)
    assert of_second == of_both - of_first
    assert len(notes) == 1
    same.release()
    assert run("last-2", views=1)[1] < of_second


def gradients(name, tune, arguments, pictures, folder, checkpointing, precision="fp32"):
    """Of one cached step: by parameter, and the bytes that were kept for the backward pass."""
    source, rows, samples = pictures
    options = {"random_weights": True, "precision": precision, "transform": {"input_size": (3, 32, 32)}}
    backbone = backbones.create(name, arguments=arguments, **options)
    recipe = Recipe(tune, augment="none", batch_size=20, checkpointing=checkpointing, batch_norm="eval")
    made = make_cache(backbone, samples, samples, recipe, rows, source, folder / "activations", workers=1)
    network = Network(backbone, *random_head(2, backbone.width, 0), recipe, made.forward)
    (step,) = made.train.epoch(1)
    kept = []

    def pack(tensor):
        kept.append(tensor.nbytes)
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = torch.nn.functional.cross_entropy(network.logits(step.inputs), step.targets)
    loss.backward()
    found = {name: one.grad for name, one in network.module.named_parameters() if one.grad is not None}
    return {**found, "head": network.head.weight.grad}, sum(kept)


@pytest.mark.parametrize(
    ("name", "tune", "arguments", "precision"),
    [
        ("test_resnet", "stage4+", {}, "fp32"),  # a whole stage, in its network's outermost call
        ("resnet18", "last-3", {}, "fp32"),  # part of one, and a whole one
        ("test_vit", "last-3", {"img_size": 32}, "fp32"),
        ("test_vit", "last-3", {"img_size": 32, "drop_path_rate": 0.5, "proj_drop_rate": 0.2}, "fp32"),
        ("test_vit", "last-3", {"img_size": 32}, "bf16"),
        ("test_convnext", "stage3+", {}, "fp32"),  # whose stages do it themselves
        ("test_efficientnet", "last-2", {}, "fp32"),
    ],
)
def test_checkpointing_keeps_less_and_leaves_the_gradients(name, tune, arguments, precision, pictures, tmp_path):
    plain, much = gradients(name, tune, arguments, pictures, tmp_path, False, precision)
    again, less = gradients(name, tune, arguments, pictures, tmp_path, True, precision)
    assert plain.keys() == again.keys()
    for parameter in plain:
        torch.testing.assert_close(again[parameter], plain[parameter], rtol=0, atol=0)
    assert any(one.abs().max() > 0 for key, one in plain.items() if key != "head")
    assert less < 0.8 * much
