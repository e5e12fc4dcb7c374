"""The stage `paint`: masks of new images by a segmentation model, as `segment` writes them, and nowhere else."""

import json

import numpy as np
import pytest
from blocks import HOW, make_blocks
from click.testing import CliRunner
from PIL import Image

import featurepipe
from featurepipe import cli, models
from featurepipe.cards import Card
from featurepipe.errors import ManifestError, ModelFileError, OutputError, SegmentationError
from featurepipe.listeners import SILENT

pytestmark = pytest.mark.slow
CENTER = {"transform": {"input_size": (3, 64, 64), "crop_mode": "center", "crop_pct": 1.0}}  # 64 of 80 columns


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the pictures, with a segmentation model and the masks that `segment` wrote of the test images."""
    at, store = make_blocks(tmp_path_factory.mktemp("painted"), **CENTER)
    table = at / "t.csv"
    options = {"ignore": 255, "baselines": False, "save": at / "saved", "listener": SILENT}
    featurepipe.segment(store, table, at / "m.safetensors", classes=["ground", "block"], **options)
    lines = table.read_text("utf-8").splitlines()
    (at / "new.csv").write_text("\n".join(["path", *(line.split(",")[0] for line in lines[15:])]) + "\n", "utf-8")
    return at


def paint(made, *places, **options):
    return featurepipe.paint(made / "m.safetensors", *places, device="cpu", listener=SILENT, **options)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_masks_are_those_of_segment(made, tmp_path):
    found = paint(made, made / "new.csv", tmp_path / "new", overlays=True)
    assert files(tmp_path / "new") == files(made / "saved")
    for name in files(tmp_path / "new"):
        with Image.open(tmp_path / "new" / name) as mine, Image.open(made / "saved" / name) as theirs:
            assert (mine.mode, mine.size, mine.getpalette()) == (theirs.mode, theirs.size, theirs.getpalette())
            np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
    assert (found["painted"], found["rejected"], found["seen_in_training"]) == (6, 0, 0)
    with Image.open(found["images"][0]["mask"]) as image:
        values = np.asarray(image)
    assert set(np.unique(values)) == {0, 1, 255}  # the network does not see the outer columns
    assert (values[:, :8] == 255).all()
    share = found["images"][0]["shares"]["block"]
    assert found["classes"]["block"]["images"] == 6
    assert 0.1 < share < 0.7
    assert sum(one["share"] for one in found["classes"].values()) == pytest.approx(1)


def test_a_broken_image_is_rejected_by_name_and_the_others_are_painted(made, tmp_path):
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes((made / "images" / "00.png").read_bytes())
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "copy.png").write_bytes((made / "images" / "00.png").read_bytes())
    (folder / "broken.png").write_bytes(b"junk")
    found = paint(made, folder.parent, tmp_path / "new")
    assert files(tmp_path / "new") == ["deep/a.png.png", "other/copy.png.png"]
    assert list(found["rejects"]) == ["deep/broken.png"]
    assert found["seen_in_training"] == 2
    with pytest.raises(ManifestError, match=r"broken\.png cannot be read: not an image"):
        paint(made, folder / "broken.png", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_masks_stay_in_their_folder_and_replace_nothing(made, tmp_path):
    table = tmp_path / "hostile.csv"
    table.write_text(f"path,id\n{made}/images/00.png,....//..//out\n{made}/images/01.png,../up\n", "utf-8")
    inside = tmp_path / "a" / "b"
    paint(made, table, inside)
    assert len(files(inside)) == len(files(tmp_path / "a")) == 2
    with pytest.raises(OutputError, match=r"b holds files already; name a new folder .*--force"):
        paint(made, table, inside)
    assert paint(made, table, inside, force=True)["painted"] == 2
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file is not a folder"):
        paint(made, table, tmp_path / "file")
    own = tmp_path / "own"
    own.mkdir()
    (own / "x.png").write_bytes((made / "images" / "00.png").read_bytes())
    (own / "x.png.png").write_bytes((made / "images" / "01.png").read_bytes())
    with pytest.raises(OutputError, match=r"x\.png\.png is an input of this command"):
        paint(made, own, own, force=True)


def test_what_cannot_be_painted_is_said_in_a_line(made, tmp_path):
    featurepipe.extract(made / "images", tmp_path / "v", **HOW)
    labelled = tmp_path / "labels.csv"
    labelled.write_text("".join(["path,label\n", *(f"{made}/images/{n:02}.png,{n % 2}\n" for n in range(20))]), "utf-8")
    store = featurepipe.extract(labelled, tmp_path / "s", **HOW)["store"]
    featurepipe.probe(store, tmp_path / "p.safetensors", kind="ridge", baselines="none", listener=SILENT)
    with pytest.raises(ModelFileError, match=r"is a ridge model, which answers for a sample .*featurepipe predict"):
        featurepipe.paint(tmp_path / "p.safetensors", made / "images", tmp_path / "new")
    with pytest.raises(ModelFileError, match="does not exist"):
        featurepipe.paint(tmp_path / "none.safetensors", made / "images", tmp_path / "new")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f'path,part\n{made}/images/00.png,"0,0,9,9"\n', "utf-8")
    with pytest.raises(ManifestError, match="1 samples are parts of images"):
        paint(made, boxes, tmp_path / "new")
    with pytest.raises(SegmentationError, match="no pixel of a mask is -1"):
        featurepipe.segment(made / "s", made / "t.csv", tmp_path / "n.safetensors", ignore=-1, listener=SILENT)


def test_files_from_before_masks_had_values_give_class_numbers(made, tmp_path):
    model = models.load(made / "m.safetensors")
    said = model.card.to_json()
    for key in ("mask_values", "ignored"):
        del said["segmentation"][key]
    old = tmp_path / "old.safetensors"
    models.save(old, models.Model(**{**vars(model), "card": Card.from_json(said)}))
    found = featurepipe.paint(old, made / "images" / "14.png", tmp_path / "new", device="cpu", listener=SILENT)
    with Image.open(found["images"][0]["mask"]) as image:
        assert set(np.unique(np.asarray(image))) == {0, 1}
    said["segmentation"]["mask_values"] = [0, 1, 2]
    models.save(old, models.Model(**{**vars(model), "card": Card.from_json(said)}))
    with pytest.raises(ModelFileError, match="3 values of masks for 2 classes"):
        featurepipe.paint(old, made / "images" / "14.png", tmp_path / "again", device="cpu", listener=SILENT)


def test_the_command_says_how_much_is_of_each_class(made, tmp_path):
    call = ["paint", str(made / "m.safetensors"), str(made / "images"), "-q", "--device", "cpu"]
    shown = CliRunner().invoke(cli.main, [*call, "-o", str(tmp_path / "new")])
    assert shown.exit_code == 0, shown.output
    assert "note: the model was trained on 14 of these images" in shown.stdout
    assert shown.stdout.endswith(f"20 masks → {tmp_path / 'new'}\n")
    told = json.loads(CliRunner().invoke(cli.main, [*call, "-o", str(tmp_path / "more"), "--json"]).stdout)
    assert told["painted"] == 20
