"""Classes that look alike, and copies under two labels."""

import unicodedata

import numpy as np
import pytest

from featurepipe.manifests import Sample, contradiction_notes, contradictions, describe, read
from featurepipe.manifests.lookalikes import look_alike, name_alike


@pytest.mark.parametrize(
    "pair",
    [
        ("Cat", "cat"),
        ("STRASSE", "straße"),
        ("great  dane", "great dane"),
        ("cat", "cat "),
        ("ﬁsh", "fish"),
        ("cat", "cat\u200b"),
        (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")),
    ],
)
def test_names_that_look_alike_are_grouped(pair):
    assert look_alike([*pair, "dog", "cats"]) == [sorted(pair)]
    one, other = name_alike([sorted(pair)]).split(" and ")
    assert one != other


def test_others_are_not():
    assert look_alike(["cat", "cats", "ca", "c at", "cat_", "cat-"]) == []


def test_a_note_names_them(tmp_path):
    for name in ("Cat", "cat", "cafe\u0301", "café", "dog"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "1.png").write_bytes(b"")
    if len(list(tmp_path.iterdir())) < 5:
        pytest.skip("a file system that takes them for one")
    said = describe(read(tmp_path))[1]
    assert said.startswith(
        "note: classes that look alike: 'Cat' and 'cat'; 'cafe\\u0301' and 'caf\\xe9'; write them in"
    )


def samples(*labels):
    return [Sample(f"{i}.png", f"{i}.png", label, None) for i, label in enumerate(labels)]


def test_copies_under_two_labels_are_listed_and_named():
    digests = np.array(["b", "c", "b", "", "", "a", "a", "c", "b"])
    groups = contradictions(digests, samples("cat", "dog", "dog", "x", "y", "cat", "cat", None, "cat"))
    assert groups == [[{"id": f"{n}.png", "label": label} for n, label in ((0, "cat"), (2, "dog"), (8, "cat"))]]
    assert contradiction_notes(groups) == [
        "3 images have an exact copy under another label: 0.png (cat) = 2.png (dog) and 1 more copy; correct the "
        "labels or remove the copies"
    ]


def test_up_to_five_pictures_are_named_in_the_order_of_the_images():
    digests = np.array([*"gfedcba", *"gfedcba"])
    groups = contradictions(digests, samples(*["cat"] * 7, *["dog"] * 7))
    assert [[one["id"] for one in group] for group in groups] == [[f"{n}.png", f"{n + 7}.png"] for n in range(7)]
    (note,) = contradiction_notes(groups)
    assert note.startswith(
        "14 images have an exact copy under another label: 0.png (cat) = 7.png (dog); 1.png (cat) = "
    )
    assert "; 4.png (cat) = 11.png (dog); and 2 more; correct" in note
    (note,) = contradiction_notes(groups[:5])
    assert "11.png (dog); correct" in note


def test_of_one_picture_under_many_labels_five_are_named():
    labels = ["cat;dog", "dog; cat", *"abcdef"]
    (note,) = contradiction_notes(contradictions(np.array(["x"] * 8), samples(*labels)))
    assert "0.png (cat;dog) = 2.png (a) = 3.png (b) = 4.png (c) = 5.png (d) and 3 more copies; correct" in note


@pytest.mark.parametrize("kind", [object, "S32", str])
def test_copies_that_agree_are_no_contradiction(kind):
    digests = np.array(["a", "a", "b", "b", "c"], kind)
    assert contradictions(digests, samples("cat;dog", "dog; cat", None, "x", "y")) == []
    assert contradictions(digests[:0], []) == []
    assert len(contradictions(digests, samples("cat", "dog", "x", "x", "y"))) == 1
    assert contradiction_notes([]) == []
