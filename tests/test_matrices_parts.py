"""What every probe begins with: copies across splits, copies under two labels, and splits that are not alike."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from featurepipe import compare, evaluate, models, probe, probe_protocol, report
from featurepipe.backbones import Pixels
from featurepipe.cli import texts
from featurepipe.manifests import Sample
from featurepipe.matrices.parts import arrange, cut, with_copies
from featurepipe.models.candidates import find
from featurepipe.sources import Files
from featurepipe.stages import probe_tasks
from featurepipe.stores import Row, Store, Writer
from featurepipe.vocabulary import EntryOptions

COPIES, FRESH = 6, 10  # test images: copies of training images, all easy; and new ones, of which half are mislabelled


@pytest.fixture
def stored(tmp_path):
    """Factory of stores of given vectors (n, D), labels, splits and contents (numbers)."""

    def make(X, labels, splits, contents=None):
        pixels, contents = Pixels(), range(len(X)) if contents is None else contents
        digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in contents]
        first = dict(zip(reversed(digests), reversed(list(X)), strict=True))
        store = Store.create(tmp_path / "made.store")
        writer = Writer(store.entry(pixels), {"name": "pixels", "source": pixels.source}, 64)
        writer.append(list(first), np.array(list(first.values()), np.float32), {})
        writer.commit()
        samples = [Sample(f"{n:03}", f"{n:03}.png", *of) for n, of in enumerate(zip(labels, splits, strict=True))]
        store.write_rows(Files(str(tmp_path / "gone")), [Row(*pair) for pair in zip(samples, digests, strict=True)])
        return store.path

    return make


def clusters(labels, seed=0):
    """A vector for each label, about a place of its own."""
    numbers = np.unique(labels, return_inverse=True)[1]
    return 8.0 * numbers[:, None] + np.random.default_rng(seed).normal(size=(len(labels), 4))


def leaking(splits=("train", "test"), copies=COPIES, fresh=FRESH):
    """Two classes, of which the last split has copies of training images and new images, every second mislabelled."""
    truth = np.array(["ant", "bee"] * 20 + ["ant", "bee"] * (fresh // 2), object)
    X, labels = clusters(truth), truth.copy()
    labels[40::4] = "bee"
    labels[43::4] = "ant"
    right = (labels == truth)[40:].sum()
    assert right == fresh // 2
    order = [*range(40), *range(copies), *range(40, len(X))]  # copies before the new ones
    split = [splits[0]] * 40 + [splits[1]] * (copies + fresh)
    return X[order], labels[order], split, order


def plainly(store, **options):
    return probe(store, **{"kind": "ridge", "baselines": "none", **options})


# -- copies across splits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"kind": "logistic"}, {"kind": "knn"}, {"memory": 700}])
@pytest.mark.parametrize("reported", ["val", "test"])
def test_the_headline_is_without_copies_of_training_images(stored, reported, options):
    result = plainly(stored(*leaking(("train", reported))), **options)
    figures = result[reported]
    assert result["out_of_core"] == ("memory" in options)
    assert (figures["n"], figures["top1"]) == (FRESH, 0.5)
    assert figures["with_copies"] == {"n": FRESH + COPIES, "top1": (5 + COPIES) / 16}
    assert result["splits"][reported] == FRESH + COPIES
    note = f"6 of 16 {reported} samples are exact copies of training samples; the figures are without them"
    assert note in result["notes"]
    card = models.load(result["model"]).card
    assert card[reported] == figures
    shown = texts.probe_text(result)
    assert f"{reported} top-1" in shown
    assert "with 6 exact copies of training samples: 68.8 % of 16\n" in shown
    page = Path(report(result["model"])["report"]).read_text()
    assert "With 6 exact copies of training images: 68.8" in page


def test_copies_of_val_images_are_copies_too(stored):
    X, labels, split, order = leaking()
    split[:40:4] = ["val"] * 10
    result = plainly(stored(X, labels, split, order))
    assert (result["splits"]["val"], result["test"]["n"], result["test"]["with_copies"]["n"]) == (10, 10, 16)


def test_one_copy_is_not_several(stored):
    result = plainly(stored(*leaking(copies=1)))
    assert "1 of 11 test samples is an exact copy of a training sample; the figures are without it" in result["notes"]
    assert "with one exact copy of a training sample: 54.5 % of 11\n" in texts.probe_text(result)


@pytest.mark.slow
def test_baselines_and_few_labels_are_measured_without_copies_too(stored):
    result = plainly(stored(*leaking()), shots=[5], repeats=2, baselines="simple")
    assert result["few_shot"][0]["top1"] == [0.5, 0.5]
    assert result["baselines"]["majority"] == 0.4  # of the new ones; 7 of all 16


@pytest.mark.parametrize("name", ["featurepipe", "dinov2-logreg", "dinov2-knn", "vissl-svm"])
def test_protocols_report_without_copies(stored, name):
    result = probe_protocol(stored(*leaking()), protocol=name)
    figures = result["test"]
    key = "map" if name == "vissl-svm" else "top1"
    assert figures["n"] == FRESH
    assert figures["top1"] == 0.5 or key == "map"
    assert figures["with_copies"].keys() == {"n", key}
    assert figures["with_copies"][key] > figures[key]
    assert "with 6 exact copies of training samples: " in texts.probe_text(result)


def test_few_shot_protocols_report_without_copies(stored):
    few = probe_protocol(stored(*leaking()), protocol="bigvision-fewshot")["few_shot"]
    assert few[-1]["mean"] == 0.5


def test_a_comparison_is_without_copies(stored):
    result = compare(stored(*leaking()), kinds=["ridge", "logistic"], baselines="none")
    assert [(row["n"], row["top1"]) for row in result["rows"]] == [(FRESH, 0.5)] * 2
    assert "6 of 16 test samples are exact copies of training samples; the figures are without them" in result["notes"]


def test_where_all_are_copies_they_are_reported_and_a_note_says_what_that_is_worth(stored):
    result = plainly(stored(*leaking(fresh=0)))
    assert (result["test"]["n"], "with_copies" in result["test"]) == (COPIES, False)
    assert (
        "every test sample is an exact copy of a training sample, so the accuracy says nothing about new samples"
        in result["notes"]
    )


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val")])
def test_clean_data_have_none_of_the_notes(stored, splits):
    labels = np.array(["ant", "bee"] * 30, object)
    result = plainly(stored(clusters(labels), labels, [splits[0]] * 40 + [splits[1]] * 20))
    assert not [note for note in result["notes"] if "cop" in note or "chance" in note]
    assert "with_copies" not in result[splits[1]]
    assert result["contradictory"] == []
    assert "exact cop" not in texts.probe_text(result)


def test_sets_of_labels_have_their_mean_average_precision_with_copies(stored):
    X, labels, split, order = leaking()
    labels = np.array([f"{label};" for label in labels], object)
    result = plainly(stored(X, labels, split, order), kind="logistic", multi_label=True)
    figures = result["test"]
    assert figures["n"] == FRESH
    assert figures["with_copies"] == {"n": 16, "map": pytest.approx(figures["with_copies"]["map"])}
    assert figures["with_copies"]["map"] > figures["map"]
    line = f"with 6 exact copies of training samples: {100 * figures['with_copies']['map']:.1f} % of 16"
    assert line in texts.probe_text(result)
    page = Path(report(result["model"])["report"]).read_text()
    assert "With 6 exact copies of training images: " in page


def test_each_task_has_copies_of_its_own(stored, tmp_path):
    store = stored(*leaking())
    table = tmp_path / "labels.csv"
    labels = leaking()[1]
    table.write_text("id,kind\n" + "".join(f"{n:03},{label}\n" for n, label in enumerate(labels)))
    result = probe_tasks(store, labels=table, tasks="kind", kind="ridge", baselines="none")["tasks"]["kind"]
    assert result["test"]["with_copies"] == {"n": 16, "top1": 11 / 16}


def test_parts_are_slices_with_copies_last(stored):
    from featurepipe import matrices

    store = Store.open(stored(*leaking()))
    matrix = matrices.load(store, store.choose("pixels"))
    parts = cut(arrange(matrix, matrix.split))
    assert (len(parts.report), len(parts.whole), len(parts.learned)) == (FRESH, FRESH + COPIES, 40)
    assert not np.isin(parts.report.digests, parts.learned.digests).any()
    assert np.isin(parts.whole.digests, parts.learned.digests).sum() == COPIES
    for part in (parts.report, parts.whole, parts.learned):
        assert part.X.base is not None  # nothing is copied
    assert parts.nbytes == 4 * 4 * 56
    counted = with_copies({"n": FRESH, "top1": 0.5, "ece": 0.1}, parts, lambda part: {"n": len(part), "top1": 0.75})
    assert counted == {"n": FRESH, "top1": 0.5, "ece": 0.1, "with_copies": {"n": 16, "top1": 0.75}}


def leaking_val(copies):
    """As `leaking`, with val of which some are copies of training images under a wrong label."""
    X, labels, split, order = leaking()
    fresh = clusters(np.array(["ant", "bee"] * 5, object), seed=1)[copies:]
    X = np.concatenate([X, X[:copies], fresh])
    wrong = np.where(labels[:copies] == "ant", "bee", "ant")
    labels = np.concatenate([labels, wrong, np.array(["ant", "bee"] * 5, object)[copies:]])
    order = [*order, *order[:copies], *range(100, 110 - copies)]
    return X, labels, [*split, *["val"] * 10], order


@pytest.mark.parametrize("kind", ["ridge", "logistic", "knn"])
def test_val_images_that_are_copies_of_training_images_choose_nothing(stored, kind):
    result = plainly(stored(*leaking_val(4)), kind=kind)
    assert (result["val"]["source"], result["val"]["n"], result["val"]["top1"]) == ("val", 6, 1.0)
    note = "4 of 10 val samples are exact copies of training samples; they are not used to choose anything"
    assert note in result["notes"]
    assert result["splits"]["val"] == 10


def test_where_all_val_images_are_copies_cross_validation_chooses(stored):
    result = plainly(stored(*leaking_val(10)))
    assert result["val"]["source"] == "5-fold cross-validation on train"
    assert any(note.startswith("every val sample is an exact copy of a training sample") for note in result["notes"])


# -- what a model has seen ----------------------------------------------------------------------------------------


def test_evaluate_has_its_headline_without_images_seen_in_training(stored):
    store = stored(*leaking())
    result = evaluate(plainly(store)["model"], store)
    assert (result["n"], result["top1"], result["seen_in_training"], result["left_out"]) == (FRESH, 0.5, COPIES, 0)
    assert result["with_seen"] == {"n": 16, "top1": 11 / 16}
    assert result["per_class"]["ant"]["support"] == 4
    shown = texts.evaluate_text(result)
    assert "with 6 samples seen in training: 68.8 % of 16" in shown
    assert "optimistic" not in shown


def test_evaluate_on_nothing_but_seen_images_is_as_it_was(stored):
    store = stored(*leaking())
    model = plainly(store)["model"]
    result = evaluate(model, store, split="train")
    assert (result["n"], result["seen_in_training"], "with_seen" in result) == (40, 40, False)
    assert "the model was trained on 40 of these samples, so these figures are optimistic" in texts.evaluate_text(
        result
    )
    everything = evaluate(model, store, split="all")
    assert (everything["n"], everything["with_seen"]["n"], everything["seen_in_training"]) == (FRESH, 56, 46)


def test_one_image_seen_in_training(stored):
    store = stored(*leaking(copies=1))
    shown = texts.evaluate_text(evaluate(plainly(store)["model"], store))
    assert "with one sample seen in training: 54.5 % of 11" in shown


def test_evaluate_of_sets_of_labels(stored):
    X, labels, split, order = leaking()
    store = stored(X, np.array([f"{label};" for label in labels], object), split, order)
    model = plainly(store, kind="logistic", multi_label=True)["model"]
    result = evaluate(model, store)
    assert result["with_seen"] == {"n": 16, "map": result["with_seen"]["map"]}
    assert result["with_seen"]["map"] > result["map"]


# -- copies under two labels --------------------------------------------------------------------------------------


def test_contradictory_labels_are_listed(stored):
    labels = np.array(["ant", "bee"] * 20, object)
    contents = [*range(30), 0, 1, 2, *range(33, 40)]  # 30 is 0, an ant; 31 is 1, a bee; 32 is 2
    labels[[30, 32]] = "bee"
    store = stored(clusters(labels), labels, ["train"] * 32 + ["test"] * 8, contents)
    result = plainly(store)
    assert result["contradictory"] == [
        [{"id": "000", "label": "ant"}, {"id": "030", "label": "bee"}],
        [{"id": "002", "label": "ant"}, {"id": "032", "label": "bee"}],
    ]
    note = (
        "4 images have an exact copy under another label: 000 (ant) = 030 (bee); 002 (ant) = 032 (bee); correct the "
        "labels or remove the copies"
    )
    assert note in result["notes"]
    assert json.loads(json.dumps(result))["contradictory"] == result["contradictory"]
    assert "contradictory" not in models.load(result["model"]).card
    assert probe_protocol(store, protocol="featurepipe")["contradictory"] == result["contradictory"]


# -- splits that are not alike ------------------------------------------------------------------------------------


def from_elsewhere(splits=("train", "test")):
    """Of the last split every second image is mislabelled, as another place's images are for a model."""
    labels = np.array(["ant", "bee"] * 60, object)
    X = clusters(labels)
    labels[80::4], labels[83::4] = "bee", "ant"
    return X, labels, np.array([splits[0]] * 80 + [splits[-1]] * 40, object)


@pytest.mark.slow
@pytest.mark.parametrize("reported", ["val", "test"])
def test_a_selection_that_is_better_than_chance_explains_is_noted(stored, reported):
    store = stored(*from_elsewhere(("train", reported)))
    noted = (
        f"top-1 is 100.0 % on selection data (5-fold cross-validation on train) and 50.0 % on {reported}, more than "
        f"chance explains: the splits are not alike; {reported} may come from elsewhere, or the selection data may "
        "show the same patients, places or videos as the training samples"
    )
    assert noted in plainly(store)["notes"]
    assert noted in probe_protocol(store, protocol="featurepipe")["notes"]


@pytest.mark.parametrize("value", [None, 1.0])
def test_of_a_val_split_it_is_noted_too(stored, value):
    X, labels, split = from_elsewhere()
    split[:80:2] = "val"
    labels[:80] = ["ant", "ant", "bee", "bee"] * 20  # both classes in either
    X[:80] = clusters(labels[:80])
    (note,) = [note for note in plainly(stored(X, labels, split), value=value)["notes"] if "chance" in note]
    assert note.startswith("top-1 is 100.0 % on selection data (val) and 50.0 % on test, more than chance explains")


def test_a_small_gap_is_chance(stored):
    X, labels, split = from_elsewhere()
    few = [*range(80), *range(80, 84)]  # 2 of 4 is what chance allows
    assert not [note for note in plainly(stored(X[few], labels[few], split[few]))["notes"] if "chance" in note]


@pytest.mark.slow
def test_protocols_without_figures_of_the_selection_have_no_such_note(stored):
    store = stored(*from_elsewhere())
    for name in ("bigvision-fewshot", "vissl-svm"):
        assert not [n for n in probe_protocol(store, protocol=name)["notes"] if "chance" in n]


def test_a_backbone_may_be_named_by_a_path(stored):
    wanted = EntryOptions(backbone=Path("pixels"), device="cpu")
    assert find(stored(*leaking()[:3]), None, wanted).entry.name == "pixels"
