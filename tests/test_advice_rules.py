"""Advice from evidence alone: the cells, the expected gains, the choice, and what is said about it."""

import json

import pytest

from featurepipe import advice
from featurepipe.advice import rules


def evidence(**changes):
    """A plain case: 5,000 images of 10 classes, a probe of 70 %, features that half know the classes."""
    images, classes = changes.pop("images", 5000), changes.pop("classes", 10)
    top1 = changes.pop("top1", 0.7)
    plain = {
        "images": images,
        "classes": classes,
        "per_class": {"min": images // classes, "median": images / classes},
        "masked": False,
        "measured_on": "val",
        "measured": images,
        "layer": "penultimate",
        "best_layer": "penultimate",
        "top1": top1,
        "train_top1": 1.0,
        "layers": [
            {"layer": "stage3", "width": 8, "top1": max(top1 - 0.1, 0.0), "log_loss": 1.0, "logme": 0.0},
            {"layer": "penultimate", "width": 8, "top1": top1, "log_loss": 1.0, "logme": 0.1},
        ],
        "knn": 0.6,
        "baselines": {"chance": 0.1, "raw pixels": 0.3},
        "similarity": 0.5,
        "labels": {"curve": [], "floor": 0.1, "per_doubling": 0.01, "standard_error": 0.002},
    }
    return {**plain, **changes}


def better_stage(by, **changes):
    case = evidence(**changes)
    case["layers"][0]["top1"] = case["top1"] + by
    return {**case, "best_layer": "stage3"}


@pytest.mark.parametrize(
    ("case", "option", "size", "similarity"),
    [
        # 12 flowers, ants and bees: 96 % and more leave nothing to show
        (evidence(images=720, classes=12, top1=0.97, similarity=0.92), "linear", "small", "similar"),
        (evidence(images=244, classes=2, top1=0.92, similarity=0.76), "linear", "small", "similar"),
        # CIFAR-10 through a small network
        (evidence(images=100, top1=0.54, similarity=0.43), "linear", "small", "different"),
        (evidence(images=1000, top1=0.61, similarity=0.40), "tune-all", "large", "different"),
        (evidence(images=5000, top1=0.80, similarity=0.48), "tune-all", "large", "different"),
        # much data, of which the features know nearly all
        (evidence(images=5000, top1=0.94, similarity=0.85), "tune-last", "large", "similar"),
        (evidence(images=50_000, top1=0.998, similarity=0.98), "linear", "large", "similar"),
        # little data of which an earlier stage knows more
        (better_stage(0.08, images=400, top1=0.85, similarity=0.8), "stage", "small", "different"),
    ],
)
def test_known_cases_get_the_advice_that_is_known_to_be_right(case, option, size, similarity):
    found = advice.decide(case)
    assert (found["option"], found["cell"]["size"], found["cell"]["similarity"]) == (option, size, similarity)
    assert found["cell"]["table"] == advice.TABLE[size, similarity]


@pytest.mark.parametrize(
    ("case", "tune", "layer"),
    [
        (evidence(), "all", "penultimate"),
        (evidence(top1=0.94, similarity=0.85), "last-3", "penultimate"),
        (evidence(top1=0.999), None, "penultimate"),
        (better_stage(0.08, images=400, top1=0.85, similarity=0.8), None, "stage3"),
    ],
)
def test_depth_and_layer_are_those_that_tuning_and_probing_take(case, tune, layer):
    from featurepipe.finetuning import check_depth

    found = advice.decide(case)
    assert (found["tune"], found["layer"]) == (tune, layer)
    if tune is not None:
        check_depth(tune)


def test_advice_can_be_replayed_from_json():
    case = evidence()
    assert advice.decide(json.loads(json.dumps(case))) == json.loads(json.dumps(advice.decide(case)))


def test_more_images_and_less_similarity_make_more_to_gain():
    def gain(**changes):
        return advice.decide(evidence(**changes))["expected_gain"]["tune-all"]["mean"]

    by_images = [gain(images=n) for n in (100, 300, 1000, 5000, 20_000)]
    assert by_images == sorted(by_images)
    assert by_images[0] == 0
    by_similarity = [gain(similarity=s) for s in (1.0, 0.5, 0.0)]
    assert by_similarity == sorted(by_similarity)
    assert gain(images=10**7, similarity=0) == pytest.approx(rules.MOST * 0.3)


def test_gains_are_ordered_and_never_more_than_the_headroom():
    for top1 in (0.0, 0.3, 0.9, 1.0):
        for images in (20, 1000, 10**6):
            gains = advice.decide(evidence(images=images, top1=top1, similarity=0.0))["expected_gain"]
            assert list(gains) == list(advice.OPTIONS)
            for option in ("tune-last", "tune-all"):
                low, mean, high = (gains[option][key] for key in ("low", "mean", "high"))
                assert 0 <= low <= mean <= high
                assert mean <= 1 - top1


def test_what_validation_cannot_show_is_not_advised():
    few, many = (advice.decide(evidence(images=500, top1=0.92, measured=n)) for n in (20, 5000))
    assert few["expected_gain"] == many["expected_gain"] | {"stage": few["expected_gain"]["stage"]}
    assert (few["option"], many["option"]) == ("linear", "tune-last")
    assert any("one standard error here" in reason for reason in few["reasons"])


def test_few_images_per_class_are_few_however_many_there_are():
    found = advice.decide(evidence(images=3000, classes=1000, top1=0.4))
    assert (found["option"], found["cell"]["size"]) == ("linear", "small")
    assert any("per class" in warning for warning in found["warnings"])


def test_an_earlier_stage_that_leads_by_less_than_a_point_changes_nothing():
    found = advice.decide(better_stage(0.003, top1=0.99, similarity=0.9))
    assert (found["option"], found["cell"]["similarity"]) == ("linear", "similar")
    assert any("No earlier layer beats" in reason for reason in found["reasons"])


def test_backbones_pretrained_by_masking_are_warned_of_and_counted_as_different():
    plain, masked = (advice.decide(evidence(similarity=0.9, masked=m)) for m in (False, True))
    assert not any("masking" in warning for warning in plain["warnings"])
    assert any("46.0 %" in warning and "81.3 %" in warning for warning in masked["warnings"])
    assert (plain["cell"]["similarity"], masked["cell"]["similarity"]) == ("similar", "different")
    assert masked["expected_gain"]["tune-all"]["mean"] > plain["expected_gain"]["tune-all"]["mean"]


@pytest.mark.parametrize(
    ("images", "per_doubling", "error", "pays"),
    [(100, 0.05, 0.02, True), (100, 0.05, 0.045, False), (5000, 0.05, 0.01, False), (100, 0.005, 0.0, False)],
)
def test_labels_are_asked_for_where_they_pay_more_than_tuning(images, per_doubling, error, pays):
    labels = {"curve": [], "floor": 0.1, "per_doubling": per_doubling, "standard_error": error}
    found = advice.decide(evidence(images=images, labels=labels))
    assert found["more_labels"] is pays
    assert any("labels pay more" in reason for reason in found["reasons"]) is pays


def test_one_layer_and_no_curve_are_evidence_enough():
    case = evidence(labels=None)
    found = advice.decide({**case, "layers": case["layers"][1:]})
    assert found["option"] == "tune-all"
    assert found["expected_gain"]["stage"] is None
    assert any("one layer" in warning for warning in found["warnings"])


def test_the_table_is_named_where_the_gains_overrule_it():
    overruled, followed = advice.decide(evidence(images=100, similarity=0.4)), advice.decide(evidence(similarity=0.3))
    assert any("is to probe an earlier layer" in reason for reason in overruled["reasons"])
    assert not any("usual rule" in reason for reason in followed["reasons"])


def test_tuning_deeper_and_longer_costs_more():
    short, long = (advice.minutes(1000, 200, 0.01, epochs=n, views=4) for n in (20, 60))
    assert short["linear"] == short["stage"] == 0 < short["tune-last"] < short["tune-all"]
    assert long["tune-all"] == pytest.approx(3 * short["tune-all"], abs=0.1)
    assert long["tune-last"] < 3 * short["tune-last"]  # the frozen part is run once
