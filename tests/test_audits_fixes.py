"""Leaks: what they do to the accuracy, and a table without them."""

import csv
from pathlib import Path

import numpy as np
import pytest
from test_audits_evidence import blobs, matrix

from featurepipe import manifests
from featurepipe.audits import Evidence, Finding, fix, leaked, measure
from featurepipe.audits.exact import exact_copies
from featurepipe.audits.fixes import COLUMNS, check_suffix, is_table, write
from featurepipe.errors import OutputError
from featurepipe.manifests import Sample
from featurepipe.stores import Row


def near(*rows):
    return Finding("near copies", 1.0, rows, "look the same")


def test_held_out_copies_of_what_is_learned_are_leaked():
    split = ["train", "train", "val", "test", "test", "test"]
    found = leaked(matrix(np.eye(6), split=split), [near(0, 1), near(2, 3), near(1, 2, 4), near(4, 5)])
    assert found.tolist() == [False, False, True, True, True, False]


def test_the_accuracy_is_measured_with_and_without_leaks():
    X, y = blobs(40, 2)
    split = ["train", "test"] * 40
    y[1], y[3] = "c1", "c1"  # test rows that the probe gets wrong
    found = measure(matrix(X, y, split), np.isin(np.arange(80), [5, 7, 9, 11]), seed=0)
    assert (found.split, found.n, found.copies) == ("test", 40, 4)
    assert found.top1 == 38 / 40
    assert found.without == 34 / 36


def test_exact_copies_count_as_leaks_too():
    X, y = blobs(20, 2)
    digests = [f"{n}" for n in range(40)]
    X[1], digests[1] = X[0], digests[0]
    samples = matrix(X, y, ["train", "test"] * 20, digests)
    found = measure(samples, leaked(samples, exact_copies(Evidence(samples))), seed=0)
    assert (found.n, found.copies) == (20, 1)


@pytest.mark.parametrize(
    ("y", "split"),
    [
        (["a", "b"] * 10, [None] * 20),
        (["a", "b"] * 10, ["train"] * 20),
        (["a"] * 20, ["train", "test"] * 10),
        (["a;b", "b"] * 10, ["train", "test"] * 10),
    ],
)
def test_nothing_is_measured_where_there_is_nothing_to_measure(y, split):
    assert measure(matrix(np.random.default_rng(0).normal(size=(20, 3)), y, split), np.zeros(20, bool), seed=0) is None


def test_of_exact_copies_the_earliest_split_stays():
    samples = matrix(np.eye(4), ["a", "a", "a", "b"], ["test", "train", "val", "test"], ["x", "x", "x", "y"])
    made = fix(samples, list(exact_copies(Evidence(samples))), [], [])
    assert made.kept.tolist() == [False, True, False, True]
    assert made.split[1] == "train"
    assert made.counts(samples) == {"rows": 2, "dropped": 2, "moved": 0, "listed": 1}


def test_copies_whose_labels_differ_all_stay_in_one_split():
    samples = matrix(np.eye(3), ["a", "b", "b"], ["test", "train", "test"], ["x", "x", "y"])
    made = fix(samples, list(exact_copies(Evidence(samples))), [], [])
    assert made.kept.all()
    assert made.split.tolist() == ["train", "train", "test"]
    assert made.said == {0: ["exact copies with different labels"], 1: ["exact copies with different labels"]}


def test_leaks_move_with_their_groups_until_nothing_is_apart():
    split = ["train", "val", "test", "test", "test"]
    samples = matrix(np.eye(5), ["a"] * 5, split, groups=[None, None, "g", "g", None])
    made = fix(samples, [], [near(1, 2), near(0, 1)], [])  # the second parts the first again
    assert made.split.tolist() == ["train", "train", "train", "train", "test"]
    assert made.counts(samples)["moved"] == 3


def test_the_table_is_read_as_a_manifest_and_holds_what_was_not_embedded(tmp_path):
    for name in ("a/0000.png", "a/0001.png", "a/0002.png", "a/broken.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"x")
    samples = matrix(np.eye(3), ["a", "a", "=b"], ["train", "test", "test"], ["x", "x", "y"])
    rows = [Row(Sample(id_, id_, label, "test"), "d") for id_, label in zip(samples.ids, samples.y, strict=True)]
    rows.append(Row(Sample("a/broken.png", "a/broken.png", "a", "test"), ""))
    label = Finding("suspicious labels", 0.9, (2,), "", "a")
    made = fix(samples, list(exact_copies(Evidence(samples))), [], [label])
    table = tmp_path / "out" / "new.csv"
    write(table, made, samples, rows, str(tmp_path / "data"), safe=True)
    with open(table, newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert [line["id"] for line in lines] == ["a/0000.png", "a/0002.png", "a/broken.png"]
    assert lines[0]["path"] == "../data/a/0000.png"
    assert (lines[1]["label"], lines[1]["audit"], lines[1]["suggested_label"]) == ("'=b", "suspicious labels", "a")
    assert (lines[2]["split"], lines[2]["audit"]) == ("test", "")
    assert is_table(table)
    assert [sample.id for sample in manifests.read(table).samples] == [line["id"] for line in lines]


def test_the_table_is_csv():
    with pytest.raises(OutputError, match=r"ends in \.csv, not new\.parquet"):
        check_suffix(Path("new.parquet"))
