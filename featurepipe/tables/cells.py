"""Cells of tables as texts."""

from __future__ import annotations

import math

# What other programs write where nothing is known, as pandas reads it
MISSING = frozenset(
    {"NA", "N/A", "n/a", "<NA>", "#N/A", "#NA", "NaN", "nan", "-NaN", "-nan", "NaT", "None", "NULL", "null"}
)


def cell_text(value: object) -> str | None:
    """A table cell as text.

    Empty cells and NaN are None, 3.0 is '3' (integers with gaps come as floats), bytes are UTF-8, and a list, of JSONL
    or Parquet, is its members between semicolons: a set of labels.

    Raises
    ------
    ValueError
        It is not text; the message ends a sentence that begins with the cell's name.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return _checked(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        try:
            return _checked(value.decode()) or None
        except UnicodeDecodeError as error:
            raise ValueError("holds bytes that are not UTF-8 text; write text instead") from error
    if isinstance(value, dict):
        raise ValueError("holds an object; give a text or a number")
    if isinstance(value, list):
        return ";".join(map(_member, value)) or ";"
    return str(value)


def _member(value: object) -> str:
    """One of a set of labels."""
    text = None if isinstance(value, list) else cell_text(value)
    if text is None or not text.strip() or text.strip() in MISSING:
        raise ValueError(f"holds {value!r} in a list of labels; leave it out")
    if ";" in text:
        raise ValueError(f"holds the label {text!r}; a semicolon separates labels, so none may have one")
    return text.strip()


def _checked(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character; remove it (is the file UTF-16? save it as UTF-8)")
    if not text.isascii():
        try:
            text.encode("utf-8", "surrogateescape")  # as file names that are not UTF-8 are written
        except UnicodeEncodeError as error:
            raise ValueError("holds half of a character (a lone surrogate); write it again") from error
    return text
