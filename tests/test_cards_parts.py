"""Parts of cards: what an annotation means for the shape of a file, for an attribute, and for the JSON."""

from dataclasses import dataclass

import pytest

from featurepipe import jsons
from featurepipe.cards.parts import Absent, Anything, Count, Figure, Number, Part, Share, Text, unsaid


@dataclass(frozen=True, kw_only=True, eq=False)
class Inner(Part):
    n: Count


@dataclass(frozen=True, kw_only=True, eq=False)
class Outer(Part):
    name: Text
    chosen: Number | dict[str, Number] | None
    top1: Figure = unsaid()
    inner: Inner | None = None
    whole: Absent[Inner] = None
    rows: list[Inner] = unsaid()
    each: dict[str, Share | None] = unsaid()
    free: Anything = None


def test_the_annotations_are_the_shape_of_a_file():
    inner = {"n": jsons.COUNT}
    assert Outer.shape() == {
        "name": jsons.TEXT,
        "chosen": (jsons.NUMBER, jsons.Each(jsons.NUMBER), None),
        "top1?": (jsons.SHARE, None),
        "inner?": (inner, None),
        "whole?": inner,  # not null
        "rows?": [inner],
        "each?": jsons.Each((jsons.SHARE, None)),
        "free?": jsons.ANYTHING,
    }


def test_parts_are_made_wherever_the_annotation_has_them():
    said = {"rows": [{"n": 1}, {"n": 2}], "later": {"n": 5}, "chosen": {"a": 1.0}, "inner": {"n": 3}, "name": "x"}
    made = Outer.of_json(said)
    assert (made.inner, made.rows, made.chosen) == (Inner(n=3), [Inner(n=1), Inner(n=2)], {"a": 1.0})
    assert [type(one) for one in (made.inner, *made.rows)] == [Inner] * 3
    assert (list(made), made["later"], made.to_json()) == (list(said), {"n": 5}, said)


def test_a_key_that_is_not_said_has_its_default_or_no_attribute():
    made = Outer(name="x", chosen=None)
    assert (made.inner, made.free) == (None, None)
    for name in ("top1", "rows", "each"):
        with pytest.raises(AttributeError, match=name):
            getattr(made, name)
    assert made == {"name": "x", "chosen": None}


def test_null_is_said_where_it_is_given_and_keys_keep_their_order():
    said = Outer(inner=None, chosen=2, name="x").to_json()
    assert list(said.items()) == [("inner", None), ("chosen", 2), ("name", "x")]


def test_a_part_inside_a_part_is_plain_in_the_json():
    said = Outer(name="x", chosen=None, rows=[Inner(n=1)], free={"of": [Inner(n=2)]}).to_json()
    assert said == {"name": "x", "chosen": None, "rows": [{"n": 1}], "free": {"of": [{"n": 2}]}}
    assert type(said["rows"][0]) is type(said["free"]["of"][0]) is dict
