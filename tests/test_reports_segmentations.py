"""The page of a segmentation: words follow from figures, names of strangers stay text, and few images fit too."""

import numpy as np
import pytest
from PIL import Image

from featurepipe.reports import exemplars, segmentation_page
from featurepipe.reports.looks import Look, jpeg
from featurepipe.segmentation import confused, overlay, small

EVIL = "<img src=x onerror=alert(1)>"
NO_BREAK = "\N{NO-BREAK SPACE}"
FIGURES = {"n": 9, "pixel_accuracy": 0.9, "pixel_accuracy_interval": [0.8, 0.95]}
RESULT = {
    **{**FIGURES, "kind": "lda", "strength": 0.1, "evaluated_on": "test", "miou": 0.8, "miou_interval": [0.7, 0.85]},
    **{"model": "deep/m.safetensors", "backbone": "vit", "grid": [7, 7], "classes": ["ground", EVIL], "covered": 1.0},
    **{"splits": {"train": 20, "test": 9}, "without_mask": 0, "fit_seconds": 1.0, "folds": 5},
    "per_class": {"ground": {"iou": 0.9, "pixels": 75}, EVIL: {"iou": 0.7, "pixels": 25}},
    "confused": [{"true": EVIL, "predicted": "ground", "pixels": 5, "share": 0.2}],
    "images": [{"id": f"{n}.png", "miou": n / 20} for n in range(20)],
    "path": [{"kind": "lda", "strength": strength, "miou": 0.7} for strength in (0.01, 0.1)],
    "baselines": {
        "colour": {
            **{**FIGURES, "miou": 0.4, "miou_interval": [0.3, 0.5]},
            "per_class": {"ground": {"iou": 0.6, "pixels": 75}, EVIL: {"iou": 0.2, "pixels": 25}},
        }
    },
}


def drawn(**changes):
    looks = {one["id"]: [Look(picture="AAAA")] * 3 for one in RESULT["images"]}
    return segmentation_page({**RESULT, **changes}, "blocks", {"seed": 0}, looks).replace(NO_BREAK, " ")


def test_the_answer_is_in_words():
    page = drawn()
    assert "80.0 %" in page
    assert "95 % interval 70.0–85.0 %" in page
    assert "Answering “ground” everywhere gives mIoU 37.5 % and 75.0 % of the pixels." in page
    assert "The network is 40.0 points better, and the intervals do not overlap." in page
    assert "20.0 % of “&lt;img src=x" in page
    assert "featurepipe paint m.safetensors PHOTOS -o masks --overlays" in page
    assert "<img src=x" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('<figure class="card">') == 12
    assert page.index("0.png") < page.index("19.png")  # the worst come first


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([0.45, 0.9], "the intervals overlap: it is not certain that its tokens help"),
        ([0.1, 0.2], "its tokens do not help here"),
        (None, "on too few images to say how sure that is"),
    ],
)
def test_the_network_is_compared_with_colours_by_intervals(interval, said):
    assert said in drawn(miou_interval=interval)


def test_what_is_not_there_is_left_out():
    page = drawn(baselines={}, path=[], confused=[], images=[], kind="logistic", strength=None, covered=0.5)
    assert "No baseline was measured." in page
    assert "has seen 50.0 % of the pixels" in page
    for title in ("How the strength was chosen", "Most confused classes", "Look at these first"):
        assert title not in page


def test_the_sheet_has_each_image_once():
    for count in (1, 4, 5, 8, 9, 30):
        images = [{"id": str(n), "miou": n / 30} for n in range(count)]
        found = exemplars(images)
        ids = [id_ for part in found.values() for id_ in part]
        assert len(ids) == len(set(ids)) == min(count, 12)
        assert found["worst"][0] == "0"
    assert found["middle"] == ["13", "14", "15", "16"]
    assert found["best"] == ["29", "28", "27", "26"]
    assert exemplars([{"id": "a", "miou": None}])["worst"] == []


def test_small_copies_show_masks_over_the_image():
    picture = Image.fromarray(np.full((300, 600, 3), 100, np.uint8))
    mask = np.zeros((300, 600), int)
    mask[:, 300:] = 1
    mask[150:] = -1
    plain, shown = small(picture, mask)
    assert plain.shape == shown.shape == (112, 224, 3)
    assert (shown[:50, :100] == 100).all()
    assert (shown[:50, 120:] != 100).any()
    assert (shown[60:] == 255).all()
    assert (overlay(picture, np.full((300, 600), -1)) == 255).all()
    assert jpeg(shown)


def test_pairs_of_confused_classes_are_the_most_common_ones():
    matrix = np.array([[5, 0, 5], [1, 9, 0], [0, 0, 0]])
    assert [(one["true"], one["predicted"], one["share"]) for one in confused(matrix, ["a", "b", "c"])] == [
        ("a", "c", 0.5),
        ("b", "a", 0.1),
    ]
    assert len(confused(matrix, ["a", "b", "c"], most=1)) == 1
