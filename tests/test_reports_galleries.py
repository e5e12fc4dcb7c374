"""What a page shows of single samples: which, in which order, and as which data."""

import base64
import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from featurepipe.reports.galleries import NONE, SHEET, Alike, Gallery, confidences, maps, sheets
from featurepipe.reports.galleries.gallery import COMPARED
from featurepipe.reports.looks import Look

HOSTILE = "<b>&\"'</script><script>alert(1)</script>"


def gallery(truth, guess, confidence, *, others=0, **more):
    """Reported samples, and others of train that are right."""
    n = len(truth)
    labels = more.pop("labels", ["ant", "bee", "cow"])
    every = np.concatenate([truth, np.zeros(others, int)])
    return Gallery(
        ids=more.pop("ids", [f"test/{number}.png" for number in range(n + others)]),
        labels=labels,
        truth=every,
        guess=np.concatenate([guess, np.zeros(others, int)]),
        confidence=np.concatenate([confidence, np.ones(others)]).astype(np.float32),
        split=np.array([2] * n + [0] * others),
        reported=n,
        points=np.random.default_rng(0).normal(size=(n + others, 2)),
        projection="PCA",
        whole=n + others,
        **more,
    )


FEW = gallery(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 0, 2]), np.array([0.6, 0.7, 0.9, 0.95, 0.5]), others=3)


def test_the_order_of_mistakes_doubts_and_best_is_that_of_confidence():
    assert FEW.mistakes.tolist() == [3, 1]
    assert FEW.doubtful.tolist() == [4, 0, 1, 2, 3]
    assert sorted(FEW.best.tolist()) == [0, 2, 4]
    assert FEW.order.tolist() == [3, 1, 4, 0, 2, 5, 6, 7]
    assert FEW.confusions(5) == [(0, 1, 1), (1, 0, 1)]
    parts = sheets.sheets(FEW)
    assert parts == {"mistakes": [3, 1], "doubtful": [4, 0, 2], "best": []}


def test_the_most_frequent_confusion_comes_first():
    made = gallery(np.array([0, 1, 1, 2, 1]), np.array([1, 2, 2, 0, 1]), np.full(5, 0.5))
    assert made.confusions(2) == [(1, 2, 2), (0, 1, 1)]


def test_a_sheet_says_what_it_shows():
    many = SHEET + 5
    made = gallery(np.zeros(many, int), np.ones(many, int), np.linspace(0.5, 0.9, many))
    page = sheets.contact_sheet(made, "test")
    assert f"{many} of {many} test images are wrong." in page
    assert "5 more are on the map below" in page
    assert page.count('class="card wrong"') == SHEET + 5  # the others are the least certain
    assert "The images themselves are not shown" in page
    good = sheets.contact_sheet(gallery(np.array([1]), np.array([1]), np.array([1.0])), "val")
    assert "None: every one of the 1 val images is classified correctly." in good


def test_what_comes_from_outside_is_text_in_cards_and_data():
    made = gallery(
        np.array([0, 1]),
        np.array([1, 1]),
        np.array([0.9, 0.8]),
        labels=[HOSTILE, "b\u202e"],
        ids=[f"test/{HOSTILE}", "x"],
    ).shown({0: Look(words=HOSTILE), 1: Look(picture="QUJD", sound="REVG")})
    page = sheets.contact_sheet(made, "test") + maps.data_of(made)
    assert "<script>" not in page
    assert "<b>" not in page.replace("<bdi", "")
    assert html.escape(HOSTILE) in page
    assert "\u202e" not in page
    assert 'src="data:image/jpeg;base64,QUJD"' in page
    assert 'src="data:audio/mpeg;base64,REVG"' in page


def read(element):
    """What the script reads."""
    data = json.loads(re.fullmatch(r"<script[^>]*>(.*)</script>", element, re.DOTALL)[1])
    arrays = {key: np.frombuffer(base64.b64decode(data[key]), "<u2") for key in ("shared", "x", "y", "truth", "guess")}
    names, before = [], ""
    for shared, rest in zip(arrays["shared"].tolist(), data["rest"], strict=True):
        units = before.encode("utf-16-le", "surrogatepass")[: 2 * shared]
        before = units.decode("utf-16-le", "surrogatepass") + rest
        names.append(before)
    return data, arrays, names


def test_the_data_are_what_the_gallery_holds():
    ids = ["a/🌻/1.png", "a/🌻/12.png", "a/🌼/1.png", "", "a/1", "b\udcff", "b\udcff/\ud83c", "z"]
    looks = {row: Look(picture=f"p{row}") for row in range(8)}
    made = replace(FEW, ids=ids, looks=looks)
    data, arrays, names = read(maps.data_of(made))
    assert names == ids
    assert arrays["truth"].tolist() == made.truth.tolist()
    assert (data["reported"], data["labels"]) == (5, ["ant", "bee", "cow"])
    assert set(data["pictures"]) == {"5", "6", "7"}  # the others are in the sheet
    points = np.stack([arrays["x"], arrays["y"]], axis=1).astype(float)
    expected = made.points - made.points.min(axis=0)
    assert points / points.max() == pytest.approx(expected / expected.max(), abs=1e-4)
    unknown = replace(made, truth=np.full(8, NONE))
    assert (read(maps.data_of(unknown))[1]["truth"] == 65535).all()
    assert maps.data_of(made) == maps.data_of(replace(made))


def test_similar_training_samples_are_named_in_the_sheet_and_drawn_by_the_script():
    made = FEW.near({3: [Alike(6, 0.987), Alike(5, 0.5)], 1: [Alike(6, 0.9)]})
    assert made.order.tolist() == [3, 1, 4, 0, 2, 6, 5, 7]  # their looks come next
    page = sheets.contact_sheet(made, "test")
    assert page.count('<details class="alike"') == 2
    assert '<li><bdi>ant</bdi> 0.99 <span class="path">' in page
    assert read(maps.data_of(made))[0]["alike"] == {"3": [6, 0.99, 5, 0.5], "1": [6, 0.9]}
    assert "alike" not in sheets.contact_sheet(FEW, "test")


def test_what_is_similar_is_looked_up_for_the_samples_that_matter_most():
    many = COMPARED + 10
    made = gallery(np.zeros(many, int), np.arange(many) % 2, np.linspace(0.5, 1, many))
    assert len(made.compared) == len({*made.compared.tolist()}) == COMPARED
    assert {*made.mistakes.tolist()} < {*made.compared.tolist()}


def test_leaving_out_the_least_certain_is_counted():
    right = np.arange(100) >= 10  # the ten least certain are wrong
    made = gallery(np.zeros(100, int), np.where(right, 0, 1), np.linspace(0.5, 0.99, 100))
    page = confidences.trust(made, "test")
    cells = re.findall(r"<td>([^<]*)</td>", page)
    rows = [cells[start : start + 4] for start in range(0, len(cells), 4)]
    assert rows[0] == ["100 %", "50.0\xa0%", "90.0\xa0%", "10"]
    assert rows[2][2:] == ["100.0\xa0%", "0"]
    assert "the model is right on 100.0\xa0% of the others, instead of 90.0\xa0% of all" in page
    assert "before calibration" not in page
    assert "before calibration" in confidences.trust(replace(made, raw=made.confidence), "test")
