"""The stage explain: pictures of what speaks for a class, next to each other in a folder."""

from io import BytesIO

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from featurepipe import explain, extract, predict, probe
from featurepipe.cli import main
from featurepipe.errors import BackboneError, ManifestError, ModelFileError, OutputError
from featurepipe.stages.explanations import is_explanation, overlay


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pictures of two classes, one name twice, and a model on the bundled network."""
    root, rng = tmp_path_factory.mktemp("explained"), np.random.default_rng(0)
    for n, label in enumerate(("ant", "bee")):
        (root / "data" / label).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 100, (40, 40, 3)) + 120 * n
            Image.fromarray(pixels.astype(np.uint8)).save(root / "data" / label / f"{i}.png")
    extract(root / "data", root / "store", backbone="bundled")
    probe(root / "store", root / "m.safetensors", kind="ridge", baselines="none")
    return root


def test_each_image_gets_a_picture_that_may_be_drawn_again(made, tmp_path):
    found = explain(made / "m.safetensors", made / "data/ant", tmp_path / "maps")
    assert found["explained"] == 6
    said = predict(made / "m.safetensors", made / "data/ant")["predictions"]
    for one, other in zip(found["images"], said, strict=True):
        assert one["of"] == one["label"] == other["label"]
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-5)
        with Image.open(one["map"]) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) >= 256
    before = (tmp_path / "maps/0.png").read_bytes()
    explain(made / "m.safetensors", made / "data/ant/0.png", tmp_path / "maps", label="bee")
    assert (tmp_path / "maps/0.png").read_bytes() != before


def test_two_images_of_one_name_get_two_pictures(made, tmp_path):
    found = explain(made / "m.safetensors", made / "data", tmp_path / "maps")
    assert len({one["map"] for one in found["images"]}) == 12 == len(list((tmp_path / "maps").iterdir()))


def test_nothing_else_is_replaced(made, tmp_path):
    (tmp_path / "0.png").write_bytes((made / "data/ant/1.png").read_bytes())
    with pytest.raises(OutputError, match="is not a picture of featurepipe"):
        explain(made / "m.safetensors", made / "data/ant/0.png", tmp_path)
    explain(made / "m.safetensors", made / "data/ant/0.png", tmp_path, force=True)
    assert is_explanation(tmp_path / "0.png")
    with pytest.raises(OutputError, match="is an input"):
        explain(made / "m.safetensors", made / "data/ant/0.png", made / "data/ant", force=True)
    with pytest.raises(OutputError, match="is not a folder"):
        explain(made / "m.safetensors", made / "data/ant/0.png", tmp_path / "0.png")


def test_an_image_that_cannot_be_read_stops_no_other(made, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    found = explain(made / "m.safetensors", [broken, made / "data/ant/0.png"], tmp_path / "maps")
    assert (found["explained"], found["rejected"]) == (1, 1)
    with pytest.raises(ManifestError, match="no image can be read"):
        explain(made / "m.safetensors", broken, tmp_path / "maps")


def test_what_cannot_be_explained_is_one_line(made, tmp_path):
    image = made / "data/ant/0.png"
    with pytest.raises(ModelFileError, match="knows no class 'cow'; it knows ant, bee"):
        explain(made / "m.safetensors", image, tmp_path / "maps", label="cow")
    probe(made / "store", tmp_path / "knn.safetensors", kind="knn", baselines="none")
    with pytest.raises(ModelFileError, match="maps of a knn probe are not built"):
        explain(tmp_path / "knn.safetensors", image, tmp_path / "maps")
    extract(made / "data", tmp_path / "plain", backbone="pixels")
    probe(tmp_path / "plain", tmp_path / "pixels.safetensors", kind="ridge", baselines="none")
    with pytest.raises(BackboneError, match="maps are drawn of networks"):
        explain(tmp_path / "pixels.safetensors", image, tmp_path / "maps")


def test_the_command_lists_the_pictures(made, tmp_path):
    call = ["explain", str(made / "m.safetensors"), str(made / "data/bee/0.png"), "-o", str(tmp_path / "maps")]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, done.output
    assert f"1 picture → {tmp_path / 'maps'}" in done.stdout


def test_where_the_map_is_zero_the_image_is_grey_and_where_it_is_one_it_is_bright():
    pixels = np.random.default_rng(0).integers(0, 255, (3, 300, 260), np.uint8)
    with Image.open(BytesIO(overlay(pixels, np.zeros((7, 7))))) as picture:
        grey = Image.fromarray(pixels.transpose(1, 2, 0)).convert("L").convert("RGB")
        assert np.array_equal(np.asarray(picture), np.asarray(grey))
    heat = np.zeros((2, 2))
    heat[0, 1] = 1
    with Image.open(BytesIO(overlay(pixels * 0, heat))) as picture:
        bright = np.asarray(picture).sum(axis=2)
    assert bright[:100, 200:].mean() > 100 > bright[250:].mean()
