"""Folders as manifests: which folders are splits, and what is left out."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from featurepipe.errors import ManifestError
from featurepipe.manifests import Sample, check_labels, describe, folders, read, summarise


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Training", "train"),
        ("TRAIN", "train"),
        ("Validation", "val"),
        ("valid", "val"),
        ("dev", "val"),
        ("development", "val"),
        ("Testing", "test"),
    ],
)
def test_usual_names_of_split_folders_are_splits(tmp_path, name, split):
    other = "test" if split != "test" else "train"
    touch(tmp_path, f"{name}/ant/1.png", f"{name}/bee/1.png", f"{other}/ant/2.png")
    assert {(sample.label, sample.split) for sample in read(tmp_path).samples} == {
        ("ant", split),
        ("bee", split),
        ("ant", other),
    }


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("train", "eval"), "eval/ looks like a split"),
        (("train2017", "val2017"), "train2017/ looks like a split"),
        (("seg_train", "seg_test", "seg_dev"), "seg_dev/ looks like a split"),
        (("trainset", "TestSet"), "TestSet/ looks like a split"),
        (("train", "extra"), r"mixes split folders \(train/\) with others \(extra/\)"),
    ],
)
def test_folders_that_may_be_splits_are_refused_with_a_way_out(tmp_path, names, named):
    touch(tmp_path, *(f"{name}/{label}/1.png" for name in names for label in ("ant", "bee")))
    with pytest.raises(ManifestError, match=named) as caught:
        read(tmp_path)
    assert "name them train/ val/ test/, or list the samples in a table" in str(caught.value)


def test_classes_that_have_a_splits_word_among_others_stay_classes(tmp_path):
    touch(tmp_path, "train station/1.png", "airport/1.png", "test tube/1.png")
    assert {sample.label for sample in read(tmp_path).samples} == {"train station", "airport", "test tube"}


@pytest.mark.parametrize("rubbish", ["@eaDir", "lost+found", "$RECYCLE.BIN", "__MACOSX", "System Volume Information"])
def test_folders_that_programs_make_are_left_out_and_named(tmp_path, rubbish):
    touch(tmp_path, "ant/1.png", f"ant/{rubbish}/1.png/thumb.jpg", f"{rubbish}/2.jpg", f"{rubbish}/3.txt", "bee/1.png")
    manifest = read(tmp_path)
    assert [sample.id for sample in manifest.samples] == ["ant/1.png", "bee/1.png"]
    assert manifest.left_out.rubbish == {rubbish: 3}
    assert describe(manifest)[1:] == [f"note: left out: 3 files in folders called {rubbish}"]


def test_what_is_left_out_is_counted_and_said(tmp_path):
    touch(tmp_path, "bird/1.psd", "bird/2.PSD", "cat/1.png", "cat/notes.txt", "dog/1.png", "dog/.x", ".git/a", "cat/b")
    (tmp_path / "fish").mkdir()
    manifest = read(tmp_path)
    assert describe(manifest) == [
        "found 2 images of 2 classes: cat (1), dog (1)",
        "note: left out: 2 .psd files, 1 file without a suffix, 1 .txt file, 2 hidden files or folders",
        "note: 2 files left out are pictures in a format that is not read here; convert to JPEG or PNG to use them",
        "note: nothing to read in these folders: bird/ (2 other files), fish/ (empty)",
    ]
    found = summarise(manifest)
    assert (found["images"], found["classes"], found["unlabelled"]) == (2, {"cat": 1, "dog": 1}, 0)
    left_out = found["left_out"]
    assert (left_out["pictures"], left_out["files"], left_out["hidden"]) == (2, {".psd": 2, "": 1, ".txt": 1}, 2)
    assert left_out["barren"] == {"bird/": 2, "fish/": 0}


def test_a_readme_is_no_picture(tmp_path):
    touch(tmp_path, "cat/1.png", "README.txt", "labels.csv")
    assert read(tmp_path).left_out.pictures == 0
    assert read(touch(tmp_path, "cat/scan.NRRD", "cat/raw.nef")).left_out.pictures == 2


def test_a_folder_of_other_pictures_only_says_what_there_is(tmp_path):
    with pytest.raises(
        ManifestError,
        match=r"no images, sounds, texts or videos under .* \.jpg .*\.wav.*; left out: 2 \.psd files; .* to JPEG",
    ):
        read(touch(tmp_path, "cat/1.psd", "dog/2.psd"))


def test_classes_without_images_are_named_below_splits_too(tmp_path):
    touch(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/cat/2.png", "test/dog/x.psd", "train/cat/more/y.txt")
    (tmp_path / "val").mkdir()
    assert read(tmp_path).left_out.barren == {"test/dog/": 1, "val/": 0}


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes and links")
def test_pipes_and_loops_are_counted(tmp_path):
    touch(tmp_path, "cat/1.png")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    assert (
        describe(read(tmp_path))[1]
        == "note: left out: 1 pipe or device, 1 link that leads back or where one did (cat/up)"
    )


def test_one_class_folder_that_holds_folders_gets_a_hint(tmp_path):
    touch(tmp_path / "a", "animals/ants/1.png", "animals/bees/1.png")
    with pytest.raises(ManifestError, match=r"only one class .* the folders ants, bees: .* give that folder .animals/"):
        check_labels(read(tmp_path / "a").samples)
    touch(tmp_path / "b", "train/train/ants/1.png", "train/train/bees/1.png")
    with pytest.raises(ManifestError, match=r"if these are the classes, move them up, out of train/train/"):
        check_labels(read(tmp_path / "b").samples)
    touch(tmp_path / "c", "animals/1.png", "animals/more/1.png")
    with pytest.raises(ManifestError, match=r"only one class \('animals'\); a classifier needs at least two$"):
        check_labels(read(tmp_path / "c").samples)


def test_columns_cannot_be_named_for_a_folder(tmp_path):
    with pytest.raises(ManifestError, match="is a folder, which has no columns"):
        read(touch(tmp_path, "cat/1.png"), label_column="class")


def test_a_manifest_by_hand_has_nothing_left_out():
    from featurepipe.manifests import Manifest

    assert describe(Manifest(None, [Sample("a", "a", None, None)])) == ["found 1 image; without labels"]


# -- folders that are deep, and links that branch


@pytest.fixture
def nested():
    """Factory of folders inside each other, the last with an image; also deeper than a path may be long."""
    if not shutil.which("rm"):
        pytest.skip("nothing here removes folders that are so deep")
    place, here = tempfile.mkdtemp(), os.getcwd()

    def make(depth, top="top"):
        try:
            os.makedirs(os.path.join(place, top))
            os.chdir(os.path.join(place, top))
            for _ in range(depth):
                os.mkdir("d")
                os.chdir("d")
            Path("0.png").touch()
        finally:
            os.chdir(here)
        return Path(place)

    yield make
    subprocess.run(["rm", "-rf", place], check=True)  # shutil.rmtree is recursive


@pytest.mark.slow
@pytest.mark.parametrize("top", ["top", "@eaDir"])
def test_folders_may_be_two_thousand_deep(nested, top, monkeypatch):
    root, entered, scandir = touch(nested(1990, top), "a/0.png"), [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: entered.append(folder) or scandir(folder))
    manifest = read(root)
    assert len(entered) == 1993  # each once: the root, a, top and those in it
    assert [sample.id for sample in manifest.samples] == ["a/0.png", *["top/" + "d/" * 1990 + "0.png"] * (top == "top")]
    assert manifest.left_out.rubbish == ({top: 1} if top == "@eaDir" else {})


@pytest.mark.slow
def test_folders_deeper_than_a_path_can_be_are_refused_by_name(nested):
    with pytest.raises(ManifestError, match=r"folder .*/d/d cannot be read \(File name too long\)"):
        read(nested(2500))


def test_links_that_branch_end_and_give_each_image_once(tmp_path):
    """Two to each of the following, so that 2^30 paths lead to the only image."""
    chain = tmp_path / "outside"
    for number in range(30):
        (chain / str(number)).mkdir(parents=True)
        if number:
            os.symlink(chain / str(number), chain / str(number - 1) / "left")
            os.symlink(chain / str(number), chain / str(number - 1) / "right")
    touch(chain, "29/1.png")
    (tmp_path / "data").mkdir()
    os.symlink(chain / "0", tmp_path / "data" / "a")
    manifest = read(tmp_path / "data")
    assert [sample.id for sample in manifest.samples] == ["a/" + "left/" * 29 + "1.png"]
    assert manifest.left_out.loops == 29


def test_links_that_branch_inside_of_the_folder_end_too(tmp_path):
    for number in range(30):
        (tmp_path / f"{number:02}").mkdir()
        for name in ("left", "right") if number < 29 else ():
            os.symlink(f"../{number + 1:02}", tmp_path / f"{number:02}" / name)
    touch(tmp_path, "29/1.png")
    names = [sample.id for sample in read(tmp_path).samples]
    assert names == ["00/" + "left/" * 29 + "1.png", "29/1.png"]


def test_a_folder_is_found_under_its_own_name_and_through_one_link(tmp_path):
    touch(tmp_path, "data/m/1.png", "far/x/3.png", "data/z/4.png")
    for name, target in {"a": "m", "b": "m", "c": "../far", "d": "../far/x", "z/f": "..", "g": "."}.items():
        os.symlink(target, tmp_path / "data" / name)
    manifest = read(tmp_path / "data")
    assert [sample.id for sample in manifest.samples] == ["a/1.png", "c/x/3.png", "m/1.png", "z/4.png"]
    assert (manifest.left_out.loops, manifest.left_out.links) == (4, ["b", "d", "g"])
    assert "4 links that lead back or where others did (b, d, g, …)" in describe(manifest)[1]


def test_folders_without_numbers_are_told_apart_by_their_paths(tmp_path, monkeypatch):
    touch(tmp_path, "data/m/1.png", "far/3.png")
    os.symlink("../far", tmp_path / "data" / "a")
    os.symlink("../far", tmp_path / "data" / "b")
    numberless = SimpleNamespace(**{**vars(os), "stat": lambda path: SimpleNamespace(st_dev=0, st_ino=0)})
    monkeypatch.setattr(folders, "os", numberless)
    assert [sample.id for sample in read(tmp_path / "data").samples] == ["a/3.png", "m/1.png"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"t{suffix}")
    os.symlink(f"t{suffix}", tmp_path / f"link{suffix}")
    with pytest.raises(ManifestError, match=r"link\..* is a pipe or a device, which can be read once at most"):
        read(tmp_path / f"link{suffix}")


def test_texts_are_samples_where_there_is_nothing_else(tmp_path):
    for name in ("good/1.txt", "good/2.txt", "bad/1.TXT"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    manifest = read(tmp_path)
    assert manifest.medium == "text"
    assert [(sample.id, sample.label) for sample in manifest.samples] == [
        ("bad/1.TXT", "bad"),
        ("good/1.txt", "good"),
        ("good/2.txt", "good"),
    ]
    (tmp_path / "good" / "1.png").write_bytes(b"")
    (tmp_path / "README.txt").write_text("About these images.")
    manifest = read(tmp_path)
    assert (manifest.medium, manifest.samples.ids[:]) == ("image", ["good/1.png"])
    assert manifest.left_out.files[".txt"] == 4
    (tmp_path / "README.txt").unlink()
    assert len(read(tmp_path, medium="text")) == 3
