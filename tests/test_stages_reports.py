"""The stage report: a page with the samples, where their store is at hand."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from featurepipe import extract, finetuning, models, probe, report, search, stages
from featurepipe.cli import main
from featurepipe.errors import OutputError, StoreError
from featurepipe.finetuning import Classes
from featurepipe.stages import galleries

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with pictures, a store and a model of them that is sometimes wrong."""
    root, rng = tmp_path_factory.mktemp("reported"), np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 15)):
        for n, label in enumerate(("ant", "bee", "cow")):
            folder = root / "data" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 200, (24, 24, 3)) + 3 * n
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
    extract(root / "data", root / "store", backbone="pixels")
    probe(root / "store", root / "m" / "model.safetensors", kind="ridge", baselines="none")
    return root


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page)[1])


def test_the_page_shows_samples_and_names_nothing_above_the_data(made):
    result = report(made / "m")
    page = Path(result["report"]).read_text("utf-8")
    assert (result["shown"], result["missing"]) == (105, None)
    assert 'class="card wrong"' in page
    assert str(made) not in page
    assert made.name not in page
    assert data_of(page)["reported"] == 45
    assert "test/ant/" in page
    again = report(made / "m", made / "again.html")
    assert Path(again["report"]).read_bytes() == Path(result["report"]).read_bytes()


def test_what_the_page_shows_is_what_the_figures_say(made):
    result = report(made / "m", made / "p.html")
    page = Path(result["report"]).read_text("utf-8")
    wrong = int(re.search(r"(\d+) of 45 test images are wrong", page)[1])
    top1 = float(re.search(r'class="top1">([\d.]+)', page)[1])
    assert top1 == pytest.approx(100 * (1 - wrong / 45), abs=0.06)
    assert "have changed since" not in page


def test_similar_training_samples_are_those_that_search_finds(made):
    model = models.load(made / "m/model.safetensors")
    found = galleries.gather(made / "m/model.safetensors", model, made / "store", galleries.Way(0, "pca"))
    assert sorted(found.alike) == list(range(45))
    for row in (0, 20, 44):
        (query,) = search(made / "store", found.ids[row], count=104)["queries"]
        learned = [one for one in query["neighbours"] if one["split"] == "train"][:3]
        assert [found.ids[one.row] for one in found.alike[row]] == [one["id"] for one in learned]
        assert [one.cosine for one in found.alike[row]] == pytest.approx(
            [one["similarity"] for one in learned], abs=1e-5
        )


@pytest.mark.parametrize(("size", "shown"), [("0", 0), (0, 0), ("20KB", range(1, 20)), (10**9, [105])])
def test_pictures_stay_within_their_room(made, size, shown):
    result = report(made / "m", made / "p.html", pictures=size)
    assert result["shown"] in (shown if not isinstance(shown, int) else [shown])
    assert (result["shown"] > 0) == ("<img" in Path(result["report"]).read_text("utf-8").split("<script>")[0])


def test_without_the_store_the_page_says_what_is_missing(made, tmp_path):
    shutil.copy(made / "m" / "model.safetensors", tmp_path / "model.safetensors")
    result = report(tmp_path / "model.safetensors")
    assert result["shown"] == 0
    assert "there is no store next to the model file; give it with --store" in result["missing"]
    page = Path(result["report"]).read_text("utf-8")
    assert "No pictures: there is no store next to the model file" in page
    with_store = report(tmp_path / "model.safetensors", store=made / "store")
    assert (with_store["shown"], with_store["missing"]) == (105, None)
    told = CliRunner().invoke(main, ["report", str(tmp_path / "model.safetensors")]).stdout
    assert "(figures only: there is no store" in told


def test_without_the_images_the_map_and_the_names_remain(made, tmp_path):
    for name in ("store", "m"):
        shutil.copytree(made / name, tmp_path / "all" / name)
    hidden = made / "hidden"
    (made / "data").rename(hidden)
    try:
        result = report(tmp_path / "all" / "m", tmp_path / "p.html")
    finally:
        hidden.rename(made / "data")
    page = Path(result["report"]).read_text("utf-8")
    assert result["shown"] == 0
    assert "The images themselves are not shown" in page
    assert len(data_of(page)["rest"]) == 105


def test_a_store_of_other_samples_is_refused_if_asked_for_and_noted_if_found(made, tmp_path, photos):
    extract(photos(), tmp_path / "store", backbone="color-histogram")
    with pytest.raises(StoreError, match="holds no embeddings of the model's backbone pixels"):
        report(made / "m", tmp_path / "p.html", store=tmp_path / "store")
    (tmp_path / "m").mkdir()
    shutil.copy(made / "m" / "model.safetensors", tmp_path / "m" / "model.safetensors")
    assert "holds no embeddings" in report(tmp_path / "m")["missing"]


def test_a_store_that_has_changed_since_is_told_and_shows_nothing_that_was_learned(made, tmp_path):
    shutil.copytree(made / "data", tmp_path / "data")
    for number in range(10):  # they change sides
        (tmp_path / f"data/train/ant/{number:02}.png").rename(tmp_path / f"data/test/ant/moved{number}.png")
    extract(tmp_path / "data", tmp_path / "store", backbone="pixels")
    result = report(made / "m", tmp_path / "p.html", store=tmp_path / "store")
    page = Path(result["report"]).read_text("utf-8")
    assert data_of(page)["reported"] == 45
    shown = re.sub(r'<details class="alike".*?</details>', "", page.split("<script type")[0], flags=re.DOTALL)
    assert "moved" not in shown  # except as what the model has learned from
    (tmp_path / "data/test/bee/00.png").unlink()
    extract(tmp_path / "data", tmp_path / "store", backbone="pixels")
    page = Path(report(made / "m", tmp_path / "p.html", store=tmp_path / "store")["report"]).read_text("utf-8")
    assert "The pictures are of 44 samples" in page
    assert "the figures were measured on 45" in page


def test_bad_options_are_one_line(made):
    with pytest.raises(OutputError, match="'much' is not a size for the pictures; say 2MB"):
        report(made / "m", pictures="much")
    with pytest.raises(OutputError, match="map 'umap' is unknown; use pca, tsne"):
        report(made / "m", projection="umap")
    told = CliRunner().invoke(main, ["report", str(made / "m"), "--pictures", "much"])
    assert told.exit_code == 1


def test_tsne_can_be_asked_for(made):
    page = Path(report(made / "m", made / "t.html", projection="tsne")["report"]).read_text("utf-8")
    assert "t-SNE: neighbours stay together" in page


def test_sets_of_labels_have_a_sheet_and_a_map(made, tmp_path):
    probe(made / "store", tmp_path / "m.safetensors", multi_label=True, baselines="none")
    result = report(tmp_path / "m.safetensors", store=made / "store")
    page = Path(result["report"]).read_text("utf-8")
    assert "Look at these first" in page
    assert data_of(page)["reported"] == 45


def test_of_many_classes_the_pairs_are_listed(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for n in range(101):
            folder = tmp_path / "data" / split / f"class {n}"
            folder.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / "a.png")
    extract(tmp_path / "data", tmp_path / "store", backbone="color-histogram")
    probe(tmp_path / "store", tmp_path / "m" / "model.safetensors", kind="centroid", baselines="none")
    page = Path(report(tmp_path / "m")["report"]).read_text("utf-8")
    assert "There are too many classes for a matrix" in page
    assert page.count("<button type=") == 40


def test_a_tuned_network_is_asked_itself(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(Classes, "better", lambda self, curve, best: True)
    monkeypatch.setattr(finetuning, "pays", lambda *_: True)
    extract(photos(per_class=8, splits=("train", "test")), tmp_path / "store")
    probe(tmp_path / "store", tmp_path / "m" / "model.safetensors", baselines="none")
    how = {"tune": "last-1", "epochs": 1, "batch_size": 8}
    tuned = stages.finetune(
        tmp_path / "m" / "model.safetensors", tmp_path / "store", tmp_path / "m" / "t.safetensors", **how
    )
    assert tuned["promoted"]
    result = report(tmp_path / "m" / "t.safetensors")
    page = Path(result["report"]).read_text("utf-8")
    assert (result["shown"], result["missing"]) == (16, None)  # the reported ones alone
    assert "Fine-tuning" in page
    assert "have changed since" not in page
