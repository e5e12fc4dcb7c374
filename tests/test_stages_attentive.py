"""An attentive probe through every stage: trained from a store's tokens, kept in a file, asked about new images."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurepipe import models, probes, stages
from featurepipe.backbones import grid_of
from featurepipe.errors import ModelFileError, ProbeError, StoreError
from featurepipe.estimators import TransferClassifier
from featurepipe.probes.kinds import attentive
from featurepipe.stores import Store

NET = {"backbone": "test_resnet", "random_weights": True, "precision": "fp32", "compile": "off", "workers": 1}
COUNT = 30
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of images, a store with their vectors and tokens, and an attentive model; only read."""
    folder = tmp_path_factory.mktemp("attentive")
    for number in range(COUNT):
        place = folder / "photos" / ("test" if number % 3 == 2 else "train") / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        x, y = rng.integers(0, 40, 2)
        pixels[y : y + 24, x : x + 24] = (255, 0, 0) if number % 2 else (0, 0, 255)
        Image.fromarray(pixels).save(place / f"{number:02}.png")
    stages.extract(folder / "photos", folder / "s", tokens=3, **NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attentive, "STEPS", 10)
        patch.setattr(attentive, "EPOCHS", 1)
        result = stages.probe(folder / "s", folder / "m.safetensors", kind="attentive")
    return folder, result


def test_the_model_file_says_which_tokens_it_reads(made):
    folder, result = made
    loaded = models.load(folder / "m.safetensors")
    entry = Store.open(folder / "s").choose(tokens=True)
    assert (result["kind"], loaded.kind) == ("attentive", "attentive")
    assert result["alpha"] in attentive.DECAY_GRID
    assert [step["alpha"] for step in result["selection"]["path"]] == list(attentive.DECAY_GRID)
    assert loaded.backbone["fingerprint"] == entry.fingerprint
    assert grid_of(loaded.backbone["spec"]) == (3, 3)
    assert set(result["baselines"]) == {"majority", "random_backbone"}  # raw pixels have no tokens
    assert stages.info(folder / "m.safetensors")["kind"] == "attentive"


def test_a_store_and_its_images_give_the_same_answers(made):
    folder, result = made
    model = folder / "m.safetensors"
    of_store = stages.evaluate(model, folder / "s")
    assert of_store["top1"] == result["test"]["top1"]
    of_files = stages.evaluate(model, folder / "photos", compile="off")
    assert np.isclose(of_files["log_loss"], of_store["log_loss"], rtol=1e-3)
    said = stages.predict(model, folder / "photos" / "test", probabilities=True, compile="off")["predictions"]
    loaded = models.load(model)
    matrix = stages.evaluations.matrices.load(Store.open(folder / "s"), Store.open(folder / "s").choose(tokens=True))
    wanted = dict(zip(matrix.ids, loaded.predict_proba(matrix.X)[:, 0], strict=True))
    assert len(said) == 10
    for one in said:
        assert np.isclose(one["p:a"], wanted[f"test/{one['path']}"], atol=1e-3)


def test_its_page_has_a_map_of_mean_tokens(made, tmp_path):
    page = stages.report(made[0] / "m.safetensors", tmp_path / "r.html", store=made[0] / "s")
    assert page["missing"] is None
    text = Path(page["report"]).read_text("utf-8")
    assert "attentive" in text
    assert "alpha=" in text


def test_attentive_and_linear_probes_are_compared_on_the_same_images(made, monkeypatch):
    monkeypatch.setattr(attentive, "STEPS", 20)
    monkeypatch.setattr(attentive, "EPOCHS", 1)
    result = stages.compare([made[0] / "s"], kinds=["logistic", "attentive"], baselines="none")
    rows = {row["kind"]: row for row in result["rows"]}
    assert set(rows) == {"logistic", "attentive"}
    assert rows["logistic"]["n"] == rows["attentive"]["n"] == 10
    assert "tokens 3x3" in rows["attentive"]["label"]


def test_a_store_without_tokens_says_how_to_get_them(made, tmp_path):
    path = tmp_path / "s"
    shutil.copytree(made[0] / "s", path)
    shutil.rmtree(Store.open(path).choose(tokens=True).folder)
    with pytest.raises(StoreError, match=r"holds no tokens; get them with: featurepipe extract DATA -s .* --tokens$"):
        stages.probe(path, tmp_path / "m.safetensors", kind="attentive")


def test_what_an_attentive_probe_cannot_do_is_refused(made, tmp_path):
    folder, _ = made
    with pytest.raises(ProbeError, match="attentive probes read tokens; drop --semi"):
        stages.probe(folder / "s", tmp_path / "m.safetensors", kind="attentive", shots=[1], semi=True)
    with pytest.raises(ProbeError, match="a joint probe reads vectors, not tokens"):
        stages.probe(folder / "s", tmp_path / "m.safetensors", kind="attentive", with_=["pixels"])
    with pytest.raises(ModelFileError, match="kind attentive cannot be written as ONNX"):
        stages.export(folder / "m.safetensors", tmp_path / "g.onnx")
    with pytest.raises(ProbeError, match="attentive probes read tokens, which are of the last layer"):
        stages.probe_layers(folder / "s", tmp_path / "m.safetensors", kind="attentive")
    with pytest.raises(ModelFileError, match="reads tokens"):
        TransferClassifier.load(folder / "m.safetensors")
    with pytest.raises(ProbeError, match="keeps vectors, and attentive probes read tokens"):
        TransferClassifier(kind="attentive").fit([str(folder)], ["a"])


def test_tokens_that_do_not_fit_into_memory_are_read_from_disk(made, tmp_path, monkeypatch):
    monkeypatch.setattr(attentive, "STEPS", 10)
    monkeypatch.setattr(attentive, "EPOCHS", 1)
    monkeypatch.setattr(probes.parts, "check_scores", lambda *_, **__: None)
    how = {"kind": "attentive", "value": 1.0, "baselines": "none"}
    result = stages.probe(made[0] / "s", tmp_path / "m.safetensors", memory=9000, **how)
    assert result["out_of_core"]
    whole = stages.probe(made[0] / "s", tmp_path / "n.safetensors", **how)
    assert not whole["out_of_core"]
    kind, one, other = probes.KINDS["attentive"], *(models.load(tmp_path / f"{n}.safetensors") for n in "mn")
    for a, b in zip(kind.dump(one.estimator), kind.dump(other.estimator), strict=True):
        assert np.array_equal(a, b)
