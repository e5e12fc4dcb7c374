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
    with Image.open(picture["PICTURE"]) as taken:
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
