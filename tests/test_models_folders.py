"""Files sorted into folders: names of strangers, files that are there, what is killed half-way."""

import os
import zipfile
from pathlib import Path

import pytest

from featurepipe import files, manifests
from featurepipe.errors import ManifestError, OutputError
from featurepipe.listeners import SILENT
from featurepipe.models import folders

HOSTILE = [
    "../up",
    "..",
    ".",
    "",
    "/etc",
    "C:\\x",
    "con",
    "NUL.txt",
    "a/b",
    "a\x00b",
    "a\nb",
    "\u202egpj",
    " x ",
    "x.",
    "a:b",
    "-" * 300,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leads_out_of_its_folder_or_means_something_else(name, tmp_path):
    safe = folders.safe_name(name)
    assert safe != name
    assert not set(safe) & set('/\\:*?"<>|\x00\n\u202e')
    assert safe.strip(" .") == safe
    assert len(os.fsencode(safe)) < 220
    (tmp_path / safe).mkdir()
    assert (tmp_path / safe).resolve().parent == tmp_path.resolve()


def test_plain_names_stay_and_different_ones_stay_different():
    plain = ["cat", "naïve", "猫", "a b", "x-1", "🦊"]
    assert [folders.safe_name(name) for name in plain] == plain
    labels = [*plain, *HOSTILE, "Cat", folders.UNSURE, "_UNSURE"]
    names = folders.folder_names(labels)
    assert len({name.casefold() for name in names.values()} | {folders.UNSURE}) == len(labels) + 1
    assert names["猫"] == "猫"


def test_a_class_that_is_called_as_another_ones_folder_is_refused():
    taken = folders.folder_names(["a/b", "c"])["a/b"]
    both = folders.folder_names(["a/b", taken])
    assert both["a/b"] != both[taken] != taken
    with pytest.raises(OutputError, match=r"would share the folder a_b"):
        folders.folder_names(["a/b", taken, both["a/b"]])


@pytest.fixture
def sorting(tmp_path):
    """Four files, two of them of one name; `call(labels)` sorts them."""
    data = tmp_path / "data"
    for name, content in {"a/1.png": b"A", "b/1.png": b"B", "b/2.png": b"C", "b/same.png": b"A"}.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)
    manifest, target = manifests.read(data, medium="image"), tmp_path / "out"

    def call(labels=("cat", "cat", None, "../dog"), source=manifest):
        return folders.sort(target, source, list(source.samples), list(labels), ["cat", "../dog"], SILENT)

    call.target, call.data = target, data
    call.found = lambda: {str(one.relative_to(target)): one.read_bytes() for one in target.rglob("*") if one.is_file()}
    return call


def test_files_keep_their_names_and_the_second_of_a_name_gets_a_digest(sorting):
    done = sorting()
    dog = folders.safe_name("../dog")
    other = [name for name in sorting.found() if name.startswith("cat/1-")]
    assert (done.written, done.same, done.failed) == (4, 0, {})
    assert sorting.found() == {"cat/1.png": b"A", other[0]: b"B", "_unsure/2.png": b"C", f"{dog}/same.png": b"A"}
    again = sorting()
    assert (again.written, again.same) == (0, 4)
    assert len(sorting.found()) == 4


def test_what_is_there_is_never_replaced(sorting, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    (sorting.target / "cat").mkdir(parents=True)
    (sorting.target / "cat/1.png").symlink_to(outside)
    (sorting.target / "_unsure").mkdir()
    (sorting.target / "_unsure/2.png").write_bytes(b"edited")
    done = sorting()
    assert done.written == 4
    assert outside.read_bytes() == b"mine"
    assert (sorting.target / "_unsure/2.png").read_bytes() == b"edited"


def test_a_class_folder_that_is_a_link_is_refused(sorting, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    sorting.target.mkdir()
    (sorting.target / "cat").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is a link or a file"):
        sorting()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_one_file_that_is_gone_stops_no_other(sorting):
    (sorting.data / "b/1.png").unlink()
    done = sorting()
    assert done.written == 3
    assert list(done.failed) == ["b/1.png"]


def test_what_a_killed_run_left_half_written_goes(sorting):
    (sorting.target / "cat").mkdir(parents=True)
    left = sorting.target / f"cat/1.png.{files._machine()}-3fffff-00000000.partial"
    left.write_bytes(b"half")
    mine = sorting.target / "cat/my.partial"
    mine.write_bytes(b"not ours")
    sorting()
    assert not left.exists()
    assert mine.read_bytes() == b"not ours"


def test_files_in_an_archive_are_written_out(tmp_path, photos):
    data = photos(per_class=2)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in data.rglob("*.jpg"):
            archive.write(path, path.relative_to(data).as_posix())
    manifest = manifests.read(tmp_path / "a.zip")
    labels = [sample.label for sample in manifest.samples]
    done = folders.sort(tmp_path / "out", manifest, list(manifest.samples), labels, ["ant", "bee"], SILENT)
    assert done.written == 4
    for path in data.rglob("*.jpg"):
        assert (tmp_path / "out" / path.relative_to(data)).read_bytes() == path.read_bytes()


def test_rows_of_a_table_get_a_suffix_by_their_content(tmp_path, photos):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    contents = [path.read_bytes() for path in sorted(photos(per_class=3).rglob("ant/*"))]
    column = pyarrow.array([{"bytes": one, "path": None} for one in contents])
    parquet.write_table(pyarrow.table({"image": column}), tmp_path / "t.parquet")
    manifest = manifests.read(tmp_path / "t.parquet")
    folders.sort(tmp_path / "out", manifest, list(manifest.samples), ["ant"] * 3, ["ant"], SILENT)
    found = sorted((tmp_path / "out/ant").iterdir())
    assert [path.suffix for path in found] == [".jpg", ".jpg", ".png"]
    assert [path.read_bytes() for path in found] == contents


def test_places_where_nothing_can_be_sorted_are_refused_before_any_work(tmp_path, photos):
    data = photos()
    manifest = manifests.read(data)
    with pytest.raises(OutputError, match="is inside of"):
        folders.check(data / "sorted", {"image": manifest}, [data])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a folder"):
        folders.check(tmp_path / "file", {"image": manifest}, [data])
    with pytest.raises(ManifestError, match="several files"):
        folders.check(tmp_path / "out", {"image": manifest, "sound": manifest}, [data])
    table = data / "boxes.csv"
    table.write_text('path,part\nant/0.jpg,"0,0,9,9"\n')
    with pytest.raises(ManifestError, match="samples are parts of files"):
        folders.check(tmp_path / "out", {"image": manifests.read(table)}, [table])
    folders.check(Path(tmp_path / "new/out"), {"image": manifest}, [data])
