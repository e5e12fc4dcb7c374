"""Data sets of Hugging Face's library."""

import sys

import pytest
from packing import files_of

from featurepipe import manifests
from featurepipe.errors import DependencyMissing, ManifestError
from featurepipe.sources import SOURCES
from featurepipe.stages import extract

NAMES = ["ant", "bee"]


@pytest.fixture(scope="module")
def library():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield pytest.importorskip("datasets")


def made(library, files):
    """A data set of encoded images with the numbers of their classes."""
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=NAMES)})
    rows = {
        "image": [{"bytes": data, "path": None} for data in files.values()],
        "label": [NAMES.index(name.split("/")[-2]) for name in files],
    }
    return library.Dataset.from_dict(rows, features=features)


@pytest.mark.filterwarnings("ignore")
def test_a_saved_data_set_with_splits(library, photos, tmp_path):
    root = photos(splits=("train", "test"), per_class=6)
    files = files_of(root)
    parts = {
        split: made(library, {name: data for name, data in files.items() if name.startswith(split)})
        for split in ("train", "test")
    }
    library.DatasetDict(parts).save_to_disk(tmp_path / "set")
    manifest = manifests.read(tmp_path / "set")
    assert {(one.split, one.label) for one in manifest.samples} == {(s, c) for s in parts for c in NAMES}
    assert sorted(manifest.source.read(one.place) for one in manifest.samples) == sorted(files.values())
    assert manifest.samples[0].id == "test/0000001"
    assert SOURCES["hf"](manifest.source.root).read("train/image[1]") == files["train/ant/0.jpg"]
    assert extract(root, tmp_path / "st", backbone="pixels")["computed"] == 24
    assert extract(tmp_path / "set", tmp_path / "st", backbone="pixels")["computed"] == 0
    assert extract(tmp_path / "set", tmp_path / "own", backbone="pixels")["computed"] == 24
    assert extract(tmp_path / "set", tmp_path / "own", backbone="pixels")["computed"] == 0


@pytest.mark.filterwarnings("ignore")
def test_a_single_data_set_that_was_shuffled_has_no_splits(library, photos, tmp_path):
    files = files_of(photos())
    made(library, files).shuffle(seed=1).save_to_disk(tmp_path / "set")
    manifest = manifests.read(tmp_path / "set")
    assert {one.split for one in manifest.samples} == {None}
    for one in manifest.samples:
        data = manifest.source.read(one.place)
        assert one.label == next(name for name, its in files.items() if its == data).split("/")[0]
    for place, message in [("all/image[7]", "no row 7"), ("all/x", "names no cell"), ("train/image[1]", "no split")]:
        with pytest.raises(OSError, match=message):
            manifest.source.read(place)


@pytest.mark.filterwarnings("ignore")
def test_ids_that_are_not_unique_and_files_that_change_behind_their_links(library, photos, tmp_path, monkeypatch):
    root = photos(splits=("train", "test"))
    features = library.Features({"id": library.Value("int64"), "image": library.Image()})

    def linked(split):
        def rows():
            for number, path in enumerate(sorted((root / split).rglob("*.*"))):
                yield {"id": number, "image": {"bytes": None, "path": str(path)}}

        return library.Dataset.from_generator(rows, features=features, cache_dir=str(tmp_path / "cache" / split))

    data = library.DatasetDict({split: linked(split) for split in ("train", "test")})
    monkeypatch.setattr(library, "load_dataset", lambda name, split: data)
    manifest = manifests.read("hf:me/birds")
    assert [one.id for one in manifest.samples][::6] == ["test/0000001", "train/0000001"]
    assert any("ids occur more than once, first '0'" in line for line in manifest.left_out.lines())
    before = [manifest.source.stamp(one.place) for one in manifest.samples]
    (root / "test" / "ant" / "0.jpg").write_bytes(b"other")
    after = [manifest.source.stamp(one.place) for one in manifest.samples]
    assert [one != other for one, other in zip(before, after, strict=True)] == [True] + 11 * [False]
    assert manifest.source.read(manifest.samples[0].place) == b"other"


@pytest.mark.filterwarnings("ignore")
def test_a_name_that_cannot_be_loaded_says_what_to_do(library, monkeypatch):
    with pytest.raises(ManifestError, match=r"^hf:nobody/nothing:train cannot be loaded: .*save_to_disk\(FOLDER\)"):
        manifests.read("hf:nobody/nothing:train")


def test_a_name_of_the_hub_is_loaded_by_the_library(photos, monkeypatch, tmp_path):
    """Against a module in the library's place: what is asked of it, and what becomes of what it gives."""
    library = pytest.importorskip("datasets")
    asked = []
    data = made(library, files_of(photos()))
    monkeypatch.setattr(library, "load_dataset", lambda name, split: asked.append((name, split)) or data)
    assert len(manifests.read("hf:me/birds:train[:10%]")) == 6
    assert asked == [("me/birds", "train[:10%]")]


def test_without_the_library_or_a_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DependencyMissing, match=r"hf:me/birds needs the library datasets: pip install"):
        manifests.read("hf:me/birds")
    with pytest.raises(ManifestError, match="names no data set; write hf:NAME"):
        manifests.read("hf:")
