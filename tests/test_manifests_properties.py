"""Random folders and tables are read right or refused, and what goes in comes out as samples or as named leftovers."""

import csv
import io
import json
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurepipe.errors import ManifestError
from featurepipe.manifests import read

QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SPLITS = {"train": "train", "Training": "train", "VAL": "val", "dev": "val", "Test": "test", "testing": "test"}
RUBBISH = ("@eaDir", "lost+found", "__MACOSX")


def read_or_refused(path):
    """The manifest, or else why there is none: a line."""
    try:
        return read(path), ""
    except ManifestError as error:
        return None, str(error)


# Folders

FOLDERS = st.sampled_from(["cat", "dog", "big dog", "ünï", "@eaDir", "lost+found", "__MACOSX", ".git"])
FILES = st.sampled_from(["1.png", "2.JPG", "3.psd", "notes.md", "plain", ".DS_Store", "4.tiff", "é.webp"])
PATHS = st.tuples(st.lists(FOLDERS, max_size=3), FILES).map(lambda pair: "/".join([*pair[0], pair[1]]))


@pytest.mark.slow
@QUICK
@given(st.sets(PATHS, min_size=1, max_size=12), st.lists(st.sampled_from(list(SPLITS)), max_size=3, unique=True))
def test_every_file_of_a_folder_is_a_sample_or_left_out_by_name(paths, splits):
    paths = {f"{split}/{path}" for split in splits for path in paths} if splits else paths
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            file = Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
        manifest, refused = read_or_refused(folder)
    if manifest is None:
        assert "\n" not in refused
        assert "mixes" in refused or "no images" in refused or "two folders for one split" in refused
        return
    expected, hidden, rubbish, images = Counter(), set(), Counter(), set()
    for path in paths:
        parts = path.split("/")
        odd = next((i for i, part in enumerate(parts) if part in RUBBISH or part.startswith(".")), None)
        if odd is not None and parts[odd] in RUBBISH:
            rubbish[parts[odd]] += 1
        elif odd is not None:
            hidden.add("/".join(parts[: odd + 1]))
        elif Path(path).suffix.lower() in (".png", ".jpg", ".tiff", ".webp"):
            images.add(path)
        else:
            expected[Path(path).suffix.lower()] += 1
    left_out = manifest.left_out
    assert {sample.id for sample in manifest.samples} == images
    assert (left_out.files, left_out.rubbish, left_out.hidden) == (expected, rubbish, len(hidden))
    assert left_out.pictures == expected[".psd"]
    for sample in manifest.samples:
        *above, _ = sample.id.split("/")
        split = SPLITS[above.pop(0)] if splits else None
        assert (sample.split, sample.label) == (split, above[0] if above else None)


# Tables

LABELS = st.sampled_from(
    ["cat", "Cat", "", "  ", " dog ", "a,b", "x;y", 'say "x"', "d'or", "日本", "café", "NaN", "1.0"]
)
ROWS = st.lists(st.tuples(st.integers(0, 5), LABELS, st.sampled_from(["", "train", " Dev", "TESTING"])), max_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("images")
    for number in range(6):
        (made / f"{number} é.png").write_bytes(b"")
    return made


def cells(header, rows, repeats, draw):
    """Rows as lists of texts, some blank; how many are blank."""
    table = [[f"{number} é.png", label, split] for number, label, split in rows]
    for _ in range(repeats if table else 0):
        table.insert(draw(st.integers(0, len(table))), list(draw(st.sampled_from(table))))
    order = draw(st.permutations(range(len(header))))
    return [header[i] for i in order], [[row[i] for i in order] for row in table]


def expected(rows):
    """What the rows mean; None where two contradict each other."""
    found = {}
    for number, label, split in rows:
        label = label.strip()
        meant = (None if label in ("", "NaN") else label, split.strip().lower() or None)
        meant = (meant[0], {"dev": "val", "testing": "test"}.get(meant[1], meant[1]))
        if found.setdefault(f"{number} é.png", meant) != meant:
            return None
    return sorted((path, *meant) for path, meant in found.items())


@pytest.mark.slow
@QUICK
@given(ROWS, st.data())
def test_every_row_of_a_table_is_a_sample_or_left_out(folder, rows, data):
    draw = data.draw
    suffix = draw(st.sampled_from([".csv", ".csv", ".tsv", ".jsonl", ".parquet"]))
    spelled = [draw(st.sampled_from([name, name.upper(), f" {name.title()} "])) for name in ("path", "label", "split")]
    header, table = cells(spelled, rows, draw(st.integers(0, 2)), draw)
    path, blank, encoding = folder / f"t{suffix}", 0, "utf-8"
    if suffix == ".parquet":
        as_bytes = draw(st.booleans())
        columns = [[cell.encode() if as_bytes else cell for cell in column] for column in zip(*table, strict=True)]
        pyarrow.parquet.write_table(pyarrow.table(dict(zip(header, columns or [[], [], []], strict=True))), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n\n" for row in table))
    else:
        blank = draw(st.integers(0, 1))
        text, separator = io.StringIO(newline=""), draw(st.sampled_from(",;\t"))
        options = {"quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))}
        newline = draw(st.sampled_from(["\n", "\r\n", "\r"]))
        csv.writer(text, delimiter=separator, lineterminator=newline, **options).writerows(
            [header, *table, *[[""] * len(header)] * blank]
        )
        encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
        try:
            path.write_bytes(text.getvalue().encode(encoding))
        except UnicodeEncodeError:
            return
    wanted = expected(rows)
    manifest, refused = read_or_refused(path)
    if manifest is None:
        assert "\n" not in refused
        assert wanted is None or not rows or encoding in ("utf-16", "latin-1"), refused
        return
    assert [(sample.id, sample.label, sample.split) for sample in manifest.samples] == wanted
    assert len(table) + blank == len(manifest) + manifest.left_out.doubles + manifest.left_out.blank_rows


@QUICK
@given(ROWS.filter(len), st.data())
def test_a_quote_too_many_or_too_few_swallows_no_row(folder, rows, data):
    rows = list({number: row for row in rows for number in row[:1]}.values())
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])))
    writer.writerows([["path", "label", "split"], *([f"{number} é.png", *rest] for number, *rest in rows)])
    whole = text.getvalue()
    place = data.draw(st.integers(0, len(whole) - 1))
    broken = whole[:place] + ("" if whole[place] == '"' else '"') + whole[place + (whole[place] == '"') :]
    (folder / "broken.csv").write_text(broken, "utf-8", newline="")
    manifest, refused = read_or_refused(folder / "broken.csv")
    if manifest is None:
        assert refused
        assert "\n" not in refused
    else:
        assert [sample.place for sample in manifest.samples] == sorted(f"{number} é.png" for number, *_ in rows)
