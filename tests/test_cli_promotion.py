"""The commands about promotion: what is printed."""

import json

import pytest
from click import unstyle
from click.testing import CliRunner

from featurepipe.cli import main
from featurepipe.cli.promotion import was_interrupted
from featurepipe.cli.promotion_texts import advise_text, finetune_text
from featurepipe.cli.texts import info_text
from featurepipe.finetuning import Recipe

GAIN = {"low": 0.03, "mean": 0.13, "high": 0.2}
NONE = {"low": 0.0, "mean": 0.0, "high": 0.0}
RESULT = {
    "store": "s",
    "backbone": "net",
    "option": "tune-all",
    "tune": "all",
    "layer": "penultimate",
    "more_labels": False,
    "cell": {"size": "large", "similarity": "different", "table": "tune-all"},
    "expected_gain": {"linear": NONE, "stage": {"low": -0.1, "mean": 0.01, "high": 0.1}}
    | {"tune-last": GAIN, "tune-all": GAIN},
    "reasons": ["First reason.", "Second reason."],
    "warnings": ["Mind this."],
    "attentive": None,
    "attentive_commands": [],
    "next": "featurepipe finetune s DATA --tune all -o MODEL.safetensors",
    "cost_minutes": {"linear": 0.0, "stage": 0.0, "tune-last": 0.4, "tune-all": 150.0},
    "evidence": {
        "layer": "penultimate",
        "layers": [
            {"layer": "stage4", "width": 32, "top1": 0.62, "log_loss": 1.0, "logme": -0.1},
            {"layer": "penultimate", "width": 1280, "top1": 0.61, "log_loss": 1.0, "logme": 0.2},
        ],
        "measured": 1000,
        "measured_on": "val",
        "top1": 0.61,
        "train_top1": 0.99,
        "knn": 0.5,
        "baselines": {"chance": 0.1},
        "similarity": 0.44,
        "labels": {"curve": [{"images": 250, "error": 0.5}, {"images": 1000, "error": 0.4}]},
        "seconds_per_image": 0.0125,
        "device": "cpu",
        "epochs": 20,
    },
}


def test_an_attentive_probe_to_try_comes_with_its_commands():
    text = advise_text({**RESULT, "attentive": "try", "attentive_commands": ["featurepipe probe s --kind attentive"]})
    assert "Also try an attentive probe" in " ".join(text.split())
    assert "  $ featurepipe probe s --kind attentive" in text.splitlines()


def test_the_advice_is_three_lines_and_a_word_on_how_to_see_more():
    assert advise_text({**RESULT, "cost_minutes": None}).splitlines() == [
        "→ tune the whole network, with small learning rates",
        "  Expected on new images: +13.0 points (+3.0 to +20.0).",
        "  $ featurepipe finetune s DATA --tune all -o MODEL.safetensors",
        "",
        "reasons and figures: the same command with --why",
    ]


def test_why_says_what_the_advice_rests_on():
    lines = advise_text(RESULT, why=True).splitlines()
    assert lines[0] == "→ tune the whole network, with small learning rates"
    assert lines[1] == "  Expected on new images: +13.0 points (+3.0 to +20.0), in 2.5 h or more."
    assert lines[2] == "  $ featurepipe finetune s DATA --tune all -o MODEL.safetensors"
    assert lines[4] == "net on s: large data, different from the pretraining"
    (marked,) = [line for line in lines if line.startswith("  →")]
    assert " ".join(marked.split()) == "→ tune the whole network +13.0 +3.0 to +20.0 2.5 h or more"
    for said in (
        "  - First reason.",
        "  - Mind this.",
        "12.5 ms per image on cpu",
        "Times are for all epochs, and are lower bounds",
        "50.0 % with 250, 60.0 % with 1,000",
    ):
        assert " ".join(said.split()) in " ".join(" ".join(lines).split())
    assert max(len(line) for line in lines if not line.startswith("  $ ")) <= 80


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"option": "linear", "more_labels": True}, "→ keep the linear probe on penultimate; better still, label more"),
        ({"option": "stage", "layer": "stage4"}, "→ probe the earlier layer stage4"),
        ({"option": "tune-last"}, "+20.0), in 24 s or more."),
        ({"option": "tune-last", "cost_minutes": {**RESULT["cost_minutes"], "tune-last": 0.0}}, "in some seconds or"),
        ({"cost_minutes": None}, "Expected on new images: +13.0 points (+3.0 to +20.0)."),
        ({"cost_minutes": None, "option": "linear"}, "Tuning the whole network is expected to gain +13.0 points"),
        ({"evidence": {**RESULT["evidence"], "labels": None}}, "similarity 0.44"),
        ({"expected_gain": {**RESULT["expected_gain"], "stage": None}}, "tune the last blocks"),
        ({"option": "linear", "expected_gain": dict.fromkeys(RESULT["expected_gain"], NONE)}, "to gain nothing."),
    ],
)
def test_every_advice_can_be_read(changes, said):
    assert said in " ".join(advise_text({**RESULT, **changes}, why=True).split())


def test_a_store_that_is_none_is_one_line(tmp_path):
    done = CliRunner().invoke(main, ["advise", str(tmp_path), "--json"])
    assert done.exit_code == 1
    assert "not a featurepipe store" in json.loads(done.stdout)["error"]
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [("finetune", "s", "--tune", "deep"), ("run", "d", "--promote", "last-0")])
def test_a_depth_that_is_none_is_wrong_usage(command):
    called = CliRunner().invoke(main, command)
    assert called.exit_code == 2
    assert "use head, last-N (blocks), stageK+" in called.output


FIGURES = {"top1": 0.9, "balanced_accuracy": 0.9, "log_loss": 0.3, "ece": 0.02, "ece_uncalibrated": 0.02, "n": 50}
TUNED = {
    "evaluated_on": "test",
    "test": FIGURES,
    "model": "t.safetensors",
    "finetuning": {
        "of": "net",
        "tune": "last-1",
        "start": "probe",
        "C": 0.01,
        "curve": [{"epoch": n, "top1": 0.8 + n / 100, "log_loss": 0.5} for n in range(3)],
        "best_epoch": 2,
        "stopped": "early: validation no better for 5 epochs",
        "recipe": {"epochs": 20, "head_epochs": 1},
        "validation": {"on": "val", "n": 40, "probe": 0.8, "probe_log_loss": 0.55}
        | {"compared": 38, "network_alone": 5, "probe_alone": 1, "expected_gain": 0.0404},
        "probe": {"kind": "logistic", "top1": 0.88, "log_loss": 0.4, "n": 50},
        "promoted": True,
        "refit": None,
        "scratch": None,
        "advice": None,
    },
}


def tuned(**changes):
    return finetune_text({**TUNED, "finetuning": {**TUNED["finetuning"], **changes}}).splitlines()


def test_what_was_tuned_is_said_with_log_losses_and_where_it_was_validated():
    lines = tuned()
    early = "stopped early after 2 of 21 epochs: validation no better for 5 epochs"
    assert lines[0] == f"net, last-1 tuned from its probe at C=0.01; {early}"
    pairs = "probe 80.0 % (log-loss 0.550), start 80.0 % (log-loss 0.500), epoch 2 82.0 % (log-loss 0.500)"
    assert " ".join(" ".join(lines[1:3]).split()) == f"val {pairs}; on 40 val images"
    held = "a fifth of train, held back here, seed 0"
    given = tuned(validation={**TUNED["finetuning"]["validation"], "on": held})
    assert " ".join(" ".join(given[1:4]).split()) == f"held back {pairs}; on 40 images: {held}"
    assert max(len(unstyle(line)) for line in lines[1:] + given[1:]) <= 80
    assert lines[-1] == "model → t.safetensors"


@pytest.mark.parametrize(
    ("top1", "said"),
    [
        (0.88, "gained 2.0 points on these images"),
        (0.9, "did not change how many of these images are right"),
        (0.96, "did not help on these images: 6.0 points fewer"),
    ],
)
def test_whether_tuning_helped_on_the_reported_images_is_said_plainly(top1, said):
    lines = tuned(probe={"kind": "logistic", "top1": top1, "log_loss": 0.4, "n": 50})
    told = " ".join(" ".join(lines[6:-1]).split())
    assert told == f"the probe without tuning: {100 * top1:.1f} % (log-loss 0.400), so tuning {said}"


@pytest.mark.parametrize(("gain", "said"), [(0.0404, "+4.0"), (-0.021, "-2.1"), (-0.0001, "+0.0")])
def test_what_decided_is_said_in_images_and_in_points(gain, said):
    lines = tuned(validation={**TUNED["finetuning"]["validation"], "expected_gain": gain})
    assert " ".join(" ".join(lines[3:5]).split()) == (
        "the tuned network is right where the probe is wrong on 5 of 38 held-back images, the other way round on 1: "
        f"expected {said} points on new images"
    )
    assert max(len(unstyle(line)) for line in lines[1:]) <= 80


NOTHING = dict.fromkeys(("compared", "network_alone", "probe_alone", "expected_gain"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "the tuned network is not expected to beat the probe by a point"),
        ({"best_epoch": 0}, "no epoch was better than the start"),
        ({"best_epoch": 0, "curve": TUNED["finetuning"]["curve"][:1]}, "no epoch was finished"),
    ],
)
def test_why_the_file_holds_the_probe_is_said(changes, why):
    none = {"validation": {**TUNED["finetuning"]["validation"], **NOTHING}} if changes else {}
    lines = tuned(promoted=False, **changes, **none)
    assert lines[-3:-1] == [f"  {why}", "  the file holds the probe"]
    assert any("expected" in line for line in lines) is not bool(changes)


def test_where_nothing_was_tuned_nothing_is_compared():
    validation = {**TUNED["finetuning"]["validation"], **NOTHING}
    changes = {"advice": {"tune": None}, "best_epoch": 0, "stopped": "not begun: the advice …"}
    lines = tuned(promoted=False, validation=validation, **changes)
    assert lines[0] == "net: nothing was tuned, as the advice is to keep the probe"
    assert (len(lines), lines[-2]) == (4, "  the file holds the probe")


def test_help_says_the_defaults_of_the_recipe():
    said = " ".join(CliRunner().invoke(main, ["finetune", "--help"]).output.split())
    for rate, optimizer in (("1.1e-3", "adamw"), ("3.75e-3", "sgd")):
        assert f"{rate} with {optimizer}" in said
        assert Recipe(optimizer=optimizer, batch_size=32).peak_lr == pytest.approx(float(rate), rel=0.05)
    assert (Recipe().layer_decay, Recipe().patience) == (None, 0)
    assert "the first layer learns at a tenth of the rate of the head" in said
    assert "keep the best epoch. 0 trains all epochs and keeps the last. [default: 0]" in said


@pytest.mark.parametrize(
    ("stopped", "said"),
    [
        ("after all epochs", "then trained once more, on all 1,240 images that are not reported; this is in the file"),
        ("failed", "training once more, on all images, failed; the file holds the network from before"),
    ],
)
def test_training_on_all_images_is_told(stopped, said):
    lines = tuned(refit={"images": 1240, "epochs": 2, "train_loss": 0.1, "stopped": stopped, "seconds": 1.0})
    assert " ".join(" ".join(lines[-3:-1]).split()).endswith(said)
    assert not was_interrupted({**TUNED["finetuning"], "refit": {"stopped": stopped}})


@pytest.mark.parametrize(
    "changes",
    [
        {"stopped": "interrupted"},
        {"scratch": {"stopped": "interrupted", "top1": 0.5}},
        {"refit": {"stopped": "interrupted", "images": 50}},
    ],
)
def test_an_interrupt_is_said_and_is_the_exit_code(changes):
    assert "run the same command again to go on from there" in " ".join(" ".join(tuned(**changes)[-3:-1]).split())
    assert was_interrupted({**TUNED["finetuning"], **changes})
    assert not was_interrupted(TUNED["finetuning"])


def test_a_store_without_splits_says_so():
    store = {"store": "s", "samples": 3, "classes": 2, "splits": {"none": 3}, "root": "d", "backbones": []}
    assert info_text(store) == "s: 3 samples of 2 classes (3 without a split) in d"
