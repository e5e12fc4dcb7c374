"""What the README promises, on the data that comes with the package and on real photos with real weights."""

import runpy
from pathlib import Path

import pytest
from PIL import Image

from featurepipe import stages

pytestmark = pytest.mark.slow

DIGITS = Path(__file__).parents[1] / "data" / "digits"


def test_the_quickstart_beats_raw_pixels_with_all_labels_and_by_four_points_with_ten(tmp_path):
    result = stages.run(DIGITS, tmp_path, shots=[10])
    (few,) = result["few_shot"]
    assert result["samples"] == 1797
    assert result["test"]["top1"] > result["baselines"]["pixels"]
    assert few["repeats"] == 10
    assert few["mean"] - few["baselines"]["pixels"] >= 0.04
    picture = runpy.run_path(str(DIGITS.parents[1] / "docs" / "picture.py"))
    with Image.open(DIGITS.parents[1] / "docs" / picture["REPORT"]) as taken:
        seen = taken.text["page"]
    today = picture["shown"](Path(result["report"]).read_text("utf-8"))
    assert picture["masked"](seen) == picture["masked"](today), "the page looks different now: python docs/picture.py"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("data", "name", "baselines", "least"),
    [
        ("flowers12", "vit_tiny_patch16_224", "simple", 0.98),
        ("flowers12", "mobilenetv2_100", "full", 0.95),
        ("hymenoptera", "vit_tiny_patch16_224", "full", 0.94),
        ("hymenoptera", "mobilenetv2_100", "simple", 0.94),
    ],
)
def test_real_weights_on_real_photos(shared, tmp_path, data, name, baselines, least):
    weights = shared / "weights" / f"{name}.safetensors"
    result = stages.run(shared / "datasets" / data, tmp_path, backbone=name, weights=weights, baselines=baselines)
    figures = result[result["evaluated_on"]]
    assert figures["top1"] >= least
    assert result["baselines"]["pixels"] < figures["top1"] - 0.2
    if baselines == "full":
        assert result["baselines"]["random_backbone"] < 0.75


@pytest.mark.shared
def test_the_bundled_backbone_is_of_use_on_photos(shared, tmp_path):
    result = stages.run(shared / "datasets" / "flowers12", tmp_path, baselines="full")
    assert result["test"]["top1"] > result["baselines"]["random_backbone"] + 0.05


@pytest.mark.shared
def test_a_network_of_images_hears_sounds_of_a_room_that_it_was_not_trained_in(shared, tmp_path):
    pytest.importorskip("soundfile", reason="needs featurepipe[sound]")
    rows = ["path,label,split,group"]
    for file in sorted((shared / "datasets" / "sound_events").rglob("*.flac")):
        label, room, recording, _ = file.stem.split("_")
        rows.append(f"{file},{label},{'train' if room == 'large' else 'test'},{label}_{room}_{recording}")
    (tmp_path / "rooms.csv").write_text("\n".join(rows), "utf-8")
    weights = shared / "weights" / "mobilenetv2_100.safetensors"
    result = stages.run(
        tmp_path / "rooms.csv", tmp_path / "r", backbone="mobilenetv2_100", weights=weights, precision="fp32"
    )
    assert result["test"]["n"] == 150
    assert result["test"]["top1"] >= 0.8
    assert result["baselines"]["mfcc"] <= result["test"]["top1"] - 0.05
