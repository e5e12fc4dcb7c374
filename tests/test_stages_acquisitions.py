"""The stage label: from a store with some labels to a table that a person fills in."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from featurepipe import extract, label
from featurepipe.cli import main
from featurepipe.errors import OutputError, ProbeError


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store of 30 pictures in two colours: 6 labelled, 18 not, 2 copies of labelled ones, 4 of test."""
    at, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    rows = [("path", "label", "split")]
    for i in range(28):
        kind = ("red", "blue")[i % 2]
        pixels = rng.integers(0, 60, (8, 8, 3))
        pixels[..., 0 if kind == "red" else 2] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(at / f"={i:02}.png")
        split = "test" if i >= 24 else "train"
        rows.append((f"={i:02}.png", kind if i < 6 or i in (24, 25) else "", split))
    for i in (0, 1):
        (at / f"copy{i}.png").write_bytes((at / f"={i:02}.png").read_bytes())
        rows.append((f"copy{i}.png", "", "train"))
    with open(at / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    extract(at / "table.csv", at / "s", backbone="pixels")
    return at / "s"


def test_only_unlabelled_samples_outside_test_are_listed(stored):
    found = label(stored, count=99)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["order"], found["labelled"], found["unlabelled"], found["classes"]) == ("unsure", 6, 18, 2)
    assert sorted(one["id"] for one in found["next"]) == [f"={i:02}.png" for i in range(6, 24)]
    guesses = {one["id"]: one["suggested_label"] for one in found["next"]}
    assert all(guesses[f"={i:02}.png"] == ("red", "blue")[i % 2] for i in range(6, 24))
    assert all(0.5 <= one["confidence"] <= 1 for one in found["next"])


def test_a_copy_of_what_is_measured_on_is_not_listed(tmp_path):
    rows = ["path,label,split"]
    for i in range(6):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,,{'test' if i > 3 else 'train'}")
    for first, copy in ((4, "0copy.png"), (5, "z.png")):  # before and behind the sample in the manifest
        (tmp_path / copy).write_bytes((tmp_path / f"{first}.png").read_bytes())
        rows.append(f"{copy},,train")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    store = extract(tmp_path / "t.csv", tmp_path / "s", backbone="pixels")["store"]
    assert sorted(one["id"] for one in label(store, count=9)["next"]) == ["0.png", "1.png", "2.png", "3.png"]


def test_the_table_has_a_column_to_fill_in(stored, tmp_path):
    table = tmp_path / "next.csv"
    found = label(stored, table, count=4, safe_csv=True)
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["'" + one["id"] for one in found["next"]]
    assert [row["label"] for row in rows] == [""] * 4
    assert [row["suggested_label"] for row in rows] == [one["suggested_label"] for one in found["next"]]
    label(stored, table, count=2)  # replaces its own
    assert len(table.read_text().splitlines()) == 3


def test_clips_of_a_file_are_told_apart_by_their_ids(tmp_path):
    from scipy.io import wavfile

    (tmp_path / "sounds").mkdir()
    noise = np.random.default_rng(0).normal(0, 3000, 24_000).astype(np.int16)
    wavfile.write(tmp_path / "sounds/a.wav", 8000, noise)
    store = extract(tmp_path / "sounds", tmp_path / "s", backbone="mfcc", clip_seconds=1)["store"]
    label(store, tmp_path / "n.csv")
    with open(tmp_path / "n.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["id"] for row in rows) == ["a.wav@0.0-1.0", "a.wav@1.0-2.0", "a.wav@2.0-3.0"]
    assert {row["path"] for row in rows} == {"a.wav"}


def test_without_a_probe_there_is_no_suggestion(stored, tmp_path):
    found = label(stored, tmp_path / "n.csv", count=2, order="typical")
    assert [(one["suggested_label"], one["confidence"]) for one in found["next"]] == [(None, None)] * 2
    assert (tmp_path / "n.csv").read_text().splitlines()[1].endswith(",,,")


def test_bad_input_says_what_to_do(stored, tmp_path):
    with pytest.raises(OutputError, match=r"n\.txt; use \.csv"):
        label(stored, tmp_path / "n.txt")
    with pytest.raises(ProbeError, match="give a number above 0"):
        label(stored, count=0)
    (tmp_path / "mine.csv").write_text("a,b\n")
    with pytest.raises(OutputError, match="force"):
        label(stored, tmp_path / "mine.csv")
    with pytest.raises(OutputError):
        label(stored, stored / "manifest.csv", force=True)
    for name in ("0", "1"):
        folder = tmp_path / "all" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (int(name) * 200, 0, 0)).save(folder / "a.png")
    extract(tmp_path / "all", tmp_path / "full", backbone="pixels")
    with pytest.raises(ProbeError, match="nothing to label"):
        label(tmp_path / "full")


def test_the_command_says_the_first_and_where_the_rest_is(stored, tmp_path):
    done = CliRunner().invoke(main, ["label", str(stored), "--next", "12", "-q"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("of 18 samples without a label, label these first (a probe is unsure of them")
    assert len(lines) == 13
    assert lines[-2:] == ["  … and 2 more", "a table to fill in: the same command with -o next.csv"]
    done = CliRunner().invoke(
        main, ["label", str(stored), "--order", "typical", "-o", str(tmp_path / "n.csv"), "--json"]
    )
    assert json.loads(done.stdout)["order"] == "typical"
