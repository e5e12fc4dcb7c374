"""The page of a comparison."""

import re
from xml.etree import ElementTree

import pytest

from featurepipe import comparisons, reports
from featurepipe.reports.drawings import dots
from featurepipe.statistics import wilson

HOSTILE = "<b>&\"'</style><script>alert(1)</script>"


def row(label, top1, *, kind="ridge", p=None, difference=None, **more):
    tested = p is not None
    return {
        "label": label,
        "backbone": label,
        "layer": "penultimate",
        "is_baseline": label == "pixels",
        "kind": kind,
        "parameter": "alpha",
        "chosen": 10.0,
        "selected_on": "val",
        "selection_top1": top1,
        "selection_log_loss": 0.5,
        "n": 240,
        "top1": top1,
        "interval": list(wilson(top1, 240)),
        "difference": difference,
        "wins": 3 if tested else None,
        "losses": 1234 if tested else None,
        "p": p,
        "p_holm": p,
        "width": 1280,
        "images_per_second": 1234.5,
        "device": "cpu",
        "bytes": 2_500_000,
        "imagenet_top1": None,
        "store": "s",
        "folder": "f",
        "fingerprint": "ab" * 32,
        **more,
    }


def result(*rows, **more):
    rows = rows or (row("vit", 0.95), row("pixels", 0.6, p=1e-9, difference=-0.35))
    return {
        "stores": ["photos.store"],
        "root": "/data/photos",
        "samples": 1200,
        "classes": 12,
        "splits": {"train": 720, "val": 240, "test": 240},
        "split_source": "given",
        "evaluated_on": "test",
        "majority": 0.083,
        "seed": 0,
        "reference": {"label": rows[0]["label"], "kind": rows[0]["kind"], "given": False},
        "rows": list(rows),
        "imagenet": None,
        "notes": [],
        "output": None,
        **more,
    }


def tree(page):
    return ElementTree.fromstring(page)


def text(element):
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()


def section(page, title):
    found = [part for part in tree(page).iter("section") if part[0].text == title]
    return found[0] if found else None


def cells(element):
    return [[text(cell) for cell in line] for line in element.iter("tr")]


def test_the_page_leads_with_the_reference_and_how_it_was_chosen():
    main = tree(reports.comparison_page(result())).find("body/main")
    assert text(main.find("h1")) == "photos: 2 rows compared"
    assert text(main.find("p[@class='top1']")) == "95.0 %"
    assert "test top-1 of vit, ridge on n = 240 samples; 95 % interval 91.5–97.1 % (Wilson)." in text(main)
    assert comparisons.verdict(result()) in text(main)


def test_the_table_says_what_the_rows_say():
    head, first, second = cells(section(reports.comparison_page(result()), "Table"))
    assert head[:4] == ["backbone, layer", "probe", "selection", "test top-1"]
    assert first == [
        "vit", "ridge, alpha=10", "95.0 %", "95.0 %", "91.5–97.1 %", "–", "–", "–", "–", "1,280", "1,234.5", "2.5"
    ]  # fmt: skip
    assert second[5:9] == ["-35.0", "3 : 1,234", "< 0.0001", "< 0.0001"]
    marked = section(reports.comparison_page(result()), "Table").findall(".//tr[@class='chosen']")
    assert [text(line[0]) for line in marked] == ["vit"]


def test_what_is_not_known_is_a_dash():
    unknown = {"selection_top1": None, "images_per_second": None, "parameter": None, "chosen": None}
    page = reports.comparison_page(result(row("a", 0.5, **unknown), row("b", 0.4)))
    first = cells(section(page, "Table"))[1]
    assert (first[1], first[2], first[10]) == ("ridge", "–", "–")


def test_every_row_has_a_dot_inside_its_interval():
    part = section(reports.comparison_page(result()), "Top-1")
    circles, spans = list(part.iter("circle")), part.findall(".//line[@class='whisker']")
    assert [circle.get("class") for circle in circles] == ["dot reference", "dot "]
    for circle, span in zip(circles, spans, strict=True):
        low, dot, high = (float(value.rstrip("%")) for value in (span.get("x1"), circle.get("cx"), span.get("x2")))
        assert 0 <= low < dot < high <= 100
        assert circle.get("cy") == span.get("y1") == span.get("y2")
    assert "Always answering with the most common class gives 8.3 %" in text(part)


@pytest.mark.parametrize("values", [(0.0, 0.0, 0.1), (0.9, 1.0, 1.0), (0.5, 0.5, 0.5), (0.0, 0.5, 1.0)])
def test_dots_stay_on_the_axis(values):
    drawn = ElementTree.fromstring(dots([("a", *values, "trained")]))
    places = [float(circle.get("cx").rstrip("%")) for circle in drawn.iter("circle")]
    places += [float(span.get(end).rstrip("%")) for span in drawn.iter("line") for end in ("x1", "x2")]
    assert min(places) >= 0
    assert max(places) <= 100
    ticks = [float(text(tick)) for tick in drawn.iter("text") if tick.get("text-anchor") == "middle"]
    assert ticks == sorted(ticks)
    assert ticks[0] <= 100 * values[0]
    assert ticks[-1] >= 100 * values[2]


def test_without_a_reference_the_page_says_why():
    page = reports.comparison_page(result(row("a", 0.5, selection_top1=None), row("b", 0.4), reference=None))
    assert "No data were left to select on, so no row is named the best." in text(tree(page))
    assert not section(page, "Table").findall(".//tr[@class='chosen']")


def test_the_correlation_with_imagenet_stands_where_it_is_known():
    title = "Does ImageNet foretell it?"
    assert section(reports.comparison_page(result()), title) is None
    known = {
        "ridge": {"n": 5, "spearman": 0.9, "kendall": 0.8},
        "logistic": {"n": 2, "spearman": None, "kendall": None},
    }
    part = section(reports.comparison_page(result(imagenet=known)), title)
    assert cells(part)[1:] == [["ridge", "5", "0.90", "0.80"], ["logistic", "2", "–", "–"]]
    assert "at least three" in text(part)


def test_how_it_was_made():
    part = text(section(reports.comparison_page(result()), "How it was made"))
    for fact in (
        "photos.store",
        "1,200 labelled samples of 12 classes",
        "720 train, 240 val, 240 test (given)",
        "ab" * 32,
    ):
        assert fact in part


def test_names_from_outside_cannot_become_markup():
    page = reports.comparison_page(
        result(
            row(HOSTILE, 0.5, selected_on=HOSTILE),
            row("b", 0.4, p=0.5, difference=-0.1),
            root=f"/{HOSTILE}",
            notes=[HOSTILE],
            stores=[HOSTILE],
        )
    )
    assert page.count("<script") == 1
    assert '<b>&"' not in page
    assert HOSTILE in text(tree(page).find("body/main/div"))
    assert "://" not in page
