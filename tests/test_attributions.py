"""Maps of what speaks for a class: a bright patch that alone decides the label is where they are highest."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from featurepipe import attributions, backbones, models, probes
from featurepipe.errors import BackboneError, ModelFileError

SIDE, PATCH = 128, 32


def picture(rng, at=None):
    """Grey noise (3, 128, 128), with a bright square at a place (row, column) of the 4×4 grid, or none."""
    pixels = rng.integers(60, 100, (3, SIDE, SIDE), np.uint8)
    if at is not None:
        rows, columns = (slice(PATCH * one, PATCH * (one + 1)) for one in at)
        pixels[:, rows, columns] = rng.integers(200, 255, (3, PATCH, PATCH), np.uint8)
    return pixels


def taught(name, kind="logistic", **options):
    """A network with random weights, and a model that tells pictures with the square from those without."""
    rng = np.random.default_rng(0)
    backbone = backbones.create(
        name, random_weights=True, transform={"input_size": (3, SIDE, SIDE)}, device="cpu", **options
    )
    lit = [picture(rng, rng.integers(0, 4, 2)) for _ in range(24)]
    dark = [picture(rng) for _ in range(24)]
    X, y = backbone.embed(np.stack([*lit, *dark])), np.array(["lit"] * 24 + ["dark"] * 24)
    found = probes.fit(kind, X, y, value=None if kind == "centroid" else 1.0, measure=False)
    assert (found.estimator.predict(X) == y).mean() > 0.95
    model = models.Model(kind, found.estimator, 1.0, {}, np.zeros(0, np.uint64), SimpleNamespace())
    return backbone, model


def places(backbone, model, label="lit", count=10):
    """Where the square is and where the map is highest, in cells of the 4×4 grid."""
    rng, found = np.random.default_rng(1), []
    for _ in range(count):
        at = rng.integers(0, 4, 2)
        map_ = attributions.attribute(model, backbone, picture(rng, at), model.classes.tolist().index(label))
        assert map_.min() >= 0
        assert map_.max() == pytest.approx(1)
        best = np.array(np.unravel_index(map_.argmax(), map_.shape)) * 4 // map_.shape[0]
        found.append((tuple(at.tolist()), tuple(best.tolist())))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_the_map_of_a_convolutional_network_is_highest_on_the_square(kind):
    pairs = places(*taught("test_resnet", kind))
    assert sum(at == best for at, best in pairs) >= 8, pairs


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["avg", "token"])
def test_the_map_of_a_transformer_is_highest_on_the_square(pooling):
    pairs = places(*taught("test_vit", pooling=pooling, arguments={"img_size": SIDE}))
    assert sum(at == best for at, best in pairs) >= 8, pairs


def test_where_a_network_ends_in_a_mean_the_map_is_the_class_activation_map():
    backbone, model = taught("test_resnet")
    pixels = picture(np.random.default_rng(2), (1, 3))
    with torch.no_grad():
        x = torch.from_numpy(pixels[None].astype(np.float32)) / 255
        mean, std = (torch.tensor(one).view(-1, 1, 1) for one in (backbone.transform.mean, backbone.transform.std))
        features = backbone.module.forward_features((x - mean) / std)[0].numpy()  # (D, h, w)
    assert model.classes.tolist() == ["dark", "lit"]
    expected = np.maximum(np.tensordot(model.estimator.coef_[0], features, 1), 0)
    found = attributions.attribute(model, backbone, pixels, 1)
    assert found == pytest.approx(expected / expected.max(), abs=1e-4)
    other = attributions.attribute(model, backbone, pixels, 0)
    assert not ((found > 0) & (other > 0)).any()  # what speaks for one of two classes speaks against the other


def test_of_a_small_image_the_last_map_that_has_places_is_taken():
    backbone = backbones.create("test_resnet", random_weights=True, transform={"input_size": (3, 32, 32)}, device="cpu")
    X = backbone.embed(backbone.transform.trial(8))
    found = probes.fit("ridge", X, np.array(["a", "b"] * 4), value=1.0)
    model = models.Model("ridge", found.estimator, 1.0, {}, np.zeros(0, np.uint64), SimpleNamespace())
    assert attributions.attribute(model, backbone, backbone.transform.trial(1)[0], 0).shape == (2, 2)


def test_a_network_is_left_as_it_was():
    backbone, model = taught("test_resnet")
    pixels = picture(np.random.default_rng(2), (0, 0))
    before = backbone.embed(pixels[None])
    attributions.attribute(model, backbone, pixels, 1)
    assert (backbone.embed(pixels[None]) == before).all()
    assert not any(one._forward_hooks for one in backbone.module.modules())
    assert not any(one.requires_grad for one in backbone.module.parameters())


def test_what_has_no_weights_or_no_places_is_refused():
    backbone, model = taught("test_resnet", "centroid")
    with pytest.raises(ModelFileError, match="maps of a centroid probe are not built"):
        attributions.check(model, backbone, "m.safetensors")
    plain = backbones.create("pixels")
    linear = SimpleNamespace(kind="ridge")
    with pytest.raises(BackboneError, match="maps are drawn of networks"):
        attributions.check(linear, plain, "m.safetensors")
