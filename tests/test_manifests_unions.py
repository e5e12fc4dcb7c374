"""Manifests of whatever is named: images, folders and tables."""

import pytest

from featurepipe.errors import ManifestError
from featurepipe.manifests import gather, read


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("one.jpg", "two.xyz", "pets/cat/1.png", "pets/dog/1.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "pets" / "t.csv").write_text("path,label\ncat/1.png,feline\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", ["pets", "pets/t.csv"])
def test_a_folder_or_table_alone_is_read_as_ever(here, place):
    assert list(gather([place]).samples) == list(read(place).samples)
    assert gather([here / place]).root == read(here / place).root


def test_images_are_what_they_were_named(here):
    manifest = gather(["two.xyz", here / "one.jpg", "two.xyz"])
    assert [tuple(sample)[:4] for sample in manifest.samples] == sorted(
        [("two.xyz", "two.xyz", None, None), (str(here / "one.jpg"), str(here / "one.jpg"), None, None)]
    )
    assert all(manifest.file(sample).is_file() for sample in manifest.samples)


def test_folders_and_tables_among_others_keep_their_labels_and_get_paths_from_here(here):
    manifest = gather(["one.jpg", "pets"])
    assert [sample[:3] for sample in manifest.samples] == [
        ("one.jpg", "one.jpg", None),
        ("pets/cat/1.png", "pets/cat/1.png", "cat"),
        ("pets/dog/1.png", "pets/dog/1.png", "dog"),
    ]
    assert [sample.label for sample in gather(["one.jpg", "pets/t.csv"]).samples] == [None, "feline"]


@pytest.mark.parametrize("places", [["gone.jpg"], ["one.jpg", "gone"]])
def test_what_is_not_there_is_named(here, places):
    with pytest.raises(
        ManifestError, match=r"gone.* does not exist; give images, folders of images, archives, or tables"
    ):
        gather(places)


def test_what_is_left_out_of_several_places_is_counted_together(tmp_path):
    for name in ("a/x/1.png", "a/x/1.psd", "b/x/2.png", "b/x/2.psd", "b/y/3.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "t.csv").write_text("File,more\na/x/1.png,7\n")
    manifest = gather([tmp_path / "a", tmp_path / "b", tmp_path / "t.csv"], path_column="file")
    assert len(manifest) == 2
    left_out = manifest.left_out
    assert (left_out.files, left_out.barren, left_out.columns) == ({".psd": 2, ".txt": 1}, {"y/": 1}, ["more"])
