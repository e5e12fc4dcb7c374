"""Labels that a classifier can learn from, and those it must not: no class is ever called 'nan'."""

import datetime

import numpy as np
import pytest

from featurepipe import FineTuner, TransferClassifier
from featurepipe.errors import FeaturepipeError
from featurepipe.estimators.labels import check_labelled

IMAGES = np.zeros((6, 8, 8), np.uint8)
Y = ["cat", "dog", "cat", "dog", "cat"]
NAN = float("nan")


def column(values, library="pandas", dtype=None):
    made = pytest.importorskip(library).Series(values)
    return made if dtype is None else made.astype(dtype)


MISSING = {
    "NaN in a list": lambda: [*Y, NAN],
    "None in a list": lambda: [*Y, None],
    "NaN among objects": lambda: np.array([*Y, NAN], object),
    "NaN among numbers": lambda: [0.0, 1, 0, 1, 0, NAN],
    "pandas.NA in a list": lambda: [*Y, pytest.importorskip("pandas").NA],
    "NaT": lambda: [*Y, pytest.importorskip("pandas").NaT],
    "text of pandas": lambda: column([*Y, None], dtype="string"),
    "Int64": lambda: column([0, 1, 0, 1, 0, None], dtype="Int64"),
    "categories": lambda: column([*Y, None], dtype="category"),
    "a frame": lambda: column([*Y, None]).to_frame(),
    "polars": lambda: column([*Y, None], "polars"),
    "polars numbers": lambda: column([0, 1, 0, 1, 0, None], "polars"),
    "a mask": lambda: np.ma.array([0, 1, 0, 1, 0, 1], mask=[0, 0, 0, 0, 0, 1]),
}


@pytest.mark.filterwarnings("ignore:A column-vector y")
@pytest.mark.parametrize("case", MISSING)
def test_a_missing_label_is_refused_as_scikit_learn_does(case):
    with pytest.raises(ValueError, match="Input y contains NaN"):
        check_labelled(IMAGES, MISSING[case]())


@pytest.mark.parametrize(
    ("y", "says"),
    [
        ([b"a", b"b"] * 3, r"y holds bytes \(b'a' in row 0\).*decode"),
        (np.array([b"a", b"b"] * 3), "y holds bytes.*decode"),
        ([datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)] * 3, "y holds dates.*as text"),
        (np.array(["2020-01-01", "2021-01-01"] * 3, "datetime64[D]"), "y holds dates.*as text"),
        ([{"a", "b"}, {"a"}] * 3, "row 0 of y is a set.*multi_label"),
        ([["a"], ["a", "b"]] * 3, "row 1 of y is a list.*multi_label"),
        (["a", 1] * 3, r"y mixes text with other types \('a', 1\)"),
        (np.array(["a", 1] * 3, object), "y mixes text"),
        (["a", "b"], "inconsistent numbers of samples"),
        (np.linspace(0, 1, 6), "continuous"),
        ([0.0, float("inf")] * 3, "infinity"),
        (None, "1d array"),
        ("catdog", "1d array"),
    ],
)
def test_what_is_no_label_is_a_clear_value_error(y, says):
    with pytest.raises(ValueError, match=says):
        check_labelled(IMAGES, y)


@pytest.mark.parametrize("dtype", [None, "string", "category", object])
def test_columns_of_text_are_classes(dtype):
    assert sorted(set(check_labelled(IMAGES, column([*Y, "dog"], dtype=dtype)).tolist())) == ["cat", "dog"]


@pytest.mark.parametrize("case", ["NaN in a list", "Int64"])
@pytest.mark.parametrize(
    "fit",
    [
        lambda y: TransferClassifier("pixels").fit(IMAGES, y),
        lambda y: FineTuner().fit(IMAGES, y),
        lambda y: fitted().promote(IMAGES, y),
    ],
)
def test_every_way_to_learn_refuses_them(case, fit):
    with pytest.raises(ValueError, match="Input y contains NaN") as caught:
        fit(MISSING[case]())
    assert not isinstance(caught.value, FeaturepipeError)


def fitted():
    images = IMAGES.copy()
    images[1::2] = 255
    return TransferClassifier("pixels", kind="ridge", value=1.0).fit(images, [*Y, "dog"])
