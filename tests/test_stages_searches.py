"""The stage search: neighbours in a store, of its own samples and of files."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from featurepipe import extract, matrices, search
from featurepipe.cli import main
from featurepipe.errors import FeaturepipeError, ManifestError, ProbeError
from featurepipe.stores import Store


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store of 20 noisy pictures, one of them twice."""
    root, rng = tmp_path_factory.mktemp("searched") / "data", np.random.default_rng(0)
    for label in ("ant", "bee"):
        (root / label).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 100, (8, 8, 3)) + 100 * (label == "bee")
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{i}.png")
    (root / "bee/copy.png").write_bytes((root / "ant/3.png").read_bytes())
    extract(root, root.parent / "s", backbone="pixels", rows_per_shard=6)
    return root.parent / "s", root


def test_a_sample_finds_its_copy_and_not_itself(stored):
    found = search(stored[0], "ant/3.png", count=3)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    (query,) = found["queries"]
    first = query["neighbours"][0]
    assert (query["id"], first["id"], first["label"], first["split"]) == ("ant/3.png", "bee/copy.png", "bee", None)
    assert first["similarity"] == pytest.approx(1, abs=1e-6)
    assert len(query["neighbours"]) == 3
    assert found["samples"] == 21


def test_neighbours_are_those_of_all_pairs(stored):
    store = Store.open(stored[0])
    samples = matrices.load(store, store.choose())
    Z = samples.X / np.linalg.norm(samples.X, axis=1, keepdims=True)
    far = Z @ Z[0]
    wanted = [samples.digests[row] for row in np.argsort(-far) if row != 0]  # copies are equally near
    digests = dict(zip(samples.ids, samples.digests, strict=True))
    (query,) = search(stored[0], samples.ids[0], count=99)["queries"]
    assert [digests[one["id"]] for one in query["neighbours"]] == wanted
    np.testing.assert_allclose([one["similarity"] for one in query["neighbours"]], np.sort(far[1:])[::-1], atol=1e-5)


def test_a_file_is_embedded_as_the_store_is(stored, tmp_path):
    file = tmp_path / "new.png"
    file.write_bytes((stored[1] / "ant/3.png").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = search(stored[0], [file, "bee/1.png", tmp_path / "broken.png"], count=2)
    assert [query["id"].rsplit("/")[-1] for query in found["queries"]] == ["1.png", "new.png"]
    assert sorted(one["id"] for one in found["queries"][1]["neighbours"]) == ["ant/3.png", "bee/copy.png"]
    assert [id_.rsplit("/")[-1] for id_ in found["rejects"]] == ["broken.png"]


def test_a_file_that_is_called_as_a_sample_of_the_store_finds_that_sample(stored, tmp_path):
    (tmp_path / "new/ant").mkdir(parents=True)
    (tmp_path / "new/ant/4.png").write_bytes((stored[1] / "ant/4.png").read_bytes())
    (query,) = search(stored[0], tmp_path / "new", count=30)["queries"]
    assert query["id"] == query["neighbours"][0]["id"] == "ant/4.png"
    assert len(query["neighbours"]) == 21


def test_bad_input_says_what_to_do(stored, tmp_path):
    with pytest.raises(ManifestError, match=r"nothing\.png does not exist"):
        search(stored[0], "nothing.png")
    with pytest.raises(ProbeError, match="give a number above 0"):
        search(stored[0], "ant/3.png", count=0)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(FeaturepipeError, match="not an image"):
        search(stored[0], tmp_path / "a.wav")


def test_the_command_lists_similarities(stored):
    done = CliRunner().invoke(main, ["search", str(stored[0]), "ant/3.png", "-n", "2", "-q"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "most similar of 21 samples, by pixels (cosine, sample, label)"
    assert lines[1:4] == ["", "ant/3.png", "  1.000  bee/copy.png  (bee)"]
    assert len(lines) == 5
