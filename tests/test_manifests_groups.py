"""Groups: found in a column or in the paths, and never divided."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurepipe.errors import ManifestError
from featurepipe.manifests import assign_splits, check_groups, hold_out, read, units
from featurepipe.manifests.groups import check_pattern, group_of
from featurepipe.manifests.samples import Sample, Samples
from featurepipe.probes.selection import assign_folds
from featurepipe.protocols import PROTOCOLS
from featurepipe.protocols.copies import distinct
from featurepipe.protocols.searches import hold_out as hold_out_of_protocol


def sides(parts, names):
    """Group → on how many sides it is."""
    return {name: len({part for part, other in zip(parts, names, strict=True) if other == name}) for name in names}


samples = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 12), st.sampled_from([None, "p", "q", "r", "s", "t", "u", "v"])),
    min_size=6,
    max_size=60,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(samples, st.integers(0, 3))
def test_no_split_fold_or_validation_set_divides_a_group_or_copies(drawn, seed):
    labels, digests, groups = (list(column) for column in zip(*drawn, strict=True))
    digests = [f"{number:064x}" for number in digests]
    alike = units(digests, groups)
    for names in (digests, [group or f"none {i}" for i, group in enumerate(groups)]):
        assert max(sides(assign_splits(labels, alike, seed=seed), names).values()) == 1
        assert max(sides(hold_out(labels, alike, seed=seed), names).values()) == 1
        assert max(sides(assign_folds(np.array(labels), seed, alike).tolist(), names).values()) == 1
    split, held, folds = assign_splits(labels, alike, seed=seed), hold_out(labels, alike, seed=seed), None
    folds = assign_folds(np.array(labels), seed, alike)
    for label in set(labels):
        mine = np.array(labels) == label
        assert "train" in np.array(split)[mine]
        assert not np.array(held)[mine].all()
        assert all((folds[mine] != fold).any() for fold in range(5))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(samples, st.integers(0, 3), st.sampled_from(["dinov2-logreg", "featurepipe"]))
def test_no_protocol_selects_on_what_shares_a_group_with_what_is_fitted(drawn, seed, name):
    labels, _, groups = (list(column) for column in zip(*drawn, strict=True))
    groups = np.array([group or f"none {i}" for i, group in enumerate(groups)])
    y = np.array(labels)
    images = distinct(y, groups)
    rows = np.flatnonzero(images.units == images.units[0])
    assert set(images.without(np.arange(len(y)), rows).tolist()) == set(range(len(y))) - set(rows.tolist())
    protocol = PROTOCOLS[name]
    if not protocol.held_out or int(protocol.held_out * len(images.firsts)) < 1:
        return
    fitted, held = hold_out_of_protocol(protocol, y, seed, groups)
    assert not set(groups[fitted]) & set(groups[held])


def test_units_without_groups_are_the_contents():
    assert units(["b", "a", "b"], [None] * 3).tolist() == ["b", "a", "b"]


def test_splits_of_samples_without_groups_are_what_they_were():
    labels, digests = ["x", "y"] * 20, [f"{n:064x}" for n in range(40)]
    assert assign_splits(labels, units(digests, [None] * 40)) == assign_splits(labels, digests)


@pytest.mark.parametrize(
    ("pattern", "path", "wanted"),
    [
        (r"patient\d+", "a/patient12/left.png", "patient12"),
        (r"(p\d+)_\d+", "a/p7_3.png", "p7"),
        (r"^[^/]+/([^_]+)_", "cat/film_003.jpg", "film"),
    ],
)
def test_a_group_is_what_the_parentheses_match_or_all(pattern, path, wanted):
    assert group_of(path, check_pattern(pattern)) == wanted


def test_a_path_without_group_and_a_wrong_pattern_are_named():
    with pytest.raises(ManifestError, match=r"finds no group in 'a/x\.png'; make it match every path"):
        group_of("a/x.png", re.compile(r"p\d+"))
    with pytest.raises(ManifestError, match=r"is not a regular expression .*; correct --group-from"):
        check_pattern("(")


def test_a_group_on_two_sides_is_refused():
    found = [Sample("a", "a", "x", "train", "p"), Sample("b", "b", "x", "test", "p"), Sample("c", "c", "x", "test")]
    with pytest.raises(ManifestError, match=r"group 'p' is in train \(a\) and in test \(b\); give its"):
        check_groups(found)
    check_groups(found[1:])


@pytest.fixture
def table(photos, tmp_path):
    def make(header, cells):
        root = photos(per_class=3)
        files = sorted(str(path.relative_to(root)) for path in root.rglob("*.*"))
        lines = [f"{file},{file.split('/')[0]},{cells(i)}" for i, file in enumerate(files)]
        (root / "t.csv").write_text("\n".join([f"path,label,{header}", *lines]) + "\n")
        return root / "t.csv"

    return make


def test_a_column_called_group_is_used_and_another_when_it_is_named(table):
    assert {one.group for one in read(table("group", lambda i: f"p{i % 2}")).samples} == {"p0", "p1"}
    path = table("patient", lambda i: f"p{i % 3}")
    manifest = read(path)
    assert {one.group for one in manifest.samples} == {None}
    assert any("--group patient" in line for line in manifest.left_out.lines())
    manifest = read(path, group_column="patient")
    assert {one.group for one in manifest.samples} == {"p0", "p1", "p2"}
    assert not any("patient" in line for line in manifest.left_out.lines())


def test_groups_come_from_paths_of_folders_too(photos):
    root = photos(per_class=3)
    found = read(root, group_from=r"/(\d)").samples
    assert {one.group for one in found} == {"0", "1", "2"}
    with pytest.raises(ManifestError, match="leave out --group or --group-from"):
        read(root, group_from="x", group_column="y")
    with pytest.raises(ManifestError, match=r"is a folder, which has no columns; leave out .* --group"):
        read(root, group_column="y")


def test_samples_hold_their_groups():
    given_ = [Sample("a", "a", "x", None, "p"), Sample("b", "c", None, "train"), Sample("d", "d", "x", None, "p")]
    assert list(Samples(given_)) == given_
    assert Samples(given_)[2].group == "p"


def test_parts_of_one_file_on_two_sides_are_refused():
    one, other = (Sample(f"a.png#{n}", "a.png", "x", "train", None, str(n)) for n in range(2))
    check_groups([one, other, Sample("a.png", "a.png", "x", "train")])
    for odd in (other, other._replace(id="a.png", part=None)):  # the whole file is no other picture
        with pytest.raises(
            ManifestError, match=r"file 'a\.png' is in train \(a\.png#0\) and in test \(a\.png.*\); give"
        ):
            check_groups([one, odd._replace(split="test")])
    check_groups(
        [one._replace(part=None), other._replace(part=None, split="test")]
    )  # files twice are refused elsewhere
