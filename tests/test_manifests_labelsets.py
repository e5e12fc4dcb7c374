"""Sets of labels as texts, and tables that hold them."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from featurepipe import manifests
from featurepipe.errors import ManifestError
from featurepipe.manifests import Sample, check_label_sets, read_set, write_set


def samples(*pairs):
    return [Sample(f"{i}.png", f"{i}.png", label, split) for i, (label, split) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("cat", ("cat",)),
        ("dog;cat", ("cat", "dog")),
        (" dog ; cat ;", ("cat", "dog")),
        ("cat;cat", ("cat",)),
        (";", ()),
        (" ; ;", ()),
        ("a b;ünï 🐝;1,5", ("1,5", "a b", "ünï 🐝")),
    ],
)
def test_texts_and_sets(text, labels):
    assert read_set(text) == labels
    assert read_set(write_set(labels)) == labels


def test_a_blank_text_is_refused():
    with pytest.raises(ManifestError, match="the label '  ' is blank; write ';' for no label"):
        read_set("  ")


def test_labels_that_can_be_learned_are_let_pass():
    check_label_sets(samples(("a;b", None), ("b", None), (";", None), ("a", None), (None, None)))
    check_label_sets(samples(("a", "train"), ("b", "train"), ("a;b", "test"), (None, "test")))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(None, None)], "no sample has labels"),
        ([(";", None), (" ; ", None)], "every set of labels is empty"),
        ([("a", None), (";", None)], "only one label \\('a'\\); multi-label needs two"),
        ([("a;b", None), ("b", None)], "label 'b' is on every image to train on"),
        ([("a;b", "train"), ("b", "train"), ("a", "test")], "label 'b' is on every image to train on"),
        ([("a", "train"), (";", "train"), ("b", "test")], r"label 'b' is on no image to train on \(2.png has it\)"),
        ([("a", None), (" ", None)], "is blank"),
    ],
)
def test_labels_that_cannot_be_learned_are_named(pairs, message):
    with pytest.raises(ManifestError, match=message.replace("\\\\", "\\")):
        check_label_sets(samples(*pairs))


def test_lists_in_jsonl_and_parquet_are_sets(tmp_path):
    lists = [["dog", "cat"], [], None, ["cat"]]
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"")
    lines = [{"path": f"{i}.png", "label": labels} for i, labels in enumerate(lists)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), tmp_path / "t.parquet")
    for name in ("t.jsonl", "t.parquet"):
        found = [sample.label for sample in manifests.read(tmp_path / name).samples]
        assert found == ["dog;cat", ";", None, "cat"]
