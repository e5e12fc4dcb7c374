"""Groups from the table to the page: 40 patients with five near-copies each, whose class only the patient shows."""

import json

import numpy as np
import pytest
from PIL import Image

from featurepipe import TransferClassifier, compare, extract, models, probe, report, run
from featurepipe.comparisons import mcnemar, permutation
from featurepipe.errors import FinetuningError, ManifestError
from featurepipe.estimators import FineTuner
from featurepipe.statistics import bootstrap, wilson
from featurepipe.stores import Store

PATIENTS, COPIES = 40, 5


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """A table of noise pictures: each patient's own, five times with a little noise; the class is drawn by lot."""
    root, rng = tmp_path_factory.mktemp("patients"), np.random.default_rng(0)
    lines = ["path,label,patient"]
    for patient in range(PATIENTS):
        own = rng.integers(60, 190, (16, 16, 3))
        label = "ill" if patient % 2 else "well"
        for copy in range(COPIES):
            picture = np.clip(own + rng.normal(0, 6, own.shape), 0, 255).astype(np.uint8)
            name = f"patient{patient:02}_{copy}.png"
            Image.fromarray(picture).save(root / name)
            lines.append(f"{name},{label},p{patient}")
    (root / "t.csv").write_text("\n".join(lines) + "\n")
    return root


def test_without_groups_the_accuracy_is_inflated_and_with_them_it_is_not(patients, tmp_path):
    table = patients / "t.csv"
    extract(table, tmp_path / "loose", backbone="pixels")
    extract(table, tmp_path / "grouped", backbone="pixels", group_column="patient")
    extract(patients / "t.csv", tmp_path / "paths", backbone="pixels", group_from=r"(patient\d+)_")
    loose, grouped, paths = (
        probe(tmp_path / name, tmp_path / f"{name}.safetensors", kind="ridge", baselines="none")
        for name in ("loose", "grouped", "paths")
    )
    assert loose["test"]["top1"] > 0.95  # the patient is known from training
    assert loose["val"]["top1"] > 0.95
    low, high = grouped["test"]["interval"]
    assert low <= 0.5 <= high  # the class was drawn by lot: nothing can be learned of it
    assert grouped["test"]["groups"] == 8
    assert high - low > np.subtract(*wilson(grouped["test"]["top1"], grouped["test"]["n"])[::-1])
    assert grouped["val"]["top1"] < 0.8
    assert paths["test"]["top1"] == grouped["test"]["top1"]  # the same groups by other names
    assert "interval" not in loose["test"]
    page = (tmp_path / "grouped.html", report(tmp_path / "grouped.safetensors"))[0].read_text("utf-8")
    assert "bootstrap over 8 groups" in page
    assert "(Wilson)" not in page


def test_the_store_keeps_groups_and_a_run_says_how_many(patients, tmp_path):
    result = run(
        patients / "t.csv", tmp_path / "out", backbone="pixels", kind="ridge", baselines="none", group_column="patient"
    )
    assert result["found"]["groups"] == PATIENTS
    store = Store.open(tmp_path / "out")
    assert {row.sample.group for row in store.rows()} == {f"p{n}" for n in range(PATIENTS)}
    assert json.loads((tmp_path / "out" / result["model"].split("/")[-2] / "metrics.json").read_text())["found"][
        "groups"
    ] == (PATIENTS)
    sides = {}
    for row in store.rows():
        sides.setdefault(row.sample.group, set()).add(row.sample.split)
    assert all(len(one) == 1 for one in sides.values())


def test_a_comparison_tests_over_groups(patients, tmp_path):
    extract(patients / "t.csv", tmp_path / "st", backbone="pixels", group_column="patient")
    extract(patients / "t.csv", tmp_path / "st", backbone="color-histogram", group_column="patient")
    result = compare(tmp_path / "st", tmp_path / "c.html", kinds=["ridge"], baselines="none")
    assert all(row["groups"] == 8 for row in result["rows"])
    assert "permutation test over groups" in (tmp_path / "c.html").read_text("utf-8")
    assert next(row["p"] for row in result["rows"] if row["p"] is not None) > 0.01


def test_of_a_group_that_a_table_divides_nothing_is_read(patients):
    lines = (patients / "t.csv").read_text().splitlines()
    crossing = [
        lines[0] + ",split",
        *(f"{line},{'test' if n % 5 == 0 else 'train'}" for n, line in enumerate(lines[1:])),
    ]
    (patients / "crossing.csv").write_text("\n".join(crossing) + "\n")
    with pytest.raises(ManifestError, match=r"group 'p0' is in test .* and in train"):
        extract(patients / "crossing.csv", patients.parent / "x", backbone="pixels", group_column="patient")


def test_a_classifier_in_a_notebook_takes_groups(patients):
    paths = sorted(patients.glob("*.png"))
    names = [path.name.split("_")[0] for path in paths]
    labels = ["ill" if int(name[-2:]) % 2 else "well" for name in names]
    loose = TransferClassifier("pixels", kind="ridge").fit(paths, labels).probe_
    grouped = TransferClassifier("pixels", kind="ridge").fit(paths, labels, groups=names).probe_
    assert loose.scores["top1"] > 0.95
    assert grouped.scores["top1"] < 0.75
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        TransferClassifier("pixels").fit(paths, labels, groups=names[:-1])
    with pytest.raises(ValueError, match="a group is missing"):
        TransferClassifier("pixels").fit(paths, labels, groups=[None, *names[1:]])


def test_a_tuned_network_is_judged_on_other_groups(patients, small):
    paths = sorted(patients.glob("*.png"))[:40]
    names = np.array([path.name.split("_")[0] for path in paths])
    labels = ["ill" if int(name[-2:]) % 2 else "well" for name in names]
    from featurepipe import FeatureExtractor

    extractor = FeatureExtractor(
        "test_resnet", random_weights=True, image_transform={"input_size": (3, 32, 32)}, device="cpu"
    )
    tuner = FineTuner(extractor, tune="last-1", epochs=1, recipe={"augment": "none"}).fit(paths, labels, groups=names)
    assert tuner.curve_[0]["n"] % COPIES == 0  # whole patients
    few = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]  # one patient of each class
    with pytest.raises(FinetuningError, match="every class has only one group"):
        FineTuner(extractor, tune="last-1", epochs=1).fit(
            [paths[i] for i in few], [labels[i] for i in few], groups=names[few]
        )


# -- the statistics -------------------------------------------------------------------------------------------------


def test_the_bootstrap_over_single_images_is_about_wilsons():
    right = np.arange(400) % 5 > 0
    low, high = bootstrap(right, np.arange(400))
    other = wilson(0.8, 400)
    assert (low, high) == (pytest.approx(other[0], abs=0.01), pytest.approx(other[1], abs=0.01))
    wide = bootstrap(np.repeat(right[:40], 10), np.arange(400) // 10)  # ten alike in each group
    assert np.subtract(*wide[::-1]) > 2.5 * (high - low)
    assert bootstrap(right, np.zeros(400)) == (0.0, 1.0)


def test_coverage_of_the_bootstrap_where_groups_are_alike():
    """Of 200 draws of 60 groups the interval holds the truth about 95 % of the time; Wilson's far less often."""
    rng, held, wilsons = np.random.default_rng(0), 0, 0
    for draw in range(200):
        right = np.repeat(rng.random(60) < 0.7, 8)
        low, high = bootstrap(right, np.repeat(np.arange(60), 8), seed=draw)
        held += low <= 0.7 <= high
        low, high = wilson(right.mean(), len(right))
        wilsons += low <= 0.7 <= high
    assert held >= 180
    assert wilsons <= 140


def test_the_permutation_test_over_single_images_is_mcnemars():
    rng = np.random.default_rng(0)
    a, b = rng.random(200) < 0.8, rng.random(200) < 0.7
    assert permutation(a, b, np.arange(200)) == pytest.approx(mcnemar(a, b), abs=0.01)
    a, b = np.repeat([True, True, True, False], 25), np.repeat([False, False, True, True], 25)
    assert mcnemar(a, b) < 0.01
    assert permutation(a, b, np.repeat([1, 2, 3, 4], 25)) > 0.5  # three patients differ, two of them one way


def test_cards_of_groups_are_read(patients, tmp_path):
    extract(patients / "t.csv", tmp_path / "st", backbone="pixels", group_column="patient")
    probe(tmp_path / "st", tmp_path / "m.safetensors", kind="ridge", baselines="none")
    assert models.load(tmp_path / "m.safetensors").card["test"]["groups"] == 8
