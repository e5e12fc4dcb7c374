"""Backbones of videos: means over frames and clips, made again from their specs, and torchvision's own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="needs PyAV (the extra video)")

from films import LOSSLESS, film, shades

import featurepipe
from featurepipe import backbones, stores
from featurepipe.errors import BackboneError, ManifestError
from featurepipe.videos import VideoTransform

SMALL = {"random_weights": True, "precision": "fp32"}


@pytest.fixture
def footage():
    rng = np.random.default_rng(0)
    return film(list(rng.integers(0, 256, (24, 40, 56, 3), np.uint8)), **LOSSLESS)


@pytest.fixture
def clips(tmp_path):
    """Ten videos that grow brighter and ten that grow darker, and one that is none."""
    folder = tmp_path / "clips"
    for number in range(20):
        place = folder / ("up" if number % 2 else "down") / f"{number:02}.mp4"
        place.parent.mkdir(parents=True, exist_ok=True)
        frames = shades(20 + number)
        place.write_bytes(film(frames if number % 2 else frames[::-1]))
    (folder / "up" / "broken.mp4").write_bytes(film(shades(20))[:700])
    return folder


def test_the_embedding_is_the_mean_of_the_frames(footage):
    image = backbones.create("test_resnet", **SMALL)
    video = backbones.create("test_resnet", medium="video", transform={"clips": 5}, **SMALL)
    frames = video.transform.decode(footage)
    found = video.embed(np.stack([frames, frames[::-1]]))
    np.testing.assert_allclose(found, np.stack([image.embed(frames).mean(0)] * 2), rtol=1e-4, atol=1e-6)
    assert video.spec["medium"] == "video"
    assert video.fingerprint != image.fingerprint


def test_few_frames_go_through_at_once_on_a_cpu(footage, monkeypatch):
    video = backbones.create("test_resnet", medium="video", transform={"clips": 6}, **SMALL)
    wanted = video.embed(video.transform.trial(2))
    monkeypatch.setattr("featurepipe.backbones.clips.PIECE", 1)
    np.testing.assert_allclose(replace(video).embed(video.transform.trial(2)), wanted, rtol=1e-4, atol=1e-6)


def test_an_inflated_network_gives_for_a_still_what_the_photo_gives():
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    image = backbones.create("test_resnet", **SMALL)
    video = backbones.create("inflated:test_resnet", arguments={"frames": 4, "strides": 1}, **SMALL)
    found = video.embed(video.transform.decode(film([photo] * 12, **LOSSLESS))[None])
    np.testing.assert_allclose(found, image.embed(image.transform.decode(photo)[None]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "how",
    [
        {"name": "test_resnet", "medium": "video", "transform": {"clips": 3}, **SMALL},
        {"name": "test_resnet", "medium": "video", "layer": "stage2", **SMALL},
        {
            "name": "inflated:test_resnet",
            "arguments": {"frames": 8, "taps": "shift"},
            "transform": {"fps": 5.0},
            **SMALL,
        },
        {"name": "color-motion"},
    ],
    ids=["frames", "stage", "inflated", "handmade"],
)
def test_the_backbone_of_a_spec_is_made_again(how):
    made = backbones.create(**how)
    again = backbones.recreate(made.spec, made.source)
    assert (again.fingerprint, again.transform) == (made.fingerprint, made.transform)


def test_layers_have_entries_of_their_own():
    made = backbones.create_layers("test_resnet", "stage1,penultimate", medium="video", **SMALL)
    alone = backbones.create("test_resnet", layer="stage1", medium="video", **SMALL)
    first, last = made.members
    assert first.fingerprint == alone.fingerprint
    found, _ = made.split(made.embed(made.transform.trial(2)))
    np.testing.assert_allclose(found, alone.embed(made.transform.trial(2)), rtol=1e-4, atol=1e-6)
    assert last.width == made.width - first.width


def test_another_precision_and_decoder_are_other_backbones():
    made = backbones.create("inflated:test_resnet", **SMALL)
    other = made.adapted(decoder="pillow")
    assert (other.transform.decoder, other.transform.length) == ("pillow", 16)
    assert other.fingerprint != made.fingerprint


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"name": "test_resnet", "transform": {"clips": 3}, **SMALL}, "clips is for videos; .* is given images"),
        ({"name": "test_resnet", "medium": "video", "transform": {"fps": 3.0}, **SMALL}, "sees single frames"),
        ({"name": "pixels", "medium": "video"}, "pixels is for images, not for videos.* such as color-motion"),
        (
            {"name": "inflated:test_resnet", "arguments": {"frames": 1}, **SMALL},
            "frames of an inflated network is a whole",
        ),
        ({"name": "inflated:test_resnet", "layer": "stage1", **SMALL}, "takes no layer"),
        ({"name": "inflated:no_such", **SMALL}, "no backbone is called 'no_such'"),
    ],
)
def test_what_does_not_fit_is_refused(how, why):
    with pytest.raises(BackboneError, match=why):
        backbones.create(**how)


# Networks, and clips as small as they take them: frames and side.
VIDEO_NETWORKS = {"r3d_18": (4, 32), "mc3_18": (4, 32), "r2plus1d_18": (4, 32), "s3d": (16, 224), "swin3d_t": (2, 32)}


@pytest.mark.slow
@pytest.mark.parametrize("name", VIDEO_NETWORKS)
def test_torchvisions_video_networks_give_what_their_own_classifier_takes(name):
    torch = pytest.importorskip("torch")
    from torchvision.models import get_model

    length, side = VIDEO_NETWORKS[name]
    small = {"clips": 1, "length": length, "input_size": (3, side, side)}
    made = backbones.create(f"torchvision:{name}", transform=small, **SMALL)
    inputs = made.transform.trial(1)  # (1, frames, C, H, W)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        own = get_model(name, weights=None).eval()
    seen = []
    classifier = next(part for part in [*own.modules()][::-1] if isinstance(part, torch.nn.Linear | torch.nn.Conv3d))
    classifier.register_forward_pre_hook(lambda part, given: seen.append(given[0]))
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (made.transform.mean, made.transform.std))
    with torch.inference_mode():
        own((torch.from_numpy(inputs).transpose(1, 2) / 255 - mean) / std)
    wanted = seen[0].flatten(1).numpy()
    np.testing.assert_allclose(made.embed(inputs), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t", "mvit_v1_b", "mvit_v2_s"])
def test_frames_of_torchvisions_video_networks_are_those_of_their_own_transform(name):
    torch = pytest.importorskip("torch")
    from torchvision.models import get_model_weights

    from featurepipe.backbones.makers.torchvision_networks import _video_transform

    weights = get_model_weights(name).DEFAULT
    transform = VideoTransform.from_mapping({**_video_transform(weights, name), "clips": 1})
    frames = np.random.default_rng(0).integers(0, 256, (32, 60, 90, 3), np.uint8)
    found = torch.from_numpy(transform.decode(film(list(frames), **LOSSLESS)))
    numbers = np.minimum((transform.moments(0, 3.2) * 10 + 1e-6).astype(int), 31)
    wanted = weights.transforms()(torch.from_numpy(frames[numbers]).permute(0, 3, 1, 2))  # (C, T, H, W)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (transform.mean, transform.std))
    pixels = (wanted * std + mean).transpose(0, 1) * 255
    assert found.shape == pixels.shape
    torch.testing.assert_close(found.float(), pixels, rtol=0, atol=0.01)


@pytest.mark.slow
def test_a_clip_of_another_length_is_one_clip():
    small = {"length": 4, "input_size": (3, 32, 32)}
    made = backbones.create("torchvision:mc3_18", transform={**small, "clips": 2}, **SMALL)
    inputs = made.transform.trial(2)  # (2, 8, C, H, W)
    halves = np.stack([inputs[1, 4:], inputs[1, 4:]]).reshape(1, *inputs.shape[1:])
    alone = backbones.create("torchvision:mc3_18", transform={**small, "clips": 1}, **SMALL)
    each = alone.embed(inputs.reshape(4, 4, *inputs.shape[2:]))
    np.testing.assert_allclose(made.embed(inputs), each.reshape(2, 2, -1).mean(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made.embed(halves), each[3:], rtol=1e-4, atol=1e-5)


def test_colours_and_motion_tell_what_moves_from_what_is_still():
    descriptor = backbones.create("color-motion")
    still, moving = film([shades(9)[8]] * 20, **LOSSLESS), film(shades(20), **LOSSLESS)
    found = descriptor.embed(np.stack([descriptor.transform.decode(data) for data in (still, moving)]))
    assert found.shape == (2, descriptor.width) == (2, 320)
    assert found[0, 256:].max() == 0
    np.testing.assert_allclose(found[1, 256:], 5 / 255, rtol=1e-4)
    np.testing.assert_allclose(np.square(found[:, :256]).sum(1), 1, rtol=1e-5)


def test_a_folder_of_videos_goes_all_the_way(clips, tmp_path):
    store = tmp_path / "clips.store"
    made = featurepipe.extract(clips, store, backbone="test_resnet", workers=2, **SMALL)
    assert (made["samples"], made["computed"], made["rejected"]) == (21, 20, 1)
    assert list(made["rejects"]) == ["up/broken.mp4"]
    found = featurepipe.probe(store, tmp_path / "model.safetensors", baselines="simple")
    assert "color-motion" in found["baselines"]
    answers = featurepipe.predict(tmp_path / "model.safetensors", [clips / "up" / "01.mp4"])
    assert answers["predictions"][0]["label"] in ("up", "down")


def test_clips_of_a_file_are_samples_of_one_group(clips, tmp_path):
    store = tmp_path / "parts.store"
    (clips / "up" / "broken.mp4").unlink()
    featurepipe.extract(clips, store, backbone="color-motion", clip_seconds=1.0)
    samples = stores.Store(store).rows().samples
    assert len(samples) > 40
    assert samples[0].part == "0.0-1.0"
    assert samples[0].id == f"{samples[0].place}@0.0-1.0"


def test_photos_and_videos_in_one_folder_are_told_apart(clips):
    (clips / "up" / "one.gif").write_bytes(film(shades(3), form="gif", codec="gif", pixels="gray"))
    with pytest.raises(ManifestError, match=r"holds .*1 image.*--medium"):
        featurepipe.extract(clips, backbone="color-motion")
    found = featurepipe.manifests.read(clips, medium="video")
    assert len(found) == 22
    assert Path("up/one.gif") in [Path(sample.place) for sample in found.samples]
