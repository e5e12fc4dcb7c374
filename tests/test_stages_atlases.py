"""An export for viewers: pictures, a map, neighbours and predictions in one Parquet file."""

import io
import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from featurepipe import export, extract, matrices, models, predict, probe, search
from featurepipe.cli import main
from featurepipe.errors import OutputError, ProbeError, StoreError
from featurepipe.statistics import projections
from featurepipe.stores import Store

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of pictures in two splits, one of them twice, and a model of them."""
    root, rng = tmp_path_factory.mktemp("atlas"), np.random.default_rng(0)
    for split in ("train", "test"):
        for n, label in enumerate(("ant", "bee")):
            folder = root / "data" / split / label
            folder.mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 150, (24, 30, 3)) + 60 * n
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    (root / "data/train/bee/copy.png").write_bytes((root / "data/train/bee/3.png").read_bytes())
    extract(root / "data", root / "store", backbone="pixels")
    probe(root / "store", root / "m.safetensors", kind="ridge", baselines="none")
    return root


def rows_of(made, **options):
    result = export(made / "store", made / "a.parquet", for_="atlas", **options)
    assert result["rows"] == 33
    return parquet.read_table(made / "a.parquet").to_pylist()


def test_each_row_has_its_picture_its_place_and_its_neighbours(made):
    rows = rows_of(made)
    matrix = matrices.load(Store.open(made / "store"), Store.open(made / "store").choose())
    assert [row["id"] for row in rows] == matrix.ids.tolist()
    assert list(rows[0])[:4] == ["id", "path", "label", "split"]
    for row in rows:
        assert (row["split"], row["label"]) == tuple(row["path"].split("/")[:2])
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert (image.format, image.size) == ("JPEG", (96, 77))
        assert row["image"]["path"] == row["id"]
    points = projections.Plane.of(matrix.X).place(matrix.X)
    assert np.array([[row["projection_x"], row["projection_y"]] for row in rows]) == pytest.approx(points)
    for number in (0, 20, 32):
        (query,) = search(made / "store", rows[number]["id"])["queries"]
        near = rows[number]["neighbors"]
        assert number not in near["ids"]
        expected = [one["similarity"] for one in query["neighbours"]]
        assert [1 - far for far in near["distances"]] == pytest.approx(expected, abs=1e-5)
        assert {rows[other]["id"] for other in near["ids"]} == {one["id"] for one in query["neighbours"]}


def test_predictions_are_those_of_predict_and_what_was_learned_is_marked(made):
    rows = {row["id"]: row for row in rows_of(made, model=made / "m.safetensors")}
    for one in predict(made / "m.safetensors", made / "data")["predictions"]:
        row = rows[one["path"]]
        assert row["prediction"] == one["label"]
        assert row["confidence"] == pytest.approx(one["confidence"], abs=1e-5)
        assert row["seen_in_training"] == one["path"].startswith("train/")


def test_hugging_faces_library_knows_the_column_of_pictures(made):
    rows_of(made)
    said = json.loads(parquet.read_schema(made / "a.parquet").metadata[b"huggingface"])
    assert said["info"]["features"]["image"]["_type"] == "Image"
    again = extract(made / "a.parquet", made / "again", backbone="pixels")  # so does featurepipe
    assert again["computed"] > 0


def test_the_command_says_how_to_open_it(made):
    done = CliRunner().invoke(main, ["export", str(made / "store"), "-o", str(made / "c.parquet"), "--for", "atlas"])
    assert done.exit_code == 0, done.output
    assert "--x projection_x --y projection_y --neighbors neighbors --image image" in done.stdout


def test_where_images_are_gone_the_rest_is_written(made, tmp_path):
    (made / "data").rename(made / "moved")
    try:
        export(made / "store", tmp_path / "a.parquet", for_="atlas")
    finally:
        (made / "moved").rename(made / "data")
    rows = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert len(rows) == 33
    assert all(row["image"] is None for row in rows)


def test_what_does_not_fit_is_one_line(made, tmp_path, monkeypatch):
    store = made / "store"
    with pytest.raises(StoreError, match="an atlas is a Parquet file"):
        export(store, tmp_path / "a.csv", for_="atlas")
    with pytest.raises(StoreError, match="works only with --for atlas"):
        export(store, tmp_path / "a.parquet", model=made / "m.safetensors")
    with pytest.raises(StoreError, match="works only with --for atlas"):
        export(store, tmp_path / "a.npz", projection="pca")
    extract(made / "data", tmp_path / "other", backbone="color-histogram")
    with pytest.raises(StoreError, match="is on pixels, and not on color-histogram"):
        export(tmp_path / "other", tmp_path / "a.parquet", for_="atlas", model=made / "m.safetensors")
    monkeypatch.setattr(projections, "NEIGHBOURHOOD", 30)
    with pytest.raises(ProbeError, match="for at most 30 samples, and there are 33"):
        export(store, tmp_path / "a.parquet", for_="atlas", projection="tsne")
    (tmp_path / "mine.parquet").write_bytes(b"mine")
    with pytest.raises(OutputError, match="is not an atlas"):
        export(store, tmp_path / "mine.parquet", for_="atlas")
    assert models.is_model(made / "m.safetensors")
