"""Cards: what is written passes, in every version, and what no reader could use is named."""

import copy

import pytest

from featurepipe.cards import check_card

STEP = {"C": 0.1, "top1": 0.9, "log_loss": 0.3, "tied": True, "converged": True}
EPOCH = {"epoch": 0, "train_loss": None, "lr": None, "top1": 0.5, "log_loss": 0.7, "n": 9, "seconds": 0.1}
CARD = {
    "selection": {"on": "val", "chosen": 0.1, "path": [STEP], "temperature": 1.0, "ece": None},
    "data": {"root": "photos", "samples": 9, "classes": 1},
    "splits": {"train": 3, "val": 3, "test": 3},
    "evaluated_on": "test",
    "val": {"source": "val"},
    "test": {
        "n": 3,
        "top1": 1.0,
        "classes": ["a"],
        "per_class": {"a": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 3}},
        "confusion": [[3]],
    },
    "baselines": {"majority": 1.0, "pixels": None},
    "few_shot": [{"shots": 1, "repeats": 2, "mean": 0.5, "top1": [0.4, 0.6], "semi": {}, "baselines": {}}],
    "finetuning": {
        "promoted": True,
        "start": "probe",
        "tune": "last-2",
        "tuned_parameters": 1,
        "parameters": 2,
        "curve": [EPOCH],
        "best_epoch": 0,
        "stopped": "after all epochs",
        "refit": None,
    },
    "seed": 0,
    "notes": ["a note"],
    "versions": {"torch": "2.5"},
}


@pytest.mark.parametrize("without", [*CARD, None])
def test_whatever_but_the_selection_may_be_missing(without):
    card = {key: value for key, value in CARD.items() if key != without} | {"of a later version": [1]}
    if without == "selection":
        with pytest.raises(ValueError, match=r"the card\.selection is missing"):
            check_card(card)
    else:
        check_card(card)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("selection.path", {}, r"the card\.selection\.path is \{\}, not a list"),
        ("selection.chosen", "0.1", r"the card\.selection\.chosen is '0\.1', not a number"),
        ("evaluated_on", "tbain", "not a split"),
        ("test.top1", 1.5, "not a number from 0 to 1"),
        ("test.n", -3, "not a whole number from 0"),
        ("test.per_class.a", None, "not an object"),
        ("splits.train", True, "not a whole number from 0"),
        ("finetuning.start", "guess", "not probe, random head or scratch"),
        ("finetuning.tune", "last-x", "not a depth"),
        ("finetuning.curve", [None], r"curve\[0\] is None, not an object"),
        ("notes", [5], r"notes\[0\] is 5, not text"),
        ("seed", [], "not a whole number from 0"),
    ],
)
def test_a_value_that_no_reader_could_use_is_named(place, value, says):
    card = copy.deepcopy(CARD)
    *above, last = place.split(".")
    inner = card
    for key in above:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(ValueError, match=says):
        check_card(card)


@pytest.mark.parametrize("card", [None, [], "card", 5, {}])
def test_what_is_no_card_is_refused(card):
    with pytest.raises(ValueError, match=r"the card(\.selection)? is"):
        check_card(card)
