"""JSON of files: what is no JSON, or more than a file needs, is a ValueError and nothing else."""

import json

import pytest

from featurepipe import jsons


@pytest.mark.parametrize(
    "value", [None, [], {}, [1, -2, 0.5, 1e300, 'a]b\\"[', None, True], {"a": {"b": [[], {}]}}, "caf\udce9", 2**63]
)
def test_what_featurepipe_writes_is_read(value):
    assert jsons.loads(json.dumps(value), "it") == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ('{"a":' * 100_000, "nested more than 64 deep"),
        ("[" * 65 + "]" * 65, "nested more than 64 deep"),
        ('"x" ' + "[" * 3000, "nested"),
        ("1" * 5000, "5000 digits"),
        ("-" + "1" * 5000, "digits"),
        ("[" + "9" * 20 + "]", "20 digits"),
        ("1e999", "too large"),
        ("-1e999", "too large"),
        ("NaN", "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ('"\\ud800"', "surrogates not allowed"),
        ('{"\\udfff": 1}', "surrogates not allowed"),
        ("", "Expecting value"),
        ("{", "Expecting"),
        ('"\\x"', "escape"),
        ("\x00", "Expecting value"),
    ],
)
def test_anything_else_is_a_value_error_that_says_what_it_is_about(text, why):
    with pytest.raises(ValueError, match=why) as caught:
        jsons.loads(text, "the card")
    assert str(caught.value).startswith("the card is ")
    assert type(caught.value) is ValueError


@pytest.mark.parametrize(("text", "numbers"), [("1.2", (1, 2)), ("3", (3, 0)), ("10.999999999", (10, 999999999))])
def test_a_version_is_two_numbers(text, numbers):
    assert jsons.version(text) == numbers


@pytest.mark.parametrize(
    "value", ["", "one", "1.", ".1", "1.2.3", "1.2\n", " 1", "1.2x", "-1", "\u0662", "1" * 10, 1, 1.2, None, ["1.2"]]
)
def test_whatever_else_is_no_version(value):
    with pytest.raises(ValueError, match="is not a version"):
        jsons.version(value)


def test_brackets_in_strings_do_not_nest():
    text = json.dumps(["[" * 1000, '\\"[' * 1000])
    assert jsons.loads(text, "it") == json.loads(text)
