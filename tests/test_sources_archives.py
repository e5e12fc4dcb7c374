"""Archives: the same samples, vectors and digests as of plain files, and what is wrong with some of them."""

import io
import os
import pickle
import tarfile
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
from click.testing import CliRunner
from packing import files_of, to_tar, to_zip, write_tar

from featurepipe import cli, manifests
from featurepipe.errors import ManifestError, OutputError
from featurepipe.listeners import Listener
from featurepipe.matrices import load
from featurepipe.sources import SOURCES, Tars, Zips
from featurepipe.stages import audit, extract, predict, probe, verify
from featurepipe.stores import Store

PACKERS = {
    "p.zip": to_zip,
    "p.tar": to_tar,
    "p.tar.gz": lambda root, path: to_tar(root, path, mode="w:gz"),
    "p.tgz": lambda root, path: to_tar(root, path, mode="w:gz", below="photos/"),
    "p.tar.bz2": lambda root, path: to_tar(root, path, mode="w:bz2"),
    "p.tar.xz": lambda root, path: to_tar(root, path, mode="w:xz"),
}


def rows(store):
    return [(row.sample.id, row.sample.label, row.sample.split, row.digest) for row in Store.open(store).rows()]


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKERS)
def test_archives_hold_the_same_samples_as_the_folder(photos, tmp_path, name):
    root = photos(splits=("train", "test"))
    plain = manifests.read(root)
    packed = manifests.read(PACKERS[name](root, tmp_path / name))
    assert [(one.id, one.label, one.split) for one in packed.samples] == [
        (one.id, one.label, one.split) for one in plain.samples
    ]
    for one, other in zip(packed.samples, plain.samples, strict=True):
        assert packed.source.read(one.place) == plain.source.read(other.place)
        assert packed.source.stamp(one.place).size == len(plain.source.read(other.place))
    again = pickle.loads(pickle.dumps(packed.source))
    assert again == packed.source == SOURCES[packed.source.kind](packed.source.root)
    assert again.read(packed.samples[0].place) == packed.source.read(packed.samples[0].place)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tar.gz"])
def test_vectors_are_those_of_plain_files_and_are_computed_once(photos, tmp_path, name):
    root = photos(per_class=6)
    path = PACKERS[name](root, tmp_path / name)
    how = {"backbone": "pixels", "batch_size": 4}
    assert extract(root, tmp_path / "plain", **how)["computed"] == 12
    assert extract(path, tmp_path / "packed", **how)["computed"] == 12
    assert rows(tmp_path / "packed") == rows(tmp_path / "plain")
    assert embeddings(tmp_path / "packed") == embeddings(tmp_path / "plain")
    assert extract(path, tmp_path / "packed", **how)["computed"] == 0
    assert extract(path, tmp_path / "plain", **how)["computed"] == 0  # the same contents, elsewhere


def embeddings(store):
    """Sample id → embedding, as bytes."""
    opened = Store.open(store)
    matrix = load(opened, opened.entries()[0])
    return {id_: row.tobytes() for id_, row in zip(matrix.ids, np.asarray(matrix.X), strict=True)}


@pytest.mark.slow
def test_all_that_reads_pixels_again_reads_them_from_the_archive(photos, tmp_path):
    path = to_tar(photos(per_class=12), tmp_path / "p.tar")
    extract(path, tmp_path / "st", backbone="bundled")
    result = probe(tmp_path / "st", tmp_path / "m.safetensors", kind="ridge", baselines="simple")
    assert result["baselines"]["pixels"] >= 0.5
    assert verify(tmp_path / "st")["ok"]
    assert audit(tmp_path / "st")["checks"]["near-copies"]["skipped"] is None  # for which pictures are looked at
    with pytest.raises(OutputError, match=r"describes samples inside .*p\.tar, which a table of files cannot name"):
        audit(tmp_path / "st", fix=tmp_path / "new.csv")
    found = predict(tmp_path / "m.safetensors", path)
    assert found["predicted"] == 24
    assert found["predictions"][0]["file"] == f"{path}/ant/0.jpg"


def test_shards_of_a_webdataset(photos, tmp_path):
    files = list(files_of(photos(per_class=4)).items())
    for number in range(2):
        contents = []
        for index, (name, data) in enumerate(files[4 * number : 4 * number + 4]):
            key = f"{number}/{index:03}"
            sidecar = (
                (f"{key}.cls", name[:3].encode()) if number else (f"{key}.json", b'{"label": "ant", "group": "g"}')
            )
            contents += [(f"{key}.{name[-3:]}", data), (f"{key}.txt", b"a caption"), sidecar]
        write_tar(tmp_path / f"s-{number}.tar", contents)
    manifest = manifests.read(f"{tmp_path}/s-{{0..1}}.tar")
    assert [one.label for one in manifest.samples] == ["ant"] * 4 + ["bee"] * 4
    assert [one.group for one in manifest.samples] == ["g"] * 4 + [None] * 4
    assert manifest.samples[0].id == manifest.samples[0].place == "s-0.tar/0/000.jpg"
    assert manifest.left_out.files == {".txt": 8}
    assert manifests.read(f"{tmp_path}/s-*.tar").samples[5] == manifest.samples[5]


def test_a_key_without_a_label_is_named(tmp_path):
    path = write_tar(
        tmp_path / "s.tar", [("0.png", b"x"), ("0.cls", b"7"), ("1.png", b"y"), ("2.png", b"z"), ("2.cls", b" ")]
    )
    manifest = manifests.read(path)
    assert [one.label for one in manifest.samples] == ["7", None, None]
    assert "without a label: 1.png, 2.png" in manifest.left_out.lines()


def test_labels_of_a_json_may_have_another_name(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("0.png", b"x"), ("0.json", b'{"species": 3, "split": "test"}')])
    (one,) = manifests.read(path, label_column="species").samples
    assert (one.label, one.split) == ("3", "test")
    path = write_tar(tmp_path / "t.tar", [("0.png", b"x"), ("0.json", b'{"label": ')])
    with pytest.raises(ManifestError, match=r"t\.tar: 0\.json cannot be read: .*correct the archive"):
        manifests.read(path)


def test_splits_are_folders_around_the_archives(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        write_tar(tmp_path / split / "0.tar", [("0.png", split.encode()), ("0.cls", b"a")])
    found = manifests.read(f"{tmp_path}/{{train,val}}/*.tar").samples
    assert [(one.id, one.split) for one in found] == [("train/0.tar/0.png", "train"), ("val/0.tar/0.png", "val")]


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_tar_that_is_cut_gives_what_lies_before(photos, tmp_path, ending):
    path = PACKERS[f"p.{ending}"](photos(per_class=12), tmp_path / f"p.{ending}")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 5])
    result = extract(path, tmp_path / "st", backbone="pixels")
    assert 0 < result["computed"] < 24
    assert result["rejected"] == 1
    (why,) = result["rejects"].values()
    assert why == "cannot be read: the archive is cut off within this file"
    assert any("is cut off or damaged" in line for line in result["found"]["left_out"]["remarks"])


def test_a_tar_that_is_damaged_between_two_files_is_not_taken_for_its_end(tmp_path):
    path = write_tar(tmp_path / "p.tar", [("a/0.png", b"x" * 512), ("a/1.png", b"y" * 512), ("a/2.png", b"z" * 512)])
    data = bytearray(path.read_bytes())
    data[1024:1536] = b"\xff" * 512  # the second header
    path.write_bytes(data)
    manifest = manifests.read(path)
    assert [one.id for one in manifest.samples] == ["0.png"] or [one.id for one in manifest.samples] == ["a/0.png"]
    assert any("cut off or damaged" in line for line in manifest.left_out.remarks)


def test_hard_links_and_doubles_and_rubbish(tmp_path):
    path = tmp_path / "p.tar"
    with tarfile.open(path, "w") as packed:
        for name, data in (("a/0.png", b"old"), ("a/0.png", b"new"), ("__MACOSX/a/._0.png", b"r"), (".x/0.png", b"h")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
        for name, target in (("b/1.png", "a/0.png"), ("b/2.png", "gone")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            packed.addfile(info)
    manifest = manifests.read(path)
    assert [one.id for one in manifest.samples] == ["a/0.png", "b/1.png"]
    assert [manifest.source.read(one.place) for one in manifest.samples] == [b"new", b"new"]
    assert (manifest.left_out.rubbish, manifest.left_out.hidden) == ({"__MACOSX": 1}, 1)
    said = manifest.left_out.lines()
    assert any("b/2.png is a link to gone, which is not in it" in line for line in said)
    assert any("1 names occur more than once" in line for line in said)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.zip", b"no zip at all", r"p\.zip cannot be read as a zip archive: .*copy it again"),
        ("p.tar", b"no tar at all" * 99, r"p\.tar cannot be read as a tar archive"),
        ("p.tar", bytes(10240), r"no images in .*p\.tar \(looked for"),
        ("p.tar.gz", b"no gzip", r"p\.tar\.gz cannot be read as a tar archive|holds no|no images"),
        ("p.tar.zst", b"x", "compressed in a way that is not read"),
    ],
)
def test_what_is_no_archive(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ManifestError, match=message):
        manifests.read(tmp_path / name)


def test_archives_have_no_columns(photos, tmp_path):
    with pytest.raises(ManifestError, match=r"p\.zip has no columns; leave out --path-column"):
        manifests.read(to_zip(photos(), tmp_path / "p.zip"), label_column="species")
    with pytest.raises(ManifestError, match=r"p\.tar has no column of paths"):
        manifests.read(to_tar(tmp_path / "photos", tmp_path / "p.tar"), path_column="file")


def test_archives_that_are_not_there(tmp_path):
    write_tar(tmp_path / "s-0.tar", [("0.png", b"x")])
    with pytest.raises(ManifestError, match=r"2 of 3 files do not exist, first .*s-1\.tar; correct"):
        manifests.read(f"{tmp_path}/s-{{0..2}}.tar")
    with pytest.raises(ManifestError, match="matches no file; correct the pattern"):
        manifests.read(f"{tmp_path}/x-*.tar")
    with pytest.raises(ManifestError, match=r"gone\.zip does not exist"):
        manifests.read(tmp_path / "gone.zip")
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(ManifestError, match="it is a pipe"):
        manifests.read(tmp_path / "pipe.tar")


def test_a_zip_whose_bytes_are_wrong_or_locked_rejects_files_by_name(tmp_path):
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/0.png", b"good" * 99)
        packed.writestr("b/1.png", b"wrong" * 99)
    data = bytearray(path.read_bytes())
    at = data.index(b"b/1.png") + len("b/1.png") + 5
    data[at] ^= 255
    path.write_bytes(data)
    source = manifests.read(path).source
    assert source.read("a/0.png") == b"good" * 99
    with pytest.raises(OSError, match="the archive cannot be read there"):
        source.read("b/1.png")
    with pytest.raises(FileNotFoundError, match="not in the archive"):
        source.read("b/2.png")
    with pytest.raises(FileNotFoundError, match="not in the archive"):
        Tars(str(write_tar(tmp_path / "t.tar", [("0.png", b"x")]))).read("1.png")


def test_several_zips(photos, tmp_path):
    for label in ("ant", "bee"):
        to_zip(photos((label,), name=label), tmp_path / f"{label}.zip")
    manifest = manifests.read(f"{tmp_path}/{{ant,bee}}.zip")
    assert [one.label for one in manifest.samples] == ["ant"] * 3 + ["bee"] * 3
    assert manifest.samples[0].id == "ant.zip/ant/0.jpg"
    assert Zips(manifest.source.root).read("bee.zip/bee/1.jpg") == (tmp_path / "bee" / "bee" / "1.jpg").read_bytes()


def test_reading_a_tar_costs_its_bytes_and_a_block_for_each_file(tmp_path, monkeypatch):
    write_tar(tmp_path / "p.tar", [(f"a/{n}.png", bytes([n]) * 50_000) for n in range(20)])
    counted = []

    class Counting(io.FileIO):
        def read(self, size=-1):
            data = super().read(size)
            counted.append(len(data))
            return data

        def __del__(self):
            self.close()

    monkeypatch.setattr("featurepipe.inputs.Patient", Counting)
    monkeypatch.setattr("featurepipe.sources.tars._Open", Counting)
    manifest = manifests.read(tmp_path / "p.tar")
    assert sum(counted) < 20 * 600 + 2000
    for one in manifest.samples:
        assert len(manifest.source.read(one.place)) == 50_000
    assert sum(counted) <= 1.02 * (tmp_path / "p.tar").stat().st_size


def test_the_command_line_names_results_after_the_archive(photos, tmp_path, monkeypatch):
    to_zip(photos(per_class=3), tmp_path / "pictures.zip", below="pictures/")
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(cli.main, ["extract", "pictures.zip", "-b", "pixels"])
    assert ran.exit_code == 0, ran.output
    assert "found 6 images of 2 classes: ant (3), bee (3)" in ran.output
    assert Store.open("pictures.store").root == tmp_path / "pictures.zip"
    os.rename("pictures.zip", "elsewhere.zip")
    ran = CliRunner().invoke(cli.main, ["extract", "elsewhere.zip", "-s", "pictures.store", "-b", "pixels"])
    assert "6 samples: 0 computed, 6 reused" in ran.output


def test_a_run_that_is_interrupted_goes_on_where_it_stopped(photos, tmp_path):
    class Stopping(Listener):
        def note(self, text):
            pass

        @contextmanager
        def progress(self, label, total):
            def advance(count):
                if label == "embedding":
                    raise KeyboardInterrupt

            yield advance

    path = to_tar(photos(per_class=12), tmp_path / "p.tar")
    with pytest.raises(KeyboardInterrupt):
        extract(path, tmp_path / "st", backbone="pixels", batch_size=4, workers=1, listener=Stopping())
    result = extract(path, tmp_path / "st", backbone="pixels")
    assert (result["computed"], result["reused"]) == (20, 4)
    assert verify(tmp_path / "st")["ok"]
