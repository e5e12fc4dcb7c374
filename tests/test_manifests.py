import json
import math
import os
import random
import sys
import tracemalloc
from collections import Counter

import pytest

from featurepipe import manifests
from featurepipe.errors import ManifestError
from featurepipe.manifests import Sample, assign_splits, check_labels, read

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX file names and links")


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def rows(manifest):
    return [tuple(sample)[:4] for sample in manifest.samples]


# Folders


def test_class_folders(tmp_path):
    touch(tmp_path, "dog/2.png", "cat/deep/er/1.JPG", "cat/10.jpeg", "cat/9.jpeg")
    manifest = read(tmp_path)
    assert rows(manifest) == [
        ("cat/10.jpeg", "cat/10.jpeg", "cat", None),
        ("cat/9.jpeg", "cat/9.jpeg", "cat", None),
        ("cat/deep/er/1.JPG", "cat/deep/er/1.JPG", "cat", None),
        ("dog/2.png", "dog/2.png", "dog", None),
    ]
    assert len(manifest) == 4
    assert all(manifest.file(sample).is_file() for sample in manifest.samples)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Valid"])
def test_split_folders_above_class_folders(tmp_path, val):
    touch(tmp_path, "train/a/1.png", f"{val}/a/1.png", "TEST/b/x/1.png")
    assert {(sample.label, sample.split) for sample in read(tmp_path).samples} == {
        ("a", "train"),
        ("a", "val"),
        ("b", "test"),
    }


def test_split_folders_without_classes(tmp_path):
    touch(tmp_path, "train/1.png", "test/1.png")
    assert [(sample.id, sample.label, sample.split) for sample in read(tmp_path).samples] == [
        ("test/1.png", None, "test"),
        ("train/1.png", None, "train"),
    ]


def test_flat_folder_has_no_labels(tmp_path):
    touch(tmp_path, "b.png", "a.webp")
    assert rows(read(tmp_path)) == [("a.webp", "a.webp", None, None), ("b.png", "b.png", None, None)]


def test_a_path_given_as_text_or_relative_or_with_a_slash_is_the_same(tmp_path, monkeypatch):
    touch(tmp_path, "d/a/1.png")
    monkeypatch.chdir(tmp_path)
    assert rows(read("d")) == rows(read("./d/")) == rows(read(tmp_path / "d"))


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{label}/{number}.png" for label in "zaB" for number in range(12)))
    expected = rows(read(tmp_path))
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: reversed(list(scan(folder))))
    assert rows(read(tmp_path)) == expected == sorted(expected)


def test_order_is_that_of_whole_paths(tmp_path):
    names = ["a/1.png", "a/b.png/1.png", "a/b/1.png", "a/b-c/1.png", "a/b0.png", "a-b/1.png", "a!/1.png", "a0/1.png"]
    assert [sample.id for sample in read(touch(tmp_path, *names)).samples] == sorted(names)


def test_samples_take_little_room_and_come_back_as_they_were():
    given = [
        Sample("b", "b", "x", None),
        Sample("a", "/else/a", None, "test"),
        Sample("ü\udcff", "ü\udcff", "x", "val"),
    ]
    samples = manifests.Samples(given)
    assert list(samples) == [samples[i] for i in range(3)] == samples[:] == given
    assert (samples[-1], samples[1:], len(samples)) == (given[2], given[1:], 3)
    with pytest.raises(IndexError):
        samples[3]
    tracemalloc.start()
    many = manifests.Samples(Sample(f"{n:06d}.jpg", f"{n:06d}.jpg", str(n % 10), "train") for n in range(20_000))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(many) == 20_000
    assert taken / len(many) < 60


def test_hidden_files_and_non_images_are_ignored(tmp_path):
    touch(tmp_path, "a/1.png", "a/._1.png", ".hidden/2.png", "a/.cache/3.png", "a/notes.txt", "a/jpg", "readme.md")
    touch(tmp_path, "a/.png", "a/Thumbs.db", "a/x.png.txt")
    (tmp_path / "b.png").mkdir()  # a folder, whatever it is called
    assert [sample.id for sample in read(tmp_path).samples] == ["a/1.png"]


@posix
def test_links_are_followed_wherever_they_lead(tmp_path):
    root = touch(tmp_path / "d", "train/a/1.png", "test/a/2.png")
    touch(tmp_path / "else", "3.png")
    (root / "val").symlink_to("test")  # a sibling: both names are meant
    (root / "train" / "b").symlink_to(tmp_path / "else")
    (root / "train" / "a" / "4.png").symlink_to(tmp_path / "else" / "3.png")
    assert [sample.id for sample in read(root).samples] == [
        "test/a/2.png",
        "train/a/1.png",
        "train/a/4.png",
        "train/b/3.png",
        "val/a/2.png",
    ]


@posix
def test_link_loops_end(tmp_path):
    root = touch(tmp_path / "d", "a/1.png", "b/2.png")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to("self")
    (root / "a" / "other").symlink_to(root / "b")
    (root / "b" / "other").symlink_to(root / "a")
    (root / "b" / "self.png").symlink_to("self.png")
    (tmp_path / "link").symlink_to(root)
    expected = ["a/1.png", "a/other/2.png", "a/other/self.png", "b/2.png", "b/other/1.png", "b/self.png"]
    assert [sample.id for sample in read(root).samples] == expected
    assert [sample.id for sample in read(tmp_path / "link").samples] == expected


@posix
def test_a_link_to_nothing_stays_listed_to_be_rejected_by_name(tmp_path):
    touch(tmp_path, "a/1.png")
    (tmp_path / "a" / "gone.png").symlink_to("nowhere")
    assert [sample.id for sample in read(tmp_path).samples] == ["a/1.png", "a/gone.png"]


@posix
def test_a_pipe_is_not_an_image(tmp_path):
    touch(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "link.png").symlink_to("pipe.png")
    assert [sample.id for sample in read(tmp_path).samples] == ["a/1.png"]


def test_a_folder_that_cannot_be_read_is_named_not_skipped(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "secret/2.png")
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ManifestError, match=r"secret cannot be read \(Permission denied\)"):
        read(tmp_path)


def test_unicode_spaces_and_odd_names(tmp_path):
    names = ['日本/é (1),"x".png', "日本/e\u0301.png", "a b/- .png", "a b/😀.png"]
    if os.name != "nt":
        names += ["a b/new\nline.png", "a b/back\\slash.png"]
    names = [name for name in names if os.name != "nt" or '"' not in name]
    manifest = read(touch(tmp_path, *names))
    assert [sample.id for sample in manifest.samples] == sorted(names)
    assert {sample.label for sample in manifest.samples} == {"日本", "a b"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="file names of any bytes")
def test_names_that_are_not_utf8_are_kept(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    with open(os.path.join(folder, b"\xff.png"), "wb"):
        pass
    (sample,) = read(tmp_path).samples
    assert os.fsencode(sample.id) == b"caf\xe9/\xff.png"
    assert os.fsencode(sample.label) == b"caf\xe9"
    assert read(tmp_path).file(sample).is_file()


@pytest.mark.parametrize(
    ("names", "offenders"),
    [
        (["a/1.png", "loose.png"], ["loose.png", "a/"]),
        (["train/a/1.png", "dogs/1.png"], ["train/", "dogs/"]),
        (["train/a/1.png", "train/loose.png"], ["train/loose.png", "train/a/1.png"]),
        (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], ["val", "valid"]),
        (["a/notes.md"], ["no images"]),
        ([".hidden/1.png"], ["no images"]),
    ],
)
def test_mixed_or_empty_folders_are_refused_by_name(tmp_path, names, offenders):
    with pytest.raises(ManifestError) as caught:
        read(touch(tmp_path, *names))
    assert all(offender in str(caught.value) for offender in [*offenders, str(tmp_path)])
    assert "\n" not in str(caught.value)


def test_nothing_there_or_another_kind_of_file(tmp_path):
    with pytest.raises(ManifestError, match="nowhere does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match=r"photo\.png is neither a folder nor an archive .* nor a table"):
        read(touch(tmp_path, "photo.png") / "photo.png")


# Tables

TABLE = [
    {"path": "x/2.png", "label": "7", "split": "train"},
    {"path": "x/1.png", "label": None, "split": "valid"},
    {"path": "3.png", "label": 'é, "q"', "split": None},
]
READ = [
    ("3.png", "3.png", 'é, "q"', None),
    ("x/1.png", "x/1.png", None, "val"),
    ("x/2.png", "x/2.png", "7", "train"),
]


def write_table(path, table):
    """Write as other programs would: the csv module, one JSON object a line, or Arrow."""
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(table), path)
    elif path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in table), "utf-8")
    else:
        import csv

        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, table[0], delimiter="," if path.suffix.lower() == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(table)
    return path


SUFFIXES = pytest.mark.parametrize("suffix", [".csv", ".CSV", ".tsv", ".jsonl", ".ndjson", ".parquet"])


@SUFFIXES
def test_tables_of_every_kind_say_the_same(tmp_path, suffix):
    touch(tmp_path, *(row["path"] for row in TABLE))
    manifest = read(write_table(tmp_path / f"t{suffix}", TABLE))
    assert rows(manifest) == READ
    assert manifest.root == tmp_path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_byte_order_mark_and_windows_newlines(tmp_path, suffix, newline):
    touch(tmp_path, *(row["path"] for row in TABLE))
    path = write_table(tmp_path / f"t{suffix}", TABLE)
    data = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", newline)
    path.write_bytes(b"\xef\xbb\xbf" + data)
    assert rows(read(path)) == READ


@SUFFIXES
def test_absolute_paths_and_ids(tmp_path, suffix):
    image = touch(tmp_path / "far", "1.png") / "1.png"
    table = [
        {"id": "one", "path": str(image), "label": "a"},
        {"id": "0", "path": "../far/1.png", "label": "b"},
        {"id": None, "path": str(image), "label": "c"},
    ]
    (tmp_path / "t").mkdir()
    manifest = read(write_table(tmp_path / "t" / f"t{suffix}", table))
    assert [(sample.id, sample.label) for sample in manifest.samples] == sorted(
        [("one", "a"), ("0", "b"), (image.as_posix(), "c")]
    )
    assert all(manifest.file(sample).samefile(image) for sample in manifest.samples)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_numeric_labels_become_text_and_nan_none(tmp_path, suffix):
    touch(tmp_path, *(f"{number}.png" for number in range(4)))
    table = [{"path": f"{n}.png", "label": label} for n, label in enumerate([3.0, math.nan, None, 2.5])]
    assert [sample.label for sample in read(write_table(tmp_path / f"t{suffix}", table)).samples] == [
        "3",
        None,
        None,
        "2.5",
    ]
    table = [{"path": f"{n}.png", "label": n} for n in range(4)]
    assert [sample.label for sample in read(write_table(tmp_path / f"t{suffix}", table)).samples] == list("0123")


@SUFFIXES
def test_odd_line_separators_inside_a_cell_do_not_split_the_row(tmp_path, suffix):
    touch(tmp_path, "1.png")
    label = "a\u2028b\x0bc\x85d"
    (sample,) = read(write_table(tmp_path / f"t{suffix}", [{"path": "1.png", "label": label}])).samples
    assert sample.label == label


def test_order_of_rows_and_further_columns_do_not_matter(tmp_path):
    touch(tmp_path, *(f"{number}.png" for number in range(9)))
    table = [{"area": n, "path": f"{n}.png", "label": "a"} for n in range(9)]
    shuffled = random.Random(0).sample(table, 9)
    expected = rows(read(write_table(tmp_path / "a.csv", table)))
    assert rows(read(write_table(tmp_path / "b.csv", shuffled))) == expected
    assert [id_ for id_, *_ in expected] == [f"{n}.png" for n in range(9)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "path,split\n1.png,fold1\n", r"row 1 \(1\.png\) has unknown split 'fold1'; use train, val or test"),
        (
            "t.csv",
            "path,label\n1.png,a\n2.png,a\n1.png,b\n",
            r"id '1\.png' is in rows 1 and 3, with different cells in",
        ),
        (
            "t.csv",
            "id,path\nx,1.png\nx,2.png\n",
            r"in rows 1 and 2, with different cells in 'path' \('1\.png', '2\.png'\)",
        ),
        ("t.csv", "path\n1.png\ngone.png\nlost.png\n", r"2 of its 3 files cannot be found, first 'gone\.png'"),
        ("t.csv", "file,label\n1.png,a\n", r"no column 'path' \(its columns: file, label\); if 'file' is meant, say"),
        ("t.csv", "path,label\n1.png,a\n,b\n", "row 2 has no 'path'"),
        ("t.csv", "path,label\n1.png,Smith, John\n", r"row 1 \(1\.png\) has more cells than the header"),
        ("t.csv", "path,label\n", "has no rows"),
        ("t.csv", "", "has no rows"),
        ("t.jsonl", "", "has no rows"),
        ("t.jsonl", '{"path": "1.png"}\n{"path"\n', "cannot be read as jsonl"),
        ("t.jsonl", '["1.png"]\n', "every line must be a JSON object"),
        ("t.jsonl", '{"label": "a"}\n', r"has no column 'path' \(its columns: label\)"),
        ("t.csv", "path\n1.png\x00\n", "row 1: path holds a NUL character"),
        ("t.parquet", "not parquet", "cannot be read as parquet"),
        ("t.parquet", "", "cannot be read as parquet"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_by_name(tmp_path, name, text, message):
    touch(tmp_path, "1.png", "2.png")
    path = tmp_path / name
    path.write_text(text)
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
    with pytest.raises(ManifestError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "path\n1.png\ncafé.png\n".encode("latin-1"),
            "line 3 is not UTF-8 text .byte 0xe9 after 'caf'.; save the table",
        ),
        (b"path\n" + 5000 * b"1.png\n" + b"\xff.png\n", "line 5002 is not UTF-8 text .byte 0xff after ''."),
        ("path\n1.png\n".encode("utf-16"), "is UTF-16 text .Excel's 'Unicode text'. or no text; save it as UTF-8"),
        ("path\n1.png\n".encode("utf-16-be"), "is UTF-16 text"),
    ],
)
def test_a_table_in_another_encoding_is_refused(tmp_path, data, message):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(ManifestError, match=message):
        read(tmp_path / "t.csv")


def test_a_folder_where_a_file_should_be_is_missing(tmp_path):
    (tmp_path / "1.png").mkdir()
    (tmp_path / "t.csv").write_text("path\n1.png\n")
    with pytest.raises(ManifestError, match="1 of its 1 files cannot be found"):
        read(tmp_path / "t.csv")


def test_a_parquet_table_cut_short_or_without_path(tmp_path):
    path = write_table(tmp_path / "t.parquet", [{"path": "1.png", "label": "a"}])
    for size in (4, 20, path.stat().st_size // 2, path.stat().st_size - 1):
        (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:size])
        with pytest.raises(ManifestError, match="cannot be read as parquet"):
            read(tmp_path / "cut.parquet")
    with pytest.raises(ManifestError, match=r"no column 'path' \(its columns: file, label\)"):
        read(write_table(tmp_path / "u.parquet", [{"file": "1.png", "label": "a"}]))


def test_folders_called_key_equals_value_give_a_parquet_table_no_columns(tmp_path):
    folder = touch(tmp_path / "label=night" / "split=test", "1.png")
    (sample,) = read(write_table(folder / "t.parquet", [{"path": "1.png", "label": 3}])).samples
    assert (sample.label, sample.split) == ("3", None)


# Labels


def samples(*pairs):
    return [Sample(str(n), str(n), label, split) for n, (label, split) in enumerate(pairs)]


def test_labels_that_can_be_trained_on_pass():
    check_labels(samples(("a", None), ("b", None), (None, None)))
    check_labels(samples(("a", "train"), ("b", "train"), ("a", "test"), (None, "test")))
    check_labels(samples(*[(str(n), None) for n in range(9)]))  # numbers of classes
    check_labels(samples(*[(f"v{n}.5", None) for n in range(9)]))
    check_labels(samples(*[("0.5", None), ("1.5", None)] * 2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([(None, None), (None, "test")], "no sample has a label"),
        ([("a", None), ("a", None), (None, None)], r"only one class \('a'\)"),
        ([("a", "train"), ("b", "train"), ("c", "test")], r"class 'c' occurs in test only, never in train \(2\)"),
        ([("a", "train"), ("b", "val"), ("a", "test")], r"class 'b' occurs in val only, never in train \(1\)"),
        ([("20.5", None), ("31.0", None), ("47", None)], r"the labels are numbers such as 20\.5, and most occur once"),
        ([("20.5", "train"), ("31.0", "test")], r"FeatureExtractor and a regressor of scikit-learn"),
    ],
)
def test_labels_that_cannot_be_trained_on_are_refused_by_name(given, message):
    with pytest.raises(ManifestError, match=message):
        check_labels(samples(*given))


# Splits


def many(sizes, prefix=""):
    pairs = [(label, f"{prefix}{label}{number}") for label, size in sizes.items() for number in range(size)]
    return [label for label, _ in pairs], [digest for _, digest in pairs]


def test_splits_are_stratified():
    labels, digests = many({"a": 100, "b": 50, "c": 10, "d": 5})
    counts = Counter(zip(labels, assign_splits(labels, digests), strict=True))
    for label, size in {"a": 100, "b": 50, "c": 10, "d": 5}.items():
        assert [counts[label, split] for split in manifests.SPLITS] == [size * 3 // 5, size // 5, size // 5]


def test_splits_depend_on_the_seed_and_on_nothing_else():
    labels, digests = many({"a": 40, "b": 30})
    first = assign_splits(labels, digests)
    assert first == assign_splits(labels, digests, seed=0)
    assert first != assign_splits(labels, digests, seed=1)
    order = random.Random(0).sample(range(70), 70)
    shuffled = assign_splits([labels[i] for i in order], [digests[i] for i in order])
    assert shuffled == [first[i] for i in order]


def test_a_class_keeps_its_splits_when_others_come_or_go():
    labels, digests = many({"a": 40, "b": 30})
    assert assign_splits(labels, digests)[:40] == assign_splits(labels[:40], digests[:40])


def test_exact_copies_never_cross_splits_even_under_another_label():
    labels, digests = many({"a": 20, "b": 20})
    splits = assign_splits(labels + labels + ["c"] * 20, digests + digests + digests[:10] + digests[20:30])
    assert splits[:40] == splits[40:80]
    assert splits[80:] == splits[:10] + splits[20:30]


def test_copies_under_several_labels_split_the_same_in_any_order():
    labels, digests = many({"a": 20, "b": 20})
    pairs = list(zip([*labels, *["c"] * 40, *["B"] * 40], digests * 3, strict=True))
    first = dict(zip(digests * 3, assign_splits(*zip(*pairs, strict=True)), strict=True))
    for seed in range(5):
        shuffled = random.Random(seed).sample(pairs, len(pairs))
        splits = assign_splits(*zip(*shuffled, strict=True))
        assert splits == [first[digest] for _, digest in shuffled]


def test_copies_do_not_count_twice_in_the_shares():
    labels, digests = many({"a": 10, "b": 10})
    splits = assign_splits(labels + ["a"] * 90, digests + digests[:1] * 90)
    assert splits[:20] == assign_splits(labels, digests)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, {"train": 1}),
        (2, {"train": 1, "test": 1}),
        (3, {"train": 1, "val": 1, "test": 1}),
        (4, {"train": 2, "val": 1, "test": 1}),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_every_class_however_small_is_trained_on(size, expected, seed):
    labels, digests = many({"big": 20, "tiny": size})
    assert Counter(assign_splits(labels, digests, seed=seed)[20:]) == expected


def test_splits_of_different_lengths_of_input_are_refused():
    with pytest.raises(ValueError, match="zip"):
        assign_splits(["a", "b"], ["1"])
