"""What predicts the label without showing what is in the image, and what does not."""

import numpy as np
import pytest
from test_audits_evidence import blobs, matrix

from featurepipe.audits import Evidence, Pictures, Unknown
from featurepipe.audits.shortcuts import shortcuts

CLASSES, EACH = 6, 30
Y = np.repeat([f"c{n}" for n in range(CLASSES)], EACH)


def evidence(small=None, nbytes=None, sizes=None, ids=None):
    """Samples that a probe tells apart, whose pictures are noise unless given."""
    X, _ = blobs(EACH, CLASSES)
    rng, count = np.random.default_rng(1), len(X)
    seen = Pictures(
        np.full((count, 2), 64) if sizes is None else sizes,
        rng.integers(900, 1100, count) if nbytes is None else nbytes,
        rng.integers(0, 256, (count, 32, 32, 3), np.uint8) if small is None else small,
        np.zeros((count, 4, 8), np.uint8),
    )
    samples = matrix(X, Y.tolist())
    if ids is not None:
        samples.ids[:] = ids
    return Evidence(samples, seen)


def test_noise_is_no_shortcut():
    assert not list(shortcuts(evidence()))


def test_a_watermark_gives_its_class_away_by_the_border():
    small = np.random.default_rng(2).integers(0, 256, (len(Y), 32, 32, 3), np.uint8)
    small[Y == "c4", 28:31, 18:31] = 250
    found = list(shortcuts(evidence(small)))
    assert found[0].reason.startswith("the border alone gives c4 away")
    assert {label for one in found for label in Y[list(one.rows)]} == {"c4"}
    assert found[0].score > 0.9


@pytest.mark.parametrize(
    ("given", "cue"),
    [
        ({"nbytes": np.repeat(np.arange(CLASSES), EACH) * 1000 + 500}, "the size of the file"),
        ({"sizes": np.repeat([[64, 64 + 9 * n] for n in range(CLASSES)], EACH, axis=0)}, "the resolution"),
        ({"ids": [f"x/cam{'abcdef'[n // EACH]}_{n}.jpg" for n in range(len(Y))]}, "the name of the file"),
    ],
)
def test_what_every_class_is_known_by_is_good_at_all(given, cue):
    found = [one for one in shortcuts(evidence(**given)) if not one.rows]
    assert [one.reason.split(" alone predicts")[0] for one in found] == [cue]


def test_the_names_of_classes_in_names_of_files_are_no_shortcut():
    assert not list(shortcuts(evidence(ids=[f"{label}.{n}.jpg" for n, label in enumerate(Y)])))


def test_without_pictures_or_with_single_images_nothing_is_said():
    X, y = blobs(EACH, CLASSES)
    with pytest.raises(Unknown, match="nobody looked"):
        list(shortcuts(Evidence(matrix(X, y), unseen="nobody looked")))
    with pytest.raises(Unknown, match="a class has only one image"):
        list(shortcuts(Evidence(matrix(np.eye(3), ["a", "a", "b"]))))
