"""Cards: what is written passes, in every version, and what no reader could use is named."""

import copy
import json
import pickle
import tarfile
from pathlib import Path

import pytest

from featurepipe import TransferClassifier, extract, finetune, models, probe, probe_protocol
from featurepipe.cards import Card, Data, Figures, Selection, Splits, Tuning
from featurepipe.listeners import SILENT

ARCHIVES = Path(__file__).parent / "archives"
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
# Keys of what each writer says, in their order
FRONT = ["data", "splits", "split_source", "evaluated_on", "selection", "val", "test"]
END = ["notes", "versions", "created"]
BASE = ["baselines", "majority_class"]
SELECTION = ["on", "chosen", "path"]
CALIBRATED = [*SELECTION, "temperature", "ece", "ece_uncalibrated", "coverage"]
TUNING = ["promoted", "of", "start", "C", "tune", "tuned_parameters", "parameters", "recipe", "validation", "curve"]
TUNING += ["best_epoch", "stopped", "probe", "network", "cached_bottom", "refit", "advice", "scratch", "seconds"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return extract("data/digits", tmp_path_factory.mktemp("cards") / "store", backbone="pixels", listener=SILENT)[
        "store"
    ]


def card_of(result):
    return models.load(result["model"]).card


def without(card, *names):
    return {key: value for key, value in card.items() if key not in names}


def test_a_probes_card_says_what_it_always_said(store, tmp_path):
    card = card_of(probe(store, tmp_path / "m.safetensors", kind="ridge", baselines="none", listener=SILENT))
    rest = ["few_shot", "protocol", "licence", "seed", "probe_device", "class_weight"]
    assert list(card) == [*FRONT, *BASE, *rest, *END]
    assert list(card["selection"]) == CALIBRATED
    assert list(card["data"]) == ["root", "samples", "classes"]


def test_a_probe_of_one_of_several_layers_says_what_was_found_on_each(store, tmp_path):
    compared = [{"layer": "a", "selection": {"on": "val", "top1": 0.5}}]
    how = {"kind": "ridge", "baselines": "none", "compared": compared, "listener": SILENT}
    card = card_of(probe(store, tmp_path / "m.safetensors", **how))
    assert list(card)[9:12] == ["few_shot", "layers", "protocol"]
    assert card["layers"] == card.layers == compared


def test_a_protocols_card_says_what_it_always_said(store, tmp_path):
    result = probe_protocol(store, tmp_path / "m.safetensors", protocol="featurepipe", listener=SILENT)
    card = card_of(result)
    assert list(card) == [*FRONT, "few_shot", *BASE, "protocol", "licence", "seed", *END]
    assert list(card["selection"]) == SELECTION
    kept = ["name", "version", "source", "normalisation", "selection", "refit", "remarks", "metric"]
    assert list(card["protocol"]) == kept
    assert card.to_json() == {key: result[key] for key in card} | {
        "protocol": json.loads(json.dumps(result["protocol"]))
    }


def test_a_promotions_card_says_what_it_always_said(tmp_path):
    store = extract("data/digits", tmp_path / "store", listener=SILENT)["store"]
    result = finetune(store, output=tmp_path / "m.safetensors", tune="head", epochs=1, listener=SILENT)
    card = card_of(result)
    rest = ["few_shot", "finetuning", "protocol", "licence", "seed", "class_weight"]
    assert list(card) == [*FRONT, *BASE, *rest, *END]
    assert list(card["selection"]) == CALIBRATED
    assert list(card["finetuning"]) == TUNING
    assert list(card["finetuning"]["probe"]) == ["kind", "top1", "log_loss", "n"]
    assert card.to_json() == json.loads(
        json.dumps({key: result[key] for key in card} | {"selection": card["selection"]})
    )


def test_a_classifiers_card_says_little(tmp_path):
    path = tmp_path / "m.safetensors"
    images = [sorted(Path("data/digits").rglob(f"{digit}/*.png"))[number] for digit in "01" for number in range(5)]
    TransferClassifier("pixels", kind="ridge").fit(images, [0] * 5 + [1] * 5).save(path)
    card = models.load(path).card
    assert list(card) == ["selection", "licence", "seed", "versions"]
    assert list(card["selection"]) == [*SELECTION, "coverage"]
    assert card.evaluated_on is card.finetuning is None


def test_every_card_in_the_archives_is_read_and_written_as_it_is(tmp_path):
    with tarfile.open(ARCHIVES / "store-1.1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    files = [*ARCHIVES.glob("model-*.safetensors"), *tmp_path.rglob("*.safetensors")]
    assert len(files) == 13
    for path in files:
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        said = json.loads(header["__metadata__"]["featurepipe"])["card"]
        assert json.dumps(models.load(path).card.to_json()) == json.dumps(said), path


def test_attributes_are_typed_parts_and_the_mapping_is_the_json():
    card = Card.from_json({**CARD, "of a later version": [1]})
    assert (card.data, card.splits.test) == (Data(root="photos", samples=9, classes=1), 3)
    assert isinstance(card.test, Figures)
    assert card.figures.per_class["a"].support == 3
    assert card.selection.path[0].C == card["selection"]["path"][0]["C"] == 0.1
    assert card.few_shot[0].top1 == [0.4, 0.6]
    assert (card["of a later version"], card.get("protocol", "none"), card.protocol) == ([1], "none", None)
    assert card == {**CARD, "of a later version": [1]}
    assert list(card) == [*CARD, "of a later version"]
    assert isinstance(card["data"], dict)


def test_what_a_file_does_not_say_and_its_reader_needs_is_no_attribute():
    card = Card(selection=Selection.made("given", 1.0, []))
    with pytest.raises(AttributeError, match="data"):
        _ = card.data
    assert card.to_json() == {"selection": {"on": "given", "chosen": 1.0, "path": []}}


def test_only_a_promoted_network_counts_as_tuned():
    card = Card.from_json(CARD)
    assert isinstance(card.tuned, Tuning)
    assert not card.tuned.is_refitted
    kept = Card.from_json({**CARD, "finetuning": {**CARD["finetuning"], "promoted": False}})
    assert kept.tuned is None
    assert Card.from_json(without(CARD, "finetuning")).tuned is None


def test_a_probe_has_learned_from_all_that_is_not_reported():
    assert Card.from_json(CARD).learned == 6
    assert Card.from_json({**CARD, "evaluated_on": "val"}).learned == 3


def test_cards_cannot_be_changed_and_survive_copying():
    card = Card.from_json(CARD)
    with pytest.raises(AttributeError):
        card.seed = 3
    card["test"]["n"] = card.to_json()["test"]["n"] = 4
    assert card["test"]["n"] == 3
    assert pickle.loads(pickle.dumps(card)) == copy.deepcopy(card) == card == CARD
    assert copy.deepcopy(card).splits == Splits(train=3, val=3, test=3)


@pytest.mark.parametrize("without", [*CARD, None])
def test_whatever_but_the_selection_may_be_missing(without):
    card = {key: value for key, value in CARD.items() if key != without} | {"of a later version": [1]}
    if without == "selection":
        with pytest.raises(ValueError, match=r"the card\.selection is missing"):
            Card.from_json(card)
    else:
        assert Card.from_json(card) == card


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("selection.path", {}, r"the card\.selection\.path is \{\}, not a list"),
        ("selection.chosen", "0.1", r"the card\.selection\.chosen is '0\.1', not a number"),
        ("data.root", 5, r"the card\.data\.root is 5, not text"),
        ("data.task", None, r"the card\.data\.task is None, not text"),
        ("evaluated_on", "tbain", "not a split"),
        ("test.top1", 1.5, "not a number from 0 to 1"),
        ("test.n", -3, "not a whole number from 0"),
        ("test.with_copies", None, r"the card\.test\.with_copies is None, not an object"),
        ("test.per_class.a", None, "not an object"),
        ("splits.train", True, "not a whole number from 0"),
        ("few_shot", [{}], r"the card\.few_shot\[0\]\.\w+ is missing"),
        ("finetuning", {"promoted": True}, r"the card\.finetuning\.\w+ is missing"),
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
        Card.from_json(card)


@pytest.mark.parametrize("card", [None, [], "card", 5, {}])
def test_what_is_no_card_is_refused(card):
    with pytest.raises(ValueError, match=r"the card(\.selection)? is"):
        Card.from_json(card)
