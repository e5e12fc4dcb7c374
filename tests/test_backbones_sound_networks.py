"""Networks of images that hear sounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from recorded import noise, tone, written

from featurepipe import backbones
from featurepipe.backbones.specs import check_shapes
from featurepipe.errors import BackboneError

pytest.importorskip("soundfile", reason="needs featurepipe[sound]")
NET = {"random_weights": True, "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def heard():
    return backbones.create("test_resnet", medium="sound", **NET)


def inputs(extractor, *signals):
    return np.stack([extractor.transform.decode(written(signal, subtype="FLOAT")) for signal in signals])


def test_a_vector_is_the_mean_of_the_networks_own_over_the_windows(heard):
    found = inputs(heard, noise(2.5), tone(440, 0.4), noise(30, seed=1))
    vectors = heard.embed(found)
    for windows, vector in zip(found, vectors, strict=True):
        x = torch.from_numpy(windows[~np.isnan(windows[:, 0, 0])])[:, None].expand(-1, 3, -1, -1)
        with torch.inference_mode():
            own = heard.module.forward_head(heard.module.forward_features(x), pre_logits=True)
        assert np.allclose(vector, own.mean(0).numpy(), atol=1e-5)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, heard.width)


def test_the_other_sounds_of_a_batch_do_not_matter(heard):
    one, other = inputs(heard, noise(1), noise(5, seed=1))
    together = heard.embed(np.stack([one, other]))
    assert np.allclose(together, np.concatenate([heard.embed(one[None]), heard.embed(other[None])]), atol=1e-5)


def test_the_spec_is_the_networks_with_the_medium_and_the_windows(heard):
    image = backbones.create("test_resnet", **NET)
    assert {**image.spec, "medium": "sound", "windows": heard.spec["windows"]} == heard.spec
    assert heard.spec["windows"]["windows"] == 10
    assert heard.spec["windows"]["size"] == [160, 160]
    assert heard.fingerprint != image.fingerprint
    check_shapes(heard.spec, heard.source)


@pytest.mark.parametrize("name", ["test_resnet", "mfcc"])
def test_it_is_made_again_of_what_a_file_says(name):
    made = backbones.create(name, medium="sound", **(NET if name != "mfcc" else {}))
    again = backbones.recreate(made.spec, made.source, device="cpu")
    assert again.fingerprint == made.fingerprint
    assert again.transform == made.transform


def test_a_file_that_lacks_what_the_network_needs_is_refused_in_one_line(heard):
    spec = {**heard.spec, "transform": {}}
    with pytest.raises(BackboneError, match="does not describe a backbone: its spec lacks 'input_size'"):
        backbones.recreate(spec, heard.source, device="cpu", who="x.safetensors")


def test_layers_are_those_of_one_pass():
    several = backbones.create_layers("test_resnet", "stage2,penultimate", medium="sound", **NET)
    stage, last = several.members
    x = inputs(several, noise(2))
    assert np.allclose(several.embed(x), np.concatenate([stage.embed(x), last.embed(x)], axis=1), atol=1e-5)
    alone = backbones.create("test_resnet", layer="stage2", medium="sound", **NET)
    assert stage.fingerprint == alone.fingerprint


def test_a_network_of_one_channel_hears_too():
    grey = backbones.create("test_resnet", medium="sound", arguments={"in_chans": 1}, **NET)
    assert np.isfinite(grey.embed(inputs(grey, noise()))).all()


def test_it_cannot_be_tuned_and_its_twin_hears(heard):
    assert not backbones.is_tunable(heard.spec)
    twin = backbones.twin(heard.spec, "test_resnet", seed=1, device="cpu")
    assert twin.transform == heard.transform
    assert twin.spec["weights"] != heard.spec["weights"]


def test_inputs_of_another_shape_are_refused(heard):
    with pytest.raises(BackboneError, match="float32"):
        heard.embed(np.zeros((1, 3, 160, 160), np.uint8))


def test_what_hears_does_not_see_and_says_so():
    with pytest.raises(BackboneError, match=r"mfcc is for sounds, not for images; choose .* such as pixels"):
        backbones.create("mfcc", medium="image")
    with pytest.raises(BackboneError, match=r"pixels is for images, not for sounds; choose .* such as mfcc"):
        backbones.create("pixels", medium="sound")


def test_mfcc_takes_no_options():
    with pytest.raises(BackboneError, match="mfcc takes no"):
        backbones.create("mfcc", layer="stage1")
    made = backbones.create("mfcc")
    assert replace(made, name="other").width == made.width == 80
    assert backbones.is_handmade(made.spec)
