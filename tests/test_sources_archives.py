"""Archives: the same samples, vectors and digests as of plain files, and what is wrong with some of them."""

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner
from packing import files_of, to_tar, to_zip, write_tar

from featurepipe import cli, inputs, manifests
from featurepipe.errors import ManifestError, OutputError
from featurepipe.listeners import Listener
from featurepipe.matrices import load
from featurepipe.sources import SOURCES, Columns, Tars, Zips, tars, zips
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


def described(path, **how):
    """Name inside → label, split and group; and what was said."""
    manifest = manifests.read(path, **how)
    return {one.id: (one.label, one.split, one.group) for one in manifest.samples}, manifest.left_out.lines()


def test_names_with_dots_keep_their_own_labels(tmp_path):
    uids = [f"1.2.840.{n}" for n in range(4)]
    labels = [b'{"label": "cat", "group": "p%d"}' % n for n in range(4)]
    files = [(f"{uid}.png", b"x") for uid in uids[:3]] + [
        (f"{uid}.json", label) for uid, label in zip(uids, labels, strict=True) if uid != uids[1]
    ]
    found, said = described(write_tar(tmp_path / "u.tar", sorted(files)))
    assert [one[0] for one in found.values()] == ["cat", None, "cat"]
    assert [one[2] for one in found.values()] == ["p0", None, "p2"]
    assert any("1 file of labels not used, as it is not clear of which sample: first" in line for line in said)
    assert any("u.tar: 1.2.840.3.json; give each the name of its sample" in line for line in said)


@pytest.mark.parametrize(
    ("names", "labelled", "unclear"),
    [
        (["1.left.jpg", "1.right.jpg", "1.cls"], {"1.left.jpg", "1.right.jpg"}, False),
        (["1.jpg", "1.seg.png", "1.cls"], {"1.jpg", "1.seg.png"}, False),
        (["1.jpg", "1.txt", "1.target.cls"], {"1.jpg"}, False),
        (["1.input.jpg", "1.target.cls"], {"1.input.jpg"}, False),
        (["1.a.jpg", "1.b.jpg", "1.c.cls"], set(), True),
        (["1.a.jpg", "1.a.cls", "1.b.cls"], {"1.a.jpg"}, True),
        (["1.jpg", "1.x.cls", "1.y.cls"], set(), True),
        (["1.2.jpg", "1.2.jpg.cls", "1.3.jpg"], {"1.2.jpg"}, False),
        (["._1.jpg", "1.jpg", "._1.cls", "1.cls"], {"1.jpg"}, False),
    ],
)
def test_which_samples_a_file_of_labels_is_of(tmp_path, names, labelled, unclear):
    found, said = described(write_tar(tmp_path / "s.tar", [(name, name.encode()) for name in names]))
    assert {name for name, one in found.items() if one[0] is not None} == labelled
    assert any("not used, as it is not clear of which sample" in line for line in said) == unclear


def test_several_images_of_a_key_are_one_group_and_several_files_of_one_image_are_not(tmp_path):
    for number in range(2):
        files = [(f"7.{name}", b"a") for name in ("jpg", "seg.png", "cls")]
        write_tar(tmp_path / f"s-{number}.tar", [*files, ("8.jpg", b"x"), ("8.txt", b"words"), ("8.cls", b"b")])
    found, said = described(tmp_path / "s-*.tar")
    assert [one[2] for one in found.values()] == ["s-0.tar/7", "s-0.tar/7", None, "s-1.tar/7", "s-1.tar/7", None]
    assert any("2 keys have several files, first" in line and "7.jpg, 7.seg.png; each file" in line for line in said)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("1.json", b'{"label": ', "Expecting value"),
        ("1.json", b'{"label": {"x": 1}}', "holds an object"),
        ("1.json", b'{"label": "bee", "x": "' + b"y" * 2**20 + b'"}', "larger than 1 MiB"),
        ("1.json", b"\xff\xfe\xfd", "decode"),
        ("1.cls", b"caf\xe9", "holds bytes that are not UTF-8 text"),
    ],
)
def test_a_broken_file_of_labels_gives_none_and_the_others_count(tmp_path, name, data, why):
    files = [("0.png", b"x"), ("0.json", b'{"label": "ant"}'), ("1.png", b"y"), (name, data)]
    found, said = described(write_tar(tmp_path / "s.tar", files))
    assert [one[0] for one in found.values()] == ["ant", None]
    (line,) = [line for line in said if "1 file of labels cannot be used, first" in line]
    assert f"s.tar: {name} (" in line
    assert why in line
    assert "without a label: 1.png" in said


def test_a_label_that_is_cut_off_is_none(tmp_path):
    path = write_tar(tmp_path / "s.tar", [(f"{n}.{end}", b"golden retriever") for n in "01" for end in ("png", "cls")])
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"golden") + 6])
    found, said = described(path)
    assert [one[0] for one in found.values()] == ["golden retriever", None]
    assert any("1.cls (cut off); correct the archive" in line for line in said)


def test_splits_of_a_json_are_those_of_tables(tmp_path):
    files = [(f"{n}.png", b"x") for n in range(3)] + [
        (f"{n}.json", b'{"label": "a", "split": "%b"}' % split) for n, split in enumerate([b"validation", b"Test", b""])
    ]
    found, _ = described(write_tar(tmp_path / "s.tar", sorted(files)))
    assert [one[1] for one in found.values()] == ["val", "test", None]
    write_tar(tmp_path / "t.tar", [("0.png", b"x"), ("0.json", b'{"label": "a", "split": "dusk"}')])
    with pytest.raises(ManifestError, match=r"t\.tar: 0\.png has unknown split 'dusk'; use train, val or test"):
        manifests.read(tmp_path / "t.tar")


def test_keys_that_no_sample_has_are_refused(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("0.png", b"x"), ("0.json", b'{"label": "a", "patient": "p"}')])
    assert described(path, group_column="patient")[0] == {"0.png": ("a", None, "p")}
    with pytest.raises(ManifestError, match=r"no sample has the key 'patinet' .*\(keys there: label, patient\)"):
        manifests.read(path, group_column="patinet")
    path = write_tar(tmp_path / "t.tar", [("a/0.png", b"x")])
    with pytest.raises(ManifestError, match=r"has no \.json files .*; leave out --label-column"):
        manifests.read(path, label_column="species")


@pytest.mark.parametrize("label", ["", "NA"])
def test_what_a_json_leaves_open_the_other_file_says(tmp_path, label):
    said = json.dumps({"label": label, "group": ""}).encode()
    names = [("0.l.png", b"x"), ("0.r.png", b"y"), ("0.cls", b"3"), ("0.json", said)]
    found, _ = described(write_tar(tmp_path / "s.tar", names))
    assert list(found.values()) == [("3", None, "0")] * 2


def test_a_label_that_says_nothing_is_counted(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("0.png", b"x"), ("0.cls", b"NA"), ("1.png", b"y"), ("1.cls", b"ant\n")])
    found, said = described(path)
    assert [one[0] for one in found.values()] == [None, "ant"]
    assert any("read as no label: 'NA' in 1 row" in line for line in said)


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
    assert any("left out 1 link to what is no file in it, first b/2.png → gone" in line for line in said)
    assert any("1 name occurs more than once" in line for line in said)


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


def test_links_are_followed_and_sparse_files_and_a_second_archive_are_named(tmp_path):
    path = tmp_path / "p.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as packed:
        for name, kind, target, headers in [
            ("./a/0.png", tarfile.REGTYPE, "", {}),
            ("./blobs/0123", tarfile.REGTYPE, "", {}),
            ("./b/1.png", tarfile.SYMTYPE, "../blobs/0123", {}),
            ("./a/latest.png", tarfile.SYMTYPE, "0.png", {}),
            ("./b/2.png", tarfile.SYMTYPE, "/elsewhere.png", {}),
            ("./b/3.png", tarfile.REGTYPE, "", {"GNU.sparse.map": "0,3", "GNU.sparse.size": "3"}),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.pax_headers = kind, target, headers
            info.size = 3 if kind == tarfile.REGTYPE else 0
            packed.addfile(info, io.BytesIO(b"abc"))
    path.write_bytes(2 * path.read_bytes())
    found, said = described(path)
    assert list(found) == ["a/0.png", "a/latest.png", "b/1.png"]  # as in the folder that was packed
    assert Tars(str(path)).read("b/1.png") == Tars(str(path)).read("a/latest.png") == b"abc"
    assert any("left out 1 link to what is no file in it, first b/2.png → /elsewhere.png" in line for line in said)
    assert any("left out 1 sparse file, first b/3.png" in line for line in said)
    assert any("goes on behind its end, as if tars had been joined by cat" in line for line in said)


def entries(path, *files):
    """A tar of regular files, and of links, which are given as a kind and a target."""
    with tarfile.open(path, "w") as packed:
        for name, content in files:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            else:
                info.type, info.linkname = content
            packed.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
    return path


HARD, SOFT = tarfile.LNKTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize(
    ("files", "content"),
    [
        ([("b.png", b"b"), ("a.png", (SOFT, "b.png")), ("a.png", b"new")], b"new"),
        ([("a.png", b"old"), ("b.png", b"b"), ("a.png", (HARD, "b.png"))], b"b"),
        ([("b.png", b"b"), ("a.png", (HARD, "b.png")), ("b.png", b"new")], b"b"),
        ([("b.png", b"b"), ("a.png", (SOFT, "b.png")), ("b.png", b"new")], b"new"),
        ([("a.png", (SOFT, "z.png")), ("z.png", (SOFT, "b.png")), ("b.png", b"b")], b"b"),
        ([("b.png", b"b"), ("z.png", (SOFT, "b.png")), ("a.png", (HARD, "z.png"))], b"b"),
        ([("b.png", b"b"), ("z.png", (SOFT, "b.png")), ("a.png", (HARD, "z.png")), ("b.png", b"new")], b"new"),
    ],
)
def test_links_give_what_unpacking_gives(tmp_path, files, content):
    """As GNU tar unpacks: Python's own module writes into a file that is there already, and so into its hard links."""
    packed = entries(tmp_path / "p.tar", *files)
    found, _ = described(packed)
    assert "a.png" in found
    source = manifests.read(packed).source
    assert source.read("a.png") == content
    assert pickle.loads(pickle.dumps(source)).read("a.png") == content


def test_links_to_themselves_lead_nowhere(tmp_path):
    packed = entries(tmp_path / "p.tar", ("0.png", b"0"), ("a.png", (SOFT, "b.png")), ("b.png", (SOFT, "a.png")))
    found, said = described(packed)
    assert list(found) == ["0.png"]
    assert any("left out 2 links to what is no file in it" in line for line in said)


def test_links_label_their_neighbours(tmp_path):
    files = [("0.png", b"0"), ("0.cls", b"cat"), ("1.png", b"1"), ("1.cls", (HARD, "0.cls")), ("2.png", b"2")]
    packed = entries(tmp_path / "p.tar", *files, ("2.cls", (SOFT, "1.cls")))
    assert [one.label for one in manifests.read(packed).samples] == ["cat"] * 3


def test_links_are_found_among_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "RECENT", 2)
    files = [(f"{n:02}.png", bytes([n])) for n in range(20)]
    links = [(f"x{n:02}.png", (HARD, f"{n:02}.png")) for n in range(20)]
    packed = entries(tmp_path / "p.tar", *[one for pair in zip(files, links, strict=True) for one in pair])
    source = manifests.read(packed).source
    assert [source.read(f"x{n:02}.png") for n in range(20)] == [bytes([n]) for n in range(20)]


def test_a_size_that_no_archive_has_ends_it(tmp_path):
    packed = entries(tmp_path / "p.tar", ("0.png", b"0"))
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 2**45
    data = bytearray(packed.read_bytes())
    data[1024:1536] = header.tobuf(tarfile.GNU_FORMAT)
    packed.write_bytes(data)
    found, said = described(packed)
    assert list(found) == ["0.png"]
    assert any("is cut off or damaged" in line for line in said)


def test_zips_stay_open_as_long_as_they_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "OPEN", 2)
    monkeypatch.setattr(zips, "ENTRIES", 6)
    for n in range(5):
        with zipfile.ZipFile(tmp_path / f"{n}.zip", "w") as packed:
            for name in range(2):
                packed.writestr(f"{name}.png", b"%d %d" % (n, name))
    source = Zips(str(tmp_path / "*.zip"))
    assert [source.read(f"{n}.zip/1.png") for n in range(5)] == [b"%d 1" % n for n in range(5)]
    assert len(source._open) == 3


def test_names_in_zips_that_are_written_twice_or_on_windows(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as packed:
        packed.writestr("a/0.png", b"old")
        with pytest.warns(UserWarning, match="Duplicate name"):
            packed.writestr("a/0.png", b"new")
    found, said = described(tmp_path / "d.zip")
    assert list(found) == ["a/0.png"]
    assert Zips(str(tmp_path / "d.zip")).read("a/0.png") == b"new"
    assert any("1 name occurs more than once; the last file of each name counts" in line for line in said)
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as packed:
        for name in ("cats\\", "cats\\1.png", "dogs\\1.png"):
            packed.writestr(zipfile.ZipInfo(name), name.encode())
    assert {id_: one[0] for id_, one in described(tmp_path / "w.zip")[0].items()} == {
        "cats/1.png": "cats",
        "dogs/1.png": "dogs",
    }
    assert Zips(str(tmp_path / "w.zip")).read("dogs/1.png") == b"dogs\\1.png"
    assert Zips(str(tmp_path / "w.zip")).read("dogs\\1.png") == b"dogs\\1.png"  # as stores have it


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tar.gz"])
@pytest.mark.parametrize("is_read", [False, True])
def test_an_archive_that_is_replaced_while_it_is_used_gives_nothing(photos, tmp_path, name, is_read):
    path = PACKERS[name](photos(), tmp_path / name)
    manifest = manifests.read(path)
    place = manifest.samples[0].place
    if is_read:
        manifest.source.read(place)
    PACKERS[name](photos(seed=1, name="others"), tmp_path / f"new-{name}").replace(path)
    for ask in (manifest.source.stamp, manifest.source.read):
        with pytest.raises(OSError, match="the archive has just changed; run again"):
            ask(place)
    assert manifests.read(path).source.read(place) == (tmp_path / "others" / place).read_bytes()


@pytest.mark.parametrize("kind", [Tars, Zips])
def test_what_was_open_before_never_gets_the_stamp_of_an_archive_that_looks_just_like_it(photos, tmp_path, kind):
    pack, path = {Tars: to_tar, Zips: to_zip}[kind], tmp_path / f"p.{kind.kind}"
    pack(photos(), path)
    pack(photos(), tmp_path / "new")
    for one in (path, tmp_path / "new"):
        os.utime(one, (10**9, 10**9))
    source = kind(str(path))
    before = source.stamp("ant/0.jpg")
    (tmp_path / "new").replace(path)
    assert (source.read("ant/0.jpg") is not None, source.stamp("ant/0.jpg")) == (True, before)
    assert kind(str(path)).stamp("ant/0.jpg") != before


@pytest.mark.parametrize("kind", [Tars, Zips])
def test_another_mode_or_link_is_no_change_and_a_new_listing_starts_anew(photos, tmp_path, kind):
    pack, path = {Tars: to_tar, Zips: to_zip}[kind], tmp_path / f"p.{kind.kind}"
    pack(photos(), path)
    source, there = kind(str(path)), tmp_path / "photos" / "ant" / "0.jpg"
    assert source.read("ant/0.jpg") == there.read_bytes()
    path.chmod(0o600)
    (tmp_path / "link").hardlink_to(path)
    assert (source.read("ant/0.jpg"), source.outdated) == (there.read_bytes(), False)
    pack(photos(seed=1, name="others"), tmp_path / "new").replace(path)
    with pytest.raises(OSError, match="the archive has just changed"):
        source.read("ant/0.jpg")
    assert source.outdated
    assert any(item.name == "ant/0.jpg" for item in source.list_items(Columns()).items)
    assert source.read("ant/0.jpg") == (tmp_path / "others" / "ant" / "0.jpg").read_bytes()


def test_one_archive_that_breaks_takes_no_other_with_it(photos, tmp_path):
    for label in ("ant", "bee"):
        to_tar(photos((label,), name=label), tmp_path / f"{label}.tar")
        to_zip(tmp_path / label, tmp_path / f"{label}.zip")
    for kind, ending in ((Tars, "tar"), (Zips, "zip")):
        (tmp_path / f"bee.{ending}").write_bytes(b"nothing" * 99)
        source = kind(f"{tmp_path}/{{ant,bee}}.{ending}")
        assert source.read(f"ant.{ending}/ant/0.jpg") == (tmp_path / "ant" / "ant" / "0.jpg").read_bytes()
        with pytest.raises(OSError, match=f"cannot be read as a {ending} archive"):
            source.read(f"bee.{ending}/bee/0.jpg")


def test_an_archive_that_cannot_be_read_for_a_while_says_why_and_comes_back(tmp_path, monkeypatch):
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", [("1.jpg", name.encode())])
    source, status = Tars(f"{tmp_path}/*.tar"), inputs.status

    def failing(path, most=None):
        if str(path).endswith("b.tar"):
            raise OSError(errno.EIO, "Input/output error", path)
        return status(path, most)

    monkeypatch.setattr("featurepipe.sources.tars.PATIENCE", 0)
    monkeypatch.setattr(inputs, "status", failing)
    assert source.read("a.tar/1.jpg") == b"a"
    with pytest.raises(OSError, match="Input/output error") as caught:
        source.read("b.tar/1.jpg")
    assert caught.value.errno == errno.EIO
    monkeypatch.setattr(inputs, "status", status)
    assert (source.read("b.tar/1.jpg"), source.read("a.tar/1.jpg")) == (b"b", b"a")
    with pytest.raises(FileNotFoundError, match="not in the archive any more"):
        source.read("b.tar/2.jpg")


def test_a_link_may_lead_to_a_file_without_a_suffix(photos, tmp_path):
    packed = PACKERS["p.tar.gz"](photos(), tmp_path / "p.tar.gz")
    packed.rename(tmp_path / "0123")
    packed.symlink_to("0123")
    extract(packed, tmp_path / "st", backbone="pixels")
    source = Store.open(tmp_path / "st").source
    assert source.root == str(tmp_path / "0123")
    assert source.read("ant/0.jpg") == (tmp_path / "photos" / "ant" / "0.jpg").read_bytes()


@pytest.mark.parametrize(
    ("ending", "compress"),
    [("gz", gzip.compress), ("bz2", partial(bz2.compress, compresslevel=1)), ("xz", partial(lzma.compress, preset=0))],
)
def test_a_damaged_compressed_tar_gives_what_lies_before(tmp_path, ending, compress):
    noise = np.random.default_rng(0).bytes(10_000)
    plain = write_tar(tmp_path / "p.tar", [(f"a/{n:02}.png", noise[n:] + noise[:n]) for n in range(30)])
    data = bytearray(compress(b"".join([plain.read_bytes(), np.random.default_rng(1).bytes(300_000)])))
    at = len(data) // 3
    data[at : at + 50] = bytes(50)
    (tmp_path / f"p.tar.{ending}").write_bytes(data)
    found, said = described(tmp_path / f"p.tar.{ending}")
    assert 0 < len(found) <= 30
    assert any("is damaged or cut off (" in line for line in said)


def test_a_zip_with_broken_lzma_or_names(tmp_path):
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("a/0.png", np.random.default_rng(0).bytes(999))
    data = bytearray(path.read_bytes())
    for at in range(80, 400):
        data[at] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(OSError, match="the archive cannot be read there"):
        Zips(str(path)).read("a/0.png")
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a/ä.png", b"x")
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xe4\xff"))
    with pytest.raises(ManifestError, match=r"p\.zip cannot be read as a zip archive: .*copy it again"):
        manifests.read(path)


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


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ({"part-1": ["cat", "dog"], "part-2": ["cat", "dog"]}, ["cat", "dog", "cat", "dog"]),
        ({"n01": ["images"], "n02": ["images"]}, ["n01", "n02"]),
        ({"ant": ["left", "right"], "bee": ["left", "right"]}, ["ant", "ant", "bee", "bee"]),
        ({"class0": ["left", "right"], "class1": ["left", "right"]}, ["class0", "class0", "class1", "class1"]),
        ({"0": ["train", "test"], "1": ["train", "test"]}, ["0", "0", "1", "1"]),
        ({"part-1": ["train", "val"], "part-2": ["train", "val"]}, [None] * 4),
    ],
)
def test_folders_that_only_count_archives_are_no_classes(tmp_path, names, labels):
    for number, (top, folders) in enumerate(names.items()):
        write_tar(tmp_path / f"{number}.tar", [(f"{top}/{folder}/0.png", b"x") for folder in folders])
    found, said = described(f"{tmp_path}/*.tar")
    assert [one[0] for one in found.values()] == labels
    assert any("such as part-1/, which is no class" in line for line in said) == ("part-1" in names)


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
    assert sum(counted) < 20 * 600 + 2000 + tarfile.RECORDSIZE  # which is behind the end, at least
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
