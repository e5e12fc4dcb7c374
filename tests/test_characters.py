"""Texts of strangers where they are shown: nothing in them is obeyed, and what is harmless stays as it is."""

import sys
import unicodedata

import pytest

from featurepipe.characters import safe_cell, shown, shown_all

STEERED = "".join(map(chr, [*range(32), *range(127, 160), 0x202E, 0x2066, 0x200F, 0x2028, 0xFEFF, 0xE0041, 0xDCFF]))


def test_what_steers_a_terminal_is_written_out():
    text = shown(STEERED)
    assert text.isascii()
    assert text.isprintable()
    assert text.encode().decode("unicode_escape") == STEERED
    assert shown("a\nb\x1bc", lines=True) == "a\nb\\x1bc"


@pytest.mark.slow
def test_every_control_character_and_mark_of_direction_is():
    marks = ("LRO", "RLO", "LRE", "RLE", "PDF", "LRI", "RLI", "FSI", "PDI")
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(chr(code)) in marks:
            assert shown(chr(code)).isascii(), hex(code)


@pytest.mark.parametrize(
    "text", ["ä", "日本語\u3000名", "می\u200cخواهم", "👩\u200d🔬", "a\u00a0b", "C:\\x", "שלום", "e\u0301"]
)
def test_names_of_any_language_stay(text):
    assert shown(text) == text


def test_all_texts_of_a_result_are_written_out_and_the_rest_stays():
    value = {"a\x1b": ["b\n", 1, None, {"c": ("\x07",)}], "d": 0.5}
    assert shown_all(value) == {"a\\x1b": ["b\\x0a", 1, None, {"c": ["\\x07"]}], "d": 0.5}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_cells_that_may_be_formulas_get_an_apostrophe(start):
    assert safe_cell(f"{start}SUM(A1)") == f"'{start}SUM(A1)"


@pytest.mark.parametrize("value", ["-1", "+1.5e-3", "-.5", -2, -0.5, None, "ant", "a=b", "", "'=x"])
def test_numbers_and_plain_texts_stay(value):
    assert safe_cell(value) == value
