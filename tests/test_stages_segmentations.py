"""The stage `segment`, from a store and masks to a model file and predicted masks."""

import json

import numpy as np
import pytest
from blocks import HOW, SHAPE, make_blocks
from click.testing import CliRunner
from PIL import Image

import featurepipe
from featurepipe import cli, models
from featurepipe.errors import ModelFileError, OutputError, SegmentationError, StoreError
from featurepipe.listeners import SILENT


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of a bright block on a dark ground with masks, their table, and a store of their tokens."""
    return make_blocks(tmp_path_factory.mktemp("blocks"))


def segment(data, *more, **options):
    at, store = data
    options = {"ignore": 255, "listener": SILENT, "force": True, **options}
    return featurepipe.segment(store, at / "t.csv", *more, **options)


def test_blocks_are_found_and_the_file_says_how_well(data, tmp_path):
    result = segment(data, tmp_path / "m.safetensors", classes=["ground", "block"], save=tmp_path / "shown")
    assert (result["n"], result["evaluated_on"], result["covered"]) == (6, "test", 1.0)
    assert result["miou"] > 0.6
    assert result["miou"] > result["path"][0]["miou"] - 0.2
    assert set(result["per_class"]) == {"ground", "block"}
    assert 0 <= result["baselines"]["colour"]["miou"] <= 1
    model = models.load(tmp_path / "m.safetensors")
    assert (model.kind, model.classes.tolist()) == ("segmentation", ["ground", "block"])
    assert model.card.segmentation.miou == result["miou"]
    assert len(model.seen) == 14
    for n in range(14, 20):
        with Image.open(tmp_path / "shown" / "images" / f"{n}.png.png") as image:
            said = np.asarray(image)
        with Image.open(data[0] / "masks" / f"{n}.png") as image:
            truth = np.asarray(image)
        assert said.shape == truth.shape
        assert (said == truth)[truth < 255].mean() > 0.6
    assert (tmp_path / "shown" / "images" / "14.png.overlay.png").is_file()
    assert result["report"] == str(tmp_path / "m.html")
    page = (tmp_path / "m.html").read_text("utf-8")
    assert page.count('<img src="data:image/jpeg;base64,') == 3 * 6  # the image, its mask, the prediction
    assert "Is this good?" in page
    assert "images/19.png" in [one["id"] for one in result["images"]]
    assert featurepipe.info(tmp_path / "m.safetensors")["kind"] == "segmentation"
    for use in (
        lambda path: featurepipe.predict(path, data[0] / "images"),
        lambda path: featurepipe.evaluate(path, data[1]),
        lambda path: featurepipe.report(path),
        lambda path: featurepipe.export(path, tmp_path / "m.onnx"),
        lambda path: featurepipe.explain(path, data[0] / "images", tmp_path / "e"),
    ):
        with pytest.raises(ModelFileError, match="is a segmentation model, which answers for each pixel"):
            use(tmp_path / "m.safetensors")


def test_saved_masks_replace_nothing_and_stay_in_their_folder(data, tmp_path):
    at, _ = data
    shown = tmp_path / "shown"
    segment(data, tmp_path / "m.safetensors", baselines=False, save=shown)
    with pytest.raises(OutputError, match="replace it with --force"):
        segment(data, tmp_path / "n.safetensors", baselines=False, save=shown, force=False)
    table = tmp_path / "hostile.csv"
    rows = [f"{at}/images/{n:02}.png,{at}/masks/{n:02}.png,{'train' if n < 14 else 'test'},{n}" for n in range(19)]
    rows.append(f"{at}/images/19.png,{at}/masks/19.png,test,....//....//out")
    table.write_text("\n".join(["path,mask,split,id", *rows]) + "\n", "utf-8")
    store = featurepipe.extract(table, tmp_path / "s", tokens=True, **HOW, **SHAPE)["store"]
    inside = tmp_path / "a" / "b"
    options = {"baselines": False, "listener": SILENT, "ignore": 255}
    featurepipe.segment(store, table, tmp_path / "h.safetensors", save=inside, **options)
    assert not list((tmp_path / "a").glob("*.png"))
    assert len(list(inside.rglob("*.png"))) == 12
    aside = tmp_path / "masks"
    aside.mkdir()
    for n in range(20):
        (aside / f"{n}.png.png").write_bytes((at / "masks" / f"{n:02}.png").read_bytes())
    named = tmp_path / "named.csv"
    named.write_text(
        "id,path,mask,split\n"
        + "".join(
            f"{n}.png,{at}/images/{n:02}.png,masks/{n}.png.png,{'train' if n < 14 else 'test'}\n" for n in range(20)
        ),
        "utf-8",
    )
    store = featurepipe.extract(named, tmp_path / "t", tokens=True, **HOW, **SHAPE)["store"]
    with pytest.raises(OutputError, match="is an input of this command"):
        featurepipe.segment(store, named, tmp_path / "i.safetensors", save=aside, force=True, **options)


def test_photos_that_lie_on_their_side_are_turned_with_their_masks(data, tmp_path):
    at, _ = data
    rows = ["path,mask,split"]
    for n in range(20):
        with Image.open(at / "images" / f"{n:02}.png") as image:
            exif = Image.Exif()
            exif[0x0112] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"{n}.jpg", exif=exif, quality=95)
        rows.append(f"{n}.jpg,{at}/masks/{n:02}.png,{'train' if n < 14 else 'test'}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n", "utf-8")
    store = featurepipe.extract(tmp_path / "t.csv", tmp_path / "s", tokens=True, **HOW, **SHAPE)["store"]
    shown = tmp_path / "shown"
    turned = featurepipe.segment(store, tmp_path / "t.csv", ignore=255, baselines=False, save=shown, listener=SILENT)
    straight = segment(data, tmp_path / "m.safetensors", baselines=False)
    assert turned["miou"] == pytest.approx(straight["miou"], abs=0.1)
    with Image.open(shown / "14.jpg.png") as image:
        assert image.size == (80, 64)


def test_kinds_agree_and_a_folder_of_masks_does_too(data, tmp_path):
    at, store = data
    options = {"ignore": 255, "listener": SILENT, "baselines": False}
    found = {
        kind: featurepipe.segment(store, at / "masks", tmp_path / f"{kind}.safetensors", kind=kind, **options)
        for kind in ("ridge", "lda", "logistic")
    }
    assert {one["kind"] for one in found.values()} == set(found)
    mious = [one["miou"] for one in found.values()]
    assert max(mious) - min(mious) < 0.15
    assert found["ridge"]["miou"] == segment(data, tmp_path / "t.safetensors", kind="ridge", baselines=False)["miou"]


def test_nothing_of_the_reported_images_reaches_the_fit(data, tmp_path):
    at, store = data
    first = segment(data, tmp_path / "a.safetensors", baselines=False)
    other = tmp_path / "masks"
    other.mkdir()
    for path in sorted((at / "masks").iterdir()):
        pixels = np.asarray(Image.open(path))
        turned = np.where(pixels == 255, 255, 1 - np.minimum(pixels, 1)) if int(path.stem) >= 14 else pixels
        Image.fromarray(turned.astype(np.uint8)).save(other / path.name)
    second = featurepipe.segment(store, other, tmp_path / "b.safetensors", ignore=255, baselines=False, listener=SILENT)
    assert second["path"] == first["path"]
    assert second["miou"] < first["miou"]
    heads = [models.load(tmp_path / name).estimator.coef_ for name in ("a.safetensors", "b.safetensors")]
    np.testing.assert_array_equal(*heads)


def test_without_splits_a_part_is_held_out(data, tmp_path):
    at, _ = data
    store = featurepipe.extract(at / "images", tmp_path / "s", tokens=True, **HOW, **SHAPE)["store"]
    result = featurepipe.segment(store, at / "masks", ignore=255, baselines=False, listener=SILENT)
    assert sum(result["splits"].values()) == 20
    assert result["n"] == result["splits"]["test"] > 0


def test_what_cannot_be_done_is_said_in_a_line(data, tmp_path):
    at, store = data
    vectors = featurepipe.extract(at / "t.csv", tmp_path / "v", **HOW, **SHAPE)["store"]
    with pytest.raises(StoreError, match="--tokens"):
        featurepipe.segment(vectors, at / "t.csv", listener=SILENT)
    with pytest.raises(SegmentationError, match="kind 'forest' is unknown; use auto, ridge"):
        featurepipe.segment(store, at / "t.csv", kind="forest", listener=SILENT)
    small = tmp_path / "small"
    small.mkdir()
    for path in (at / "masks").iterdir():
        Image.open(path).resize((8, 8), 0).save(small / path.name)
    with pytest.raises(SegmentationError, match="8×8 pixels and its image 80×64; give masks of the images' size"):
        featurepipe.segment(store, small, listener=SILENT)
    model = tmp_path / "m.safetensors"
    model.write_bytes(b"mine")
    with pytest.raises(featurepipe.FeaturepipeError, match=r"m\.safetensors"):
        featurepipe.segment(store, at / "t.csv", model, listener=SILENT)
    assert model.read_bytes() == b"mine"
    page = tmp_path / "page.html"
    page.write_text("mine")
    with pytest.raises(OutputError, match=r"page\.html exists and is not a report"):
        featurepipe.segment(store, at / "t.csv", tmp_path / "n.safetensors", report=page, listener=SILENT)
    new = tmp_path / "n.safetensors"
    with pytest.raises(OutputError, match="is the name of the model file, too"):
        featurepipe.segment(store, at / "t.csv", new, report=new, listener=SILENT)
    with pytest.raises(OutputError, match="is an input of this command"):
        featurepipe.segment(store, at / "t.csv", new, report=at / "t.csv", force=True, listener=SILENT)
    assert not (tmp_path / "n.safetensors").exists()


def test_the_command_prints_figures_and_json(data, tmp_path):
    at, store = data
    arguments = ["segment", str(store), str(at / "t.csv"), "--ignore", "255", "--classes", "ground, block"]
    arguments += ["-o", str(tmp_path / "m.safetensors"), "-q"]
    shown = CliRunner().invoke(cli.main, arguments)
    assert shown.exit_code == 0, shown.output
    assert "mIoU" in shown.stdout
    assert "block" in shown.stdout
    assert "mean colour of each patch" in shown.stdout
    told = json.loads(CliRunner().invoke(cli.main, [*arguments, "--json", "--no-baselines"]).stdout)
    assert told["baselines"] == {}
    assert 0 < told["miou"] <= 1
