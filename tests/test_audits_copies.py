"""Exact and near copies, also across splits and labels."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from test_audits_evidence import matrix

from featurepipe.audits import Evidence, Pictures, look
from featurepipe.audits.exact import exact_copies
from featurepipe.audits.findings import Finding, kinds
from featurepipe.audits.near import fence, find_pairs, most_bits, near_copies
from featurepipe.audits.pictures import perceptual_hashes
from featurepipe.digests import sha256_file
from featurepipe.sources import Files
from featurepipe.stores import Pending


def scene(seed, side=224):
    """A picture with structure at all scales."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
    return noise.resize((side, side), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3))


def pending(path):
    return Pending(sha256_file(path), Files(), str(path))


@pytest.mark.parametrize(
    ("y", "split", "kind"),
    [
        (["a", "a"], ["train", "train"], "exact copies"),
        (["a", "a"], ["train", "test"], "exact copies in different splits"),
        (["a", "b"], ["train", "test"], "exact copies with different labels"),
        (["a;b", "b;a"], [None, None], "exact copies"),
        (["a", None], [None, None], "exact copies"),
    ],
)
def test_exact_copies_are_called_by_the_worst_of_them(y, split, kind):
    samples = matrix(np.eye(3), [*y, "c"], [*split, split[0]], ["x", "x", "y"])
    (found,) = exact_copies(Evidence(samples))
    assert (found.kind, found.rows) == (kind, (0, 1))


def test_kinds_that_matter_most_come_first():
    names = ["near copies", "near copies in different splits", "near copies with different labels", "near copies"]
    found = kinds(Finding(name, 1.0, (), "") for name in names)
    assert list(found.items()) == [(names[2], 1), (names[1], 1), (names[0], 2)]


def spread(count=200, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 16))


def test_without_pictures_near_copies_are_far_below_the_usual_distance():
    X = spread()
    X[7], X[11] = X[3] + 1e-3, X[5] + 2e-3
    samples = matrix(X, split=["train"] * 11 + ["test"] * 189)
    found = sorted(near_copies(Evidence(samples)), key=lambda one: -one.score)
    assert [one.rows for one in found] == [(3, 7), (5, 11)]
    assert [one.kind for one in found] == ["near copies", "near copies in different splits"]
    assert not list(near_copies(Evidence(matrix(spread()))))


def test_linked_copies_are_one_finding_with_their_exact_copies():
    X = spread()
    X[1], X[2] = X[0] + 1e-3, X[0] - 1e-3
    digests = [f"{n}" for n in range(200)]
    X[9], digests[9] = X[0], digests[0]
    (found,) = near_copies(Evidence(matrix(X, digests=digests)))
    assert found.rows == (0, 1, 2, 9)
    assert found.reason.startswith("3 images look the same")


def test_the_fence_lies_far_below_all_that_is_usual():
    distances = np.exp(np.random.default_rng(0).normal(size=10_000))
    assert fence(distances) < distances.min()


def changed(image, how):
    side = image.width
    if how == "smaller":
        return image.resize((side * 3 // 5, side * 3 // 5))
    if how == "cropped":
        return image.crop((side // 10, side // 10, side - side // 10, side - side // 10))
    return image


@pytest.mark.parametrize("how", ["encoded", "smaller", "cropped"])
def test_a_changed_picture_has_a_similar_hash_and_another_one_has_not(tmp_path, how):
    scene(0).save(tmp_path / "a.png")
    changed(scene(0), how).save(tmp_path / "b.jpg", quality=60)
    scene(1).save(tmp_path / "c.png")
    seen = look([pending(tmp_path / name) for name in ("a.png", "b.jpg", "c.png")])
    copy, other = seen.differences(np.array([0, 0]), np.array([1, 2]))
    assert copy <= 4
    assert other > 14
    assert (seen.differences(np.array([1]), np.array([0])) == copy).all()


def test_hashes_of_one_colour_are_all_the_same():
    assert not perceptual_hashes(np.full((3, 64, 64), 7, np.uint8)).any()


def test_a_hash_is_a_second_opinion_on_neighbours(tmp_path):
    """The copies are no nearer to each other than half of the usual: their embeddings alone are no proof."""
    X = spread(60)
    X[1] = X[0] + 1.4 * X[1]
    for n in range(60):
        scene(0 if n == 1 else n).save(tmp_path / f"{n:02}.jpg", quality=60 if n == 1 else 95)
    seen = look([pending(path) for path in sorted(tmp_path.iterdir())])
    evidence = Evidence(matrix(X), seen)
    assert not len(find_pairs(evidence.nearest, None).one)
    (found,) = near_copies(evidence)
    assert found.rows == (0, 1)
    assert "perceptual hashes differ in" in found.reason


def test_where_all_hashes_are_similar_they_are_no_opinion():
    """The same bar on each, a little higher or lower, as digits are: no two are copies."""
    small = np.zeros((60, 64, 64), np.uint8)
    for n in range(60):
        small[n, 4 + n % 30 : 30 + n % 30, 20:44] = 200 + n // 2
    hashes = np.stack([perceptual_hashes(np.stack([one] * 3)) for one in small])
    seen = Pictures(np.full((60, 2), 64), np.ones(60, int), np.zeros((60, 32, 32, 3), np.uint8), hashes)
    evidence = Evidence(matrix(spread(60)), seen)
    assert most_bits(seen, evidence.nearest) < 0
    assert not list(near_copies(evidence))
