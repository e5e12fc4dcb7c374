"""Tables as other programs write them: read right, or refused with the row."""

import json
import random

import pyarrow
import pyarrow as pa
import pyarrow.parquet
import pytest

from featurepipe.errors import ManifestError
from featurepipe.manifests import describe, gather, read
from featurepipe.tables import Table


@pytest.fixture
def images(tmp_path):
    for number in range(1, 7):
        (tmp_path / f"{number}.png").write_bytes(b"")
    return tmp_path


def written(folder, text, name="t.csv"):
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder / name


def labels(path, **columns):
    return [(sample.id, sample.label, sample.split) for sample in read(path, **columns).samples]


TWO = [("1.png", "cat", "train"), ("2.png", "dog", "test")]


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split\n1.png,cat,train\n2.png,dog,test\n",
        "Path,LABEL, Split \n1.png,cat , Train\n2.png, dog,TESTING\n",
        "label, split, path\ncat, train, 1.png\ndog, test, 2.png\n",
        "path;label;split\r\n1.png;cat;train\r\n2.png;dog;test\r\n",
        "path\tlabel\tsplit\n1.png\tcat\ttrain\n2.png\tdog\ttest\n",
        '"path","label","split"\r"1.png","cat","train"\r"2.png","dog","test"\r',
        "\ufeffpath,label,split\n\n1.png,cat,train\n,,\n2.png,dog,test,,\n\n",
        ",path,label,,split\n0,1.png,cat,,train\n1,2.png,dog,,test\n",
    ],
)
def test_tables_that_mean_the_same(images, text):
    assert labels(written(images, text)) == TWO
    assert labels(written(images, text.replace("1.png", "./1.png").replace("2.png", "./2.png"))) == [
        (f"./{id_}", *rest) for id_, *rest in TWO
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'path,label\n1.png,cat\n2.png,"dog\n3.png,cat\n4.png,cat\n',
            r"row 2 cannot be read \(unexpected end of data\)",
        ),
        ('path,label\n1.png,"cat\n2.png,dog\n3.png,"cat\n', r"row 1 cannot be read .*; is a quote in it not closed\?"),
        ('path,label\n1.png,"cat\n2.png,dog\n3.png,cat"\n4.png,cat\n', r"row 1 \(1\.png\) has a cell of several lines"),
        (
            'path,text,label\n1.png,"a b,cat\n2.png,c d,dog\n3.png,e",dog\n',
            r"row 1 \(1\.png\) has a cell of several lines",
        ),
        (
            'path,text,label\n1.png,"a b,cat\n2.png,c d",dog\n',
            r"row 1 \(1\.png\) has a cell of several lines",
        ),
        (
            'text,path,label\n"a b,1.png,cat\nc d",2.png,dog\n',
            r"row 1 \(a b,1\.png,cat\) has a cell of several lines",
        ),
        ('"path,label\n1.png,cat\n', "the header cannot be read"),
        ("path,split\n1.png,NA\n", r"row 1 \(1\.png\) has unknown split 'NA'; .* or leave it empty"),
        ("ID,path\np1,1.png\np1,2.png\n", "id 'p1' is in rows 1 and 2, .*: if 'id' holds something else, such as pat"),
        ("path,label,label\n1.png,cat,0\n", "several columns for 'label' .'label' and 'label'.; rename or remove"),
        ("path,Label, label\n1.png,cat,0\n", "several columns for 'label' .'Label' and ' label'."),
        ("filename,label\n1.png,cat\n", "no column 'path' .*; if 'filename' is meant, say --path-column filename"),
        ("path,label\n1.png,ca\0t\n", "row 1: label holds a NUL character"),
        (
            "path,label\n1.png,a\n1.png,b\n",
            r"rows 1 and 2, with different cells in 'label' \('a', 'b'\).*write 'a;b' in one",
        ),
        (
            "path;label\n1.png;cat;dog\n",
            r"row 1 \(1\.png\) has more cells than the header; quote cells that have a semi",
        ),
    ],
)
def test_tables_that_are_refused_with_the_row(images, text, message):
    with pytest.raises(ManifestError, match=message) as caught:
        read(written(images, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("remark", ["two\nlines, one comma", "red\ngreen, white, blue", "a, b\r\nc, d, e\r\nf", "\n\n"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_cells_of_several_lines_that_are_no_rows_are_read(images, remark, at):
    rows = [["path", "label"], ["1.png", "cat"], ["2.png", "dog"]]
    for row, cell in zip(rows, ["remark", f'"{remark}"', '"and ""quotes"", too"'], strict=True):
        row.insert(at, cell)
    text = "\n".join(map(",".join, rows))
    assert [label for _, label, _ in labels(written(images, text))] == ["cat", "dog"]


def test_tables_of_many_thousands_of_columns_are_read(images):
    wide = ",".join(f"feature_{i}" for i in range(12_000))
    assert labels(written(images, f"path,label,{wide}\n1.png,cat\n")) == [("1.png", "cat", None)]


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000])
def test_json_that_python_cannot_hold_is_refused_with_the_row(images, value):
    with pytest.raises(ManifestError, match="row 1 cannot be read as jsonl"):
        read(written(images, f'{{"path": "1.png", "label": {value}}}', "t.jsonl"))


def test_columns_may_be_named(images):
    path = written(images, "image,class,label\n1.png,cat,x\n2.png,dog,y\n")
    assert labels(path, path_column="image", label_column="Class") == [("1.png", "cat", None), ("2.png", "dog", None)]
    with pytest.raises(ManifestError, match=r"no column 'kind' \(its columns: image, class, label\)"):
        read(path, path_column="image", label_column="kind")


def test_exact_names_come_before_forgiven_ones(images):
    assert labels(written(images, "path,label,Label\n1.png,cat,0\n"))[0][1] == "cat"


def test_what_stands_for_no_label_is_none_and_said(images):
    rows = ["1.png,  ", "2.png,NaN", "3.png,NA", "4.png,None", "5.png,none", "6.png,cat"]
    manifest = read(written(images, "path,label\n" + "\n".join(rows)))
    assert [sample.label for sample in manifest.samples] == [None, None, None, None, "none", "cat"]
    said = describe(manifest)
    assert said[0] == "found 6 images of 2 classes: cat (1), none (1); 4 without a label"
    assert "'NA' in 1 row, 'NaN' in 1 row, 'None' in 1 row; if that is a class, write it in another way" in said[1]


def test_rows_that_repeat_are_folded_and_counted(images):
    manifest = read(written(images, "path,label\n2.png,a\n1.png,b\n2.png,a \n2.png,a\n,\n"))
    assert [sample.id for sample in manifest.samples] == ["1.png", "2.png"]
    assert describe(manifest)[1:] == ["note: left out: 2 rows that repeat others, 1 blank row"]


def test_columns_that_are_not_used_are_named(images):
    path = written(images, "path,target,xmin,ymin,xmax,ymax,patient_id,subset\n1.png,cat,1,2,3,4,7,train\n")
    said = describe(read(path))
    assert said[1] == "note: left out: the columns target, xmin, ymin, xmax, ymax, patient_id and 1 more"
    assert said[2:] == [
        "note: the column 'target' is not used; if it holds the labels, to use it say --label-column target",
        "note: the column 'subset' is not used; if it holds the splits, to use it call it 'split'",
        "note: the column 'patient_id' is not used: samples of one patient_id may be in train and in test; "
        "to keep them together say --group patient_id",
        "note: boxes are not used (xmin, ymin, xmax, ymax): the whole image is embedded; to embed the boxes, write "
        "each as x0,y0,x1,y1 into a column 'part', or into the columns x0, y0, x1 and y1",
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_bytes_lists_and_objects(images, suffix):
    def write(rows, types=None):
        path = images / f"t{suffix}"
        if suffix == ".parquet":
            pyarrow.parquet.write_table(pa.table(rows, types), path)
        else:
            path.write_text(
                "\n".join(json.dumps(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True))
            )
        return path

    assert labels(write({"path": ["1.png", "2.png"], "label": [["b", "a"], []]}))[0][1] == "b;a"
    for bad, message in (([["a", None], ["b"]], "None in a list of labels"), ([["a;b"], ["b"]], "the label 'a;b'")):
        with pytest.raises(ManifestError, match=f"row 1: label holds {message}"):
            read(write({"path": ["1.png", "2.png"], "label": bad}))
    with pytest.raises(ManifestError, match="row 1: label holds an object"):
        read(write({"path": ["1.png"], "label": [{"name": "cat"}]}))
    if suffix == ".parquet":
        assert labels(write({"path": [b"1.png", b"2.png"], "label": [b"caf\xc3\xa9", b""]})) == [
            ("1.png", "café", None),
            ("2.png", None, None),
        ]
        with pytest.raises(ManifestError, match="row 2: label holds bytes that are not UTF-8"):
            read(write({"path": ["1.png", "2.png"], "label": [b"cat", b"\xff"]}))


def test_jsonl_rows_may_have_other_columns_and_none_twice(images):
    path = written(
        images, '{"path": "1.png", "Label": "cat"}\n{"note": 1, "label": "dog", "path": "2.png"}\n', "t.jsonl"
    )
    assert [label for _, label, _ in labels(path)] == ["cat", "dog"]
    assert read(path).left_out.columns == ["note"]
    path = written(images, '{"path": "1.png", "label": "cat", "label": "dog"}\n', "t.jsonl")
    with pytest.raises(ManifestError, match="several columns for 'label'"):
        read(path)
    path = written(images, '{"path": "1.png"}\n{"label": "cat"}\n', "t.jsonl")
    with pytest.raises(ManifestError, match="row 2 has no 'path'"):
        read(path)


def test_ids_and_paths_keep_every_character_that_counts(images):
    (images / " 7.png").write_bytes(b"")
    text = "id,path,label\n a ,1.png, cat\nb, 7.png,dog\nc, 2.png,dog\n"
    assert [(s.id, s.place) for s in read(written(images, text)).samples] == [
        (" a ", "1.png"),
        ("b", " 7.png"),
        ("c", "2.png"),
    ]


def test_a_table_says_which_columns_it_used(tmp_path):
    table = Table(written(tmp_path, "ID,a,b\nx,1,2\n"), ["a"], ["id", "c"])
    assert list(table) == [(1, {"a": "1", "id": "x"})]
    assert (table.used, table.unused) == (["a", "id"], ["b"])


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (lambda: pa.array([0, 2**31 - 1], pa.int32()).view(pa.date32()), "row 2: label cannot be read: "),
        (lambda: pa.array([0, 2**62], pa.int64()).view(pa.timestamp("us")), "row 2: label cannot be read: "),
        (lambda: pa.array([0, 2**62], pa.int64()).view(pa.duration("s")), "row 2: label cannot be read: "),
        (lambda: pa.array([0, 0], pa.int64()).view(pa.timestamp("us", tz="No/Where")), "row 1: label cannot be read: "),
        (lambda: not_utf8(), "row 1: label cannot be read: .*utf-8"),
        (lambda: pa.array([b"a", b"\xff"]), "row 2: label holds bytes that are not UTF-8"),
    ],
)
def test_cells_of_parquet_that_cannot_be_held_are_named(tmp_path, column, why):
    for name in "ab":
        (tmp_path / name).write_bytes(b"")
    columns = {"path": pa.array(["a", "b"]), "label": column()}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ManifestError, match=rf"t\.parquet: {why}"):
        read(tmp_path / "t.parquet")


def not_utf8():
    """Two texts of bytes that are none."""
    offsets = b"".join(number.to_bytes(4, "little") for number in (0, 2, 4))
    return pa.StringArray.from_buffers(2, pa.py_buffer(offsets), pa.py_buffer(b"\xff\xfe" * 2))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_damaged_tables_raise_nothing_but_manifest_errors(tmp_path, suffix):
    """A few hundred of them, by chance."""
    (tmp_path / "0.png").write_bytes(b"")
    cells = {"path": ["0.png", "0.png"], "label": ["a", "b"], "split": ["train", "test"]}
    whole = {
        ".csv": b'path,label,split\n0.png,"a",train\n0.png,b,\n',
        ".tsv": b"path\tlabel\tsplit\n0.png\ta\ttrain\n",
        ".jsonl": b'{"path": "0.png", "label": ["a", "b"]}\n{"path": "0.png", "label": 1.5, "x": {"y": null}}\n',
        ".parquet": None,
    }[suffix]
    path, chance = tmp_path / f"t{suffix}", random.Random(0)
    if whole is None:
        pyarrow.parquet.write_table(pa.table(cells), path)
        whole = path.read_bytes()
    strange = [b"\xff", b"\0", b'"', b"\\ud800", b"[" * 50_000, b"1" * 5_000, b"\xed\xa0\x80", b"NaN", b"{}", b"\r"]
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3))):
            at = chance.randrange(len(data) + 1)
            if chance.random() < 0.5 and at < len(data):
                data[at] = chance.randrange(256)
            else:
                data[at : at + chance.randrange(4)] = chance.choice(strange)
        path.write_bytes(data)
        try:
            list(read(path).samples)
        except ManifestError as error:
            assert path.name in str(error)  # noqa: PT017  # most of them raise, and some do not


def test_a_column_part_names_parts_of_files(images):
    name, other = (sample.place for sample in read(images).samples[:2])
    table = images / "t.csv"
    table.write_text(f'path,part,label\n{name},"0,0,9,9",a\n{name},,b\n{other}," 1,1,2,2 ",a\n')
    found = read(table).samples
    assert [(one.id, one.place, one.part) for one in found] == sorted(
        [(f"{name}#0,0,9,9", name, "0,0,9,9"), (name, name, None), (f"{other}#1,1,2,2", other, "1,1,2,2")]
    )
    table.write_text(f'path,part,label\n{name},"0,0,9,9",a\n{name},"0,0,9,9",b\n')
    with pytest.raises(ManifestError, match=r"id '.*#0,0,9,9' is in rows 1 and 2, with different cells in 'label'"):
        read(table)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'text,label,split\n"I came, I saw\nI conquered",pos,train\nNA,neg,test\n'),
        ("t.tsv", '"I came, I saw\nI conquered"\tpos\ttrain\nNA\tneg\ttest\n'),
        ("t.jsonl", '{"text": "I came, I saw\\nI conquered", "label": "pos", "split": "train"}\n'),
    ],
)
def test_texts_in_a_table_are_samples(tmp_path, name, text):
    text = text if "text" in text else f"text\tlabel\tsplit\n{text}"
    manifest = read(written(tmp_path, text, name))
    first = manifest.samples[0]
    assert first == ("0000001", "text[1]", "pos", "train", None, None)
    assert manifest.source.read(first.place) == b"I came, I saw\nI conquered"
    if len(manifest) > 1:
        assert manifest.source.read(manifest.samples[1].place) == b"NA"


def test_a_column_of_texts_may_have_another_name_and_rows_ids_and_groups(tmp_path):
    path = written(tmp_path, "path,id,review,label,author\nx,b,Bad,neg,1\ny,a,Good,pos,1\n")
    manifest = read(path, text_column="review", group_column="author")
    assert [sample[:5] for sample in manifest.samples] == [
        ("a", "review[2]", "pos", None, "1"),
        ("b", "review[1]", "neg", None, "1"),
    ]
    assert manifest.left_out.columns == ["path"]


def test_a_table_with_files_and_texts_is_of_files_unless_told(images):
    path = written(images, "path,text\n1.png,one\n")
    assert read(path).samples[0].place == "1.png"
    with pytest.raises(ManifestError, match="leave out --path-column or --text-column"):
        read(path, path_column="path", text_column="text")
    with pytest.raises(ManifestError, match="no column 'body'"):
        read(path, text_column="body")
    with pytest.raises(ManifestError, match="is a folder, which has no columns"):
        read(images, text_column="text")


def test_a_table_of_texts_is_given_alone(images):
    path = written(images, "text\none\n")
    assert len(gather([path])) == 1
    with pytest.raises(ManifestError, match="give it alone"):
        gather([path, images / "1.png"])
    path.write_bytes(b"text\n\xff\n")
    with pytest.raises(ManifestError, match="is not UTF-8"):
        read(path)


def test_a_column_part_that_means_something_else_is_refused(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    (tmp_path / "t.csv").write_text("path,part,label\na.png,elbow,x\nb.png,wrist,y\n")
    with pytest.raises(
        ManifestError, match=r"the column part holds 'elbow', which is neither a box .*; rename the column"
    ):
        read(tmp_path / "t.csv")


def test_corners_of_boxes_are_parts(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "t.csv").write_text("path,x0,y0,x1,y1\na.png,10,20,30.0,40\na.png,,,,\na.png,1.5,2,3,4\n")
    manifest = read(tmp_path / "t.csv")
    assert [(one.id, one.part) for one in manifest.samples] == [
        ("a.png", None),
        ("a.png#1.5,2,3,4", "1.5,2,3,4"),  # which is rejected by name: boxes are whole pixels
        ("a.png#10,20,30,40", "10,20,30,40"),
    ]
    assert manifest.left_out.columns == []
    (tmp_path / "t.csv").write_text("path,x0,y0,x1,y1\na.png,10,20,,40\n")
    with pytest.raises(ManifestError, match="row 1 has a box without 'x1'; give all four corners, or none"):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize("columns", ["part,x0,y0,x1,y1", "x0,y0"])
def test_corners_that_are_not_used_are_named(tmp_path, columns):
    (tmp_path / "a.png").write_bytes(b"x")
    cells = '"1,2,3,4",5,6,7,8' if "part" in columns else "5,6"
    (tmp_path / "t.csv").write_text(f"path,{columns}\na.png,{cells}\n")
    manifest = read(tmp_path / "t.csv")
    assert manifest.samples[0].part == ("1,2,3,4" if "part" in columns else None)
    assert {"x0", "y0"} <= set(manifest.left_out.columns)


def test_two_rows_of_one_box_that_differ_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "t.csv").write_text("path,label,x0,y0,x1,y1\na.png,cat,1,2,3,4\na.png,dog,1,2,3,4\n")
    with pytest.raises(ManifestError, match=r"id 'a\.png#1,2,3,4' is in rows 1 and 2, with different cells in 'label'"):
        read(tmp_path / "t.csv")
