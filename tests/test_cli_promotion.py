"""The commands about promotion: what is printed."""

import json

import pytest
from click.testing import CliRunner

from featurepipe.cli import main
from featurepipe.cli.promotion_texts import advise_text

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


def test_the_page_begins_with_the_advice_and_the_command_that_follows():
    lines = advise_text(RESULT).splitlines()
    assert lines[0] == "net on s: large data, different from the pretraining"
    assert lines[2] == "→ tune the whole network, with small learning rates"
    assert lines[3] == "  Expected on new images: +13.0 points (+3.0 to +20.0), in 2.5 h or more."
    assert lines[4] == "  $ featurepipe finetune s DATA --tune all -o MODEL.safetensors"
    (marked,) = [line for line in lines if line.startswith("  →")]
    assert " ".join(marked.split()) == "→ tune the whole network +13.0 +3.0 to +20.0 2.5 h or more"
    for said in (
        "  - First reason.",
        "  - Mind this.",
        "12.5 ms per image on cpu",
        "Times are those of all epochs, at the least",
        "50.0 % with 250, 60.0 % with 1,000",
    ):
        assert said in "\n".join(lines)


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
    assert said in advise_text({**RESULT, **changes})


def test_a_store_that_is_none_is_one_line(tmp_path):
    done = CliRunner().invoke(main, ["advise", str(tmp_path), "--json"])
    assert done.exit_code == 1
    assert "not a featurepipe store" in json.loads(done.stdout)["error"]
    assert len(done.stderr.splitlines()) == 1
