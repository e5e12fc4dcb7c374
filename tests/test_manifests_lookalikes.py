"""Classes that look alike, and copies under two labels."""

import unicodedata

import numpy as np
import pytest

from featurepipe.manifests import Sample, contradictions, describe, read
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


def test_copies_under_two_labels_are_counted_and_the_first_named():
    digests = np.array(["b", "c", "b", "", "", "a", "a", "c", "b"])
    count, (note,) = contradictions(digests, samples("cat", "dog", "dog", "x", "y", "cat", "cat", None, "cat"))
    assert count == 3
    assert note.startswith(
        "3 images have an exact copy under another label, first 0.png (cat) and 2.png (dog); correct"
    )


@pytest.mark.parametrize("kind", [object, "S32", str])
def test_copies_that_agree_are_no_contradiction(kind):
    digests = np.array(["a", "a", "b", "b", "c"], kind)
    assert contradictions(digests, samples("cat;dog", "dog; cat", None, "x", "y")) == (0, [])
    assert contradictions(digests[:0], []) == (0, [])
    assert contradictions(digests, samples("cat", "dog", "x", "x", "y"))[0] == 2
