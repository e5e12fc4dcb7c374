"""Images in cells of Parquet and Arrow files."""

import io
import json
import pickle

import pytest
from packing import files_of
from PIL import Image

from featurepipe import manifests
from featurepipe.errors import ManifestError
from featurepipe.sources import SOURCES, Parquets, open_container
from featurepipe.sources import parquets as module
from featurepipe.sources.row_groups import RowFile
from featurepipe.stages import extract
from featurepipe.stores import Store

pyarrow = pytest.importorskip("pyarrow.parquet") and pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.ipc")

NAMES = ["ant", "bee"]


def table(files, *, struct=True, metadata=True):
    """Hugging Face's table of images: bytes and path, and the number of the class."""
    images = [{"bytes": data, "path": name} for name, data in files.items()] if struct else list(files.values())
    labels = [NAMES.index(name.split("/")[-2]) if metadata else name.split("/")[-2] for name in files]
    made = pyarrow.table({"image": images, "label": labels})
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    return made.replace_schema_metadata(about) if metadata else made


def write(path, made, **how):
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(made, path, **how)
    else:
        make = pyarrow.ipc.new_stream if path.suffix == ".arrow" else pyarrow.ipc.new_file
        with make(str(path), made.schema) as writer:
            writer.write_table(made, max_chunksize=2)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize("struct", [True, False])
def test_cells_are_samples_with_the_names_of_their_classes(photos, tmp_path, suffix, struct):
    files = files_of(photos())
    path = write(tmp_path / f"p{suffix}", table(files, struct=struct))
    manifest = manifests.read(path)
    assert [one.label for one in manifest.samples] == [name.split("/")[0] for name in files]
    assert [one.id for one in manifest.samples][::5] == ["0000001", "0000006"]
    assert [manifest.source.read(one.place) for one in manifest.samples] == list(files.values())
    assert manifest.medium == "image"
    copy = pickle.loads(pickle.dumps(manifest.source))
    assert copy == manifest.source == SOURCES["parquet"](str(path))
    assert copy.read("image[3]") == list(files.values())[2]
    assert copy.stamp("image[3]").size == 0


@pytest.mark.slow
def test_vectors_are_those_of_plain_files_and_are_computed_once(photos, tmp_path):
    root = photos(per_class=6)
    path = write(tmp_path / "p.parquet", table(files_of(root)), row_group_size=5)
    assert extract(root, tmp_path / "st", backbone="pixels")["computed"] == 12
    assert extract(path, tmp_path / "st", backbone="pixels")["computed"] == 0  # the same contents
    assert extract(path, tmp_path / "own", backbone="pixels")["computed"] == 12
    assert extract(path, tmp_path / "own", backbone="pixels")["computed"] == 0
    (mine,), (its,) = Store.open(tmp_path / "st").entries(), Store.open(tmp_path / "own").entries()
    assert mine.places().keys() == its.places().keys()
    with Image.open(io.BytesIO(Store.open(tmp_path / "own").pending([next(iter(its.places()))])[0].read())) as image:
        assert image.size == (48, 40)


@pytest.mark.parametrize("how", ["folder", "data", "pattern"])
def test_several_files_whose_names_say_their_splits(photos, tmp_path, how):
    root = photos(splits=("train", "test"))
    files, folder = files_of(root), tmp_path / "set" / ("data" if how == "data" else "")
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        part = {name: data for name, data in files.items() if name.startswith(split)}
        write(folder / f"{split}-00000-of-00001.parquet", table(part))
    manifest = manifests.read(f"{folder}/*.parquet" if how == "pattern" else tmp_path / "set")
    found = {(one.split, one.label): manifest.source.read(one.place) for one in manifest.samples}
    assert len(manifest) == len(files)
    assert found["test", "bee"] == files["test/bee/2.png"]
    assert found["train", "ant"] == files["train/ant/2.png"]


def test_a_row_without_bytes_is_rejected_by_name(photos, tmp_path):
    files = files_of(photos())
    made = table(files).to_pylist()
    made[1]["image"] = None
    made[4]["image"] = {"bytes": None, "path": "lost.jpg"}
    made[5]["image"] = {"bytes": None, "path": str(tmp_path / "photos" / "bee" / "2.png")}  # a link to a file
    path = write(tmp_path / "p.parquet", pyarrow.Table.from_pylist(made, schema=table(files).schema))
    result = extract(path, tmp_path / "st", backbone="pixels")
    assert result["computed"] == 4
    assert result["rejects"] == {
        "0000002": "cannot be read: row 2 has no bytes in the column 'image'",
        "0000005": "cannot be read: No such file or directory",
    }


def test_other_columns_are_used_or_named(photos, tmp_path):
    files = files_of(photos())
    made = table(files, metadata=False).append_column("patient", pyarrow.array(list("aabbcc")))
    made = made.append_column("split", pyarrow.array(["training"] * 2 + ["val"] * 2 + [None] * 2))
    manifest = manifests.read(write(tmp_path / "p.parquet", made))
    assert [one.split for one in manifest.samples] == ["train"] * 2 + ["val"] * 2 + [None] * 2
    assert manifest.left_out.columns == ["patient"]
    grouped = manifests.read(tmp_path / "p.parquet", group_column="patient", path_column="image")
    assert [one.group for one in grouped.samples] == list("aabbcc")
    for wrong, message in [
        ({"label_column": "nix"}, "has no column 'nix'"),
        ({"path_column": "label"}, r"'label' holds no bytes of images \(columns that do: image\)"),
        ({"text_column": "label"}, "has no column of texts"),
    ]:
        with pytest.raises(ManifestError, match=message):
            manifests.read(tmp_path / "p.parquet", **wrong)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [b"x"], "b": [b"y"]}, r"several columns that may \(a, b\); name one with --path-column"),
        ({"image": [b"x"], "split": ["dusk"]}, "0000001 has unknown split 'dusk'"),
        ({"image": [b"x"], "label": [{"x": 1}]}, "row 1: label holds an object"),
    ],
)
def test_tables_that_are_not_clear(tmp_path, columns, message):
    with pytest.raises(ManifestError, match=message):
        manifests.read(write(tmp_path / "p.parquet", pyarrow.table(columns)))


def test_numbers_of_classes_that_have_no_name(photos, tmp_path):
    made = table(files_of(photos()))
    for wrong, known in ((7, None), (-1, True)):
        rows = made.to_pylist()
        rows[0]["label"] = wrong
        path = write(tmp_path / "p.parquet", pyarrow.Table.from_pylist(rows, schema=made.schema))
        if known:
            assert manifests.read(path).samples[0].label is None
        else:
            with pytest.raises(ManifestError, match="row 1: label is 7, and there are 2 names of classes"):
                manifests.read(path)


def test_labels_that_say_nothing_are_counted(tmp_path):
    path = write(tmp_path / "p.parquet", pyarrow.table({"image": [b"x", b"y", b"z"], "label": ["NA", "ant", "NA"]}))
    manifest = manifests.read(path)
    assert [one.label for one in manifest.samples] == [None, "ant", None]
    assert manifest.left_out.missing == {"NA": 2}


def test_tables_of_paths_stay_tables(photos, tmp_path):
    root = photos()
    made = pyarrow.table({"path": [str(root / "ant" / "0.jpg")], "thumbnail": [b"x"]})
    path = write(tmp_path / "p.parquet", made)
    assert open_container(path) is None
    assert manifests.read(path).source.kind == "files"
    (tmp_path / "broken.parquet").write_bytes(b"x")
    with pytest.raises(ManifestError, match="cannot be read as parquet"):
        manifests.read(tmp_path / "broken.parquet")
    with pytest.raises(ManifestError, match=r"gone\.parquet does not exist"):
        manifests.read(tmp_path / "gone.parquet")
    (tmp_path / "broken.arrow").write_bytes(b"x")
    with pytest.raises(ManifestError, match=r"broken\.arrow cannot be read as Arrow"):
        manifests.read(tmp_path / "broken.arrow")


def test_each_row_group_is_read_once_if_rows_are_read_in_order(photos, tmp_path, monkeypatch):
    files = files_of(photos(per_class=6))
    path = write(tmp_path / "p.parquet", table(files), row_group_size=4)
    source, read = Parquets(str(path)), []
    real = RowFile.group
    monkeypatch.setattr(
        RowFile, "group", lambda self, number, column: read.append(number) or real(self, number, column)
    )
    monkeypatch.setattr(module, "CACHED", 1)
    for row, data in enumerate(files.values(), 1):
        assert source.read(f"image[{row}]") == data
    assert read == [0, 1, 2]
    for place, message in [("image[99]", "no row 99"), ("image", "names no cell"), ("nix[1]", "row 1 cannot be read")]:
        with pytest.raises(OSError, match=message):
            source.read(place)


def test_ids_that_are_not_unique_lose_no_row(photos, tmp_path):
    files = files_of(photos(splits=("train", "test")))
    for split in ("train", "test"):
        made = table({name: data for name, data in files.items() if name.startswith(split)})
        write(tmp_path / "set" / f"{split}-0.parquet", made.append_column("id", pyarrow.array(range(6))))
    manifest = manifests.read(tmp_path / "set")
    assert [one.split for one in manifest.samples] == ["test"] * 6 + ["train"] * 6
    assert manifest.samples[0].id == "test-0.parquet/0000001"
    said = manifest.left_out.lines()
    assert "ids occur more than once, first '0', so each row is called by its number" in said
    assert "left out: the column id" in said
    (one, *_) = manifests.read(tmp_path / "set" / "test-0.parquet").samples
    assert one.id == "0"


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_a_linked_file_that_changes_has_another_stamp(photos, tmp_path, kind):
    root = photos()
    text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string()) if kind == "dictionary" else getattr(pyarrow, kind)()
    cells = [{"bytes": None, "path": "photos/ant/0.jpg"}, {"bytes": b"x", "path": "photos/ant/1.jpg"}]
    paths = pyarrow.array([cell["path"] for cell in cells], pyarrow.string()).cast(text)
    data = pyarrow.array([cell["bytes"] for cell in cells], pyarrow.binary())
    made = pyarrow.table(
        {"image": pyarrow.StructArray.from_arrays([data, paths], ["bytes", "path"]), "label": ["a", "b"]}
    )
    for suffix in (".parquet", ".arrow"):
        source = manifests.read(write(tmp_path / f"p{suffix}", made)).source
        before = [source.stamp(f"image[{row}]") for row in (1, 2)]
        assert before[0] != before[1]
        (root / "ant" / "0.jpg").write_bytes(f"other {suffix}".encode())
        (root / "ant" / "1.jpg").write_bytes(b"other")
        after = [source.stamp(f"image[{row}]") for row in (1, 2)]
        assert (after[0] != before[0], after[1]) == (True, before[1])
        assert source.read("image[1]") == f"other {suffix}".encode()


@pytest.mark.parametrize("how", [{}, {"write_statistics": False}])
@pytest.mark.parametrize("empty", [[], [4]])
def test_bytes_are_not_read_for_stamps(photos, tmp_path, monkeypatch, how, empty):
    files = enumerate(files_of(photos()).items(), 1)
    cells = [{"bytes": None if row in empty else data, "path": name} for row, (name, data) in files]
    path = write(tmp_path / "p.parquet", pyarrow.table({"image": cells}), row_group_size=3, **how)
    source, group = Parquets(str(path)), RowFile.group
    plain = source.stamp_of(str(path), 0)
    monkeypatch.setattr(RowFile, "group", None)
    assert [source.stamp(f"image[{row}]") for row in range(1, 7)] == [plain] * 6
    monkeypatch.setattr(RowFile, "group", group)
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "0.jpg").write_bytes(b"in row 4")
    assert [row for row in range(1, 7) if source.stamp(f"image[{row}]") != plain] == empty


def test_text_that_is_damaged_is_one_row(photos, tmp_path):
    (good, *_) = files_of(photos()).values()
    names = pyarrow.array([b"a\0.png", b"gr\xfc\xdfe.png", b"gr\xfc\xdfe.png"]).view(pyarrow.string())
    contents = pyarrow.array([None, None, good], pyarrow.binary())
    cells = pyarrow.StructArray.from_arrays([contents, names], ["bytes", "path"])
    path = write(tmp_path / "p.parquet", pyarrow.table({"image": cells}))
    result = extract(path, tmp_path / "st", backbone="pixels")
    assert (list(result["rejects"]), result["computed"]) == (["0000001", "0000002"], 1)
    assert all("cannot be read" in why for why in result["rejects"].values())
    label = pyarrow.array([b"gr\xfc\xdfe"] * 3).view(pyarrow.string())
    path = write(tmp_path / "l.parquet", pyarrow.table({"image": [good] * 3, "label": label}))
    with pytest.raises(ManifestError, match=r"rows 1 to 3 have text that is not UTF-8 .*; write the file again"):
        manifests.read(path)


def test_paths_in_cells_are_read_once_in_any_order(photos, tmp_path, monkeypatch):
    files, read = [*files_of(photos(per_class=6)).values()], []
    cells = [{"bytes": None if n == 0 else data, "path": f"{n}.jpg"} for n, data in enumerate(files)]
    path = write(tmp_path / "p.parquet", pyarrow.table({"image": cells}), row_group_size=1, write_statistics=False)
    source, links = Parquets(str(path)), RowFile.links
    monkeypatch.setattr(
        RowFile, "links", lambda self, number, column: read.append(number) or links(self, number, column)
    )
    for row in [*range(12, 0, -1), *range(1, 13)]:
        source.stamp(f"image[{row}]")
    assert sorted(read) == list(range(12))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_file_that_is_replaced_or_breaks_gives_nothing(photos, tmp_path, suffix):
    files = files_of(photos())
    path = write(tmp_path / f"p{suffix}", table(files))
    source = manifests.read(path).source
    source.read("image[1]")
    write(tmp_path / f"new{suffix}", table(dict(reversed(files.items())))).replace(path)
    for ask in (source.stamp, source.read):
        with pytest.raises(OSError, match="the archive has just changed; run again"):
            ask("image[1]")
    path.write_bytes(b"broken")
    with pytest.raises(OSError, match="cannot be read as"):
        Parquets(str(path)).read("image[1]")


def test_names_of_columns_may_have_slashes(photos, tmp_path):
    made = pyarrow.table({"image/encoded": list(files_of(photos()).values()), "label": list("aabbcc")})
    write(tmp_path / "set" / "0.parquet", made)
    manifest = manifests.read(tmp_path / "set")
    assert manifest.source.read(manifest.samples[5].place) == made["image/encoded"][5].as_py()


def test_tables_about_the_images_of_a_folder_are_left_out(photos, tmp_path):
    root = photos(splits=("train", "test"))
    for split in ("train", "test"):
        write(root / split / "metadata.parquet", pyarrow.table({"file_name": ["ant/0.jpg"], "age": [1]}))
    manifest = manifests.read(root)
    assert (len(manifest), manifest.source.kind) == (12, "files")
    assert "left out: 2 .parquet files" in manifest.left_out.lines()


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_a_link_may_lead_to_a_file_without_a_suffix(photos, tmp_path, suffix):
    files = files_of(photos())
    path = write(tmp_path / f"p{suffix}", table(files))
    path.rename(tmp_path / "0123")
    assert Parquets(str(tmp_path / "0123")).read("image[1]") == next(iter(files.values()))
