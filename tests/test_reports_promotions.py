"""The page of a model whose network was tuned, or was tuned in vain."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from featurepipe import models, probes, reports
from featurepipe.cards import Card

NAMES = ("ant", "bee", "wasp")
BEAT = {"on": "val", "n": 1000, "probe": 0.96, "probe_log_loss": 0.123}  # older cards say no more
COMPARED = BEAT | {"compared": 998, "network_alone": 24, "probe_alone": 9, "expected_gain": 0.0149}


def step(c, top1):
    return {"C": c, "top1": top1, "log_loss": 0.5, "tied": True, "converged": True}


def make(where="test", n=60):
    """A model with the card of a probe, whose figures are those of a real classifier."""
    truth = np.arange(n) % len(NAMES)
    X = np.eye(len(NAMES))[truth] + 0.45 * np.random.default_rng(0).normal(size=(n, len(NAMES)))
    estimator = LogisticRegression().fit(X, np.array(NAMES)[truth])
    figures = probes.evaluate(estimator, X, np.array(NAMES)[truth])
    card = {
        "data": {"root": "photos/insects", "samples": 4321, "classes": len(NAMES)},
        "splits": {"train": 3000, "val": 1000, "test": n} if where == "test" else {"train": 3000, "val": n, "test": 0},
        "split_source": "given",
        "evaluated_on": where,
        "selection": {"on": "val", "chosen": 0.1, "path": [step(0.01, 0.6), step(0.1, 0.9)]},
        "val": figures if where == "val" else {"source": "val", **figures},
        "test": figures if where == "test" else None,
        "baselines": {"majority": 0.111, "pixels": None, "random_backbone": None},
        "few_shot": [],
        "seed": 7,
        "notes": [],
        "versions": {},
        "created": "2025-01-02T03:04:05+00:00",
    }
    spec = {"architecture": "mobilenetv2_035", "arguments": {}, "weights": "ab" * 32, "transform": {}}
    spec |= {"layer": "penultimate", "pooling": None, "precision": "fp32"}
    source = {"name": "mobilenet", "weights": None, "random_seed": None}
    backbone = {"name": "mobilenet", "fingerprint": "cd" * 32, "spec": spec, "source": source}
    return models.Model("logistic", estimator, 1.0, backbone, np.empty(0, np.uint64), Card.from_json(card))


def but(model, change):
    """The same model with a card whose JSON is changed."""
    said = model.card.to_json()
    change(said)
    return replace(model, card=Card.from_json(said))


def text(element):
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()  # no-break spaces too


def section(page, title):
    return next((part for part in ET.fromstring(page).iter("section") if part[0].text == title), None)


def rows(element):
    return [row for row in ([text(cell) for cell in row] for row in element.iter("tr")) if row]


class Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag == "meta"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def course(*top1, log_loss=0.5):
    """Validation figures by epoch, from epoch 0 on."""
    return [
        {
            "epoch": epoch,
            "train_loss": None if epoch == 0 else 0.4 / epoch,
            "top1": value,
            "log_loss": log_loss - 0.01 * epoch,
            "lr": None if epoch == 0 else 6e-5 / epoch,
            "seconds": 1.5,
        }
        for epoch, value in enumerate(top1)
    ]


def tuned(gain=0.0, *, where="test", n=60, **changes):
    """A page's model with a card of fine-tuning, whose probe was so much worse; and its top-1."""
    model = make(where, n)
    top1 = model.card[where]["top1"]
    tuning = {
        "promoted": True,
        "start": "probe",
        "tune": "stage4+",
        "tuned_parameters": 301_000,
        "parameters": 400_000,
        "recipe": {"tune": "stage4+", "lr": 6.25e-5, "epochs": 3, "checkpointing": False, "class_weight": None},
        "validation": {"on": "val", "n": 1000},
        "curve": course(0.9, 0.92, 0.95, 0.94),
        "best_epoch": 2,
        "stopped": "after all epochs",
        "probe": {"top1": top1 - gain, "log_loss": 0.4321, "n": n},
        "cached_bottom": True,
        "scratch": None,
        "seconds": 91.5,
        **changes,
    }
    return but(model, lambda card: card.update(finetuning=tuning)), top1


def with_ridge(model, path):
    """The same of a ridge probe, whose candidates these are."""

    def change(card):
        card["finetuning"]["probe"]["kind"] = "ridge"
        card["selection"]["path"] = path

    return but(model, change)


def advice(option, tune, layer="penultimate"):
    gain = {"low": 0.0, "mean": 0.068, "high": 0.136}
    reasons = ["Few <images>.", "They are similar."]
    return {"option": option, "tune": tune, "layer": layer, "expected_gain": {option: gain}, "reasons": reasons}


def said(page):
    return text(section(page, "Fine-tuning"))


def figures(page):
    """The captions of the section's curves."""
    return [text(caption) for caption in section(page, "Fine-tuning").iter("figcaption")]


def test_a_probe_has_no_such_section():
    page = reports.page(make())
    assert section(page, "Fine-tuning") is None
    assert "embeddings of the frozen backbone" in page


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scratch": {"curve": course(0.3, 0.5, 0.6, 0.6, 0.7), "best_epoch": 4, "top1": 0.65, "seconds": 700.0}},
        {"promoted": False, "best_epoch": 0},
        {"probe": None},
        {"start": "random head", "curve": course(0.3)},
    ],
    ids=["tuned", "scratch", "refused", "no probe", "one epoch"],
)
def test_the_page_is_whole_and_needs_nothing_beside_it(changes):
    page = reports.page(tuned(0.1, **changes)[0])
    assert "://" not in page
    ET.fromstring(page)
    assert page.count("<script>") == 1  # the package's own, at the end
    balance = Balance()
    balance.feed(page[: page.index("<script>")])
    assert balance.open == ["html", "body"]
    assert "script" not in balance.seen


def test_a_tuned_network_is_no_probe_on_a_frozen_backbone():
    page = reports.page(tuned()[0])
    assert ET.fromstring(page).find(".//h1").text == "insects: fine-tuned network"
    assert "frozen backbone" not in page
    assert "A linear head and its backbone mobilenet, tuned together on 3,000 images of 3 classes" in text(
        ET.fromstring(page)
    )
    assert "this probe" not in page
    assert "this model" in page


def test_images_held_out_of_train_are_not_counted_as_learned_from():
    held_out = {"on": "a fifth of train, held back here, seed 0", "n": 600}
    assert "tuned together on 2,400 images" in text(ET.fromstring(reports.page(tuned(validation=held_out)[0])))
    assert "Validation data (a fifth of train, held back here, seed 0, 600 images) chose" in said(
        reports.page(tuned(validation=held_out)[0])
    )


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        ("head", "Only the head was tuned"),
        ("last-1", "The last block was tuned"),
        ("last-3", "The last 3 blocks were tuned"),
        ("stage4+", "The network was tuned from stage4 on"),
        ("all", "The whole network was tuned"),
    ],
)
def test_what_was_tuned_is_said_in_words(tune, words):
    share = "301,000 of the 400,000 parameters below the head (75.2 %)"
    assert f"{words}: {share}." in said(reports.page(tuned(tune=tune)[0]))


def test_a_tuned_head_is_no_share_of_what_lies_below_it():
    words = "Only the head was tuned: none of the 400,000 parameters below it."
    assert words in said(reports.page(tuned(tune="head", tuned_parameters=0)[0]))


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("probe", "with the head of its probe, fitted without"),
        ("random head", "with a random head"),
        ("scratch", "from random weights"),
    ],
)
def test_where_it_started_is_said(start, words):
    assert f"Training started {words}" in said(reports.page(tuned(start=start)[0]))


@pytest.mark.parametrize(
    ("stopped", "words"),
    [
        ("after all epochs", "It ended after all epochs, with epoch 3; in all"),
        (
            "early: validation no better for 5 epochs",
            "It ended early, with epoch 3 (validation no better for 5 epochs);",
        ),
        ("interrupted", "It was interrupted after epoch 3, and the best epoch so far was kept;"),
        ("failed", "It failed after epoch 3, and the best epoch so far was kept;"),
    ],
)
def test_how_it_ended_is_said(stopped, words):
    assert words in said(reports.page(tuned(stopped=stopped)[0]))


@pytest.mark.parametrize(
    ("seconds", "words"), [(4.21, "4.2 s."), (91.5, "92 s."), (700, "12 minutes."), (9000, "2.5 h")]
)
def test_how_long_it_took_is_said(seconds, words):
    assert f"in all it took {words}" in said(reports.page(tuned(seconds=seconds)[0]))


# -- the verdict --------------------------------------------------------------------------------------------------


def test_a_gain_beyond_the_interval_is_one():
    page = reports.page(tuned(0.4)[0])
    assert "40.0 percentage points above the probe: " in said(page)
    assert "lies outside the 95" in said(page)
    assert "chance" not in said(page)


def test_a_gain_inside_the_interval_may_be_chance():
    page = reports.page(tuned(0.01)[0])
    assert "1.0 percentage points above" in said(page)
    assert "lies inside the 95" in said(page)
    assert "the difference may be chance" in said(page)


def test_a_loss_on_the_reported_images_is_told():
    page = reports.page(tuned(-0.01)[0])
    assert "1.0 percentage points below" in said(page)
    assert "Validation had favoured tuning, but on these images it does not pay." in said(page)


def test_no_difference_is_no_gain():
    page = reports.page(tuned(0.0)[0])
    assert "as often right as the probe" in said(page)
    assert "percentage points" not in said(page)


def test_both_log_losses_and_both_bars_are_there():
    model, top1 = tuned(0.1)
    page = reports.page(model)
    assert f"log-loss {model.card['test']['log_loss']:.3f} against 0.432 nats" in said(page)
    names = [text(bar) for bar in section(page, "Fine-tuning").iter("text")]
    assert f"{100 * top1:.1f} % this model" in names
    assert f"{100 * (top1 - 0.1):.1f} % the probe" in names


def test_an_unknown_probe_gives_no_verdict():
    page = reports.page(tuned(probe=None)[0])
    assert "the gain from tuning is unknown" in said(page)
    assert "percentage points" not in said(page)


# -- what decided -------------------------------------------------------------------------------------------------

DUEL = (
    "On validation data (val) the tuned network is right where the probe is wrong on 24 of 998 images, the other way "
    "round on 9. From this, and from what tuning gained on other data, the expected gain over the probe on new images "
    "is {} percentage points."
)


def test_what_decided_is_said_in_images_and_in_points():
    plain = said(reports.page(tuned(0.1, validation=COMPARED, best_epoch=3)[0]))
    assert f"The last epoch was kept, 3. {DUEL.format('+1.5')}" in plain
    assert "The last epoch was kept, whatever these figures say." in plain
    for older in ("chose epoch", "the one with the lowest log-loss was chosen"):
        assert older not in plain


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": {"patience": 5}, "stopped": "early: validation no better for 5 epochs"},
        {"recipe": {"patience": 5}},
        {"stopped": "interrupted"},
    ],
)
def test_where_training_was_to_end_early_validation_chose_the_epoch(changes):
    plain = said(reports.page(tuned(0.1, validation=COMPARED, **changes)[0]))
    assert f"Validation data (val, 1,000 images) chose epoch 2. {DUEL.format('+1.5')}" in plain
    assert "the one with the lowest log-loss was chosen" in plain
    assert "last epoch" not in plain


def test_a_network_that_is_not_expected_to_be_better_is_told_with_what_decided():
    network = {"top1": 0.876, "log_loss": 0.345, "n": 60}
    validation = {**COMPARED, "expected_gain": -0.00001}
    model, _ = tuned(promoted=False, C=0.01, validation=validation, network=network, best_epoch=3)
    plain = said(reports.page(model))
    why = "A tuned network is kept only if it is expected to gain more than a point, so this file holds the probe"
    assert f"Fine-tuning did not pay. {DUEL.format('+0.0')} {why}" in plain
    assert (
        "There top-1 was 94.0 % (log-loss 0.470) at epoch 3, and is 96.0 % (log-loss 0.123) for the probe. On" in plain
    )
    assert "On test the tuned network has a top-1 of 87.6 %" in plain
    for older in ("was the best, but no better", "Better is a lower log-loss", "no epoch was better"):
        assert older not in plain


def test_where_the_start_was_kept_nothing_is_said_of_a_comparison():
    validation = BEAT | dict.fromkeys(("compared", "network_alone", "probe_alone", "expected_gain"))
    changes = {"validation": validation, "network": None, "stopped": "interrupted"}
    plain = said(reports.page(tuned(promoted=False, best_epoch=0, curve=course(0.9, 0.88), **changes)[0]))
    assert "no epoch was better than the start (its probe), so this file" in plain
    assert "expected on new images" not in plain


@pytest.mark.parametrize(
    ("stopped", "images"),
    [("after all epochs", "3,600"), ("interrupted", "2,400"), ("failed", "2,400"), (None, "2,400")],
)
def test_a_network_that_learned_from_all_images_in_the_end_is_said_to(stopped, images):
    refit = stopped and {"images": 3600, "epochs": 3, "train_loss": 0.1, "stopped": stopped, "seconds": 1.0}
    held_out = {**COMPARED, "on": "a fifth of train, held back here, seed 0", "n": 600}
    page = reports.page(tuned(validation=held_out, refit=refit)[0])
    assert f"tuned together on {images} images" in text(ET.fromstring(page))
    again = images == "3,600"
    assert ("Then it was trained once more in the same way, on all 3,600 images." in said(page)) is again
    assert ("before it learned from these images too" in text(section(page, "Figures"))) is again


# -- tuned in vain, by an older card ------------------------------------------------------------------------------


def test_a_probe_that_stands_is_called_one_and_why_is_said():
    page = reports.page(tuned(promoted=False, best_epoch=0, curve=course(0.9, 0.85, 0.88))[0])
    assert ET.fromstring(page).find(".//h1").text == "insects: logistic probe"
    assert "embeddings of the frozen backbone" in page
    assert "Fine-tuning did not pay." in said(page)
    assert "no epoch was better than the start (its probe), so this file holds the probe" in said(page)
    plain = said(page)
    assert "was 88.0 % (log-loss 0.480), in epoch 2; that of the start (its probe) is 90.0 % (log-loss 0.500)." in plain
    assert "this model" not in page
    assert "How C was chosen" in page


def test_nothing_is_said_of_epochs_that_never_ran():
    plain = said(reports.page(tuned(promoted=False, best_epoch=0, curve=course(0.9), stopped="interrupted")[0]))
    assert "holds the probe" in plain
    assert "highest top-1" not in plain


def test_an_epoch_that_is_no_better_than_the_probe_is_told_with_the_networks_figures():
    network = {"top1": 0.876, "log_loss": 0.345, "n": 60}
    model, _ = tuned(promoted=False, C=0.01, validation=BEAT, network=network)
    plain = said(reports.page(model))
    assert "(val, 1,000 images) epoch 2 was the best, but no better than the probe, so this file holds" in plain
    assert "There top-1 was 95.0 % (log-loss 0.480) at epoch 2, and is 96.0 % (log-loss 0.123) for the probe." in plain
    assert "On test the tuned network has a top-1 of 87.6 % (log-loss 0.345), 60 images; the probe has" in plain
    assert "87.6 % fine-tuned" in [text(bar) for bar in section(reports.page(model), "Fine-tuning").iter("text")]
    assert "no epoch was better" not in plain


def test_a_start_that_stands_is_told_beside_the_probe():
    changes = {"C": 0.01, "validation": BEAT, "network": None}
    plain = said(reports.page(tuned(promoted=False, best_epoch=0, curve=course(0.9, 0.88), **changes)[0]))
    assert "no epoch was better than the start (its probe at C=0.01), so this file" in plain
    assert "is 90.0 % (log-loss 0.500), and that of the probe 96.0 % (log-loss 0.123)." in plain


# -- advice -------------------------------------------------------------------------------------------------------


def test_advice_against_tuning_is_no_failure_of_it():
    stopped = "not begun: the advice is to keep a probe"
    changes = {"promoted": False, "best_epoch": 0, "curve": course(0.9), "tune": "head", "stopped": stopped}
    model, _ = tuned(advice=advice("linear", None), **changes)
    found = section(reports.page(model), "Fine-tuning")
    assert "Nothing was tuned. The advice was to keep the probe." in text(found)
    assert [text(reason) for reason in found.iter("li")] == ["Few <images>.", "They are similar."]
    for wrong in ("did not pay", "Only the head", "no epoch", "Recipe", "Training started"):
        assert wrong not in text(found)
    model = but(model, lambda card: card["finetuning"].update(advice=advice("stage", None, layer="stage3")))
    assert "an earlier layer's probe, on stage3; the one in this file is on the last layer." in said(
        reports.page(model)
    )


def test_a_depth_that_was_advised_is_told_with_its_reasons():
    page = reports.page(tuned(0.1, advice=advice("tune-all", "all"), tune="all")[0])
    assert "The advice chose the depth. It expected 6.8 percentage points (0.0 to 13.6) on new images" in said(page)
    assert [text(one) for one in section(page, "Fine-tuning").iter("li")] == ["Few <images>.", "They are similar."]
    assert "the advice" not in said(reports.page(tuned(0.1, advice=None)[0]))


# -- curves, epochs and recipe ------------------------------------------------------------------------------------


def test_curves_begin_with_the_probe_and_mark_the_chosen_epoch():
    page = reports.page(tuned()[0])
    assert figures(page) == ["top-1 in %, by epochthe probefine-tuned", "log-loss in nats, by epochthe probefine-tuned"]
    labels = [text(label) for label in section(page, "Fine-tuning").findall(".//figure/svg/text")]
    assert labels.count("chosen") == labels.count("start") == 2
    assert "Epoch 0 is the start (its probe), before any step." in said(page)
    assert "Every log-loss is calibrated, by a temperature fitted on these same images." in said(page)


def levels(page):
    """What the points of the probe's line say, top-1 and log-loss."""
    lines = [one for one in section(page, "Fine-tuning").iter("g") if one.get("class") == "curve the-probe"]
    return [[text(dot) for dot in line.iter("circle")] for line in lines]


@pytest.mark.parametrize("start", ["probe", "random head"])
def test_the_line_to_beat_is_the_probe_at_its_own_strength(start):
    page = reports.page(tuned(start=start, C=0.01, validation=BEAT)[0])
    assert levels(page) == [["96", "96"], ["0.123", "0.123"]]
    assert "The level line is the probe that tuning has to beat" in said(page)
    older = {key: value for key, value in BEAT.items() if key != "probe_log_loss"}
    assert levels(reports.page(tuned(start=start, validation=older)[0])) == [["96", "96"]]


def test_a_card_without_the_probes_validation_has_the_line_of_epoch_0():
    assert levels(reports.page(tuned()[0])) == [["90", "90"], ["0.5", "0.5"]]


def test_only_a_logistic_start_has_a_c():
    model, _ = tuned(C=0.01)
    assert "Epoch 0 is the start (its probe at C=0.01), before" in said(reports.page(model))
    model = with_ridge(model, [{**step(0.1, 0.9), "alpha": 0.1}])
    assert "Epoch 0 is the start (its probe), before" in said(reports.page(model))
    assert "Epoch 0 is the start, before" in said(reports.page(tuned(C=0.01, start="random head")[0]))


def test_a_random_heads_start_is_not_called_the_probe():
    page = reports.page(tuned(start="random head")[0])
    assert figures(page) == ["top-1 in %, by epochfine-tuned", "log-loss in nats, by epochfine-tuned"]
    assert "probe" not in [text(label) for label in section(page, "Fine-tuning").findall(".//figure/svg/text")]


def test_scratch_stands_in_a_figure_with_the_tuned_curve_of_its_own_length():
    scratch = {"curve": course(0.3, 0.5, 0.6, 0.6, 0.7, 0.7), "best_epoch": 4, "top1": 0.65, "seconds": 700.0}
    page = reports.page(tuned(scratch=scratch)[0])
    both = [one for one in section(page, "Fine-tuning").iter("figure") if "with training from scratch" in text(one)]
    assert len(both) == 2
    dots = {group.get("class"): len(group.findall("circle")) for group in both[0].iter("g")}
    assert dots == {"curve the-probe": 2, "curve fine-tuned": 4, "curve from-scratch": 6}
    assert "65.0 % from scratch" in [text(bar) for bar in section(page, "Fine-tuning").iter("text")]
    assert "epoch 4 of 5, 12 minutes" in said(page)


def test_a_figure_that_is_missing_leaves_a_gap():
    curve = course(0.9, 0.92, 0.95, 0.94)
    curve[1]["log_loss"] = None
    page = reports.page(tuned(curve=curve)[0])
    losses = [one for one in section(page, "Fine-tuning").iter("figure") if "log-loss" in text(one)]
    dots = {group.get("class"): len(group.findall("circle")) for group in losses[0].iter("g")}
    assert dots["curve fine-tuned"] == 3


def test_every_epoch_and_every_switch_is_listed():
    page = reports.page(tuned()[0])
    listed = rows(section(page, "Fine-tuning"))
    assert ["0", "–", "90.0 %", "0.500", "–", "1.5"] in listed
    assert ["2", "0.200", "95.0 %", "0.480", "3e-05", "1.5"] in listed
    assert listed[-5:] == [
        ["tune", "stage4+"],
        ["lr", "6.25e-05"],
        ["epochs", "3"],
        ["checkpointing", "no"],
        ["class weight", "none"],
    ]


def test_no_layer_decay_is_said_as_what_it_comes_to():
    listed = rows(section(reports.page(tuned(recipe={"layer_decay": None, "lr": 1e-3})[0]), "Fine-tuning"))
    assert ["layer decay", "evenly to a tenth in the first layer"] in listed
    older = rows(section(reports.page(tuned(recipe={"layer_decay": 0.75})[0]), "Fine-tuning"))
    assert ["layer decay", "0.75"] in older


def test_names_cannot_become_markup():
    page = reports.page(tuned(stopped="early: <b>x</b>", recipe={"<i>": "<script>"})[0])
    assert page.count("<script>") == 1
    assert "<i>" not in page
    ET.fromstring(page)


# -- the other sections -------------------------------------------------------------------------------------------


def test_c_is_the_probes():
    page = reports.page(tuned()[0])
    found = text(section(page, "How C of the probe was chosen"))
    assert "It belongs to the probe that tuning started from" in found
    assert "The probe to beat has the lowest log-loss of those that cannot be told apart from the best" in found
    page = reports.page(tuned(start="random head")[0])
    assert "Tuning began with another head" in text(section(page, "How C of the probe was chosen"))


def test_the_strength_of_another_kind_of_probe_has_its_own_name():
    path = [{**step(1.0, 0.8), "alpha": 1.0}, {**step(10.0, 0.9), "alpha": 10.0}]
    model = with_ridge(tuned()[0], path)
    assert section(reports.page(model), "How alpha of the probe was chosen") is not None


def test_selection_figures_are_those_of_the_chosen_epoch():
    assert "Selection data: val; the choice was made there, so a little optimistic." in text(
        section(reports.page(tuned()[0]), "Figures")
    )


def test_random_weights_that_were_trained_are_none():
    model, _ = tuned(start="scratch")
    model.backbone["source"]["random_seed"] = 3
    assert "has learned nothing" not in reports.page(model)


def test_few_labels_stay_the_probes():
    model, top1 = tuned(0.2)
    one = {"shots": 2, "labels": 6, "repeats": 1, "mean": 0.5, "std": 0.0, "interval": None, "top1": [0.5], "semi": {}}
    model = but(model, lambda card: card.update(few_shot=[{**one, "baselines": {}}]))
    listed = rows(section(reports.page(model), "With few labels"))
    assert listed[0] == ["per class", "labels", "probe"]
    assert listed[-1][2] == f"{100 * (top1 - 0.2):.1f} %"
