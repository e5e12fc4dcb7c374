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


def test_torchvisions_video_network_gives_what_it_gives_on_its_own_transform():
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from torchvision.models import get_model, get_model_weights

    made = backbones.create("torchvision:r3d_18", transform={"clips": 2, "length": 16}, **SMALL)
    frames = np.random.default_rng(0).integers(0, 256, (32, 60, 90, 3), np.uint8)
    found = made.embed(made.transform.decode(film(list(frames), **LOSSLESS))[None])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        own = get_model("r3d_18", weights=None).eval()
    own.fc = torch.nn.Identity()
    times = made.transform.moments(0, 3.2)
    chosen = torch.from_numpy(frames[np.minimum((times * 10 + 1e-6).astype(int), 31)]).permute(0, 3, 1, 2)
    prepared = get_model_weights("r3d_18").DEFAULT.transforms()(chosen.unflatten(0, (2, 16)))
    with torch.inference_mode():
        wanted = own(prepared).mean(0, keepdim=True).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


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
