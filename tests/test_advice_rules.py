"""Advice from evidence alone: the cells, the expected gains, the choice, and what is said about it.

What tuning brings is given, so that nothing here depends on what finished runs came to.
"""

import json
from dataclasses import replace

import pytest

from featurepipe import advice
from featurepipe.advice import rules

BROUGHT = advice.Constants(share=0.2, last=0.5, spread=0.1)


def decide(case, **changes):
    return advice.decide(case, replace(BROUGHT, **changes))


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
        (evidence(images=244, classes=2, top1=0.96, similarity=0.76), "linear", "small", "similar"),
        # CIFAR-10 through a small network
        (evidence(images=100, top1=0.54, similarity=0.43), "tune-all", "small", "different"),
        (evidence(images=40, top1=0.54, similarity=0.43), "linear", "small", "different"),  # four of each
        (evidence(images=1000, top1=0.61, similarity=0.40), "tune-all", "large", "different"),
        (evidence(images=5000, top1=0.80, similarity=0.48), "tune-all", "large", "different"),
        # much data, of which the features know nearly all
        (evidence(images=5000, top1=0.91, similarity=0.85), "tune-last", "large", "similar"),
        (evidence(images=5000, top1=0.96, similarity=0.85), "linear", "large", "similar"),
        (evidence(images=50_000, top1=0.998, similarity=0.98), "linear", "large", "similar"),
        # little data of which an earlier stage knows more
        (better_stage(0.08, images=400, top1=0.85, similarity=0.8), "stage", "small", "different"),
    ],
)
def test_the_option_is_the_one_that_the_constants_promise_most_of_for_its_cost(case, option, size, similarity):
    found = decide(case)
    assert (found["option"], found["cell"]["size"], found["cell"]["similarity"]) == (option, size, similarity)
    assert found["cell"]["table"] == advice.TABLE[size, similarity]


@pytest.mark.parametrize(
    ("case", "tune", "layer"),
    [
        (evidence(), "all", "penultimate"),
        (evidence(top1=0.91, similarity=0.85), "last-3", "penultimate"),
        (evidence(top1=0.999), None, "penultimate"),
        (better_stage(0.08, images=400, top1=0.85, similarity=0.8), None, "stage3"),
    ],
)
def test_depth_and_layer_are_those_that_tuning_and_probing_take(case, tune, layer):
    from featurepipe.finetuning import check_depth

    found = decide(case)
    assert (found["tune"], found["layer"]) == (tune, layer)
    if tune is not None:
        check_depth(tune)


def tokens(top1=None, *, possible=True, n=5000):
    return {"there": True, "possible": possible, "attentive": None if top1 is None else {"top1": top1, "n": n}}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, None),
        ({"tokens": tokens()}, None),  # nothing speaks for it
        ({"tokens": tokens(), "masked": True}, "try"),
        ({"tokens": tokens(possible=False), "masked": True}, None),  # a network without tokens
        ({"tokens": tokens(0.76), "masked": True}, "use"),
        ({"tokens": tokens(0.76)}, "use"),
        ({"tokens": tokens(0.705)}, "keep"),  # less than a point
        ({"tokens": tokens(0.6)}, "keep"),
        ({"tokens": tokens(0.72, n=100), "measured": 100}, "keep"),  # chance explains it
    ],
)
def test_an_attentive_probe_is_offered_where_linear_ones_mislead_and_used_where_it_is_better(changes, verdict):
    found = decide(evidence(**changes))
    assert found["attentive"] == verdict
    said = [reason for reason in found["reasons"] if "attentive" in reason]
    assert len(said) == (verdict in ("use", "keep"))
    assert any("ICLR 2026" in warning for warning in found["warnings"]) == bool(changes.get("masked"))


def test_what_the_gaps_say_is_a_sentence():
    def said(top1, n=5000):
        case = evidence(tokens=tokens(top1, n=n), measured=n)
        return next(reason for reason in decide(case)["reasons"] if "attentive" in reason)

    assert "60.0\N{NO-BREAK SPACE}%" in said(0.76)  # of neighbours
    assert said(0.76).endswith("the tokens know more than the vector.")
    assert said(0.6).endswith("the tokens know no more than the vector.")
    assert said(0.71, n=100).endswith("chance explains a gap of 1.0 ± 6.4 points.")
    found = decide(evidence(top1=0.97, tokens=tokens(0.99)))
    assert (found["option"], advice.in_words(found)) == ("linear", "use the attentive probe on the tokens")
    tuned = decide(evidence(tokens=tokens(0.76)))
    assert advice.in_words(tuned) == "tune the whole network, with small learning rates"


def test_advice_can_be_replayed_from_json():
    case = evidence()
    assert advice.decide(json.loads(json.dumps(case))) == json.loads(json.dumps(advice.decide(case)))


def test_the_gain_is_a_share_of_the_probes_mistakes():
    def gain(option="tune-all", key="mean", share=0.2, **changes):
        return decide(evidence(top1=0.7, **changes), share=share)["expected_gain"][option][key]

    for case in ({"images": 100, "similarity": 0.0}, {"images": 100, "similarity": 1.0}, {"images": 5000}):
        assert gain(**case) == pytest.approx(0.3 * 0.2)
        assert gain("tune-last", **case) == pytest.approx(0.5 * 0.3 * 0.2)
        assert gain(key="high", **case) == pytest.approx(0.3 * (0.2 + 1.28 * 0.1))
        assert gain(key="low", **case) == pytest.approx(0.3 * (0.2 - 1.28 * 0.1))
    assert gain(key="low", share=0.1) == 0
    assert gain(key="high", share=0.85) == pytest.approx(rules.MOST * 0.3)
    assert gain(images=40) == gain(key="high", images=40) == 0  # four of each class


def test_by_default_the_constants_are_those_of_finished_runs():
    case = evidence()
    assert advice.decide(case) == advice.decide(case, advice.FITTED)
    assert advice.decide(case)["expected_gain"] != decide(case)["expected_gain"]
    assert 0 < advice.FITTED.last < 1
    assert advice.FITTED.spread > 0


def test_gains_are_ordered_and_never_more_than_the_headroom():
    for top1 in (0.0, 0.3, 0.9, 1.0):
        for images in (20, 1000, 10**6):
            gains = decide(evidence(images=images, top1=top1, similarity=0.0), spread=0.5)["expected_gain"]
            assert list(gains) == list(advice.OPTIONS)
            for option in ("tune-last", "tune-all"):
                low, mean, high = (gains[option][key] for key in ("low", "mean", "high"))
                assert 0 <= low <= mean <= high <= 1 - top1


@pytest.mark.parametrize(("share", "option"), [(0.09, "linear"), (0.14, "tune-last"), (0.23, "tune-all")])
def test_the_cheapest_option_within_a_point_of_the_best_is_taken_however_few_images_were_measured(share, option):
    """Tuning is promised 0.9, 1.4 or 2.3 points."""
    for measured in (20, 5000):
        found = decide(evidence(images=1000, top1=0.9, similarity=0.8, measured=measured), share=share)
        assert found["option"] == option
        said = "No cheaper option" if option == "tune-all" else "It is the cheapest option"
        assert any(reason.startswith(said) and "within 1.0 points" in reason for reason in found["reasons"])


def test_an_earlier_stage_is_promised_less_than_its_lead_and_nothing_where_noise_explains_it():
    def gain(by, measured):
        return decide(better_stage(by, top1=0.8, measured=measured))["expected_gain"]["stage"]["mean"]

    leads = [gain(0.08, n) for n in (20, 100, 400, 10_000, 10**8)]
    assert leads[0] == 0  # a standard error is 12 points
    assert leads == sorted(leads)
    assert 0 < leads[1] < leads[2] < 0.08
    assert leads[-1] == pytest.approx(0.08, rel=1e-4)
    assert gain(-0.03, 20) == pytest.approx(-0.03)  # what is behind stays so
    few, many = (decide(better_stage(0.08, top1=0.8, similarity=1.0, measured=n)) for n in (20, 10_000))
    assert (few["option"], many["option"]) == ("tune-all", "stage")


def test_few_images_per_class_are_few_however_many_there_are():
    found = decide(evidence(images=3000, classes=1000, top1=0.4))
    assert (found["option"], found["cell"]["size"]) == ("linear", "small")
    assert any("per class" in warning for warning in found["warnings"])


def test_an_earlier_stage_that_leads_by_less_than_a_point_changes_nothing():
    found = decide(better_stage(0.003, top1=0.99, similarity=0.9))
    assert (found["option"], found["cell"]["similarity"]) == ("linear", "similar")
    assert any("No earlier layer beats" in reason for reason in found["reasons"])


def test_backbones_pretrained_by_masking_are_warned_of_and_counted_as_different():
    plain, masked = (decide(evidence(similarity=0.9, masked=m)) for m in (False, True))
    assert not any("masking" in warning for warning in plain["warnings"])
    assert any("46.0 %" in warning and "81.3 %" in warning for warning in masked["warnings"])
    assert (plain["cell"]["similarity"], masked["cell"]["similarity"]) == ("similar", "different")
    assert masked["expected_gain"] == plain["expected_gain"]


@pytest.mark.parametrize(
    ("share", "per_doubling", "error", "pays"),
    [(0.02, 0.05, 0.02, True), (0.02, 0.05, 0.045, False), (0.3, 0.05, 0.01, False), (0.02, 0.005, 0.0, False)],
)
def test_labels_are_asked_for_where_they_pay_more_than_tuning(share, per_doubling, error, pays):
    """Of 30 points of mistakes, tuning is promised 0.6 or 9."""
    labels = {"curve": [], "floor": 0.1, "per_doubling": per_doubling, "standard_error": error}
    found = decide(evidence(images=100, labels=labels), share=share)
    assert found["more_labels"] is pays
    assert any("labels are worth more" in reason for reason in found["reasons"]) is pays


def test_one_layer_and_no_curve_are_evidence_enough():
    case = evidence(labels=None)
    found = decide({**case, "layers": case["layers"][1:]})
    assert found["option"] == "tune-all"
    assert found["expected_gain"]["stage"] is None
    assert any("one layer" in warning for warning in found["warnings"])


def test_the_table_is_named_where_the_gains_overrule_it():
    overruled, followed = decide(evidence(images=100, similarity=0.4)), decide(evidence(similarity=0.3))
    assert any("is to probe an earlier layer" in reason for reason in overruled["reasons"])
    assert not any("usual rule" in reason for reason in followed["reasons"])


def test_tuning_deeper_and_longer_costs_more():
    short, long = (advice.minutes(1000, 200, 0.01, epochs=n, views=4) for n in (20, 60))
    assert short["linear"] == short["stage"] == 0 < short["tune-last"] < short["tune-all"]
    assert long["tune-all"] == pytest.approx(3 * short["tune-all"], abs=0.1)
    assert long["tune-last"] < 3 * short["tune-last"]  # the frozen part is run once
