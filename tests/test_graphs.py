"""A model as an ONNX graph: the same probabilities, run without torch."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import featurepipe
from featurepipe import graphs, models
from featurepipe.cli import main
from featurepipe.errors import DependencyMissing, ManifestError, ModelFileError, OutputError

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("graphs") / "photos", np.random.default_rng(0)
    for number, label in enumerate(("ant", "bee", "cow")):
        (root / label).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 120, (40, 44, 3)) + 60 * number
            Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def model_of(photos):
    """A function that makes a model file: name of the backbone, kind of probe, and folders to leave out → path."""

    def make(name, kind, without=(), **given):
        place = photos.parent / f"{name}-{kind}-{len(without)}"
        data = photos
        if without:
            data = photos.parent / "two"
            for label in ("ant", "bee"):
                if not (data / label).exists():
                    (data / label).mkdir(parents=True)
                    for file in (photos / label).iterdir():
                        (data / label / file.name).write_bytes(file.read_bytes())
        store = featurepipe.extract(data, place / "s", backbone=name, random_weights=True, precision="fp32", **given)
        return featurepipe.probe(store["store"], place / "m.safetensors", kind=kind, baselines="none")["model"]

    return make


def answers(graph, model, photos):
    """Probabilities of the graph on the pixels of the photos, and those of `predict`."""
    loaded = models.load(model)
    transform = models.open_backbone(loaded, model).transform
    session = runtime.InferenceSession(str(graph))
    told = featurepipe.predict(model, photos, probabilities=True)["predictions"]
    pixels = np.stack([transform.decode((photos / one["path"]).read_bytes()) for one in told])
    (given,) = session.get_inputs()
    assert given.type == "tensor(uint8)"
    (found,) = session.run(None, {given.name: pixels})
    return found, np.array([[one[f"p:{label}"] for label in loaded.classes] for one in told])


@pytest.mark.parametrize(
    ("name", "kind"), [("test_resnet", "logistic"), ("test_vit", "ridge"), ("test_efficientnet", "mlp")]
)
def test_the_graph_gives_the_probabilities_of_predict(photos, model_of, tmp_path, name, kind):
    model = model_of(name, kind)
    made = featurepipe.export(model, tmp_path / "m.onnx", samples=photos)
    found, wanted = answers(tmp_path / "m.onnx", model, photos)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert made["difference"] <= 1e-4
    assert (made["compared"], made["classes"]) == (24, 3)
    assert made["bytes"] == (tmp_path / "m.onnx").stat().st_size
    told = json.loads({one.key: one.value for one in onnx.load(tmp_path / "m.onnx").metadata_props}["featurepipe"])
    assert told["classes"] == ["ant", "bee", "cow"]
    assert told["transform"]["input_size"][0] == 3


@pytest.mark.parametrize("kind", ["svm", "ridge"])
def test_two_classes_share_one_score(photos, model_of, tmp_path, kind):
    model = model_of("test_resnet", kind, without=("cow",))
    featurepipe.export(model, tmp_path / "m.onnx")
    found, wanted = answers(tmp_path / "m.onnx", model, photos)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert found.shape[1] == 2


def test_sets_of_labels_have_probabilities_of_their_own(photos, model_of, tmp_path):
    rows = [f"{label}/{i}.png,{label};all\n" for label in ("ant", "bee") for i in range(8)]
    table = photos / "sets.csv"
    table.write_text("path,label\n" + "".join(rows) + "".join(f"cow/{i}.png,cow\n" for i in range(8)))
    store = featurepipe.extract(table, tmp_path / "s", backbone="test_resnet", random_weights=True, precision="fp32")
    model = featurepipe.probe(store["store"], tmp_path / "m.safetensors", multi_label=True, baselines="none")["model"]
    featurepipe.export(model, tmp_path / "m.onnx")
    found, wanted = answers(tmp_path / "m.onnx", model, photos)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_what_cannot_be_a_graph_is_said_and_nothing_is_written(photos, model_of, tmp_path, monkeypatch):
    with pytest.raises(ModelFileError, match="a probe of kind knn cannot be written as ONNX; use one of logistic"):
        featurepipe.export(model_of("test_resnet", "knn"), tmp_path / "m.onnx")
    store = featurepipe.extract(photos, tmp_path / "s", backbone="pixels")["store"]
    handmade = featurepipe.probe(store, tmp_path / "p.safetensors", baselines="none")["model"]
    with pytest.raises(ModelFileError, match="pixels on images cannot be written as ONNX; only torch networks"):
        featurepipe.export(handmade, tmp_path / "m.onnx")
    model = model_of("test_resnet", "logistic")
    with pytest.raises(ModelFileError, match="layer is for embeddings"):
        featurepipe.export(model, tmp_path / "m.onnx", layer="stage1")
    with pytest.raises(ManifestError, match="compared with an ONNX graph only"):
        featurepipe.export(store, tmp_path / "e.npz", samples=photos)
    (tmp_path / "theirs.onnx").write_bytes(b"theirs")
    with pytest.raises(OutputError, match=r"is not an ONNX file .*--force"):
        featurepipe.export(model, tmp_path / "theirs.onnx")
    monkeypatch.setattr(graphs, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(ModelFileError, match="so it was not written"):
        featurepipe.export(model, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_missing_library_is_named(model_of, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(DependencyMissing, match=r"featurepipe\[onnx\]"):
        featurepipe.export(model_of("test_resnet", "logistic"), tmp_path / "m.onnx")


def test_the_command_replaces_its_own(photos, model_of, tmp_path):
    command = ["export", str(model_of("test_resnet", "logistic")), "-o", str(tmp_path / "m.onnx"), "-q"]
    for _ in range(2):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    assert "of the model's probabilities" not in done.stdout
    assert "on 8 inputs → " in done.stdout
