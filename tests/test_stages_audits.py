"""The stage audit: from a store to findings, a page, a table, and a manifest without what was found."""

import csv
import html
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import featurepipe
from featurepipe import audit, extract, reports, stages
from featurepipe.cli import main
from featurepipe.errors import OutputError
from featurepipe.stages.audits import COLUMNS

pytestmark = pytest.mark.slow

NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store of noisy pictures with copies: exact, leaked, and under another label; and the folder of the pictures."""
    root, rng = tmp_path_factory.mktemp("audited") / "data", np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 12)):
        for n, label in enumerate(("ant", "bee", NASTY)):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (24, 24, 3)) + 40 * n
                pixels[8 * n : 8 * n + 8] += 60
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
    shutil.copy(root / "train/ant/00.png", root / "train/ant/copy.png")
    shutil.copy(root / "train/ant/01.png", root / "test/ant/leak.png")
    shutil.copy(root / "train/bee/02.png", root / "train/ant/twice.png")
    Image.new("RGB", (24, 24), (9, 99, 200)).save(root / "train" / NASTY / "blank.png")
    (root / "test/ant/broken.png").write_bytes(b"no picture")
    store = root.parent / "s"
    extract(root, store, backbone="pixels")
    return store, root


def named(result, check):
    return [{one["id"] for one in finding["samples"]} for finding in result["findings"] if finding["check"] == check]


def test_the_result_is_json_and_names_what_was_planted(stored):
    found = audit(stored[0])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert featurepipe.audit is stages.audit is audit
    assert sorted(map(sorted, named(found, "exact-copies"))) == [
        ["test/ant/leak.png", "train/ant/01.png"],
        ["train/ant/00.png", "train/ant/copy.png"],
        ["train/ant/twice.png", "train/bee/02.png"],
    ]
    assert list(found["checks"]["exact-copies"]["kinds"]) == [
        "exact copies with different labels",
        "exact copies in different splits",
        "exact copies",
    ]
    assert {f"train/{NASTY}/blank.png"} in named(found, "odd-images")
    assert (found["leak"]["split"], found["leak"]["n"], found["leak"]["copies"]) == ("test", 37, 1)
    assert found["summary"][0].startswith("1 of 37 test images is a copy of an image that a probe learns from")
    assert (found["fixed"], found["output"]) == (None, None)
    again = audit(stored[0])
    assert {**found, "seconds": 0} == {**again, "seconds": 0}


def test_the_page_holds_pictures_and_shows_names_as_text(stored, tmp_path):
    page = tmp_path / "a.html"
    assert audit(stored[0], page)["output"] == str(page)
    text = page.read_text("utf-8")
    assert NASTY not in text
    assert html.escape(f"train/{NASTY}/blank.png") in text
    assert text.count('<img src="data:image/jpeg;base64,') >= 6
    assert "img-src data:" in text
    assert reports.is_page(page)
    assert str(stored[1]) not in text
    audit(stored[0], page)  # replaces its own


def test_the_table_of_findings_has_a_row_for_each_sample(stored, tmp_path):
    table = tmp_path / "a.csv"
    found = audit(stored[0], table, safe_csv=True)
    with open(table, newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert len(lines) == sum(max(1, len(one["samples"])) for one in found["findings"])
    audit(stored[0], table)  # replaces its own


def test_the_fixed_table_leaves_no_exact_copy_and_no_leak(stored, tmp_path):
    table = tmp_path / "fixed.csv"
    before = sorted(path.name for path in stored[1].rglob("*.png"))
    made = audit(stored[0], fix=table)["fixed"]
    assert (made["table"], made["dropped"]) == (str(table), 2)
    assert sorted(path.name for path in stored[1].rglob("*.png")) == before
    extract(table, tmp_path / "t", backbone="pixels")
    found = audit(tmp_path / "t")
    assert found["checks"]["exact-copies"]["kinds"] == {"exact copies with different labels": 1}  # a person decides
    assert found["leak"]["copies"] == 0
    with open(table, newline="") as file:
        assert "test/ant/broken.png" in {line["id"] for line in csv.DictReader(file)}


def test_without_the_images_the_embeddings_still_tell(stored, tmp_path):
    shutil.copytree(stored[0].parent, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "data")
    store = tmp_path / "moved" / "s"
    header = store / "store.json"
    assert str(stored[1]) in header.read_text()
    hidden = stored[1].with_name("hidden")
    stored[1].rename(hidden)
    try:
        found = audit(store, tmp_path / "a.html")
    finally:
        hidden.rename(stored[1])
    assert found["checks"]["odd-images"]["skipped"].startswith("the images cannot be looked at: ")
    assert found["checks"]["exact-copies"]["findings"] == 3
    assert "<img" not in (tmp_path / "a.html").read_text("utf-8")


def test_outputs_never_replace_what_is_read_or_somebody_elses(stored, tmp_path):
    mine = tmp_path / "mine.csv"
    mine.write_text("a,b\n1,2\n")
    for given in ({"output": mine}, {"fix": mine}):
        with pytest.raises(OutputError, match=r"mine\.csv exists and is not"):
            audit(stored[0], **given)
    with pytest.raises(OutputError, match=r"a\.pdf; use one of \.html, \.csv"):
        audit(stored[0], tmp_path / "a.pdf")
    with pytest.raises(OutputError, match="is an input"):
        audit(stored[0], fix=stored[0] / "manifest.csv", force=True)


def test_the_command_prints_the_surest_findings_and_what_to_do_next(stored, tmp_path):
    done = CliRunner().invoke(main, ["audit", str(stored[0]), "-q"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("audit of 112 images, by ")
    assert "train/ant/twice.png = train/bee/02.png" in done.stdout
    assert "--fix TABLE.csv" in done.stdout
    assert "-o audit.html" in done.stdout
    options = ["-o", str(tmp_path / "a.html"), "--fix", str(tmp_path / "f.csv"), "--json", "-q"]
    done = CliRunner().invoke(main, ["audit", str(stored[0]), *options])
    found = json.loads(done.stdout)
    assert Path(found["output"]).exists()
    assert Path(found["fixed"]["table"]).exists()
