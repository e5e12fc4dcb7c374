import base64
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from featurepipe import backbones, errors, models, probes, reports
from featurepipe.cards import Card
from featurepipe.probes import metrics
from featurepipe.reports import markup
from featurepipe.statistics import wilson

HOSTILE = "<b>&\"'</style><script>alert(1)</script>"
SPEC = {
    "format": 1,
    "architecture": "mobilenetv2_035",
    "arguments": {"pad_type": "same"},
    "weights": "ab" * 32,
    "transform": {"input_size": [3, 224, 224], "interpolation": "bilinear", "crop_pct": 0.875},
    "layer": "penultimate",
    "pooling": "avg",
    "precision": "fp32",
}
SHOTS = [
    {
        "shots": shots,
        "labels": 3 * shots,
        "repeats": 3,
        "mean": top1[1],
        "std": top1[1] - top1[0],
        "interval": probes.mean_interval(top1),
        "top1": top1,
        "semi": {},
        "baselines": {"pixels": top1[1] / 2},
    }
    for shots, top1 in ((10, [0.79, 0.8, 0.81]), (1, [0.35, 0.4, 0.45]))
]


def with_semi(few, **means):
    """The same draws with lines of semi-supervised methods, 0.02 apart."""
    lines = {name: {"mean": mean, "top1": [mean - 0.02, mean, mean + 0.02]} for name, mean in means.items()}
    return {**few, "semi": lines}


def step(c, top1, log_loss=0.5, converged=True):
    return {"C": c, "top1": top1, "log_loss": log_loss, "tied": True, "converged": converged}


def make(names=("ant", "bee", "wasp"), guesses=None, *, where="test", n=60, seed=0, source=None, spec=None, **card):
    """A model whose figures are those of a real classifier, or of the given guesses of class numbers."""
    generator = np.random.default_rng(seed)
    names = np.array(sorted(names), object)
    truth = np.arange(n) % len(names)
    X = np.eye(len(names))[truth] + 0.45 * generator.normal(size=(n, len(names)))
    estimator = LogisticRegression().fit(X, names[truth].astype(str))
    if guesses is None:
        figures = probes.evaluate(estimator, X, names[truth].astype(str))
    else:
        figures = metrics.figures(700 * np.eye(len(names))[guesses(truth)], names[truth], names)
    filled = {
        "data": {"root": "photos/insects", "samples": 4321, "classes": len(names)},
        "splits": {"train": 3000, "val": 1000, "test": n} if where == "test" else {"train": 3000, "val": n, "test": 0},
        "split_source": "made here: 60/20/20, stratified, seed 7",
        "evaluated_on": where,
        "selection": {
            "on": "val" if where == "test" else "5-fold cross-validation on train",
            "chosen": 0.1,
            "path": [step(0.01, 0.6), step(0.1, 0.9, 0.3), step(1.0, 0.8, 0.4, converged=False)],
        },
        "val": figures if where == "val" else {"source": "val", **figures, "top1": 0.7654},
        "test": figures if where == "test" else None,
        "baselines": {"majority": 0.111, "pixels": 0.222, "random_backbone": 0.333},
        "few_shot": [],
        "seed": 7,
        "notes": [],
        "versions": {"torch": "2.5.1", "timm": "1.0.12"},
        "created": "2025-01-02T03:04:05+00:00",
        **card,
    }
    backbone = {
        "name": "mobilenet",
        "fingerprint": "cd" * 32,
        "spec": {**SPEC, **(spec or {})},
        "source": {"name": "mobilenet", "weights": None, "random_seed": None, **(source or {})},
    }
    return models.Model("logistic", estimator, 1.0, backbone, np.empty(0, np.uint64), Card.from_json(filled))


def but(model, change):
    """The same model with a card whose JSON is changed."""
    said = model.card.to_json()
    change(said)
    return replace(model, card=Card.from_json(said))


def tree(page):
    return ET.fromstring(page)


def text(element):
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()


def section(page, title):
    found = [part for part in tree(page).iter("section") if part[0].text == title]
    return found[0] if found else None


def rows(element):
    return [[text(cell) for cell in row] for row in element.iter("tr")]


def table_of(page, title):
    return [row for row in rows(section(page, title)) if row]


class Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag == "meta"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def without_script(page):
    """A page without the package's own script, which its policy names by its digest."""
    before, rest = page.split("<script>")
    code, after = rest.split("</script></body>")
    digest = base64.b64encode(sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in page
    return f"{before}</body>{after}"


VARIANTS = {
    "plain": {},
    "val": {"where": "val"},
    "two": {"names": ("ant", "bee")},
    "many": {"names": [f"class {i}" for i in range(150)], "n": 450},
    "sixty": {"names": [f"class {i}" for i in range(60)], "n": 180},
    "few": {"few_shot": SHOTS},
    "bare": {
        "baselines": {"majority": None, "pixels": None, "random_backbone": None},
        "val": None,
        "selection": {"on": "nothing: one sample per class, so the middle of the grid", "chosen": 0.01, "path": []},
    },
    "hostile": {
        "names": (HOSTILE, "bee"),
        "notes": [HOSTILE],
        "data": {"root": f"a/{HOSTILE}", "samples": 3, "classes": 2},
        "versions": {HOSTILE: HOSTILE},
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_page_is_well_formed_and_needs_nothing_else(variant):
    page = reports.page(make(**VARIANTS[variant]))
    tree(page)  # strict about quotes and entities too
    page = without_script(page)
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert not parser.seen & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"""\b(href|src|on\w+)=|url\(|@import|https?:""", page)
    assert "default-src 'none'" in page


def test_the_headline_says_figure_split_interval_and_what_was_trained_on_what():
    page = reports.page(make(n=100, names=("ant", "bee"), guesses=lambda y: np.where(np.arange(100) < 10, 1 - y, y)))
    head = text(tree(page).find("body/main"))
    assert "90.0 %test top-1 on n = 100 images; 95 % interval 82.6–94.5 % (Wilson)" in head
    assert "on embeddings of the frozen backbone mobilenet, trained on 4,000 images of 2 classes from insects." in head
    assert "no test split" not in head


@pytest.mark.parametrize(("copies", "said"), [(1, "one exact copy of a training image"), (12, "12 exact copies of")])
def test_the_headline_says_what_it_is_with_copies_of_training_images(copies, said):
    model = make()
    assert "exact cop" not in reports.page(model)
    model = but(model, lambda card: card["test"].update(with_copies={"n": 60 + copies, "top1": 0.497}))
    assert f" With {said}" in reports.page(model)
    assert f": 49.7\N{NO-BREAK SPACE}% of {60 + copies}." in reports.page(model)


def test_a_page_measured_on_val_says_so():
    page = reports.page(make(where="val"))
    body = text(tree(page))
    assert "val top-1 on n = 60" in body
    assert "There is no test split: the figures are measured on val." in body
    assert "trained on 3,000 images" in body  # val was held back
    assert "selected on 5-fold cross-validation on train; val was not used for it." in body
    assert table_of(page, "Figures")[0] == ["", "val"]


@pytest.mark.parametrize(("right", "n"), [(0, 8), (8, 8), (9, 10), (541, 1000)])
def test_wilson_is_scipys(right, n):
    expected = binomtest(right, n).proportion_ci(0.95, "wilson")
    assert wilson(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_each_baseline_has_a_bar_of_its_length_and_the_absent_ones_are_named():
    card = {"baselines": {"majority": 0.111, "pixels": None, "random_backbone": 0.25}}
    part = section(reports.page(make(**card, guesses=lambda y: y)), "Compared with baselines")
    bars = {rect.get("class"): rect.get("width") for rect in part.iter("rect") if rect.get("class") != "field"}
    assert bars == {"this-probe": "100.00%", "majority-class": "11.10%", "random-backbone": "25.00%"}
    assert "11.1 % majority class" in text(part)
    assert "always answering" not in text(part)  # which is in newer files only
    named = section(reports.page(make(majority_class="bee")), "Compared with baselines")
    assert "Majority class: always answering “bee”, the most common class in train." in text(named)
    assert "Not computed: raw pixels." in text(part)
    assert "raw pixels" not in text(part.find("figure"))
    complete = section(reports.page(make()), "Compared with baselines")
    assert "22.2 % raw pixels" in text(complete)
    assert "Not computed" not in text(complete)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (0.5, "The probe is 40.0 percentage points above the best baseline, raw pixels (50.0 %)."),
        (0.88, "2.0 percentage points above the best baseline, raw pixels (88.0 %). That is inside"),
        (0.9, "The probe does not beat the best baseline, raw pixels (90.0 %)."),
    ],
)
def test_the_verdict_is_as_strong_as_the_figures(pixels, expected):
    def guesses(y):
        return np.where(np.arange(100) < 10, 1 - y, y)

    card = {"baselines": {"majority": 0.1, "pixels": pixels, "random_backbone": None}}
    page = reports.page(make(("ant", "bee"), guesses, n=100, **card))
    verdict = text(section(page, "Compared with baselines").find("p"))
    assert expected in verdict
    assert ("may be chance" in verdict) == (pixels == 0.88)


def test_few_labels_are_listed_in_order_with_their_intervals_up_to_all_labels():
    model = make(few_shot=SHOTS)
    page, whole = reports.page(model), model.card["test"]["top1"]
    assert table_of(page, "With few labels") == [
        ["per class", "labels", "this probe", "raw pixels"],
        ["1", "3", "40.0 % (27.6–52.4)", "20.0 %"],
        ["10", "30", "80.0 % (77.5–82.5)", "40.0 %"],
        ["all", "4,000", f"{100 * whole:.1f} %", "22.2 %"],
    ]
    part = section(page, "With few labels")
    assert "on the same 60 test images: mean over 3 random draws of labels, with its 95 % interval" in text(part)
    assert "no better" not in text(part)
    curves = {group.get("class"): group for group in part.iter("g")}
    assert set(curves) == {"curve this-probe", "curve raw-pixels"}
    dots = list(curves["curve this-probe"].iter("circle"))
    assert [text(dot) for dot in dots] == ["40", "80", f"{100 * whole:.4g}"]
    heights = [float(dot.get("cy")) for dot in dots]
    assert heights[0] > heights[1] > heights[2]  # y grows downwards
    steps = [float(dot.get("cx").rstrip("%")) for dot in dots]
    ratio = np.log10(10) / np.log10(4000 / 3)  # a logarithmic axis, that ends at the mean of images per class
    assert (steps[1] - steps[0]) / (steps[2] - steps[0]) == pytest.approx(ratio, abs=1e-3)
    assert [label.text for label in part.iter("text") if label.get("y") == "190"] == ["1", "10", "all"]
    assert section(reports.page(make()), "With few labels") is None


def test_the_band_of_a_curve_is_its_interval():
    part = section(reports.page(make(few_shot=SHOTS)), "With few labels")
    curves = {group.get("class"): group for group in part.iter("g")}
    assert curves["curve raw-pixels"].find("svg") is None  # baselines are known by their means only
    (corners,) = [area.get("points").split() for area in curves["curve this-probe"].iter("polygon")]
    places = [corner.split(",")[0] for corner in corners]
    heights = [float(corner.split(",")[1]) for corner in corners]
    dots = list(curves["curve this-probe"].iter("circle"))
    assert places == [dot.get("cx").rstrip("%") for dot in (*dots, *reversed(dots))]
    for i, dot in enumerate(dots):
        low, high = heights[i], heights[-1 - i]
        assert low + high == pytest.approx(2 * float(dot.get("cy")), abs=0.2)
        assert (low > high) == (i < 2)  # all labels are drawn once
    gap, wide = heights[1] - heights[-2], heights[0] - heights[-1]
    assert gap / wide == pytest.approx(0.01 / 0.05, abs=0.02)


def test_semi_supervised_lines_stand_beside_the_probe_and_say_where_they_are_in_vain():
    ten, one = SHOTS
    few = [
        with_semi(ten, self_training=0.7, label_spreading=0.9),
        with_semi(one, self_training=0.3, label_spreading=0.6),
    ]
    page = reports.page(make(few_shot=few))
    assert table_of(page, "With few labels")[:2] == [
        ["per class", "labels", "this probe", "self-training", "label spreading", "raw pixels"],
        ["1", "3", "40.0 % (27.6–52.4)", "30.0 % (25.0–35.0)", "60.0 % (55.0–65.0)", "20.0 %"],
    ]
    part = section(page, "With few labels")
    assert "They never see the reported images. With 1, 10 per class, self-training is no better than the" in text(part)
    assert "label spreading is no better" not in text(part)
    curves = {group.get("class"): group for group in part.iter("g")}
    assert len(list(curves["curve label-spreading"].iter("circle"))) == 2  # of all labels there is none
    assert len(list(curves["curve this-probe"].iter("circle"))) == 3


def test_one_draw_of_one_size_has_no_interval():
    one = {**SHOTS[0], "repeats": 1, "std": None, "interval": None, "top1": [0.8], "baselines": {}}
    part = section(reports.page(make(few_shot=[one])), "With few labels")
    assert rows(part)[1] == ["10", "30", "80.0 %"]
    assert part.find(".//polygon") is None


def test_where_the_draws_take_all_images_there_is_no_second_point_of_them():
    splits = {"train": 30, "val": 0, "test": 60}
    part = section(reports.page(make(few_shot=SHOTS, splits=splits)), "With few labels")
    curve = next(group for group in part.iter("g") if group.get("class") == "curve this-probe")
    assert len(list(curve.iter("circle"))) == 2
    near = section(reports.page(make(few_shot=SHOTS, splits={**splits, "train": 36})), "With few labels")
    assert [label.text for label in near.iter("text") if label.get("y") == "190"] == ["1", "10", None]


def test_figures_stand_beside_those_of_the_selection():
    model = make()
    test = model.card["test"]
    figures = table_of(reports.page(model), "Figures")
    assert figures[0] == ["", "test", "selection data"]
    assert figures[1][2] == "76.5 %"
    assert [row[1] for row in figures[1:]] == [
        f"{100 * test['top1']:.1f} %",
        f"{100 * test['balanced_accuracy']:.1f} %",
        f"{test['log_loss']:.3f} nats",
        f"{test['ece']:.3f}",
        "60",
    ]
    alone = make(val={"source": "nothing: one sample per class, so the middle of the grid"})
    assert table_of(reports.page(alone), "Figures")[0] == ["", "test"]


def test_the_chosen_candidate_is_marked_and_the_stalled_one_named():
    part = section(reports.page(make()), "How C was chosen")
    assert "C = 0.1 was selected on val; test was not used for it." in text(part)
    chosen = [row for row in part.iter("tr") if row.get("class") == "chosen"]
    assert [text(cell) for cell in chosen[0]] == ["0.1", "90.0 %", "0.300", "chosen"]
    assert len(chosen) == 1
    assert rows(part)[-1] == ["1", "80.0 %", "0.400", "not converged"]
    charts = list(part.iter("svg"))
    assert len(charts) == 2
    for chart in charts:
        mark = next(line for line in chart.iter("line") if line.get("class") == "mark")
        assert mark.get("x1") == [dot.get("cx") for dot in chart.iter("circle")][1] == "55.00%"  # middle of a log axis


def test_the_regularisation_of_ridge_is_called_alpha():
    selection = {"on": "val", "chosen": 10.0, "path": [{"alpha": 10.0, **step(0, 0.5)}]}
    model = make(selection=selection)
    page = reports.page(models.Model("ridge", model.estimator, 1.0, model.backbone, model.seen, model.card))
    assert "alpha = 10 was selected on val" in text(section(page, "How alpha was chosen"))


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ("given", "C = 0.1 was given, not selected; test was not used for it."),
        ("test", "test is also the split that is reported, so the figures above are too optimistic."),
        ("nothing: one sample per class", "C = 0.1 was selected on nothing: one sample per class;"),
    ],
)
def test_other_ways_to_choose_are_told(on, expected):
    part = section(reports.page(make(selection={"on": on, "chosen": 0.1, "path": []})), "How C was chosen")
    assert expected in text(part)
    assert part.find(".//svg") is None


def test_the_rule_is_the_one_by_which_the_file_was_chosen():
    rule = (
        "Of those that cannot be told apart from the best (paired comparison on the same images), the lowest log-loss"
    )
    path = [step(0.01, 0.6), step(0.1, 0.9)]
    old = [{key: value for key, value in one.items() if key != "tied"} for one in path]  # a file of before
    found, before = (
        text(section(reports.page(make(selection={"on": "val", "chosen": 0.1, "path": steps})), "How C was chosen"))
        for steps in (path, old)
    )
    assert f"{rule} wins." in found
    assert "Of those within one standard error of the best top-1, the lowest log-loss wins." in before


@pytest.mark.parametrize("top1", [0.0, 0.5, 1.0])
def test_a_flat_path_can_be_drawn(top1):
    selection = {"on": "val", "chosen": 0.1, "path": [step(c, top1, 0.0) for c in (0.01, 0.1)]}
    chart = next(section(reports.page(make(selection=selection)), "How C was chosen").iter("svg"))
    heights = [float(dot.get("cy")) for dot in chart.iter("circle")]
    assert heights[0] == heights[1]
    assert 20 <= heights[0] <= 170
    assert not [label.text for label in chart.iter("text") if label.text.startswith("-")]  # nothing below 0


def test_the_matrix_counts_and_the_pairs_are_those_of_the_guesses():
    def guesses(y):  # two ants taken for bees, one wasp for an ant
        wrong = y.copy()
        wrong[[0, 3, 2]] = [1, 1, 0]
        return wrong

    page = reports.page(make(guesses=guesses, n=30))
    part = section(page, "Confusion matrix")
    titles = [text(title) for title in part.iterfind(".//rect/title")]
    assert titles == [
        "ant: 8 of 10 classified as ant",
        "ant: 2 of 10 classified as bee",
        "bee: 10 of 10 classified as bee",
        "wasp: 1 of 10 classified as ant",
        "wasp: 9 of 10 classified as wasp",
    ]
    colours = [rect.get("class") for rect in part.iterfind(".//rect[title]")]
    assert colours == ["right", "wrong", "right", "wrong", "right"]
    shown = [text(label) for label in part.iter("text") if text(label).isdigit()]
    assert shown == ["8", "2", "10", "1", "9"]
    assert rows(part)[1:] == [["ant", "bee", "2", "20.0 %"], ["wasp", "ant", "1", "10.0 %"]]
    classes = table_of(page, "Per class")[1:]
    assert [row[0] for row in classes] == ["ant", "wasp", "bee"]  # lowest recall first
    assert classes[0][1:] == ["80.0 %", "49.0–94.3 %", "88.9 %", "0.842", "10"]


def test_without_mistakes_there_are_no_pairs():
    part = section(reports.page(make(guesses=lambda y: y)), "Confusion matrix")
    assert "Nothing was classified wrongly." in text(part)
    assert part.find(".//table") is None


def test_over_twenty_classes_the_matrix_is_colour_only():
    part = section(reports.page(make(**VARIANTS["sixty"])), "Confusion matrix")
    assert not list(part.iter("text"))
    assert "class 0: " in text(part)


def test_of_many_classes_the_lowest_come_first_in_a_table_that_scrolls():
    page = reports.page(make([f"class {i:03d}" for i in range(150)], lambda y: np.where(y == 77, 0, y), n=450))
    assert section(page, "Confusion matrix") is None
    part = section(page, "Per class")
    assert len(rows(part)) == 1 + 150
    assert rows(part)[1][:2] == ["class 077", "0.0 %"]
    assert part.find("div").get("class") == "wide tall"
    assert part.find("div/table").get("class") == "sortable"


def test_a_class_without_images_has_no_recall_and_comes_last():
    none = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    model = but(make(guesses=lambda y: y), lambda card: card["test"]["per_class"].update(ant=none))
    assert table_of(reports.page(model), "Per class")[-1] == ["ant", "–", "–", "0.0 %", "–", "0"]


def test_text_from_outside_stays_text():
    page = reports.page(make(**VARIANTS["hostile"]))
    assert "<script" not in without_script(page)
    assert page.count("</style>") == 1
    assert HOSTILE in [row[0] for row in table_of(page, "Per class")]
    assert any(title.text.startswith(HOSTILE) for title in tree(page).iterfind(".//rect/title"))
    assert HOSTILE in text(tree(page).find(".//div[@class='box']/ul"))
    assert HOSTILE in text(section(page, "How it was made"))


def test_names_that_are_no_utf8_can_be_written():
    page = reports.page(make(data={"root": "photos/\udcff", "samples": 3, "classes": 2}))
    assert "\\udcff" in page.encode("utf-8").decode()


def test_long_names_keep_both_ends_in_the_matrix_and_are_whole_elsewhere():
    names = [f"a_class_name_of_forty_characters_number_{i:02d}" for i in range(3)]
    page = reports.page(make(names))
    label = next(section(page, "Confusion matrix").iter("text"))
    assert re.fullmatch(r"a_class\w*…\w*number_00", label.text)
    assert len(label.text) <= markup.LABEL
    assert label.find("title").text == names[0]
    assert {row[0] for row in table_of(page, "Per class")[1:]} == set(names)
    wide = markup.short("花" * 40)
    assert markup.columns(wide) <= markup.LABEL


def test_notes_and_random_weights_stand_out():
    plain = tree(reports.page(make()))
    assert not [box for box in plain.iter("div") if box.get("class") == "box"]
    page = reports.page(make(notes=["2 test images are copies"], source={"random_seed": 0}))
    banner, notes = (text(box) for box in tree(page).iter("div") if box.get("class") == "box")
    assert "random weights: a baseline, not a trained backbone (seed 0)" in banner
    assert "2 test images are copies" in notes
    assert page.index("2 test images are copies") < page.index("Compared with baselines")


def test_raw_pixels_are_not_called_a_backbone():
    page = reports.page(make(spec={"architecture": backbones.PIXELS, "weights": None, "pooling": None}))
    assert "A logistic probe on raw pixels, trained on" in text(tree(page))
    assert "frozen backbone" not in text(tree(page))


def test_how_it_was_made_is_complete():
    facts = dict(table_of(reports.page(make(source={"weights": "my/w.safetensors"})), "How it was made"))
    assert facts == {
        "backbone": "mobilenet",
        "architecture": 'mobilenetv2_035 {"pad_type": "same"}',
        "layer": "penultimate",
        "pooling": "avg",
        "precision": "fp32",
        "transform": 'input_size [3, 224, 224], interpolation "bilinear", crop_pct 0.875',
        "weights": "w.safetensors",
        "weights digest": "ab" * 32,
        "fingerprint": "cd" * 32,
        "data": "insects: 4,321 labelled images of 3 classes",
        "splits": "3,000 train, 1,000 val, 60 test (made here: 60/20/20, stratified, seed 7)",
        "seed": "7",
        "versions": "torch 2.5.1, timm 1.0.12",
        "created": "2025-01-02T03:04:05+00:00",
    }


def test_a_model_file_without_figures_says_what_to_do():
    model = make()
    bare = replace(model, card=Card(selection=model.card.selection, seed=0, versions={}))
    with pytest.raises(errors.ModelFileError, match=r"holds no figures.*featurepipe probe"):
        reports.page(bare)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.pop("splits"),
        lambda card: card.pop("seed"),
        lambda card: card.pop("test"),
        lambda card: card["test"].pop("n"),
        lambda card: card["test"].update(n=0),
        lambda card: card["test"].update(confusion=[[1, 2], [3]]),
        lambda card: card["test"].update(classes=[]),
        lambda card: card["selection"]["path"][0].pop("C"),
    ],
)
def test_a_card_that_does_not_hold_together_is_one_line(change):
    model = but(make(), change)
    with pytest.raises(errors.ModelFileError, match="the card's figures are incomplete or do not fit together"):
        reports.page(model)
